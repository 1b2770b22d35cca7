/** What the charts of a queue's last hour draw and say. Pure. */

import type { QueueHistory, QueueMinute } from "../contract.gen.ts";
import { showClock, showDuration } from "./time.ts";

export type ChartTone = "first" | "second" | "good" | "bad" | "rest";

export interface Series {
  name: string;
  tone: ChartTone;
  kind: "bar" | "line";
  /** One per minute; null where nothing was measured. */
  values: readonly (number | null)[];
}

export interface Chart {
  title: string;
  /** The numbers in a sentence. */
  summary: string;
  series: Series[];
  /** The beginning of each minute. */
  times: readonly number[];
  /** The value at the upper edge: a round one, 0 never. */
  top: number;
  /** Nothing happened: the summary says so, and there is nothing to draw. */
  isEmpty: boolean;
  show: (value: number) => string;
}

const FAILED = ["failed", "error", "timed_out", "out_of_memory", "worker_lost"];

const sumOf = (counts: Record<string, number>, names: readonly string[]) =>
  names.reduce((sum, name) => sum + (counts[name] ?? 0), 0);
const allOf = (counts: Record<string, number>) => Object.values(counts).reduce((sum, count) => sum + count, 0);

/** Ends per minute, by how they went. */
export function throughputChart({ minutes, hour }: QueueHistory): Chart {
  const done = minutes.map(({ finished }) => finished.succeeded ?? 0);
  const failed = minutes.map(({ finished }) => sumOf(finished, FAILED));
  const rest = minutes.map(({ finished }) => allOf(finished) - sumOf(finished, [...FAILED, "succeeded"]));
  const ended = allOf(hour.finished);
  const bad = sumOf(hour.finished, FAILED);
  const words = [`${hour.submitted} submitted`, `${hour.started} started`, `${ended} ended`];
  if (bad) words.push(`${bad} of them failed`);
  return {
    ...frame("Jobs that ended, per minute", minutes),
    summary:
      hour.submitted + hour.started + ended === 0 ? "No job was submitted, started or ended." : `${words.join(", ")}.`,
    isEmpty: ended === 0,
    series: [
      { name: "done", tone: "good", kind: "bar", values: done },
      { name: "failed", tone: "bad", kind: "bar", values: failed },
      { name: "cancelled or replaced", tone: "rest", kind: "bar", values: rest },
    ],
    top: roundUp(Math.max(...minutes.map(({ finished }) => allOf(finished)), 0)),
    show: String,
  };
}

/** How long jobs waited that started in each minute. */
export function waitChart({ minutes, hour }: QueueHistory): Chart {
  return durationChart("Wait before a job started", minutes, hour.wait, ({ wait }) => wait, "No job started.");
}

export function runChart({ minutes, hour }: QueueHistory): Chart {
  return durationChart("How long jobs ran", minutes, hour.run, ({ run }) => run, "No job ran to its end.");
}

type Durations = QueueMinute["wait"];

function durationChart(
  title: string,
  minutes: readonly QueueMinute[],
  whole: Durations,
  of: (minute: QueueMinute) => Durations,
  nothing: string,
): Chart {
  const p90 = minutes.map((minute) => of(minute).p90);
  const show = (seconds: number) => showDuration(seconds * 1_000);
  return {
    ...frame(title, minutes),
    summary:
      whole.median === null
        ? nothing
        : `Half of them at most ${show(whole.median)}, nine of ten at most ${show(whole.p90 ?? whole.median)}.`,
    isEmpty: p90.every((value) => value === null),
    series: [
      { name: "median", tone: "first", kind: "line", values: minutes.map((minute) => of(minute).median) },
      { name: "nine of ten", tone: "second", kind: "line", values: p90 },
    ],
    top: roundUpSeconds(Math.max(...p90.map((value) => value ?? 0), 0)),
    show,
  };
}

/** How many jobs waited. */
export function depthChart({ minutes, queued }: QueueHistory): Chart {
  const values = minutes.map((minute) => minute.queued);
  const most = Math.max(...values, queued, 0);
  return {
    ...frame("Jobs that waited", minutes),
    summary:
      most === 0
        ? "None waited at the end of any minute."
        : `${queued} ${queued === 1 ? "waits" : "wait"} now, at most ${most} did.`,
    isEmpty: most === 0,
    series: [{ name: "queued", tone: "first", kind: "bar", values }],
    top: roundUp(most),
    show: String,
  };
}

function frame(title: string, minutes: readonly QueueMinute[]): Pick<Chart, "title" | "times"> {
  return { title, times: minutes.map(({ start }) => start) };
}

/** The next number that reads well: 1, 2, 5, 10, 20, 50… */
export function roundUp(value: number): number {
  if (value <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 2, 5]) if (value <= step * power) return step * power;
  return 10 * power;
}

const SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 28_800, 43_200, 86_400];

/** As clocks divide time. */
export function roundUpSeconds(seconds: number): number {
  return SECONDS.find((step) => seconds <= step) ?? Math.ceil(seconds / 86_400) * 86_400;
}

export const tickOf = (time: number) => showClock(time).slice(0, 5);

interface Plot {
  height: number;
  /** Width of one minute. */
  step: number;
}

export interface Column {
  x: number;
  y: number;
  width: number;
  height: number;
  tone: ChartTone;
}

/** Bars, one on top of another where several series have something in a minute. */
export function columnsOf(series: readonly Series[], top: number, { height, step }: Plot): Column[] {
  const columns: Column[] = [];
  const minutes = Math.max(...series.map(({ values }) => values.length), 0);
  for (let at = 0; at < minutes; at++) {
    let y = height;
    for (const { values, tone } of series) {
      const value = values[at] ?? 0;
      if (value <= 0) continue;
      const tall = (value / top) * height;
      y -= tall;
      columns.push({ x: at * step + 1, y, width: step - 2, height: tall, tone });
    }
  }
  return columns;
}

/** A line at each minute's height, as wide as the minute; broken where nothing was measured. */
export function stepsPath(values: readonly (number | null)[], top: number, { height, step }: Plot): string {
  let path = "";
  let isOpen = false;
  for (const [at, value] of values.entries()) {
    if (value === null) {
      isOpen = false;
      continue;
    }
    const y = Math.round((height - (Math.min(value, top) / top) * height) * 100) / 100;
    path += `${isOpen ? "L" : "M"}${at * step} ${y}H${(at + 1) * step}`;
    isOpen = true;
  }
  return path;
}
