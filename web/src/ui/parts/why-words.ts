/** Why a job waits, in sentences that say what to do. Pure. */

import type { Why, WorkerFit, WorkerRule } from "../../contract.ts";
import { showDuration } from "../time.ts";

export interface WhyWords {
  /** One sentence: the reason. */
  reason: string;
  /** What to do about it, or what will happen by itself. */
  advice: string[];
  /** Its place: `Number 4 of 9 in the queue.` Empty if it is of no use to know. */
  place: string;
  /** What it asks for and nobody has, rule by rule. */
  missing: string[];
  /** Each worker, and what of the job it cannot do or cannot do now. */
  workers: { id: string; isFitting: boolean; text: string }[];
  /** Another worker would help. */
  wantsWorker: boolean;
}

/** The server counts so many before a job and no further. */
const COUNTED = 1_000;

/** `queued` is how many jobs of the queue wait, this one too. */
export function whyWords(why: Why, queued: number): WhyWords {
  const { workers } = why;
  const fitting = workers.filter((worker) => worker.fits);
  const words = {
    advice: again(why),
    place: placeOf(why.position, queued),
    missing: [],
    workers: workers.map(workerWords),
    wantsWorker: false,
  };
  if (workers.length === 0)
    return {
      ...words,
      reason: "No worker is connected to this queue.",
      advice: [...words.advice, "It starts as soon as one is. Start one on any machine with Docker:"],
      wantsWorker: true,
    };
  if (fitting.length === 0) {
    const missing = missingWords(workers);
    return {
      ...words,
      reason: workers.length === 1 ? "The worker of this queue does not fit." : noneFits(workers.length),
      missing: missing.length ? missing : ["Each rule is met by some worker, but no worker meets all of them."],
      advice: [...words.advice, "Ask for less in the settings, or start a worker that has it:"],
      wantsWorker: true,
    };
  }
  if (fitting.some((worker) => worker.free))
    return {
      ...words,
      reason: "A worker has room for it: it starts in a moment.",
      advice: why.position ? [...words.advice, "Jobs before it may take that place first."] : words.advice,
    };
  return {
    ...words,
    reason: fitting.length === 1 ? busyOne(fitting[0] as WorkerFit, workers.length) : busyAll(fitting.length, workers),
    advice: [...words.advice, "It starts when one has room. Another worker would make it start sooner:"],
    wantsWorker: true,
  };
}

const noneFits = (count: number) =>
  count === 2 ? "Neither of the 2 workers fits this job." : `None of the ${count} workers fits this job.`;

function busyOne({ id }: WorkerFit, all: number): string {
  return all === 1 ? `The worker ${shortId(id)} is busy.` : `The only worker that fits, ${shortId(id)}, is busy.`;
}

function busyAll(fitting: number, workers: readonly WorkerFit[]): string {
  const which = fitting === workers.length ? "" : " that fit";
  return fitting === 2 ? `Both workers${which} are busy.` : `All ${fitting} workers${which} are busy.`;
}

function placeOf(position: number | null, queued: number): string {
  if (position === null) return "";
  if (position >= COUNTED) return `At least ${COUNTED} jobs are before it.`;
  const of = Math.max(queued, position + 1);
  if (of === 1) return "";
  return position === 0 ? `Next of ${of} that wait.` : `Number ${position + 1} of ${of} that wait.`;
}

function again({ attempt }: Why): string[] {
  if (attempt === 0) return [];
  const how = attempt === 1 ? "An attempt" : `${attempt} attempts`;
  return [`${how} ended early: the worker went away or gave it back. It is tried again.`];
}

/** What nobody has. A rule that one worker at least meets is not the reason. */
function missingWords(workers: readonly WorkerFit[]): string[] {
  const names = [...new Set(workers.flatMap((worker) => worker.rules.map((rule) => rule.rule)))];
  return names.flatMap((name) => {
    const rules = workers.flatMap((worker) => worker.rules.filter((rule) => rule.rule === name));
    return rules.some((rule) => rule.passed) ? [] : [missingRule(name, rules)];
  });
}

