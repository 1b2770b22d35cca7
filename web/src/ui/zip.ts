/**
 * Many files as one zip, streamed: a file is fetched when its turn comes, and nothing is kept in memory that the
 * browser can put on disk.
 *
 * Where the browser lets a page write to a file the person chose (File System Access), any size goes. Elsewhere, also
 * in frames of another origin, the stream is gathered as a Blob, which browsers keep on disk when it is large but not
 * without end: at most `GATHERED_BYTES`. A service worker could do without that limit; we have none, because a page
 * that is embedded anywhere must not leave one behind.
 *
 * One file that cannot be fetched fails the whole archive: an archive that silently lacks a file is worse than none.
 */

import { shownName } from "./files.ts";
import type { OutputFile } from "./model.ts";
import { saveBlob } from "./save.ts";

export const GATHERED_BYTES = 2 * 1000 ** 3;

export class ZipFault extends Error {
  override name = "ZipFault";
}

/**
 * Names as they stand in the archive, in the same order: relative, without `..`, unique without regard to case, since
 * the person may unpack on a disk that has none.
 */
export function zipNames(names: readonly string[]): string[] {
  const taken = new Set<string>();
  return names.map((name) => {
    const clean =
      name
        .split("/")
        // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
        .map((part) => part.replace(/[\u0000-\u001f\u007f<>:"\\|?*]/g, "_").replace(/[. ]+$/, ""))
        .filter(Boolean)
        .join("/") || "file";
    const slash = clean.lastIndexOf("/") + 1;
    const dot = clean.lastIndexOf(".");
    const at = dot > slash ? dot : clean.length;
    let unique = clean;
    for (let count = 2; taken.has(unique.toLowerCase()); count++)
      unique = `${clean.slice(0, at)} (${count})${clean.slice(at)}`;
    taken.add(unique.toLowerCase());
    return unique;
  });
}

export interface ZipProgress {
  files: number;
  bytes: number;
}

interface ZipOptions {
  signal?: AbortSignal;
  fetch?: typeof fetch;
  onProgress?: (progress: ZipProgress) => void;
  /** Told what fails, since a browser may put an error of its own in its place on the way through the streams. */
  onFault?: (fault: ZipFault) => void;
  /** Seconds since the epoch are not known for outputs: one time for all. */
  time?: Date;
}

/** The archive as a stream. Errors: ZipFault, naming the file. */
export async function zipStream(
  files: readonly Pick<OutputFile, "name" | "url" | "size">[],
  { signal, fetch = globalThis.fetch, onProgress, onFault, time = new Date() }: ZipOptions = {},
): Promise<ReadableStream<Uint8Array>> {
  const { makeZip } = await import("client-zip");
  const names = zipNames(files.map((file) => file.name));
  const progress: ZipProgress = { files: 0, bytes: 0 };
  async function* entries() {
    for (const [index, file] of files.entries()) {
      const fault = (why: string) => {
        const error = new ZipFault(`${shownName(file.name)} could not be fetched: ${why}`);
        onFault?.(error);
        return error;
      };
      let response: Response;
      try {
        response = await fetch(file.url, signal ? { signal } : {});
      } catch (error) {
        if (signal?.aborted) throw signal.reason;
        throw fault(error instanceof Error ? error.message : "no answer");
      }
      if (!response.ok) throw fault(`the server answered ${response.status}`);
      const counted = new TransformStream<Uint8Array, Uint8Array>({
        transform(chunk, controller) {
          progress.bytes += chunk.byteLength;
          onProgress?.({ ...progress });
          controller.enqueue(chunk);
        },
      });
      const input = response.body?.pipeThrough(counted) ?? new Blob([]).stream();
      yield { name: names[index], input, lastModified: time };
      progress.files = index + 1;
      onProgress?.({ ...progress });
    }
  }
  return makeZip(entries()) as ReadableStream<Uint8Array>;
}

/** The whole stream as a Blob. Errors: ZipFault when it grows beyond the limit. */
export async function gather(stream: ReadableStream<Uint8Array>, limit = GATHERED_BYTES): Promise<Blob> {
  let size = 0;
  let fault: ZipFault | null = null;
  const bounded = stream.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        size += chunk.byteLength;
        if (size > limit) {
          const most = `${Math.round(limit / 1000 ** 3)} GB`;
          fault = new ZipFault(`this browser can zip at most ${most}; download the files one by one`);
          throw fault;
        }
        controller.enqueue(chunk);
      },
    }),
  );
  try {
    return await new Response(bounded).blob();
  } catch (error) {
    throw fault ?? error;
  }
}

interface FilePicker {
  showSaveFilePicker?: (options: object) => Promise<{ createWritable(): Promise<WritableStream<Uint8Array>> }>;
}

/** Save all files as `name`. To be called from a click, or the browser does not ask where. False: the person refused. */
export async function saveZip(
  files: readonly OutputFile[],
  name: string,
  options: ZipOptions & { where?: FilePicker; limit?: number } = {},
): Promise<boolean> {
  const where = options.where ?? (globalThis as FilePicker);
  const limit = options.limit ?? GATHERED_BYTES;
  let target: WritableStream<Uint8Array> | null = null;
  if (where.showSaveFilePicker) {
    try {
      const types = [{ description: "Zip archive", accept: { "application/zip": [".zip"] } }];
      target = await (await where.showSaveFilePicker({ suggestedName: name, types })).createWritable();
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") return false;
      // Not allowed here, as in a frame of another origin: gathered instead.
    }
  }
  const known = files.reduce((sum, file) => sum + (file.size ?? 0), 0);
  if (!target && known > limit)
    throw new ZipFault("these files are too large to zip in this browser; download them one by one");
  let fault: ZipFault | null = null;
  const onFault = (error: ZipFault) => {
    fault = error;
  };
  try {
    const stream = await zipStream(files, { ...options, onFault });
    if (target) await stream.pipeTo(target, options.signal ? { signal: options.signal } : {});
    else saveBlob(await gather(stream, limit), name);
  } catch (error) {
    throw fault ?? error;
  }
  return true;
}
