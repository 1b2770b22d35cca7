/** Fields that are saved as they are typed. What is typed is never lost: it is in the link, or waits in the field. */

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { Field } from "../kit.tsx";
import type { Session } from "../model.ts";
import { editsOf } from "./edits.ts";

const SAVE_AFTER_MS = 400;

export interface SavedFieldProps {
  session: Session;
  /** Names the field among all of the page's. */
  name: string;
  label: string;
  /** The flag of `docker run` that means the same. */
  flag?: string;
  hint?: ComponentChildren;
  fault?: string | undefined;
  value: string;
  save: (text: string) => void;
  placeholder?: string;
  lines?: number;
  inputMode?: "decimal" | "numeric";
  suggestions?: readonly string[];
}

/**
 * A text field of the link. It is written a moment after the last key, and at once on Enter or when it is left. Where
 * the job runs by itself after each change it is written only then, so that half a word is never run.
 */
export function SavedField(props: SavedFieldProps) {
  const { session, name, label, flag, hint, fault, value, placeholder, lines, inputMode, suggestions } = props;
  const typing = useSaved(session, name, value, props.save);
  const list = suggestions ? `${name}-suggestions` : undefined;
  const common = {
    class: "mono",
    spellcheck: false,
    autocomplete: "off",
    autocapitalize: "off" as const,
    placeholder: placeholder ?? "",
    value: typing.text,
    onInput: (event: Event) => typing.type((event.currentTarget as HTMLInputElement).value),
    onBlur: typing.leave,
  };
  return (
    <Field
      label={
        <>
          {label} {flag && <code class="settings-flag">{flag}</code>}
        </>
      }
      hint={hint}
      fault={fault}
    >
      {(ids) =>
        lines ? (
          <textarea
            {...ids}
            {...common}
            rows={lines}
            onKeyDown={(event) => isCommit(event) && event.key !== "Enter" && typing.flush()}
          />
        ) : (
          <>
            <input
              type="text"
              {...ids}
              {...common}
              inputMode={inputMode ?? "text"}
              list={list}
              onKeyDown={(event) => isCommit(event) && typing.flush()}
            />
            {suggestions && (
              <datalist id={list ?? ""}>
                {suggestions.map((text) => (
                  <option key={text} value={text} />
                ))}
              </datalist>
            )}
          </>
        )
      }
    </Field>
  );
}

/** Enter, and the page's own Ctrl+Enter and Ctrl+S, which act on what is in the link. */
function isCommit(event: KeyboardEvent): boolean {
  return event.key === "Enter" || ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "s");
}

interface Typing {
  text: string;
  type: (text: string) => void;
  flush: () => void;
  leave: () => void;
}

/** Text that is saved a moment after it was typed. What is shown is what was typed, until the field is left. */
export function useSaved(session: Session, name: string, value: string, save: (text: string) => void): Typing {
  const edits = editsOf(session);
  const draft = useSignal<string | null>(null);
  const state = useRef({ timer: 0, unsaved: null as string | null, save });
  state.current.save = save;
  const flush = () => {
    const { unsaved } = state.current;
    clearTimeout(state.current.timer);
    if (unsaved === null) return;
    state.current.unsaved = null;
    state.current.save(unsaved);
    edits.setPending(name, false);
  };
  useLayoutEffect(() => {
    addEventListener("pagehide", flush);
    const keys = (event: KeyboardEvent) => {
      if ((event.ctrlKey || event.metaKey) && event.key === "Enter") flush();
    };
    addEventListener("keydown", keys, { capture: true });
    return () => {
      removeEventListener("pagehide", flush);
      removeEventListener("keydown", keys, { capture: true });
      flush();
    };
  }, []);
  return {
    text: draft.value ?? value,
    flush,
    type: (text) => {
      draft.value = text;
      state.current.unsaved = text;
      edits.setPending(name, true);
      clearTimeout(state.current.timer);
      if (!session.params.autostart.peek()) state.current.timer = setTimeout(flush, SAVE_AFTER_MS) as unknown as number;
    },
    leave: () => {
      flush();
      draft.value = null;
    },
  };
}
