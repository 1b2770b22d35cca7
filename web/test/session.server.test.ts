// biome-ignore-all lint/suspicious/noTemplateCurlyInString: that is how links write what is replaced in them
/** The session against a real server and a worker that does what it is told. Windows are happy-dom's, one for each page. */

import { IDBFactory } from "fake-indexeddb";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { WebSocket } from "ws";
import { Client } from "../src/client.ts";
import { encodeJson } from "../src/ui/hash.ts";
import { createSession, type LiveSession } from "../src/ui/session.ts";
import { type Container, missing, ScriptedWorker, Served } from "./support/asman.ts";
import { openWindow, type TestWindow } from "./support/window.ts";

vi.setConfig({ testTimeout: 20_000 });

const reason = missing();

const sessions: LiveSession[] = [];
const workers: ScriptedWorker[] = [];
let served: Served;
let queues = 0;

interface Page extends TestWindow {
  session: LiveSession;
  queue: string;
}

interface PageOptions {
  queue?: string;
  path?: string;
  database?: IDBFactory;
  params?: Record<string, string>;
  fetch?: typeof fetch;
  prepare?: (window: TestWindow) => void;
}

function nextQueue(): string {
  return `q${++queues}`;
}

function address(queue: string): string {
  return `${served.url}/q/${queue}`;
}

function link(job: unknown, queue: string, params: Record<string, string> = {}): string {
  const all = { ...params, ...(queue ? { queue: address(queue) } : {}), ...(job ? { job: encodeJson(job) } : {}) };
  return `#?${Object.entries(all)
    .map(([name, value]) => `${name}=${encodeURIComponent(value)}`)
    .join("&")}`;
}

function open(
  job: unknown,
  { queue = nextQueue(), path = "/", database, params, fetch, prepare }: PageOptions = {},
): Page {
  const opened = openWindow(`https://page.example${path}${link(job, queue, params)}`);
  prepare?.(opened);
  const session = createSession({
    window: opened.window,
    database: database ?? new IDBFactory(),
    WebSocket: WebSocket as unknown as typeof globalThis.WebSocket,
    fetch: fetch ?? globalThis.fetch,
  });
  sessions.push(session);
  return { ...opened, session, queue };
}

async function worker(queue: string): Promise<ScriptedWorker> {
  const connected = await new ScriptedWorker(served.url, queue, `worker-${workers.length}`).connect();
  workers.push(connected);
  return connected;
}

