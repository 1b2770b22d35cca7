/** Shows and hides the name of a queue, which is its key. */

import type { Signal } from "@preact/signals";
import { Button } from "../kit.tsx";

export function Reveal({ isShown }: { isShown: Signal<boolean> }) {
  return (
    <Button
      icon="eye"
      iconOnly
      tone="plain"
      label={isShown.value ? "Hide the queue's name" : "Show the queue's name"}
      aria-pressed={isShown.value}
      onClick={() => {
        isShown.value = !isShown.value;
      }}
    />
  );
}
