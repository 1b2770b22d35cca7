/** What the header says of the job, and which button it offers: one table each. Pure. */

import type { Definition, JobRecord } from "../contract.ts";
import type { IconName } from "./icons.tsx";
import type { Assembled, Connection, Job, Missing, Panel, Session, StepName, Unsaved } from "./model.ts";
import { showDuration } from "./time.ts";

export type Tone = "good" | "warn" | "bad" | "plain";

export interface Status {
  icon: IconName | null;
  tone: Tone;
  /** Short, and the same as long as nothing changes: it is read aloud. */
  title: string;
  /** What more there is to know, most important first. */
  details: string[];
  /** Since when it lasts; the time that has passed ticks beside the title. */
  since: number | null;
  /** How long it took, for what is over. */
  took: number | null;
}

export interface Shown {
  job: Job | null;
  assembled: Assembled | Missing;
  queue: string;
  submitting: "no" | "sending" | "waits-for-connection";
  unsaved: Unsaved | null;
  /** Jobs before it in the queue; null if that is not known. */
  position: number | null;
  workerCount: number;
  /** There are workers, and none would take it. */
  fitsNobody: boolean;
  connection: Connection;
  /** Large inputs on their way to the server. */
  uploads: ReadonlyMap<string, { sent: number; size: number }>;
}

const STEP_TITLES: Record<StepName, string> = {
  inputs: "Fetching inputs",
  pull: "Pulling the image",
  clone: "Cloning the repository",
  build: "Building the image",
  push: "Storing the image",
  start: "Starting the container",
  run: "Running",
  upload: "Sending outputs",
};

/** What shells and engines mean by some exit codes. */
const EXIT_CODES: Record<number, string> = {
  125: "the container could not be started",
  126: "the command is not a program that can be run",
  127: "the command was not found in the image",
  130: "interrupted",
  134: "the program aborted",
  137: "the container was killed",
  139: "the program crashed: segmentation fault",
  143: "the container was told to end",
};

/** Which limit it was, by the code of the error. */
const LIMITS: Record<string, string> = {
  limit_exceeded: "More was asked for than the worker's owner allows.",
  fetch_timed_out: "The worker's limit for fetching inputs was reached.",
  pull_timed_out: "The worker's limit for pulling an image was reached.",
  build_timed_out: "The worker's limit for building an image was reached.",
  upload_timed_out: "The worker's limit for sending outputs was reached.",
  build_too_large: "The worker's limit for the size of an image was reached.",
  image_too_large: "The worker's limit for the size of an image was reached.",
  outputs_too_large: "The limit for outputs was reached; what fits was kept.",
  disk_limit: "The container wrote more outside of /outputs than it may.",
};

const status = (title: string, more: Partial<Status> = {}): Status => ({
  icon: null,
  tone: "plain",
  title,
  details: [],
  since: null,
  took: null,
  ...more,
});

export function describe(shown: Shown): Status {
  const { job, assembled, submitting } = shown;
  if (submitting === "sending") return status("Sending the job", { icon: "wait" });
  if (submitting === "waits-for-connection")
    return status("Waits for the connection", {
      icon: "offline",
      tone: "warn",
      details: ["It is sent once, when the connection is back."],
    });
  if (!job) return describeNoJob(shown);
  const { record } = job;
  if (record.state === "Queued" || record.state === "Running") {
    const status = record.state === "Queued" ? describeQueued(record, shown) : describeRunning(job, shown);
    if (shown.connection === "offline") status.details.unshift("Offline: this may be old.");
    else if (shown.connection === "reconnecting") status.details.unshift("The connection is lost: this may be old.");
    return status;
  }
  return describeEnd(job, "what" in assembled ? null : assembled.definition);
}

function uploadText(uploads: Shown["uploads"]): string[] {
  const [name, { sent, size }] = [...uploads][0] ?? ["", { sent: 0, size: 0 }];
  return name ? [`${name} is sent to the server: ${size ? Math.floor((100 * sent) / size) : 0} %.`] : [];
}

