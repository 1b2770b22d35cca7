/** What a finished job hands to the host page. Source: published web client, "Outputs emitted". */

import type { Client } from "../client.ts";
import type { DataRef, LogLine, Result } from "../contract.ts";
import { fromBase64, toBase64 } from "./assembly.ts";
import { parseHash, readText } from "./hash.ts";
import { whereOf } from "./where.ts";

export interface Emission {
  jobId: string;
  result: Result;
  /** The server's address. */
  base: string;
  /** Null: the host page does not know the queue, and shall not. */
  queue: string | null;
  /** With `job/result.json` too. */
  withResult: boolean;
  /** Send the data itself, not where it is. */
  resolves: boolean;
}

/** Output name to what is sent. Errors: those of fetching, where references are resolved. */
export async function emitted(client: Client, emission: Emission): Promise<Record<string, unknown>> {
  const { result, base, resolves, withResult } = emission;
  const outputs: Record<string, unknown> = {};
  for (const [name, ref] of Object.entries(result.finished.result?.outputs ?? {})) {
    const sent = addressed(ref, base);
    outputs[name] = resolves ? await resolved(client, sent) : sent;
  }
  if (withResult) outputs["job/result.json"] = summary(emission);
  return outputs;
}

/** Keys mean nothing outside of the server: they become addresses. */
function addressed({ value, type }: DataRef, base: string): DataRef {
  if (type === "key") return { value: `${base}/f/${encodeURIComponent(String(value))}`, type: "url" };
  return { value, type: type || "utf8" };
}

async function resolved(client: Client, ref: DataRef): Promise<unknown> {
  if (ref.type === "json" || ref.type === "utf8") return ref.value;
  if (ref.type === "base64") return serialised(fromBase64(String(ref.value)), "application/octet-stream");
  const response = await client.fetchFile(String(ref.value));
  const bytes = new Uint8Array(await response.arrayBuffer());
  return serialised(bytes, response.headers.get("content-type") ?? "application/octet-stream");
}

/** The form of a blob that every release of the host's library reads. */
function serialised(bytes: Uint8Array, fileType: string): Record<string, unknown> {
  return { _s: true, _c: "Blob", value: toBase64(bytes), size: bytes.length, fileType };
}

function summary({ jobId, result, base, queue }: Emission): Record<string, unknown> {
  const run = result.finished.result ?? {};
  const lines = (isStderr: boolean) =>
    (run.logs ?? [])
      .filter((line) => (line[2] === true) === isStderr)
      .map(([text, ...rest]): LogLine => [text.trimEnd(), ...rest] as LogLine);
  return {
    stdout: lines(false),
    stderr: lines(true),
    statusCode: run.StatusCode,
    error: run.error,
    duration: run.duration,
    isTimedOut: run.isTimedOut,
    url: queue ? `${base}/q/${encodeURIComponent(queue)}/j/${jobId}` : `${base}/j/${jobId}`,
  };
}

/** Does the host page know this queue? It does if the hash, which it gave and is told of, says it. */
export function isQueueOfHost(hash: string, queue: string): boolean {
  const { values } = parseHash(hash);
  return ["queue", "queueOverride"].some((name) => {
    const given = values.get(name);
    return given !== undefined && whereOf(readText(given), { origin: "" }).queue === queue;
  });
}
