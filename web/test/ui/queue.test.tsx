// @vitest-environment happy-dom
import { render } from "preact";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Client } from "../../src/client.ts";
import type { Assembled } from "../../src/ui/model.ts";
import { QueuePage } from "../../src/ui/pages/queue-page.tsx";
import { History } from "../../src/ui/parts/history.tsx";
import { Queue } from "../../src/ui/parts/queue.tsx";
import { Why } from "../../src/ui/parts/why.tsx";
import { type FakeSession, fakeSession, JOB_ID, manyJobs, NOW, OTHER_ID } from "../support/fake-session.ts";

let root: HTMLElement;
beforeEach(() => {
  vi.stubGlobal("IntersectionObserver", undefined); // that of happy-dom never tells anything
  root = document.createElement("div");
  document.body.append(root);
});
afterEach(() => {
  render(null, root);
  root.remove();
  localStorage.clear();
  vi.unstubAllGlobals();
});

const settle = (ms = 0) => new Promise((resolve) => setTimeout(resolve, ms));
const all = (selector: string) => [...root.querySelectorAll<HTMLElement>(selector)];
const texts = (selector: string) => all(selector).map((each) => each.textContent?.trim());

/** The button, link or field of this name, as a screen reader says it. */
function named(name: string | RegExp): HTMLElement {
  const found = all("button, a, input, select").filter((each) => {
    const label = each.id
      ? root.querySelector(`label[for="${each.id}"]`)?.textContent
      : each.closest("label")?.textContent;
    const said = each.getAttribute("aria-label") ?? label ?? each.textContent ?? "";
    return typeof name === "string" ? said.trim() === name : name.test(said.trim());
  });
  expect(found, String(name)).toHaveLength(1);
  return found[0] as HTMLElement;
}

function type(field: HTMLElement, text: string): void {
  (field as HTMLInputElement).value = text;
  field.dispatchEvent(new Event("input", { bubbles: true }));
}

const called = (session: FakeSession, name: string) =>
  session.calls.filter((call) => call.name === name).map(({ values }) => values);

describe("the panel's jobs", () => {
  test("show image and command, and open in place", async () => {
    const session = fakeSession();
    render(<Queue session={session} />, root);
    await vi.waitFor(() => expect(texts(".row-open")[0]).toContain("built from https://github.com/example/solver"));
    expect(texts(".row-state strong")).toEqual(["Running", "Queued", "Failed (exit 3)", "Done"]);
    all(".row-open")[0]?.click();
    expect(called(session, "show")).toEqual([[OTHER_ID]]);
  });

  test("are cancelled only after a question, which Escape answers with no", async () => {
    const session = fakeSession();
    render(<Queue session={session} />, root);
    named("Cancel job b1000000").click();
    await settle();
    expect(document.activeElement?.textContent).toBe("Cancel the job");
    expect(session.calls).toEqual([]);
    document.activeElement?.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
    await settle();
    named("Cancel job b1000000").click();
    await settle();
    named("Cancel the job").click();
    expect(called(session, "cancel")).toEqual([["b1".padEnd(64, "0")]]);
    await settle();
    expect(all(".confirm")).toEqual([]);
  });

  test("are narrowed by state and by words of the definition", async () => {
    const session = fakeSession();
    render(<Queue session={session} />, root);
    type(named("Search jobs"), "hello world");
    await vi.waitFor(() => expect(texts(".row-command")).toEqual(['echo "hello world"']));
    expect(texts(".job-list-count")[0]).toMatch(/^1 of 4 jobs/);
    type(named("Search jobs"), "");
    const state = named("State") as HTMLSelectElement;
    state.value = "failed";
    state.dispatchEvent(new Event("change", { bubbles: true }));
    await settle();
    expect(texts(".row-state strong")).toEqual(["Failed (exit 3)"]);
  });

  test("of a long queue are shown in parts", async () => {
    const session = fakeSession();
    session.jobs.value = manyJobs(1_000);
    render(<Queue session={session} />, root);
    expect(all(".job-row")).toHaveLength(50);
    named("Show 100 more").click();
    await settle();
    expect(all(".job-row")).toHaveLength(150);
  });

  test("another job than the page's own has a way back", async () => {
    const session = fakeSession({ scene: "running" });
    session.job.value = { ...(session.job.value as NonNullable<typeof session.job.value>), jobId: OTHER_ID };
    render(<Queue session={session} />, root);
    expect(all(".job-row.is-shown")).toHaveLength(1);
    named("Back to the page's job").click();
    expect(called(session, "show")).toEqual([[null]]);
  });
});

