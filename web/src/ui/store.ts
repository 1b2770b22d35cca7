/**
 * What this browser remembers: the result of the jobs shown, their history, and submits that wait for a connection.
 *
 * Bounded by count, bytes and age. Where IndexedDB is denied (frames of other sites, private windows) everything works
 * and lasts as long as the page.
 */

import type { Definition, Result } from "../contract.ts";
import type { HistoryEntry } from "./model.ts";

const NAME = "asman";
const VERSION = 1;
const TABLES = ["results", "history", "outbox"] as const;
type Table = (typeof TABLES)[number];

const RESULTS_MAX = 50;
const RESULTS_MAX_BYTES = 20 << 20;
const RESULT_MAX_BYTES = 8 << 20;
const RESULTS_MAX_AGE_MS = 7 * 86_400_000;
const HISTORY_MAX = 200;
const CLAIM_MS = 60_000;

interface KeptResult {
  key: string;
  at: number;
  size: number;
  result: Result;
}

/** A submit that waits. */
export interface Pending {
  /** Server, queue and job: a job waits once. */
  key: string;
  server: string;
  queue: string;
  jobId: string;
  definition: Definition;
  control: Record<string, unknown>;
  debug: boolean;
  /** The generation of the job whose result is dropped first; null if it is run for the first time. */
  drops: number | null;
  at: number;
  /** Until then one page is sending it. */
  claimedUntil: number;
}

interface Kept {
  results: KeptResult;
  history: HistoryEntry & { key: string };
  outbox: Pending;
}

/** A key-value table; the only thing that differs between disk and memory. */
interface Backend {
  all<T extends Table>(table: T): Promise<Kept[T][]>;
  get<T extends Table>(table: T, key: string): Promise<Kept[T] | null>;
  /** Read and write in one step that nothing comes between. Null removes; undefined leaves it. */
  change<T extends Table>(
    table: T,
    key: string,
    step: (now: Kept[T] | null) => Kept[T] | null | undefined,
  ): Promise<Kept[T] | null>;
}

export function keyOf(server: string, queue: string, jobId: string): string {
  return `${server} ${queue} ${jobId}`;
}

export class Store {
  readonly #backend: Promise<Backend>;
  readonly #now: () => number;

  constructor(database: IDBFactory | null | undefined, now: () => number = Date.now) {
    this.#backend = openBackend(database);
    this.#now = now;
  }

  // --- results

