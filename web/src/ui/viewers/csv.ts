/**
 * Comma-separated values as they are found: RFC 4180, and what programs write instead of it.
 *
 * Source: RFC 4180; tabs, semicolons and bars as separators; CR alone as end of line; a quote that is not closed takes
 * the rest as it is, as spreadsheets do.
 */

export const SEPARATORS = [",", "\t", ";", "|"] as const;

export interface Table {
  rows: string[][];
  separator: string;
  /** There are more rows than were read. */
  isCut: boolean;
  /** Where a quote was opened and not closed: the number of the row, from 1. */
  brokenAt: number | null;
}

/** The separator that splits the first rows most evenly. */
export function guessSeparator(text: string): string {
  let best = ",";
  let bestScore = 0;
  for (const separator of SEPARATORS) {
    const { rows } = readRows(text.slice(0, 20_000), separator, 20);
    const widths = rows.filter((row) => row.length > 1 || row[0] !== "").map((row) => row.length);
    const width = widths[0] ?? 0;
    if (width < 2) continue;
    const even = widths.filter((other) => other === width).length / widths.length;
    const score = even * 1000 + Math.min(width, 500);
    if (score > bestScore) [best, bestScore] = [separator, score];
  }
  return best;
}

export function readTable(text: string, { most = 1000, separator }: { most?: number; separator?: string } = {}): Table {
  const bare = text.startsWith("\ufeff") ? text.slice(1) : text;
  const by = separator ?? guessSeparator(bare);
  return { separator: by, ...readRows(bare, by, most) };
}

function readRows(text: string, separator: string, most: number): Omit<Table, "separator"> {
  const rows: string[][] = [];
  let row: string[] = [];
  let at = 0;
  let brokenAt: number | null = null;
  const isEnd = (code: string | undefined) => code === "\n" || code === "\r";
  while (at < text.length) {
    if (rows.length === most) return { rows, isCut: true, brokenAt };
    let cell = "";
    if (text[at] === '"') {
      at++;
      for (;;) {
        const quote = text.indexOf('"', at);
        if (quote < 0) {
          cell += text.slice(at);
          at = text.length;
          brokenAt ??= rows.length + 1;
          break;
        }
        cell += text.slice(at, quote);
        at = quote + 1;
        if (text[at] !== '"') break;
        cell += '"';
        at++;
      }
    }
    const start = at; // after a closing quote comes nothing, or what a careless writer left there
    while (at < text.length && text[at] !== separator && !isEnd(text[at])) at++;
    row.push(cell + text.slice(start, at));
    if (text[at] === separator) {
      at++;
      if (at === text.length || isEnd(text[at])) row.push("");
      if (at < text.length && !isEnd(text[at])) continue;
    }
    if (text[at] === "\r" && text[at + 1] === "\n") at++;
    at++;
    rows.push(row);
    row = [];
  }
  return { rows, isCut: false, brokenAt };
}

/** Is the first row a heading? It is, unless it is the only one, or holds a number or an empty cell. */
export function hasHeading(rows: readonly string[][]): boolean {
  const first = rows[0];
  if (!first || rows.length < 2) return false;
  return first.every((cell) => cell.trim() !== "" && Number.isNaN(Number(cell)));
}
