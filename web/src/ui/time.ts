/** Times and durations in words. Milliseconds since the epoch, durations in milliseconds. */

import { type ReadonlySignal, signal } from "@preact/signals";
import { useEffect } from "preact/hooks";

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

const pad = (value: number) => String(value).padStart(2, "0");

/** `0.8 s`, `12 s`, `1 min 05 s`, `2 h 03 min`, `3 d 4 h`. */
export function showDuration(ms: number): string {
  if (!Number.isFinite(ms) || ms < 0) return "0 s";
  if (ms < 9_950) return `${(ms / SECOND).toFixed(1)} s`;
  const seconds = Math.round(ms / SECOND);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ${pad(seconds % 60)} s`;
  const minutes = Math.round(ms / MINUTE);
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)} h ${pad(minutes % 60)} min`;
  const hours = Math.round(ms / HOUR);
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** What has passed until now, in whole seconds: it does not jitter while it ticks. */
export function showElapsed(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / SECOND));
  return seconds < 60 ? `${seconds} s` : showDuration(seconds * SECOND);
}

/** `just now`, `5 min ago`, `3 h ago`, `yesterday, 14:03`, else the date; in the local zone. */
export function showAgo(time: number, now: number): string {
  const past = now - time;
  if (past < 10 * SECOND) return "just now";
  if (past < MINUTE) return `${Math.floor(past / SECOND)} s ago`;
  if (past < HOUR) return `${Math.floor(past / MINUTE)} min ago`;
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  if (time >= midnight) return `${Math.floor(past / HOUR)} h ago`;
  const clock = showClock(time).slice(0, 5);
  if (time >= new Date(midnight).setDate(new Date(midnight).getDate() - 1)) return `yesterday, ${clock}`;
  return `${showDay(time)}, ${clock}`;
}

/** `2025-03-01`, in the local zone. */
export function showDay(time: number): string {
  const date = new Date(time);
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
}

/** `14:03:22.120`, in the local zone. */
export function showClock(time: number): string {
  const date = new Date(time);
  const ms = String(date.getMilliseconds()).padStart(3, "0");
  return `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}.${ms}`;
}

/** Since a start: `+0:02.120`, `+1:03:22.120`. */
export function showOffset(ms: number): string {
  const all = Math.max(0, Math.round(ms));
  const hours = Math.floor(all / HOUR);
  const minutes = Math.floor((all % HOUR) / MINUTE);
  const seconds = `${pad(Math.floor((all % MINUTE) / SECOND))}.${String(all % SECOND).padStart(3, "0")}`;
  return hours ? `+${hours}:${pad(minutes)}:${seconds}` : `+${minutes}:${seconds}`;
}

const clock = signal(Date.now());
let watchers = 0;
let timer: ReturnType<typeof setInterval> | undefined;

/** The time, which moves once a second while `ticks`; all who ask share one timer. */
export function useNow(ticks: boolean): ReadonlySignal<number> {
  useEffect(() => {
    if (!ticks) return;
    clock.value = Date.now();
    if (watchers++ === 0) {
      timer = setInterval(() => {
        clock.value = Date.now();
      }, SECOND);
    }
    return () => {
      if (--watchers === 0) clearInterval(timer);
    };
  }, [ticks]);
  return clock;
}
