/**
 * The files a person gives to the job: small texts stand in the link (`inputs`), all else is uploaded and stands in
 * the job as a reference (`job.inputs`).
 *
 * One per session, so that uploads go on while the panel is closed.
 */

import { batch, computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { DataRef, Definition } from "../contract.ts";
import {
  asText,
  freeName,
  INLINE_ALL_BYTES,
  INLINE_FILE_BYTES,
  inlineBytes,
  landsAt,
  nameFault,
  showBytes,
  tidyName,
  utf8Bytes,
} from "./files.ts";
import type { Session } from "./model.ts";
import { webAddress } from "./save.ts";

const AT_ONCE = 2;

/** Where the bytes of a file are. */
export type Source = { blob: () => Blob } | { url: string };

export interface InputFile {
  name: string;
  path: string;
  /** `text`: in the link, can be edited. `stored`: a reference in the job. */
  kind: "text" | "stored";
  size: number | null;
  source: Source | null;
}

export interface Upload {
  name: string;
  size: number;
  sent: number;
  /** Why it failed, and what to do; null while it goes on. */
  fault: string | null;
}

export interface Arrival {
  name: string;
  blob: Blob;
}

interface Running {
  blob: Blob;
  abort: AbortController;
}

export class Intake {
  /** The file the editor shows; null: the first one. */
  readonly chosen: Signal<string | null> = signal(null);
  readonly uploads: Signal<readonly Upload[]> = signal([]);
  readonly files: ReadonlySignal<readonly InputFile[]>;
  #running = new Map<string, Running>();
  #sizes = new Map<string, number>();

  constructor(readonly session: Session) {
    this.files = computed(() => this.#list());
  }

  /** The texts of the link. Until the link has some, those of the job: they would be gone with the first edit. */
  get texts(): Record<string, string> {
    const { inputs, job } = this.session.params;
    return inputs.value ?? textsOf(job.value);
  }

  get names(): string[] {
    return [...this.files.value.map((file) => file.name), ...this.uploads.value.map((upload) => upload.name)];
  }

  #list(): InputFile[] {
    const { job } = this.session.params;
    const rows: InputFile[] = [];
    for (const [name, text] of Object.entries(this.texts)) {
      const source = { blob: () => new Blob([text]) };
      rows.push({ name, path: landsAt(name), kind: "text", size: utf8Bytes(text), source });
    }
    const refs = { ...refsOf(job.value?.inputs), ...refsOf(restOf(job.value)) };
    for (const [name, ref] of Object.entries(refs)) {
      if (rows.some((row) => row.path === landsAt(name))) continue; // a text wins over an input of its name
      const bytes = inlineBytes(ref);
      const size = bytes ? bytes.length : (this.#sizes.get(String(ref?.value)) ?? null);
      rows.push({ name, path: landsAt(name), kind: "stored", size, source: sourceOf(ref, name, this.session) });
    }
    return rows.sort((a, b) => (a.path < b.path ? -1 : 1));
  }

  /** Make the texts the link's own, before one of them is edited. */
  adopt(): void {
    if (this.session.params.inputs.value === undefined) this.#setTexts(this.texts);
  }

  /** A new text; the name has been checked. */
  create(name: string, text = ""): void {
    const tidy = tidyName(name);
    this.#putText(tidy, text);
    this.chosen.value = tidy;
  }

  /** What the editor saves. A file that is gone meanwhile comes back with it: better twice than lost. */
  write(name: string, text: string): void {
    if (this.texts[name] !== text) this.#putText(name, text);
  }

  /** Files from a drop, a paste or the file dialog. A file of the same name is replaced, with a way back. */
  async add(arrivals: readonly Arrival[]): Promise<void> {
    const replaced: string[] = [];
    const before = this.#snapshot();
    const fresh = new Set<string>();
    for (const { name: wanted, blob } of arrivals) {
      const tidy = tidyName(wanted);
      const there = this.files.value.find((file) => file.path === landsAt(tidy) && !fresh.has(file.name));
      const isOnItsWay = this.uploads.value.some((upload) => upload.name === tidy) && !fresh.has(tidy);
      if (there) replaced.push(there.name);
      const name = there?.name ?? (isOnItsWay ? tidy : freeName(wanted, new Set(this.names)));
      fresh.add(name);
      this.cancel(name);
      const text = blob.size <= INLINE_FILE_BYTES ? asText(new Uint8Array(await blob.arrayBuffer())) : null;
      const others = Object.entries(this.texts).reduce((sum, [at, one]) => sum + (at === name ? 0 : utf8Bytes(one)), 0);
      if (text !== null && others + blob.size <= INLINE_ALL_BYTES) this.#putText(name, text);
      else if (name.startsWith("/"))
        this.session.notify({
          kind: "error",
          text: `${name} was not replaced: the new file has ${showBytes(blob.size)}, and only small texts can lie there.`,
          hint: "Give it a name without a leading slash; it then lies below /inputs.",
        });
      else this.#upload(name, blob);
    }
    if (replaced.length)
      this.session.notify({
        kind: "note",
        text: `Replaced ${replaced.length === 1 ? replaced[0] : `${replaced.length} files`}.`,
        action: { label: "Undo", run: () => this.#restore(before, replaced) },
      });
  }

  rename(file: InputFile, to: string): void {
    const name = tidyName(to);
    if (name === file.name) return;
    if (file.kind === "text") {
      const { [file.name]: text = "", ...others } = this.texts;
      this.#setTexts({ ...others, [name]: text });
      if (this.chosen.value === file.name) this.chosen.value = name;
      return;
    }
    this.#changeJob((job) => {
      const ref = job.inputs?.[file.name] ?? job.configFiles?.[file.name];
      if (ref) job.inputs = { ...without(job.inputs, file.name), [name]: ref };
      if (job.configFiles) job.configFiles = without(job.configFiles, file.name);
    });
  }

  remove(file: InputFile): void {
    const before = this.#snapshot();
    batch(() => this.#drop(file.name));
    this.session.notify({
      kind: "note",
      text: `Deleted ${file.path}.`,
      action: { label: "Undo", run: () => this.#restore(before, [file.name]) },
    });
  }

  cancel(name: string): void {
    this.#running.get(name)?.abort.abort();
    this.#running.delete(name);
    this.uploads.value = this.uploads.value.filter((upload) => upload.name !== name);
  }

  retry(name: string): void {
    const blob = this.#running.get(name)?.blob;
    if (blob) this.#upload(name, blob);
  }

  // Uploads ------------------------------------------------------------------------------------------------------

  #upload(name: string, blob: Blob): void {
    this.cancel(name);
    this.#running.set(name, { blob, abort: new AbortController() });
    this.uploads.value = [...this.uploads.value, { name, size: blob.size, sent: 0, fault: null }];
    this.#next();
  }

  #sending = new Set<string>();

  /** A few at once; the others wait their turn. */
  #next(): void {
    for (const { name, fault } of this.uploads.value) {
      if (this.#sending.size >= AT_ONCE) return;
      if (fault === null && !this.#sending.has(name)) void this.#send(name);
    }
  }

  async #send(name: string): Promise<void> {
    const mine = this.#running.get(name);
    if (!mine) return;
    this.#sending.add(name);
    const change = (to: Partial<Upload>) => {
      if (this.#running.get(name) !== mine) return;
      this.uploads.value = this.uploads.value.map((one) => (one.name === name ? { ...one, ...to } : one));
    };
    try {
      const { signal } = mine.abort;
      const client = this.session.client.value;
      const ref = await client.upload(mine.blob, { signal, onProgress: (sent: number) => change({ sent }) });
      if (this.#running.get(name) !== mine) return;
      this.#sizes.set(String(ref.value), mine.blob.size);
      batch(() => {
        this.#drop(name);
        this.#changeJob((job) => {
          job.inputs = { ...job.inputs, [name]: ref };
        });
        this.#running.delete(name);
        this.uploads.value = this.uploads.value.filter((upload) => upload.name !== name);
      });
    } catch (error) {
      if (!mine.abort.signal.aborted) change({ fault: faultOf(error, mine.blob.size) });
    } finally {
      this.#sending.delete(name);
      this.#next();
    }
  }

  // Writing to the link ------------------------------------------------------------------------------------------

  #putText(name: string, text: string): void {
    batch(() => {
      this.#setTexts({ ...this.texts, [name]: text });
      if (this.session.params.job.value?.inputs?.[name])
        this.#changeJob((job) => {
          job.inputs = without(job.inputs, name);
        });
    });
  }

  #setTexts(texts: Record<string, string>): void {
    batch(() => {
      const all = { ...this.#adopt(), ...texts };
      this.session.params.inputs.value = Object.keys(all).length ? all : undefined;
    });
  }

  /**
   * Texts in the link replace the job's own `configFiles`. So before there are any, what those hold is moved: relative
   * files to the inputs, absolute ones to the texts that are answered. One that is elsewhere and absolute cannot be kept.
   */
  #adopt(): Record<string, string> {
    const { job } = this.session.params;
    const texts: Record<string, string> = {};
    if (!job.value?.configFiles) return texts;
    this.#changeJob((draft) => {
      for (const [name, ref] of Object.entries(restOf(draft))) {
        const bytes = inlineBytes(ref);
        const text = bytes && asText(bytes);
        if (!name.startsWith("/")) draft.inputs = { ...draft.inputs, [name]: ref };
        else if (text !== null) texts[name] = text;
        else this.session.notify({ kind: "warning", text: `${name} is no longer part of the job: it is not a text.` });
      }
      delete draft.configFiles;
    });
    return texts;
  }

  #drop(name: string): void {
    const texts = this.texts;
    if (Object.hasOwn(texts, name)) this.#setTexts(without(texts, name));
    const job = this.session.params.job.value;
    if (job?.inputs?.[name] || job?.configFiles?.[name])
      this.#changeJob((draft) => {
        draft.inputs = without(draft.inputs, name);
        if (draft.configFiles) draft.configFiles = without(draft.configFiles, name);
      });
  }

  /** The job with a change; empty maps are left out, and nothing is written if nothing changed. */
  #changeJob(change: (draft: Definition) => void): void {
    const { job } = this.session.params;
    const draft = { ...job.value } as Definition;
    change(draft);
    for (const member of ["inputs", "configFiles"] as const)
      if (draft[member] && !Object.keys(draft[member]).length) delete draft[member];
    if (JSON.stringify(draft) !== JSON.stringify(job.value ?? {})) job.value = draft;
  }

  #snapshot(): Snapshot {
    return { texts: this.texts, inputs: { ...refsOf(this.session.params.job.value?.inputs) } };
  }

  /** Bring files back as they were. What else changed meanwhile stays. */
  #restore(before: Snapshot, names: readonly string[]): void {
    batch(() => {
      for (const name of names) {
        this.cancel(name);
        this.#drop(name);
        const text = before.texts[name];
        const ref = before.inputs[name];
        const taken = this.names;
        const as = nameFault(name, taken) ? freeName(name, new Set(taken)) : name;
        if (text !== undefined) this.#putText(as, text);
        else if (ref)
          this.#changeJob((job) => {
            job.inputs = { ...job.inputs, [as]: ref };
          });
      }
    });
  }
}