function describeNoJob({ assembled, queue, uploads }: Shown): Status {
  if ("what" in assembled) {
    if (assembled.what === "image") return status("Nothing to run", { details: ["Choose an image or an example."] });
    if (assembled.what === "loading")
      return status("Preparing the job", { icon: "wait", details: uploadText(uploads) });
    if (assembled.what === "consent")
      return status("May it run on this machine?", {
        icon: "warn",
        tone: "warn",
        details: ["The page around this frame asks to use the worker of this machine."],
      });
    if (assembled.what === "invalid")
      return status("This job cannot be run", { icon: "bad", tone: "bad", details: assembled.problems });
  }
  if (!queue)
    return status("No queue", {
      icon: "warn",
      tone: "warn",
      details: ["A queue is where workers look for jobs."],
    });
  if ("what" in assembled) return status("One moment");
  const { image } = assembled.definition;
  return status("Ready to run", { details: [image || "The image is built first."] });
}

function describeQueued(record: JobRecord, { position, workerCount, fitsNobody }: Shown): Status {
  const details: string[] = [];
  if (workerCount === 0) details.push("No worker is connected to this queue.");
  else if (fitsNobody) details.push(workerCount === 1 ? "The worker does not fit." : "No worker fits it.");
  else if (position !== null) details.push(position === 0 ? "It is next." : `${position} before it.`);
  const past = pastAttempts(record);
  const isAgain = past.length > 0;
  if (isAgain) {
    const how = past.at(-1)?.how === "released" ? "was given back by its worker" : "was lost with its worker";
    details.unshift(`Attempt ${past.length} ${how}; it is tried again.`);
  }
  return status(isAgain ? "Queued again" : "Queued", {
    icon: "wait",
    tone: isAgain || workerCount === 0 || fitsNobody ? "warn" : "plain",
    details,
    since: isAgain ? record.time : record.queuedTime,
  });
}

function describeRunning({ record, steps }: Job, { workerCount }: Shown): Status {
  const step = steps.findLast((each) => each.end === null) ?? steps.at(-1);
  const details: string[] = [];
  const past = pastAttempts(record);
  if (past.length) details.push(`Attempt ${past.length + 1}.`);
  if (record.worker)
    details.push(`On ${short(record.worker)}${workerCount > 1 ? `, one of ${workerCount} workers` : ""}.`);
  return status(step ? STEP_TITLES[step.name] : "Running", { icon: "running", details, since: record.time });
}

function describeEnd({ record, result }: Job, definition: Definition | null): Status {
  const run = result?.finished.result;
  const exit = run?.StatusCode ?? record.exitCode ?? null;
  const took = run?.duration ?? null;
  const outcome = record.outcome ?? outcomeOf(record, exit, run?.isTimedOut === true);
  const details: string[] = [];
  const code = exit === null ? [] : [`Exit code ${exit}${EXIT_CODES[exit] ? `: ${EXIT_CODES[exit]}` : ""}.`];
  const past = pastAttempts(record);
  if (past.length) details.push(`Attempt ${past.length + 1}: ${lostOf(past)}.`);
  if (!result && ["succeeded", "failed", "out_of_memory", "timed_out", "error"].includes(outcome))
    details.push("Its result is not here.");
  switch (outcome) {
    case "succeeded":
      return status("Complete", {
        icon: "check",
        tone: "good",
        details: [`Exit code ${exit ?? 0}.`, ...details],
        took,
      });
    case "failed":
      return status("Failed", { icon: "warn", tone: "warn", details: [...code, ...details], took });
    case "out_of_memory": {
      const memory = definition?.requirements?.memory;
      const limit = memory ? `It may use ${memory}: ask for more` : "It asked for no amount: ask for one";
      const words = exit === null ? [] : [`Exit code ${exit}.`];
      return status("Out of memory", {
        icon: "bad",
        tone: "bad",
        details: [...words, `${limit} in the settings.`, ...details],
        took,
      });
    }
    case "timed_out": {
      const limit = definition?.maxDuration ?? definition?.requirements?.maxDuration;
      const words = exit === null ? [] : [`Exit code ${exit}.`];
      const asked = typeof limit === "number" ? showDuration(limit) : limit;
      return status("Timed out", {
        icon: "bad",
        tone: "bad",
        details: [...words, asked ? `The job's own limit is ${asked}.` : "The worker's limit was reached.", ...details],
        took,
      });
    }
    case "error": {
      const text = sentence(errorText(run?.error) || record.message || "");
      const limit = LIMITS[run?.errorCode ?? ""];
      return status("Could not be run", {
        icon: "bad",
        tone: "bad",
        details: [...(text ? [text] : []), ...(limit ? [limit] : []), ...code, ...details],
        took,
      });
    }
    case "cancelled":
      return status("Cancelled", {
        icon: "stop",
        details: [
          sentence(record.message ?? "") || "The worker ended its container; outputs are not kept.",
          ...details,
        ],
      });
    case "replaced":
      return status("Replaced", { icon: "stop", details: ["A newer job took its place.", ...details] });
    case "deleted":
      return status("Cleared", { details: ["Its result was dropped."] });
    case "worker_lost":
      return status("Worker lost", {
        icon: "bad",
        tone: "bad",
        details: [`Given up after ${times(past.length || record.attempt)}: the connection to its worker was lost.`],
      });
    default:
      return status("Finished", { details: [outcome, ...code, ...details], took });
  }
}

