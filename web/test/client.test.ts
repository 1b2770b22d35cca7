/** The client against a server that misbehaves as told; what the real one does is in `client.server.test.ts`. */

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, test, vi } from "vitest";
import { Client } from "../src/client.ts";
import type { StreamEvent } from "../src/contract.ts";
import { AsmanError } from "../src/errors.ts";
import { sha256 } from "../src/sha256.ts";

type Answer = (request: IncomingMessage, response: ServerResponse, body: string) => void;

const closing: (() => void)[] = [];
afterEach(() => {
  vi.unstubAllGlobals();
  for (const close of closing.splice(0)) close();
});

/** Answers one request after another as told; the last answer stays. */
async function scripted(...answers: Answer[]): Promise<{ url: string; asked: string[]; bodies: string[] }> {
  const asked: string[] = [];
  const bodies: string[] = [];
  const server = createServer((request, response) => {
    let body = "";
    request.on("data", (chunk) => {
      body += chunk;
    });
    request.on("end", () => {
      const answer = answers[Math.min(asked.length, answers.length - 1)];
      asked.push(`${request.method} ${request.url}`);
      bodies.push(body);
      answer?.(request, response, body);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  closing.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked, bodies };
}

const json =
  (status: number, value: unknown, headers: Record<string, string> = {}): Answer =>
  (_, response) => {
    response.writeHead(status, { "content-type": "application/json", ...headers });
    response.end(JSON.stringify(value));
  };
const broken: Answer = (request) => request.socket.destroy();
const never: Answer = () => {};
const submitted = json(200, { success: true, jobId: "ab", cached: false, state: "Queued" });

async function thrown(promise: Promise<unknown>): Promise<AsmanError> {
  const error = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(AsmanError);
  return error as AsmanError;
}

// --- errors ----------------------------------------------------------------------------------------------------------

test("an error says what, which request, and what to do", async () => {
  const answer = {
    error: "no such job",
    code: "job_not_found",
    hint: "Check the id.",
    requestId: "r1",
    details: [{ loc: "a.b", msg: "wrong" }],
  };
  const { url } = await scripted(json(404, answer));
  const error = await thrown(new Client({ server: url }).why("q", "ab"));
  expect(error).toMatchObject({
    status: 404,
    code: "job_not_found",
    hint: "Check the id.",
    requestId: "r1",
    text: "no such job",
    details: [{ loc: "a.b", msg: "wrong" }],
    request: { method: "GET", url: `${url}/q/q/j/ab/why` },
    isTemporary: false,
  });
  expect(error.message).toBe(`no such job (GET ${url}/q/q/j/ab/why)`);
});

test.each([
  [404, "not_found"],
  [418, "bad_request"],
  [500, "unavailable"],
  [507, "storage_full"],
])("an answer %i without our shape still has a code: %s", async (status, code) => {
  const { url } = await scripted((_, response) => response.writeHead(status).end("<h1>sorry</h1>"));
  const error = await thrown(new Client({ server: url }).list("q"));
  expect(error).toMatchObject({ status, code });
  expect(error.hint).not.toBe("");
});

test("a page in the place of JSON is another server's", async () => {
  const { url } = await scripted((_, response) => response.writeHead(200, { "content-type": "text/html" }).end("<p>"));
  expect(await thrown(new Client({ server: url }).list("q"))).toMatchObject({ code: "not_asman" });
  expect(await thrown(new Client({ server: url }).stream("q", "ab").next())).toMatchObject({ code: "not_asman" });
});

test("an address that is none is refused at once, and a queue without name", async () => {
  expect(() => new Client({ server: "queue.example" })).toThrow("not the address of a server");
  expect(() => new Client({ server: "ftp://queue.example" })).toThrow(AsmanError);
  expect(() => new Client({ server: "" })).toThrow(AsmanError); // there is no page that it could have come from
  expect(await thrown(new Client({ server: "http://localhost:1" }).list(""))).toMatchObject({ code: "bad_argument" });
});

// --- repeating -------------------------------------------------------------------------------------------------------

test("reads and submits are repeated while the connection breaks or the server asks for patience", async () => {
  const { url, asked, bodies } = await scripted(broken, json(503, {}), submitted);
  const client = new Client({ server: url });
  const definition = { image: "alpine" };
  expect(await client.submit("q", definition)).toMatchObject({ jobId: "ab", isCached: false });
  expect(asked).toEqual(["POST /q/q", "POST /q/q", "POST /q/q"]);
  expect(new Set(bodies)).toEqual(new Set([JSON.stringify({ definition })]));
});

test("what is wrong is not repeated", async () => {
  const { url, asked } = await scripted(json(422, { error: "no", code: "bad_definition" }));
  await thrown(new Client({ server: url }).submit("q", { image: "" }));
  expect(asked).toHaveLength(1);
});

test("after some tries the error is thrown", async () => {
  const { url, asked } = await scripted(broken);
  const error = await thrown(new Client({ server: url, retries: 2 }).list("q"));
  expect(error).toMatchObject({ code: "unreachable", status: 0, isTemporary: true });
  expect(asked).toHaveLength(3);
});

test("a delete is repeated if the server did nothing, not if nobody knows", async () => {
  const one = await scripted(broken, json(200, { state: "Finished", namespaces: [] }));
  await thrown(new Client({ server: one.url }).remove("q", "ab"));
  expect(one.asked).toHaveLength(1);
  const two = await scripted(json(503, {}), json(200, { state: "Finished", namespaces: [] }));
  expect(await new Client({ server: two.url }).remove("q", "ab")).toMatchObject({ state: "Finished" });
  expect(two.asked).toEqual(["DELETE /q/q/j/ab", "DELETE /q/q/j/ab"]);
});

test("Retry-After is waited for", async () => {
  const { url } = await scripted(
    json(429, { error: "slow", code: "rate_limited" }, { "retry-after": "1" }),
    json(200, { data: {} }),
  );
  const began = performance.now();
  expect(await new Client({ server: url }).list("q")).toEqual(new Map());
  expect(performance.now() - began).toBeGreaterThan(950);
});

test("an answer that does not come in time is an error that may be repeated", async () => {
  const { url } = await scripted(never);
  const error = await thrown(new Client({ server: url, timeoutMs: 60, retries: 0 }).list("q"));
  expect(error).toMatchObject({ code: "unreachable", isTemporary: true });
  expect(error.text).toContain("0.06 s");
});

test("an abort ends a request, a pause and a stream, with the reason as it is", async () => {
  const reason = new Error("the page was left");
  for (const answer of [never, json(503, {}, { "retry-after": "20" })]) {
    const { url } = await scripted(answer);
    const stop = new AbortController();
    setTimeout(() => stop.abort(reason), 50);
    await expect(new Client({ server: url }).list("q", { signal: stop.signal })).rejects.toBe(reason);
  }
  for (const answer of [never, broken, streamed(event("state", "0-0-0", { state: "Queued" }))]) {
    const { url } = await scripted(answer);
    const stop = new AbortController();
    setTimeout(() => stop.abort(reason), 50);
    await expect(drained(new Client({ server: url }).stream("q", "ab", { signal: stop.signal }))).rejects.toBe(reason);
  }
});

test("a signal that has ended already sends nothing", async () => {
  const { url, asked } = await scripted(submitted);
  const signal = AbortSignal.abort();
  await expect(new Client({ server: url }).submit("q", { image: "a" }, { signal })).rejects.toBe(signal.reason);
  expect(asked).toEqual([]);
});

// --- what is sent ----------------------------------------------------------------------------------------------------

test("a submit sends what was given, and nothing that was not", async () => {
  const { url, bodies } = await scripted(submitted);
  const client = new Client({ server: `${url}/` });
  await client.submit("q", { image: "a" }, { namespace: "n", control: { callbacks: {} }, debug: false, id: "" });
  await client.submit("q", { image: "a" }, { debug: true, id: "ab" });
  expect(bodies.map((body) => JSON.parse(body))).toEqual([
    { definition: { image: "a" }, control: { callbacks: {}, namespace: "n" } },
    { definition: { image: "a" }, id: "ab", debug: true },
  ]);
});

test("names are encoded once, slashes of file names stay", () => {
  const client = new Client({ server: "https://x.example/base/" });
  expect(client.outputUrl("a~b", "ab", "plots/50% #1?.png")).toBe(
    "https://x.example/base/q/a~b/j/ab/outputs/plots/50%25%20%231%3F.png",
  );
  expect(new Client({ server: "", fetch }).inputUrl("q", "ab", "/etc/x")).toBe("/q/q/j/ab/inputs//etc/x");
});

test("credentials are not sent", async () => {
  const seen: RequestInit[] = [];
  const stub = (async (_: unknown, init: RequestInit) => {
    seen.push(init);
    return new Response('{"data":{}}');
  }) as typeof fetch;
  await new Client({ server: "", fetch: stub }).list("q");
  expect(seen[0]).toMatchObject({ credentials: "omit", method: "GET" });
});

test("an upload is skipped if the bytes are there, and repeated if the connection breaks", async () => {
  const hash = sha256("hello");
  const there = await scripted(json(200, { exists: true }));
  const ref = await new Client({ server: there.url }).upload("hello");
  expect(ref).toEqual({ type: "url", value: `${there.url}/f/${hash}`, hash });
  expect(there.asked).toEqual([`GET /f/${hash}/exists`]);
  const { url, asked, bodies } = await scripted(json(404, { exists: false }), broken, json(200, { success: true }));
  await new Client({ server: url }).upload(new Blob(["hello"]));
  expect(asked).toEqual([`GET /f/${hash}/exists`, `PUT /f/${hash}`, `PUT /f/${hash}`]);
  expect(bodies[2]).toBe("hello");
});

test("a large body goes where the server says", async () => {
  const other = await scripted(json(200, {}));
  const key = sha256(new Uint8Array(2 << 20));
  const { url, asked } = await scripted(
    json(404, { exists: false }),
    json(200, { url: `${other.url}/bucket/${key}`, size: 2 << 20, ref: {} }),
  );
  await new Client({ server: url }).upload(new Uint8Array(2 << 20));
  expect(asked).toEqual([`GET /f/${key}/exists`, `GET /upload/${key}?size=${2 << 20}`]);
  expect(other.asked).toEqual([`PUT /bucket/${key}`]);
  expect(other.bodies[0]).toHaveLength(2 << 20);
});

/** What a browser has; the page's own is tried in a browser. */
class FakeUpload {
  static answers: ((sending: FakeUpload) => void)[] = [];
  static sent: unknown[] = [];
  upload: { onprogress: ((event: { loaded: number }) => void) | null } = { onprogress: null };
  onload: (() => void) | null = null;
  onerror: (() => void) | null = null;
  onabort: (() => void) | null = null;
  onloadend: (() => void) | null = null;
  status = 200;
  responseText = "";
  open(method: string, url: string): void {
    FakeUpload.sent.push([method, new URL(url).pathname]);
  }
  setRequestHeader(): void {}
  getResponseHeader(): null {
    return null;
  }
  abort(): void {
    this.onabort?.();
    this.onloadend?.();
  }
  send(): void {
    FakeUpload.answers.shift()?.(this);
  }
}

test("in a browser an upload tells how much is sent, is repeated, and stopped", async () => {
  vi.stubGlobal("XMLHttpRequest", FakeUpload);
  const key = sha256("hello");
  FakeUpload.answers = [
    (sending) => sending.onerror?.(),
    (sending) => {
      sending.upload.onprogress?.({ loaded: 2 });
      sending.onload?.();
    },
    (sending) => {
      sending.status = 507;
      sending.responseText = JSON.stringify({ error: "full", code: "storage_full" });
      sending.onload?.();
    },
    () => stop.abort(),
  ];
  const stop = new AbortController();
  const { url } = await scripted(json(404, { exists: false }));
  const client = new Client({ server: url });
  const told: number[][] = [];
  await client.upload("hello", { onProgress: (...sent) => told.push(sent) });
  expect(told).toEqual([
    [2, 5],
    [5, 5],
  ]);
  expect(await thrown(client.upload("hello", { onProgress: () => {} }))).toMatchObject({ code: "storage_full" });
  const stopped = client.upload("hello", { onProgress: () => {}, signal: stop.signal });
  await expect(stopped).rejects.toMatchObject({ name: "AbortError" });
  expect(FakeUpload.sent).toEqual(Array.from({ length: 4 }, () => ["PUT", `/f/${key}`]));
});

// --- streams ---------------------------------------------------------------------------------------------------------

function event(kind: string, id: string, data: unknown): string {
  return `event: ${kind}\n${id ? `id: ${id}\n` : ""}data: ${JSON.stringify(data)}\n\n`;
}

/** Then the connection stays open, or breaks. */
function streamed(text: string, options: { breaks?: boolean; ends?: boolean } = {}): Answer {
  return (_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(text);
    if (options.ends) response.end();
    if (options.breaks) setTimeout(() => response.destroy(), 20);
  };
}

async function drained(stream: AsyncIterable<StreamEvent>): Promise<StreamEvent[]> {
  const found: StreamEvent[] = [];
  for await (const told of stream) found.push(told);
  return found;
}

const done = (id: string) =>
  event("final", id, { state: "Finished", reason: "Success", outcome: "succeeded", exitCode: 0 });
const lines = (...texts: string[]) => texts.map((text, index) => [text, 1000 + index]);
const final = { kind: "final", state: "Finished", reason: "Success", outcome: "succeeded", exitCode: 0 };

test("a stream that breaks goes on behind the last event, and tells no state twice", async () => {
  const headers: (string | undefined)[] = [];
  const remember =
    (answer: Answer): Answer =>
    (request, response, body) => {
      headers.push(request.headers["last-event-id"] as string | undefined);
      answer(request, response, body);
    };
  const running = { state: "Running", attempt: 1, worker: "w" };
  const first = event("state", "0-0-0", running) + event("run-log", "1-0-2", { lines: lines("a", "b"), cursor: 2 });
  const second = event("state", "1-0-2", running) + event("run-log", "1-0-3", { lines: lines("c"), cursor: 3 });
  const { url } = await scripted(
    remember(streamed(first, { breaks: true })),
    remember(broken),
    remember(streamed(second + done("1-0-3"))),
  );
  const events = await drained(new Client({ server: url }).stream("q", "ab"));
  expect(headers).toEqual([undefined, "1-0-2", "1-0-2"]);
  expect(events.filter((e) => e.kind !== "connection")).toEqual([
    { kind: "state", state: "Running", attempt: 1, worker: "w", ending: null },
    { kind: "log", half: "run", lines: lines("a", "b"), start: 0, attempt: 1 },
    { kind: "log", half: "run", lines: lines("c"), start: 2, attempt: 1 },
    final,
  ]);
  expect(events.flatMap((e) => (e.kind === "connection" ? [e.isOpen] : []))).toEqual([false, false, true]);
});

test("lines that are told again are dropped by their number", async () => {
  const first = event("run-log", "1-0-2", { lines: lines("a", "b"), cursor: 2 });
  const again = event("run-log", "1-0-2", { lines: lines("a", "b"), cursor: 2 });
  const more = event("run-log", "1-0-4", { lines: [...lines("a", "b"), ["c", 5], ["d", 6]], cursor: 4 });
  const { url } = await scripted(streamed(first, { ends: true }), streamed(again + more + done("1-0-4")));
  const events = await drained(new Client({ server: url }).stream("q", "ab"));
  expect(events.filter((e) => e.kind === "log")).toEqual([
    { kind: "log", half: "run", lines: lines("a", "b"), start: 0, attempt: 1 },
    {
      kind: "log",
      half: "run",
      lines: [
        ["c", 5],
        ["d", 6],
      ],
      start: 2,
      attempt: 1,
    },
  ]);
});

test("a new attempt starts both logs again", async () => {
  const text =
    event("build-log", "1-1-0", { lines: lines("pull"), cursor: 1 }) +
    event("run-log", "1-1-1", { lines: lines("a"), cursor: 1 }) +
    event("run-log", "2-0-1", { lines: lines("b"), cursor: 1 }) +
    done("2-0-1");
  const { url } = await scripted(streamed(text));
  expect(await drained(new Client({ server: url }).stream("q", "ab"))).toEqual([
    { kind: "log", half: "build", lines: lines("pull"), start: 0, attempt: 1 },
    { kind: "log", half: "run", lines: lines("a"), start: 0, attempt: 1 },
    { kind: "reset", attempt: 2 },
    { kind: "log", half: "run", lines: lines("b"), start: 0, attempt: 2 },
    final,
  ]);
});

test("a reader that comes back with an id is told of a new attempt too", async () => {
  const { url } = await scripted(streamed(event("run-log", "3-0-1", { lines: lines("x"), cursor: 1 }) + done("3-0-1")));
  const events = await drained(new Client({ server: url }).stream("q", "ab", { lastEventId: "2-4-9" }));
  expect(events.map((e) => e.kind)).toEqual(["reset", "log", "final"]);
});

test("the server's own limit on streams is no end", async () => {
  const limit = event("final", "1-0-0", { state: "Timeout", reason: "Stream max duration exceeded" });
  const { url, asked } = await scripted(streamed(limit), streamed(done("1-0-0")));
  expect(await drained(new Client({ server: url }).stream("q", "ab"))).toEqual([final]);
  expect(asked).toHaveLength(2);
});

test("a job that the queue does not know is an error", async () => {
  const { url } = await scripted(streamed(event("final", "0-0-0", { state: "Unknown", reason: "job not found" })));
  expect(await thrown(drained(new Client({ server: url }).stream("q", "ab")))).toMatchObject({ code: "job_not_found" });
});

test("a refusal ends a stream; patience does not", async () => {
  const { url, asked } = await scripted(json(503, {}), json(400, { error: "no", code: "bad_name" }));
  expect(await thrown(drained(new Client({ server: url }).stream("q", "ab")))).toMatchObject({ code: "bad_name" });
  expect(asked).toHaveLength(2);
});

test("a stream gives up when it is told to", async () => {
  const { url } = await scripted(broken);
  const stream = new Client({ server: url }).stream("q", "ab", { giveUpAfterMs: 200 });
  expect(await thrown(drained(stream))).toMatchObject({ code: "unreachable" });
});

test("events and members that are not known pass", async () => {
  const text = `${event("news", "1-0-0", { a: 1 })}event: state\ndata: {not json\n\n${event("state", "", [1])}${done("1-0-0")}`;
  const { url } = await scripted(streamed(text));
  const events = await drained(new Client({ server: url }).stream("q", "ab"));
  expect(events.at(-1)).toEqual(final);
});

test("leaving a stream closes the connection", async () => {
  let closed: () => void = () => {};
  const wasClosed = new Promise<void>((resolve) => {
    closed = resolve;
  });
  const { url } = await scripted((request, response) => {
    request.socket.on("close", closed);
    streamed(event("state", "0-0-0", { state: "Queued" }))(request, response, "");
  });
  for await (const _ of new Client({ server: url }).stream("q", "ab")) break;
  await wasClosed;
});
