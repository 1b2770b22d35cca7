/** A table of comma-separated values; the rows in sight are in the document, and the first stays on top. */

import { useSignal } from "@preact/signals";
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { showCount } from "../files.ts";
import { hasHeading, readTable } from "./csv.ts";
import { SCROLLED_BY_KEYS } from "./rows.tsx";
import { Text } from "./text.tsx";
import "./viewers.css";

export const TABLE_ROWS = 1000;
export const TABLE_COLUMNS = 200;
const ROW = 28;
const AROUND = 8;
const CELL_CHARACTERS = 300;

export function Table({ text, name, isPart }: { text: string; name: string; isPart: boolean }) {
  const table = useMemo(() => {
    const read = readTable(text, { most: TABLE_ROWS + 1, ...(/\.(tsv|tab)$/i.test(name) ? { separator: "\t" } : {}) });
    // The last row of a part of a file is most likely a part of a row.
    if (isPart && !read.isCut && read.rows.length > 1) read.rows.pop();
    return read;
  }, [text, name, isPart]);
  const box = useRef<HTMLElement>(null);
  const top = useSignal(0);
  const height = useSignal(600);
  useLayoutEffect(() => {
    const element = box.current;
    if (element) height.value = element.clientHeight || 600;
  }, [height]);

  const head = hasHeading(table.rows) ? (table.rows[0] ?? []) : null;
  const rows = table.rows.slice(head ? 1 : 0, TABLE_ROWS + (head ? 1 : 0));
  const all = useMemo(() => table.rows.reduce((most, row) => Math.max(most, row.length), 0), [table]);
  const columns = Math.min(all, TABLE_COLUMNS);
  const widths = useMemo(() => {
    const chars = Array<number>(columns).fill(3);
    for (const row of table.rows)
      for (let at = 0; at < columns; at++) chars[at] = Math.max(chars[at] ?? 3, Math.min((row[at] ?? "").length, 40));
    return chars;
  }, [table, columns]);
  const numeric = useMemo(
    () => widths.map((_, at) => rows.length > 0 && rows.every((row) => !row[at] || !Number.isNaN(Number(row[at])))),
    [widths, rows],
  );
  if (!table.rows.length) return <p class="viewer-note">The file is empty.</p>;
  if (columns < 2 && rows.length < 2) return <Text text={text} name={name} />;

  const first = Math.max(Math.floor(top.value / ROW) - AROUND, 0);
  const last = Math.min(Math.ceil((top.value + height.value) / ROW) + AROUND, rows.length);
  const isMore = table.isCut || isPart || table.rows.length > TABLE_ROWS;
  const cut = (cell: string) => (cell.length > CELL_CHARACTERS ? `${cell.slice(0, CELL_CHARACTERS)}…` : cell);
  return (
    <>
      <p class="viewer-note" role="status">
        {isMore ? "The first " : ""}
        {showCount(rows.length, "row")}, {showCount(all, "column")}
        {all > columns ? `, of which the first ${columns} are shown` : ""}.
        {table.brokenAt !== null && !isPart ? ` A quote in row ${table.brokenAt} is not closed.` : ""}
      </p>
      <section
        ref={box}
        class="viewer-table"
        {...SCROLLED_BY_KEYS}
        aria-label={name}
        onScroll={(event) => {
          top.value = event.currentTarget.scrollTop;
        }}
      >
        <table aria-rowcount={rows.length + (head ? 1 : 0)} aria-colcount={columns}>
          <colgroup>
            <col style={{ width: `${String(rows.length).length + 3}ch` }} />
            {widths.map((width, at) => (
              <col key={at} style={{ width: `calc(${width}ch + 18px)` }} />
            ))}
          </colgroup>
          <thead>
            <tr>
              <td class="viewer-number" />
              {widths.map((_, at) => (
                <th key={at} scope="col" title={head?.[at] ?? ""}>
                  {cut(head?.[at] || String(at + 1))}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {first > 0 && (
              <tr>
                <td class="viewer-gap" colSpan={columns + 1} style={{ height: `${first * ROW}px` }} />
              </tr>
            )}
            {rows.slice(first, last).map((row, at) => (
              <tr key={first + at} aria-rowindex={first + at + (head ? 2 : 1)}>
                <th scope="row" class="viewer-number">
                  {first + at + 1}
                </th>
                {widths.map((_, column) => (
                  <td
                    key={column}
                    class={numeric[column] ? "viewer-numeric" : ""}
                    title={(row[column] ?? "").slice(0, 2000)}
                  >
                    {cut(row[column] ?? "")}
                  </td>
                ))}
              </tr>
            ))}
            {last < rows.length && (
              <tr>
                <td class="viewer-gap" colSpan={columns + 1} style={{ height: `${(rows.length - last) * ROW}px` }} />
              </tr>
            )}
          </tbody>
        </table>
      </section>
    </>
  );
}
