/**
 * The keys of the page: one table for what they do and for the help that lists them.
 *
 * Single letters work outside of text fields only, and can be turned off: whoever speaks to the computer would press
 * them by accident.
 */

import { signal } from "@preact/signals";
import { perform } from "./actions.ts";
import type { Panel, Session } from "./model.ts";
import type { ConsoleCommands } from "./parts/console.tsx";
import { actionsFor, shownOf } from "./status.ts";

export interface Key {
  /** As `event.key` says it, lower case; `mod` is Ctrl, on a Mac Cmd. */
  key: string;
  mod?: boolean;
  what: string;
  when: "always" | "outside text fields" | "in the console";
  run?: (session: Session, console: ConsoleCommands | null) => void;
}

const toggle = (panel: Panel) => (session: Session) => {
  session.panel.value = session.panel.peek() === panel ? null : panel;
};

export const KEYS: readonly Key[] = [
  {
    key: "enter",
    mod: true,
    what: "Run, re-run, or save and run",
    when: "always",
    run: (session) => {
      const action = actionsFor(shownOf(session))[0];
      if (action && action.kind !== "stop") perform(session, action);
    },
  },
  {
    key: ".",
    mod: true,
    what: "Stop the job",
    when: "always",
    run: (session) => {
      const action = actionsFor(shownOf(session)).find(({ kind }) => kind === "stop");
      if (action) perform(session, action);
    },
  },
  {
    key: "s",
    mod: true,
    what: "Save the edited file into the link",
    when: "always",
    run: (session) => {
      const { unsaved, params } = session;
      const edit = unsaved.peek();
      if (!edit) return;
      params.inputs.value = { ...params.inputs.peek(), [edit.name]: edit.text };
      unsaved.value = null;
    },
  },
  {
    key: "escape",
    what: "Close the panel",
    when: "always",
    run: (session) => {
      session.panel.value = null;
    },
  },
  { key: "f", mod: true, what: "Search the log", when: "in the console" },
  { key: "/", what: "Search the log", when: "outside text fields", run: (_, console) => console?.search() },
  { key: "l", what: "Go to the log", when: "outside text fields", run: (_, console) => console?.focus() },
  { key: "g", what: "Jump to the end of the log", when: "outside text fields", run: (_, console) => console?.toEnd() },
  { key: "w", what: "Wrap long lines", when: "outside text fields", run: (_, console) => console?.toggleWrap() },
  {
    key: "t",
    what: "Show times: off, local, since the start",
    when: "outside text fields",
    run: (_, c) => c?.nextTimes(),
  },
  { key: "i", what: "Inputs", when: "outside text fields", run: toggle("inputs") },
  { key: "e", what: "Edit the main file", when: "outside text fields", run: toggle("editor") },
  { key: "o", what: "Outputs", when: "outside text fields", run: toggle("outputs") },
  { key: "s", what: "Settings", when: "outside text fields", run: toggle("settings") },
  { key: "q", what: "Queue: jobs and workers", when: "outside text fields", run: toggle("queue") },
  { key: "u", what: "Share", when: "outside text fields", run: toggle("share") },
  { key: "h", what: "History", when: "outside text fields", run: toggle("history") },
  { key: "?", what: "This help", when: "outside text fields", run: toggle("help") },
];

/** Do single letters do something? Kept in this browser. */
export const lettersWork = signal(readLetters());

function readLetters(): boolean {
  try {
    return localStorage.getItem("letter-keys") !== "off";
  } catch {
    return true;
  }
}

export function setLetters(work: boolean): void {
  lettersWork.value = work;
  try {
    localStorage.setItem("letter-keys", work ? "on" : "off");
  } catch {
    // A frame without storage: the choice lasts as long as the page.
  }
}

export type Pressed = Pick<KeyboardEvent, "key" | "ctrlKey" | "metaKey" | "altKey" | "shiftKey" | "isComposing">;

/** The key of the table that was pressed, if it means something here. */
export function keyFor(event: Pressed, isInText: boolean): Key | null {
  if (event.isComposing || event.altKey) return null;
  const mod = event.ctrlKey || event.metaKey;
  const pressed = event.key.toLowerCase();
  for (const key of KEYS) {
    if (!key.run || key.key !== pressed || (key.mod ?? false) !== mod) continue;
    if (key.when === "outside text fields" && (isInText || !lettersWork.peek())) continue;
    if (event.shiftKey && (mod || /^[a-z]$/.test(pressed))) continue;
    return key;
  }
  return null;
}

/** Is this where one writes? Keys without Ctrl belong to it. */
export function isText(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false;
  if (target.isContentEditable || target.closest("textarea, select, [contenteditable], .cm-editor")) return true;
  return (
    target instanceof HTMLInputElement && !["checkbox", "radio", "button", "submit", "range"].includes(target.type)
  );
}

/** In the editor Escape lets Tab leave it. */
function isEditor(target: EventTarget | null): boolean {
  return target instanceof Element && target.closest(".cm-editor") !== null;
}

const isMac = typeof navigator !== "undefined" && /Mac|iPhone|iPad/.test(navigator.platform ?? "");

/** The key as it is written on keyboards. */
export function showKey(key: Key): string[] {
  const names: Record<string, string> = { enter: "Enter", escape: "Esc" };
  const name = names[key.key] ?? (key.mod ? key.key.toUpperCase() : key.key);
  return key.mod ? [isMac ? "Cmd" : "Ctrl", name] : [name];
}

/** Listen on the whole page. Whoever handled a key before has prevented its default, or was a dialog. */
export function listen(session: Session, console: () => ConsoleCommands | null): () => void {
  const onKey = (event: KeyboardEvent) => {
    if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const key = keyFor(event, isText(event.target));
    if (!key?.run) return;
    if (key.key === "escape" && (session.panel.peek() === null || isEditor(event.target))) return;
    event.preventDefault();
    key.run(session, console());
  };
  document.addEventListener("keydown", onKey);
  return () => document.removeEventListener("keydown", onKey);
}
