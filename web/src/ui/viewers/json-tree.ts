/** JSON as a tree of which some nodes are open: the rows to be shown, and how keys move in them. */

/** Children of one node that are shown at first; a row offers more. */
export const CHILDREN = 500;

/** A whole number that JavaScript cannot hold: shown as it was written. */
export class LongNumber {
  constructor(readonly source: string) {}
}

/** Errors: SyntaxError. */
export function parseJson(text: string): unknown {
  const bare = text.startsWith("\ufeff") ? text.slice(1) : text;
  return JSON.parse(bare, function (this: unknown, _key: string, value: unknown, context?: { source?: string }) {
    if (typeof value === "number" && context?.source && /^-?\d+$/.test(context.source) && !Number.isSafeInteger(value))
      return new LongNumber(context.source);
    return value;
  } as (key: string, value: unknown) => unknown);
}

export interface JsonRow {
  /** The way to the node, as JSON pointer (RFC 6901): unique, and what is copied. */
  path: string;
  /** The key or index; null for the root. */
  key: string | number | null;
  depth: number;
  kind: "object" | "array" | "string" | "number" | "boolean" | "null" | "more";
  /** The value in words, of a closed node its size. */
  text: string;
  isOpen: boolean | null;
  /** Place among its siblings, from 1, and their number. */
  place: number;
  siblings: number;
}

export function kindOf(value: unknown): JsonRow["kind"] {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  if (value instanceof LongNumber || typeof value === "number") return "number";
  return typeof value as "object" | "string" | "boolean";
}

function words(value: unknown, kind: JsonRow["kind"]): string {
  switch (kind) {
    case "array": {
      const count = (value as unknown[]).length;
      return count === 1 ? "1 item" : `${count.toLocaleString("en")} items`;
    }
    case "object": {
      const count = Object.keys(value as object).length;
      return count === 1 ? "1 member" : `${count.toLocaleString("en")} members`;
    }
    case "string": {
      const text = value as string;
      return JSON.stringify(text.length > 2000 ? `${text.slice(0, 2000)}…` : text);
    }
    default:
      return value instanceof LongNumber ? value.source : String(value);
  }
}

/** `open`: paths of open nodes. `shown`: how many children of a path are shown, where that is more than at first. */
export function jsonRows(
  root: unknown,
  open: ReadonlySet<string>,
  shown: ReadonlyMap<string, number> = new Map(),
): JsonRow[] {
  const rows: JsonRow[] = [];
  const walk = (value: unknown, path: string, key: JsonRow["key"], depth: number, place: number, siblings: number) => {
    const kind = kindOf(value);
    const isBranch = kind === "object" || kind === "array";
    const count = isBranch ? (Array.isArray(value) ? value : Object.keys(value as object)).length : 0;
    const isOpen = count > 0 ? open.has(path) : null;
    rows.push({ path, key, depth, kind, text: words(value, kind), isOpen, place, siblings });
    if (!isOpen) return;
    const most = shown.get(path) ?? CHILDREN;
    const children: [string | number, unknown][] = Array.isArray(value)
      ? value.slice(0, most).map((item, index) => [index, item])
      : Object.entries(value as object).slice(0, most);
    for (const [index, [name, child]] of children.entries())
      walk(child, `${path}/${pointer(name)}`, name, depth + 1, index + 1, count);
    if (count > most)
      rows.push({
        path,
        key: null,
        depth: depth + 1,
        kind: "more",
        text: `${(count - most).toLocaleString("en")} more`,
        isOpen: null,
        place: most + 1,
        siblings: count,
      });
  };
  walk(root, "", null, 0, 1, 1);
  return rows;
}

function pointer(key: string | number): string {
  return String(key).replaceAll("~", "~0").replaceAll("/", "~1");
}

/** Nodes that are open at first: the root, and what is in it while that stays short. */
export function openAtFirst(root: unknown): Set<string> {
  const open = new Set([""]);
  if (root === null || typeof root !== "object") return open;
  const entries = Object.entries(root);
  if (entries.length <= 20)
    for (const [key, value] of entries)
      if (value && typeof value === "object" && Object.keys(value).length <= 20) open.add(`/${pointer(key)}`);
  return open;
}

export interface TreeMove {
  at: number;
  open?: string;
  close?: string;
  more?: string;
}

/** What a key does in a tree, as ARIA describes it; null if nothing. */
export function moveInTree(rows: readonly JsonRow[], at: number, key: string): TreeMove | null {
  const row = rows[at];
  if (!row) return null;
  switch (key) {
    case "ArrowDown":
      return { at: Math.min(at + 1, rows.length - 1) };
    case "ArrowUp":
      return { at: Math.max(at - 1, 0) };
    case "Home":
      return { at: 0 };
    case "End":
      return { at: rows.length - 1 };
    case "PageDown":
      return { at: Math.min(at + 20, rows.length - 1) };
    case "PageUp":
      return { at: Math.max(at - 20, 0) };
    case "ArrowRight":
      if (row.isOpen === false) return { at, open: row.path };
      return row.isOpen ? { at: at + 1 } : null;
    case "ArrowLeft": {
      if (row.isOpen) return { at, close: row.path };
      for (let above = at - 1; above >= 0; above--) if ((rows[above]?.depth ?? 0) < row.depth) return { at: above };
      return null;
    }
    case "Enter":
    case " ":
      if (row.kind === "more") return { at, more: row.path };
      if (row.isOpen === null) return null;
      return row.isOpen ? { at, close: row.path } : { at, open: row.path };
    default:
      return null;
  }
}
