/** Status, the main button, and what opens the panels. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { attempt, perform } from "../actions.ts";
import type { IconName } from "../icons.tsx";
import { Button } from "../kit.tsx";
import type { Panel, Session } from "../model.ts";
import { actionsFor, shownOf } from "../status.ts";
import { Status } from "./status.tsx";
import "./header.css";

interface Opener {
  panel: NonNullable<Panel>;
  label: string;
  icon: IconName;
  badge?: (session: Session) => number;
}

/** The first three stand in the header where there is room, all others are in the menu. */
const OPENERS: readonly Opener[] = [
  { panel: "inputs", label: "Inputs", icon: "inputs", badge: (session) => session.dynamicInputs.value.size },
  { panel: "outputs", label: "Outputs", icon: "outputs", badge: (session) => session.outputs.value?.length ?? 0 },
  { panel: "settings", label: "Settings", icon: "settings" },
  { panel: "share", label: "Share", icon: "share" },
  { panel: "history", label: "History", icon: "history" },
  { panel: "queue", label: "Queue", icon: "queue" },
  { panel: "help", label: "Help and keys", icon: "help" },
];
const IN_HEADER = 3;

export function Header({ session }: { session: Session }) {
  const actions = actionsFor(shownOf(session));
  return (
    <header class="header">
      <h1 class="sr-only">Job</h1>
      <Status session={session} />
      <div class="header-actions">
        {actions.map((action) => (
          <Button
            key={action.kind}
            class={`action-${action.kind}`}
            label={action.label}
            icon={action.icon}
            tone={action.tone}
            title={action.title}
            disabled={action.kind === "busy"}
            onClick={() => perform(session, action)}
          />
        ))}
      </div>
      <nav class="header-panels" aria-label="Panels">
        {OPENERS.slice(0, IN_HEADER).map((opener) => (
          <OpenButton key={opener.panel} session={session} opener={opener} />
        ))}
        <Menu session={session} />
      </nav>
    </header>
  );
}

function OpenButton({ session, opener }: { session: Session; opener: Opener }) {
  const { panel, label, icon, badge } = opener;
  const isOpen = session.panel.value === panel;
  const count = badge?.(session) ?? 0;
  return (
    <Button
      class="header-panel"
      icon={icon}
      tone="plain"
      label={label}
      title={count ? `${label}: ${count} ${count === 1 ? "file" : "files"}` : label}
      badge={count}
      aria-expanded={isOpen}
      data-panel={panel}
      onClick={() => {
        session.panel.value = isOpen ? null : panel;
      }}
    />
  );
}

/** What has no room of its own. In a narrow page that is every panel. */
function Menu({ session }: { session: Session }) {
  const isOpen = useSignal(false);
  const root = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const element = root.current;
    if (!element) return;
    const leave = (event: Event) => {
      if (isOpen.peek() && !element.contains(event.target as Node)) isOpen.value = false;
    };
    document.addEventListener("pointerdown", leave);
    document.addEventListener("focusin", leave);
    return () => {
      document.removeEventListener("pointerdown", leave);
      document.removeEventListener("focusin", leave);
    };
  }, []);
  const close = (work: () => void) => () => {
    isOpen.value = false;
    work();
  };
  const job = session.job.value;
  const isOver = job !== null && (job.record.state === "Finished" || job.record.state === "Removed");
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: it hears Escape from the buttons within
    <div
      class="menu"
      ref={root}
      onKeyDown={(event) => {
        if (event.key !== "Escape" || !isOpen.value) return;
        event.preventDefault();
        isOpen.value = false;
        root.current?.querySelector("button")?.focus();
      }}
    >
      <Button
        icon="more"
        iconOnly
        tone="plain"
        label="More"
        aria-expanded={isOpen.value}
        onClick={() => {
          isOpen.value = !isOpen.value;
        }}
      />
      {isOpen.value && (
        <ul class="menu-list">
          {OPENERS.map(({ panel, label, icon, badge }, at) => (
            <li key={panel} class={at < IN_HEADER ? "menu-narrow" : ""}>
              <Button
                icon={icon}
                tone="plain"
                label={label}
                badge={badge?.(session)}
                onClick={close(() => {
                  session.panel.value = panel;
                })}
              />
            </li>
          ))}
          {isOver && (
            <li class="menu-rule">
              <Button
                icon="trash"
                tone="plain"
                label="Clear result"
                title="Drop the result from the server; the job can be run anew"
                onClick={close(() => attempt(session, "The result was not cleared", () => session.clear()))}
              />
            </li>
          )}
          {session.isFramed && (
            <li>
              <Button
                icon="link"
                tone="plain"
                label="Open in a tab"
                onClick={close(() => {
                  window.open(location.href, "_blank", "noopener");
                })}
              />
            </li>
          )}
        </ul>
      )}
    </div>
  );
}
