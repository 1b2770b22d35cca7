/** What the queue's lists show of jobs and workers: words, order, filters, load. Pure. */

import type { Definition, JobRecord, Why, WorkerRecord } from "../../contract.ts";
import type { IconName } from "../icons.tsx";
import type { Connection } from "../model.ts";
import type { Tone } from "../status.ts";
import { gpusOf, type Needs, needsOf, stuckJobs } from "./needs.ts";
import { shortId, showBytes } from "./why-words.ts";

// --- jobs ------------------------------------------------------------------------------------------------------------

/** What runs, as far as the definition tells it in two short texts. */
export interface What {
  image: string;
  command: string;
}

const TEXT_MAX = 200;

export function whatOf(definition: Pick<Definition, "image" | "build" | "command" | "entrypoint">): What {
  const { image, build, command, entrypoint } = definition;
  const source = build?.context || (build?.dockerfile ? "its own Dockerfile" : "");
  const words = [entrypoint, command].flatMap((each) => (Array.isArray(each) ? each.join(" ") : (each ?? [])));
  return { image: clip(image || (source ? `built from ${source}` : "no image")), command: clip(words.join(" ")) };
}

const clip = (text: string) => (text.length > TEXT_MAX ? `${text.slice(0, TEXT_MAX)}…` : text);

export interface JobRow {
  jobId: string;
  record: JobRecord;
}

export interface JobWords {
  title: string;
  icon: IconName;
  tone: Tone;
}

const ENDS: Record<string, [string, IconName, Tone]> = {
  succeeded: ["Done", "check", "good"],
  failed: ["Failed", "warn", "warn"],
  timed_out: ["Timed out", "bad", "bad"],
  out_of_memory: ["Out of memory", "bad", "bad"],
  cancelled: ["Cancelled", "stop", "plain"],
  replaced: ["Replaced", "stop", "plain"],
  worker_lost: ["Worker lost", "bad", "bad"],
  error: ["Could not run", "bad", "bad"],
  deleted: ["Removed", "trash", "plain"],
};

/** The end in words, of a record or of this browser's history. */
export function endWords(outcome: string | null | undefined, exitCode: number | null | undefined): JobWords {
  const [title, icon, tone] = ENDS[outcome ?? ""] ?? [outcome || "Finished", "check" as IconName, "plain" as Tone];
  const isTold = outcome === "failed" && typeof exitCode === "number";
  return { title: isTold ? `${title} (exit ${exitCode})` : title, icon, tone };
}

export function jobWords(record: JobRecord): JobWords {
  if (record.state === "Queued") return { title: "Queued", icon: "wait", tone: "plain" };
  if (record.state === "Running") return { title: "Running", icon: "running", tone: "plain" };
  return endWords(outcomeOf(record), record.exitCode);
}

/** Older servers say only the reason, which is Success for a program that failed. */
export function outcomeOf(record: JobRecord): string {
  if (record.outcome) return record.outcome;
  const outcomes: Record<string, string> = {
    Success: record.exitCode ? "failed" : "succeeded",
    Error: "error",
    TimedOut: "timed_out",
    Cancelled: "cancelled",
    JobReplacedByClient: "replaced",
    Deleted: "deleted",
    WorkerLost: "worker_lost",
  };
  return outcomes[record.finishedReason ?? ""] ?? "";
}

/** How long it has waited, has run, or took; null where the record does not tell. */
export function lastedOf(record: JobRecord, now: number): number | null {
  if (record.state === "Queued" || record.state === "Running") return Math.max(now - record.time, 0);
  const last = record.attempts?.at(-1);
  return last && last.how === "reported" ? last.end - last.start : null;
}

/** What the list is narrowed to. `ended` are all that finished, `failed` those that did not succeed. */
export type StateFilter = "all" | "active" | "queued" | "running" | "succeeded" | "failed" | "stopped";

export const STATE_FILTERS: readonly { name: StateFilter; label: string }[] = [
  { name: "all", label: "All states" },
  { name: "active", label: "Queued or running" },
  { name: "queued", label: "Queued" },
  { name: "running", label: "Running" },
  { name: "succeeded", label: "Done" },
  { name: "failed", label: "Failed" },
  { name: "stopped", label: "Cancelled or replaced" },
];

