/**
 * Names, kinds and sizes of files, and how a list of them becomes a tree. Pure: no document, no network.
 *
 * The rules for names are those of the worker, which refuses the job otherwise; here they are said while one types.
 */

/** A text up to this many bytes is part of the link; a larger one is uploaded. */
export const INLINE_FILE_BYTES = 16 * 1024;
/** All texts of the link together, so that it stays a link that mail and chat programs carry. */
export const INLINE_ALL_BYTES = 64 * 1024;

const NAME_BYTES = 1024;
const PART_BYTES = 255;
const DEPTH = 32;
const RESERVED = ["/proc", "/sys", "/dev", "/outputs", "/job-cache"];

/** The name as it is kept: blanks around it are dropped, and `/inputs/a` is the same file as `a`. */
export function tidyName(name: string): string {
  const tidy = name.trim().normalize("NFC");
  return tidy.startsWith("/inputs/") ? tidy.slice("/inputs/".length) : tidy;
}

/** Where the container finds the file. */
export function landsAt(name: string): string {
  return name.startsWith("/") ? name : `/inputs/${name}`;
}

/**
 * What is wrong with a name, or null.
 *
 * `taken` are the names of the other files. An uploaded file can only lie below /inputs (`canBeAbsolute` false).
 */
export function nameFault(name: string, taken: Iterable<string>, canBeAbsolute = true): string | null {
  const tidy = tidyName(name);
  if (tidy === "") return "Give the file a name, such as script.py.";
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (/[\u0000-\u001f\u007f]/.test(tidy)) return "The name holds a control character. Type it again without it.";
  if (/[\ud800-\udfff]/u.test(tidy)) return "The name is not Unicode text.";
  if (tidy.includes("\\")) return "Use / between folders.";
  const isAbsolute = tidy.startsWith("/");
  const parts = (isAbsolute ? tidy.slice(1) : tidy).split("/");
  if (tidy.endsWith("/")) return "The name ends with a slash. Add a file name after it.";
  if (parts.includes("..") || parts.includes(".")) return "A name cannot hold . or .. as a folder.";
  if (parts.includes("")) return "The name has two slashes in a row. Remove one.";
  if (parts.length > DEPTH) return `At most ${DEPTH} folders are allowed.`;
  if (parts.some((part) => utf8Bytes(part) > PART_BYTES)) return `A name can have at most ${PART_BYTES} bytes.`;
  if (utf8Bytes(tidy) > NAME_BYTES) return `A path can have at most ${NAME_BYTES} bytes.`;
  if (isAbsolute) {
    if (!canBeAbsolute) return "An uploaded file lies below /inputs. Use a name without a leading slash.";
    if (tidy.includes(":")) return "A path that starts with / cannot hold a colon.";
    if (tidy === "/inputs" || RESERVED.some((place) => tidy === place || tidy.startsWith(`${place}/`)))
      return `Nothing can be put at ${tidy}. Choose a place outside of ${RESERVED.join(", ")}.`;
  }
  const path = landsAt(tidy);
  for (const other of taken) {
    const there = landsAt(tidyName(other));
    if (there === path) return `There is a file ${other} already. Choose another name.`;
    if (there.startsWith(`${path}/`)) return `${path} is the folder of ${other}. Choose another name.`;
    if (path.startsWith(`${there}/`)) return `${other} is a file, so it cannot be a folder too.`;
  }
  return null;
}

/** A name for a file that came from elsewhere: made to keep the rules, and free. */
export function freeName(wanted: string, taken: ReadonlySet<string>): string {
  const parts = wanted
    .split(/[\\/]/)
    .map((part) =>
      part
        .normalize("NFC")
        // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
        .replace(/[\u0000-\u001f\u007f]/g, "_")
        .trim(),
    )
    .filter((part) => part !== "" && part !== "." && part !== "..");
  const name = parts.join("/") || "file";
  if (!nameFault(name, taken)) return name;
  const folder = name.slice(0, name.lastIndexOf("/") + 1);
  const bare = name.slice(folder.length);
  const dot = bare.lastIndexOf(".");
  const [stem, extension] = dot > 0 ? [bare.slice(0, dot), bare.slice(dot)] : [bare, ""];
  for (let count = 2; count < 1000; count++) {
    const next = `${folder}${stem}-${count}${extension}`;
    if (!nameFault(next, taken)) return next;
  }
  return name;
}

