// @vitest-environment happy-dom
import { signal } from "@preact/signals";
import { render } from "preact";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Share } from "../../src/ui/parts/share.tsx";
import { fakeParams, fakeSession, JOB_ID } from "../support/fake-session.ts";

let root: HTMLElement;
beforeEach(() => {
  root = document.createElement("div");
  document.body.append(root);
});
afterEach(() => {
  render(null, root);
  root.remove();
});

function open(queue: string, env: Record<string, string> = {}, more: { image?: boolean } = {}) {
  const session = fakeSession({
    scene: "success",
    queue: signal(queue),
    params: fakeParams({ queue: signal<string | undefined>(queue) }),
    assembled: signal(
      more.image === false
        ? ({ what: "image" } as const)
        : { jobId: JOB_ID, definition: { image: "alpine:3", env }, namespace: "_", control: { namespace: "_" } },
    ),
  });
  render(<Share session={session} />, root);
}

const tab = (label: string) =>
  [...root.querySelectorAll<HTMLElement>('[role="tab"]')].find((one) => one.textContent === label);
const snippets = () => [...root.querySelectorAll("pre")].map((one) => one.textContent ?? "");
const TABS = ["Link", "Embed", "curl", "Command line", "Python", "JavaScript"];

async function each(look: (texts: string[], name: string) => void) {
  for (const name of TABS) {
    tab(name)?.click();
    await vi.waitFor(() => expect(tab(name)?.getAttribute("aria-selected")).toBe("true"));
    expect(snippets().length, name).toBeGreaterThan(0);
    look(snippets(), name);
  }
}

describe("the queue", () => {
  it("is in all of it, with a warning if it is not public", async () => {
    open("my-queue-1");
    expect(root.textContent).toContain("This holds the queue name my-queue-1");
    await each((texts, name) => {
      for (const text of texts) expect(text, name).toContain("my-queue-1");
    });
  });

  it("can be left out of all of it", async () => {
    open("my-queue-1");
    root.querySelector<HTMLInputElement>('[role="switch"]')?.click();
    await vi.waitFor(() => expect(root.textContent).not.toContain("This holds the queue name"));
    await each((texts, name) => {
      for (const text of texts) expect(text, name).not.toContain("my-queue-1");
    });
  });

  it("is said to be public where it is", () => {
    open("public1");
    expect(root.textContent).toContain("The queue public1 is public");
    expect(root.textContent).not.toContain("This holds");
  });

  it("at another server takes its address along", async () => {
    open("https://o.example/q/far");
    await each((texts, name) => {
      if (["Link", "Embed"].includes(name)) return;
      for (const text of texts) {
        expect(text, name).toContain("https://o.example");
        expect(text, name).toContain("far");
      }
    });
    tab("Link")?.click();
    await vi.waitFor(() => expect(snippets()[0]).toContain("queue=https%3A%2F%2Fo.example%2Fq%2Ffar"));
  });
});

it("warns of secrets in the environment", () => {
  open("public1", { DB_PASSWORD: "x", LANG: "C" });
  expect(root.textContent).toMatch(/DB_PASSWORD looks like a secret/);
});

it("the run has a link of its own", () => {
  open("q");
  expect(snippets()).toHaveLength(2);
  expect(snippets()[1]).toMatch(new RegExp(`/j/${JOB_ID}#\\?queue=q$`));
});

describe("the link of a large job", () => {
  const addressed = `${location.pathname}#?queue=q&job=${"A".repeat(3_000)}`;
  beforeEach(() => history.replaceState(null, "", addressed));
  afterEach(() => history.replaceState(null, "", location.pathname));
  const button = (label: RegExp) =>
    [...root.querySelectorAll("button")].find((one) => label.test(one.textContent ?? ""));

  it.each(["Link", "Embed"])("is shown by its beginning in %s, and whole when it is asked for", async (name) => {
    open("q");
    tab(name)?.click();
    await vi.waitFor(() => expect(tab(name)?.getAttribute("aria-selected")).toBe("true"));
    const lines = () => (snippets()[0] ?? "").split("\n");
    expect(Math.max(...lines().map((line) => line.length))).toBe(241);
    button(/^Show all 3,\d+ characters$/)?.click();
    await vi.waitFor(() => expect(snippets()[0]).toContain("A".repeat(3_000)));
    button(/^Show its beginning only$/)?.click();
    await vi.waitFor(() => expect(snippets()[0]).not.toContain("A".repeat(300)));
  });

  it("is copied whole, and said to be long", async () => {
    const copied: string[] = [];
    vi.stubGlobal("navigator", { clipboard: { writeText: async (text: string) => void copied.push(text) } });
    open("q");
    root.querySelector<HTMLElement>('[aria-label="Copy: This page"]')?.click();
    await vi.waitFor(() => expect(copied[0]).toContain("A".repeat(3_000)));
    expect(root.textContent).toContain("Some programs cut links as long as this one. That of the run is short.");
    vi.unstubAllGlobals();
  });
});

it("says so where there is no job to write down", async () => {
  open("q", {}, { image: false });
  tab("curl")?.click();
  await vi.waitFor(() => expect(root.textContent).toContain("There is no job to run yet"));
  expect(snippets()).toEqual([]);
});
