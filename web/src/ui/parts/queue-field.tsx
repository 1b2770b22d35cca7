/** The field for a queue's name: hidden from whoever looks over the shoulder until it is asked for, saved as one types. */

import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { Button, CopyButton, Field } from "../kit.tsx";
import type { Session } from "../model.ts";
import { isOpenQueue, maskQueue, queueFault, queueText } from "./queue-name.ts";
import "./queue-field.css";

const SAVE_MS = 1_000;

interface QueueFieldProps {
  session: Session;
  /** The page around this frame sets it. */
  isLocked: boolean;
  hint: string;
}

export function QueueField({ session, isLocked, hint }: QueueFieldProps) {
  const queue = queueText(session);
  const draft = useSignal<string | null>(null);
  const isRevealed = useSignal(false);
  /** Whoever types a name sees it, until the field is left. */
  const isTyped = useSignal(false);
  const saved = useRef(queue);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const input = useRef<HTMLInputElement>(null);
  const isSecret = queue !== "" && !isOpenQueue(queue);
  const isHidden = isSecret && !isRevealed.value && !isTyped.value && draft.value === null;
  const shown = draft.value ?? queue;
  const fault = isLocked || (shown === "" && draft.value === null) ? null : queueFault(shown, location.origin);
  const save = () => {
    clearTimeout(timer.current);
    const typed = draft.peek()?.trim();
    if (typed === undefined || queueFault(typed, location.origin)) return;
    saved.current = typed;
    session.params.queue.value = typed;
    draft.value = null;
  };
  useEffect(() => save, []);
  useLayoutEffect(() => {
    if (queue === saved.current) return; // it comes from here, and typing may have gone on
    saved.current = queue;
    clearTimeout(timer.current);
    draft.value = null;
    isRevealed.value = isTyped.value = false;
  }, [queue]);
  const type = (text: string) => {
    draft.value = text;
    isTyped.value = true;
    clearTimeout(timer.current);
    timer.current = setTimeout(save, SAVE_MS);
  };
  const leave = () => {
    save();
    isTyped.value = false;
  };
  return (
    <Field
      label="Name of the queue"
      fault={fault ?? undefined}
      hint={isLocked ? "The page around this frame sets it." : hint}
    >
      {(ids) => (
        <div class="queue-field">
          <input
            {...ids}
            ref={input}
            type="text"
            class="mono"
            autocomplete="off"
            autocapitalize="off"
            spellcheck={false}
            disabled={isLocked}
            readOnly={isHidden}
            value={isHidden ? maskQueue(queue) : shown}
            onInput={(event) => type(event.currentTarget.value)}
            onBlur={leave}
            onKeyDown={(event) => event.key === "Enter" && save()}
          />
          {isSecret && (
            <Button
              icon="eye"
              iconOnly
              label={isHidden ? "Show the name" : "Hide the name"}
              aria-pressed={!isHidden}
              onClick={() => {
                leave();
                isRevealed.value = isHidden;
                if (isHidden) input.current?.focus();
              }}
            />
          )}
          {queue && <CopyButton iconOnly text={() => queue} label="Copy the name" />}
        </div>
      )}
    </Field>
  );
}
