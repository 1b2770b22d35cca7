/**
 * From the parameters of the link and the inputs of the host page to a job that can be submitted.
 *
 * `assemble` is pure. Inline values over the limit are then sent to the server by `Placer`, which remembers what it
 * has sent, so that the definition holds their addresses. Nothing that it is given is changed.
 *
 * Source: published web client, "Job definition assembly" with its corrections, and the newer release, 3.4.
 */

import { DEFAULT_NAMESPACE, INLINE_MAX_CHARACTERS, REF_TYPES } from "../contract.gen.ts";
import type { DataRef, Definition } from "../contract.ts";
import type { DataRefLike, Missing } from "./model.ts";

export interface Sources {
  job: Definition | undefined;
  inputs: Record<string, string> | undefined;
  control: Record<string, unknown> | undefined;
  maxJobDuration: string | undefined;
  other: ReadonlyMap<string, string>;
  dynamicInputs: ReadonlyMap<string, DataRefLike>;
}

export interface Draft {
  definition: Definition;
  namespace: string;
  control: Record<string, unknown>;
}

/** The job of these parameters, its large values still inline; or why there is none. */
export function assemble(sources: Sources): Draft | Missing {
  const { job = {}, other } = sources;
  if (!job.image && !hasBuild(job)) return { what: "image" };
  const definition: Definition = { ...job };
  const env = { ...job.env, ...Object.fromEntries(other) };
  const command = typeof job.command === "string" ? substituted(job.command, other) : job.command;
  const context = job.build?.context;
  const configFiles = sources.inputs
    ? Object.fromEntries(Object.entries(sources.inputs).map(([name, value]) => [name, { type: "utf8", value }]))
    : job.configFiles;
  const inputs = { ...job.inputs, ...Object.fromEntries(sources.dynamicInputs) };

  put(definition, "command", command);
  put(definition, "env", env);
  put(definition, "configFiles", configFiles);
  put(definition, "inputs", inputs);
  if (job.build && context) definition.build = { ...job.build, context: substituted(context, other) };
  if (sources.maxJobDuration && !isSaid(job.maxDuration)) definition.maxDuration = sources.maxJobDuration;

  const { namespace, callbacks } = sources.control ?? {};
  const own = typeof namespace === "string" && namespace ? namespace : DEFAULT_NAMESPACE;
  return { definition, namespace: own, control: { namespace: own, ...(callbacks ? { callbacks } : {}) } };
}

/** Empty objects and absent values are left out: they do not count for the id. */
function put(definition: Definition, name: string, value: unknown): void {
  const members = definition as Record<string, unknown>;
  const isEmpty = value === undefined || (value !== null && typeof value === "object" && !Object.keys(value).length);
  if (isEmpty && !Array.isArray(value)) delete members[name];
  else members[name] = value;
}

function isSaid(value: unknown): boolean {
  return value !== undefined && value !== null && value !== "";
}

/** A platform alone says nothing to build. */
export function hasBuild(job: Definition): boolean {
  const { build } = job;
  if (!build || typeof build !== "object") return false;
  return Object.entries(build).some(([name, value]) => name !== "platform" && isSaid(value));
}

/** The first `${name}` of each parameter becomes its value. */
function substituted(text: string, values: ReadonlyMap<string, string>): string {
  let made = text;
  for (const [name, value] of values) made = made.replace(`\${${name}}`, () => value);
  return made;
}

// --- what comes through pipes ----------------------------------------------------------------------------------------

/** A value of a host page's pipe as a file of the job; null for what is none. */
export function toRef(value: unknown): DataRefLike | null {
  if (value === null || value === undefined) return null;
  if (typeof value === "string") return value.startsWith("data:") ? fromDataUrl(value) : { value, type: "utf8" };
  if (typeof value === "number" || typeof value === "bigint") return { value: String(value), type: "utf8" };
  if (typeof value === "boolean") return { value, type: "json" };
  if (typeof value !== "object") return null;
  if (value instanceof ArrayBuffer) return { value: toBase64(new Uint8Array(value)), type: "base64" };
  if (ArrayBuffer.isView(value)) {
    return { value: toBase64(new Uint8Array(value.buffer, value.byteOffset, value.byteLength)), type: "base64" };
  }
  const object = value as Record<string, unknown>;
  const isBinary = object._s === true || (object.ref === "base64" && typeof object.c === "string");
  if (isBinary && typeof object.value === "string") return { value: object.value, type: "base64" };
  return isRef(object) ? (object as unknown as DataRefLike) : { value: object, type: "json" };
}

