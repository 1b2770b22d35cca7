/** Which page an address asks for. Pure. */

import type { Route } from "./model.ts";

const JOB = /^\/j\/([0-9a-f]{64})(?:\.json)?\/?$/;
const QUEUE = /^\/q\/([^/]+)\/?$/;

/** Any path that is no job's and no queue's is the page itself. Shape: `base` is what the server's paths begin with. */
export function routeOf(address: string, base = ""): Route {
  const path = address.startsWith(base) ? address.slice(base.length) : address;
  const job = JOB.exec(path)?.[1];
  if (job) return { kind: "job-page", jobId: job };
  const queue = QUEUE.exec(path)?.[1];
  try {
    if (queue) return { kind: "queue-page", queue: decodeURIComponent(queue) };
  } catch {
    // not a name that could be written in an address
  }
  return { kind: "job" };
}