describe("the panel's queue", () => {
  test("a private name is hidden until it is asked for, and saved when it was typed", async () => {
    vi.useFakeTimers();
    try {
      const session = fakeSession();
      session.params.queue.value = "zebra-crossing-42";
      session.queue.value = "zebra-crossing-42";
      render(<Queue session={session} />, root);
      const field = () => named("Name of the queue") as HTMLInputElement;
      expect(field().value).toBe("zeb••••");
      expect(field().readOnly).toBe(true);
      expect(root.textContent).not.toContain("zebra-crossing-42");
      named("Show the name").click();
      await vi.advanceTimersByTimeAsync(10);
      expect(field().value).toBe("zebra-crossing-42");
      type(field(), "two words");
      await vi.advanceTimersByTimeAsync(2_000);
      expect(session.params.queue.value).toBe("zebra-crossing-42");
      expect(root.querySelector(".fault")?.textContent).toContain("Remove the blanks");
      type(field(), "two-words");
      await vi.advanceTimersByTimeAsync(500);
      expect(session.params.queue.value).toBe("zebra-crossing-42");
      await vi.advanceTimersByTimeAsync(600);
      expect(session.params.queue.value).toBe("two-words");
    } finally {
      vi.useRealTimers();
    }
  });

  test("a name may be typed with pauses: it is saved in the field that one is in, and hidden when one leaves", async () => {
    vi.useFakeTimers();
    try {
      const session = fakeSession();
      render(<Queue session={session} />, root);
      const field = named("Name of the queue") as HTMLInputElement;
      type(field, "zebra-");
      await vi.advanceTimersByTimeAsync(2_000);
      expect(session.params.queue.value).toBe("zebra-");
      expect(field.isConnected).toBe(true);
      expect([field.value, field.readOnly]).toEqual(["zebra-", false]);
      type(field, "zebra-crossing");
      await vi.advanceTimersByTimeAsync(2_000);
      expect(field.value).toBe("zebra-crossing");
      field.dispatchEvent(new FocusEvent("blur"));
      await vi.advanceTimersByTimeAsync(10);
      expect([field.value, field.readOnly]).toEqual(["zeb••••", true]);
      type(field, "no good");
      await vi.advanceTimersByTimeAsync(10);
      session.params.queue.value = "of-somebody-else";
      await vi.advanceTimersByTimeAsync(100);
      expect(field.value).toBe("of-••••"); // what was typed is not put over it later
      await vi.advanceTimersByTimeAsync(2_000);
      expect(session.params.queue.value).toBe("of-somebody-else");
    } finally {
      vi.useRealTimers();
    }
  });

  test("what was typed is not lost when the panel closes", async () => {
    const session = fakeSession();
    render(<Queue session={session} />, root);
    await settle(100);
    type(named("Name of the queue"), "typed-and-closed");
    render(null, root);
    await settle(100);
    expect(session.params.queue.value).toBe("typed-and-closed");
  });

  test("everybody's queue is warned of, a private one is not", async () => {
    const session = fakeSession();
    render(<Queue session={session} />, root);
    expect(texts(".queue-warning").join()).toContain("anybody can see these jobs");
    session.params.queue.value = "zebra-crossing-42";
    await settle();
    expect(all(".queue-warning")).toEqual([]);
  });

  test("a host page's queue locks the field until somebody here wants another one", async () => {
    const session = fakeSession({ isFramed: true });
    session.params.queueOverride.value = "of-the-host";
    render(<Queue session={session} />, root);
    expect((named("Name of the queue") as HTMLInputElement).disabled).toBe(true);
    named("Use the queue of the page around this frame").click();
    await settle();
    expect(session.params.ignoreQueueOverride.value).toBe(true);
    expect((named("Name of the queue") as HTMLInputElement).disabled).toBe(false);
  });

  test("this machine and back again keeps the name", async () => {
    const session = fakeSession();
    render(<Queue session={session} />, root);
    named("This machine").click();
    await settle();
    expect(session.params.queue.value).toBe("local");
    named("A server's queue").click();
    await settle();
    expect(session.params.queue.value).toBe("public1");
  });

  test("without a worker there is the command that starts one", async () => {
    const session = fakeSession();
    session.workers.value = [];
    render(<Queue session={session} />, root);
    expect(texts(".queue-health")).toEqual(["2 jobs wait: no worker is connected."]);
    expect(texts(".worker-start pre")[0]).toBe(`asman worker public1 --server ${location.origin}`);
  });

  test("the command hides a private queue's name until it is asked for, and is copied with it", async () => {
    const copied: string[] = [];
    vi.stubGlobal("navigator", { clipboard: { writeText: async (text: string) => void copied.push(text) } });
    const session = fakeSession();
    session.queue.value = "zebra-crossing-42";
    session.workers.value = [];
    render(<Queue session={session} />, root);
    expect(texts(".worker-start pre").join()).not.toContain("zebra-crossing-42");
    all(".worker-start button")
      .find((each) => each.title === "Copy the command")
      ?.click();
    await settle();
    expect(copied).toEqual([`asman worker zebra-crossing-42 --server ${location.origin}`]);
    named("Show the queue's name in the command").click();
    await settle();
    expect(texts(".worker-start pre")[0]).toBe(copied[0]);
  });

  test("the workers' tab tells what each has and runs", async () => {
    const session = fakeSession({ scene: "queue-page" });
    render(<Queue session={session} />, root);
    named("Workers (3)").click();
    await settle();
    expect(texts(".worker-row-id")).toEqual(["worker-a1b2c3", "worker-d4e5f6", "laptop-of-an-older-release"]);
    expect(all(".worker-row")[0]?.textContent).toContain("5 of 8");
    expect(all(".worker-row")[2]?.textContent).toContain("idle");
  });
});

