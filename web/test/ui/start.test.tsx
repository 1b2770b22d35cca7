// @vitest-environment happy-dom
import { type Signal, signal } from "@preact/signals";
import { render } from "preact";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { parseHash, readJson } from "../../src/ui/hash.ts";
import type { Assembled, Definition, Missing } from "../../src/ui/model.ts";
import { EXAMPLES, hashOf } from "../../src/ui/parts/examples.ts";
import { Start } from "../../src/ui/parts/start.tsx";
import { checkDefinition } from "../../src/ui/parts/validate.ts";
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

function open(queue = "", missing: Missing = { what: "image" }) {
  const chosen = signal<string | undefined>(queue || undefined);
  const params = fakeParams({
    job: signal<Definition | undefined>(undefined),
    inputs: signal<Record<string, string> | undefined>(undefined),
    queue: chosen,
  });
  const session = fakeSession({
    scene: "empty",
    params,
    queue: chosen as Signal<string>,
    assembled: signal<Assembled | Missing>(missing),
  });
  session.params = params;
  session.queue = chosen as Signal<string>;
  session.assembled = signal<Assembled | Missing>(missing);
  render(<Start session={session} />, root);
  return { session, params, assembled: session.assembled as Signal<Assembled | Missing> };
}

const example = (at: number) => root.querySelectorAll<HTMLAnchorElement>(".start-examples a")[at];
const click = (element: Element | undefined) =>
  element?.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true, button: 0 }));
const button = (label: string) =>
  [...root.querySelectorAll("button")].find((one) => one.textContent?.trim().startsWith(label));
const shows = (text: string | RegExp) => vi.waitFor(() => expect(root.textContent).toMatch(text));

describe("an example", () => {
  it.each(EXAMPLES)("$title is a job that a worker takes, and a whole link", ({ job, inputs = {}, ...rest }) => {
    const configFiles = Object.fromEntries(Object.entries(inputs).map(([name, value]) => [name, { value }]));
    expect(checkDefinition({ ...job, configFiles })).toEqual({ faults: [], excess: [], warnings: [] });
    const { values } = parseHash(hashOf({ job, inputs, ...rest } as (typeof EXAMPLES)[number], "q 1"));
    expect(readJson(values.get("job") ?? "")).toEqual({ value: job });
    expect(readJson(values.get("inputs") ?? "")).toEqual({ value: inputs });
    expect(values.get("queue")).toBe("q%201");
  });

  it("runs at the click, once it is assembled", async () => {
    const { session, params, assembled } = open("q");
    expect(example(1)?.getAttribute("href")).toContain("queue=q");
    click(example(1));
    expect(params.job.value).toEqual(EXAMPLES[1]?.job);
    expect(Object.keys(params.inputs.value ?? {})).toEqual(["statistics_of.py", "heights.csv"]);
    assembled.value = { jobId: JOB_ID, definition: { image: "old" }, namespace: "_", control: {} };
    await new Promise((done) => setTimeout(done, 20));
    expect(session.calls).toEqual([]); // that was still the job before
    const definition = { ...EXAMPLES[1]?.job, configFiles: {} } as Definition;
    assembled.value = { jobId: JOB_ID, definition, namespace: "_", control: {} };
    await vi.waitFor(() => expect(session.calls).toEqual([{ name: "run", values: [] }]));
  });

  it("is not said to run at once where no worker is", async () => {
    const { session } = open("q");
    session.connection.value = "connected";
    await shows("Try one: it waits for a worker");
    session.workers.value = [{ id: "w" }];
    await shows("Try one: it runs at once");
  });

  it("asks for a queue where there is none", async () => {
    const { session, params } = open();
    click(example(0));
    expect(params.job.value).toEqual(EXAMPLES[0]?.job);
    expect(session.panel.value).toBe("start");
    expect(session.calls).toEqual([]);
  });
});

