// Made by docs/generate.py from asman (contract.py, job.py, state.py, errors.py and others); edit those.

export const STATES = ["Queued", "Running", "Finished", "Removed"] as const;
export type State = (typeof STATES)[number];

/** Why a job finished, in the words of the wire. */
export const REASONS = ["Success", "Error", "TimedOut", "Cancelled", "JobReplacedByClient", "Deleted", "WorkerLost"] as const;
export type Reason = (typeof REASONS)[number];

/** The others only end the job. */
export const REASONS_WITH_RESULT = ["Success", "Error", "TimedOut"] as const;

/** What really happened, exit code included. */
export const OUTCOMES = ["succeeded", "failed", "timed_out", "out_of_memory", "cancelled", "replaced", "worker_lost", "error", "deleted"] as const;
export type Outcome = (typeof OUTCOMES)[number];

/** Every legal change of a job's state: from, event, to. */
export const CHANGES = [
  ["Absent", "Submitted", "Queued"],
  ["Running", "Submitted", "Queued"],
  ["Finished", "Submitted", "Queued"],
  ["Removed", "Submitted", "Queued"],
  ["Removed", "Submitted", "Finished"],
  ["Absent", "Imported", "Finished"],
  ["Removed", "Imported", "Finished"],
  ["Queued", "Claimed", "Running"],
  ["Queued", "Renewed", "Running"],
  ["Running", "Reported", "Finished"],
  ["Queued", "Reported", "Finished"],
  ["Running", "Released", "Queued"],
  ["Running", "Lapsed", "Finished"],
  ["Running", "Lapsed", "Queued"],
  ["Queued", "Cancelled", "Finished"],
  ["Running", "Cancelled", "Finished"],
  ["Queued", "Replaced", "Finished"],
  ["Running", "Replaced", "Finished"],
  ["Queued", "Deleted", "Finished"],
  ["Running", "Deleted", "Finished"],
  ["Removed", "Deleted", "Finished"],
  ["Finished", "Unlisted", "Removed"],
  ["Queued", "Expired", "Removed"],
  ["Running", "Expired", "Removed"],
  ["Finished", "Expired", "Removed"],
] as const;

/** utf8 is what a ref without a type is. */
export const REF_TYPES = ["base64", "json", "key", "url", "utf8"] as const;
export type RefType = (typeof REF_TYPES)[number];

/** Other members are kept and have no effect. */
export const KNOWN_MEMBERS = {
  "definition": ["build", "command", "configFiles", "entrypoint", "env", "image", "inputs", "maxDuration", "requirements", "shmSize", "tags", "v", "workdir"],
  "build": ["buildArgs", "buildContext", "context", "dockerfile", "filename", "platform", "target"],
  "requirements": ["cpus", "gpus", "maxDuration", "memory", "network"],
  "ref": ["hash", "type", "value"],
} as const;

/** Members that count for the id as they are. */
export const ID_MEMBERS = ["v", "image", "command", "entrypoint", "workdir", "shmSize", "maxDuration", "tags"] as const;

/** Objects that count in part. */
export const ID_PICKED_MEMBERS = {
  "build": ["context", "buildContext", "filename", "target", "dockerfile", "buildArgs", "platform"],
  "requirements": ["cpus", "gpus", "maxDuration", "memory", "network"],
} as const;

/** Variables of host pages: they do not count. */
export const INJECTED_ENV = ["CHANNEL", "channel", "edit", "fs-path", "parent-metapage-id", "readonly"] as const;

export const INJECTED_ENV_PREFIXES = ["mp-", "mp_"] as const;

export const DEFAULT_NAMESPACE = "_" as const;

export const ANY_NAMESPACE = "*" as const;

/** Pattern of a queue's name; . and .. are none. */
export const QUEUE_NAME = "[A-Za-z0-9._~-]{1,128}" as const;

/** Longer values of inputs are sent as blobs. */
export const INLINE_MAX_CHARACTERS = 200 as const;

