/**
 * A `Session` of plain signals: for tests of the parts, and for the gallery.
 *
 * `fakeSession({ scene: "running" })` is a page in one of the states below. Every member can be overwritten with
 * another value, signals are writable, and `calls` tells which actions were called with what.
 */

import { type Signal, signal } from "@preact/signals";
import { Client } from "../../src/client.ts";
import type { Definition, JobRecord, Result, Why, WorkerRecord } from "../../src/contract.ts";
import type {
  Assembled,
  Connection,
  DataRefLike,
  HistoryEntry,
  Job,
  Line,
  LinkProblem,
  Log,
  Missing,
  Notice,
  OutputFile,
  Panel,
  Params,
  Route,
  Session,
  Step,
  Unsaved,
} from "../../src/ui/model.ts";
import { fakeFetch } from "./fake-answers.ts";

export const NOW = Date.now();
export const JOB_ID = "6a0e3f7e93611bb005c9a398c9e3350644db5fbcdecf21d5c8ce7edb25be7ac4";
export const OTHER_ID = "9a684c3af0e4b2d7c1558f0b6c1f7a92e35d4480b7719c6ed2a05f3381c4be67";

export const DEFINITION: Definition = {
  image: "python:3.12-slim",
  command: "python /inputs/fit.py --epochs 20",
  env: { SEED: "7" },
  configFiles: { "fit.py": { type: "utf8", value: "import time\nfor i in range(20):\n    print('epoch', i)\n" } },
};

/** What the page can look like. */
export const SCENES = [
  "empty",
  "no-queue",
  "ready",
  "unsaved",
  "sending",
  "waits-for-connection",
  "queued",
  "queued-no-worker",
  "building",
  "running",
  "success",
  "failed",
  "out-of-memory",
  "timed-out",
  "error",
  "cancelled",
  "replaced",
  "worker-lost",
  "requeued",
  "no-result",
  "bad-link",
  "loading",
  "consent",
  "another-job",
  "offline",
  "notices",
  "queued-no-fit",
  "queue-page",
  "long-log",
] as const;
export type Scene = (typeof SCENES)[number];

/** A log that can be written to. */
export class FakeLog implements Log {
  version = signal(0);
  dropped = signal(0);
  isFinal = signal(false);
  #lines: Record<"build" | "run", Line[]> = { build: [], run: [] };

  lines(half: "build" | "run"): readonly Line[] {
    return this.#lines[half];
  }

  add(half: "build" | "run", texts: readonly string[], options: { isStderr?: boolean; time?: number } = {}): void {
    const lines = this.#lines[half];
    for (const text of texts)
      lines.push({
        index: lines.length,
        half,
        text,
        time: options.time ?? NOW - 60_000 + lines.length * 40,
        isStderr: options.isStderr ?? false,
      });
    this.version.value++;
  }

  clear(): void {
    this.#lines = { build: [], run: [] };
    this.version.value++;
  }
}

export function record(change: Partial<JobRecord> = {}): JobRecord {
  return {
    queuedTime: NOW - 95_000,
    state: "Queued",
    time: NOW - 95_000,
    worker: "",
    namespaces: ["_"],
    attempt: 0,
    generation: 1,
    expiresAt: NOW + 7 * 86_400_000,
    ...change,
  };
}

export function running(change: Partial<JobRecord> = {}): JobRecord {
  return record({ state: "Running", time: NOW - 62_000, worker: "worker-a1b2c3", attempt: 1, ...change });
}

/** The record of a finished job; `outcome` decides the rest unless it is said. */
export function finished(outcome: string, change: Partial<JobRecord> = {}): JobRecord {
  const reasons: Record<string, string> = {
    succeeded: "Success",
    failed: "Success",
    out_of_memory: "Success",
    timed_out: "TimedOut",
    cancelled: "Cancelled",
    replaced: "JobReplacedByClient",
    worker_lost: "WorkerLost",
    error: "Error",
    deleted: "Deleted",
  };
  const exits: Record<string, number> = { succeeded: 0, failed: 3, out_of_memory: 137, timed_out: 137 };
  const exitCode = exits[outcome];
  return record({
    state: "Finished",
    time: NOW - 4_000,
    worker: "worker-a1b2c3",
    attempt: 1,
    finishedReason: reasons[outcome] ?? "Error",
    outcome,
    ...(exitCode === undefined ? {} : { exitCode }),
    ...change,
  } as Partial<JobRecord>);
}

