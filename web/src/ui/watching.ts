/**
 * The job that is shown: its record, result, steps, logs and outputs, from everybody who knows of them.
 *
 * The socket tells of changes, the follow stream brings the lines of the log, the server answers what neither says, and
 * this browser's own copy of the result shows something before anybody has answered. What changed last counts.
 */

import { batch, computed, effect, type ReadonlySignal, signal, untracked } from "@preact/signals";
import type { Client } from "../client.ts";
import { REASONS_WITH_RESULT } from "../contract.gen.ts";
import type { Definition, JobRecord, LogsFrame, OutputRef, Result, Why } from "../contract.ts";
import { AsmanError } from "../errors.ts";
import { LogBuffer } from "./log.ts";
import type { Job, OutputFile, Step } from "./model.ts";
import { Phases } from "./phases.ts";
import { keyOf, type Store } from "./store.ts";
import type { Where } from "./where.ts";

const WHY_FIRST_MS = 3_000;
const WHY_LONGEST_MS = 30_000;
const WHY_SOONEST_MS = 1_000;

export interface Watch {
  job: ReadonlySignal<Job | null>;
  log: LogBuffer;
  outputs: ReadonlySignal<readonly OutputFile[] | null>;
  why: ReadonlySignal<Why | null>;
  /** Server, queue and job of which it is settled whether the server knows it. Empty until then. */
  known: ReadonlySignal<string>;
  /** Jobs of the queue as a socket tells them. */
  tell(changed: ReadonlyMap<string, JobRecord>, whole: ReadonlyMap<string, JobRecord> | null): void;
  tellLines(frame: LogsFrame["payload"]): void;
  /** Ask the server what is so now; `isThere` if it has just said that it knows the job. */
  lookAgain(isThere?: boolean): void;
  /** The job was dropped here: nothing of it is shown, until somebody tells of a newer one. */
  forget(): void;
  dispose(): void;
}

export interface WatchOptions {
  where: ReadonlySignal<Where>;
  client: ReadonlySignal<Client>;
  jobId: ReadonlySignal<string | null>;
  /** What is known of the job's definition before the server tells it. */
  definition: ReadonlySignal<Definition | null>;
  /** Changes when workers come and go: why a job waits may be another reason then. */
  workers: ReadonlySignal<unknown>;
  isConnected: ReadonlySignal<boolean>;
  store: Store;
  onFinished: (record: JobRecord) => void;
}

/** Has something newer been told already? Times are the server's; a new incarnation has a later one. */
export function isOlder(record: JobRecord, than: JobRecord): boolean {
  if (record.time !== than.time) return record.time < than.time;
  if (record.generation !== than.generation) return record.generation < than.generation;
  if (record.attempt !== than.attempt) return record.attempt < than.attempt;
  return RANK[record.state] < RANK[than.state];
}

const RANK: Readonly<Record<JobRecord["state"], number>> = { Queued: 0, Running: 1, Finished: 2, Removed: 2 };

export function leavesResult(record: JobRecord): boolean {
  return (REASONS_WITH_RESULT as readonly unknown[]).includes(record.finishedReason);
}

export function isActive(record: JobRecord): boolean {
  return record.state === "Queued" || record.state === "Running";
}