export const WORKER_PROTOCOL = 2 as const;

/** Steps whose lines are the build log; all others the run log. */
export const BUILD_STEPS = ["cloning repo", "docker build", "docker image pull", "docker image push"] as const;

/** By profile of the server; 0: none. */
export const LIMITS = {
  "public": {"json_body_bytes": 1048576, "definition_bytes": 262144, "inline_data_bytes": 131072, "blob_bytes": 1073741824, "client_frame_bytes": 65536, "env_entries": 64, "env_value_bytes": 8192, "command_bytes": 32768, "tags": 32, "max_duration_s": 86400.0},
  "private": {"json_body_bytes": 16777216, "definition_bytes": 16777216, "inline_data_bytes": 16777216, "blob_bytes": 0, "client_frame_bytes": 16777216, "env_entries": 1000, "env_value_bytes": 131072, "command_bytes": 131072, "tags": 32, "max_duration_s": 2592000.0},
} as const;

/** By code. */
export const ERRORS = {
  "bad_archive": {"status": 400, "hint": "Give asman import a whole file that asman export wrote."},
  "bad_definition": {"status": 422, "hint": "Correct the named members of the definition and submit again."},
  "bad_json": {"status": 400, "hint": "Send one JSON document, UTF-8 encoded, without NaN or Infinity."},
  "bad_message": {"status": 400, "hint": "Send text frames of the form {\"type\": name, \"payload\": object}."},
  "bad_name": {"status": 400, "hint": "Use letters, digits and . _ ~ - in names; percent-encode the rest of a path once."},
  "bad_request": {"status": 400, "hint": "See /openapi.json for the shape of this request."},
  "blob_not_found": {"status": 404, "hint": "Upload it with PUT /f/<sha256>; blobs expire with the jobs that refer to them."},
  "config_error": {"status": 500, "hint": ""},
  "conflict": {"status": 409, "hint": "Read the record again and repeat the request."},
  "expired": {"status": 410, "hint": "Submit the job again; data is kept until its expiry time only."},
  "file_not_found": {"status": 404, "hint": "The job's record lists the names of its inputs and outputs."},
  "hash_mismatch": {"status": 422, "hint": "The key of a blob is the sha256 of its bytes; upload the bytes that the key names."},
  "id_mismatch": {"status": 422, "hint": "Leave out the id and the server computes it from the definition."},
  "internal_error": {"status": 500, "hint": ""},
  "job_not_found": {"status": 404, "hint": "Check the job id and the queue; a job is known from its submit until it expires."},
  "lease_lost": {"status": 409, "hint": "The job has been given to another attempt; drop this one."},
  "limit_exceeded": {"status": 413, "hint": "Put large data into blobs (PUT /f/<sha256>) and refer to them."},
  "method_not_allowed": {"status": 405, "hint": "See /openapi.json for the methods of this path."},
  "not_finished": {"status": 404, "hint": "Wait for the job, for example with GET /q/<queue>/j/<job>/stream."},
  "not_found": {"status": 404, "hint": ""},
  "origin_refused": {"status": 403, "hint": "Start the server with --allow-origin for the page that should reach it."},
  "range_refused": {"status": 416, "hint": "Ask for bytes inside the file; HEAD gives its size."},
  "rate_limited": {"status": 429, "hint": "Wait as long as Retry-After says."},
  "route_not_found": {"status": 404, "hint": "See /openapi.json for the routes of this server."},
  "storage_full": {"status": 507, "hint": "The server's disk is full; nothing was stored. Try again later or tell its operator."},
  "transition_refused": {"status": 409, "hint": "Read the record again and repeat the request."},
  "unavailable": {"status": 503, "hint": "Repeat the request; repeating is always safe."},
  "unprocessable": {"status": 422, "hint": ""},
} as const;

export type ErrorCode = keyof typeof ERRORS;

