/** A part that is fetched when it is first shown. */

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import { Button } from "../kit.tsx";
import type { Session } from "../model.ts";
import { PANELS, type Part, type PartName, TITLES } from "../panels.ts";

const loaded = new Map<PartName, Part>();

interface LazyProps {
  session: Session;
  name: PartName;
  /** Around what is shown until the part is there, or that it cannot be had. */
  frame: (children: ComponentChildren) => ComponentChildren;
}

export function Lazy({ session, name, frame }: LazyProps) {
  const fault = useSignal<string | null>(null);
  const tick = useSignal(0);
  tick.value;
  const load = () => {
    const fetchPart = PANELS[name];
    fault.value = fetchPart ? null : "This part is not in this build.";
    fetchPart?.().then(
      (part) => {
        loaded.set(name, part);
        tick.value++;
      },
      () => {
        fault.value = "This part could not be fetched. Perhaps the connection is gone, or the server has a newer page.";
      },
    );
  };
  useEffect(() => {
    if (!loaded.has(name)) load();
  }, [name]);
  const Part = loaded.get(name);
  if (Part) return <Part session={session} />;
  if (fault.value === null) return <>{frame(<p class="muted">Loading {TITLES[name].toLowerCase()}…</p>)}</>;
  return (
    <>
      {frame(
        <div role="alert">
          <p>{fault.value}</p>
          <Button label="Try again" onClick={load} />{" "}
          <Button label="Reload the page" onClick={() => location.reload()} />
        </div>,
      )}
    </>
  );
}
