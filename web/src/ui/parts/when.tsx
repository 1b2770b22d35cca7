/** A moment, in words that age, with the local date and time to point at. */

import { showAgo, showClock, showDay, useNow } from "../time.ts";

/** While it is not on screen it need not age. */
export function When({ time, before = "", ages = true }: { time: number; before?: string; ages?: boolean }) {
  const now = useNow(ages);
  return (
    <time dateTime={new Date(time).toISOString()} title={`${showDay(time)}, ${showClock(time).slice(0, 8)}`}>
      {before}
      {showAgo(time, ages ? now.value : Date.now())}
    </time>
  );
}
