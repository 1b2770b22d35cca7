import { beforeEach, expect, test } from "vitest";
import { keepOverReload } from "../src/ui/leaving.ts";

const items = new Map<string, string>();
const sessionStorage = {
  getItem: (name: string) => items.get(name) ?? null,
  setItem: (name: string, value: string) => void items.set(name, value),
  removeItem: (name: string) => void items.delete(name),
};

/** A page of this address, as one load of it. */
function load(href: string, type: "navigate" | "reload" | "back_forward") {
  const events = new EventTarget();
  const location = { href };
  const window = {
    location,
    history: {
      replaceState: (_state: unknown, _title: string, next?: string | URL | null) => {
        location.href = String(next);
      },
    },
    sessionStorage,
    performance: { getEntriesByType: () => [{ type }] as unknown as PerformanceEntryList },
    addEventListener: events.addEventListener.bind(events),
  };
  keepOverReload(window);
  return {
    location,
    write(next: string) {
      location.href = next;
      events.dispatchEvent(new Event("hashchange"));
    },
    tell: (kind: string) => events.dispatchEvent(new Event(kind)),
  };
}

beforeEach(() => items.clear());

test("an edit that was saved while the page went is there after a reload", () => {
  const page = load("http://a.example/#?a=1", "navigate");
  page.tell("pagehide");
  page.write("http://a.example/#?a=2");
  page.write("http://a.example/#?a=3");
  expect(load("http://a.example/#?a=1", "reload").location.href).toBe("http://a.example/#?a=3");
});

test("it is used once, and only by a reload of the same address", () => {
  for (const [href, type] of [
    ["http://a.example/#?a=1", "navigate"],
    ["http://a.example/#?a=1", "back_forward"],
    ["http://a.example/#?b=1", "reload"],
  ] as const) {
    const page = load("http://a.example/#?a=1", "navigate");
    page.tell("pagehide");
    page.write("http://a.example/#?a=2");
    expect(load(href, type).location.href).toBe(href);
    expect(load("http://a.example/#?a=1", "reload").location.href).toBe("http://a.example/#?a=1");
  }
});

test("what is written before the page goes, or after it came back, needs nothing", () => {
  const page = load("http://a.example/#?a=1", "navigate");
  page.write("http://a.example/#?a=2");
  page.tell("pagehide");
  page.tell("pageshow");
  page.write("http://a.example/#?a=3");
  expect(items.size).toBe(0);
});

test("a frame whose storage is denied goes on", () => {
  const denied = () => {
    throw new DOMException("denied", "SecurityError");
  };
  const window = {
    location: { href: "http://a.example/" },
    history: { replaceState: denied },
    get sessionStorage(): Storage {
      return denied();
    },
    performance: { getEntriesByType: () => [] },
    addEventListener: () => {},
  };
  expect(() => keepOverReload(window)).not.toThrow();
});
