import { describe, expect, test } from "vitest";
import type { JobRecord, WorkerRecord } from "../../src/contract.ts";
import {
  endWords,
  healthOf,
  type JobFilter,
  jobRows,
  jobWords,
  lastedOf,
  namespacesOf,
  type What,
  whatOf,
  workerRows,
} from "../../src/ui/parts/queue-words.ts";
import { finished, NOW, record, running } from "../support/fake-session.ts";

const JOBS = new Map<string, JobRecord>([
  ["old-done", finished("succeeded", { time: NOW - 50_000 })],
  ["new-failed", finished("failed", { time: NOW - 10_000 })],
  ["queued-1", record({ queuedTime: NOW - 90_000, tags: ["lab"] })],
  ["queued-2", record({ queuedTime: NOW - 30_000, namespaces: ["_", "notebook-7"] })],
  ["running-1", running({ time: NOW - 60_000 })],
  ["running-2", running({ time: NOW - 5_000, worker: "worker-z" })],
  ["gone", finished("succeeded", { state: "Removed" })],
  ["stopped", finished("cancelled", { time: NOW - 99_000, message: "Stopped by Ada" })],
]);
const WHAT: Record<string, What> = {
  "queued-1": { image: "alpine:3.19.1", command: "echo hello" },
  "running-1": { image: "alpine:3.20", command: "sleep 9" },
};

function ids(filter: Partial<JobFilter> = {}): string[] {
  return jobRows(JOBS, { state: "all", text: "", ...filter }, (jobId) => WHAT[jobId] ?? null).map(({ jobId }) => jobId);
}

describe("jobs", () => {
  test("what runs comes first, then what waits, then what ended, each newest first", () => {
    expect(ids()).toEqual(["running-2", "running-1", "queued-2", "queued-1", "new-failed", "old-done", "stopped"]);
  });

  test.each<[Partial<JobFilter>, string[]]>([
    [{ state: "active" }, ["running-2", "running-1", "queued-2", "queued-1"]],
    [{ state: "queued" }, ["queued-2", "queued-1"]],
    [{ state: "running" }, ["running-2", "running-1"]],
    [{ state: "succeeded" }, ["old-done"]],
    [{ state: "failed" }, ["new-failed"]],
    [{ state: "stopped" }, ["stopped"]],
    [{ text: "ALPINE" }, ["running-1", "queued-1"]],
    [{ text: "alpine echo" }, ["queued-1"]],
    [{ text: "notebook" }, ["queued-2"]],
    [{ text: "worker-z" }, ["running-2"]],
    [{ text: "lab" }, ["queued-1"]],
    [{ text: "ada" }, ["stopped"]],
    [{ text: "exit 3" }, ["new-failed"]],
    [{ text: "alpine", state: "running" }, ["running-1"]],
    [{ text: "no such thing" }, []],
  ])("narrowed to %j", (filter, found) => {
    expect(ids(filter)).toEqual(found);
  });

  test("a record of an older server, without an outcome, is told by its reason and exit code", () => {
    const { outcome: _outcome, ...old } = finished("failed");
    expect(jobWords(old as JobRecord)).toMatchObject({ title: "Failed (exit 3)", tone: "warn" });
    expect(jobWords({ ...old, exitCode: 0 } as JobRecord)).toMatchObject({ title: "Done", tone: "good" });
  });

  test("each end has words, and one that is not known keeps its own", () => {
    expect(endWords("out_of_memory", 137).title).toBe("Out of memory");
    expect(endWords("failed", null).title).toBe("Failed");
    expect(endWords("evaporated", null).title).toBe("evaporated");
    expect(endWords(null, null).title).toBe("Finished");
  });

  test("time lasts while it waits or runs, and is the last attempt's after that", () => {
    expect(lastedOf(running({ time: NOW - 60_000 }), NOW)).toBe(60_000);
    expect(lastedOf(running({ time: NOW + 500 }), NOW)).toBe(0); // a clock that is behind
    const attempts = [
      { attempt: 1, worker: "a", start: NOW - 90_000, end: NOW - 60_000, how: "lost" },
      { attempt: 2, worker: "b", start: NOW - 50_000, end: NOW - 8_000, how: "reported" },
    ];
    expect(lastedOf(finished("succeeded", { attempts }), NOW)).toBe(42_000);
    expect(lastedOf(finished("worker_lost", { attempts: attempts.slice(0, 1) }), NOW)).toBeNull();
    expect(lastedOf(finished("succeeded"), NOW)).toBeNull();
  });

  test("the default namespace is not worth a word", () => {
    expect(namespacesOf(record())).toBe("");
    expect(namespacesOf(record({ namespaces: ["_", "a", "b"] }))).toBe("a, b");
  });

  test.each<[Parameters<typeof whatOf>[0], What]>([
    [
      { image: "alpine", command: 'echo "a b"' },
      { image: "alpine", command: 'echo "a b"' },
    ],
    [
      { image: "alpine", entrypoint: ["sh", "-c"], command: ["ls", "-la"] },
      { image: "alpine", command: "sh -c ls -la" },
    ],
    [
      { build: { context: "https://github.com/a/b" }, command: null },
      { image: "built from https://github.com/a/b", command: "" },
    ],
    [{ build: { dockerfile: "FROM alpine" } }, { image: "built from its own Dockerfile", command: "" }],
    [{}, { image: "no image", command: "" }],
  ])("%j in two texts", (definition, what) => {
    expect(whatOf(definition)).toEqual(what);
  });

  test("a long command is clipped", () => {
    expect(whatOf({ image: "a", command: "x".repeat(10_000) }).command).toHaveLength(201);
  });
});