function isRef(value: Record<string, unknown>): boolean {
  if (!(REF_TYPES as readonly unknown[]).includes(value.type)) return false;
  return value.type === "json"
    ? Boolean(value.value)
    : typeof value.value === "string" && (value.value !== "" || value.type === "utf8");
}

function fromDataUrl(text: string): DataRefLike {
  const comma = text.indexOf(",");
  if (comma < 0) return { value: text, type: "utf8" };
  const [kind = "", ...rest] = text.slice("data:".length, comma).split(";");
  const payload = text.slice(comma + 1);
  if (kind === "text/x-uri") return { value: decoded(payload), type: "url" };
  if (rest.includes("base64")) return { value: payload.includes("%") ? decoded(payload) : payload, type: "base64" };
  if (kind === "application/json") {
    try {
      return { value: JSON.parse(decoded(payload)), type: "json" };
    } catch {
      return { value: decoded(payload), type: "utf8" };
    }
  }
  return { value: decoded(payload), type: "utf8" };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function toBase64(bytes: Uint8Array): string {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 0x8000) binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(binary);
}

export function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

/** A name in the job's folder of inputs: one leading slash of a pipe's name is dropped. */
export function inputName(pipe: string): string {
  return pipe.startsWith("/") ? pipe.slice(1) : pipe;
}

// --- large values ----------------------------------------------------------------------------------------------------

type Upload = (
  data: Uint8Array<ArrayBuffer>,
  options: { signal: AbortSignal; onProgress: (sent: number) => void },
) => Promise<DataRef>;

export interface PlaceOptions {
  upload: Upload;
  signal: AbortSignal;
  /** Told of each upload as it goes on, and with null when it is over. */
  onProgress: (name: string, progress: { sent: number; size: number } | null) => void;
}

const MAPS = ["configFiles", "inputs"] as const;

/** Puts large inline values on the server. One for each server: addresses differ. */
export class Placer {
  #placed = new Map<string, DataRef>();

  /**
   * The definition with addresses in the place of large values.
   *
   * Errors: those of `upload`; what has been sent by then is not sent again.
   */
  async place(definition: Definition, options: PlaceOptions): Promise<Definition> {
    const made: Definition = { ...definition };
    const used = new Map<string, DataRef>();
    for (const map of MAPS) {
      const refs = definition[map];
      if (!refs || typeof refs !== "object") continue;
      const placed: Record<string, DataRef> = {};
      for (const [name, ref] of Object.entries(refs)) {
        const text = inlineText(ref);
        if (text === null || !isLarge(text)) {
          placed[name] = ref;
          continue;
        }
        const key = `${ref.type ?? "utf8"}:${text}`;
        const known = this.#placed.get(key) ?? (await this.#send(name, ref, text, options));
        options.signal.throwIfAborted();
        this.#placed.set(key, known);
        used.set(key, known);
        placed[name] = known;
      }
      made[map] = placed;
    }
    this.#placed = used; // values of older definitions are let go
    return made;
  }

  async #send(
    name: string,
    ref: DataRef,
    text: string,
    { upload, signal, onProgress }: PlaceOptions,
  ): Promise<DataRef> {
    const bytes = ref.type === "base64" ? fromBase64(text) : new TextEncoder().encode(text);
    const size = bytes.length;
    onProgress(name, { sent: 0, size });
    try {
      return await upload(bytes, { signal, onProgress: (sent) => onProgress(name, { sent, size }) });
    } finally {
      onProgress(name, null);
    }
  }
}

/** Does anything of it belong on the server, and not into the definition? */
export function hasLarge(definition: Definition): boolean {
  return MAPS.some((map) =>
    Object.values(definition[map] ?? {}).some((ref) => {
      const text = inlineText(ref);
      return text !== null && isLarge(text);
    }),
  );
}

/** What of a ref is written into the definition; null if it is an address already. */
function inlineText(ref: DataRef | null): string | null {
  if (!ref || typeof ref !== "object" || ref.type === "url" || ref.type === "key") return null;
  if (ref.type === "json") return JSON.stringify(ref.value) ?? null;
  return typeof ref.value === "string" ? ref.value : null;
}

/** Larger than the limit, counted in bytes of UTF-8. */
function isLarge(text: string): boolean {
  if (text.length > INLINE_MAX_CHARACTERS) return true;
  return text.length * 3 > INLINE_MAX_CHARACTERS && new TextEncoder().encode(text).length > INLINE_MAX_CHARACTERS;
}