export function watching(options: WatchOptions): Watch {
  const { where, client, jobId, store } = options;
  const held = signal<Held | null>(null);
  const stored = signal<Definition | null>(null);
  const outputs = signal<readonly OutputFile[] | null>(null);
  const why = signal<Why | null>(null);
  const known = signal("");
  const ticks = signal(0);
  const log = new LogBuffer();
  const phases = new Phases();
  const stops: (() => void)[] = [];
  let gone: JobRecord | null = null;
  let told = "";
  let taken = 0;
  let isBehind = false;
  let scope = new AbortController();

  const key = computed(() => (jobId.value ? keyOf(where.value.server, where.value.queue, jobId.value) : ""));
  /** What is held of another job than the one that is shown now does not count, not for a moment. */
  const record = computed(() => (held.value?.key === key.value ? held.value.record : null));
  const result = computed(() => (held.value?.key === key.value ? held.value.result : null));
  const definition = computed(() => stored.value ?? options.definition.value);

  const take = (next: JobRecord, its?: Result) => {
    const now = record.peek();
    if (now && isOlder(next, now)) return;
    if (gone && !isOlder(gone, next)) return;
    taken++;
    if (next.finishedReason === "Deleted") return forget(next);
    const before = result.peek();
    held.value = { key: key.peek(), record: next, result: its ?? (isOf(before, next) ? before : null) };
    if (isActive(next)) return;
    if (leavesResult(next) && !result.peek()) void fetchResult(next);
    const news = `${key.peek()} ${next.generation} ${next.attempt}`;
    if (news !== told) {
      told = news;
      options.onFinished(next);
    }
  };

  /** Nothing is shown until somebody tells of something newer than `mark`. */
  const forget = (mark: JobRecord | null) => {
    gone = mark;
    batch(() => {
      held.value = null;
      log.clear();
      phases.clear();
    });
  };

  const fetchResult = async (of: JobRecord) => {
    const { signal: stopped } = scope;
    const [at, queue, id] = [key.peek(), where.peek().queue, jobId.peek()];
    if (!id || !queue) return;
    try {
      const fetched = await client.peek().result(queue, id, { signal: stopped });
      if (stopped.aborted || !fetched || record.peek() !== of) return;
      held.value = { key: at, record: of, result: fetched };
      await store.keepResult(at, fetched);
    } catch {
      // shown without; asked again when the connection is back
    }
  };

  const look = async (isThere = record.peek() !== null): Promise<void> => {
    const { signal: stopped } = scope;
    const [at, queue, id] = [key.peek(), where.peek().queue, jobId.peek()];
    if (!id) return;
    const before = taken;
    try {
      if (!isThere && !(await isKnown(client.peek(), queue, id, stopped))) {
        if (stopped.aborted) return;
        if (taken !== before) return look(); // somebody told of it meanwhile
        return await unknown(at, stopped, before);
      }
      const view = queue
        ? await client.peek().job(queue, id, { signal: stopped })
        : await anywhere(client.peek(), id, stopped);
      if (stopped.aborted) return;
      stored.value = view.definition;
      if (view.record) take(view.record, view.results);
      if (view.results) await store.keepResult(at, view.results);
    } catch (error) {
      if (stopped.aborted) return;
      if (!(error instanceof AsmanError) || error.isTemporary) {
        known.value ||= at; // as far as can be told now
        isBehind = true;
        return;
      }
      if (error.status === 404 || error.status === 410) {
        if (taken !== before) return look(); // somebody told of it meanwhile
        return unknown(at, stopped, before);
      }
    }
    if (!stopped.aborted) known.value = at;
  };

  /** The server does not know the job. */
  const unknown = async (at: string, stopped: AbortSignal, before: number) => {
    await store.dropResult(at);
    if (stopped.aborted) return;
    if (taken === before) forget(gone);
    known.value = at;
  };

  // --- another job is shown
  stops.push(
    effect(() => {
      const at = key.value;
      void client.value;
      untracked(() => {
        scope.abort();
        scope = new AbortController();
        const { signal: stopped } = scope;
        gone = null;
        told = "";
        batch(() => {
          held.value = null;
          stored.value = null;
          known.value = "";
          log.clear();
          phases.clear();
        });
        if (!at) return;
        void look();
        store.result(at).then(
          (kept) => {
            if (!stopped.aborted && kept && !record.peek() && known.peek() !== at) take(recordOf(kept), kept);
          },
          () => {},
        );
      });
    }),
  );

  // --- the log
  const followed = computed(() => {
    const now = record.value;
    return now && where.value.queue ? `${key.value} ${now.generation}` : "";
  });
  stops.push(
    effect(() => {
      if (!followed.value) return;
      const stop = new AbortController();
      untracked(() => {
        log.clear();
        phases.clear();
        void follow(stop.signal);
      });
      return () => stop.abort();
    }),
  );

  const follow = async (stopped: AbortSignal) => {
    const [queue, id] = [where.peek().queue, jobId.peek()];
    if (!id) return;
    try {
      for await (const event of client.peek().stream(queue, id, { signal: stopped })) {
        if (stopped.aborted) return;
        if (event.kind === "log") {
          phases.lines(event.half, event.lines, definition.peek());
          log.append(event.half, event.lines);
        } else if (event.kind === "reset") {
          phases.clearLines();
          log.clear();
        } else if (event.kind === "state" && event.state !== record.peek()?.state) void look();
        else if (event.kind === "final") {
          log.end();
          if (record.peek() && isActive(record.peek() as JobRecord)) void look();
        }
      }
    } catch (error) {
      if (stopped.aborted) return;
      log.end(); // what the result holds is shown in its place
      if (error instanceof AsmanError && error.status === 404) void look();
    }
  };
  stops.push(
    effect(() => {
      const logs = result.value?.finished.result?.logs;
      void log.version.value;
      const isOver = log.isFinal.value || !where.value.queue;
      if (logs?.length && isOver && !log.lines("run").length) {
        untracked(() => {
          phases.lines("run", logs, definition.peek());
          log.append("run", logs);
          log.end();
        });
      }
    }),
  );

  // --- what is shown of it
  let before: Step[] = [];
  const steps = computed(() => {
    void log.version.value;
    void ticks.value;
    const now = record.value ? phases.steps(record.value, definition.value, result.value) : [];
    if (JSON.stringify(now) !== JSON.stringify(before)) before = now;
    return before;
  });
  const job = computed((): Job | null => {
    const now = record.value;
    return now && jobId.value ? { jobId: jobId.value, record: now, result: result.value, steps: steps.value } : null;
  });

  stops.push(
    effect(() => {
      const id = jobId.value;
      const its = result.value;
      outputs.value = null;
      if (!id || !its) return;
      const stop = new AbortController();
      const queue = where.peek().queue;
      const found = queue ? client.peek().outputsOf(queue, id, its) : fromAnywhere(client.peek(), id, its);
      const show = (refs: readonly OutputRef[]) => {
        outputs.value = refs.map(({ name, size, url }) => ({ name, size, url }));
      };
      show(found);
      if (found.some(({ size }) => size === null)) {
        client
          .peek()
          .withSizes(found, { signal: stop.signal })
          .then((sized) => {
            if (!stop.signal.aborted) show(sized);
          })
          .catch(() => {});
      }
      return () => stop.abort();
    }),
  );

  // --- why it waits
  const waits = computed(() => (record.value?.state === "Queued" ? key.value : ""));
  stops.push(
    effect(() => {
      why.value = null;
      if (!waits.value || !where.value.queue) return;
      const stop = new AbortController();
      let timer: ReturnType<typeof setTimeout> | undefined;
      let next = WHY_FIRST_MS;
      let asked = 0;
      const ask = async () => {
        clearTimeout(timer);
        asked = Date.now();
        try {
          const answer = await client.peek().why(where.peek().queue, jobId.peek() ?? "", { signal: stop.signal });
          if (!stop.signal.aborted) why.value = answer;
        } catch {
          // asked again later
        }
        if (stop.signal.aborted) return;
        clearTimeout(timer);
        timer = setTimeout(ask, next);
        next = Math.min(next * 1.5, WHY_LONGEST_MS);
      };
      const soon = effect(() => {
        void options.workers.value;
        next = WHY_FIRST_MS;
        clearTimeout(timer);
        timer = setTimeout(ask, Math.max(asked + WHY_SOONEST_MS - Date.now(), 0));
      });
      return () => {
        stop.abort();
        soon();
        clearTimeout(timer);
      };
    }),
  );

  // --- the connection is back: what was missed?
  stops.push(
    effect(() => {
      if (!options.isConnected.value) return () => {};
      if (isBehind) untracked(() => void look());
      isBehind = false;
      return () => {
        isBehind = true; // from here on something may be missed
      };
    }),
  );

  return {
    job,
    log,
    outputs,
    why,
    known,
    tell: (changed, whole) => {
      const id = jobId.peek();
      if (!id) return;
      const next = changed.get(id);
      if (next) take(next);
      else if (whole && !whole.has(id) && record.peek() && isActive(record.peek() as JobRecord)) void look();
    },
    tellLines: (frame) => {
      if (frame.jobId !== jobId.peek()) return;
      phases.frame(frame.step, frame.logs, frame.began);
      ticks.value++;
    },
    lookAgain: (isThere) => void look(isThere),
    forget: () => forget(record.peek()),
    dispose: () => {
      scope.abort();
      for (const stop of stops) stop();
    },
  };
}

