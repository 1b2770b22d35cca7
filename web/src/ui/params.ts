/**
 * The parameters of the link as signals: reading one reads the hash, setting one rewrites it.
 *
 * A write replaces the history entry and fires `hashchange`, as hosts and the published client expect. A parameter that
 * cannot be read is reported and left in the link as it is, so that nothing of it is lost by editing another one.
 *
 * In a frame the queue is a secret of this origin: one that is chosen in the frame is kept in this origin's storage and
 * never enters the hash, which is reported to the host page. The host's own value stays in the hash.
 */

import { batch, computed, effect, type ReadonlySignal, type Signal, signal, untracked } from "@preact/signals";
import type { Definition } from "../contract.ts";
import { isInjectedEnv } from "../identity.ts";
import { encodeJson, parseHash, readJson, readText, withParameter } from "./hash.ts";
import type { LinkProblem, Params } from "./model.ts";

/** Names with a meaning to the page. None of them is an environment variable. */
export const PAGE_PARAMETERS: ReadonlySet<string> = new Set([
  "allowsetjob",
  "autostart",
  "config",
  "control",
  "debug",
  "definition",
  "ignoreQueueOverride",
  "inputs",
  "job",
  "maxJobDuration",
  "queue",
  "queueOverride",
  "resolverefs",
  "terminal",
]);

/** What the parameters need of a window. */
export interface Place {
  readonly location: { hash: string; pathname: string; search: string };
  readonly history: { replaceState(data: unknown, unused: string, url: string): void };
  readonly localStorage: Pick<Storage, "getItem" | "setItem" | "removeItem">;
  readonly name: string;
  readonly HashChangeEvent: typeof HashChangeEvent;
  addEventListener(kind: string, listener: () => void): void;
  removeEventListener(kind: string, listener: () => void): void;
  dispatchEvent(event: Event): boolean;
}

export interface LinkParams extends Params {
  problems: ReadonlySignal<readonly LinkProblem[]>;
  /** The hash as it is now, with `#`. */
  hash: ReadonlySignal<string>;
  /** A self-contained link of this job: the hash with the chosen queue in it, for sharing. */
  link(): string;
  dispose(): void;
}

export interface LinkOptions {
  isFramed?: boolean;
  /** The path below which the page is reached, without a slash at its end. */
  base?: string;
  /** The job of the page's address, if it is one of a job: it stands for `job` and `inputs`. An edit leaves that page. */
  stored?: ReadonlySignal<Definition | null>;
}

/** Names that an edit of the job goes to: on the page of a job they lead to a link of their own. */
const EDITS: ReadonlySet<string> = new Set(["job", "inputs", "maxJobDuration"]);

