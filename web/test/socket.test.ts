import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { JobRecord } from "../src/contract.ts";
import { QueueSocket, type QueueSocketOptions, socketUrl } from "../src/socket.ts";

/** A socket whose other end is the test. */
class FakeSocket {
  static made: FakeSocket[] = [];
  readyState = 0;
  sent: string[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: (() => void) | null = null;
  onerror: (() => void) | null = null;
  readonly url: string;

  constructor(url: string) {
    this.url = url;
    FakeSocket.made.push(this);
  }

  static get last(): FakeSocket {
    const found = FakeSocket.made.at(-1);
    if (!found) throw new Error("no socket was made");
    return found;
  }

  send(text: string): void {
    this.sent.push(text);
  }

  close(): void {
    this.readyState = 3;
  }

  opens(): this {
    this.readyState = 1;
    this.onopen?.();
    return this;
  }

  says(value: unknown): this {
    this.onmessage?.({ data: typeof value === "string" ? value : JSON.stringify(value) });
    return this;
  }

  breaks(): void {
    this.readyState = 3;
    this.onclose?.();
  }
}

const told: unknown[] = [];
const sockets: QueueSocket[] = [];

function opened(options: Partial<QueueSocketOptions> = {}): QueueSocket {
  const socket = new QueueSocket({
    url: "wss://x.example/q/q/client",
    WebSocket: FakeSocket as unknown as new (url: string) => WebSocket,
    network: null,
    onJobs: (jobs, isWhole, changed) => told.push(["jobs", Object.fromEntries(jobs), isWhole, [...changed.keys()]]),
    onWorkers: (workers) => told.push(["workers", workers]),
    onLogs: (lines) => told.push(["logs", lines]),
    onConnection: (state, retryInMs) => told.push(retryInMs === null ? state : [state, retryInMs]),
    onError: (error) => told.push(["error", error]),
    ...options,
  });
  sockets.push(socket);
  return socket;
}

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(1);
});

afterEach(() => {
  for (const socket of sockets.splice(0)) socket.close();
  FakeSocket.made = [];
  told.length = 0;
  vi.useRealTimers();
  vi.restoreAllMocks();
});

const job = (state: string) => ({ state, time: 1 }) as unknown as JobRecord;
const jobs = (type: string, map: Record<string, unknown>, isSubset = type !== "JobStates") => ({
  type,
  payload: { state: { jobs: map }, isSubset },
});

test("the whole list replaces what was known, updates are merged into it", () => {
  opened();
  FakeSocket.last
    .opens()
    .says(jobs("JobStates", { a: job("Queued"), b: job("Queued") }))
    .says(jobs("JobStateUpdates", { a: job("Running") }))
    .says(jobs("JobStateUpdates", {}))
    .says(jobs("JobStates", { b: job("Queued") }));
  expect(told).toEqual([
    "connecting",
    "connected",
    ["jobs", { a: job("Queued"), b: job("Queued") }, true, ["a", "b"]],
    ["jobs", { a: job("Running"), b: job("Queued") }, false, ["a"]],
    ["jobs", { a: job("Running"), b: job("Queued") }, false, []],
    ["jobs", { b: job("Queued") }, true, ["b"]],
  ]);
});

test("maps that were handed out do not change afterwards", () => {
  const maps: ReadonlyMap<string, JobRecord>[] = [];
  opened({ onJobs: (map) => maps.push(map) });
  FakeSocket.last
    .opens()
    .says(jobs("JobStates", { a: job("Queued") }))
    .says(jobs("JobStates", {}));
  expect(maps.map((map) => map.size)).toEqual([1, 0]);
});

test("workers, lines and refusals are handed on; what is not understood passes", () => {
  opened();
  const lines = { jobId: "a", step: "Running", logs: [["x", 1]] };
  const error = { code: "bad_message", error: "no", hint: "", ref: "a" };
  told.length = 0;
  FakeSocket.last.opens();
  for (const frame of [
    "PONG",
    "{broken",
    "[]",
    "null",
    { type: "Workers" },
    { type: "Workers", payload: { workers: 1 } },
  ]) {
    FakeSocket.last.says(frame);
  }
  for (const frame of [
    { type: "JobStates", payload: {} },
    { type: "News", payload: {} },
    { type: "JobStates", payload: null },
  ]) {
    FakeSocket.last.says(frame);
  }
  FakeSocket.last.says({ type: "Workers", payload: { workers: [{ id: "w" }] } });
  FakeSocket.last.says({ type: "JobStatusPayload", payload: lines }).says({ type: "Error", payload: error });
  expect(told).toEqual(["connected", ["workers", [{ id: "w" }]], ["logs", lines], ["error", error]]);
});

test("it pings at once and every five seconds after a sign of life", () => {
  opened();
  const socket = FakeSocket.last.opens();
  expect(socket.sent).toEqual(["PING"]);
  socket.says("PONG");
  vi.advanceTimersByTime(4_999);
  expect(socket.sent).toHaveLength(1);
  vi.advanceTimersByTime(1);
  expect(socket.sent).toHaveLength(2);
  vi.advanceTimersByTime(9_000);
  socket.says({ type: "Workers", payload: { workers: [] } }); // anything is a sign of life
  vi.advanceTimersByTime(5_000);
  expect(socket.sent).toHaveLength(3);
  expect(FakeSocket.made).toHaveLength(1);
});

