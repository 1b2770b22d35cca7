/**
 * SHA-256, in pieces and without waiting.
 *
 * `crypto.subtle` exists only in secure contexts (a page on plain http has none) and wants everything at once, so a
 * file of 5 GB would have to be in memory. This is used where it cannot be; small buffers go to `crypto.subtle`.
 *
 * Source: FIPS 180-4.
 */

const K = /* @__PURE__ */ constants();

/** The first 32 bits of the fractional parts of the cube roots of the first 64 primes. */
function constants(): Int32Array {
  const found: number[] = [];
  for (let n = 2; found.length < 64; n += 1) {
    let isPrime = true;
    for (let d = 2; d * d <= n && isPrime; d += 1) isPrime = n % d !== 0;
    if (isPrime) found.push(fraction(n));
  }
  return Int32Array.from(found);
}

/** Exact: the integer cube root of n·2^96, without its whole part. */
function fraction(n: number): number {
  const target = BigInt(n) << 96n;
  let low = 0n;
  let high = 1n << 36n;
  while (high - low > 1n) {
    const middle = (low + high) >> 1n;
    if (middle * middle * middle <= target) low = middle;
    else high = middle;
  }
  return Number(low & 0xffffffffn);
}

const START = [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];

export class Sha256 {
  #state = Int32Array.from(START);
  #words = new Int32Array(64);
  #rest = new Uint8Array(64);
  #filled = 0;
  #length = 0;

  update(data: Uint8Array): this {
    this.#length += data.length;
    let at = 0;
    if (this.#filled > 0) {
      at = Math.min(64 - this.#filled, data.length);
      this.#rest.set(data.subarray(0, at), this.#filled);
      this.#filled += at;
      if (this.#filled < 64) return this;
      this.#blocks(this.#rest, 0, 64);
      this.#filled = 0;
    }
    const whole = at + ((data.length - at) & ~63);
    this.#blocks(data, at, whole);
    this.#rest.set(data.subarray(whole));
    this.#filled = data.length - whole;
    return this;
  }

  /** 64 lowercase hex digits. The last call. */
  hex(): string {
    const tail = padded(this.#rest.subarray(0, this.#filled), this.#length);
    this.#blocks(tail, 0, tail.length);
    return Array.from(this.#state, (word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
  }

  #blocks(data: Uint8Array, from: number, to: number): void {
    compress(this.#state, this.#words, data, from, to);
  }
}

/** The last one or two blocks of a message of so many bytes. */
export function padded(rest: Uint8Array, length: number): Uint8Array {
  const tail = new Uint8Array(rest.length < 56 ? 64 : 128);
  tail.set(rest);
  tail[rest.length] = 0x80;
  const view = new DataView(tail.buffer);
  view.setUint32(tail.length - 8, Math.floor(length / 0x20000000));
  view.setUint32(tail.length - 4, (length << 3) >>> 0);
  return tail;
}

/** Plain and flat: this is the one hot loop of the client. All indices are in range. */
function compress(s: Int32Array, w: Int32Array, data: Uint8Array, from: number, to: number): void {
  let h0 = s[0] as number;
  let h1 = s[1] as number;
  let h2 = s[2] as number;
  let h3 = s[3] as number;
  let h4 = s[4] as number;
  let h5 = s[5] as number;
  let h6 = s[6] as number;
  let h7 = s[7] as number;
  for (let p = from; p < to; p += 64) {
    for (let i = 0, q = p; i < 16; i++, q += 4) {
      w[i] =
        ((data[q] as number) << 24) |
        ((data[q + 1] as number) << 16) |
        ((data[q + 2] as number) << 8) |
        (data[q + 3] as number);
    }
    for (let i = 16; i < 64; i++) {
      const x = w[i - 15] as number;
      const y = w[i - 2] as number;
      const low = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
      const high = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
      w[i] = ((w[i - 16] as number) + low + (w[i - 7] as number) + high) | 0;
    }
    let a = h0;
    let b = h1;
    let c = h2;
    let d = h3;
    let e = h4;
    let f = h5;
    let g = h6;
    let h = h7;
    for (let i = 0; i < 64; i++) {
      const big1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
      const one = (h + big1 + ((e & f) ^ (~e & g)) + (K[i] as number) + (w[i] as number)) | 0;
      const big0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
      const two = (big0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + one) | 0;
      d = c;
      c = b;
      b = a;
      a = (one + two) | 0;
    }
    h0 = (h0 + a) | 0;
    h1 = (h1 + b) | 0;
    h2 = (h2 + c) | 0;
    h3 = (h3 + d) | 0;
    h4 = (h4 + e) | 0;
    h5 = (h5 + f) | 0;
    h6 = (h6 + g) | 0;
    h7 = (h7 + h) | 0;
  }
  s[0] = h0;
  s[1] = h1;
  s[2] = h2;
  s[3] = h3;
  s[4] = h4;
  s[5] = h5;
  s[6] = h6;
  s[7] = h7;
}

const ENCODER = /* @__PURE__ */ new TextEncoder();

/** Of text (as UTF-8) or bytes at hand. 64 lowercase hex digits. */
export function sha256(data: string | Uint8Array): string {
  return new Sha256().update(typeof data === "string" ? ENCODER.encode(data) : data).hex();
}

const AT_ONCE_BYTES = 64 << 20;
const CHUNK_BYTES = 2 << 20;

/**
 * Of a blob of any size, read in chunks.
 *
 * The page stays responsive: other work gets its turn between chunks.
 */
export async function sha256OfBlob(
  blob: Blob,
  options: { signal?: AbortSignal | undefined; onProgress?: ((done: number, size: number) => void) | undefined } = {},
): Promise<string> {
  const subtle = globalThis.crypto?.subtle;
  if (subtle && blob.size <= AT_ONCE_BYTES) {
    const digest = new Uint8Array(await subtle.digest("SHA-256", await blob.arrayBuffer()));
    options.signal?.throwIfAborted();
    return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }
  const hash = new Sha256();
  for (let done = 0; done < blob.size; done += CHUNK_BYTES) {
    options.signal?.throwIfAborted();
    hash.update(new Uint8Array(await blob.slice(done, done + CHUNK_BYTES).arrayBuffer()));
    options.onProgress?.(Math.min(done + CHUNK_BYTES, blob.size), blob.size);
  }
  return hash.hex();
}
