/**
 * Edits on their way into the link: written a moment after the last key, and at once when asked.
 *
 * At most one edit waits: an edit of another file writes the one before it first. Whoever closes, leaves, or runs calls
 * `flush`, so nothing is ever lost. While an edit waits, `unsaved` says so.
 */

import type { Signal } from "@preact/signals";
import type { Unsaved } from "./model.ts";

export const SAVE_AFTER_MS = 400;

export class Autosave {
  #waiting: Unsaved | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly unsaved: Signal<Unsaved | null>,
    private readonly write: (name: string, text: string) => void,
  ) {}

  get isWaiting(): boolean {
    return this.#waiting !== null;
  }

  edit(name: string, text: string): void {
    if (this.#waiting && this.#waiting.name !== name) this.flush();
    this.#waiting = { name, text };
    this.unsaved.value = this.#waiting;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.flush(), SAVE_AFTER_MS);
  }

  /** Write the waiting edit now, if there is one. */
  flush(): void {
    clearTimeout(this.#timer);
    const edit = this.#waiting;
    if (!edit) return;
    this.#waiting = null;
    this.write(edit.name, edit.text);
    if (this.unsaved.value === edit) this.unsaved.value = null;
  }
}
