/** The first bytes of a file, wherever it is. */

import type { Source } from "../intake.ts";

export interface Part {
  bytes: Uint8Array<ArrayBuffer>;
  /** There is more. */
  isPart: boolean;
  /** Of the whole file; null if nobody said. */
  size: number | null;
}

/** Errors: Error, in words for a person; the signal's reason when it is aborted. */
export async function loadPart(
  source: Source,
  limit: number,
  { signal, fetch = globalThis.fetch }: { signal?: AbortSignal; fetch?: typeof globalThis.fetch } = {},
): Promise<Part> {
  if ("blob" in source) {
    const blob = source.blob();
    const bytes = new Uint8Array(await blob.slice(0, limit).arrayBuffer());
    return { bytes, isPart: blob.size > limit, size: blob.size };
  }
  let response: Response;
  try {
    response = await fetch(source.url, { headers: { range: `bytes=0-${limit - 1}` }, ...(signal ? { signal } : {}) });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error("The file could not be fetched: the server did not answer, or does not let this page read it.");
  }
  if (response.status === 416) return { bytes: new Uint8Array(0), isPart: false, size: 0 }; // an empty file has no first byte
  if (response.status === 404 || response.status === 410)
    throw new Error("The file is no longer on the server. Run the job again to get it back.");
  if (!response.ok) throw new Error(`The file could not be fetched: the server answered ${response.status}.`);
  const { bytes, isCut } = await firstBytes(response, limit);
  const size = sizeOf(response);
  // A server of another origin may keep Content-Range to itself: as many bytes as were asked for are then a part.
  const isPart = isCut || (size === null ? response.status === 206 && bytes.length === limit : size > bytes.length);
  return { bytes, isPart, size: size ?? (isPart ? null : bytes.length) };
}

function sizeOf(response: Response): number | null {
  const whole = /\/(\d+)$/.exec(response.headers.get("content-range") ?? "")?.[1];
  if (whole) return Number(whole);
  const length = response.headers.get("content-length");
  return response.status === 200 && length && !response.headers.get("content-encoding") ? Number(length) : null;
}

async function firstBytes(
  response: Response,
  limit: number,
): Promise<{ bytes: Uint8Array<ArrayBuffer>; isCut: boolean }> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  const reader = response.body?.getReader();
  while (reader && size <= limit) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    size += value.length;
  }
  if (size > limit) await reader?.cancel();
  const bytes = new Uint8Array(Math.min(size, limit));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk.subarray(0, bytes.length - at), at);
    at += Math.min(chunk.length, bytes.length - at);
  }
  return { bytes, isCut: size > limit };
}

/** The text of a part of a file: a character that the cut went through is left out. Null if it is no text. */
export function textOfPart({ bytes, isPart }: Part): string | null {
  if (bytes.includes(0)) return null;
  const decode = (end: number) => new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, end));
  for (let cut = 0; cut <= (isPart ? 3 : 0); cut++) {
    try {
      return decode(bytes.length - cut);
    } catch {}
  }
  return null;
}
