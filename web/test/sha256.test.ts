import { createHash, randomBytes } from "node:crypto";
import { afterEach, expect, test, vi } from "vitest";
import { padded, Sha256, sha256, sha256OfBlob } from "../src/sha256.ts";

const nodeHash = (data: string | Uint8Array) => createHash("sha256").update(data).digest("hex");

afterEach(() => vi.unstubAllGlobals());

test.each([
  ["", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
  ["abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"],
  [
    "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
    "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
  ],
])("the published vector %j", (text, expected) => {
  expect(sha256(text)).toBe(expected);
});

test("every length up to three blocks is right, in any pieces", () => {
  const data = randomBytes(200);
  for (let length = 0; length <= 200; length += 1) {
    const hash = new Sha256();
    for (let at = 0; at < length; at += (length % 7) + 1) {
      hash.update(data.subarray(at, Math.min(at + (length % 7) + 1, length)));
    }
    expect(hash.hex(), `${length} bytes`).toBe(nodeHash(data.subarray(0, length)));
  }
});

test("text is hashed as UTF-8", () => {
  expect(sha256("h\u00e9llo \u{1f600}")).toBe(nodeHash("h\u00e9llo \u{1f600}"));
});

test("the length of a message of terabytes is written whole, in bits", () => {
  for (const length of [0, 55, 2 ** 29 - 1, 2 ** 29 + 3, 5 * 2 ** 40 + 7]) {
    const tail = padded(new Uint8Array(length % 64), length);
    expect(new DataView(tail.buffer).getBigUint64(tail.length - 8), `${length} bytes`).toBe(BigInt(length) * 8n);
    expect(tail[length % 64]).toBe(0x80);
    expect(tail.length).toBe(length % 64 < 56 ? 64 : 128);
  }
});

test("a blob has the same hash with and without crypto.subtle, and in chunks", async () => {
  const small = randomBytes(100_000);
  expect(await sha256OfBlob(new Blob([small]))).toBe(nodeHash(small));
  vi.stubGlobal("crypto", {});
  expect(await sha256OfBlob(new Blob([small]))).toBe(nodeHash(small));
  const large = randomBytes(65 << 20);
  const told: number[] = [];
  expect(await sha256OfBlob(new Blob([large]), { onProgress: (done) => told.push(done) })).toBe(nodeHash(large));
  expect(told).toHaveLength(33);
  expect(told.at(-1)).toBe(large.length);
  expect(told).toEqual([...told].sort((x, y) => x - y));
}, 60_000);

test("hashing a blob is ended by its signal", async () => {
  const stop = new AbortController();
  vi.stubGlobal("crypto", {});
  const hashing = sha256OfBlob(new Blob([new Uint8Array(65 << 20)]), {
    signal: stop.signal,
    onProgress: () => stop.abort(),
  });
  await expect(hashing).rejects.toMatchObject({ name: "AbortError" });
});