  async result(key: string): Promise<Result | null> {
    const kept = await (await this.#backend).get("results", key);
    return kept && kept.at > this.#now() - RESULTS_MAX_AGE_MS ? kept.result : null;
  }

  /** Results that are too large are not kept: the server has them. */
  async keepResult(key: string, result: Result): Promise<void> {
    const size = JSON.stringify(result).length;
    if (size > RESULT_MAX_BYTES) return;
    const backend = await this.#backend;
    await backend.change("results", key, () => ({ key, at: this.#now(), size, result }));
    let left = RESULTS_MAX_BYTES;
    const kept = (await backend.all("results")).sort((a, b) => b.at - a.at);
    for (const [index, entry] of kept.entries()) {
      left -= entry.size;
      const isOver = index >= RESULTS_MAX || left < 0 || entry.at <= this.#now() - RESULTS_MAX_AGE_MS;
      if (isOver) await backend.change("results", entry.key, () => null);
    }
  }

  async dropResult(key: string): Promise<void> {
    await (await this.#backend).change("results", key, () => null);
  }

  // --- history

  /** Newest first. */
  async history(): Promise<HistoryEntry[]> {
    const entries = await (await this.#backend).all("history");
    return entries.sort((a, b) => b.submitted - a.submitted).map(({ key: _key, ...entry }) => entry);
  }

  async addHistory(entry: HistoryEntry): Promise<void> {
    const backend = await this.#backend;
    const key = keyOf("", entry.queue, entry.jobId);
    await backend.change("history", key, () => ({ ...entry, key }));
    const kept = (await backend.all("history")).sort((a, b) => b.submitted - a.submitted);
    for (const old of kept.slice(HISTORY_MAX)) await backend.change("history", old.key, () => null);
  }

  /** Say how a job of the history ended; one that is not in it stays out. */
  async endHistory(queue: string, jobId: string, outcome: string | null, exitCode: number | null): Promise<void> {
    const key = keyOf("", queue, jobId);
    await (await this.#backend).change("history", key, (now) => (now ? { ...now, outcome, exitCode } : undefined));
  }

  async dropHistory(entry: Pick<HistoryEntry, "queue" | "jobId">): Promise<void> {
    await (await this.#backend).change("history", keyOf("", entry.queue, entry.jobId), () => null);
  }

  // --- outbox

  async waiting(): Promise<Pending[]> {
    return (await (await this.#backend).all("outbox")).sort((a, b) => a.at - b.at);
  }

  /** Shape: answers the key it waits under. */
  async enqueue(pending: Omit<Pending, "key" | "at" | "claimedUntil">): Promise<string> {
    const key = keyOf(pending.server, pending.queue, pending.jobId);
    await (await this.#backend).change("outbox", key, () => ({ ...pending, key, at: this.#now(), claimedUntil: 0 }));
    return key;
  }

  /** Take a waiting submit to send it: null if another page is at it, or has done it. A page that dies loses its claim. */
  async claim(key: string): Promise<Pending | null> {
    let taken: Pending | null = null;
    await (await this.#backend).change("outbox", key, (now) => {
      if (!now || now.claimedUntil > this.#now()) return undefined;
      taken = { ...now, claimedUntil: this.#now() + CLAIM_MS };
      return taken;
    });
    return taken;
  }

  /** It could not be sent: it waits on. */
  async release(key: string): Promise<void> {
    await (await this.#backend).change("outbox", key, (now) => (now ? { ...now, claimedUntil: 0 } : undefined));
  }

  /** It was sent, or is not wanted any more. */
  async settle(key: string): Promise<void> {
    await (await this.#backend).change("outbox", key, () => null);
  }
}

// --- where it is kept ------------------------------------------------------------------------------------------------

async function openBackend(database: IDBFactory | null | undefined): Promise<Backend> {
  try {
    if (database) return orMemory(onDisk(await opened(database)));
  } catch {
    // denied: memory does
  }
  return inMemory();
}

function opened(database: IDBFactory): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = database.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      for (const table of TABLES) request.result.createObjectStore(table, { keyPath: "key" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("the database is held by an older page"));
  });
}

function onDisk(database: IDBDatabase): Backend {
  database.onversionchange = () => database.close();
  const read = <T>(request: IDBRequest<T>) =>
    new Promise<T>((resolve, reject) => {
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  return {
    all: (table) => read(database.transaction(table).objectStore(table).getAll()),
    get: async (table, key) => (await read(database.transaction(table).objectStore(table).get(key))) ?? null,
    change: (table, key, step) =>
      new Promise((resolve, reject) => {
        const transaction = database.transaction(table, "readwrite");
        const rows = transaction.objectStore(table);
        let made: Kept[typeof table] | null = null;
        const present = rows.get(key);
        present.onsuccess = () => {
          const now = present.result ?? null;
          const next = step(now);
          made = next === undefined ? now : next;
          if (next === null) rows.delete(key);
          else if (next !== undefined) rows.put(next);
        };
        transaction.oncomplete = () => resolve(made);
        transaction.onerror = () => reject(transaction.error);
        transaction.onabort = () => reject(transaction.error);
      }),
  };
}

/** A disk that fails (full, or taken away) is given up for as long as the page lasts: nobody's run fails of it. */
function orMemory(disk: Backend): Backend {
  let used = disk;
  const attempt = async <T>(step: (backend: Backend) => Promise<T>): Promise<T> => {
    try {
      return await step(used);
    } catch (error) {
      if (used !== disk) throw error;
      used = inMemory();
      return step(used);
    }
  };
  return {
    all: (table) => attempt((backend) => backend.all(table)),
    get: (table, key) => attempt((backend) => backend.get(table, key)),
    change: (table, key, step) => attempt((backend) => backend.change(table, key, step)),
  };
}

function inMemory(): Backend {
  const tables = { results: new Map(), history: new Map(), outbox: new Map() };
  return {
    all: async (table) => [...tables[table].values()],
    get: async (table, key) => tables[table].get(key) ?? null,
    change: async (table, key, step) => {
      const now = tables[table].get(key) ?? null;
      const next = step(now);
      if (next === null) tables[table].delete(key);
      else if (next !== undefined) tables[table].set(key, next);
      return next === undefined ? now : next;
    },
  };
}
