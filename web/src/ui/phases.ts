/**
 * The steps of a job (inputs, pull, clone, build, push, start, run, upload), put together from what is known of it: its
 * record, the times of its log lines, what live frames and its result say of steps that began, and the durations of its
 * result. Pure.
 *
 * The server stores lines without the name of their step, so for lines read later the name is told by the text. Workers
 * of other makes, and those of a job that ran before the page was there, tell of no step that begins: then it is
 * reckoned from the lines.
 */

import type { Definition, Half, JobRecord, LogLine, Result } from "../contract.ts";
import type { Step, StepName } from "./model.ts";

const NAMES: Readonly<Record<string, StepName>> = {
  "docker image pull": "pull",
  "cloning repo": "clone",
  "docker build": "build",
  "docker image push": "push",
  "fetching inputs": "inputs",
  starting: "start",
  Running: "run",
  "uploading outputs": "upload",
};
const ORDER: readonly StepName[] = ["inputs", "clone", "pull", "build", "push", "start", "run", "upload"];

const LAYER = /^([0-9a-f]{8,64}): (.+?)\s*$/;
const LAYER_DONE = /^(Pull complete|Already exists|Layer already exists|Pushed)/;
const PULL =
  /^([\w./-]+: )?(Pulling |Digest: |Status: |Already exists|Download|Extracting|Verifying|Waiting|Pull complete)/;
const CLONE =
  /^(looking at |fetching commit |downloading |downloaded |fetched |Cloning into )|^the default branch is | files, /;