function missingRule(name: string, rules: readonly WorkerRule[]): string {
  const asked = rules[0]?.asked ?? "-";
  const only = rules.length === 1;
  if (name === "tags") {
    const had = rules.map((rule) => tagsOf(rule.has));
    const nowhere = tagsOf(asked).filter((tag) => had.every((tags) => !tags.includes(tag)));
    const tags = nowhere.length ? nowhere : tagsOf(asked);
    const who = only ? "the worker does not have" : nowhere.length ? "no worker has" : "no worker has all of";
    return `It wants a worker with the ${tagWords(tagsOf(asked))}; ${who} ${tags.length > 1 ? tags.join(" and ") : tags[0]}.`;
  }
  const largest = Math.max(...rules.map((rule) => Number(rule.has)));
  if (!Number.isFinite(largest)) return `Its ${name} (${asked}) is more than ${only ? "the worker has" : "any has"}.`;
  if (name === "duration")
    return `It may run for ${seconds(asked)}; ${only ? "the worker takes jobs of" : "no worker takes more than"} ${
      only ? `at most ${seconds(largest)}` : seconds(largest)
    }.`;
  const has =
    largest === 0
      ? only
        ? "the worker has none"
        : "no worker has one"
      : `${only ? "the worker" : "the largest"} has ${amount(name, largest, true)}`;
  return `It asks for ${amount(name, Number(asked))}; ${has}.`;
}

function workerWords({ id, fits, free, rules }: WorkerFit): WhyWords["workers"][number] {
  const failed = rules.filter((rule) => !rule.passed);
  if (!fits) return { id, isFitting: false, text: failed.map(shortRule).join(", ") || "does not fit" };
  if (free) return { id, isFitting: true, text: "has room for it" };
  const full = rules.filter((rule) => isNumber(rule.asked) && Number(rule.freeNow) < Number(rule.asked));
  const named = full.filter((rule) => rule.rule !== "duration").map(freeRule);
  return { id, isFitting: true, text: named.length ? `busy: ${named.join(", ")}` : "busy: takes no more jobs now" };
}

function shortRule({ rule, asked, has }: WorkerRule): string {
  if (rule === "tags") {
    const lacks = tagsOf(asked).filter((tag) => !tagsOf(has).includes(tag));
    return `has not the ${tagWords(lacks)}`;
  }
  if (rule === "duration") return `takes jobs of at most ${seconds(has)}`;
  if (Number(has) === 0) return `has no ${unitOf(rule, 0)}`;
  return isNumber(has) ? `has ${amount(rule, Number(has))}` : `${rule}: has ${has}`;
}

function freeRule({ rule, freeNow }: WorkerRule): string {
  const left = Math.max(Number(freeNow), 0);
  return left === 0 ? `no ${unitOf(rule, 0)} free` : `${amount(rule, left)} free`;
}

const isNumber = (text: string) => text !== "-" && Number.isFinite(Number(text));

const tagsOf = (text: string) => (text === "-" ? [] : text.split(",").filter(Boolean));

const tagWords = (tags: readonly string[]) => `${tags.length === 1 ? "tag" : "tags"} ${tags.join(" and ")}`;

const seconds = (value: string | number) =>
  isNumber(String(value)) ? showDuration(Number(value) * 1_000) : `${value}`;

/** `2 GPUs`, `1 CPU`, `8 GiB of memory`; with `isBare` only the number where the unit was just said. */
function amount(rule: string, value: number, isBare = false): string {
  if (rule === "memory") return isBare ? showBytes(value) : `${showBytes(value)} of memory`;
  return isBare ? showNumber(value) : `${showNumber(value)} ${unitOf(rule, value)}`;
}

function unitOf(rule: string, value: number): string {
  const units: Record<string, [string, string]> = { cpus: ["CPU", "CPUs"], gpus: ["GPU", "GPUs"] };
  const [one, many] = units[rule] ?? [rule, rule];
  return value === 1 ? one : many;
}

const showNumber = (value: number) => String(Math.round(value * 100) / 100);

/** In powers of 1024, as the definition asks for it: `512 MiB`, `1.5 GiB`. */
export function showBytes(bytes: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let [value, unit] = [bytes, 0];
  while (value >= 1_024 && unit < units.length - 1) [value, unit] = [value / 1_024, unit + 1];
  return `${value >= 100 || Number.isInteger(value) ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** Enough of an id to tell it from others. */
export function shortId(id: string): string {
  return id.length > 18 ? `${id.slice(0, 16)}…` : id;
}
