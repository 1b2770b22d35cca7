/** Where things are at a server. */

import { AsmanError } from "./errors.ts";

export function checkedServer(server: string): string {
  const url = URL.canParse(server) ? new URL(server) : null;
  if (!url || !/^https?:$/.test(url.protocol)) {
    throw new AsmanError(`"${server}" is not the address of a server`, {
      code: "bad_argument",
      hint: "Write it like https://queue.example or http://localhost:8000.",
    });
  }
  return `${url.origin}${url.pathname}`.replace(/\/+$/, "");
}

export function part(name: string): string {
  return encodeURIComponent(name);
}

export function queuePath(queue: string): string {
  if (!queue) throw new AsmanError("there is no queue", { code: "bad_argument", hint: "Name a queue." });
  return `/q/${part(queue)}`;
}

export function jobPath(queue: string, jobId: string): string {
  return `${queuePath(queue)}/j/${part(jobId)}`;
}

export function streamPath(queue: string, jobId: string): string {
  return `${jobPath(queue, jobId)}/stream`;
}

/** Slashes stay as they are. */
export function filePath(name: string): string {
  return name.split("/").map(part).join("/");
}

export function withQuery(path: string, query: Record<string, string | undefined> = {}): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  return given.length ? `${path}?${new URLSearchParams(given as [string, string][])}` : path;
}
