/** What a person of the page is told: each thing once, notes for a while, errors until they are dismissed. */

import { type ReadonlySignal, signal } from "@preact/signals";
import { AsmanError } from "../errors.ts";
import type { Notice } from "./model.ts";

const NOTE_MS = 6_000;
const NOTICES_MAX = 20;

export interface NoticeBoard {
  notices: ReadonlySignal<readonly Notice[]>;
  notify: (notice: Omit<Notice, "id">) => number;
  dismiss: (id: number) => void;
  /** Tell of an error: what did not work, why, and how it is tried again. */
  complain: (text: string, error: unknown, again?: () => void) => void;
}

export function noticeBoard(): NoticeBoard {
  const notices = signal<readonly Notice[]>([]);
  let lastNotice = 0;
  const dismiss = (id: number) => {
    notices.value = notices.peek().filter((notice) => notice.id !== id);
  };
  const notify = (notice: Omit<Notice, "id">): number => {
    const id = ++lastNotice;
    const others = notices.peek().filter(({ kind, text }) => kind !== notice.kind || text !== notice.text);
    notices.value = [...others, { ...notice, id }].slice(-NOTICES_MAX);
    if (notice.kind === "note") setTimeout(() => dismiss(id), NOTE_MS);
    return id;
  };
  const complain = (text: string, error: unknown, again?: () => void) => {
    const said = error instanceof Error ? error.message : String(error);
    const hint = error instanceof AsmanError ? error.hint : "";
    notify({
      kind: "error",
      text: `${text}: ${said}`,
      ...(hint ? { hint } : {}),
      ...(again ? { action: { label: "Try again", run: again } } : {}),
    });
  };
  return { notices, notify, dismiss, complain };
}