describe("why it waits", () => {
  test("is said while the job waits, and not after", async () => {
    const session = fakeSession({ scene: "queued-no-fit" });
    render(<Why session={session} />, root);
    expect(texts(".why-missing li")).toEqual(["It asks for 2 GPUs; the worker has 1."]);
    expect(texts(".worker-start pre")[0]).toContain("asman worker public1");
    session.job.value = null;
    await settle();
    expect(root.textContent).toBe("");
  });

  test("the command starts a worker that fits the job", () => {
    const session = fakeSession({ scene: "queued-no-fit" });
    const { definition } = session.assembled.value as Assembled;
    const asked = { ...definition, requirements: { gpus: 2, memory: "64g" }, tags: ["a100"] };
    session.assembled.value = { ...(session.assembled.value as Assembled), definition: asked };
    render(<Why session={session} />, root);
    const needed = "--memory 64g --gpus 2 --tags a100";
    expect(texts(".worker-start pre")[0]).toBe(`asman worker public1 --server ${location.origin} ${needed}`);
    expect(texts(".worker-start pre")[1]).toContain(needed);
  });
});

describe("the history", () => {
  test("is searched, opened, forgotten by one and all at once", async () => {
    const session = fakeSession();
    render(<History session={session} />, root);
    expect(texts(".row-open")).toEqual(["python:3.12-slim", "alpine:3.19.1"]);
    expect(all(".row-open").map((each) => each.getAttribute("href"))).toEqual(
      Array(2).fill("./#?job=JTdCJTdE&queue=public1"),
    );
    type(named("Search the history"), "alpine hello");
    await settle();
    expect(texts(".row-open")).toEqual(["alpine:3.19.1"]);
    named(`Forget job ${OTHER_ID.slice(0, 8)}`).click();
    await settle();
    type(named("Search the history"), "");
    await settle();
    expect(texts(".row-open")).toEqual(["python:3.12-slim"]);
    named("Clear all").click();
    await settle();
    expect(called(session, "forget")).toHaveLength(1);
    named("Forget").click();
    await settle();
    expect(called(session, "forget").at(-1)).toEqual([null]);
    expect(root.textContent).toContain("Jobs that are run from this browser are listed here");
  });

  test("a job that is still going is told as it is now", () => {
    const session = fakeSession();
    render(<History session={session} />, root);
    expect(texts(".row-state strong")).toEqual(["Done", "Running"]);
  });

  test("an address without a page is one of this page", async () => {
    const session = fakeSession();
    const [first] = session.history.value;
    if (!first) throw new Error("no history");
    session.history.value = [
      { ...first, hash: "https://a.example/x#?queue=q" },
      { ...first, jobId: JOB_ID.replace("6", "7"), hash: "#?queue=r" },
    ];
    render(<History session={session} />, root);
    expect(all(".row-open").map((each) => each.getAttribute("href"))).toEqual(["./#?queue=q", "./#?queue=r"]);
  });
});