export function linkParams(
  place: Place,
  { isFramed = false, base = "", stored = signal(null) }: LinkOptions = {},
): LinkParams {
  const page = computed(() => (stored.value ? taken(stored.value) : null));
  const hash = signal(place.location.hash);
  const values = computed(() => parseHash(hash.value).values);
  const faults = new Map<string, ReadonlySignal<LinkProblem | null>>();
  const stops: (() => void)[] = [];

  const write = (name: string, value: string | undefined) => {
    const before = parseHash(place.location.hash).values.get(name);
    const isLeaving = EDITS.has(name) && page.peek() !== null;
    if (!isLeaving && (before === undefined ? undefined : readText(before)) === value) return;
    let next = place.location.hash;
    if (isLeaving) {
      for (const part of ["job", "inputs"] as const) {
        const kept = page.peek()?.[part];
        next = withParameter(next, part, kept && encodeJson(kept));
      }
    }
    const path = isLeaving ? `${base}/` : place.location.pathname;
    place.history.replaceState(null, "", `${path}${place.location.search}${withParameter(next, name, value)}`);
    batch(() => place.dispatchEvent(new place.HashChangeEvent("hashchange")));
  };

  /** A signal that is the parameter: changes of the link set it, setting it changes the link. */
  function parameter<T>(
    name: string,
    read: (text: string | undefined) => { value: T; problem?: LinkProblem | null },
    show: (value: T) => string | undefined,
    store: (text: string | undefined) => void = (text) => write(name, text),
  ): Signal<T> {
    const text = computed(() => values.value.get(name));
    const meant = computed(() => read(text.value));
    faults.set(
      name,
      computed(() => meant.value.problem ?? null),
    );
    const value = signal(meant.peek().value);
    let last = value.peek(); // as it was read or written: an effect of our own reading must write nothing
    stops.push(
      effect(() => {
        last = meant.value.value;
        value.value = last;
      }),
      effect(() => {
        const wanted = value.value;
        if (wanted === last) return;
        last = wanted;
        untracked(() => store(show(wanted)));
      }),
    );
    return value;
  }

  const text = (name: string, store?: (text: string | undefined) => void) =>
    parameter<string | undefined>(
      name,
      (raw) => ({ value: raw === undefined ? undefined : readText(raw) }),
      (value) => value || undefined,
      store,
    );
  const flag = (name: string) =>
    parameter(
      name,
      (raw) => ({ value: raw !== undefined && readText(raw) === "true" }),
      (value) => (value ? "true" : undefined),
    );
  const object = <T extends object>(name: string, check: (value: object) => string = () => "") =>
    parameter<T | undefined>(
      name,
      (raw) => {
        if (page.value && (name === "job" || name === "inputs")) return { value: page.value[name] as T | undefined };
        if (!raw) return { value: undefined };
        const read = readJson(raw);
        const fault = "fault" in read ? read.fault : objectFault(read.value) || check(read.value as object);
        if (fault) return { value: undefined, problem: problem(name, fault) };
        return { value: (read as { value: T }).value };
      },
      (value) => (value === undefined ? undefined : encodeJson(value)),
    );

  const params = {
    job: object<Definition>("job"),
    inputs: object<Record<string, string>>("inputs", (files) =>
      Object.values(files).every((file) => typeof file === "string") ? "" : "a file in it is not text",
    ),
    queue: isFramed ? framedQueue(place, parameter, values) : text("queue"),
    queueOverride: text("queueOverride", isFramed ? () => {} : undefined),
    ignoreQueueOverride: flag("ignoreQueueOverride"),
    control: object<Record<string, unknown>>("control"),
    autostart: flag("autostart"),
    allowsetjob: flag("allowsetjob"),
    resolverefs: flag("resolverefs"),
    terminal: flag("terminal"),
    debug: flag("debug"),
    maxJobDuration: text("maxJobDuration"),
    definition: object<Record<string, unknown>>("definition"),
  };

  const other = computed(() => {
    const kept = new Map<string, string>();
    for (const [key, value] of values.value) {
      if (!PAGE_PARAMETERS.has(key) && !isInjectedEnv(key)) kept.set(key, readText(value));
    }
    return kept;
  });

  const reread = () => {
    hash.value = place.location.hash;
  };
  place.addEventListener("hashchange", reread);
  place.addEventListener("popstate", reread);

  return {
    ...params,
    other,
    hash,
    problems: computed(() => [...faults.values()].flatMap((fault) => fault.value ?? [])),
    link: () => withParameter(place.location.hash, "queue", params.queue.peek()),
    dispose: () => {
      place.removeEventListener("hashchange", reread);
      place.removeEventListener("popstate", reread);
      for (const stop of stops) stop();
    },
  };
}

/** A stored job as the parameters of a link: its mounted texts are the files that can be edited. */
function taken(definition: Definition): { job: Definition; inputs: Record<string, string> | undefined } {
  const { configFiles, ...job } = definition;
  const files = Object.entries(configFiles ?? {});
  const isText = files.every(([, ref]) => (ref?.type ?? "utf8") === "utf8" && typeof ref?.value === "string");
  if (!files.length || !isText) return { job: definition, inputs: undefined };
  return { job, inputs: Object.fromEntries(files.map(([name, ref]) => [name, String(ref.value)])) };
}

function objectFault(value: unknown): string {
  return value !== null && typeof value === "object" && !Array.isArray(value) ? "" : "it is not an object";
}

function problem(parameter: string, fault: string): LinkProblem {
  return {
    parameter,
    text: `The parameter “${parameter}” of the link cannot be read: ${fault}.`,
    hint: "Copy the link once more, as a whole: it may have been cut off. Everything else in it is used.",
  };
}

type Parameter = <T>(
  name: string,
  read: (text: string | undefined) => { value: T; problem?: LinkProblem | null },
  show: (value: T) => string | undefined,
  store?: (text: string | undefined) => void,
) => Signal<T>;

/** The queue in a frame: what was chosen here for what the host gave, else what the host gave. */
function framedQueue(
  place: Place,
  parameter: Parameter,
  values: ReadonlySignal<ReadonlyMap<string, string>>,
): Signal<string | undefined> {
  const key = `asman-frame-queue:${place.name}`;
  const given = () => `${values.peek().get("queue") ?? ""}&${values.peek().get("queueOverride") ?? ""}`;
  const chosen = (): string | undefined => {
    try {
      const kept: unknown = JSON.parse(place.localStorage.getItem(key) ?? "null");
      if (Array.isArray(kept) && kept[0] === given() && typeof kept[1] === "string") return kept[1];
    } catch {
      // storage is denied, or holds something else
    }
    return undefined;
  };
  return parameter<string | undefined>(
    "queue",
    (raw) => {
      const host = raw === undefined ? undefined : readText(raw);
      const own = chosen();
      return { value: own === undefined ? host : own || undefined };
    },
    (value) => value,
    (value) => {
      const host = values.peek().get("queue");
      try {
        if ((value ?? "") === (host === undefined ? "" : readText(host))) place.localStorage.removeItem(key);
        else place.localStorage.setItem(key, JSON.stringify([given(), value ?? ""]));
      } catch {
        // the choice lasts as long as the frame
      }
    },
  );
}