/** The result as `result.json` answers: the record and what the worker said. */
export function resultOf(job: JobRecord, run: Record<string, unknown> = {}): Result {
  return {
    ...job,
    finished: {
      type: "Finished",
      reason: job.finishedReason ?? "Success",
      outcome: job.outcome,
      time: job.time,
      worker: job.worker,
      result: {
        StatusCode: job.exitCode ?? null,
        logs: [],
        duration: 58_312,
        isTimedOut: job.finishedReason === "TimedOut",
        outputs: {},
        ...run,
      },
    },
  } as unknown as Result;
}

export function workers(): WorkerRecord[] {
  return [
    { id: "worker-a1b2c3", cpus: 8, gpus: 1, maxJobDuration: "1h", version: "1.0.0", time: NOW - 3_000 },
    { id: "worker-d4e5f6", cpus: 2, gpus: 0, maxJobDuration: "10m", version: "1.0.0", time: NOW - 9_000 },
  ] as unknown as WorkerRecord[];
}

/** A busy queue: some run, some wait, some have just ended. */
export function manyJobs(count: number): Map<string, JobRecord> {
  const outcomes = ["succeeded", "failed", "out_of_memory", "cancelled", "timed_out", "error", "replaced"];
  return new Map(
    Array.from({ length: count }, (_, at) => {
      const age = at * 17_000;
      const times = { queuedTime: NOW - 40_000 - age, time: NOW - 20_000 - age };
      const change = at % 4 === 0 ? { tags: ["lab"], requirements: { cpus: 2, memory: "2g" } } : {};
      const job =
        at < 5
          ? running({ ...times, ...change, worker: at % 2 ? "worker-d4e5f6" : "worker-a1b2c3" })
          : at < count / 2
            ? record({ ...times, ...change, time: times.queuedTime, namespaces: at % 6 ? ["_"] : ["notebook-7"] })
            : finished(outcomes[at % outcomes.length] as string, { ...times, ...change });
      return [`${(at * 7919).toString(16).padStart(6, "0")}`.padEnd(64, "ab"), job];
    }),
  );
}

export function richWorkers(): WorkerRecord[] {
  const GiB = 1 << 30;
  return [
    {
      id: "worker-a1b2c3",
      version: "1.0.0",
      time: NOW - 7_200_000,
      maxJobDuration: "1h",
      capacity: { cpus: 8, memory_bytes: 32 * GiB, gpus: [{ model: "A10" }], tags: ["lab", "gpu"], arch: "x86_64" },
    },
    {
      id: "worker-d4e5f6",
      version: "1.0.0",
      time: NOW - 300_000,
      maxJobDuration: "10m",
      capacity: { cpus: 2, memory_bytes: 4 * GiB, gpus: [], tags: [], arch: "aarch64" },
    },
    { id: "laptop-of-an-older-release", cpus: 4, gpus: 0, time: NOW - 90_000 },
  ] as unknown as WorkerRecord[];
}

function why(fits: boolean, list: boolean): Why {
  const rules = ["cpus", "memory", "gpus", "duration", "tags"].map((rule) => ({
    rule,
    passed: fits || rule !== "gpus",
    asked: rule === "gpus" ? "2" : "1",
    has: rule === "gpus" ? "1" : "8",
    freeNow: "0",
  }));
  return {
    jobId: JOB_ID,
    state: "Queued",
    position: 3,
    queuedTime: NOW - 95_000,
    waitedSeconds: 95,
    attempt: 0,
    workers: list ? [{ id: "worker-a1b2c3", fits, free: false, rules }] : [],
    reason: list
      ? "the workers it fits are busy; 3 jobs are before it"
      : "no worker is connected to this queue; start one with: asman worker QUEUE --server URL",
  } as unknown as Why;
}

export const OUTPUTS: readonly OutputFile[] = [
  { name: "model.bin", size: 48_211_904, url: "/j/x/outputs/model.bin" },
  { name: "metrics.csv", size: 2_114, url: "/j/x/outputs/metrics.csv" },
  { name: "plots/loss.png", size: 38_400, url: "/j/x/outputs/plots/loss.png" },
  { name: "report.html", size: null, url: "/j/x/outputs/report.html" },
];