const STOPPED = ["cancelled", "replaced", "deleted"];

function isInState(record: JobRecord, filter: StateFilter): boolean {
  const isActive = record.state === "Queued" || record.state === "Running";
  switch (filter) {
    case "all":
      return true;
    case "active":
      return isActive;
    case "queued":
      return record.state === "Queued";
    case "running":
      return record.state === "Running";
    case "succeeded":
      return !isActive && outcomeOf(record) === "succeeded";
    case "stopped":
      return !isActive && STOPPED.includes(outcomeOf(record));
    case "failed":
      return !isActive && outcomeOf(record) !== "succeeded" && !STOPPED.includes(outcomeOf(record));
  }
}

export interface JobFilter {
  state: StateFilter;
  /** Words that all must be found: in id, image, command, namespace, worker, tags, message or state. */
  text: string;
}

/** The jobs to show: running first, then those that wait, each newest first; then those that ended last. */
export function jobRows(
  jobs: ReadonlyMap<string, JobRecord>,
  filter: JobFilter,
  what: (jobId: string) => What | null,
): JobRow[] {
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
  const rows: JobRow[] = [];
  for (const [jobId, record] of jobs) {
    if (record.state === "Removed" || !isInState(record, filter.state)) continue;
    if (words.length && !hasWords(jobId, record, what(jobId), words)) continue;
    rows.push({ jobId, record });
  }
  const rank = ({ record }: JobRow) => (record.state === "Running" ? 0 : record.state === "Queued" ? 1 : 2);
  return rows.sort((a, b) => rank(a) - rank(b) || timeOf(b.record) - timeOf(a.record) || (a.jobId < b.jobId ? -1 : 1));
}

const timeOf = (record: JobRecord) => (record.state === "Queued" ? record.queuedTime : record.time);

function hasWords(jobId: string, record: JobRecord, what: What | null, words: readonly string[]): boolean {
  const text = [
    jobId,
    what?.image,
    what?.command,
    ...record.namespaces,
    record.worker,
    ...(record.tags ?? []),
    record.message,
    jobWords(record).title,
  ]
    .join(" ")
    .toLowerCase();
  return words.every((word) => text.includes(word));
}

/** Namespaces worth showing: the default one says nothing. */
export function namespacesOf(record: JobRecord): string {
  return record.namespaces.filter((name) => name !== "_").join(", ");
}

export interface Counts {
  queued: number;
  running: number;
}

export function countsOf(jobs: ReadonlyMap<string, JobRecord>): Counts {
  const counts = { queued: 0, running: 0 };
  for (const { state } of jobs.values()) {
    if (state === "Queued") counts.queued++;
    else if (state === "Running") counts.running++;
  }
  return counts;
}

// --- workers ---------------------------------------------------------------------------------------------------------

export interface Share {
  name: "CPUs" | "Memory" | "GPUs";
  used: number;
  /** Null where the worker does not say. */
  total: number | null;
  /** `3 of 8`, `2.0 GiB of 16 GiB`. */
  text: string;
}

export interface WorkerRow {
  id: string;
  version: string;
  shares: Share[];
  /** Jobs of this queue that it runs. */
  running: string[];
  maxDuration: string;
  tags: string[];
  arch: string;
  /** When it registered; null where it is not said. */
  since: number | null;
}

/** The workers, busiest first. What they run of other queues is not known here. */
export function workerRows(workers: readonly WorkerRecord[], jobs: ReadonlyMap<string, JobRecord>): WorkerRow[] {
  const held = new Map<string, [string, JobRecord][]>();
  for (const [jobId, record] of jobs) {
    if (record.state !== "Running") continue;
    const its = held.get(record.worker);
    if (its) its.push([jobId, record]);
    else held.set(record.worker, [[jobId, record]]);
  }
  const rows = workers.map((worker) => workerRow(worker, held.get(worker.id) ?? []));
  return rows.sort((a, b) => b.running.length - a.running.length || (a.id < b.id ? -1 : 1));
}