/** What errorCode of a result says, beside the codes above. */
export const RESULT_ERRORS = {
  "bad_definition": "the definition cannot be run as it is",
  "limit_exceeded": "more was asked for, or sent as inputs, than the owner allows",
  "fetch_timed_out": "the inputs took longer than --fetch-limit",
  "pull_timed_out": "the image took longer than --pull-limit",
  "build_timed_out": "building the image took longer than --build-limit",
  "source_unavailable": "what an image is built from could not be fetched, or is not there",
  "build_failed": "a step of the image's build failed, or the engine refused it",
  "build_too_large": "building the image wrote more than --max-image",
  "build_unbounded": "the engine cannot keep the build's steps within limits",
  "upload_timed_out": "sending the outputs took longer than --upload-limit",
  "image_unavailable": "the registry or the engine refused the image",
  "image_too_large": "the image is larger than --max-image",
  "outputs_too_large": "/outputs met its limit of bytes or files; what fits is kept",
  "disk_limit": "the container wrote more outside of /outputs than --max-layer, or ate the machine's disk",
  "hash_mismatch": "an input is not what its hash says",
  "transfer_refused": "an address refused an input, or the server an output",
  "unavailable": "the server, an input's address or the container engine did not answer for too long",
  "container_lost": "the container was removed, or could not be ended",
  "engine_refused": "the container engine refused a request, such as a program that cannot be started",
  "worker_io_failed": "reading or writing on the worker's own disk or network failed",
  "internal_error": "a fault of the worker",
} as const;

/** A file: its content, or where it is (a url, or the key of a blob of this server). */
export interface DataRef {
  /** Text; for the type json any value. */
  value: unknown;
  /** Default utf8. */
  type?: "base64" | "json" | "key" | "url" | "utf8" | "" | null;
  /** sha256 of the content; no part of the job's id. */
  hash?: string | null;
}

/** What to run. Members that are not listed are kept, have no effect and are warned about. */
export interface Definition {
  v?: number | string | boolean | null;
  /** Image to run; without it, build. */
  image?: string | null;
  build?: { context?: string | null; buildContext?: string | null; filename?: string | null; target?: string | null; dockerfile?: string | null; buildArgs?: string[] | null; platform?: string | null } | null;
  command?: string | string[] | null;
  entrypoint?: string | string[] | null;
  env?: Record<string, string | null> | null;
  workdir?: string | null;
  shmSize?: string | number | null;
  inputs?: Record<string, DataRef> | null;
  configFiles?: Record<string, DataRef> | null;
  /** Such as 20m or 1h; a number is milliseconds. */
  maxDuration?: string | number | null;
  tags?: string[] | null;
  requirements?: { cpus?: number | null; gpus?: number | boolean | null; memory?: string | number | null; maxDuration?: string | number | null; network?: "none" | "egress" | "" | null } | null;
  [member: string]: unknown;
}

export interface Callback {
  /** Where to POST the event; a public http or https address. */
  url: string;
  /** Handed on as config. */
  payload?: unknown;
}

/** Members of older clients that would be without effect (maxDuration, outputs) are refused. */
export interface Control {
  /** Who wants the job; default _. */
  namespace?: string | null;
  callbacks?: { queued?: Callback; finished?: Callback } | null;
}

export interface EnqueueJob {
  definition: Definition;
  /** Must be the definition's id; computed if it is left out. */
  id?: string | null;
  control?: Control | null;
  debug?: boolean | null;
}

export interface CopyJob {
  queue: string;
  control?: Control | null;
}

export interface Attempt {
  attempt: number;
  worker: string;
  /** Milliseconds since the epoch, UTC. */
  start: number;
  /** Milliseconds since the epoch, UTC. */
  end: number;
  /** reported, lost, released, cancelled, replaced, deleted or taken_over. */
  how: string;
}

