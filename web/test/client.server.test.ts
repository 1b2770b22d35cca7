/** The client against a real server and a worker that does as told. */

import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { WebSocket as NodeWebSocket } from "ws";
import { Client } from "../src/client.ts";
import { LIMITS, STATES } from "../src/contract.gen.ts";
import type { Definition, JobRecord, LogLine, StreamEvent, WorkerRecord } from "../src/contract.ts";
import { JobEnded } from "../src/errors.ts";
import { jobId, verbatimId } from "../src/identity.ts";
import { sha256 } from "../src/sha256.ts";
import { QueueSocket, socketUrl } from "../src/socket.ts";
import { type Container, missing, ScriptedWorker, Served } from "./support/asman.ts";

const reason = missing();

const texts = (lines: LogLine[]) => lines.map((line) => line[0]);

async function until<T>(look: () => T | undefined | null | false, what: string): Promise<T> {
  const deadline = Date.now() + 15_000;
  for (;;) {
    const found = look();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`${what} did not happen within 15 s`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

let counter = 0;
function queueName(): string {
  counter += 1;
  return `q${counter}`;
}

describe.skipIf(reason)(`with a server${reason && ` (${reason})`}`, { timeout: 60_000 }, () => {
  const server = new Served("--backend", "memory");
  const workers: ScriptedWorker[] = [];
  let client: Client;

  beforeAll(async () => {
    await server.start();
    client = new Client({ server: server.url });
  }, 60_000);

  afterAll(async () => {
    for (const worker of workers) worker.close();
    await server.end();
  });

  async function working(queue: string, at = server.url): Promise<ScriptedWorker> {
    const worker = new ScriptedWorker(at, queue);
    workers.push(worker);
    return worker.connect();
  }

  test("a job runs to its end: submit, stream, wait, result, outputs", async () => {
    const queue = queueName();
    const definition = { image: "alpine", command: "echo hi", env: {} };
    const submitted = await client.submit(queue, definition, { namespace: "n" });
    expect(submitted).toMatchObject({
      isCached: false,
      state: "Queued",
      warnings: [],
      durability: "memory",
      record: null,
    });
    expect(submitted.jobId).toBe(await jobId(definition));
    const events: StreamEvent[] = [];
    const streaming = (async () => {
      for await (const event of client.stream(queue, submitted.jobId)) events.push(event);
    })();
    const waiting = client.wait(queue, submitted.jobId);
    await until(() => events.length, "the first event");
    const worker = await working(queue);
    const container = await worker.next();
    expect(container.assigned.definition).toEqual(definition);
    container.say("pulling\n", { step: "docker image pull" });
    container.say("hi\n");
    container.say("oh h\u00e9llo \u{1f600}\n", { isStderr: true });
    const large = randomBytes(300);
    const ref = await client.upload(large);
    const outputs = {
      "b/a.txt": { type: "utf8", value: "h\u00e9" },
      "a.bin": { type: "base64", value: "AAEC" },
      "z.dat": ref,
    };
    container.end({ StatusCode: 3, outputs }, { reason: "Success", outcome: "failed" });
    await streaming;
    const result = await waiting;
    expect(result).toMatchObject({ state: "Finished", outcome: "failed", exitCode: 3, worker: "scripted", attempt: 1 });
    expect(result.finished.result?.StatusCode).toBe(3);
    expect(await client.result(queue, submitted.jobId)).toEqual(result);
    expect(events.filter((e) => e.kind === "state").map((e) => e.state)).toEqual(["Queued", "Running", "Finished"]);
    const logs = events.filter((e) => e.kind === "log");
    expect(texts(logs.filter((e) => e.half === "build").flatMap((e) => e.lines))).toEqual(["pulling\n"]);
    expect(logs.filter((e) => e.half === "run").flatMap((e) => e.lines)).toMatchObject([
      ["hi\n", expect.any(Number)],
      ["oh h\u00e9llo \u{1f600}\n", expect.any(Number), true],
    ]);
    expect(events.at(-1)).toMatchObject({ kind: "final", reason: "Success", outcome: "failed", exitCode: 3 });
    const found = await client.outputs(queue, submitted.jobId);
    expect(found.map(({ name, size }) => [name, size])).toEqual([
      ["a.bin", 3],
      ["b/a.txt", 3],
      ["z.dat", 300],
    ]);
    const bytes = await Promise.all(found.map(async (o) => (await client.fetchFile(o.url)).arrayBuffer()));
    expect(bytes.map((b) => Buffer.from(b))).toEqual([Buffer.from([0, 1, 2]), Buffer.from("h\u00e9"), large]);
    const page = await client.logs(queue, submitted.jobId, "run", { since: 1 });
    expect(page).toMatchObject({ start: 1, nextCursor: 2, isFinal: true, attempt: 1 });
    expect(await client.submit(queue, definition)).toMatchObject({ isCached: true, state: "Finished" });
    expect(await client.attempts(queue, submitted.jobId)).toMatchObject([{ attempt: 1, how: "reported" }]);
  });

  test("a submit can wait for the result", async () => {
    const queue = queueName();
    const worker = await working(queue);
    const answering = client.submit(queue, { image: "alpine", command: "quick" }, { wait: 20 });
    (await worker.next()).end({});
    const answer = await answering;
    expect(answer.record).toMatchObject({ state: "Finished", outcome: "succeeded" });
    expect(answer.result?.finished.result?.StatusCode).toBe(0);
  });

  test("a stated id by the older rule is kept, any other is refused", async () => {
    const queue = queueName();
    const definition = { image: "alpine", env: {}, x: 1 };
    const id = await verbatimId(definition);
    expect(id).not.toBe(await jobId(definition));
    const submitted = await client.submit(queue, definition, { id });
    expect(submitted.jobId).toBe(id);
    expect(submitted.warnings[0]).toContain("no effect");
    await expect(client.submit(queue, definition, { id: "0".repeat(64) })).rejects.toMatchObject({
      code: "id_mismatch",
      status: 422,
      hint: expect.stringContaining("Leave out the id"),
    });
  });

  test("our id is the server's, for odd definitions too", async () => {
    const odd: Definition = {
      image: "alpine",
      command: ["a", ""],
      env: { "mp-x": "1", channel: "c", B: "\u{1f600}\u0001\u2028", "\uffff": "1", "\u{1f600}": "2" },
      inputs: {
        "a/b": { type: "json", value: { b: [1.0, 1e21, -0, 1e-7], a: null } },
        u: { type: "url", value: "https://h/x", hash: "h" },
      },
      requirements: { cpus: 0.5, network: "none" },
      tags: [],
      unknown: true,
    };
    expect((await client.dryRun(queueName(), odd)).jobId).toBe(await jobId(odd));
  });

  test("lists, looks up, tells why, copies", async () => {
    const queue = queueName();
    const { jobId: id } = await client.submit(
      queue,
      { image: "alpine", command: "x", requirements: { gpus: 1 } },
      { namespace: "n" },
    );
    const listed = await client.list(queue);
    expect([...listed.keys()]).toEqual([id]);
    expect(listed.get(id)).toMatchObject({
      state: "Queued",
      namespaces: ["n"],
      requirements: { gpus: 1 },
      generation: 1,
    });
    expect(STATES).toContain(listed.get(id)?.state);
    expect(await client.why(queue, id)).toMatchObject({
      position: 0,
      workers: [],
      reason: expect.stringContaining("no worker"),
    });
    await working(queue);
    const why = await client.why(queue, id);
    expect(why.workers).toMatchObject([{ id: "scripted", fits: false, free: false }]);
    expect(why.workers[0]?.rules.find((rule) => !rule.passed)).toMatchObject({ rule: "gpus", asked: "1", has: "0" });
    expect(await client.job(queue, id)).toMatchObject({ definition: { image: "alpine" }, record: { state: "Queued" } });
    expect(await client.definition(id)).toMatchObject({ requirements: { gpus: 1 } });
    expect(await client.definition("0".repeat(64))).toBeNull();
    expect(await client.result(queue, id)).toBeNull();
    const other = queueName();
    expect(await client.copy(id, other)).toEqual({ jobId: id, isCached: false });
    expect([...(await client.list(other)).keys()]).toEqual([id]);
    expect(await client.scale(queue)).toMatchObject({ backlog: 1, workers: 1 });
    expect(await client.metrics(queue)).toContain("queue_length 1");
    expect(await client.status(queue)).toMatchObject({ queueInfo: { jobCount: 1, localWorkerCount: 1 } });
    expect(await client.dryRun(queue, { image: "alpine", command: "y" })).toMatchObject({
      wouldRun: true,
      fitting: ["scripted"],
    });
  });

  test("cancel ends a running job for its namespace; wait says how it ended", async () => {
    const queue = queueName();
    const worker = await working(queue);
    const { jobId: id } = await client.submit(queue, { image: "alpine", command: "long" }, { namespace: "n" });
    await worker.next();
    const waiting = client.wait(queue, id).catch((error: unknown) => error);
    expect(await client.cancel(queue, id)).toMatchObject({
      isCancelled: false,
      message: expect.stringContaining("does not hold"),
      namespaces: ["n"],
    });
    expect(await client.cancel(queue, id, { namespace: "n", message: "enough" })).toMatchObject({
      isCancelled: true,
      state: "Finished",
    });
    const ended = await waiting;
    expect(ended).toBeInstanceOf(JobEnded);
    expect((ended as JobEnded).ending).toMatchObject({ reason: "Cancelled", outcome: "cancelled", message: "enough" });
    await until(() => worker.revoked.includes(id), "the worker's order to stop");
    expect(await client.cancel(queue, id, { namespace: "n" })).toMatchObject({ isCancelled: false });
    expect(await client.cancel(queue, "0".repeat(64))).toMatchObject({ isCancelled: false, state: null });
    await expect(client.outputs(queue, id)).rejects.toMatchObject({ code: "not_finished" });
  });

  test("remove drops the result, and the same job runs again", async () => {
    const queue = queueName();
    const worker = await working(queue);
    const definition = { image: "alpine", command: "again" };
    const { jobId: id } = await client.submit(queue, definition);
    (await worker.next()).end({});
    await client.wait(queue, id);
    expect(await client.remove(queue, id)).toMatchObject({ namespaces: [] });
    expect(await client.result(queue, id)).toBeNull();
    await expect(client.remove(queue, id)).rejects.toMatchObject({ status: 404 });
    expect(await client.submit(queue, definition)).toMatchObject({ jobId: id, isCached: false, state: "Queued" });
    const second = await worker.next();
    expect(second.assigned.attempt).toBeGreaterThan(1);
    second.end({});
    expect((await client.wait(queue, id)).attempt).toBe(second.assigned.attempt);
  });

  test("errors of the server come out with code, hint and details", async () => {
    await expect(client.submit("q", { image: "a b", workdir: "rel" })).rejects.toMatchObject({
      name: "AsmanError",
      code: "bad_definition",
      status: 422,
      details: [{ loc: "definition.image" }, { loc: "definition.workdir" }],
      request: { method: "POST", url: `${server.url}/q/q` },
    });
    await expect(client.list("no name!")).rejects.toMatchObject({ code: "bad_name", status: 400 });
    await expect(client.job("q", "0".repeat(64))).rejects.toMatchObject({ code: "job_not_found", status: 404 });
    await expect(client.json("GET", "/q/q/nothing")).rejects.toMatchObject({ code: "route_not_found" });
    await expect(client.stream("q", "0".repeat(64)).next()).rejects.toMatchObject({ code: "job_not_found" });
    const tooLong = "x".repeat(LIMITS.private.command_bytes + 1);
    await expect(client.submit("q", { image: "a", command: tooLong })).rejects.toMatchObject({
      code: "limit_exceeded",
    });
  });

  test("uploads are stored once under the hash of their bytes, whatever they are", async () => {
    const data = randomBytes(3 << 20);
    const ref = await client.upload(new Blob([data]));
    expect(ref).toEqual({ type: "url", value: `${server.url}/f/${sha256(data)}`, hash: sha256(data) });
    expect(await client.hasBlob(sha256(data))).toBe(true);
    expect(Buffer.from(await (await client.fetchFile(String(ref.value))).arrayBuffer()).equals(data)).toBe(true);
    const part = await client.fetchFile(`/f/${sha256(data)}`, { range: "bytes=0-9" });
    expect(Buffer.from(await part.arrayBuffer())).toEqual(data.subarray(0, 10));
    expect(await client.upload("h\u00e9")).toEqual(await client.upload(new TextEncoder().encode("h\u00e9")));
    const sent: number[] = [];
    await client.upload(data, { onProgress: (done) => sent.push(done) });
    expect(sent).toEqual([3 << 20]);
  });

  test("the socket shows jobs, workers and lines as they come", async () => {
    const queue = queueName();
    const seen: { jobs: ReadonlyMap<string, JobRecord>; isWhole: boolean }[] = [];
    const lines: string[] = [];
    const states: string[] = [];
    let known: WorkerRecord[] = [];
    const socket = new QueueSocket({
      url: socketUrl(server.url, queue),
      WebSocket: NodeWebSocket as unknown as new (url: string) => WebSocket,
      onJobs: (jobs, isWhole) => seen.push({ jobs, isWhole }),
      onWorkers: (found) => {
        known = found;
      },
      onLogs: (frame) => lines.push(...texts(frame.logs)),
      onConnection: (state) => states.push(state),
    });
    try {
      await until(() => seen.length, "the list");
      expect(seen[0]).toEqual({ jobs: new Map(), isWhole: true });
      const worker = await working(queue);
      await until(() => known.length, "the worker");
      expect(known).toMatchObject([{ id: "scripted", cpus: 2, protocol: 2, capacity: { arch: "amd64" } }]);
      const { jobId: id } = await client.submit(queue, { image: "alpine", command: "shown" });
      const container = await worker.next();
      container.say("live\n");
      await until(() => lines.includes("live\n"), "the line");
      container.end({});
      await until(() => seen.at(-1)?.jobs.get(id)?.state === "Finished", "the end");
      expect(socket.send({ type: "QueryJob", payload: { jobId: id } })).toBe(true);
      expect(states).toEqual(["connecting", "connected"]);
    } finally {
      socket.close();
    }
  });

  test("a reader that comes back is told the rest, and only that", async () => {
    const queue = queueName();
    const worker = await working(queue);
    const { jobId: id } = await client.submit(queue, { image: "alpine", command: "twice" });
    const container = await worker.next();
    for (let i = 0; i < 5; i += 1) container.say(`${i}\n`);
    let page = await client.logs(queue, id, "run");
    while (page.nextCursor < 5) page = await client.logs(queue, id, "run");
    container.say("5\n");
    container.end({});
    await client.wait(queue, id);
    const told: string[] = [];
    for await (const event of client.stream(queue, id, { lastEventId: `${page.attempt}-0-5` })) {
      if (event.kind === "log") told.push(...texts(event.lines));
    }
    expect(told).toEqual(["5\n"]);
  });

  test("a server that is killed in mid-stream costs no line and tells none twice", async () => {
    const own = new Served("--backend", "sqlite");
    await own.start();
    const queue = queueName();
    const worker = await working(queue, own.url);
    try {
      const far = new Client({ server: own.url });
      const { jobId: id } = await far.submit(queue, { image: "alpine", command: "long" });
      const container: Container = await worker.next();
      const events: StreamEvent[] = [];
      const streaming = (async () => {
        for await (const event of far.stream(queue, id)) events.push(event);
      })();
      const heard = () => events.flatMap((event) => (event.kind === "log" ? texts(event.lines) : []));
      const wanted: string[] = [];
      for (let round = 0; round < 3; round += 1) {
        for (let i = 0; i < 50; i += 1) {
          wanted.push(`${round}-${i}\n`);
          container.say(`${round}-${i}\n`);
        }
        await until(() => heard().length === wanted.length, `round ${round}`);
        if (round === 2) break;
        await own.stop(round === 0 ? "SIGKILL" : "SIGTERM");
        await until(() => events.at(-1)?.kind === "connection", "the loss of the connection");
        await own.start();
        await worker.connected();
      }
      container.end({});
      await streaming;
      expect(heard()).toEqual(wanted);
      const starts = events.flatMap((event) =>
        event.kind === "log" ? [event.start, event.start + event.lines.length] : [],
      );
      expect(starts).toEqual([...starts].sort((a, b) => a - b));
      expect(events.filter((event) => event.kind === "reset")).toEqual([]);
      expect(events.at(-1)).toMatchObject({ kind: "final", outcome: "succeeded" });
    } finally {
      worker.close();
      await own.end();
    }
  });

  test("a lost worker's lines are followed by those of the next attempt, after a reset", async () => {
    const own = new Served("--backend", "memory", "--reconnect-grace", "0.3", "--lease", "2", "--renew", "1");
    await own.start();
    const queue = queueName();
    const first = await working(queue, own.url);
    try {
      const far = new Client({ server: own.url });
      const { jobId: id } = await far.submit(queue, { image: "alpine", command: "lost" });
      (await first.next()).say("of the first\n");
      const events: StreamEvent[] = [];
      const streaming = (async () => {
        for await (const event of far.stream(queue, id)) events.push(event);
      })();
      await until(() => events.some((event) => event.kind === "log"), "the first line");
      first.close();
      const second = new ScriptedWorker(own.url, queue, "second");
      workers.push(second);
      await second.connect();
      const container = await second.next();
      container.say("of the second\n");
      container.end({});
      await streaming;
      const told = events.flatMap((event): (string | number)[] =>
        event.kind === "log" ? texts(event.lines) : event.kind === "reset" ? [event.attempt] : [],
      );
      expect(told).toEqual(["of the first\n", 2, "of the second\n"]);
    } finally {
      await own.end();
    }
  });
});
