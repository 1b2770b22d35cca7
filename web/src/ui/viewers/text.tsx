/** Text, line by line, with numbers. Whatever it says, it is text. */

import { useMemo } from "preact/hooks";
import { showCount } from "../files.ts";
import { Rows } from "./rows.tsx";

/** A longer line is cut where it stands; saving the file keeps it. */
export const LINE_CHARACTERS = 10_000;
/** Browsers draw no box that is higher than this many rows. */
export const MOST_LINES = 800_000;

export function linesOf(text: string): string[] {
  const lines = text.split(/\r\n|\n|\r/);
  if (lines.at(-1) === "") lines.pop();
  if (lines.length > MOST_LINES) lines.length = MOST_LINES;
  return lines;
}

export function Text({ text, name }: { text: string; name: string }) {
  const lines = useMemo(() => linesOf(text), [text]);
  const longest = useMemo(
    () =>
      Math.min(
        lines.reduce((most, line) => Math.max(most, line.length), 0),
        LINE_CHARACTERS,
      ),
    [lines],
  );
  const digits = String(lines.length).length;
  return (
    <Rows
      count={lines.length}
      width={`${longest + digits + 4}ch`}
      class="viewer-text mono"
      role="document"
      aria-label={`${name}, ${showCount(lines.length, "line")}`}
    >
      {(index) => {
        const line = lines[index] ?? "";
        const isCut = line.length > LINE_CHARACTERS;
        return (
          <div class="viewer-line" key={index}>
            <span class="viewer-number" style={{ width: `${digits + 1}ch` }} aria-hidden="true">
              {index + 1}
            </span>
            <span class="viewer-code">{isCut ? line.slice(0, LINE_CHARACTERS) : line}</span>
            {isCut && <i class="muted"> … {showCount(line.length - LINE_CHARACTERS, "more character")}</i>}
          </div>
        );
      }}
    </Rows>
  );
}