interface Held {
  /** Of which server, queue and job. */
  key: string;
  record: JobRecord;
  result: Result | null;
}

/** Is this the result of what the record shows? */
function isOf(result: Result | null, record: JobRecord): boolean {
  if (!result || isActive(record)) return false;
  return result.attempt === record.attempt && result.generation === record.generation;
}

function recordOf(result: Result): JobRecord {
  const { finished: _finished, ...record } = result;
  return record as JobRecord;
}

interface View {
  definition: Definition | null;
  record: JobRecord | null;
  results?: Result;
}

/**
 * Does the server know the job? Asked in a way that is answered with "nothing" and not with an error, because browsers
 * write each error down where people look for faults of the page, and to ask for a job that is yet to be run is none.
 */
async function isKnown(client: Client, queue: string, jobId: string, signal: AbortSignal): Promise<boolean> {
  const found = await Promise.all([
    client.definition(jobId, { queue: queue || undefined, signal }),
    queue ? client.result(queue, jobId, { signal }) : null, // a definition is kept for a shorter time
  ]);
  return found.some((each) => each !== null);
}

/** A job whose queue is not known: what any queue has of it. */
async function anywhere(client: Client, jobId: string, signal: AbortSignal): Promise<View> {
  const answer = await client.json<{ data: { definition: Definition | null; results?: Result } }>(
    "GET",
    `/j/${jobId}`,
    {
      headers: { Accept: "application/json" },
      signal,
    },
  );
  const { definition, results } = answer.data;
  return { definition, record: results ? recordOf(results) : null, ...(results ? { results } : {}) };
}

function fromAnywhere(client: Client, jobId: string, result: Result): OutputRef[] {
  const path = (name: string) => name.split("/").map(encodeURIComponent).join("/");
  return client
    .outputsOf("-", jobId, result)
    .map((output) => ({ ...output, url: `${client.server}/j/${jobId}/outputs/${path(output.name)}` }));
}
