/**
 * Changes of the link, made one by one, each of which can be taken back.
 *
 * An edit is what it changed: the parameters and their values before. Taking one back leaves the rest of the link alone,
 * whatever has changed it since.
 */

import { computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { Definition, Params, Session } from "../model.ts";
import { isObject } from "./validate.ts";

type Name = Exclude<keyof Params, "other">;

interface Edit {
  /** Edits of one key that follow each other soon are one. */
  key: string;
  label: string;
  before: Map<Name, unknown>;
  time: number;
}

const NAMES: readonly Name[] = [
  "job",
  "inputs",
  "control",
  "definition",
  "maxJobDuration",
  "autostart",
  "allowsetjob",
  "resolverefs",
  "terminal",
  "debug",
];
const MOST_EDITS = 50;
const SAME_EDIT_MS = 4000;

export class Edits {
  readonly params: Params;
  /** Fields with text that is not in the link yet. */
  readonly pending = signal<ReadonlySet<string>>(new Set());
  /** Has anything been written since the page was opened? */
  readonly hasSaved = signal(false);
  /** What `undo` would take back; null if there is nothing. */
  readonly undoable: ReadonlySignal<string | null>;
  private readonly edits = signal<readonly Edit[]>([]);

  constructor(params: Params) {
    this.params = params;
    this.undoable = computed(() => this.edits.value.at(-1)?.label ?? null);
  }

  /** Write to the link; `key` says which field it is, `label` what it is called. */
  change(key: string, label: string, write: () => void): void {
    const before = this.snapshot();
    write();
    const after = this.snapshot();
    const changed = new Map([...before].filter(([name, value]) => !isSame(value, after.get(name))));
    this.hasSaved.value = true;
    if (changed.size === 0) return;
    const last = this.edits.value.at(-1);
    const now = Date.now();
    const isSameEdit = last?.key === key && now - last.time < SAME_EDIT_MS;
    const edit = { key, label, before: isSameEdit ? new Map([...changed, ...last.before]) : changed, time: now };
    this.edits.value = [...this.edits.value.slice(0, isSameEdit ? -1 : undefined), edit].slice(-MOST_EDITS);
  }

  undo(): void {
    const last = this.edits.value.at(-1);
    if (!last) return;
    this.edits.value = this.edits.value.slice(0, -1);
    for (const [name, value] of last.before) this.signalOf(name).value = value;
  }

  /** Change the definition of the link. Members that become empty are left out. */
  changeJob(key: string, label: string, path: readonly string[], value: unknown): void {
    this.change(key, label, () => this.setJob(path, value));
  }

  /** As a part of a larger change. */
  setJob(path: readonly string[], value: unknown): void {
    const next = withMember((this.params.job.peek() ?? {}) as Record<string, unknown>, path, value);
    this.params.job.value = Object.keys(next).length > 0 ? (next as Definition) : undefined;
  }

  setPending(key: string, isPending: boolean): void {
    if (this.pending.peek().has(key) === isPending) return;
    const next = new Set(this.pending.peek());
    if (isPending) next.add(key);
    else next.delete(key);
    this.pending.value = next;
  }

  private snapshot(): Map<Name, unknown> {
    return new Map(NAMES.map((name) => [name, this.signalOf(name).peek()]));
  }

  private signalOf(name: Name): Signal<unknown> {
    return this.params[name] as Signal<unknown>;
  }
}

const EDITS = new WeakMap<Params, Edits>();

/** The edits of a session: they outlive the panel. */
export function editsOf({ params }: Session): Edits {
  let edits = EDITS.get(params);
  if (!edits) {
    edits = new Edits(params);
    EDITS.set(params, edits);
  }
  return edits;
}

/** A copy with one member set, or left out if the value is undefined or empty; objects that become empty go too. */
export function withMember(
  owner: Record<string, unknown>,
  [name, ...rest]: readonly string[],
  value: unknown,
): Record<string, unknown> {
  if (name === undefined) return owner;
  const inner = isObject(owner[name]) ? owner[name] : {};
  const next = rest.length > 0 ? withMember(inner, rest, value) : value;
  const isEmpty = next === undefined || next === "" || (isObject(next) && Object.keys(next).length === 0);
  const { [name]: _, ...others } = owner;
  return isEmpty ? others : { ...owner, [name]: next };
}

function isSame(a: unknown, b: unknown): boolean {
  return a === b || JSON.stringify(a) === JSON.stringify(b);
}
