/**
 * What the parts of the page share: the words of the session, and nothing that runs.
 *
 * `session.ts` makes a `Session`; the parts in `parts/` read its signals and call its actions, and know neither the
 * socket nor the hash nor the host page. Times are milliseconds since the epoch, durations milliseconds, sizes bytes.
 */

import type { ReadonlySignal, Signal } from "@preact/signals";
import type { Client } from "../client.ts";
import type { Definition, JobRecord, LogLine, Result, Why, WorkerRecord } from "../contract.ts";

/** Which page was asked for: by the path of the address. */
export type Route =
  | { kind: "job" }
  /** `/j/ID`: the job of this id, whatever the hash says of a job. */
  | { kind: "job-page"; jobId: string }
  /** `/q/QUEUE`: the queue's dashboard. */
  | { kind: "queue-page"; queue: string };

/** One panel is open at a time, right of the console. */
export type Panel =
  | "inputs"
  | "editor"
  | "outputs"
  | "settings"
  | "queue"
  | "share"
  | "history"
  | "help"
  | "start"
  | null;

export type Connection = "none" | "connecting" | "connected" | "reconnecting" | "offline";

/** Something a person should know. `error` stays until it is dismissed; `note` goes by itself. */
export interface Notice {
  id: number;
  kind: "error" | "warning" | "note";
  text: string;
  /** What to do about it, in words. */
  hint?: string;
  action?: { label: string; run: () => void };
}

/** A parameter of the link that could not be read. The rest of the link is used. */
export interface LinkProblem {
  parameter: string;
  text: string;
  hint: string;
}

/** The job of the link, ready to be submitted. */
export interface Assembled {
  jobId: string;
  definition: Definition;
  namespace: string;
  control: Record<string, unknown>;
}

/**
 * Why there is no job to run. `consent`: it would use this machine, and nobody in this frame has agreed to that;
 * `loading`: a large input is on its way to the server, or the job of the address is being fetched.
 */
export type Missing =
  | { what: "image" }
  | { what: "queue" }
  | { what: "consent" }
  | { what: "loading" }
  | { what: "invalid"; problems: string[] };

export type StepName = "inputs" | "pull" | "clone" | "build" | "push" | "start" | "run" | "upload";

/** What the worker is doing, in order. `end` is null while it goes on. */
export interface Step {
  name: StepName;
  start: number;
  end: number | null;
  /** 0 to 1 where the step says how far it is. */
  progress: number | null;
}

export interface Job {
  jobId: string;
  record: JobRecord;
  /** Null until it has been fetched, or where there is none. */
  result: Result | null;
  steps: Step[];
}

export interface OutputFile {
  name: string;
  /** Null where the server did not say. */
  size: number | null;
  /** Where it is fetched from; sandboxed by the server. */
  url: string;
}

export interface Line {
  /** The number of the line within its half, from 0. */
  index: number;
  half: "build" | "run";
  text: string;
  time: number;
  isStderr: boolean;
}

/** The log of the shown job. `version` changes with every change, so that a view reads once per frame. */
export interface Log {
  version: ReadonlySignal<number>;
  lines(half: "build" | "run"): readonly Line[];
  /** Lines that are not shown because the log was too long to keep here. */
  dropped: ReadonlySignal<number>;
  isFinal: ReadonlySignal<boolean>;
}

/** The text of one file of the job, edited and not saved. */
export interface Unsaved {
  name: string;
  text: string;
}

/** A job of this browser, newest first; kept in IndexedDB, bounded. */
export interface HistoryEntry {
  jobId: string;
  queue: string;
  submitted: number;
  /** The link (hash) that made it, to open it again. */
  hash: string;
  image: string;
  command: string;
  outcome: string | null;
  exitCode: number | null;
}

export interface Session {
  route: ReadonlySignal<Route>;
  isFramed: boolean;
  panel: Signal<Panel>;
  notices: ReadonlySignal<readonly Notice[]>;
  linkProblems: ReadonlySignal<readonly LinkProblem[]>;

  /** The link's own parameters. `set` writes the hash (replacing, not pushing) and tells the host page. */
  params: Params;
  /**
   * The name of the resolved queue at `client`'s server: the override unless it is ignored; empty if there is none.
   * Of a queue that is given as an address this is the last part; `params.queue` has the address.
   */
  queue: ReadonlySignal<string>;
  /** The queue is this machine's own: a worker in local mode. */
  isLocal: ReadonlySignal<boolean>;
  /** In a frame of another origin's page: somebody there agreed that this machine is used. Kept as long as the tab. */
  localConsent: Signal<boolean>;
  /** Where the API of this queue is; `http://localhost:8000` and the like in local mode. */
  client: ReadonlySignal<Client>;
  connection: ReadonlySignal<Connection>;

  assembled: ReadonlySignal<Assembled | Missing>;
  /** Inputs that came from the host page, by name, and what they are to the job. */
  dynamicInputs: ReadonlySignal<ReadonlyMap<string, DataRefLike>>;
  /** Uploads under way, of inputs that are too large to be in the definition. */
  uploads: ReadonlySignal<ReadonlyMap<string, { sent: number; size: number }>>;

  /** The job that is shown, or null if the server knows none. */
  job: ReadonlySignal<Job | null>;
  why: ReadonlySignal<Why | null>;
  log: Log;
  outputs: ReadonlySignal<readonly OutputFile[] | null>;
  /** The edit that is not in the link yet: the main button saves it, then runs. The editor writes it. */
  unsaved: Signal<Unsaved | null>;
  /** A submit is under way, or waits for the connection to come back. */
  submitting: ReadonlySignal<"no" | "sending" | "waits-for-connection">;

  jobs: ReadonlySignal<ReadonlyMap<string, JobRecord>>;
  workers: ReadonlySignal<readonly WorkerRecord[]>;
  history: ReadonlySignal<readonly HistoryEntry[]>;

  /** Submit the assembled job. With `again` a finished job is run anew (its result is dropped first). */
  run(options?: { again?: boolean }): Promise<void>;
  /** Cancel the shown job in its namespace. */
  stop(): Promise<void>;
  /** Drop the result of the shown job. */
  clear(): Promise<void>;
  /** Cancel any job of the queue. */
  cancel(jobId: string): Promise<void>;
  /** Show another job of the queue in place; with null the job of the link again. */
  show(jobId: string | null): void;
  /** Take a job off this browser's history; with null all of them. */
  forget(entry: HistoryEntry | null): Promise<void>;
  /** A link to this job that works elsewhere, with the queue in it. */
  link(): string;
  notify(notice: Omit<Notice, "id">): number;
  dismiss(id: number): void;
}

export interface DataRefLike {
  type?: string;
  value: unknown;
  hash?: string;
}

export interface Params {
  job: Signal<Definition | undefined>;
  /** File name to text. */
  inputs: Signal<Record<string, string> | undefined>;
  queue: Signal<string | undefined>;
  queueOverride: Signal<string | undefined>;
  ignoreQueueOverride: Signal<boolean>;
  control: Signal<Record<string, unknown> | undefined>;
  autostart: Signal<boolean>;
  allowsetjob: Signal<boolean>;
  resolverefs: Signal<boolean>;
  terminal: Signal<boolean>;
  debug: Signal<boolean>;
  maxJobDuration: Signal<string | undefined>;
  /** The declared inputs and outputs, for editors of host pages. */
  definition: Signal<Record<string, unknown> | undefined>;
  /** Every other parameter: environment and `${name}`. */
  other: ReadonlySignal<ReadonlyMap<string, string>>;
}

export type { Definition, JobRecord, LogLine, Result, Why, WorkerRecord };