const HISTORY: readonly HistoryEntry[] = [
  { id: JOB_ID, at: 4_000, image: "python:3.12-slim", command: "python /inputs/fit.py", outcome: "succeeded", exit: 0 },
  { id: OTHER_ID, at: 4_000_000, image: "alpine:3.19.1", command: 'echo "hello"', outcome: "failed", exit: 3 },
].map(({ id, at, image, command, outcome, exit }) => ({
  jobId: id,
  queue: "public1",
  submitted: NOW - at,
  hash: "#?job=JTdCJTdE&queue=public1",
  image,
  command,
  outcome,
  exitCode: exit,
}));

export function fakeParams(change: Partial<Params> = {}): Params {
  return {
    job: signal<Definition | undefined>({
      image: "python:3.12-slim",
      command: "python /inputs/fit.py --epochs 20",
    } as Definition),
    inputs: signal<Record<string, string> | undefined>({
      "fit.py": "import time\nfor i in range(20):\n    print('epoch', i)\n",
      "/etc/app.conf": "threads = 4\n",
    }),
    queue: signal<string | undefined>("public1"),
    queueOverride: signal<string | undefined>(undefined),
    ignoreQueueOverride: signal(false),
    control: signal<Record<string, unknown> | undefined>(undefined),
    autostart: signal(false),
    allowsetjob: signal(false),
    resolverefs: signal(false),
    terminal: signal(false),
    debug: signal(false),
    maxJobDuration: signal<string | undefined>(undefined),
    definition: signal<Record<string, unknown> | undefined>(undefined),
    other: signal<ReadonlyMap<string, string>>(new Map()),
    ...change,
  };
}

/** The same session with its signals writable. */
export interface FakeSession extends Omit<Session, "log"> {
  scene: Scene;
  calls: { name: string; values: unknown[] }[];
  log: FakeLog;
  route: Signal<Route>;
  notices: Signal<readonly Notice[]>;
  linkProblems: Signal<readonly LinkProblem[]>;
  queue: Signal<string>;
  isLocal: Signal<boolean>;
  client: Signal<Client>;
  connection: Signal<Connection>;
  assembled: Signal<Assembled | Missing>;
  dynamicInputs: Signal<ReadonlyMap<string, DataRefLike>>;
  uploads: Signal<ReadonlyMap<string, { sent: number; size: number }>>;
  job: Signal<Job | null>;
  why: Signal<Why | null>;
  outputs: Signal<readonly OutputFile[] | null>;
  submitting: Signal<"no" | "sending" | "waits-for-connection">;
  jobs: Signal<ReadonlyMap<string, JobRecord>>;
  workers: Signal<readonly WorkerRecord[]>;
  history: Signal<readonly HistoryEntry[]>;
}

export function fakeSession({
  scene = "ready",
  ...change
}: Partial<Omit<FakeSession, "scene">> & { scene?: Scene } = {}): FakeSession {
  const calls: FakeSession["calls"] = [];
  const call =
    (name: string) =>
    async (...values: unknown[]): Promise<void> => {
      calls.push({ name, values });
    };
  const notices = signal<readonly Notice[]>([]);
  let lastNotice = 0;
  const session: FakeSession = {
    scene,
    calls,
    route: signal<Route>({ kind: "job" }),
    isFramed: false,
    panel: signal<Panel>(null),
    notices,
    linkProblems: signal<readonly LinkProblem[]>([]),
    params: fakeParams(),
    queue: signal("public1"),
    isLocal: signal(false),
    localConsent: signal(true),
    // In Node there is no page whose server it could be.
    client: signal(new Client({ server: typeof location === "undefined" ? "http://localhost" : "", fetch: fakeFetch })),
    connection: signal<Connection>("connected"),
    assembled: signal<Assembled | Missing>({ jobId: JOB_ID, definition: DEFINITION, namespace: "_", control: {} }),
    dynamicInputs: signal<ReadonlyMap<string, DataRefLike>>(
      new Map([["data.csv", { type: "utf8", value: "a,b\n1,2\n" }]]),
    ),
    uploads: signal<ReadonlyMap<string, { sent: number; size: number }>>(new Map()),
    job: signal<Job | null>(null),
    why: signal<Why | null>(null),
    log: new FakeLog(),
    outputs: signal<readonly OutputFile[] | null>(null),
    unsaved: signal<Unsaved | null>(null),
    submitting: signal<"no" | "sending" | "waits-for-connection">("no"),
    jobs: signal<ReadonlyMap<string, JobRecord>>(
      new Map([
        [OTHER_ID, running({ queuedTime: NOW - 300_000, time: NOW - 200_000 })],
        ["b1".padEnd(64, "0"), record()],
        ["c2".padEnd(64, "0"), finished("failed")],
        ["d3".padEnd(64, "0"), finished("succeeded", { time: NOW - 3_600_000 })],
      ]),
    ),
    workers: signal<readonly WorkerRecord[]>(workers()),
    history: signal(HISTORY),
    run: call("run"),
    stop: call("stop"),
    clear: call("clear"),
    cancel: call("cancel"),
    forget: async (entry) => {
      calls.push({ name: "forget", values: [entry] });
      session.history.value = entry ? session.history.value.filter((each) => each !== entry) : [];
    },
    show: (jobId) => void calls.push({ name: "show", values: [jobId] }),
    link: () => "http://localhost/#?job=JTdCJTdE&queue=public1",
    notify(notice) {
      lastNotice += 1;
      notices.value = [...notices.value, { ...notice, id: lastNotice }];
      return lastNotice;
    },
    dismiss(id) {
      notices.value = notices.value.filter((notice) => notice.id !== id);
    },
  };
  stage(session, scene);
  return Object.assign(session, change);
}

