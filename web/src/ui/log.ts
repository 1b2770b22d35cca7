/**
 * The lines of the shown job's two logs: from pieces of text to lines, bounded, told of once per frame.
 *
 * A line ends at a newline. A piece without one is continued by the next piece of the same stream; carriage returns stay
 * in the text, what they do is for the view to say. Of a very long log the first and the last part are kept.
 */

import { type ReadonlySignal, signal } from "@preact/signals";
import type { Half, LogLine } from "../contract.ts";
import type { Line, Log } from "./model.ts";

export interface LogLimits {
  head: number;
  tail: number;
  /** How many lines over the limit are let come before the middle is cut: cutting costs. */
  slack: number;
  /** A longer line is broken. */
  lineCharacters: number;
}

const LIMITS: LogLimits = { head: 20_000, tail: 180_000, slack: 20_000, lineCharacters: 1 << 20 };

/** What a worker adds to a log begins a line of its own, whatever the job left unfinished. */
const WORKERS_OWN = "[asman] ";

interface Part {
  lines: Line[];
  count: number;
  /** Whether the last line of stdout (false) or stderr (true) goes on, and which it is. */
  open: Map<boolean, Line>;
}

export class LogBuffer implements Log {
  readonly #version = signal(0);
  readonly #dropped = signal(0);
  readonly #isFinal = signal(false);
  readonly version: ReadonlySignal<number> = this.#version;
  readonly dropped: ReadonlySignal<number> = this.#dropped;
  readonly isFinal: ReadonlySignal<boolean> = this.#isFinal;
  readonly #parts: Record<Half, Part> = { build: empty(), run: empty() };
  readonly #frame: (tell: () => void) => void;
  readonly #limits: LogLimits;
  #droppedNow = 0;
  #isFinalNow = false;
  #isTelling = false;

  /** `frame` calls back when the next picture is drawn. */
  constructor(frame: (tell: () => void) => void = nextFrame, limits: Partial<LogLimits> = {}) {
    this.#frame = frame;
    this.#limits = { ...LIMITS, ...limits };
  }

  lines(half: Half): readonly Line[] {
    return this.#parts[half].lines;
  }

  append(half: Half, pieces: readonly LogLine[]): void {
    const part = this.#parts[half];
    for (const piece of pieces) this.#add(half, part, piece);
    this.#bound(part);
    this.#tell();
  }

  /** All lines of a half anew: the stored log, where pieces of it were shown before. */
  replace(half: Half, pieces: readonly LogLine[]): void {
    this.#parts[half] = empty();
    this.append(half, pieces);
  }

  clear(): void {
    this.#parts.build = empty();
    this.#parts.run = empty();
    this.#droppedNow = 0;
    this.#isFinalNow = false;
    this.#tell();
  }

  end(): void {
    this.#isFinalNow = true;
    this.#tell();
  }

  #add(half: Half, part: Part, [text, time = 0, isStderr = false]: LogLine): void {
    const pieces = text.split("\n");
    const last = pieces.length - 1;
    for (const [at, piece] of pieces.entries()) {
      const isOpen = at === last;
      if (isOpen && !piece) break; // the text ended with its newline
      const before = at === 0 && !piece.startsWith(WORKERS_OWN) ? part.open.get(isStderr) : undefined;
      const place = before ? placeOf(part.lines, before) : -1;
      if (before && place >= 0 && before.text.length + piece.length <= this.#limits.lineCharacters) {
        const line = { ...before, text: before.text + piece };
        part.lines[place] = line;
        part.open.set(isStderr, line);
      } else {
        for (let from = 0; from === 0 || from < piece.length; from += this.#limits.lineCharacters) {
          const cut = piece.slice(from, from + this.#limits.lineCharacters);
          const line = { index: part.count++, half, text: cut, time, isStderr };
          part.lines.push(line);
          part.open.set(isStderr, line);
        }
      }
      if (!isOpen) part.open.delete(isStderr);
    }
  }

  #bound(part: Part): void {
    const { head, tail, slack } = this.#limits;
    const over = part.lines.length - head - tail;
    if (over <= slack) return;
    part.lines.splice(head, over);
    this.#droppedNow += over;
  }

  #tell(): void {
    if (this.#isTelling) return;
    this.#isTelling = true;
    this.#frame(() => {
      this.#isTelling = false;
      this.#dropped.value = this.#droppedNow;
      this.#isFinal.value = this.#isFinalNow;
      this.#version.value++;
    });
  }
}

/** Where an unfinished line stands: nearly always last, only the other stream can have come after it. */
function placeOf(lines: readonly Line[], line: Line): number {
  const first = Math.max(lines.length - 200, 0);
  for (let at = lines.length - 1; at >= first; at--) if (lines[at] === line) return at;
  return -1;
}

function empty(): Part {
  return { lines: [], count: 0, open: new Map() };
}

/** Pages that are not seen draw no pictures: there, and where there is no window, a short timer does. */
function nextFrame(tell: () => void): void {
  if (typeof requestAnimationFrame === "function" && document.visibilityState === "visible")
    requestAnimationFrame(tell);
  else setTimeout(tell, 50);
}
