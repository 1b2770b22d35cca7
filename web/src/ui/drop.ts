/** Files that a person drops or pastes: read out of the event, and watched for on the whole page. */

import { signal } from "@preact/signals";
import type { Arrival } from "./intake.ts";
import type { Session } from "./model.ts";

/** More than this in one drop is most likely a folder that was not meant. */
export const DROP_FILES = 500;

/** Something that can be dropped is held over the page. */
export const isHeldOver = signal(false);

interface Entry {
  isFile: boolean;
  isDirectory: boolean;
  name: string;
  file?(take: (file: File) => void, fail: (error: unknown) => void): void;
  createReader?(): { readEntries(take: (entries: Entry[]) => void, fail: (error: unknown) => void): void };
}

export class TooManyFiles extends Error {}

/**
 * The files of a drop or paste, those in folders named with their folder.
 *
 * Errors: TooManyFiles. The data must be read in the event itself, so this takes hold of all entries before it waits.
 */
export async function filesIn(data: DataTransfer, most = DROP_FILES): Promise<Arrival[]> {
  const items = [...(data.items ?? [])].filter((item) => item.kind === "file");
  const held = items.map((item) => ({ entry: item.webkitGetAsEntry?.() as Entry | null, file: item.getAsFile() }));
  if (!held.length) return [...(data.files ?? [])].slice(0, most).map((file) => ({ name: file.name, blob: file }));
  const found: Arrival[] = [];
  const take = (arrival: Arrival) => {
    if (found.length >= most)
      throw new TooManyFiles(`More than ${most} files. Pack them into one archive, or choose fewer.`);
    found.push(arrival);
  };
  const walk = async (entry: Entry, above: string): Promise<void> => {
    const name = above + entry.name;
    if (entry.isFile) {
      const blob = await new Promise<File>((resolve, reject) => entry.file?.(resolve, reject));
      return take({ name, blob });
    }
    const reader = entry.createReader?.();
    for (;;) {
      const some = await new Promise<Entry[]>((resolve, reject) =>
        reader ? reader.readEntries(resolve, reject) : resolve([]),
      );
      if (!some.length) return; // a browser tells a long folder in parts
      for (const one of some) await walk(one, `${name}/`);
    }
  };
  for (const { entry, file } of held) {
    if (entry?.isDirectory) await walk(entry, "");
    else if (file) take({ name: file.name, blob: file });
  }
  return found;
}

/** Take the files of an event into the job, and show the panel that lists them. */
export async function takeFiles(session: Session, data: DataTransfer): Promise<void> {
  try {
    const arrivals = await filesIn(data);
    if (!arrivals.length) return;
    session.panel.value = "inputs";
    const { intakeOf } = await import("./intake.ts"); // not before there is something to take: it is not for the first load
    await intakeOf(session).add(arrivals);
  } catch (error) {
    const text =
      error instanceof TooManyFiles ? error.message : "What was dropped could not be read. Choose the files instead.";
    session.notify({ kind: "error", text });
  }
}

function holdsFiles(data: DataTransfer | null): data is DataTransfer {
  return Boolean(data?.types.includes("Files"));
}

export function isTextField(target: EventTarget | null): boolean {
  return target instanceof Element && target.closest("input, textarea, select, [contenteditable='true']") !== null;
}

/** Watch the whole page. Answers with what ends it. */
export function watchDrops(session: Session, page: Window = window): () => void {
  const stop = new AbortController();
  const { signal: ended } = stop;
  const over = (event: DragEvent) => {
    if (!holdsFiles(event.dataTransfer)) return;
    event.preventDefault(); // or the browser would open the file instead of this page
    event.dataTransfer.dropEffect = "copy";
    isHeldOver.value = true;
  };
  page.addEventListener("dragenter", over, { signal: ended });
  page.addEventListener("dragover", over, { signal: ended });
  page.addEventListener(
    "dragleave",
    (event) => {
      if (!event.relatedTarget) isHeldOver.value = false; // out of the window, not onto another part of it
    },
    { signal: ended },
  );
  page.addEventListener(
    "drop",
    (event) => {
      isHeldOver.value = false;
      if (!holdsFiles(event.dataTransfer)) return;
      event.preventDefault();
      void takeFiles(session, event.dataTransfer);
    },
    { signal: ended },
  );
  page.addEventListener(
    "paste",
    (event) => {
      const { clipboardData } = event as ClipboardEvent;
      if (event.defaultPrevented || !holdsFiles(clipboardData)) return;
      if (isTextField(event.target) && clipboardData.types.includes("text/plain")) return; // a table's cells are both
      event.preventDefault();
      void takeFiles(session, clipboardData);
    },
    { signal: ended },
  );
  return () => {
    stop.abort();
    isHeldOver.value = false;
  };
}
