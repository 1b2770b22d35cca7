import { expect, describe as group, it } from "vitest";
import type { Job, Step } from "../src/ui/model.ts";
import { failedStep, stepsOf } from "../src/ui/parts/steps.tsx";
import { actionsFor, describe, errorText, type Shown, shownOf } from "../src/ui/status.ts";
import {
  fakeSession,
  finished,
  JOB_ID,
  NOW,
  record,
  resultOf,
  running,
  SCENES,
  type Scene,
} from "./support/fake-session.ts";

const shown = (scene: Scene, change: Partial<Shown> = {}): Shown => ({ ...shownOf(fakeSession({ scene })), ...change });
const words = (from: Shown) => {
  const { title, details } = describe(from);
  return `${title} | ${details.join(" ")}`;
};
const job = (from: Job["record"], run?: Record<string, unknown>): Job => ({
  jobId: JOB_ID,
  record: from,
  result: run ? resultOf(from, run) : null,
  steps: [],
});

group("what the header says", () => {
  it.each<[Scene, string, string]>([
    ["empty", "plain", "Nothing to run | Choose an image or an example."],
    ["no-queue", "warn", "No queue | A queue is where workers look for jobs."],
    ["ready", "plain", "Ready to run | python:3.12-slim"],
    ["bad-link", "bad", "This job cannot be run | job: this is not JSON"],
    ["loading", "plain", "Preparing the job | data.csv is sent to the server: 44 %."],
    [
      "consent",
      "warn",
      "May it run on this machine? | The page around this frame asks to use the worker of this machine.",
    ],
    ["sending", "plain", "Sending the job | "],
    ["waits-for-connection", "warn", "Waits for the connection | It is sent once, when the connection is back."],
    ["queued", "plain", "Queued | 3 before it."],
    ["queued-no-worker", "warn", "Queued | No worker is connected to this queue."],
    ["queued-no-fit", "warn", "Queued | No worker fits it."],
    ["requeued", "warn", "Queued again | Attempt 1 was lost with its worker; it is tried again. It is next."],
    ["building", "plain", "Building the image | On worker-a1b2c3, one of 2 workers."],
    ["running", "plain", "Running | On worker-a1b2c3, one of 2 workers."],
    ["offline", "plain", "Running | Offline: this may be old. On worker-a1b2c3, one of 2 workers."],
    ["success", "good", "Complete | Exit code 0."],
    ["failed", "warn", "Failed | Exit code 3."],
    ["out-of-memory", "bad", "Out of memory | Exit code 137. It asked for no amount: ask for one in the settings."],
    ["timed-out", "bad", "Timed out | Exit code 137. The worker's limit was reached."],
    ["error", "bad", "Could not be run | Step pull failed: the image python:3.99 is not in the registry docker.io"],
    ["cancelled", "plain", "Cancelled | Stopped by the user"],
    ["replaced", "plain", "Replaced | A newer job took its place."],
    ["worker-lost", "bad", "Worker lost | Given up after 3 attempts: the connection to its worker was lost."],
    ["no-result", "good", "Complete | Exit code 0. Its result is not here."],
  ])("%s", (scene, tone, expected) => {
    const from = scene === "requeued" ? shown(scene, { position: 0 }) : shown(scene);
    expect(words(from)).toBe(expected);
    expect(describe(from).tone).toBe(tone);
  });

  it("covers every scene with a title", () => {
    for (const scene of SCENES) expect(describe(shown(scene)).title).not.toBe("");
  });

  it("names the limit that the job itself asked for", () => {
    const assembled = { jobId: JOB_ID, namespace: "_", control: {} };
    const timed = shown("timed-out", { assembled: { ...assembled, definition: { image: "a", maxDuration: "10m" } } });
    expect(words(timed)).toContain("The job's own limit is 10m.");
    const small = { image: "a", requirements: { memory: "512m" } };
    const memory = shown("out-of-memory", { assembled: { ...assembled, definition: small } });
    expect(words(memory)).toContain("It may use 512m: ask for more in the settings.");
    const pull = job(finished("error"), { StatusCode: null, error: "too slow", errorCode: "pull_timed_out" });
    expect(words(shown("error", { job: pull }))).toContain("The worker's limit for pulling an image was reached.");
  });

  it.each([
    [127, "Exit code 127: the command was not found in the image."],
    [137, "Exit code 137: the container was killed."],
    [139, "Exit code 139: the program crashed: segmentation fault."],
    [42, "Exit code 42."],
  ])("explains exit code %d", (exitCode, text) => {
    expect(words(shown("failed", { job: job(finished("failed", { exitCode }), {}) }))).toContain(text);
  });

  it("tells of attempts before", () => {
    const attempts = [{ attempt: 1, worker: "a", start: NOW, end: NOW, how: "lost" }];
    const again = job(finished("succeeded", { attempt: 2, attempts }), {});
    expect(words(shown("success", { job: again }))).toContain("Attempt 2: attempt 1 lost its worker.");
    expect(words(shown("running", { job: job(running({ attempt: 2, attempts })) }))).toContain("Attempt 2.");
  });

  it("counts no attempts of a run before, which was asked for and ended", () => {
    const attempts = [{ attempt: 2, worker: "a", start: NOW, end: NOW, how: "reported" }];
    const again = job(finished("succeeded", { attempt: 2, attempts }), {});
    expect(words(shown("success", { job: again }))).not.toContain("ttempt");
    expect(words(shown("running", { job: job(running({ attempt: 2 })) }))).not.toContain("ttempt");
    expect(
      words(shown("queued", { job: { ...job(running()), record: { ...running(), state: "Queued", attempt: 1 } } })),
    ).not.toContain("ttempt");
  });

  it("understands servers that do not say the outcome", () => {
    const { outcome: _, ...old } = finished("succeeded", { exitCode: 1 });
    expect(words(shown("success", { job: job(old as Job["record"]) }))).toContain("Failed | Exit code 1.");
    const { outcome: __, ...gone } = finished("worker_lost");
    expect(describe(shown("success", { job: job(gone as Job["record"]) })).title).toBe("Worker lost");
  });

  it("counts from the right moment", () => {
    expect(describe(shown("queued")).since).toBe(NOW - 95_000);
    expect(describe(shown("running")).since).toBe(NOW - 62_000);
    expect(describe(shown("success"))).toMatchObject({ since: null, took: 58_312 });
  });

  it("finds the words in an error of any shape", () => {
    expect(errorText("[asman] it broke")).toBe("it broke");
    expect(errorText({ json: { message: "OCI runtime" } })).toBe("OCI runtime");
    expect(errorText({ message: "plain" })).toBe("plain");
    expect(errorText({ code: 5 })).toBe('{"code":5}');
    expect(errorText(undefined)).toBe("");
  });
});