const BUILD_LOG = [
  "Pulling python:3.12-slim",
  "a480a496ba95: Pull complete",
  "8f26d2a3a1f5: Pull complete",
  "Digest: sha256:2ec5a4a5c3e919570f57675471f081d6299668d909feabd8d4803c6c61af666c",
];

function runLog(log: FakeLog, count: number): void {
  log.add("build", BUILD_LOG, { time: NOW - 80_000 });
  log.add("run", ["\u001b[1mfit.py\u001b[0m: reading \u001b[36m/inputs/data.csv\u001b[0m"]);
  log.add("run", ["/inputs/fit.py:12: \u001b[33mFutureWarning\u001b[0m: use \u001b[1mdtype=\u001b[0m"], {
    isStderr: true,
  });
  for (let i = 0; i < count; i++)
    log.add("run", [`epoch ${String(i).padStart(3)}  loss \u001b[32m${(1 / (i + 1)).toFixed(4)}\u001b[0m`]);
  log.add("run", [
    "  0%|          |\r 50%|#####     |\r100%|##########| 20/20 [00:04<00:00]",
    "see https://example.org/runs/7",
  ]);
}

const step = (name: Step["name"], start: number, end: number | null, progress: number | null = null): Step => ({
  name,
  start: NOW - start,
  end: end === null ? null : NOW - end,
  progress,
});

