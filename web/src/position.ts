/** What the events of a job's stream say, and where a reader of it is, over all of its connections. */

import type { Ending, Half, LogLine, Reason, State, StreamEvent } from "./contract.ts";
import type { ServerEvent } from "./events.ts";

type Told =
  | { kind: "state"; state: State; attempt?: number; worker?: string; ending: Ending | null }
  | { kind: "log"; half: Half; lines: LogLine[]; cursor: number }
  | ({ kind: "final" } & Ending)
  | { kind: "timeout" }
  | { kind: "unknown" };

/** Over all connections of one reader. Lines are known by their number within an attempt. */
export class StreamPosition {
  /** `attempt-build-run`: what `Last-Event-ID` takes. Empty before the first event. */
  id: string;
  #attempt = 0;
  #cursor: Record<Half, number> = { build: 0, run: 0 };
  #state = "";

  constructor(id = "") {
    this.id = "";
    const numbers = parseEventId(id);
    if (!numbers) return;
    this.id = id;
    [this.#attempt, this.#cursor.build, this.#cursor.run] = numbers;
  }

  /** What of it is new to the reader. */
  *advance(told: Exclude<Told, { kind: "timeout" | "unknown" }>, id: string): Generator<StreamEvent, void, undefined> {
    if (told.kind !== "log") {
      const text = JSON.stringify(told);
      if (told.kind === "state" && text === this.#state) return;
      this.#state = text;
      this.id = id || this.id;
      yield told;
      return;
    }
    const attempt = parseEventId(id)?.[0] ?? this.#attempt;
    if (attempt !== this.#attempt) {
      const isAnother = this.#attempt !== 0;
      this.#attempt = attempt;
      if (isAnother) {
        this.#cursor = { build: 0, run: 0 };
        yield { kind: "reset", attempt };
      }
    }
    this.id = id || this.id;
    const known = this.#cursor[told.half];
    const first = told.cursor - told.lines.length;
    const lines = first < known ? told.lines.slice(known - first) : told.lines;
    if (!lines.length) return;
    this.#cursor[told.half] = told.cursor;
    yield { kind: "log", half: told.half, lines, start: Math.max(first, known), attempt };
  }
}

function parseEventId(id: string): [number, number, number] | null {
  const found = /^(\d{1,9})-(\d{1,12})-(\d{1,12})$/.exec(id);
  return found ? [Number(found[1]), Number(found[2]), Number(found[3])] : null;
}

/** Null for what is not understood: a newer server may have more to tell. */
export function readEvent(event: ServerEvent): Told | null {
  let data: Record<string, unknown>;
  try {
    data = JSON.parse(event.data);
  } catch {
    return null;
  }
  if (typeof data !== "object" || data === null) return null;
  switch (event.event) {
    case "build-log":
    case "run-log":
      if (!Array.isArray(data.lines) || typeof data.cursor !== "number") return null;
      return { kind: "log", half: event.event === "run-log" ? "run" : "build", lines: data.lines, cursor: data.cursor };
    case "state":
      return readState(data);
    case "final":
      if (data.state === "Timeout") return { kind: "timeout" };
      if (data.state === "Unknown") return { kind: "unknown" };
      return { kind: "final", ...readEnding(data) };
  }
  return null;
}

function readState(data: Record<string, unknown>): Told {
  const told: Told = {
    kind: "state",
    state: data.state as State,
    ending: typeof data.reason === "string" ? readEnding(data) : null,
  };
  if (typeof data.attempt === "number") told.attempt = data.attempt;
  if (typeof data.worker === "string") told.worker = data.worker;
  return told;
}

function readEnding(data: Record<string, unknown>): Ending {
  const ending: Ending = {
    state: data.state as State,
    reason: data.reason as Reason,
    outcome: (data.outcome as Ending["outcome"]) ?? null,
  };
  if (typeof data.exitCode === "number") ending.exitCode = data.exitCode;
  if (typeof data.message === "string") ending.message = data.message;
  return ending;
}
