/** The words of one row of the log: colours, links, what was searched for, and how much of a long line is drawn. */

import type { ComponentChildren } from "preact";
import { linksIn, lookOf, type Piece, piecesOf } from "../ansi.ts";
import { Button } from "../kit.tsx";
import type { Row } from "../log-rows.ts";
import { type Match, matchesIn } from "../log-search.ts";

/**
 * How much of one line is drawn: at first, and when somebody asks for more. Characters, and pieces of one colour, link or
 * match each. A browser lays out 120,000 characters in a tenth of a second; the whole line is in the copy and the download.
 */
const SHOWN: readonly [Shown, ...Shown[]] = [
  { characters: 4_000, pieces: 1_000 },
  { characters: 40_000, pieces: 1_500 },
  { characters: 120_000, pieces: 2_000 },
];

const MOST = SHOWN.length - 1;

export const SHOWN_AT_FIRST = SHOWN[0].characters;

interface Shown {
  characters: number;
  pieces: number;
}

/** What was read of a row, for the next time that it is drawn: reading a long line takes longer than drawing it. */
const parts = new WeakMap<Row, { characters: number; pieces: Piece[]; links: Range[] }>();

function partsOf(row: Row, characters: number) {
  const known = parts.get(row);
  if (known?.characters === characters) return known;
  const pieces = piecesOf(row.line.text, row.start, characters);
  const made = { characters, pieces, links: linksIn(row.text.slice(0, characters)) };
  parts.set(row, made);
  return made;
}

/** What of the view is about the words. */
interface Seen {
  wanted: RegExp | null;
  current: Match | undefined;
}

/** That there is more of a line than is drawn. */
export function Rest(props: { row: Row; shown: number; step: number; onMore: () => void }) {
  const { row, shown, step, onMore } = props;
  const all = row.text.length.toLocaleString();
  if (step >= MOST)
    return (
      <span class="log-more muted">
        These are the first {shown.toLocaleString()} of {all} characters. The download has all.
      </span>
    );
  const isRest = row.text.length <= (SHOWN[step + 1] ?? SHOWN[0]).characters;
  return (
    <Button class="log-more" label={`${isRest ? "Show all" : "Show more of"} ${all} characters`} onClick={onMore} />
  );
}

/** The text of a row as elements: colours, links and what was searched for. Text stays text. `length`: of the text. `step`: how often more was asked for. */
export function spans(row: Row, step: number, view: Seen): { words: ComponentChildren; length: number } {
  const limit = SHOWN[Math.min(step, MOST)] ?? SHOWN[0];
  const { pieces, links } = partsOf(row, limit.characters);
  const seen = row.text.slice(0, limit.characters);
  const matches = view.wanted ? matchesIn(seen, view.wanted) : [];
  if (pieces.length === 1 && !links.length && !matches.length && pieces[0]?.style && !pieces[0].style.link) {
    const look = lookOf(pieces[0].style);
    const { text } = pieces[0];
    return { words: look ? <span style={look}>{text}</span> : text, length: text.length };
  }
  const cuts = split(pieces, links, matches, limit.pieces);
  const last = cuts.at(-1);
  const words = cuts.map(({ piece, text, start, link, match }) => {
    const address = piece.style.link || (link && seen.slice(link.start, link.end));
    const isCurrent = match && view.current?.row === row && view.current.start === match.start;
    const word = match ? <mark class={isCurrent ? "current" : ""}>{text}</mark> : text;
    const look = lookOf(piece.style);
    if (!address) return look || match ? <span style={look}>{word}</span> : word;
    return (
      <a key={start} href={address} target="_blank" rel="noopener noreferrer" title={address} style={look}>
        {word}
      </a>
    );
  });
  return { words, length: last ? last.start + last.text.length : 0 };
}

interface Range {
  start: number;
  end: number;
}

interface Cut {
  piece: Piece;
  text: string;
  start: number;
  link: Range | undefined;
  match: Range | undefined;
}

/** Pieces cut where links and matches begin and end, at most so many. Both are in order and do not overlap their like. */
function split(pieces: readonly Piece[], links: readonly Range[], matches: readonly Range[], most: number): Cut[] {
  const all: Cut[] = [];
  let offset = 0;
  let [link, match] = [0, 0];
  for (const piece of pieces) {
    const end = offset + piece.text.length;
    for (let from = offset; from < end; ) {
      if (all.length >= most) return all;
      while (links[link] && (links[link] as Range).end <= from) link++;
      while (matches[match] && (matches[match] as Range).end <= from) match++;
      let to = end;
      const at = [links[link], matches[match]].map((range) => {
        if (!range) return undefined;
        to = Math.min(to, range.start > from ? range.start : range.end);
        return range.start <= from ? range : undefined;
      });
      all.push({ piece, text: piece.text.slice(from - offset, to - offset), start: from, link: at[0], match: at[1] });
      from = to;
    }
    offset = end;
  }
  return all;
}
