/**
 * The words of the wire, as programs hold them: the generated shapes under the names that the page uses, and what the
 * generator does not know (the sockets, what a worker says of itself, the events of a stream).
 *
 * Times are milliseconds since the epoch, durations milliseconds, sizes bytes, unless a name says otherwise.
 */

import type {
  DataRef,
  Definition,
  FinishedRecord,
  LogLine,
  Outcome,
  QueueRecord,
  Reason,
  RunResult as ReportedResult,
  State,
  WorkerFit,
} from "./contract.gen.ts";

export type {
  Attempt,
  Callback,
  Control,
  DataRef,
  Definition,
  DryRun,
  ErrorAnswer,
  ErrorCode,
  LogLine,
  Outcome,
  QueueHistory,
  QueueMinute,
  Reason,
  RefType,
  Scale,
  State,
  Status,
  Why,
  WorkerFit,
} from "./contract.gen.ts";

/** A job as listings and frames show it. */
export type JobRecord = QueueRecord;

export type WorkerRule = WorkerFit["rules"][number];

/** What a worker reports of a run; every member may be missing. */
export interface RunResult extends ReportedResult {
  /** For programs: a key of `RESULT_ERRORS` or of `ERRORS`. */
  errorCode?: string;
  /** The most memory the container was seen to use, file cache included. */
  peakMemoryBytes?: number;
  oomKilled?: boolean;
  /** Outputs that were not kept, and why. */
  outputsSkipped?: { name: string; reason: string }[];
  /** Bytes of the log that were not kept. */
  logsDropped?: number;
}

/** How a job ended, with what its worker reported. */
export type Finished = Omit<FinishedRecord["finished"], "result"> & { result?: RunResult };

/** The whole record of a job that left a result. Who made it: `worker` and `attempt`. */
export type Result = Omit<FinishedRecord, "finished"> & { finished: Finished };

/** The two logs of a job: fetching and building its image, and the container. */
export type Half = "build" | "run";

/** What a worker says of itself. Older workers say only the first few; everything is a claim of its owner. */
export interface WorkerRecord {
  id: string;
  version?: string;
  time?: number;
  cpus?: number;
  gpus?: number;
  /** Such as `1h`. */
  maxJobDuration?: string;
  protocol?: number;
  capacity?: {
    cpus?: number;
    memory_bytes?: number;
    gpus?: number | { uuid?: string; model?: string; memory_bytes?: number }[];
    tags?: string[];
    max_duration_s?: number | null;
    arch?: string;
    [member: string]: unknown;
  };
  [member: string]: unknown;
}

/** The answer to a submit. The job is on stable storage, as far as `durability` says. */
export interface Submitted {
  jobId: string;
  /** A stored result answers; nothing will run. */
  isCached: boolean;
  state: State;
  /** Sentences about members without effect. */
  warnings: string[];
  /** What the acknowledged job survives: `disk`, `everysec` or `memory`. */
  durability: string | null;
  /** With `wait`: the record, and the result if the job ended in time. */
  record: JobRecord | null;
  result: Result | null;
}

/** A job in its queue. */
export interface JobView {
  /** Null if it is gone. */
  definition: Definition | null;
  record: JobRecord;
  results?: Result;
}

export interface LogPage {
  lines: LogLine[];
  /** The number of the first line here. */
  start: number;
  /** Ask with `since: nextCursor` for what comes next. */
  nextCursor: number;
  /** The job has ended: no more lines come. */
  isFinal: boolean;
  /** Lines of a new attempt start again at 0. */
  attempt: number;
}

/** One output (or input) of a job. */
export interface OutputRef {
  name: string;
  /** Where it is fetched from; for the client of the page's own server a path. */
  url: string;
  /** Bytes; null where nobody said. */
  size: number | null;
  ref: DataRef;
}

/** How a job ended, told by the stream. */
export interface Ending {
  state: State;
  reason: Reason;
  outcome: Outcome | null;
  exitCode?: number;
  message?: string;
}

/**
 * What a stream tells, in order.
 *
 * `reset`: a new attempt began, so the lines until here are of an attempt before; both logs start again at 0.
 * `connection`: the connection was lost or is there again; nothing is lost or told twice.
 * `final` comes once and is the last.
 */
export type StreamEvent =
  | { kind: "state"; state: State; attempt?: number; worker?: string; ending: Ending | null }
  | { kind: "log"; half: Half; lines: LogLine[]; start: number; attempt: number }
  | { kind: "reset"; attempt: number }
  | { kind: "connection"; isOpen: boolean; error: Error | null; retryInMs: number | null }
  | ({ kind: "final" } & Ending);

// --- frames of the sockets -------------------------------------------------------------------------------------------

/** `JobStates` shows the whole queue and replaces what was known, `JobStateUpdates` some jobs of it. */
export interface JobsFrame {
  type: "JobStates" | "JobStateUpdates";
  payload: { state: { jobs: Record<string, JobRecord> }; isSubset: boolean };
}

export interface WorkersFrame {
  type: "Workers";
  payload: { workers: WorkerRecord[] };
}

/**
 * Lines as a worker sends them. Not replayed: a stream or the stored log has all of them. `began` says that the step
 * has just begun, at this time (milliseconds since the epoch); then there may be no lines.
 */
export interface LogsFrame {
  type: "JobStatusPayload";
  payload: { jobId: string; step: string; logs: LogLine[]; attempt?: number; seq?: number; began?: number };
}

export interface ErrorFrame {
  type: "Error";
  payload: { code: string; error: string; hint: string; ref: string };
}

export type ServerFrame = JobsFrame | WorkersFrame | LogsFrame | ErrorFrame;

/** What a client sends. Submits, cancels and deletes go over HTTP, which answers; these are for older servers. */
export type ClientFrame =
  | { type: "QueryJob"; payload: { jobId: string } }
  | { type: "QueryJobStates" }
  | { type: "StateChange"; payload: { state: State; job: string; tag: string; value: Record<string, unknown> } };