/** A job in a listing. Members that do not apply are left out. */
export interface QueueRecord {
  /** Milliseconds since the epoch, UTC. */
  queuedTime: number;
  state: State;
  /** Milliseconds since the epoch, UTC. */
  time: number;
  /** The worker that holds the job or held it last; empty if none has. */
  worker: string;
  namespaces: string[];
  /** Rises with every claim; results of older attempts are refused. */
  attempt: number;
  /** Rises with every submit that starts the job anew. */
  generation: number;
  /** Milliseconds since the epoch, UTC. */
  expiresAt: number;
  finishedReason?: Reason;
  /** What really happened, a non-zero exit code included. */
  outcome?: Outcome;
  /** Milliseconds since the epoch, UTC. */
  leaseUntil?: number;
  exitCode?: number;
  message?: string;
  debug?: boolean;
  requirements?: Record<string, unknown>;
  tags?: string[];
  attempts?: Attempt[];
}

export interface RunResult {
  /** The container's exit code. */
  StatusCode?: number | null;
  logs?: LogLine[];
  /** Milliseconds. */
  duration?: number | null;
  /** What went wrong, if something did. */
  error?: unknown;
  isTimedOut?: boolean | null;
  outputs?: Record<string, DataRef> | null;
  /** When the worker's steps began: name, and milliseconds since the epoch. */
  steps?: [string, number][];
  [member: string]: unknown;
}

/** The whole record of a job that left a result. */
export interface FinishedRecord {
  /** Milliseconds since the epoch, UTC. */
  queuedTime: number;
  state: State;
  /** Milliseconds since the epoch, UTC. */
  time: number;
  /** The worker that holds the job or held it last; empty if none has. */
  worker: string;
  namespaces: string[];
  /** Rises with every claim; results of older attempts are refused. */
  attempt: number;
  /** Rises with every submit that starts the job anew. */
  generation: number;
  /** Milliseconds since the epoch, UTC. */
  expiresAt: number;
  finishedReason: Reason;
  /** What really happened, a non-zero exit code included. */
  outcome: Outcome;
  finished: { reason: Reason; type?: "Finished"; time?: number; worker?: string; message?: string; namespace?: string; outcome?: Outcome; result?: RunResult };
  /** Milliseconds since the epoch, UTC. */
  leaseUntil?: number;
  exitCode?: number;
  message?: string;
  debug?: boolean;
  requirements?: Record<string, unknown>;
  tags?: string[];
  attempts?: Attempt[];
}

/** Text, milliseconds since the epoch, and true for the error stream. */
export type LogLine = [string, number?, boolean?];

export interface LogSlice {
  data: LogLine[];
  /** Index of the first line here. */
  sliceStart: number;
  /** Ask with since=nextCursor for what comes next. */
  nextCursor: number;
  /** The job has ended: no more lines come. */
  isFinal: boolean;
  /** A new attempt starts again at 0. */
  attempt: number;
}

export interface Submitted {
  success: true;
  /** sha256 of the definition's canonical JSON, as 64 lowercase hex digits. */
  jobId: string;
  /** A stored result answers; nothing will run. */
  cached: boolean;
  state: State;
  warnings?: string[];
  job?: QueueRecord;
  /** With Prefer: wait, if the job ended in time: as result.json answers. */
  data?: FinishedRecord | null;
}

export interface DryRun {
  success: true;
  dryRun: true;
  /** sha256 of the definition's canonical JSON, as 64 lowercase hex digits. */
  jobId: string;
  cached: boolean;
  /** Would a worker that is connected here take it? */
  wouldRun: boolean | null;
  /** How many workers are connected here. */
  workers: number;
  fitting: string[];
  /** What it is now; null if it is not known in this queue. */
  state: State | null;
  warnings?: string[];
}

export interface Job {
  definition: Definition;
  results?: FinishedRecord;
  job?: QueueRecord;
}

export type Cancelled = { success: true; jobId: string; namespace: string; state: State; namespaces: string[] } | { message: string; state?: State; namespaces?: string[] };

export interface Deleted {
  success: true;
  /** sha256 of the definition's canonical JSON, as 64 lowercase hex digits. */
  jobId: string;
  state: State;
  namespaces: string[];
}