group("which button there is", () => {
  it.each<[Scene, string[]]>([
    ["empty", ["open settings"]],
    ["bad-link", ["open settings"]],
    ["no-queue", ["open queue"]],
    ["loading", ["busy"]],
    ["consent", ["consent"]],
    ["ready", ["run"]],
    ["sending", ["busy"]],
    ["waits-for-connection", ["busy"]],
    ["queued", ["stop"]],
    ["building", ["stop"]],
    ["running", ["stop"]],
    ["requeued", ["stop"]],
    ["success", ["again"]],
    ["failed", ["again"]],
    ["timed-out", ["again"]],
    ["error", ["again"]],
    ["worker-lost", ["again"]],
    ["cancelled", ["run"]],
    ["replaced", ["run"]],
    ["unsaved", ["save-run"]],
    ["another-job", ["back", "stop"]],
  ])("%s", (scene, expected) => {
    expect(actionsFor(shown(scene)).map(({ kind, panel }) => (panel ? `${kind} ${panel}` : kind))).toEqual(expected);
  });

  it("can stop and save while it runs", () => {
    const unsaved = { name: "fit.py", text: "" };
    expect(actionsFor(shown("running", { unsaved })).map(({ kind }) => kind)).toEqual(["save-run", "stop"]);
  });

  it("runs anew what was cleared", () => {
    const cleared = job({ ...record(), state: "Finished", finishedReason: "Deleted", outcome: "deleted" });
    expect(actionsFor(shown("success", { job: cleared })).map(({ kind }) => kind)).toEqual(["run"]);
  });
});

group("steps", () => {
  const steps = [
    { name: "inputs" as const, start: 0, end: 1, progress: null },
    { name: "pull" as const, start: 1, end: null, progress: null },
  ];
  const states = (...of: Parameters<typeof stepsOf>) => stepsOf(...of).map(({ name, state }) => `${name} ${state}`);

  it("are shown before they come", () => {
    expect(states([], { isBuilt: false, isOver: false, failed: null })).toEqual([
      "inputs pending",
      "pull pending",
      "run pending",
      "upload pending",
    ]);
    expect(states([], { isBuilt: true, isOver: false, failed: null })).toContain("build pending");
  });

  it("are left out where they were not needed", () => {
    const ran: Step[] = [{ name: "run", start: NOW, end: null, progress: null }];
    expect(states(ran, { isBuilt: false, isOver: false, failed: null })).toEqual(["run now", "upload pending"]);
    expect(states(ran, { isBuilt: false, isOver: true, failed: null })).toEqual(["run done"]);
    expect(states([], { isBuilt: false, isOver: true, failed: null })).toEqual([]);
  });

  it("are done, under way or failed", () => {
    expect(states(steps, { isBuilt: false, isOver: false, failed: null }).slice(0, 3)).toEqual([
      "inputs done",
      "pull now",
      "run pending",
    ]);
    expect(states(steps, { isBuilt: false, isOver: true, failed: "pull" })).toContain("pull failed");
    expect(states(steps, { isBuilt: false, isOver: true, failed: null })).toContain("pull done");
  });

  it("fail where the job ended", () => {
    expect(failedStep("succeeded", steps)).toBeNull();
    expect(failedStep("failed", steps)).toBe("run");
    expect(failedStep("error", steps)).toBe("pull");
  });
});