/** For servers that do not say the outcome. */
function outcomeOf(record: JobRecord, exit: number | null, isTimedOut: boolean): string {
  if (record.finishedReason === "TimedOut" || isTimedOut) return "timed_out";
  if (record.finishedReason === "Success") return exit ? "failed" : "succeeded";
  const outcomes: Record<string, string> = {
    Error: "error",
    Cancelled: "cancelled",
    JobReplacedByClient: "replaced",
    Deleted: "deleted",
    WorkerLost: "worker_lost",
  };
  return outcomes[record.finishedReason ?? ""] ?? "finished";
}

/**
 * Attempts of this run that came to nothing, oldest first. The numbers of attempts are no help: they go on when a person
 * runs the job anew.
 */
export function pastAttempts(record: JobRecord): NonNullable<JobRecord["attempts"]> {
  return (record.attempts ?? []).filter(({ how }) => how === "lost" || how === "released");
}

/** `attempt 1 lost its worker`. */
function lostOf(past: ReturnType<typeof pastAttempts>): string {
  const lost = past.flatMap(({ how }, at) => (how === "lost" ? [at + 1] : []));
  return lost.length ? `attempt ${lost.join(" and ")} lost its worker` : "it was tried again";
}

const times = (count: number) => (count === 1 ? "one attempt" : `${count} attempts`);

/** Enough of a worker's name to tell it from others: of one that was made by chance the beginning will do. */
const short = (worker: string) =>
  /^[0-9a-f]{8}-[0-9a-f]{4}-/.test(worker)
    ? worker.slice(0, 8)
    : worker.length > 24
      ? `${worker.slice(0, 22)}…`
      : worker;

const sentence = (text: string) => text.charAt(0).toUpperCase() + text.slice(1);

/** The error of a result in one line: its own text, or that within an engine's answer. */
export function errorText(error: unknown): string {
  if (typeof error === "string") return error.replace(/^\[asman\] /, "");
  if (typeof error !== "object" || error === null) return "";
  const { message, json } = error as { message?: unknown; json?: { message?: unknown } };
  return errorText(json?.message) || errorText(message) || JSON.stringify(error);
}

// --- buttons ---------------------------------------------------------------------------------------------------------

export interface Action {
  kind: "run" | "again" | "save-run" | "stop" | "open" | "consent" | "back" | "busy";
  label: string;
  /** What it does, as a tooltip. */
  title: string;
  icon: IconName;
  tone: "primary" | "danger" | "plain";
  /** The panel that it opens. */
  panel?: NonNullable<Panel>;
}

