import { describe, expect, test } from "vitest";
import type { Why, WorkerFit } from "../../src/contract.ts";
import { shortId, showBytes, whyWords } from "../../src/ui/parts/why-words.ts";

const GiB = 1 << 30;

interface Has {
  [rule: string]: [asked: string, has: string, freeNow?: string];
}

/** A worker as the server holds it against a job: what was asked, what it has, what of it is free. */
function worker(id: string, has: Has, free = false): WorkerFit {
  const rules = Object.entries(has).map(([rule, [asked, all, freeNow = all]]) => {
    const passed =
      rule === "tags"
        ? asked.split(",").every((tag) => tag === "-" || all.split(",").includes(tag))
        : all === "-" || asked === "-" || Number(asked) <= Number(all);
    return { rule, passed, asked, has: all, freeNow };
  });
  return { id, fits: rules.every((rule) => rule.passed), free, rules };
}

function why(workers: WorkerFit[], change: Partial<Why> = {}): Why {
  return {
    jobId: "ab",
    state: "Queued",
    position: 0,
    queuedTime: 0,
    waitedSeconds: 1,
    attempt: 0,
    workers,
    reason: "",
    ...change,
  };
}

describe("the reason", () => {
  const one: Has = { cpus: ["1.0", "4.0", "0.0"] };
  const cases: [string, WorkerFit[], string, boolean][] = [
    ["nobody is there", [], "No worker is connected to this queue.", true],
    ["one does not fit", [worker("a", { gpus: ["2", "1"] })], "The worker of this queue does not fit.", true],
    [
      "neither fits",
      [worker("a", { gpus: ["2", "1"] }), worker("b", { gpus: ["2", "0"] })],
      "Neither of the 2 workers fits this job.",
      true,
    ],
    [
      "none of three fits",
      ["a", "b", "c"].map((id) => worker(id, { gpus: ["2", "1"] })),
      "None of the 3 workers fits this job.",
      true,
    ],
    ["one is busy", [worker("a", one)], "The worker a is busy.", true],
    [
      "the only one that fits is busy",
      [worker("a", one), worker("b", { cpus: ["1.0", "0.5"] })],
      "The only worker that fits, a, is busy.",
      true,
    ],
    ["both are busy", [worker("a", one), worker("b", one)], "Both workers are busy.", true],
    [
      "all that fit are busy",
      [worker("a", one), worker("b", one), worker("c", one), worker("d", { cpus: ["1.0", "0.5"] })],
      "All 3 workers that fit are busy.",
      true,
    ],
    [
      "one has room",
      [worker("a", one), worker("b", one, true)],
      "A worker has room for it: it starts in a moment.",
      false,
    ],
  ];
  test.each(cases)("%s", (_, workers, reason, wantsWorker) => {
    expect(whyWords(why(workers), 1)).toMatchObject({ reason, wantsWorker });
  });
});