interface Snapshot {
  texts: Record<string, string>;
  inputs: Record<string, DataRef>;
}

const INTAKES = new WeakMap<Session, Intake>();

export function intakeOf(session: Session): Intake {
  let intake = INTAKES.get(session);
  if (!intake) {
    intake = new Intake(session);
    INTAKES.set(session, intake);
  }
  return intake;
}

/** Open the editor at a file of the link. */
export function openInEditor(session: Session, name: string | null = null): void {
  intakeOf(session).chosen.value = name;
  session.panel.value = "editor";
}

/** Where a reference's bytes are; null if it points nowhere a page may go. */
export function sourceOf(ref: Ref, name: string, session: Session): Source | null {
  const bytes = inlineBytes(ref);
  if (bytes) return { blob: () => new Blob([bytes]) };
  const server = session.client.value.server;
  const address =
    ref.type === "key"
      ? `${server}/f/${encodeURIComponent(String(ref.value))}?name=${encodeURIComponent(name)}`
      : ref.value;
  const url = webAddress(address);
  return url ? { url } : null;
}

type Ref = Parameters<typeof inlineBytes>[0];

function refsOf(files: unknown): Record<string, DataRef> {
  return files && typeof files === "object" && !Array.isArray(files) ? (files as Record<string, DataRef>) : {};
}

/** The texts among a job's own `configFiles`. */
function textsOf(job: Definition | undefined): Record<string, string> {
  const texts: Record<string, string> = {};
  for (const [name, ref] of Object.entries(refsOf(job?.configFiles)))
    if ((ref?.type ?? "utf8") === "utf8" && typeof ref?.value === "string") texts[name] = ref.value;
  return texts;
}

/** The others among them. */
function restOf(job: Definition | undefined): Record<string, DataRef> {
  const texts = textsOf(job);
  return Object.fromEntries(Object.entries(refsOf(job?.configFiles)).filter(([name]) => !Object.hasOwn(texts, name)));
}

function without<Value>(files: Record<string, Value> | null | undefined, name: string): Record<string, Value> {
  const { [name]: _, ...others } = files ?? {};
  return others;
}

function faultOf(error: unknown, size: number): string {
  const {
    message = String(error),
    hint = "",
    status = 0,
  } = error as { message?: string; hint?: string; status?: number };
  if (status === 413) return `The server does not take files of ${showBytes(size)}: ${message}`;
  if (status === 0) return `The server could not be reached. ${hint || "Check the connection, then try again."}`;
  return [message, hint].filter(Boolean).join(" ");
}