export interface Copied {
  success: true;
  /** sha256 of the definition's canonical JSON, as 64 lowercase hex digits. */
  jobId: string;
  cached: boolean;
}

export interface Why {
  /** sha256 of the definition's canonical JSON, as 64 lowercase hex digits. */
  jobId: string;
  state: State;
  /** Jobs before it; null if it does not wait. */
  position: number | null;
  /** Milliseconds since the epoch, UTC. */
  queuedTime: number;
  waitedSeconds: number | null;
  attempt: number;
  workers: WorkerFit[];
  /** The answer in one sentence. */
  reason: string;
}

export interface WorkerFit {
  id: string;
  /** It would take the job if it were idle. */
  fits: boolean;
  /** It would take it now. */
  free: boolean;
  rules: { rule: string; passed: boolean; asked: string; has: string; freeNow: string }[];
}

export interface Stored {
  success: true;
  key: string;
  size: number;
  sha256: string;
}

export interface Exists {
  exists: boolean;
}

export interface SignedUrl {
  url: string;
  ref: DataRef;
  size?: number;
}

export interface Status {
  jobs: Record<string, QueueRecord>;
  otherServers: Record<string, Record<string, unknown>>;
  localWorkers: Record<string, { id: string; cpus?: number; gpus?: number; queue?: Record<string, unknown> }>;
  clientCount: number;
  queueInfo: { address: string; serverId: string; broadcastChannel: string; jobCount: number; localWorkerCount: number; otherWorkerCount: number; clientCount: number; jobStates: { id: string; state: State; worker: string }[] };
}

export interface Scale {
  queue: string;
  /** Queued jobs. */
  backlog: number;
  running: number;
  /** Queued and running jobs. */
  length: number;
  /** 0 if nothing waits. */
  oldestWaitSeconds: number;
  requested: Amounts;
  /** Workers that are connected. */
  workers: number;
  free: Amounts;
  /** Queued jobs that fit no worker of this size. */
  tooLarge: number;
  /** Workers of this size that would run everything at once. */
  desiredWorkers: number;
}

export interface QueueHistory {
  queue: string;
  /** Now. */
  time: number;
  /** What happened earlier was not counted: a server may have begun then. */
  since: number;
  /** Whose counts these are: of all servers that answered in time. */
  servers: number;
  /** Jobs that wait now. */
  queued: number;
  hour: { submitted: number; started: number; finished: Record<string, number>; wait: Durations; run: Durations };
  minutes: QueueMinute[];
}

export interface QueueMinute {
  /** Milliseconds since the epoch, UTC. */
  start: number;
  /** Jobs that waited at the end of it. */
  queued: number;
  /** Submits that queued a job; cached answers are none. */
  submitted: number;
  started: number;
  /** By outcome. */
  finished: Record<string, number>;
  /** From queued to started. */
  wait: Durations;
  /** From started to reported. */
  run: Durations;
}

export interface Durations {
  count: number;
  /** Seconds, within 5 %; null if there is none. */
  median: number | null;
  /** Seconds: nine of ten were not longer. */
  p90: number | null;
}

export interface Metaframe {
  version: "2";
  metadata: Record<string, unknown>;
  inputs: Record<string, Record<string, unknown>>;
  outputs: Record<string, Record<string, unknown>>;
  hashParams: Record<string, { type: string; label: string; description: string; allowed?: Record<string, unknown>[]; default?: Record<string, unknown> }>;
  /** Browser features that a frame of it wants. */
  allow?: string;
}

export interface Amounts {
  cpus: number;
  gpus: number;
}

export interface ErrorAnswer {
  /** What happened, the value and the limit, in one sentence. */
  error: string;
  /** Stable; what programs compare. */
  code: ErrorCode;
  /** The next step. */
  hint: string;
  requestId: string;
  details?: { loc: string; msg: string }[];
}
