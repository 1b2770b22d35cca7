/** How long to wait before a request is repeated, and for its answer. */

import type { AsmanError } from "./errors.ts";

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 10_000;
const LONGEST_RETRY_AFTER_MS = 30_000;

/** Longer with each failure, and never the same for everybody, so that a server that comes back is not run over. */
export function pauseMs(failures: number, error: AsmanError | null): number {
  if (error?.retryAfterMs) return error.retryAfterMs;
  const whole = Math.min(FIRST_PAUSE_MS * 2 ** failures, LONGEST_PAUSE_MS);
  return Math.round(whole * (0.5 + Math.random() / 2));
}

export function readRetryAfter(text: string | null): number | null {
  if (!text) return null;
  const ms = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return Number.isFinite(ms) && ms > 0 ? Math.min(ms, LONGEST_RETRY_AFTER_MS) : null;
}

export function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

export interface Linked {
  signal: AbortSignal;
  abort(reason: unknown): void;
  timedOut(): boolean;
  /** The answer has begun: it may take as long as it needs, but the caller can still end it. */
  stopClock(): void;
  /** The body of an answer has the same time again. */
  restartClock(): void;
  unlink(): void;
}

/** A signal that the caller's signal ends, or time. (`AbortSignal.any` is missing in browsers of two years ago.) */
export function linked(signal: AbortSignal | undefined, timeoutMs?: number): Linked {
  const own = new AbortController();
  const follow = () => own.abort(signal?.reason);
  let isLate = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const stopClock = () => clearTimeout(timer);
  const restartClock = () => {
    stopClock();
    if (timeoutMs === undefined) return;
    timer = setTimeout(() => {
      isLate = true;
      own.abort();
    }, timeoutMs);
  };
  if (signal?.aborted) follow();
  else signal?.addEventListener("abort", follow);
  restartClock();
  const unlink = () => {
    stopClock();
    signal?.removeEventListener("abort", follow);
  };
  return {
    signal: own.signal,
    abort: (reason) => own.abort(reason),
    timedOut: () => isLate,
    stopClock,
    restartClock,
    unlink,
  };
}
