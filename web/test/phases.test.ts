import { describe, expect, it } from "vitest";
import type { Definition, JobRecord, LogLine, Result } from "../src/contract.ts";
import { Phases } from "../src/ui/phases.ts";

const RUNNING = {
  state: "Running",
  time: 1_000,
  queuedTime: 500,
  worker: "w",
  namespaces: ["_"],
  attempt: 1,
  generation: 1,
  expiresAt: 9e9,
} as JobRecord;
const OVER = {
  ...RUNNING,
  state: "Finished",
  time: 60_000,
  finishedReason: "Success",
  attempts: [{ attempt: 1, worker: "w", start: 1_000, end: 60_000, how: "reported" }],
} as JobRecord;
const PLAIN: Definition = { image: "alpine" };
const WITH_INPUTS: Definition = { image: "alpine", inputs: { a: { type: "url", value: "https://s/f/1" } } };
const BUILT: Definition = { build: { context: "https://git.example/x" } };

const resultOf = (duration: number, outputs = {}) =>
  ({ ...OVER, finished: { reason: "Success", result: { duration, outputs } } }) as unknown as Result;
const lines = (...told: [string, number][]): LogLine[] => told;

function show(phases: Phases, record: JobRecord, definition: Definition | null, result: Result | null = null): string {
  const steps = phases.steps(record, definition, result);
  return steps
    .map(
      ({ name, start, end, progress }) =>
        `${name} ${start}-${end ?? ""}${progress === null ? "" : ` ${Math.round(progress * 100)}%`}`,
    )
    .join(", ");
}

