/** A scrolling view of log rows that draws only what is seen. */

import { type ReadonlySignal, type Signal, useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { Button } from "../kit.tsx";
import { type Half, Heights, placeOf, type Row } from "../log-rows.ts";
import type { Match } from "../log-search.ts";
import { showLines } from "../log-text.ts";
import { showClock, showOffset } from "../time.ts";
import { Rest, SHOWN_AT_FIRST, spans } from "./log-words.tsx";

export type Times = "off" | "clock" | "offset";

export interface PaneView {
  wrap: boolean;
  times: Times;
  /** Where `offset` counts from. */
  start: number;
  wanted: RegExp | null;
  current: Match | undefined;
}

interface Section {
  half: Half;
  rows: readonly Row[];
  /** A heading that folds the rows away; none where there is one section only. */
  title: string | null;
  isOpen: boolean;
}

interface LogPaneProps {
  label: string;
  sections: readonly Section[];
  /** Rises when rows were added, and `epoch` when others changed. */
  version: number;
  epoch: number;
  view: PaneView;
  empty: ComponentChildren;
  onFold: (half: Half) => void;
  /** The pane's own controls, for the toolbar and the keys. */
  handle: Signal<PaneHandle | null>;
}

export interface PaneHandle {
  focus(): void;
  toEnd(): void;
  reveal(row: Row): boolean;
  isFollowing: ReadonlySignal<boolean>;
}

const ROW = 20;
const HEADING = 36;
const OVERSCAN = 8;
/** Pixels from the end that still count as the end. */
const NEAR = 8;
/** Pixels at the upper edge that the search may cover. */
const HIDDEN = 46;
/** A row, or a section's heading. */
interface Item {
  row: Row | null;
  section: Section;
}

export function LogPane({ label, sections, version, epoch, view, empty, onFold, handle }: LogPaneProps) {
  const port = useRef<HTMLDivElement>(null);
  const ruler = useRef<HTMLSpanElement>(null);
  const size = useSignal({ width: 0, height: 0, cell: 7.8 });
  const top = useSignal(0);
  const isFollowing = useSignal(true);
  const missed = useSignal(0);
  const bump = useSignal(0);
  const widened = useMemo(() => new Map<Row["line"], number>(), []);
  const list = useMemo(() => new PaneItems(), []);
  bump.value;

  // --- the rows and their heights ---
  const gutter = view.times === "off" ? 1 : view.times === "clock" ? 14 : 13;
  const columns = Math.max(10, Math.floor((size.value.width - 24) / size.value.cell) - gutter);
  const added = list.update(sections, epoch, view.wrap ? columns : 0);
  useEffect(() => {
    if (added > 0 && !isFollowing.peek()) missed.value += added;
  }, [version]);

  const { heights } = list;
  const height = size.value.height;
  const place = isFollowing.value ? Math.max(0, heights.total - height) : top.value;
  const first = Math.max(0, heights.find(place) - OVERSCAN);
  const last = Math.min(list.length, heights.find(place + height) + 1 + OVERSCAN);

  // --- a selection keeps the row that it began in, wherever one scrolls ---
  const anchor = useSignal<Row | null>(null);
  const shown: number[] = [];
  for (let i = first; i < last; i++) shown.push(i);
  const pinned = anchor.value ? list.placeOf(anchor.value) : -1;
  if (pinned >= 0 && pinned < first) shown.unshift(pinned);
  else if (pinned >= last) shown.push(pinned);

  useLayoutEffect(() => {
    const element = port.current;
    if (!element) return;
    // What was guessed is measured; rows above the view that turn out otherwise must not move it.
    let moved = 0;
    const start = element.scrollTop;
    for (const child of element.querySelectorAll<HTMLElement>("[data-item]")) {
      const index = Number(child.dataset.item);
      const real = child.offsetHeight;
      if (!real || Math.abs(real - heights.at(index)) < 0.5) continue;
      if (heights.top(index) < start) moved += real - heights.at(index);
      heights.set(index, real);
      bump.value++;
    }
    if (isFollowing.peek()) element.scrollTop = element.scrollHeight;
    else if (moved) element.scrollTop = start + moved;
  });

  useEffect(() => {
    const element = port.current;
    if (!element) return;
    const measure = () => {
      const cell = (ruler.current?.getBoundingClientRect().width ?? 78) / 10 || 7.8;
      size.value = { width: element.clientWidth, height: element.clientHeight, cell };
    };
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, []);

  const onScroll = () => {
    const element = port.current;
    if (!element) return;
    top.value = element.scrollTop;
    const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < NEAR;
    isFollowing.value = isAtEnd;
    if (isAtEnd) missed.value = 0;
  };

  const toEnd = () => {
    isFollowing.value = true;
    missed.value = 0;
  };

  useEffect(() => {
    handle.value = {
      isFollowing,
      focus: () => port.current?.focus(),
      toEnd,
      reveal(row) {
        const at = list.placeOf(row);
        const element = port.current;
        if (at < 0 || !element) return false;
        const from = heights.top(at);
        const isSeen =
          from >= element.scrollTop + HIDDEN && from + heights.at(at) <= element.scrollTop + element.clientHeight;
        if (isSeen) return true;
        isFollowing.value = false;
        const goal = Math.max(0, from - element.clientHeight / 3);
        top.value = goal;
        element.scrollTop = goal;
        return true;
      },
    };
    return () => {
      handle.value = null;
    };
  }, []);

  useSelection(port, list, anchor);

  const show = (row: Row) => {
    widened.set(row.line, (widened.get(row.line) ?? 0) + 1);
    bump.value++;
  };

  return (
    <div class="log-pane">
      <div
        ref={port}
        class={`log-port${view.wrap ? " wraps" : ""}`}
        role="log"
        aria-live="off"
        aria-label={label}
        // biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls must be reached by the keyboard
        tabIndex={0}
        onScroll={onScroll}
        onWheel={(event) => {
          if (event.deltaY < 0 && heights.total > height) isFollowing.value = false;
        }}
      >
        <span ref={ruler} class="log-ruler" aria-hidden="true">
          0000000000
        </span>
        <div class="log-all" style={{ height: `${heights.total}px` }}>
          {shown.map((index) => {
            const item = list.at(index);
            if (!item) return null;
            const style = { top: `${heights.top(index)}px` };
            if (!item.row) {
              const { half, title, isOpen, rows } = item.section;
              return (
                <div key={`head-${half}`} data-item={index} class="log-item log-heading" style={style}>
                  <button type="button" aria-expanded={isOpen} onClick={() => onFold(half)}>
                    <span class="log-arrow" aria-hidden="true">
                      {isOpen ? "▾" : "▸"}
                    </span>
                    {title} <span class="muted">({showLines(rows.length)})</span>
                  </button>
                </div>
              );
            }
            const { row } = item;
            const step = widened.get(row.line) ?? 0;
            const { words, length } = spans(row, step, view);
            return (
              <div
                key={`${row.line.half}-${row.line.index}`}
                data-item={index}
                class={`log-item log-row${row.line.isStderr ? " is-stderr" : ""}`}
                style={style}
              >
                {row.gap > 0 && <div class="log-gap">{showLines(row.gap)} left out here. The download has all.</div>}
                <span class="log-gutter">
                  {row.line.isStderr && <span class="sr-only">stderr: </span>}
                  {view.times !== "off" && <time>{showTime(row, view)}</time>}
                </span>
                <span class="log-text">
                  {words}
                  {length < row.text.length && <Rest row={row} shown={length} step={step} onMore={() => show(row)} />}
                </span>
              </div>
            );
          })}
        </div>
        {list.length === 0 && <div class="log-empty muted">{empty}</div>}
      </div>
      {!isFollowing.value && (
        <Button
          class="log-jump"
          icon="down"
          label={missed.value ? `Jump to end, ${missed.value.toLocaleString()} new` : "Jump to end"}
          onClick={() => {
            toEnd();
            port.current?.focus();
          }}
        />
      )}
    </div>
  );
}

function showTime({ line }: Row, view: PaneView): string {
  if (!line.time) return "";
  return view.times === "clock" ? showClock(line.time) : showOffset(line.time - view.start);
}

/** The items of a pane in order, with their heights; only what changed is done again. */
class PaneItems {
  heights = new Heights();
  #key = "";
  #counts: number[] = [];
  /** The item of the first row of each section. */
  #starts: number[] = [];
  #sections: readonly Section[] = [];

  get length(): number {
    return this.heights.length;
  }

  /** How many rows came to the end. */
  update(sections: readonly Section[], epoch: number, columns: number): number {
    const key = `${epoch}/${columns}/${sections.map((each) => `${each.half}${each.isOpen}${each.title}`).join()}`;
    const isSame =
      key === this.#key &&
      sections.every(({ rows, isOpen }, i) => {
        const count = this.#counts[i] ?? 0;
        return rows.length === count || !isOpen || (rows.length > count && i === sections.length - 1);
      });
    this.#sections = sections;
    this.#key = key;
    if (!isSame) {
      this.heights.clear();
      this.#counts = [];
      this.#starts = [];
    }
    const before = this.length;
    sections.forEach((section, i) => {
      if (this.#counts[i] === undefined) {
        if (section.title) this.heights.push(HEADING);
        this.#starts[i] = this.length;
      }
      if (section.isOpen)
        for (let at = this.#counts[i] ?? 0; at < section.rows.length; at++) {
          const row = section.rows[at];
          const length = Math.min(row?.text.length ?? 0, SHOWN_AT_FIRST);
          const lines = columns ? Math.max(1, Math.ceil(length / columns)) : 1;
          this.heights.push((lines + (row?.gap ? 1 : 0)) * ROW);
        }
      this.#counts[i] = section.rows.length;
    });
    return isSame ? this.length - before : 0;
  }

  at(index: number): Item | null {
    for (let i = this.#sections.length - 1; i >= 0; i--) {
      const section = this.#sections[i];
      const start = this.#starts[i] ?? 0;
      if (!section || index < start - (section.title ? 1 : 0)) continue;
      const row = index < start ? null : section.rows[index - start];
      return row === undefined ? null : { row, section };
    }
    return null;
  }

  placeOf(row: Row): number {
    const i = this.#sections.findIndex((section) => section.half === row.line.half && section.isOpen);
    const section = this.#sections[i];
    const place = section ? placeOf(section.rows, row) : -1;
    return place < 0 ? -1 : (this.#starts[i] ?? 0) + place;
  }

  /** The text from one place to another, one newline between rows. */
  text(from: Place, to: Place): string {
    const parts: string[] = [];
    for (let i = from.item; i <= to.item; i++) {
      const row = this.at(i)?.row;
      if (row) parts.push(row.text.slice(i === from.item ? from.offset : 0, i === to.item ? to.offset : undefined));
    }
    return parts.join("\n");
  }
}

interface Place {
  item: number;
  offset: number;
}

/** Selecting and copying text that is not all drawn: the row where it began is kept, the text comes from the rows. */
function useSelection(port: { current: HTMLDivElement | null }, list: PaneItems, anchor: Signal<Row | null>): void {
  const isAll = useSignal(false);
  useEffect(() => {
    const element = port.current;
    if (!element) return;
    const onChange = () => {
      const selection = document.getSelection();
      const isOurs = selection && !selection.isCollapsed && element.contains(selection.anchorNode);
      const place = isOurs ? placeIn(selection.anchorNode, selection.anchorOffset) : null;
      const row = place ? (list.at(place.item)?.row ?? null) : null;
      if (anchor.peek() !== row) anchor.value = row;
      if (!isOurs) isAll.value = false;
    };
    const onKey = (event: KeyboardEvent) => {
      if (event.key !== "a" || !(event.ctrlKey || event.metaKey) || event.altKey) return;
      event.preventDefault();
      document.getSelection()?.selectAllChildren(element.querySelector(".log-all") ?? element);
      isAll.value = true;
    };
    const onPress = () => {
      isAll.value = false;
    };
    const onCopy = (event: ClipboardEvent) => {
      const selection = document.getSelection();
      if (!selection || selection.isCollapsed) return;
      let from: Place | null = { item: 0, offset: 0 };
      let to: Place | null = { item: list.length - 1, offset: Number.POSITIVE_INFINITY };
      if (!isAll.peek()) {
        from = placeIn(selection.anchorNode, selection.anchorOffset);
        to = placeIn(selection.focusNode, selection.focusOffset);
        if (!from || !to) return;
        if (from.item > to.item || (from.item === to.item && from.offset > to.offset)) [from, to] = [to, from];
      }
      event.preventDefault();
      event.clipboardData?.setData("text/plain", list.text(from, to));
    };
    document.addEventListener("selectionchange", onChange);
    element.addEventListener("keydown", onKey);
    element.addEventListener("pointerdown", onPress);
    element.addEventListener("copy", onCopy);
    return () => {
      document.removeEventListener("selectionchange", onChange);
      element.removeEventListener("keydown", onKey);
      element.removeEventListener("pointerdown", onPress);
      element.removeEventListener("copy", onCopy);
    };
  }, []);
}

/** The item and the character that a point of the document is at. */
function placeIn(node: Node | null, offset: number): Place | null {
  const element = node instanceof Element ? node : node?.parentElement;
  const holder = element?.closest<HTMLElement>("[data-item]");
  if (!holder || !node) return null;
  const text = holder.querySelector(".log-text");
  const range = document.createRange();
  if (text?.contains(node)) {
    range.setStart(text, 0);
    range.setEnd(node, offset);
  }
  return { item: Number(holder.dataset.item), offset: range.toString().length };
}