function workerRow(worker: WorkerRecord, held: readonly [string, JobRecord][]): WorkerRow {
  const capacity = worker.capacity ?? {};
  const needs = held.map(([, record]) => needsOf(record));
  const sum = (of: (each: Needs) => number) => needs.reduce((total, each) => total + of(each), 0);
  const cpus = sum((each) => each.cpus);
  const shares: Share[] = [share("CPUs", cpus, capacity.cpus ?? worker.cpus ?? null)];
  const { memory_bytes: memory } = capacity;
  if (memory)
    shares.push(
      share(
        "Memory",
        sum((each) => each.memoryBytes),
        memory,
      ),
    );
  const gpus = gpusOf(worker);
  if (gpus > 0)
    shares.push(
      share(
        "GPUs",
        sum((each) => each.gpus),
        gpus,
      ),
    );
  return {
    id: worker.id,
    version: worker.version ?? "",
    shares,
    running: held.map(([jobId]) => jobId),
    maxDuration: worker.maxJobDuration ?? "",
    tags: capacity.tags ?? [],
    arch: typeof capacity.arch === "string" ? capacity.arch : "",
    since: worker.time ?? null,
  };
}

function share(name: Share["name"], used: number, total: number | null): Share {
  const show = name === "Memory" ? showBytes : (value: number) => String(Math.round(value * 100) / 100);
  const text = total === null ? `${show(used)} in use` : `${used === 0 ? 0 : show(used)} of ${show(total)}`;
  return { name, used, total, text };
}

// --- the whole queue -------------------------------------------------------------------------------------------------

export interface Health {
  tone: Tone;
  text: string;
}

/** How the queue is, in one sentence. `why` is of the shown job, of which the listing does not tell all. */
export function healthOf(
  jobs: ReadonlyMap<string, JobRecord>,
  workers: readonly WorkerRecord[],
  connection: Connection,
  why: Why | null = null,
): Health {
  if (connection === "none") return { tone: "plain", text: "No queue is chosen." };
  if (connection === "connecting") return { tone: "plain", text: "Connecting to the queue…" };
  const { queued, running } = countsOf(jobs);
  const before = connection === "connected" ? "" : "The connection is lost; this is what was known: ";
  const lower = (text: string) => (before ? text.charAt(0).toLowerCase() + text.slice(1) : text);
  const tone = (connected: Tone): Tone => (before ? "warn" : connected);
  if (workers.length === 0) {
    const jobsText =
      queued + running === 0 ? "Jobs would wait" : `${count(queued + running, "job waits", "jobs wait")}`;
    return { tone: "warn", text: `${before}${lower(`${jobsText}: no worker is connected.`)}` };
  }
  const idle = workerRows(workers, jobs).filter((worker) => worker.running.length === 0).length;
  const there = `${count(workers.length, "worker", "workers")}, ${idle === workers.length ? "idle" : idle === 0 ? "none idle" : `${idle} idle`}`;
  if (queued + running === 0) return { tone: tone("good"), text: `${before}${lower(`Nothing waits; ${there}.`)}` };
  const runs = running === 0 ? "nothing runs" : count(running, "job runs", "jobs run");
  const waits = queued === 0 ? "none waits" : `${queued} ${queued === 1 ? "waits" : "wait"}`;
  const stuck = stuckJobs(jobs, workers, why);
  const text = `${runs.charAt(0).toUpperCase()}${runs.slice(1)}, ${waits}${stuckWords(stuck, queued)}; ${there}.`;
  const isGood = stuck === 0 && (queued === 0 || running > 0);
  return { tone: tone(isGood ? "good" : "warn"), text: `${before}${lower(text)}` };
}

function stuckWords(stuck: number, queued: number): string {
  if (stuck === 0) return "";
  if (stuck < queued) return `, of which ${stuck} ${stuck === 1 ? "fits" : "fit"} no worker`;
  return queued === 1 ? " and fits no worker" : " and fit no worker";
}

const count = (number: number, one: string, many: string) => `${number} ${number === 1 ? one : many}`;

export { shortId };