/** Not seen, or seen elsewhere than they are: a name with them can look as if it ended in another extension. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A name as it is shown: what cannot be seen is written out. */
export function shownName(name: string): string {
  return name.replace(HIDDEN, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

export function utf8Bytes(text: string): number {
  let count = text.length;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code < 0x80) continue;
    if (code < 0x800) count += 1;
    else if (code >= 0xd800 && code < 0xdc00 && isLow(text.charCodeAt(at + 1))) {
      count += 2; // two units, four bytes
      at++;
    } else count += 2;
  }
  return count;
}

function isLow(code: number): boolean {
  return code >= 0xdc00 && code < 0xe000;
}

/** The text of these bytes, or null if they are no text: not UTF-8, or with a NUL. */
export function asText(bytes: Uint8Array): string | null {
  if (bytes.includes(0)) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

export function showBytes(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let value = bytes / 1000;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export function showCount(count: number, one: string, many = `${one}s`): string {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

// Kinds ----------------------------------------------------------------------------------------------------------

/** How a file can be looked at. `none`: only saved; `unknown`: looked into first. */
export type Kind = "image" | "svg" | "audio" | "video" | "table" | "json" | "text" | "none" | "unknown";

interface FileType {
  kind: Kind;
  /** In words, for the list. */
  label: string;
  /** The type given to a blob: of our own choosing, never the server's. */
  mime: string;
}

const image = (label: string, mime: string): FileType => ({ kind: "image", label, mime });
const audio = (label: string, mime: string): FileType => ({ kind: "audio", label, mime });
const video = (label: string, mime: string): FileType => ({ kind: "video", label, mime });
const text = (label: string): FileType => ({ kind: "text", label, mime: "text/plain" });
const none = (label: string): FileType => ({ kind: "none", label, mime: "application/octet-stream" });

const TYPES: Record<string, FileType> = {
  png: image("PNG image", "image/png"),
  jpg: image("JPEG image", "image/jpeg"),
  jpeg: image("JPEG image", "image/jpeg"),
  gif: image("GIF image", "image/gif"),
  webp: image("WebP image", "image/webp"),
  avif: image("AVIF image", "image/avif"),
  bmp: image("BMP image", "image/bmp"),
  ico: image("Icon", "image/x-icon"),
  svg: { kind: "svg", label: "SVG image", mime: "image/svg+xml" },
  mp3: audio("MP3 audio", "audio/mpeg"),
  wav: audio("WAV audio", "audio/wav"),
  ogg: audio("Ogg audio", "audio/ogg"),
  oga: audio("Ogg audio", "audio/ogg"),
  opus: audio("Opus audio", "audio/ogg"),
  flac: audio("FLAC audio", "audio/flac"),
  m4a: audio("AAC audio", "audio/mp4"),
  aac: audio("AAC audio", "audio/aac"),
  mp4: video("MP4 video", "video/mp4"),
  m4v: video("MP4 video", "video/mp4"),
  webm: video("WebM video", "video/webm"),
  ogv: video("Ogg video", "video/ogg"),
  mov: video("QuickTime video", "video/mp4"),
  csv: { kind: "table", label: "CSV table", mime: "text/csv" },
  tsv: { kind: "table", label: "TSV table", mime: "text/csv" },
  tab: { kind: "table", label: "TSV table", mime: "text/csv" },
  json: { kind: "json", label: "JSON", mime: "application/json" },
  geojson: { kind: "json", label: "GeoJSON", mime: "application/json" },
  ipynb: { kind: "json", label: "Notebook (JSON)", mime: "application/json" },
  txt: text("Text"),
  log: text("Log"),
  md: text("Markdown"),
  markdown: text("Markdown"),
  html: text("HTML source"),
  htm: text("HTML source"),
  xhtml: text("XHTML source"),
  xml: text("XML source"),
  jsonl: text("JSON lines"),
  ndjson: text("JSON lines"),
  yaml: text("YAML"),
  yml: text("YAML"),
  toml: text("TOML"),
  ini: text("Settings"),
  conf: text("Settings"),
  py: text("Python"),
  js: text("JavaScript"),
  mjs: text("JavaScript"),
  cjs: text("JavaScript"),
  jsx: text("JavaScript"),
  ts: text("TypeScript"),
  tsx: text("TypeScript"),
  css: text("CSS"),
  sql: text("SQL"),
  rs: text("Rust"),
  c: text("C"),
  h: text("C header"),
  cpp: text("C++"),
  hpp: text("C++ header"),
  cc: text("C++"),
  sh: text("Shell script"),
  bash: text("Shell script"),
  r: text("R"),
  go: text("Go"),
  diff: text("Diff"),
  patch: text("Diff"),
  tex: text("LaTeX"),
  dockerfile: text("Dockerfile"),
  makefile: text("Makefile"),
  pdf: none("PDF"),
  zip: none("Zip archive"),
  gz: none("Gzip archive"),
  tgz: none("Tar archive"),
  tar: none("Tar archive"),
  xz: none("Xz archive"),
  zst: none("Zstandard archive"),
  parquet: none("Parquet table"),
  npy: none("NumPy array"),
  npz: none("NumPy arrays"),
  h5: none("HDF5"),
  pt: none("PyTorch file"),
  safetensors: none("Tensors"),
  xlsx: none("Excel workbook"),
  docx: none("Word document"),
  whl: none("Python wheel"),
  exe: none("Program"),
};

const UNKNOWN: FileType = { kind: "unknown", label: "File", mime: "application/octet-stream" };

export function extensionOf(name: string): string {
  const bare = name.slice(name.lastIndexOf("/") + 1).toLowerCase();
  if (/^(dockerfile|makefile)(\.|$)/.test(bare)) return bare.startsWith("d") ? "dockerfile" : "makefile";
  const dot = bare.lastIndexOf(".");
  return dot > 0 ? bare.slice(dot + 1) : "";
}

export function typeOf(name: string): FileType {
  const extension = extensionOf(name);
  return (Object.hasOwn(TYPES, extension) && TYPES[extension]) || UNKNOWN;
}

// Data refs ------------------------------------------------------------------------------------------------------

interface Ref {
  type?: string | null;
  value?: unknown;
}

/** Bytes of a ref that carries its content, or null where it points elsewhere. A bare value counts as its text. */
export function inlineBytes(ref: Ref): Uint8Array<ArrayBuffer> | null {
  const encode = (value: string) => new TextEncoder().encode(value);
  switch (ref.type || "utf8") {
    case "utf8":
      return encode(String(ref.value ?? ""));
    case "json":
      return encode(JSON.stringify(ref.value) ?? "null");
    case "base64":
      try {
        const raw = atob(String(ref.value).replace(/-/g, "+").replace(/_/g, "/").replace(/\s/g, ""));
        return Uint8Array.from(raw, (letter) => letter.charCodeAt(0));
      } catch {
        return new Uint8Array(0);
      }
    default:
      return null;
  }
}

// Trees ----------------------------------------------------------------------------------------------------------

export interface TreeFile<File> {
  name: string;
  depth: number;
  /** The last part of the name. */
  label: string;
  file: File;
}

export interface TreeFolder {
  name: string;
  depth: number;
  label: string;
  isOpen: boolean;
  /** Files in it and below. */
  count: number;
  /** Bytes of them; null if one is unknown. */
  size: number | null;
}

export type TreeRow<File> = TreeFile<File> | TreeFolder;

/** The rows of a folder tree, in order: folders first, then files, each by name; closed folders hide what is in them. */
export function treeRows<File extends { name: string; size: number | null }>(
  files: readonly File[],
  closed: ReadonlySet<string>,
): TreeRow<File>[] {
  interface Folder {
    folders: Map<string, Folder>;
    files: { label: string; file: File }[];
    count: number;
    size: number | null;
  }
  const make = (): Folder => ({ folders: new Map(), files: [], count: 0, size: 0 });
  const root = make();
  for (const file of files) {
    const parts = file.name.split("/").filter(Boolean);
    const label = parts.pop() ?? file.name;
    const way = [root];
    for (const part of parts) {
      const above = way.at(-1) as Folder;
      const next = above.folders.get(part) ?? make();
      above.folders.set(part, next);
      way.push(next);
    }
    for (const folder of way) {
      folder.count++;
      folder.size = folder.size === null || file.size === null ? null : folder.size + file.size;
    }
    way.at(-1)?.files.push({ label, file });
  }
  const rows: TreeRow<File>[] = [];
  const order = new Intl.Collator("en", { numeric: true }).compare;
  const walk = (folder: Folder, above: string, depth: number) => {
    for (const [label, next] of [...folder.folders].sort(([a], [b]) => order(a, b))) {
      const name = above + label;
      const isOpen = !closed.has(name);
      rows.push({ name, depth, label, isOpen, count: next.count, size: next.size });
      if (isOpen) walk(next, `${name}/`, depth + 1);
    }
    for (const { label, file } of folder.files.sort((a, b) => order(a.label, b.label)))
      rows.push({ name: file.name, depth, label, file });
  };
  walk(root, "", 0);
  return rows;
}