describe("what nobody has", () => {
  const cases: [string, Has[], string[]][] = [
    ["a GPU", [{ gpus: ["1", "0"] }, { gpus: ["1", "0"] }], ["It asks for 1 GPU; no worker has one."]],
    ["two GPUs", [{ gpus: ["2", "1"] }, { gpus: ["2", "0"] }], ["It asks for 2 GPUs; the largest has 1."]],
    ["cores, of one worker", [{ cpus: ["4.5", "2.0"] }], ["It asks for 4.5 CPUs; the worker has 2."]],
    [
      "memory",
      [{ memory: [`${8 * GiB}`, `${1.5 * GiB}`] }, { memory: [`${8 * GiB}`, `${GiB}`] }],
      ["It asks for 8 GiB of memory; the largest has 1.5 GiB."],
    ],
    [
      "time",
      [{ duration: ["7200.0", "600.0"] }, { duration: ["7200.0", "3600.0"] }],
      ["It may run for 2 h 00 min; no worker takes more than 1 h 00 min."],
    ],
    [
      "time, of one worker",
      [{ duration: ["7200.0", "600.0"] }],
      ["It may run for 2 h 00 min; the worker takes jobs of at most 10 min 00 s."],
    ],
    [
      "a tag",
      [{ tags: ["gpu,lab", "gpu"] }, { tags: ["gpu,lab", "-"] }],
      ["It wants a worker with the tags gpu and lab; no worker has lab."],
    ],
    [
      "a tag, of one worker",
      [{ tags: ["lab", "-"] }],
      ["It wants a worker with the tag lab; the worker does not have lab."],
    ],
    [
      "tags that are spread over workers",
      [{ tags: ["gpu,lab", "gpu"] }, { tags: ["gpu,lab", "lab"] }],
      ["It wants a worker with the tags gpu and lab; no worker has all of gpu and lab."],
    ],
    [
      "two things",
      [{ cpus: ["8.0", "4.0"], gpus: ["1", "0"] }],
      ["It asks for 8 CPUs; the worker has 4.", "It asks for 1 GPU; the worker has none."],
    ],
    [
      "rules that are met one by one",
      [
        { cpus: ["8.0", "8.0"], gpus: ["1", "0"] },
        { cpus: ["8.0", "4.0"], gpus: ["1", "1"] },
      ],
      ["Each rule is met by some worker, but no worker meets all of them."],
    ],
    ["a rule of a newer server", [{ licences: ["3", "1"] }], ["It asks for 3 licences; the worker has 1."]],
  ];
  test.each(cases)("%s", (_, has, missing) => {
    expect(whyWords(why(has.map((each, at) => worker(`w${at}`, each))), 1).missing).toEqual(missing);
  });
});

describe("each worker", () => {
  const cases: [string, WorkerFit, string][] = [
    ["too small", worker("a", { cpus: ["4.0", "2.0"], gpus: ["1", "0"] }), "has 2 CPUs, has no GPUs"],
    ["too short", worker("a", { duration: ["7200.0", "600.0"] }), "takes jobs of at most 10 min 00 s"],
    ["without a tag", worker("a", { tags: ["gpu,lab", "gpu"] }), "has not the tag lab"],
    ["full", worker("a", { cpus: ["1.0", "4.0", "0.0"] }), "busy: no CPUs free"],
    ["nearly full", worker("a", { cpus: ["2.0", "4.0", "1.0"] }), "busy: 1 CPU free"],
    ["overcommitted", worker("a", { cpus: ["2.0", "4.0", "-3.0"] }), "busy: no CPUs free"],
    ["draining", worker("a", { cpus: ["1.0", "4.0", "4.0"] }), "busy: takes no more jobs now"],
    ["free", worker("a", { cpus: ["1.0", "4.0"] }, true), "has room for it"],
  ];
  test.each(cases)("%s", (_, fit, text) => {
    expect(whyWords(why([fit]), 1).workers).toEqual([{ id: "a", isFitting: fit.fits, text }]);
  });
});

describe("the place", () => {
  const cases: [position: number | null, queued: number, place: string][] = [
    [null, 5, ""],
    [0, 1, ""],
    [0, 5, "Next of 5 that wait."],
    [3, 9, "Number 4 of 9 that wait."],
    [3, 0, "Number 4 of 4 that wait."], // the list has not come yet
    [1_000, 4_000, "At least 1000 jobs are before it."],
  ];
  test.each(cases)("%s of %s", (position, queued, place) => {
    expect(whyWords(why([], { position }), queued).place).toBe(place);
  });
});

test("a job that was tried before says so first", () => {
  expect(whyWords(why([], { attempt: 2 }), 1).advice[0]).toBe(
    "2 attempts ended early: the worker went away or gave it back. It is tried again.",
  );
  expect(whyWords(why([]), 1).advice).toHaveLength(1);
});

test.each([
  [0, "0 bytes"],
  [512, "512 bytes"],
  [1_024, "1 KiB"],
  [1_536, "1.5 KiB"],
  [512 << 20, "512 MiB"],
  [2.5 * 1_024 ** 4, "2.5 TiB"],
  [5_000 * 1_024 ** 4, "5000 TiB"],
])("%d bytes", (bytes, text) => {
  expect(showBytes(bytes)).toBe(text);
});

test("an id is shortened only where it saves something", () => {
  expect(shortId("worker-a1b2c3")).toBe("worker-a1b2c3");
  expect(shortId("0123456789abcdef-0123")).toBe("0123456789abcdef…");
});
