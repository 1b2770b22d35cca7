/**
 * A log as rows that can be shown: what was overwritten is gone, colours carry on from line to line. Pure, and made in
 * portions, so that no log is so long that the page stands still.
 */

import { PLAIN, plainText, type Style, styleAfter } from "./ansi.ts";
import type { Line, Log } from "./model.ts";

export type Half = "build" | "run";

export interface Row {
  readonly line: Line;
  /** What is seen of the line: no codes. */
  readonly text: string;
  /** The style that the line starts with. */
  readonly start: Style;
  /** Lines before this one that were left out, because the log was too long. */
  gap: number;
  /** It is not part of the log any more. */
  isGone: boolean;
}

/** A line that has no newline yet may still grow, though lines of the other stream came after it. */
const MAY_GROW = 256;
/** So much is taken between two looks at the clock: lines, and characters of long ones. */
const PORTION = 200;
const PORTION_CHARACTERS = 100_000;

export class LogRows {
  readonly build: Row[] = [];
  readonly run: Row[] = [];
  /** Rises when rows were taken away: what was derived from their places must be made anew. */
  epoch = 0;
  /** Rises when a row took the place of another, because its line grew. */
  grown = 0;
  #streams = { key: "", count: 0, out: [] as Row[], err: [] as Row[] };
  #ends: Record<Half, Style> = { build: PLAIN, run: PLAIN };

  /** Take what is new in the log. False if `isOver` said that the time is up, and there is more. */
  take(log: Pick<Log, "lines">, isOver: () => boolean): boolean {
    return this.#sync("build", log.lines("build"), isOver) && this.#sync("run", log.lines("run"), isOver);
  }

  /** The run's rows by stream. */
  streams(): { out: readonly Row[]; err: readonly Row[] } {
    const key = `${this.epoch}/${this.grown}`;
    if (this.#streams.key !== key) this.#streams = { key, count: 0, out: [], err: [] };
    const streams = this.#streams;
    for (; streams.count < this.run.length; streams.count++) {
      const row = this.run[streams.count];
      if (row) (row.line.isStderr ? streams.err : streams.out).push(row);
    }
    return streams;
  }

  #sync(half: Half, lines: readonly Line[], isOver: () => boolean): boolean {
    const rows = this[half];
    if (rows.length > 0 && !this.#keepHead(half, rows, lines)) this.#reset(half);
    this.#refresh(half, rows, lines);
    let taken = 0;
    let characters = 0;
    while (rows.length < lines.length) {
      if (taken >= PORTION || characters >= PORTION_CHARACTERS) {
        if (isOver()) return false;
        taken = characters = 0;
      }
      const line = lines[rows.length];
      if (!line) break;
      taken++;
      characters += line.text.length;
      const gap = line.index - ((rows.at(-1)?.line.index ?? -1) + 1);
      rows.push(this.#row(half, line, this.#ends[half], Math.max(0, gap)));
    }
    return true;
  }

  /** Drop rows that the log dropped from its middle. False if this is another log. */
  #keepHead(half: Half, rows: Row[], lines: readonly Line[]): boolean {
    const first = lines[0];
    if (!first || (rows.length > MAY_GROW && rows[0]?.line !== first)) return false;
    for (;;) {
      const last = Math.min(rows.length, lines.length) - 1;
      if (rows[last]?.line.index === lines[last]?.index) break;
      let [low, high] = [0, last];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (rows[middle]?.line.index === lines[middle]?.index) low = middle + 1;
        else high = middle;
      }
      const gap = (lines[low]?.index ?? 0) - (rows[low]?.line.index ?? 0);
      if (gap <= 0) return false;
      for (const row of rows.splice(low, gap)) row.isGone = true;
      const next = rows[low];
      if (next) next.gap = next.line.index - ((rows[low - 1]?.line.index ?? -1) + 1);
      else this.#ends[half] = PLAIN;
      this.epoch++;
    }
    return rows.length <= lines.length;
  }

  /** Lines that grew since they were taken. */
  #refresh(half: Half, rows: Row[], lines: readonly Line[]): void {
    for (let at = Math.max(0, rows.length - MAY_GROW); at < rows.length; at++) {
      const row = rows[at];
      const line = lines[at];
      if (!row || !line || row.line === line) continue;
      if (row.line.index !== line.index) {
        this.#reset(half);
        return;
      }
      row.isGone = true;
      rows[at] = this.#row(half, line, row.start, row.gap);
      this.grown++;
    }
  }

  #row(half: Half, line: Line, start: Style, gap: number): Row {
    this.#ends[half] = styleAfter(line.text, start);
    return { line, text: plainText(line.text), start, gap, isGone: false };
  }

  #reset(half: Half): void {
    for (const row of this[half]) row.isGone = true;
    this[half].length = 0;
    this.#ends[half] = PLAIN;
    this.epoch++;
  }
}

/** Where a row stands; -1 if it is not there. */
export function placeOf(rows: readonly Row[], row: Row): number {
  let [low, high] = [0, rows.length - 1];
  while (low <= high) {
    const middle = (low + high) >> 1;
    const index = rows[middle]?.line.index ?? 0;
    if (index === row.line.index) return rows[middle] === row ? middle : -1;
    if (index < row.line.index) low = middle + 1;
    else high = middle - 1;
  }
  return -1;
}

const BLOCK = 256;

/** Heights of many rows, with their sums: where a row is, and which row is at a place. */
export class Heights {
  #rows: number[] = [];
  #blocks: number[] = [];
  total = 0;

  get length(): number {
    return this.#rows.length;
  }

  push(height: number): void {
    const block = Math.floor(this.#rows.length / BLOCK);
    this.#blocks[block] = (this.#blocks[block] ?? 0) + height;
    this.#rows.push(height);
    this.total += height;
  }

  at(index: number): number {
    return this.#rows[index] ?? 0;
  }

  set(index: number, height: number): void {
    const change = height - this.at(index);
    this.#rows[index] = height;
    const block = Math.floor(index / BLOCK);
    this.#blocks[block] = (this.#blocks[block] ?? 0) + change;
    this.total += change;
  }

  /** Where the row begins. */
  top(index: number): number {
    const block = Math.floor(Math.min(index, this.length) / BLOCK);
    let sum = 0;
    for (let i = 0; i < block; i++) sum += this.#blocks[i] ?? 0;
    for (let i = block * BLOCK; i < index && i < this.length; i++) sum += this.#rows[i] ?? 0;
    return sum;
  }

  /** The row at a place; the last one below the end. */
  find(place: number): number {
    let sum = 0;
    let block = 0;
    while (block < this.#blocks.length - 1 && sum + (this.#blocks[block] ?? 0) <= place)
      sum += this.#blocks[block++] ?? 0;
    let index = block * BLOCK;
    while (index < this.length - 1 && sum + this.at(index) <= place) sum += this.at(index++);
    return Math.max(0, Math.min(index, this.length - 1));
  }

  clear(): void {
    this.#rows = [];
    this.#blocks = [];
    this.total = 0;
  }
}