/** Puts the session into the state of a scene. */
function stage(session: FakeSession, scene: Scene): void {
  const show = (job: JobRecord, steps: Step[] = [], result: Result | null = null) => {
    session.job.value = { jobId: JOB_ID, record: job, result, steps };
  };
  const ended = (job: JobRecord, run: Record<string, unknown> = {}) => {
    runLog(session.log, 20);
    session.log.isFinal.value = true;
    const steps = [
      step("inputs", 80_000, 79_200),
      step("pull", 79_200, 64_000),
      step("run", 64_000, 5_700),
      step("upload", 5_700, 4_000),
    ];
    show(job, steps, resultOf(job, run));
    session.outputs.value = OUTPUTS;
  };
  switch (scene) {
    case "empty":
      session.assembled.value = { what: "image" };
      session.queue.value = "";
      session.params = fakeParams({ job: signal(undefined), inputs: signal(undefined), queue: signal(undefined) });
      session.dynamicInputs.value = new Map();
      session.connection.value = "none";
      session.jobs.value = new Map();
      session.workers.value = [];
      session.history.value = [];
      return;
    case "no-queue":
      session.queue.value = "";
      session.assembled.value = { what: "queue" };
      session.connection.value = "none";
      return;
    case "ready":
      return;
    case "unsaved":
      ended(finished("succeeded"));
      session.unsaved.value = { name: "fit.py", text: "print('new')\n" };
      return;
    case "sending":
      session.submitting.value = "sending";
      return;
    case "waits-for-connection":
      session.submitting.value = "waits-for-connection";
      session.connection.value = "reconnecting";
      return;
    case "queued":
      show(record());
      session.why.value = why(true, true);
      return;
    case "queued-no-worker":
      show(record());
      session.workers.value = [];
      session.why.value = why(false, false);
      return;
    case "queued-no-fit":
      show(record());
      session.why.value = why(false, true);
      return;
    case "queue-page":
      session.route.value = { kind: "queue-page", queue: "public1" };
      session.jobs.value = manyJobs(60);
      session.workers.value = richWorkers();
      return;
    case "building":
      session.log.add("build", [...BUILD_LOG.slice(0, 2), "[2/5] RUN pip install numpy"]);
      show(running(), [step("inputs", 60_000, 59_200), step("pull", 59_200, 41_000), step("build", 41_000, null, 0.4)]);
      return;
    case "running":
      runLog(session.log, 30);
      show(running(), [step("inputs", 60_000, 59_200), step("pull", 59_200, 41_000), step("run", 41_000, null)]);
      return;
    case "success":
      ended(finished("succeeded"));
      return;
    case "failed":
      ended(finished("failed"));
      return;
    case "out-of-memory":
      session.log.add(
        "run",
        ["[asman] out of memory: the container may use 512 MiB; ask for more with requirements.memory"],
        {
          isStderr: true,
        },
      );
      ended(finished("out_of_memory"), { oomKilled: true });
      return;
    case "timed-out":
      ended(finished("timed_out"), { isTimedOut: true, duration: 600_000 });
      return;
    case "error": {
      const job = finished("error");
      session.log.add("build", [...BUILD_LOG.slice(0, 1), "[asman] step pull failed: not found"]);
      session.log.isFinal.value = true;
      show(
        job,
        [step("inputs", 8_000, 7_200), step("pull", 7_200, 4_000)],
        resultOf(job, {
          StatusCode: null,
          duration: null,
          error: "[asman] step pull failed: the image python:3.99 is not in the registry docker.io",
          errorCode: "image_unavailable",
        }),
      );
      return;
    }
    case "cancelled":
      show(finished("cancelled", { message: "Stopped by the user" }));
      return;
    case "replaced":
      show(finished("replaced"));
      return;
    case "worker-lost":
      show(
        finished("worker_lost", {
          attempt: 3,
          attempts: [1, 2, 3].map((attempt) => ({
            attempt,
            worker: "worker-a1b2c3",
            start: NOW - 90_000 + attempt * 20_000,
            end: NOW - 80_000 + attempt * 20_000,
            how: "lost",
          })),
        }),
      );
      return;
    case "requeued":
      show(
        record({
          attempt: 1,
          attempts: [{ attempt: 1, worker: "worker-a1b2c3", start: NOW - 90_000, end: NOW - 20_000, how: "lost" }],
        }),
      );
      return;
    case "no-result":
      show(finished("succeeded"));
      return;
    case "bad-link":
      session.assembled.value = { what: "invalid", problems: ["job: this is not JSON"] };
      session.linkProblems.value = [
        {
          parameter: "job",
          text: "The parameter “job” could not be read.",
          hint: "Ask whoever sent the link for a new one, or set the image in the settings.",
        },
      ];
      return;
    case "loading":
      session.assembled.value = { what: "loading" };
      session.uploads.value = new Map([["data.csv", { sent: 4_000_000, size: 9_000_000 }]]);
      return;
    case "consent":
      session.assembled.value = { what: "consent" };
      session.queue.value = "local";
      session.isLocal.value = true;
      session.isFramed = true;
      session.localConsent.value = false;
      return;
    case "another-job":
      runLog(session.log, 5);
      session.job.value = { jobId: OTHER_ID, record: running(), result: null, steps: [step("run", 41_000, null)] };
      return;
    case "offline":
      runLog(session.log, 5);
      show(running(), [step("run", 41_000, null)]);
      session.connection.value = "offline";
      return;
    case "notices":
      session.notify({
        kind: "error",
        text: "The upload of data.csv failed: the server is full.",
        hint: "Free space, then try again.",
        action: { label: "Try again", run: () => {} },
      });
      session.notify({ kind: "warning", text: "The queue public1 can be read by everybody." });
      session.notify({ kind: "note", text: "Saved." });
      return;
    case "long-log":
      for (let i = 0; i < 100; i++)
        session.log.add(
          "run",
          Array.from(
            { length: 1000 },
            (_, k) => `line ${i * 1000 + k} \u001b[3${k % 8}mcolour\u001b[0m and more text to read`,
          ),
        );
      show(running(), [step("run", 41_000, null)]);
      return;
  }
}
