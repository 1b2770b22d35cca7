import { execFileSync } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it, vi } from "vitest";
import { gather, saveZip, ZipFault, zipNames, zipStream } from "../src/ui/zip.ts";

const BODIES: Record<string, string | Uint8Array<ArrayBuffer>> = {
  "/a": "alpha",
  "/b": "größer\n",
  "/c": new Uint8Array(300_000).fill(7),
  "/empty": "",
};

const serve = (async (url: string | URL | Request) => {
  const body = BODIES[String(url)];
  return body === undefined ? new Response("gone", { status: 404 }) : new Response(body);
}) as typeof fetch;

const file = (name: string, url: string) => ({ name, url, size: null });

/** What Python's zipfile, a reader that is not ours, finds in the archive: names to the bytes' length and checksum. */
async function unzip(stream: ReadableStream<Uint8Array>): Promise<Record<string, [number, string]>> {
  const path = join(mkdtempSync(join(tmpdir(), "zip-")), "all.zip");
  writeFileSync(path, new Uint8Array(await new Response(stream).arrayBuffer()));
  const script = `
import json, sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
assert archive.testzip() is None
print(json.dumps({i.filename: [i.file_size, archive.read(i)[:20].decode(errors="replace")] for i in archive.infolist()}))`;
  return JSON.parse(execFileSync("python3", ["-c", script, path], { encoding: "utf8" }));
}

describe("names in the archive", () => {
  it("stay within it, and apart from one another", () => {
    expect(
      zipNames(["a.txt", "A.txt", "/etc/passwd", "../up", "a\\b", "d/x", "d/x", "ü/名.txt", "con.", "", "a (2).txt"]),
    ).toEqual([
      "a.txt",
      "A (2).txt",
      "etc/passwd",
      "up",
      "a_b",
      "d/x",
      "d/x (2)",
      "ü/名.txt",
      "con",
      "file",
      "a (2) (2).txt",
    ]);
  });
});

describe("the stream", () => {
  it("is a zip that another reader takes", async () => {
    const seen = vi.fn();
    const stream = await zipStream(
      [file("plots/größe.txt", "/b"), file("a.txt", "/a"), file("a.txt", "/c"), file("empty", "/empty")],
      { fetch: serve, onProgress: seen },
    );
    expect(await unzip(stream)).toEqual({
      "plots/größe.txt": [9, "größer\n"],
      "a.txt": [5, "alpha"],
      "a (2).txt": [300_000, "\u0007".repeat(20)],
      empty: [0, ""],
    });
    expect(seen).toHaveBeenLastCalledWith({ files: 4, bytes: 300_014 });
  });

  it("fails as a whole when a file is missing, and names it", async () => {
    const stream = await zipStream([file("a", "/a"), file("gone.txt", "/x")], { fetch: serve });
    await expect(new Response(stream).arrayBuffer()).rejects.toThrow(/gone\.txt could not be fetched.*404/);
  });

  it("fetches a file when its turn comes", async () => {
    const asked = vi.fn(serve);
    const stream = await zipStream([file("c", "/c"), file("a", "/a")], { fetch: asked as typeof fetch });
    const reader = stream.getReader();
    await reader.read();
    expect(asked.mock.calls.length).toBeLessThan(2);
    await reader.cancel().catch(() => {});
  });

  it("is gathered up to a limit", async () => {
    const stream = await zipStream([file("c", "/c")], { fetch: serve });
    await expect(gather(stream, 100_000)).rejects.toThrow(ZipFault);
    expect((await gather(await zipStream([file("c", "/c")], { fetch: serve }), 400_000)).size).toBeGreaterThan(300_000);
  });
});

describe("saving", () => {
  it("writes into the file that the person chose", async () => {
    const chunks: Uint8Array[] = [];
    const where = {
      showSaveFilePicker: async () => ({
        createWritable: async () => new WritableStream<Uint8Array>({ write: (chunk) => void chunks.push(chunk) }),
      }),
    };
    expect(await saveZip([file("a", "/a")], "all.zip", { fetch: serve, where })).toBe(true);
    expect(await unzip(new Blob(chunks as BlobPart[]).stream())).toEqual({ a: [5, "alpha"] });
  });

  it("does nothing when the person refuses", async () => {
    const asked = vi.fn(serve);
    const refuse = {
      showSaveFilePicker: async () => {
        throw new DOMException("no", "AbortError");
      },
    };
    expect(await saveZip([file("a", "/a")], "all.zip", { fetch: asked as typeof fetch, where: refuse })).toBe(false);
    expect(asked).not.toHaveBeenCalled();
  });

  it("says before it begins that it would be too much", async () => {
    const large = [{ ...file("a", "/a"), size: 5_000_000_000 }];
    const asked = vi.fn(serve);
    await expect(saveZip(large, "all.zip", { fetch: asked as typeof fetch, where: {} })).rejects.toThrow(/one by one/);
    expect(asked).not.toHaveBeenCalled();
  });
});