describe("the queue's page", () => {
  test("links to jobs and to a submit, and draws the last hour with words and numbers", async () => {
    const session = fakeSession({ scene: "queue-page" });
    render(<QueuePage session={session} />, root);
    expect(named("Submit a job").getAttribute("href")).toBe("./#?queue=public1");
    expect(all(".job-row")).toHaveLength(20);
    expect(all("a.row-open")[0]?.getAttribute("href")).toMatch(/^\.\/j\/[0-9a-f]{64}#\?queue=public1$/);
    await vi.waitFor(() => expect(all("svg[role=img]")).toHaveLength(4));
    expect(document.title).toBe("5 running, 25 queued");
    const charts = all("svg[role=img]").map((each) => each.getAttribute("aria-label"));
    expect(charts[0]).toMatch(
      /^Jobs that ended, per minute: \d+ submitted, \d+ started, \d+ ended, \d+ of them failed\.$/,
    );
    expect(charts[1]).toBe("Wait before a job started: Half of them at most 11 s, nine of ten at most 53 s.");
    expect(all(".chart-table tbody tr")).toHaveLength(4 * 60);
    expect(texts(".chart-table thead")[0]).toBe("Minutedonefailedcancelled or replaced");
  });

  test("a server that has just begun draws no empty charts, but says so", async () => {
    const session = fakeSession({ scene: "queue-page" });
    const none = { count: 0, median: null, p90: null };
    const hour = { submitted: 0, started: 0, finished: {} as Record<string, number>, wait: none, run: none };
    const minute = { ...hour, start: NOW - 30_000, queued: 0 };
    let answer = { queue: "q", time: NOW, since: NOW - 30_000, servers: 1, queued: 0, hour, minutes: [minute] };
    session.client.value = new Client({ server: "http://new", fetch: async () => Response.json(answer) });
    render(<QueuePage session={session} />, root);
    const text = () => root.querySelector("[aria-labelledby=queue-page-hour]")?.textContent;
    await vi.waitFor(() => expect(text()).toContain("No job has come yet"));
    expect(text()).toContain("when the server began");
    expect(all(".chart")).toEqual([]);
    answer = { ...answer, hour: { ...hour, submitted: 1, finished: { succeeded: 1 } } };
    answer.minutes = [{ ...minute, finished: { succeeded: 1 } }];
    session.client.value = new Client({ server: "http://newer", fetch: async () => Response.json(answer) });
    await vi.waitFor(() => expect(all("svg[role=img]")).toHaveLength(1)); // the others have nothing to draw
    expect(texts(".chart-summary")).toContain("No job ran to its end.");
  });

  test("an older server has no last hour, and that is said", async () => {
    const session = fakeSession({ scene: "queue-page" });
    session.client.value = new (session.client.value.constructor as typeof import("../../src/client.ts").Client)({
      server: "http://old",
      fetch: async () => Response.json({ error: "no route", code: "route_not_found", hint: "" }, { status: 404 }),
    });
    render(<QueuePage session={session} />, root);
    await vi.waitFor(() =>
      expect(texts(".queue-page-fault p")).toEqual(["This server does not keep the last hour of a queue."]),
    );
    expect(all(".job-row")).toHaveLength(20);
  });

  test("a private queue's name is hidden until it is asked for", async () => {
    const session = fakeSession({ scene: "queue-page" });
    session.queue.value = "zebra-crossing-42";
    render(<QueuePage session={session} />, root);
    expect(root.querySelector("h1")?.textContent).toBe("Queue zeb••••");
    named("Show the queue's name").click();
    await settle();
    expect(root.querySelector("h1")?.textContent).toBe("Queue zebra-crossing-42");
  });
});

test("times are local, with the date to point at", () => {
  const session = fakeSession();
  render(<History session={session} />, root);
  const [time] = all(".row time");
  expect(time?.getAttribute("datetime")).toBe(new Date(NOW - 4_000).toISOString());
  expect(time?.title).toMatch(/^\d{4}-\d\d-\d\d, \d\d:\d\d:\d\d$/);
});