describe("what is pasted", () => {
  const paste = async (text: string) => {
    const area = root.querySelector<HTMLTextAreaElement>(".start-paste textarea");
    if (!area) throw new Error("no box");
    area.value = text;
    area.dispatchEvent(new Event("input", { bubbles: true }));
    await new Promise((done) => setTimeout(done, 20));
  };
  const use = () => root.querySelector("form")?.dispatchEvent(new Event("submit", { bubbles: true, cancelable: true }));

  it("is said before it is taken over, and what was left out stays said", async () => {
    const { session, params } = open("q");
    await paste("docker run -v /a:/b -e A=1 alpine ls");
    await shows("Read as a docker run line, with this:");
    await shows("--volume was left out");
    use();
    await vi.waitFor(() => expect(params.job.value).toEqual({ image: "alpine", command: "ls", env: { A: "1" } }));
    expect(session.notices.value).toMatchObject([{ kind: "warning", hint: expect.stringContaining("--volume") }]);
  });

  it("is not taken over while it is wrong, and stays in the box", async () => {
    const { params } = open("q");
    await paste('{"image": "a b"}');
    await shows('image: "a b" holds blanks');
    use();
    await paste("what is this?");
    await shows("This was not understood");
    use();
    expect(params.job.value).toBeUndefined();
    expect(root.querySelector<HTMLTextAreaElement>(".start-paste textarea")?.value).toBe("what is this?");
  });

  it("may be a link; its queue does not go into the hash, the old one stays if it has none", async () => {
    const { params } = open("mine");
    await paste(`https://h.example/${hashOf({ job: { image: "a" } }, "theirs")}`);
    use();
    await vi.waitFor(() => expect(params.queue.value).toBe("theirs"));
    expect(location.hash).toBe(hashOf({ job: { image: "a" } }, ""));
    await paste(`https://h.example/${hashOf({ job: { image: "b" } }, "")}`);
    use();
    await vi.waitFor(() => expect(location.hash).toBe(hashOf({ job: { image: "b" } }, "")));
    expect(params.queue.value).toBe("theirs");
  });

  it("may be the page of a job of this server", async () => {
    const { session, params } = open("q");
    const asked: unknown[] = [];
    session.client = signal({
      definition: async (...values: unknown[]) => {
        asked.push(values);
        return { image: "stored" };
      },
    }) as unknown as typeof session.client;
    await paste(`${location.origin}/q/other/j/${"a".repeat(64)}`);
    use();
    await vi.waitFor(() => expect(params.job.value).toEqual({ image: "stored" }));
    expect(asked).toEqual([["a".repeat(64), { queue: "other" }]]);
    await paste(`https://elsewhere.example/j/${"a".repeat(64)}`);
    use();
    await shows("This job is on https://elsewhere.example");
  });
});

describe("the queue", () => {
  const field = () => {
    const found = root.querySelector<HTMLInputElement>(".start-queue input");
    if (!found) throw new Error("no field");
    return found;
  };
  const type = (text: string) => {
    field().value = text;
    field().dispatchEvent(new Event("input", { bubbles: true }));
    field().dispatchEvent(new FocusEvent("blur"));
  };

  it("can be typed, and its worker's command is there", async () => {
    const { params } = open();
    type("mine");
    expect(params.queue.value).toBe("mine");
    await shows(`asman worker •••••• --server ${location.origin}`);
    expect(root.textContent).not.toContain("mine"); // whoever looks over the shoulder does not get it
    expect(field().value).toBe("••••••");
    click(root.querySelector('[aria-label="Show the name"]') ?? undefined);
    await vi.waitFor(() => expect(field().value).toBe("mine"));
    click(root.querySelector('[aria-label="Show the queue\'s name in the command"]') ?? undefined);
    await shows(`asman worker mine --server ${location.origin}`);
  });

  it("is not taken while it is no name, and stays as it was typed", async () => {
    const { params } = open("before");
    type("no good");
    await shows("Remove the blanks");
    expect(params.queue.value).toBe("before");
    expect(field().value).toBe("no good");
  });

  it("can be made", async () => {
    const { params } = open();
    click(button("Make a private one"));
    expect(params.queue.value).toMatch(/^[a-z2-9-]{27}$/);
    await shows("nobody can guess it");
  });

  it("warns where everybody knows it", async () => {
    open("public1");
    await shows("anybody can see these jobs");
  });

  it("is the host page's where that sets it", async () => {
    const { session } = open();
    session.params.queueOverride.value = "forced";
    await vi.waitFor(() => expect(field().disabled).toBe(true));
    expect(field().value).toBe("••••••");
  });
});

describe("what is missing is said, and what to do", () => {
  it.each<[Missing, RegExp]>([
    [{ what: "image" }, /has no image/],
    [{ what: "queue" }, /has no queue to run on/],
    [
      { what: "invalid", problems: ["requirements.memory: no size"] },
      /cannot run as it is.*requirements.memory: no size/,
    ],
  ])("%j", async (missing, words) => {
    const { params, session } = open("", missing);
    params.job.value = { command: "ls" } as Definition;
    await shows(words);
    if (missing.what === "queue") return;
    click(root.querySelector(".start-missing button") ?? undefined);
    expect(session.panel.value).toBe("settings");
  });
});
