import { signal } from "@preact/signals";
import { describe, expect, test } from "vitest";
import type { JobRecord, Why, WorkerRecord } from "../../src/contract.ts";
import type { Assembled, Job } from "../../src/ui/model.ts";
import { fits, needsHere, needsOf, stuckJobs, workerOptions } from "../../src/ui/parts/needs.ts";
import { record } from "../support/fake-session.ts";

const GiB = 1 << 30;
const large = needsOf({ requirements: { cpus: 4, gpus: 2, memory: "64g" }, maxDuration: "20m", tags: ["b", "a", "b"] });

describe("the options of a worker that fits", () => {
  test.each([
    ["a job that asks for nothing", {}, []],
    ["what a worker has anyhow", { requirements: { cpus: 1, gpus: 0 }, maxDuration: "5m", tags: [] }, []],
    ["true for one GPU", { requirements: { gpus: true } }, ["--gpus", "1"]],
    ["half a core", { requirements: { cpus: 0.5 } }, []],
    ["a core and a half", { requirements: { cpus: 1.5 } }, ["--cpus", "1.5"]],
    ["memory in words", { requirements: { memory: "1.5 GiB" } }, ["--memory", "1.5GiB"]],
    ["memory in bytes", { requirements: { memory: 1_000_000_000 } }, ["--memory", "1000000000"]],
    [
      "the shorter of two times",
      { maxDuration: "2h", requirements: { maxDuration: "1h30" } },
      ["--max-job-duration", "1h30m"],
    ],
    ["milliseconds", { maxDuration: 301_500 }, ["--max-job-duration", "302s"]],
    ["tags", { tags: ["b", "a", "b"] }, ["--tags", "a,b"]],
  ])("%s", (_, job, options) => {
    expect(workerOptions(needsOf(job))).toEqual(options);
  });

  test("all at once", () => {
    expect(workerOptions(large).join(" ")).toBe("--cpus 4 --memory 64g --gpus 2 --max-job-duration 20m --tags a,b");
  });
});

test.each([
  ["512", 512],
  ["64m", 64 << 20],
  ["1.5GiB", 1.5 * GiB],
  ["2 GB", 2 * GiB],
  [1_024, 1_024],
  [undefined, 0],
  ["much", 0],
])("memory %j in bytes", (memory, bytes) => {
  expect(needsOf({ requirements: { memory } }).memoryBytes).toBe(bytes);
});

describe("a worker fits", () => {
  const worker: WorkerRecord = {
    id: "w",
    capacity: { cpus: 4, gpus: [{}, {}], memory_bytes: 64 * GiB, tags: ["a", "b", "c"], max_duration_s: 1_200 },
  };
  const lacking: [string, WorkerRecord["capacity"]][] = [
    ["cores", { cpus: 3 }],
    ["memory", { memory_bytes: 64 * GiB - 1 }],
    ["GPUs", { gpus: 1 }],
    ["time", { max_duration_s: 1_199 }],
    ["a tag", { tags: ["a"] }],
  ];
  test("if it has all", () => expect(fits(large, worker)).toBe(true));
  test.each(lacking)("not without %s", (_, less) => {
    expect(fits(large, { ...worker, capacity: { ...worker.capacity, ...less } })).toBe(false);
  });
  test("as older ones say it: one core, no limit of memory", () => {
    expect(fits(needsOf({ requirements: { memory: "1t" } }), { id: "old" })).toBe(true);
    expect(fits(needsOf({ maxDuration: "2h" }), { id: "old", cpus: 2, maxJobDuration: "1h" })).toBe(false);
    expect(fits(needsOf({ requirements: { gpus: 1 } }), { id: "old", gpus: 1 })).toBe(true);
  });
});

describe("the job that the page is about", () => {
  const own = { jobId: "a", definition: { image: "x", tags: ["own"], maxDuration: "1h" } } as unknown as Assembled;
  const shown = (jobId: string, change: Partial<JobRecord> = {}) => ({ jobId, record: record(change) }) as Job;
  const why = (asked: string) =>
    ({ jobId: "b", workers: [{ rules: [{ rule: "duration", asked }] }] }) as unknown as Why;
  const here = (job: Job | null, answer: Why | null = null) =>
    workerOptions(needsHere({ job: signal(job), assembled: signal(own), why: signal(answer) })).join(" ");
  test("is the link's", () => {
    expect(here(null)).toBe("--max-job-duration 1h --tags own");
    expect(here(shown("a"))).toBe("--max-job-duration 1h --tags own");
  });
  test("is another one that is shown: of it the listing tells most, the server's answer the rest", () => {
    const other = shown("b", { tags: ["other"], requirements: { gpus: 1 } });
    expect(here(other)).toBe("--gpus 1 --tags other");
    expect(here(other, why("-"))).toBe("--gpus 1 --tags other");
    expect(here(other, why("1800.0"))).toBe("--gpus 1 --max-job-duration 30m --tags other");
  });
});

test("jobs are stuck that no worker would take", () => {
  const jobs = new Map([
    ["fits", record()],
    ["tag", record({ tags: ["a100"] })],
    ["gpu", record({ requirements: { gpus: 1 } })],
    ["runs", record({ state: "Running", tags: ["a100"] })],
  ]);
  const workers: WorkerRecord[] = [{ id: "w" }, { id: "g", capacity: { gpus: 1 } }];
  expect(stuckJobs(jobs, workers)).toBe(1);
  const refused = { jobId: "fits", workers: [{ fits: false }] } as unknown as Why;
  expect(stuckJobs(jobs, workers, refused)).toBe(2); // a listing does not tell all that a job asks for
});