test("a server that never answers the first ping is left, and tried again", () => {
  opened();
  const socket = FakeSocket.last.opens();
  vi.advanceTimersByTime(10_000);
  expect(socket.readyState).toBe(3);
  expect(told.at(-1)).toEqual(["reconnecting", 500]);
  vi.advanceTimersByTime(500);
  expect(FakeSocket.made).toHaveLength(2);
});

test("a connection that does not open is given up", () => {
  opened();
  vi.advanceTimersByTime(15_000);
  expect(FakeSocket.last.readyState).toBe(3);
  expect(told.at(-1)).toEqual(["reconnecting", 500]);
});

test("pauses grow to ten seconds, differ, and start small again after a sign of life", () => {
  opened();
  const pauses: unknown[] = [];
  for (let i = 0; i < 7; i += 1) {
    FakeSocket.last.breaks();
    pauses.push((told.at(-1) as [string, number])[1]);
    vi.advanceTimersByTime(10_000);
  }
  expect(pauses).toEqual([500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
  vi.mocked(Math.random).mockReturnValue(0);
  FakeSocket.last.breaks();
  expect(told.at(-1)).toEqual(["reconnecting", 5000]);
  vi.advanceTimersByTime(5000);
  FakeSocket.last.opens().says("PONG").breaks();
  expect(told.at(-1)).toEqual(["reconnecting", 250]);
});

test("a connection that opens and breaks at once does not start small again", () => {
  opened();
  for (let i = 0; i < 3; i += 1) {
    FakeSocket.last.opens().breaks();
    vi.advanceTimersByTime(10_000);
  }
  FakeSocket.last.breaks();
  expect(told.at(-1)).toEqual(["reconnecting", 4000]);
});

test("offline is told, tried all the same, and ended at once by online", () => {
  const network = new EventTarget();
  opened({ network });
  FakeSocket.last.opens().says("PONG");
  network.dispatchEvent(new Event("offline"));
  expect(told.at(-1)).toEqual(["offline", 500]);
  vi.advanceTimersByTime(500);
  FakeSocket.last.breaks();
  expect(told.at(-1)).toEqual(["offline", 1000]);
  const before = FakeSocket.made.length;
  network.dispatchEvent(new Event("online"));
  expect(FakeSocket.made).toHaveLength(before + 1);
  FakeSocket.last.opens();
  expect(told.at(-1)).toBe("connected");
  network.dispatchEvent(new Event("online"));
  expect(FakeSocket.made).toHaveLength(before + 1);
});

test("a server on this machine needs no network", () => {
  const network = new EventTarget();
  opened({ network, url: "ws://localhost:8000/q/local/client" });
  FakeSocket.last.opens();
  network.dispatchEvent(new Event("offline"));
  expect(told.at(-1)).toBe("connected");
});

test("frames are sent while it is connected, and the sender learns when not", () => {
  const socket = opened();
  const query = { type: "QueryJob", payload: { jobId: "a" } } as const;
  expect(socket.send(query)).toBe(false);
  FakeSocket.last.opens();
  expect(socket.send(query)).toBe(true);
  expect(FakeSocket.last.sent.at(-1)).toBe(JSON.stringify(query));
});

test("after close nothing is told and nothing tried", () => {
  const network = new EventTarget();
  const socket = opened({ network });
  const fake = FakeSocket.last.opens();
  const { onmessage } = fake;
  socket.close();
  told.length = 0;
  onmessage?.({ data: JSON.stringify(jobs("JobStates", {})) });
  fake.breaks();
  network.dispatchEvent(new Event("online"));
  vi.advanceTimersByTime(60_000);
  expect(told).toEqual([]);
  expect(FakeSocket.made).toHaveLength(1);
});

test("a late word of an older connection is not heard", () => {
  opened();
  const { onmessage } = FakeSocket.last.opens();
  FakeSocket.last.breaks();
  vi.advanceTimersByTime(500);
  told.length = 0;
  onmessage?.({ data: JSON.stringify(jobs("JobStates", {})) });
  expect(told).toEqual([]);
});

test("an address that is none is the caller's error", () => {
  const Refusing = class {
    constructor() {
      throw new DOMException("no", "SyntaxError");
    }
  };
  expect(() => opened({ WebSocket: Refusing as unknown as new (url: string) => WebSocket })).toThrow("no");
});

test.each([
  ["https://x.example", "q", "wss://x.example/q/q/client"],
  ["http://localhost:8000", "a~b.c", "ws://localhost:8000/q/a~b.c/client"],
  ["https://x.example/base", "a b", "wss://x.example/base/q/a%20b/client"],
])("the socket of %s and %s is %s", (server, queue, url) => {
  expect(socketUrl(server, queue)).toBe(url);
});
