/** Takes what is dropped or pasted anywhere on the page, and says so while it is held over it. */

import { useLayoutEffect } from "preact/hooks";
import { isHeldOver, watchDrops } from "../drop.ts";
import { Icon } from "../icons.tsx";
import type { Session } from "../model.ts";
import "./drop-hint.css";

export function DropHint({ session }: { session: Session }) {
  useLayoutEffect(() => watchDrops(session), [session]);
  if (!isHeldOver.value) return null;
  return (
    <div class="drop-hint" role="status">
      <span>
        <Icon name="inputs" /> Drop files or folders to give them to the job
      </span>
    </div>
  );
}