/** The last thing that an engine says of a pull or a build. */
const DONE = /^(Status: |Successfully (built|tagged) |.*naming to .* done|the image .* is here already)/;
const COUNTED = /(?:^Step |\[(?:[\w-]+ )?)(\d+)\/(\d+)/;
/** A start, or a gap between the container's end and the report, that is this short is no step to tell of. */
const NOTABLE_MS = 100;
/** By how much the clocks of worker and server may differ before something counts as of the attempt before. */
const CLOCKS_MS = 1000;

interface Seen {
  first: number;
  last: number;
  layers: Map<string, boolean>;
  counted: number | null;
  isDone: boolean;
}

export class Phases {
  #seen = new Map<StepName, Seen>();
  #began = new Map<StepName, number>();

  clear(): void {
    this.clearLines();
    this.#began.clear();
  }

  /** The log begins anew; what workers told of the attempt that does so may have come before. */
  clearLines(): void {
    this.#seen.clear();
  }

  /** Lines as a live frame tells them, with the name of their step, and when that began if the frame says so. */
  frame(step: string, lines: readonly LogLine[], began?: number): void {
    const name = NAMES[step];
    if (!name) return;
    if (began) this.#began.set(name, Math.max(this.#began.get(name) ?? 0, began));
    for (const line of lines) this.#take(name, line);
  }

  /** Lines of a stored or followed log. */
  lines(half: Half, lines: readonly LogLine[], definition: Definition | null): void {
    for (const line of lines) {
      if (half === "run") this.#take("run", line);
      else this.#take(told(line[0], Boolean(definition?.build)), line);
    }
  }

  #take(name: StepName, [text, time = 0]: LogLine): void {
    if (!time) return;
    const seen = this.#seen.get(name) ?? { first: time, last: time, layers: new Map(), counted: null, isDone: false };
    seen.first = Math.min(seen.first, time);
    seen.last = Math.max(seen.last, time);
    this.#seen.set(name, seen);
    if (name === "run") return;
    seen.isDone ||= DONE.test(text);
    const layer = LAYER.exec(text);
    if (layer?.[1] && layer[2]) seen.layers.set(layer[1], LAYER_DONE.test(layer[2]));
    const counted = COUNTED.exec(text);
    if (counted) seen.counted = Math.max(seen.counted ?? 0, Math.min((Number(counted[1]) - 1) / Number(counted[2]), 1));
  }

  #beganSince(earliest: number, result: Result | null): Map<StepName, number> {
    const began = new Map(this.#began);
    for (const [step, time] of result?.finished.result?.steps ?? []) {
      const name = NAMES[step];
      if (name) began.set(name, time);
    }
    return new Map([...began].filter(([, time]) => time >= earliest));
  }

  /** The steps so far, in order. Shape: the last one of a running job has no end. */
  steps(record: JobRecord, definition: Definition | null, result: Result | null): Step[] {
    const started = startOf(record);
    if (started === null || record.state === "Queued") return [];
    const isOver = record.state !== "Running";
    const end = isOver ? record.time : null;
    const steps: Step[] = [];
    const seen = ORDER.flatMap((name) => {
      const found = this.#seen.get(name);
      return found && found.last >= started - CLOCKS_MS ? [{ name, ...found }] : [];
    }).sort((a, b) => a.first - b.first);
    const began = this.#beganSince(started - CLOCKS_MS, result);
    if (began.size) return toldSteps(began, seen, { started, end, definition, result });

    const before = seen.filter(({ name }) => name !== "run");
    const firstLine = before[0]?.first ?? seen[0]?.first ?? null;
    if (hasInputs(definition)) steps.push(step("inputs", started, firstLine ?? runStart(this.#seen, result, end)));
    for (const [at, { name, first, last, layers, counted }] of before.entries()) {
      const next = before[at + 1]?.first ?? null;
      steps.push({ name, start: first, end: next ?? last, progress: progress(layers, counted) });
    }
    const run = runStart(this.#seen, result, end);
    if (run !== null || (isOver && result && !before.length && !steps.length)) {
      const start = Math.max(run ?? started, started);
      const duration = result?.finished.result?.duration;
      const ranUntil = end === null ? null : typeof duration === "number" ? Math.min(start + duration, end) : end;
      steps.push(step("run", start, ranUntil));
      if (end !== null && ranUntil !== null && end - ranUntil >= NOTABLE_MS && hasOutputs(result)) {
        steps.push(step("upload", ranUntil, end));
      }
    } else if (!isOver) {
      const last = steps.at(-1);
      if (!last || before.at(-1)?.isDone) steps.push(step("run", last?.end ?? started, null));
      else last.end = null;
    } else {
      const last = steps.at(-1);
      if (last) last.end = end;
    }
    return steps;
  }
}

/** Steps whose beginnings the worker told, and those of an image, which tell themselves by their lines. */
function toldSteps(
  began: ReadonlyMap<StepName, number>,
  seen: readonly (Seen & { name: StepName })[],
  job: { started: number; end: number | null; definition: Definition | null; result: Result | null },
): Step[] {
  const { started, end, definition, result } = job;
  const starts = new Map(began);
  for (const { name, first } of seen) starts.set(name, Math.min(first, starts.get(name) ?? first));
  if (hasInputs(definition)) starts.set("inputs", started);
  else starts.delete("inputs");
  const order = [...starts].sort(([a, at], [b, bt]) => at - bt || ORDER.indexOf(a) - ORDER.indexOf(b));
  const steps = order.flatMap(([name, at], index) => {
    const next = order[index + 1]?.[1] ?? null;
    const lines = name === "run" ? undefined : seen.find((each) => each.name === name);
    const found = step(name, Math.max(at, started), next ?? end);
    if (lines) found.progress = progress(lines.layers, lines.counted);
    const took = (found.end ?? Number.POSITIVE_INFINITY) - found.start;
    if (name === "start" && next !== null && took < NOTABLE_MS) return [];
    if (name === "upload" && end !== null && (took < NOTABLE_MS || !hasOutputs(result))) return [];
    const duration = result?.finished.result?.duration;
    if (name === "run" && found.end !== null && typeof duration === "number")
      found.end = Math.min(found.start + duration, found.end);
    return [found];
  });
  return steps.length ? steps : [step("start", started, end)];
}

function step(name: StepName, start: number, end: number | null): Step {
  return { name, start, end: end === null ? null : Math.max(end, start), progress: null };
}

function told(text: string, isBuilt: boolean): StepName {
  if (!isBuilt) return "pull";
  if (CLONE.test(text)) return "clone";
  return LAYER.test(text) || PULL.test(text) ? "pull" : "build";
}

function progress(layers: ReadonlyMap<string, boolean>, counted: number | null): number | null {
  if (layers.size) return [...layers.values()].filter(Boolean).length / layers.size;
  return counted;
}

/** When the present or last attempt was given to its worker; null if none was. */
function startOf(record: JobRecord): number | null {
  if (record.state === "Running") return record.time;
  return record.attempts?.at(-1)?.start ?? null;
}

/** When the container started: its first line, or reckoned from how long it ran, whichever is earlier. */
function runStart(seen: ReadonlyMap<StepName, Seen>, result: Result | null, end: number | null): number | null {
  const line = seen.get("run")?.first ?? null;
  const duration = result?.finished.result?.duration;
  const reckoned = end !== null && typeof duration === "number" ? end - duration : null;
  if (line === null) return reckoned;
  return reckoned === null ? line : Math.min(line, reckoned);
}

/** Files that the worker must fetch: what stands in the definition itself takes no time to tell of. */
function hasInputs(definition: Definition | null): boolean {
  const refs = [definition?.inputs, definition?.configFiles].flatMap((map) => Object.values(map ?? {}));
  return refs.some((ref) => ref?.type === "url" || ref?.type === "key");
}

function hasOutputs(result: Result | null): boolean {
  return Object.keys(result?.finished.result?.outputs ?? {}).length > 0;
}
