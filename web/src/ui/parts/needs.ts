/** What a job needs of a worker: whether one has it, and how one is started that does. Pure. */

import type { JobRecord, Why, WorkerRecord } from "../../contract.ts";
import type { Session } from "../model.ts";
import { parseDurationS, parseSizeBytes, showDuration } from "./validate.ts";

export interface Needs {
  cpus: number;
  memoryBytes: number;
  /** As the definition says it: `64g`. Empty for none. */
  memory: string;
  gpus: number;
  /** Null: as long as the worker lets it. */
  durationS: number | null;
  tags: readonly string[];
}

/** A definition, or a record of a listing, which has no `maxDuration`. */
interface Asking {
  requirements?: Record<string, unknown> | null;
  tags?: readonly string[] | null;
  maxDuration?: unknown;
}

/** What a worker lends that is started with no options. Source: asman_worker/config.py; memory is the host's. */
const USUAL = { cpus: 1, durationS: 300 };

/** Read what a definition or a record of a listing asks for. Source: asman/definition.py, _read_requirements. */
export function needsOf(job: Asking): Needs {
  const asked = job.requirements ?? {};
  const durations = [job.maxDuration, asked.maxDuration].flatMap((each) => parseDurationS(each) ?? []);
  const { cpus, gpus, memory } = asked;
  return {
    cpus: typeof cpus === "number" ? cpus : 1,
    memoryBytes: parseSizeBytes(memory) ?? 0,
    memory: parseSizeBytes(memory) ? String(memory).replaceAll(/\s/g, "") : "",
    gpus: Number(gpus) || 0,
    durationS: durations.length > 0 ? Math.min(...durations) : null,
    tags: Array.isArray(job.tags) ? [...new Set(job.tags)].sort() : [],
  };
}

/** Would this worker take it if it were idle? Source: asman/matching.py, fits. */
export function fits(needs: Needs, worker: WorkerRecord): boolean {
  const capacity = worker.capacity ?? {};
  const limitS = capacity.max_duration_s ?? parseDurationS(worker.maxJobDuration);
  const tags = capacity.tags ?? [];
  return (
    needs.cpus <= (capacity.cpus ?? worker.cpus ?? 1) &&
    needs.memoryBytes <= (capacity.memory_bytes ?? Number.POSITIVE_INFINITY) &&
    needs.gpus <= gpusOf(worker) &&
    (needs.durationS === null || limitS === null || needs.durationS <= limitS) &&
    needs.tags.every((tag) => tags.includes(tag))
  );
}

export function gpusOf({ capacity, gpus }: WorkerRecord): number {
  return Array.isArray(capacity?.gpus) ? capacity.gpus.length : (capacity?.gpus ?? gpus ?? 0);
}

/** The options of `asman worker` that make it fit; none for a job that every worker fits. */
export function workerOptions({ cpus, memory, gpus, durationS, tags }: Needs): string[] {
  const options: string[] = [];
  if (cpus > USUAL.cpus) options.push("--cpus", String(cpus));
  if (memory) options.push("--memory", memory);
  if (gpus > 0) options.push("--gpus", String(gpus));
  if (durationS !== null && durationS > USUAL.durationS) options.push("--max-job-duration", durationText(durationS));
  if (tags.length > 0) options.push("--tags", tags.join(","));
  return options;
}

/** In whole units where they say it exactly; never less than what is asked for. */
function durationText(seconds: number): string {
  return seconds % 60 === 0 ? showDuration(seconds) : `${Math.ceil(seconds)}s`;
}

/** What the job needs that the page is about: the one that is shown, else the one of the link. */
export function needsHere({ job, assembled, why }: Pick<Session, "job" | "assembled" | "why">): Needs {
  const shown = job.value;
  const own = assembled.value;
  if (!shown || ("jobId" in own && own.jobId === shown.jobId)) return needsOf("jobId" in own ? own.definition : {});
  const needs = needsOf(shown.record);
  return { ...needs, durationS: askedDuration(why.value) ?? needs.durationS };
}

/** Listings do not say it, the answer why a job waits does. */
function askedDuration(why: Why | null): number | null {
  const asked = why?.workers.flatMap(({ rules }) => rules).find(({ rule }) => rule === "duration")?.asked;
  const seconds = Number(asked ?? "-");
  return Number.isFinite(seconds) ? seconds : null;
}

/** Jobs that wait and that no worker would take, be it idle. */
export function stuckJobs(
  jobs: ReadonlyMap<string, JobRecord>,
  workers: readonly WorkerRecord[],
  why: Why | null = null,
): number {
  let stuck = 0;
  const known = new Map<string, boolean>();
  for (const [jobId, record] of jobs) {
    if (record.state !== "Queued") continue;
    const key = JSON.stringify([record.requirements, record.tags]);
    let isStuck = known.get(key);
    if (isStuck === undefined) {
      const needs = needsOf(record);
      isStuck = !workers.some((worker) => fits(needs, worker));
      known.set(key, isStuck);
    }
    const isRefused = why?.jobId === jobId && why.workers.every((worker) => !worker.fits);
    if (isStuck || isRefused) stuck++;
  }
  return stuck;
}
