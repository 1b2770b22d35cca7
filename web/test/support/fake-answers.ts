/** What a server would answer to the parts of the page that ask it themselves: definitions and the last hour. */

import type { QueueHistory, QueueMinute } from "../../src/contract.ts";

const DEFINITIONS = [
  { image: "python:3.12-slim", command: "python /inputs/fit.py --epochs 20" },
  { image: "ghcr.io/example/segment-anything:2.1.0-cuda12", command: "segment --input /inputs/scan.tiff --tiles 4x4" },
  { image: "alpine:3.19.1", command: 'echo "hello world"' },
  { build: { context: "https://github.com/example/solver/tree/main" }, command: ["solve", "--mesh", "fine"] },
  { image: "r-base:4.4.1" },
];

function minute(start: number, at: number): QueueMinute {
  const submitted = Math.round(4 + 3 * Math.sin(at / 5));
  const isQuiet = at > 18 && at < 24;
  const ended = isQuiet ? 0 : Math.round(3 + 2 * Math.sin(at / 6));
  const wait = 8 + 30 * Math.max(0, Math.sin(at / 9)) ** 2;
  return {
    start,
    queued: Math.max(0, Math.round(6 * Math.sin(at / 9))),
    submitted: isQuiet ? 0 : submitted,
    started: ended,
    finished: isQuiet
      ? {}
      : { succeeded: ended, ...(at % 9 === 0 ? { failed: 2 } : {}), ...(at % 13 === 0 ? { cancelled: 1 } : {}) },
    wait: { count: ended, median: isQuiet ? null : wait, p90: isQuiet ? null : wait * 2.4 },
    run: { count: ended, median: isQuiet ? null : 41 + (at % 7) * 3, p90: isQuiet ? null : 96 },
  };
}

/** An hour up to `now`, with a quiet stretch in it. */
export function fakeHistory(now: number, counted = 60): QueueHistory {
  const last = Math.floor(now / 60_000) * 60_000;
  const minutes = Array.from({ length: counted }, (_, at) => minute(last - (counted - 1 - at) * 60_000, at));
  const finished: Record<string, number> = {};
  for (const each of minutes)
    for (const [outcome, count] of Object.entries(each.finished)) finished[outcome] = (finished[outcome] ?? 0) + count;
  const sum = (of: (each: QueueMinute) => number) => minutes.reduce((total, each) => total + of(each), 0);
  return {
    queue: "public1",
    time: now,
    since: minutes[0]?.start ?? now,
    servers: 1,
    queued: minutes.at(-1)?.queued ?? 0,
    hour: {
      submitted: sum(({ submitted }) => submitted),
      started: sum(({ started }) => started),
      finished,
      wait: { count: sum(({ wait }) => wait.count), median: 11.4, p90: 52.8 },
      run: { count: sum(({ run }) => run.count), median: 46.2, p90: 96 },
    },
    minutes,
  };
}

/** Other paths are not known. Every definition is one of a few, chosen by the job's id. */
export const fakeFetch: typeof fetch = async (input) => {
  const path = new URL(input instanceof Request ? input.url : String(input), "http://fake").pathname;
  const job = /\/j\/([^/]+)\/definition\.json$/.exec(path)?.[1];
  if (job)
    return Response.json({ data: DEFINITIONS[(Number.parseInt(job.slice(0, 4), 36) || 0) % DEFINITIONS.length] });
  if (path.endsWith("/history")) return Response.json(fakeHistory(Date.now()));
  return Response.json({ error: "not known", code: "route_not_found", hint: "" }, { status: 404 });
};