async function until(what: string, test: () => unknown, ms = 8_000): Promise<void> {
  const end = Date.now() + ms;
  while (!test()) {
    if (Date.now() > end) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const texts = (page: Page, half: "build" | "run" = "run") => page.session.log.lines(half).map(({ text }) => text);
const state = (page: Page) => page.session.job.value?.record.state;
const connected = (page: Page) => until("connected", () => page.session.connection.value === "connected");
const shownNotices = (page: Page) => page.session.notices.value.map(({ text }) => text);

async function ended(page: Page, given: Container, result = {}): Promise<void> {
  given.end(result);
  await until("the result", () => page.session.job.value?.result);
}

describe.skipIf(reason !== "")("a session with a server", () => {
  beforeAll(async () => {
    served = await new Served("--backend", "memory").start();
  });
  afterEach(() => {
    for (const session of sessions.splice(0)) session.dispose();
    for (const one of workers.splice(0)) one.close();
  });
  afterAll(() => served.end());

  it("runs the job of the link: states, lines, steps, result, outputs, history", async () => {
    const page = open({ image: "alpine", command: "echo ${WHO}" }, { params: { WHO: "you" } });
    const { session } = page;
    await connected(page);
    expect(session.assembled.value).toMatchObject({ definition: { command: "echo you", env: { WHO: "you" } } });
    await session.run();
    await until("queued", () => state(page) === "Queued");
    await until("why", () => session.why.value?.reason.startsWith("no worker"));
    const given = await (await worker(page.queue)).next();
    await until("running", () => state(page) === "Running");
    given.say("0123456789ab: Pulling fs layer\n", { step: "docker image pull" });
    given.say("0123456789ab: Pull complete\n", { step: "docker image pull" });
    given.say("hello ");
    given.say("you\n");
    given.say("oops\n", { isStderr: true });
    await until("lines", () => texts(page).length === 2 && texts(page, "build").length === 2);
    expect(texts(page)).toEqual(["hello you", "oops"]);
    const steps = () =>
      session.job.value?.steps.map(({ name, end }) => `${name} ${end === null ? "goes on" : "is over"}`);
    await until("steps", () => steps()?.join() === "pull is over,run goes on");
    await ended(page, given, { outputs: { "a.txt": { type: "utf8", value: "abc" } }, logs: [["hello you\n", 1]] });
    expect(session.job.value?.record).toMatchObject({ state: "Finished", finishedReason: "Success", exitCode: 0 });
    expect(session.outputs.value).toMatchObject([{ name: "a.txt", size: 3 }]);
    expect(texts(page)).toEqual(["hello you", "oops"]);
    await until("history", () => session.history.value[0]?.outcome === "succeeded");
    expect(session.history.value[0]).toMatchObject({ image: "alpine", command: "echo you", exitCode: 0 });
    expect(session.why.value).toBeNull();
    expect(shownNotices(page)).toEqual([]);
  });

  it("answers a second run from the result, and runs anew when asked to", async () => {
    const page = open({ image: "alpine", command: "date" });
    const hands = await worker(page.queue);
    await connected(page);
    await page.session.run();
    const first = await hands.next();
    first.say("one\n");
    await ended(page, first, { logs: [["one\n", 1]] });
    await page.session.run();
    expect(page.session.job.value?.result).not.toBeNull();
    await page.session.run({ again: true });
    const second = await hands.next();
    expect(second.assigned.jobId).toBe(first.assigned.jobId);
    await until("a clean start", () => state(page) === "Running" && texts(page).length === 0);
    second.say("two\n");
    await until("the new line", () => texts(page).join() === "two");
    await ended(page, second, { logs: [["two\n", 1]] });
    expect(page.session.job.value?.record.generation).toBe(2);
  });

  it("keeps two pages of one job in step, and both may ask for another run at once", async () => {
    const job = { image: "alpine", command: "both" };
    const one = open(job);
    const two = open(job, { queue: one.queue });
    const hands = await worker(one.queue);
    await Promise.all([connected(one), connected(two)]);
    await one.session.run();
    const given = await hands.next();
    given.say("seen by both\n");
    await until("both see it", () => texts(one).length === 1 && texts(two).length === 1);
    given.end({});
    await until("both know the end", () => one.session.job.value?.result && two.session.job.value?.result);
    await Promise.all([one.session.run({ again: true }), two.session.run({ again: true })]);
    (await hands.next()).end({});
    await until("both see the second run", () =>
      [one, two].every((page) => page.session.job.value?.result && page.session.job.value.record.generation === 2),
    );
  });

  it("stops in the job's own namespace", async () => {
    const page = open({ image: "alpine" }, { params: { control: encodeJson({ namespace: "mine" }) } });
    await connected(page);
    await page.session.run();
    await until("queued", () => state(page) === "Queued");
    expect(page.session.job.value?.record.namespaces).toEqual(["mine"]);
    await page.session.stop();
    await until("cancelled", () => page.session.job.value?.record.finishedReason === "Cancelled");
  });

  it("says that a job goes on when others want it", async () => {
    const page = open({ image: "alpine" });
    await connected(page);
    await page.session.run();
    await until("queued", () => state(page) === "Queued");
    await new Client({ server: served.url }).submit(page.queue, { image: "alpine" }, { namespace: "other" });
    await until("held by both", () => page.session.job.value?.record.namespaces.length === 2);
    await page.session.stop();
    expect(shownNotices(page).join()).toContain("other");
    expect(state(page)).toBe("Queued");
  });

  it("drops a result, here and in the other page", async () => {
    const page = open({ image: "alpine" });
    const other = open({ image: "alpine" }, { queue: page.queue });
    const hands = await worker(page.queue);
    await Promise.all([connected(page), connected(other)]);
    await page.session.run();
    await ended(page, await hands.next());
    await page.session.clear();
    await until("gone", () => page.session.job.value === null && other.session.job.value === null);
    expect(shownNotices(page)).toEqual([]);
  });

  it("shows the log and the result again after a reload", async () => {
    const database = new IDBFactory();
    const page = open({ image: "alpine" }, { database });
    const hands = await worker(page.queue);
    await connected(page);
    await page.session.run();
    const given = await hands.next();
    given.say("pulling\n", { step: "docker image pull" });
    given.say("before\n");
    await until("the line", () => texts(page).length === 1);
    page.session.dispose();
    const again = open({ image: "alpine" }, { queue: page.queue, database });
    await until("the line again", () => texts(again).join() === "before" && texts(again, "build").join() === "pulling");
    given.say("after\n");
    await until("what comes later", () => texts(again).join() === "before,after");
    await ended(again, given, { logs: [["before\n", 1]] });
    again.session.dispose();
    const last = open({ image: "alpine" }, { queue: page.queue, database });
    await until("log and result", () => last.session.job.value?.result && texts(last).join() === "before,after");
    await until("steps", () => last.session.job.value?.steps.map(({ name }) => name).join() === "pull,run");
  });

  it("shows the result of this browser at once, without a server", async () => {
    const database = new IDBFactory();
    const page = open({ image: "alpine", command: "kept" }, { database });
    const hands = await worker(page.queue);
    await connected(page);
    await page.session.run();
    await ended(page, await hands.next(), { logs: [["kept line\n", 1]] });
    await new Promise((resolve) => setTimeout(resolve, 50));
    page.session.dispose();
    const cut: typeof fetch = () => Promise.reject(new TypeError("no network"));
    const later = open({ image: "alpine", command: "kept" }, { queue: page.queue, database, fetch: cut });
    await until("the kept result", () => later.session.job.value?.result);
  });

  it("sends a submit made without a connection once it is back, over a reload, and only once", async () => {
    const database = new IDBFactory();
    let isCut = true;
    let submits = 0;
    const wire: typeof fetch = (input, init) => {
      if (isCut) return Promise.reject(new TypeError("no network"));
      if (init?.method === "POST") submits++;
      return globalThis.fetch(input, init);
    };
    const page = open({ image: "alpine" }, { database, fetch: wire });
    await connected(page);
    await page.session.run();
    expect(page.session.submitting.value).toBe("waits-for-connection");
    page.session.dispose();
    isCut = false;
    const [one, two] = [0, 1].map(() => open({ image: "alpine" }, { queue: page.queue, database, fetch: wire }));
    await until("queued", () => one && state(one) === "Queued" && two && state(two) === "Queued");
    expect(submits).toBe(1);
    expect(one?.session.submitting.value).toBe("no");
  });

  it("stop takes back a submit that waits for the connection", async () => {
    const database = new IDBFactory();
    const cut: typeof fetch = () => Promise.reject(new TypeError("no network"));
    const page = open({ image: "alpine" }, { database, fetch: cut });
    await page.session.run();
    expect(page.session.submitting.value).toBe("waits-for-connection");
    await page.session.cancel((page.session.assembled.value as { jobId: string }).jobId);
    expect(page.session.submitting.value).toBe("no");
    const later = open({ image: "alpine" }, { queue: page.queue, database });
    await connected(later);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(later.session.job.value).toBeNull();
  });

  it("sends large inputs first, and submits what points to them", async () => {
    const text = "x,y\n".repeat(100);
    const page = open({ image: "alpine" }, { params: { inputs: encodeJson({ "data.csv": text }) } });
    expect(page.session.assembled.value).toEqual({ what: "loading" });
    await page.session.run();
    const hands = await worker(page.queue);
    const { definition } = (await hands.next()).assigned;
    const ref = (definition.configFiles as Record<string, { type: string; value: string }>)["data.csv"];
    expect(ref?.type).toBe("url");
    expect(await (await fetch(ref?.value ?? "")).text()).toBe(text);
    expect(page.session.uploads.value.size).toBe(0);
  });

  it("starts by itself: at first, at a change, but not what is known already", async () => {
    const database = new IDBFactory();
    const page = open({ image: "alpine", command: "1" }, { database, params: { autostart: "true" } });
    const hands = await worker(page.queue);
    const first = await hands.next();
    expect(first.assigned.definition.command).toBe("1");
    await ended(page, first);
    page.session.params.job.value = { image: "alpine", command: "2" };
    const second = await hands.next();
    expect(second.assigned.definition.command).toBe("2");
    await ended(page, second);
    page.session.dispose();
    const again = open(
      { image: "alpine", command: "2" },
      { database, queue: page.queue, params: { autostart: "true" } },
    );
    await until("known", () => again.session.job.value?.result);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(again.session.job.value?.record.generation).toBe(1);
    expect(again.session.history.value).toHaveLength(2);
  });

  it("shows the job of the address by that id, and an edit leads to a link of its own", async () => {
    const queue = nextQueue();
    const client = new Client({ server: served.url });
    const definition = {
      image: "alpine",
      command: "old",
      env: {},
      configFiles: { "a.sh": { type: "utf8" as const, value: "1" } },
    };
    const { verbatimId } = await import("../src/identity.ts");
    const id = await verbatimId(definition);
    await client.submit(queue, definition, { id });
    const routed: typeof fetch = (input, init) =>
      globalThis.fetch(String(input).replace(/^\/j\//, `${served.url}/j/`), init);
    const page = open(null, { queue, path: `/j/${id}`, fetch: routed });
    await until("the job", () => page.session.job.value?.jobId === id && state(page) === "Queued");
    expect(page.session.params.job.value).toEqual({ image: "alpine", command: "old", env: {} });
    expect(page.session.params.inputs.value).toEqual({ "a.sh": "1" });
    page.session.params.inputs.value = { "a.sh": "2" };
    expect(page.window.location.pathname).toBe("/");
    expect(page.session.route.value).toEqual({ kind: "job" });
    expect(page.session.params.job.value).toEqual({ image: "alpine", command: "old", env: {} });
    const made = page.session.assembled.value;
    expect(made).toMatchObject({ definition: { command: "old", configFiles: { "a.sh": { value: "2" } } } });
    await until("another job", () => page.session.job.value === null);
  });

  it("says so when the job of the address is not known", async () => {
    const routed: typeof fetch = (input, init) =>
      globalThis.fetch(String(input).replace(/^\/j\//, `${served.url}/j/`), init);
    const page = open(null, { path: `/j/${"0".repeat(64)}`, fetch: routed });
    await until("the message", () => shownNotices(page).some((text) => text.includes("not known")));
    expect(page.session.assembled.value).toEqual({ what: "image" });
  });

  it("survives a restart of the server that forgets everything", async () => {
    const own = await new Served("--backend", "memory").start();
    try {
      const opened = openWindow(
        `https://page.example/#?queue=${encodeURIComponent(`${own.url}/q/r`)}&job=${encodeJson({ image: "a" })}`,
      );
      const session = createSession({
        window: opened.window,
        WebSocket: WebSocket as unknown as typeof globalThis.WebSocket,
        fetch,
      });
      sessions.push(session);
      await until("connected", () => session.connection.value === "connected");
      await session.run();
      await until("queued", () => session.job.value?.record.state === "Queued");
      await own.stop("SIGKILL");
      await until("a visible state", () => session.connection.value === "reconnecting");
      await own.start();
      await until("connected again", () => session.connection.value === "connected", 15_000);
      await until("it is gone", () => session.job.value === null);
      await session.run();
      await until("queued again", () => session.job.value?.record.state === "Queued");
    } finally {
      await own.end();
    }
  }, 40_000);

  it("shows another job of the queue in place, and the link's own again", async () => {
    const page = open({ image: "alpine" });
    const other = await new Client({ server: served.url }).submit(page.queue, { image: "other" });
    await until("listed", () => page.session.jobs.value.has(other.jobId));
    page.session.show(other.jobId);
    await until("shown", () => page.session.job.value?.jobId === other.jobId);
    await page.session.cancel(other.jobId);
    await until("stopped", () => page.session.job.value?.record.finishedReason === "Cancelled");
    page.session.show(null);
    await until("back", () => page.session.job.value === null);
  });

  it("says what the server refuses, with what to do", async () => {
    const page = open({ image: "alpine", maxDuration: "31d" }); // the page does not know how long a server allows
    await connected(page);
    await page.session.run();
    expect(page.session.notices.value[0]).toMatchObject({ kind: "error" });
    expect(page.session.notices.value[0]?.hint).not.toBe("");
    expect(page.session.submitting.value).toBe("no");
  });

  describe("in a frame", () => {
    interface Message {
      method: string;
      params: Record<string, unknown>;
    }
    function framed(job: unknown, options: PageOptions = {}) {
      const sent: Message[] = [];
      const parent = { postMessage: (message: unknown) => sent.push(structuredClone(message) as Message) };
      const page = open(job, {
        ...options,
        prepare: ({ dom }) => {
          Object.defineProperty(dom, "parent", { value: parent });
          Object.defineProperty(dom, "name", { value: "frame", writable: true });
          dom.sessionStorage.setItem("asman-local-consent", "true");
          options.prepare?.({ dom, window: dom as never });
        },
      });
      const tell = (method: string, params: unknown, source: unknown = parent, parentId = "host") => {
        const data = { jsonrpc: "2.0", id: "_", method, params, iframeId: "frame", parentId };
        const event = new page.dom.MessageEvent("message", { data });
        Object.defineProperty(event, "source", { value: source });
        page.dom.dispatchEvent(event);
      };
      const connect = (inputs = {}) =>
        tell("SetupIframeServerResponse", { iframeId: "frame", parentId: "host", state: { inputs }, version: "2" });
      return { page, sent, tell, connect, outputs: () => sent.filter(({ method }) => method === "OutputsUpdate") };
    }

    it("takes inputs, runs, and hands each job's outputs over once", async () => {
      const { page, connect, tell, outputs } = framed({ image: "alpine" });
      const hands = await worker(page.queue);
      connect({ "/a.txt": "1", flag: true });
      await until("inputs", () => page.session.dynamicInputs.value.size === 2);
      expect(page.session.assembled.value).toMatchObject({
        definition: { inputs: { "a.txt": { type: "utf8", value: "1" }, flag: { type: "json", value: true } } },
      });
      await page.session.run();
      const first = await hands.next();
      await ended(page, first, { outputs: { one: { type: "key", value: "abc" } }, logs: [] });
      await until("outputs", () => outputs().some(({ params }) => "one" in params));
      expect(outputs().at(-1)?.params).toEqual({ one: { type: "url", value: `${served.url}/f/abc` } });
      const before = outputs().length;
      tell("InputsUpdate", { inputs: { "/a.txt": "2", flag: null } });
      await until("the next job", () => page.session.job.value === null);
      await page.session.run();
      await ended(page, await hands.next(), { outputs: { two: { type: "utf8", value: "x" } }, logs: [] });
      await until("outputs of the next", () => outputs().length > before);
      expect(
        outputs()
          .slice(before)
          .map(({ params }) => params),
      ).toEqual([{ two: { type: "utf8", value: "x" } }]);
    });

    it("never tells the host which queue was chosen in it", async () => {
      const { page, connect, sent, outputs } = framed({ image: "alpine" }, { params: { allowsetjob: "true" } });
      connect();
      const secret = nextQueue();
      page.session.params.queue.value = address(`${secret}-secret`);
      page.session.params.autostart.value = true;
      const hands = await worker(`${secret}-secret`);
      await ended(page, await hands.next(), {
        logs: [
          ["out\n", 1],
          ["err \n", 2, true],
        ],
      });
      await until("the result", () => outputs().some(({ params }) => "job/result.json" in params));
      const summary = outputs().at(-1)?.params["job/result.json"];
      expect(summary).toMatchObject({ stdout: [["out", 1]], stderr: [["err", 2, true]], statusCode: 0 });
      expect(sent.filter(({ method }) => method === "HashParamsUpdate")).not.toHaveLength(0);
      expect(JSON.stringify(sent)).not.toContain("secret");
      expect(JSON.stringify(sent)).toContain(encodeURIComponent(address(page.queue)));
    });

    it("lets the host set the job only if the link allows it", async () => {
      for (const [allowed, pipe] of [
        ["", "job"],
        ["true", "job"],
        ["true", "metaframe/job"],
      ] as const) {
        const { page, connect } = framed({ image: "alpine" }, { params: allowed ? { allowsetjob: allowed } : {} });
        connect({ [pipe]: { image: "set" }, other: 1 });
        await until("inputs", () => page.session.dynamicInputs.value.size === 1);
        expect(page.session.params.job.value).toEqual({ image: allowed ? "set" : "alpine" });
        expect(page.session.dynamicInputs.value.has(pipe)).toBe(false);
      }
    });

    it("resolves references if the link says so", async () => {
      const { page, connect, outputs } = framed({ image: "alpine" }, { params: { resolverefs: "true" } });
      connect();
      const hands = await worker(page.queue);
      const client = new Client({ server: served.url });
      const blob = await client.upload(new Uint8Array([1, 2, 3]));
      await page.session.run();
      const key = { type: "key", value: blob.hash };
      await ended(page, await hands.next(), {
        outputs: { b: key, t: { type: "utf8", value: "x" }, j: { type: "json", value: [1] } },
      });
      await until("outputs", () => outputs().some(({ params }) => "b" in params));
      expect(outputs().at(-1)?.params).toMatchObject({
        b: { _s: true, _c: "Blob", value: "AQID", size: 3 },
        t: "x",
        j: [1],
      });
    });

    it("does nothing on this machine before somebody in it agrees", async () => {
      const asked: string[] = [];
      const noting: typeof fetch = (input, init) => {
        asked.push(String(input));
        return globalThis.fetch(input, init);
      };
      const large = encodeJson({ "a.txt": "x".repeat(500) });
      const { page, connect } = framed(
        { image: "alpine" },
        {
          params: { autostart: "true", inputs: large },
          fetch: noting,
          prepare: ({ dom }) => dom.sessionStorage.removeItem("asman-local-consent"),
        },
      );
      connect({ big: "y".repeat(500) });
      await until("inputs", () => page.session.dynamicInputs.value.size === 1);
      await page.session.run();
      await new Promise((resolve) => setTimeout(resolve, 100));
      expect(page.session.assembled.value).toEqual({ what: "consent" });
      expect(page.session.connection.value).toBe("none");
      expect(asked).toEqual([]);
      const notice = page.session.notices.value.find(({ action }) => action);
      notice?.action?.run();
      const hands = await worker(page.queue);
      expect((await hands.next()).assigned.definition.image).toBe("alpine");
      expect(page.session.notices.value.some(({ id }) => id === notice?.id)).toBe(false);
      expect(page.dom.sessionStorage.getItem("asman-local-consent")).toBe("true");
    });
  });
});
