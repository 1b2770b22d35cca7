/** Search over all rows of a log, not only those that are drawn; in portions. Pure. */

import type { Half, LogRows, Row } from "./log-rows.ts";

export interface Match {
  row: Row;
  start: number;
  end: number;
}

/** More matches than anybody walks through. */
const MOST = 50_000;
/** So much is read between two looks at the clock: rows, and characters of long ones. */
const PORTION = 500;
const PORTION_CHARACTERS = 500_000;

/** What matches a query that is meant as it is written; null for an empty one. */
export function pattern(query: string, isExact: boolean): RegExp | null {
  if (!query) return null;
  return new RegExp(query.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), isExact ? "gu" : "giu");
}

export function matchesIn(text: string, wanted: RegExp): { start: number; end: number }[] {
  const found: { start: number; end: number }[] = [];
  wanted.lastIndex = 0;
  for (let match = wanted.exec(text); match; match = wanted.exec(text)) {
    found.push({ start: match.index, end: match.index + match[0].length });
    if (found.length >= MOST) break;
  }
  return found;
}

export class LogSearch {
  readonly wanted: RegExp | null;
  /** No more are counted. */
  isFull = false;
  #found: Record<Half, Match[]> = { build: [], run: [] };
  #next: Record<Half, number> = { build: 0, run: 0 };
  #readRows = new WeakSet<Row>();
  #key = "";

  constructor(query: string, isExact: boolean) {
    this.wanted = pattern(query, isExact);
  }

  get count(): number {
    return this.#found.build.length + this.#found.run.length;
  }

  at(index: number): Match | undefined {
    const build = this.#found.build;
    return index < build.length ? build[index] : this.#found.run[index - build.length];
  }

  /** Read on. False if `isOver` said that the time is up, and there is more. */
  read(rows: LogRows, isOver: () => boolean): boolean {
    if (!this.wanted) return true;
    const key = `${rows.epoch}/${rows.grown}`;
    if (this.#key !== key) {
      this.#key = key;
      for (const half of ["build", "run"] as const) {
        this.#found[half] = this.#found[half].filter((match) => !match.row.isGone);
        this.#next[half] = 0; // rows that were read are passed over
      }
      this.isFull = this.count >= MOST;
    }
    return this.#readHalf("build", rows.build, isOver) && this.#readHalf("run", rows.run, isOver);
  }

  #readHalf(half: Half, rows: readonly Row[], isOver: () => boolean): boolean {
    let read = 0;
    let characters = 0;
    while (this.#next[half] < rows.length && !this.isFull) {
      const row = rows[this.#next[half]++];
      if (!row || this.#readRows.has(row)) continue;
      this.#readRows.add(row);
      this.#keep(half, row);
      characters += row.text.length;
      if (++read < PORTION && characters < PORTION_CHARACTERS) continue;
      if (isOver()) return false;
      read = characters = 0;
    }
    return true;
  }

  #keep(half: Half, row: Row): void {
    const places = matchesIn(row.text, this.wanted as RegExp);
    if (!places.length) return;
    const found = this.#found[half];
    const matches = places.map((place) => ({ row, ...place }));
    const last = found.at(-1);
    if (!last || last.row.line.index < row.line.index) found.push(...matches);
    else found.splice(firstAt(found, row.line.index), 0, ...matches);
    this.isFull = this.count >= MOST;
  }
}

function firstAt(found: readonly Match[], index: number): number {
  let [low, high] = [0, found.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((found[middle]?.row.line.index ?? 0) < index) low = middle + 1;
    else high = middle;
  }
  return low;
}