describe("workers", () => {
  const GiB = 1 << 30;
  const WORKERS = [
    { id: "idle", cpus: 2, gpus: 0, maxJobDuration: "10m", time: NOW },
    {
      id: "worker-a1b2c3",
      version: "1.0.0",
      cpus: 8,
      capacity: { cpus: 8, memory_bytes: 16 * GiB, gpus: [{}, {}], tags: ["lab"], arch: "x86_64" },
    },
  ] as WorkerRecord[];

  test("what the jobs of the queue use of each, busiest first", () => {
    const jobs = new Map([
      ["a", running({ requirements: { cpus: 2, memory: "1.5g", gpus: 1 } })],
      ["b", running()],
      ["c", running({ requirements: { gpus: true } })],
      ["waits", record({ requirements: { cpus: 64 } })],
      ["elsewhere", running({ worker: "somebody" })],
    ]);
    const [busy, idle] = workerRows(WORKERS, jobs);
    expect(busy).toMatchObject({ id: "worker-a1b2c3", running: ["a", "b", "c"], version: "1.0.0", arch: "x86_64" });
    expect(busy?.shares.map(({ name, text }) => [name, text])).toEqual([
      ["CPUs", "4 of 8"],
      ["Memory", "1.5 GiB of 16 GiB"],
      ["GPUs", "2 of 2"],
    ]);
    expect(idle?.shares.map(({ name, text }) => [name, text])).toEqual([["CPUs", "0 of 2"]]);
    expect(idle).toMatchObject({ id: "idle", running: [], version: "", maxDuration: "10m", since: NOW });
  });

  test("a worker that says nothing of itself is shown all the same", () => {
    expect(workerRows([{ id: "mute" }], new Map())).toMatchObject([
      { id: "mute", shares: [{ name: "CPUs", total: null, text: "0 in use" }], since: null },
    ]);
  });
});

describe("the queue in one sentence", () => {
  const one = [{ id: "a" }] as WorkerRecord[];
  const two = [{ id: "worker-a1b2c3" }, { id: "b" }] as WorkerRecord[];
  const waits = (count: number) => Array.from({ length: count }, (_, at) => [`q${at}`, record()] as const);
  const asks = (count: number) =>
    Array.from({ length: count }, (_, at) => [`t${at}`, record({ tags: ["a100"] })] as const);
  const runs = (count: number) => Array.from({ length: count }, (_, at) => [`r${at}`, running()] as const);
  test.each<
    [readonly (readonly [string, JobRecord])[], WorkerRecord[], Parameters<typeof healthOf>[2], string, string]
  >([
    [[], [], "none", "plain", "No queue is chosen."],
    [[], [], "connecting", "plain", "Connecting to the queue…"],
    [[], [], "connected", "warn", "Jobs would wait: no worker is connected."],
    [waits(1), [], "connected", "warn", "1 job waits: no worker is connected."],
    [waits(3), [], "connected", "warn", "3 jobs wait: no worker is connected."],
    [[], one, "connected", "good", "Nothing waits; 1 worker, idle."],
    [[...runs(1)], two, "connected", "good", "1 job runs, none waits; 2 workers, 1 idle."],
    [[...runs(2), ...waits(3)], two, "connected", "good", "2 jobs run, 3 wait; 2 workers, 1 idle."],
    [waits(1), one, "connected", "warn", "Nothing runs, 1 waits; 1 worker, idle."],
    [[...runs(1), ...asks(1)], one, "connected", "warn", "1 job runs, 1 waits and fits no worker; 1 worker, idle."],
    [[...runs(1), ...asks(2)], one, "connected", "warn", "1 job runs, 2 wait and fit no worker; 1 worker, idle."],
    [
      [...runs(1), ...asks(1), ...waits(2)],
      two,
      "connected",
      "warn",
      "1 job runs, 3 wait, of which 1 fits no worker; 2 workers, 1 idle.",
    ],
    [
      waits(1),
      one,
      "reconnecting",
      "warn",
      "The connection is lost; this is what was known: nothing runs, 1 waits; 1 worker, idle.",
    ],
  ])("%#", (jobs, workers, connection, tone, text) => {
    expect(healthOf(new Map(jobs), workers, connection)).toEqual({ tone, text });
  });
});