const ACTIONS = {
  image: {
    kind: "open",
    label: "Set up",
    title: "The job has no image and nothing to build one from",
    icon: "settings",
    tone: "primary",
    panel: "settings",
  },
  invalid: {
    kind: "open",
    label: "Settings",
    title: "The job cannot be run as it is",
    icon: "settings",
    tone: "primary",
    panel: "settings",
  },
  queue: {
    kind: "open",
    label: "Choose queue",
    title: "Without a queue no worker finds the job",
    icon: "queue",
    tone: "primary",
    panel: "queue",
  },
  loading: {
    kind: "busy",
    label: "Preparing…",
    title: "Large inputs are on their way to the server",
    icon: "wait",
    tone: "plain",
  },
  consent: {
    kind: "consent",
    label: "Allow",
    title: "Let this frame use the worker of this machine, as long as this tab is open",
    icon: "check",
    tone: "primary",
  },
  back: {
    kind: "back",
    label: "Back to this page's job",
    title: "Another job of the queue is shown",
    icon: "again",
    tone: "plain",
  },
  sending: {
    kind: "busy",
    label: "Sending…",
    title: "The job is on its way to the server",
    icon: "wait",
    tone: "plain",
  },
  waits: {
    kind: "busy",
    label: "Waits…",
    title: "The job is sent once, when the connection is back",
    icon: "offline",
    tone: "plain",
  },
  run: { kind: "run", label: "Run", title: "Send the job to the queue (Ctrl+Enter)", icon: "run", tone: "primary" },
  moment: { kind: "busy", label: "Run", title: "The link is being read", icon: "run", tone: "primary" },
  again: {
    kind: "again",
    label: "Re-run",
    title: "Drop the result and run the same job anew (Ctrl+Enter)",
    icon: "again",
    tone: "primary",
  },
  save: {
    kind: "save-run",
    label: "Save + Run",
    title: "Save the edit, then run the job with it (Ctrl+Enter)",
    icon: "save",
    tone: "primary",
  },
  stop: {
    kind: "stop",
    label: "Stop",
    title: "Cancel the job: the worker ends its container, outputs are not kept",
    icon: "stop",
    tone: "danger",
  },
} as const satisfies Record<string, Action>;

/** The button of the header; a second one where two things make sense. The first that applies. */
export function actionsFor({ job, assembled, queue, submitting, unsaved, uploads }: Shown): Action[] {
  const isActive = job !== null && (job.record.state === "Queued" || job.record.state === "Running");
  const isOther = job !== null && "jobId" in assembled && job.jobId !== assembled.jobId;
  const stop = isActive ? [ACTIONS.stop] : [];
  if (submitting === "sending") return [ACTIONS.sending];
  if (submitting === "waits-for-connection") return [ACTIONS.waits];
  if ("what" in assembled && !isActive) {
    if (assembled.what === "loading" && !uploads.size) return [ACTIONS.moment];
    return [ACTIONS[assembled.what]];
  }
  if (isOther) return [ACTIONS.back, ...stop];
  if (!queue) return [ACTIONS.queue];
  if (unsaved) return [ACTIONS.save, ...stop];
  if (isActive) return stop;
  return [job && hasEnded(job) ? ACTIONS.again : ACTIONS.run];
}

/** Did it leave something that a new run replaces? */
function hasEnded({ record }: Job): boolean {
  return !["Cancelled", "Deleted", "JobReplacedByClient"].includes(record.finishedReason ?? "");
}

/** What the header is made of, read from the session. */
export function shownOf(session: Session): Shown {
  const held = session.why.value?.workers ?? [];
  return {
    job: session.job.value,
    assembled: session.assembled.value,
    queue: session.queue.value,
    submitting: session.submitting.value,
    unsaved: session.unsaved.value,
    position: session.why.value?.position ?? null,
    workerCount: session.workers.value.length,
    fitsNobody: held.length > 0 && held.every(({ fits }) => !fits),
    connection: session.connection.value,
    uploads: session.uploads.value,
  };
}
