/**
 * The part of the address behind `#`: its grammar, and how values are written in it. Pure.
 *
 * `#<pre>?<key>=<value>&…`. Several generations of the library that defined this have written values differently; all of
 * them are read, and the oldest form is written, so that a link of today works in yesterday's pages.
 *
 * Source: published web client, "Hash grammar" and "Value encodings".
 */

export interface Hash {
  /** What stands before the first `?`; kept, without a meaning. */
  pre: string;
  /** Key to value as it stands in the link, still encoded. */
  values: ReadonlyMap<string, string>;
}

/** What reading a JSON value came to. */
export type Read = { value: unknown } | { fault: string };

/** Take a hash apart. Duplicate keys: the last one counts. */
export function parseHash(hash: string): Hash {
  const text = hash.replace(/^#+/, "");
  const mark = text.indexOf("?");
  if (mark < 0) return { pre: text, values: new Map() };
  const values = new Map<string, string>();
  for (const piece of text.slice(mark + 1).split("&")) {
    if (!piece) continue;
    const at = piece.indexOf("=");
    values.set(at < 0 ? piece : piece.slice(0, at), at < 0 ? "" : piece.slice(at + 1));
  }
  return { pre: text.slice(0, mark), values };
}

/** The whole hash, with `#`: keys sorted, values percent-encoded anew. Empty if there is nothing to write. */
export function formatHash({ pre, values }: Hash): string {
  const pieces = [...values.keys()].sort().map((key) => `${key}=${encodeText(readText(values.get(key) ?? ""))}`);
  if (!pre && !pieces.length) return "";
  return `#${pre}${pieces.length ? `?${pieces.join("&")}` : ""}`;
}

/** The hash with one parameter set, or removed if `value` is undefined. `value` is plain text, not yet encoded. */
export function withParameter(hash: string, key: string, value: string | undefined): string {
  const parsed = parseHash(hash);
  const values = new Map(parsed.values);
  if (value === undefined) values.delete(key);
  else values.set(key, encodeText(value));
  return formatHash({ pre: parsed.pre, values });
}

/** A value's text: percent-decoded once; as it stands where it cannot be decoded. */
export function readText(value: string): string {
  return percentDecoded(value) ?? value;
}

/** As `encodeURIComponent`, for any text: lone surrogates become U+FFFD. */
function encodeText(text: string): string {
  return encodeURIComponent(
    text.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd"),
  );
}

function percentDecoded(text: string): string | null {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

// --- JSON ------------------------------------------------------------------------------------------------------------

/** A JSON value as the text of a parameter (before it is percent-encoded): keys sorted, base64 of percent-encoded JSON. */
export function encodeJson(value: unknown): string {
  return btoa(encodeURIComponent(sortedJson(value)));
}

/** Read a JSON value of any generation of writers. Never throws: what is wrong is said in `fault`. */
export function readJson(value: string): Read {
  let text = value;
  for (let times = 0; times < 3 && text.includes("%"); times++)
    text = percentDecoded(text) ?? withoutStrayPercent(text);
  text = text.trim();
  if (!text) return { fault: "it is empty" };
  if (text.startsWith("{") || text.startsWith("[")) return parsed(text); // written by hand
  const decoded = fromBase64(text);
  if (decoded === null) return { fault: "it is not base64" };
  const plain = parsed(decoded);
  if ("value" in plain || !decoded.includes("%")) return plain;
  const inner = percentDecoded(decoded);
  return inner === null ? { fault: "its percent-encoding is broken" } : parsed(inner);
}

function parsed(text: string): Read {
  try {
    return { value: JSON.parse(text) };
  } catch {
    return { fault: text.length > 20 ? "it is cut off, or not JSON" : "it is not JSON" };
  }
}

/** A percent sign that encodes nothing was cut off or is a stray one: neither belongs to base64. */
function withoutStrayPercent(text: string): string {
  return text.replace(/%(?![0-9A-Fa-f]{2}).?/g, "");
}

/** Text of base64: padding may be missing, the URL-safe alphabet and spaces in the place of `+` are taken too. */
function fromBase64(text: string): string | null {
  const usual = text
    .replace(/-/g, "+")
    .replace(/_/g, "/")
    .replace(/ /g, "+")
    .replace(/[\r\n\t]/g, "")
    .replace(/=+$/, "");
  if (!/^[A-Za-z0-9+/]+$/.test(usual) || usual.length % 4 === 1) return null;
  const padded = usual + "=".repeat((4 - (usual.length % 4)) % 4);
  const bytes = Uint8Array.from(atob(padded), (c) => c.charCodeAt(0));
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return atob(padded); // Latin-1, as one generation wrote
  }
}

/** JSON with the keys of every object sorted; members that are undefined are left out. */
export function sortedJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map((item) => sortedJson(item ?? null)).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value) ?? "null";
  const members = Object.entries(value).filter(([, member]) => member !== undefined);
  members.sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${members.map(([key, member]) => `${JSON.stringify(key)}:${sortedJson(member)}`).join(",")}}`;
}
