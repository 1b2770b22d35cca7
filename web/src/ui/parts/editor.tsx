/**
 * The editor: the texts of the link as tabs. What is typed is in the link a moment later, and at once when the person
 * leaves the file, the panel or the page, saves, or runs.
 */

import { useComputed, useSignal } from "@preact/signals";
import { useEffect, useId, useMemo, useRef } from "preact/hooks";
import { perform } from "../actions.ts";
import { Autosave } from "../autosave.ts";
import type { TextEditor } from "../codemirror.ts";
import { INLINE_ALL_BYTES, landsAt, showBytes, shownName, utf8Bytes } from "../files.ts";
import { mayTakeFocus } from "../focus.ts";
import { intakeOf } from "../intake.ts";
import { Button, PanelFrame } from "../kit.tsx";
import type { Session } from "../model.ts";
import { actionsFor, shownOf } from "../status.ts";
import "./editor.css";

const WRAP = "editor-wrap";

function remembered(): boolean {
  try {
    return localStorage.getItem(WRAP) !== "off";
  } catch {
    return true; // a frame may have no storage
  }
}

export function Editor({ session }: { session: Session }) {
  const intake = intakeOf(session);
  const names = useComputed(() => Object.keys(intake.texts).sort());
  const chosen = useComputed(() => {
    const wanted = intake.chosen.value;
    return wanted !== null && names.value.includes(wanted) ? wanted : (names.value[0] ?? null);
  });
  const host = useRef<HTMLDivElement>(null);
  const editor = useSignal<TextEditor | null>(null);
  const isLost = useSignal(false);
  const isWrapped = useSignal(remembered());
  const saves = useMemo(
    () => new Autosave(session.unsaved, (name, text) => intake.write(name, text)),
    [session, intake],
  );
  const said = useSignal("");
  const aboutId = useId();
  const shown = useRef<string | null>(null);

  useEffect(() => {
    let isGone = false;
    const flush = () => saves.flush();
    import("../codemirror.ts")
      .then(({ makeEditor }) => {
        if (isGone || !host.current) return;
        editor.value = makeEditor(
          host.current,
          {
            onEdit: (name, text) => {
              said.value = "";
              intake.adopt();
              saves.edit(name, text);
            },
            onSave: () => {
              saves.flush();
              said.value = "Saved in the link.";
            },
            onRun: () => {
              // As the header's button: it saves the edit first, if there is one.
              const action = actionsFor(shownOf(session))[0];
              if (action && action.kind !== "stop") perform(session, action);
              saves.flush();
            },
            onLeave: flush,
          },
          aboutId,
        );
        editor.value.setWrap(isWrapped.value);
      })
      .catch(() => {
        isLost.value = true;
      });
    addEventListener("pagehide", flush);
    const hide = () => document.visibilityState === "hidden" && flush();
    document.addEventListener("visibilitychange", hide);
    return () => {
      isGone = true;
      removeEventListener("pagehide", flush);
      document.removeEventListener("visibilitychange", hide);
      saves.flush();
      editor.value?.destroy();
      editor.value = null;
    };
  }, []);

  const name = chosen.value;
  const text = name === null ? undefined : intake.texts[name];
  const view = editor.value;
  useEffect(() => {
    if (!view || name === null || text === undefined) return;
    if (saves.isWaiting && session.unsaved.value?.name === name) return; // what is typed here wins
    const isNew = shown.current !== name;
    shown.current = name;
    view.open(name, text);
    if (isNew && mayTakeFocus()) view.focus();
  }, [view, name, text]);

  const total = Object.values(intake.texts).reduce((sum, one) => sum + utf8Bytes(one), 0);
  const isWaiting = session.unsaved.value !== null;
  return (
    <PanelFrame
      title="Editor"
      onClose={() => {
        saves.flush();
        session.panel.value = null;
      }}
      actions={
        <>
          <Button icon="search" iconOnly tone="plain" label="Find and replace" onClick={() => view?.find()} />
          <Button
            icon="wrap"
            iconOnly
            tone="plain"
            label="Wrap long lines"
            aria-pressed={isWrapped.value}
            onClick={() => {
              isWrapped.value = !isWrapped.value;
              view?.setWrap(isWrapped.value);
              try {
                localStorage.setItem(WRAP, isWrapped.value ? "on" : "off");
              } catch {}
            }}
          />
        </>
      }
    >
      <div class="editor">
        <div class="editor-files">
          <div
            class="editor-tabs"
            role="tablist"
            aria-label="Files"
            onKeyDown={(event) => {
              const by = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
              const all = names.value;
              const next = by && name !== null ? all[(all.indexOf(name) + by + all.length) % all.length] : undefined;
              if (next === undefined) return;
              event.preventDefault();
              saves.flush();
              shown.current = next; // the focus stays on the tabs
              intake.chosen.value = next;
              const tabs = event.currentTarget.querySelectorAll<HTMLElement>("[role=tab]");
              tabs[all.indexOf(next)]?.focus();
            }}
          >
            {names.value.map((one) => (
              <button
                key={one}
                type="button"
                role="tab"
                class="editor-tab mono"
                title={landsAt(one)}
                aria-selected={one === name}
                tabIndex={one === name ? 0 : -1}
                onClick={() => {
                  saves.flush();
                  intake.chosen.value = one;
                }}
              >
                {shownName(one)}
              </button>
            ))}
          </div>
          <Button
            icon="add"
            iconOnly
            tone="plain"
            label="New file"
            onClick={() => {
              session.panel.value = "inputs";
            }}
          />
        </div>
        {name === null && (
          <div class="editor-empty">
            <p>There is no text to edit yet.</p>
            <Button
              icon="add"
              label="Add a file"
              onClick={() => {
                session.panel.value = "inputs";
              }}
            />
          </div>
        )}
        {isLost.value && (
          <p class="editor-empty" role="alert">
            The editor could not be loaded. Check the connection, then open it again.
          </p>
        )}
        <div class="editor-host" ref={host} hidden={name === null || isLost.value} />
        <p class="editor-foot muted">
          <span role="status">
            {total > INLINE_ALL_BYTES
              ? `The texts of this link have ${showBytes(total)}: some programs cut links that long.`
              : isWaiting
                ? "Saving…"
                : said.value || "Saved in the link as you type."}
          </span>
          <span id={aboutId}>
            <kbd>Tab</kbd> indents; <kbd>Esc</kbd>, then <kbd>Tab</kbd> leaves. <kbd>{mod()}+Enter</kbd> runs.
          </span>
        </p>
      </div>
    </PanelFrame>
  );
}

function mod(): string {
  return /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘" : "Ctrl";
}