describe("steps", () => {
  it("are none before a worker has it", () => {
    expect(show(new Phases(), { ...RUNNING, state: "Queued" }, PLAIN)).toBe("");
    expect(show(new Phases(), { ...OVER, attempts: [] } as JobRecord, PLAIN)).toBe("");
  });

  it("follow the log: inputs, pull with progress, run", () => {
    const phases = new Phases();
    expect(show(phases, RUNNING, PLAIN)).toBe("run 1000-");
    expect(show(phases, RUNNING, WITH_INPUTS)).toBe("inputs 1000-");
    phases.lines(
      "build",
      lines(["0123456789ab: Pulling fs layer\n", 2_000], ["ba9876543210: Pulling fs layer\n", 2_100]),
      WITH_INPUTS,
    );
    expect(show(phases, RUNNING, WITH_INPUTS)).toBe("inputs 1000-2000, pull 2000- 0%");
    phases.lines("build", lines(["0123456789ab: Pull complete\n", 3_000]), WITH_INPUTS);
    expect(show(phases, RUNNING, WITH_INPUTS)).toBe("inputs 1000-2000, pull 2000- 50%");
    phases.lines(
      "build",
      lines(["ba9876543210: Pull complete\n", 3_500], ["Status: Downloaded newer image for alpine\n", 4_000]),
      WITH_INPUTS,
    );
    expect(show(phases, RUNNING, WITH_INPUTS)).toBe("inputs 1000-2000, pull 2000-4000 100%, run 4000-");
    phases.lines("run", lines(["hello\n", 5_000]), WITH_INPUTS);
    expect(show(phases, RUNNING, WITH_INPUTS)).toBe("inputs 1000-2000, pull 2000-4000 100%, run 5000-");
  });

  it("take their names from live frames, and from the text where the log was read later", () => {
    const told: [string, string, number][] = [
      ["cloning repo", "looking at https://git.example/x\n", 2_000],
      ["docker build", "Step 1/4 : FROM alpine\n", 3_000],
      ["docker build", "Step 3/4 : RUN make\n", 4_000],
      ["Running", "hi\n", 5_000],
    ];
    const live = new Phases();
    const later = new Phases();
    for (const [step, text, time] of told) {
      live.frame(step, lines([text, time]));
      later.lines(step === "Running" ? "run" : "build", lines([text, time]), BUILT);
    }
    const wanted = "clone 2000-3000, build 3000-4000 50%, run 5000-";
    expect(show(live, RUNNING, BUILT)).toBe(wanted);
    expect(show(later, RUNNING, BUILT)).toBe(wanted);
  });

  it("begin when the worker says so, though there is no line yet", () => {
    const phases = new Phases();
    phases.frame("fetching inputs", [], 1_010);
    expect(show(phases, RUNNING, WITH_INPUTS)).toBe("inputs 1000-");
    expect(show(phases, RUNNING, PLAIN)).toBe("start 1000-");
    phases.frame("starting", [], 2_000);
    expect(show(phases, RUNNING, WITH_INPUTS)).toBe("inputs 1000-2000, start 2000-");
    phases.frame("Running", [], 2_500);
    expect(show(phases, RUNNING, WITH_INPUTS)).toBe("inputs 1000-2000, start 2000-2500, run 2500-");
    phases.frame("Running", lines(["hi\n", 9_000]));
    expect(show(phases, RUNNING, WITH_INPUTS)).toBe("inputs 1000-2000, start 2000-2500, run 2500-");
    phases.frame("uploading outputs", [], 20_000);
    expect(show(phases, RUNNING, WITH_INPUTS)).toBe("inputs 1000-2000, start 2000-2500, run 2500-20000, upload 20000-");
    expect(show(phases, OVER, WITH_INPUTS, resultOf(17_400, { a: {} }))).toBe(
      "inputs 1000-2000, start 2000-2500, run 2500-19900, upload 20000-60000",
    );
  });

  it("are told by the result to who comes later; a start of a moment is none", () => {
    const result = resultOf(5_000, { a: {} });
    Object.assign(result.finished.result ?? {}, {
      steps: [
        ["fetching inputs", 1_010],
        ["starting", 3_000],
        ["Running", 3_050],
        ["uploading outputs", 8_100],
      ],
    });
    expect(show(new Phases(), OVER, WITH_INPUTS, result)).toBe("inputs 1000-3000, run 3050-8050, upload 8100-60000");
    expect(show(new Phases(), OVER, PLAIN, result)).toBe("run 3050-8050, upload 8100-60000");
  });

  it("end a pull where the container is being started, and tell where a job failed", () => {
    const phases = new Phases();
    phases.frame("fetching inputs", [], 1_010);
    phases.frame("docker image pull", lines(["0123456789ab: Pull complete\n", 2_000]));
    phases.frame("starting", [], 3_000);
    expect(show(phases, RUNNING, PLAIN)).toBe("pull 2000-3000 100%, start 3000-");
    expect(show(phases, OVER, PLAIN)).toBe("pull 2000-3000 100%, start 3000-60000");
  });

  it("of the attempt before do not count for the next", () => {
    const phases = new Phases();
    phases.frame("starting", [], 1_500);
    phases.frame("Running", [], 2_500);
    const again = { ...RUNNING, time: 30_000 };
    expect(show(phases, again, PLAIN)).toBe("run 30000-");
    phases.frame("starting", [], 30_100);
    phases.clearLines();
    expect(show(phases, again, PLAIN)).toBe("start 30100-");
  });

  it("of a finished job are reckoned from its result", () => {
    const phases = new Phases();
    phases.lines("build", lines(["0123456789ab: Pull complete\n", 2_000]), PLAIN);
    expect(show(phases, OVER, PLAIN, resultOf(50_000))).toBe("pull 2000-2000 100%, run 10000-60000");
    phases.lines("run", lines(["early\n", 5_000]), PLAIN);
    expect(show(phases, OVER, PLAIN, resultOf(50_000, { a: {} }))).toBe(
      "pull 2000-2000 100%, run 5000-55000, upload 55000-60000",
    );
  });

  it("of an attempt before are not told", () => {
    const phases = new Phases();
    phases.lines("run", lines(["of the attempt before\n", 1_000]), PLAIN);
    expect(show(phases, { ...RUNNING, time: 30_000 }, PLAIN)).toBe("run 30000-");
    phases.clear();
    expect(show(phases, RUNNING, PLAIN)).toBe("run 1000-");
  });

  it("end where the job failed", () => {
    const phases = new Phases();
    phases.lines("build", lines(["Step 1/2 : FROM nothing\n", 2_000]), BUILT);
    expect(show(phases, OVER, BUILT)).toBe("build 2000-60000 0%");
  });
});
