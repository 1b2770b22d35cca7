/** Rows of one height, of which only those in sight are in the document. */

import { useSignal } from "@preact/signals";
import type { ComponentChildren, JSX } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import "./viewers.css";

export const ROW = 20;
const AROUND = 10;

/** What is scrolled must be reachable by keys. */
export const SCROLLED_BY_KEYS = { tabIndex: 0 } as const;

interface RowsProps extends Omit<JSX.IntrinsicElements["div"], "children" | "ref"> {
  count: number;
  /** Width of the widest row, such as `80ch`: it must not change while one scrolls. */
  width: string;
  /** The row to be kept in sight when it changes; none if -1. */
  keep?: number;
  children: (index: number) => ComponentChildren;
}

export function Rows({ count, width, keep = -1, children, class: extra, ...rest }: RowsProps) {
  const box = useRef<HTMLDivElement>(null);
  const top = useSignal(0);
  const height = useSignal(600);
  useLayoutEffect(() => {
    const element = box.current;
    if (!element) return;
    const measure = () => {
      height.value = element.clientHeight || 600;
    };
    measure();
    const watch = new ResizeObserver(measure);
    watch.observe(element);
    return () => watch.disconnect();
  }, [height]);
  useLayoutEffect(() => {
    const element = box.current;
    if (!element || keep < 0) return;
    const at = keep * ROW;
    if (at < element.scrollTop) element.scrollTop = at;
    else if (at + ROW > element.scrollTop + element.clientHeight) element.scrollTop = at + ROW - element.clientHeight;
  }, [keep]);
  const first = Math.max(Math.floor(top.value / ROW) - AROUND, 0);
  const last = Math.min(Math.ceil((top.value + height.value) / ROW) + AROUND, count);
  const shown: ComponentChildren[] = [];
  for (let index = first; index < last; index++) shown.push(children(index));
  return (
    <div
      ref={box}
      class={`viewer-rows ${extra ?? ""}`}
      {...SCROLLED_BY_KEYS}
      onScroll={(event) => {
        top.value = event.currentTarget.scrollTop;
      }}
      {...rest}
    >
      <div role="presentation" style={{ height: `${count * ROW}px`, minWidth: width, position: "relative" }}>
        <div role="presentation" class="viewer-window" style={{ transform: `translateY(${first * ROW}px)` }}>
          {shown}
        </div>
      </div>
    </div>
  );
}
