/**
 * Image and command of listed jobs, which their records do not carry: fetched for the rows on screen only, once per
 * job, a few at a time, and kept as two short texts.
 */

import { type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { Client } from "../../client.ts";
import { AsmanError } from "../../errors.ts";
import { type What, whatOf } from "./queue-words.ts";

const AT_A_TIME = 4;
const KEPT_MAX = 5_000;

/** Undefined: not fetched yet. Null: the server knows no definition of this job (any more). */
export type Known = What | null | undefined;

export class Definitions {
  /** Changes when any has come. */
  readonly version: Signal<number> = signal(0);
  readonly #client: Client;
  readonly #queue: string;
  readonly #known = new Map<string, Signal<Known>>();
  readonly #wanted = new Set<string>();
  readonly #asking = new Set<string>();

  constructor(client: Client, queue: string) {
    this.#client = client;
    this.#queue = queue;
  }

  of(jobId: string): ReadonlySignal<Known> {
    return this.#of(jobId);
  }

  #of(jobId: string): Signal<Known> {
    let known = this.#known.get(jobId);
    if (!known) {
      known = signal<Known>(undefined);
      this.#known.set(jobId, known);
    }
    return known;
  }

  /** What is known now, without waiting for it. */
  get(jobId: string): Known {
    return this.#known.get(jobId)?.peek();
  }

  want(jobId: string): void {
    if (this.get(jobId) !== undefined || this.#asking.has(jobId)) return;
    this.#wanted.add(jobId);
    this.#next();
  }

  /** It is not on screen any more. */
  leave(jobId: string): void {
    this.#wanted.delete(jobId);
  }

  #next(): void {
    for (const jobId of this.#wanted) {
      if (this.#asking.size >= AT_A_TIME) return;
      this.#wanted.delete(jobId);
      this.#asking.add(jobId);
      void this.#ask(jobId).finally(() => {
        this.#asking.delete(jobId);
        this.#next();
      });
    }
  }

  async #ask(jobId: string): Promise<void> {
    try {
      const definition = await this.#client.definition(jobId, { queue: this.#queue });
      this.#keep(jobId, definition ? whatOf(definition) : null);
    } catch (error) {
      if (error instanceof AsmanError && !error.isTemporary) this.#keep(jobId, null);
    }
  }

  #keep(jobId: string, what: What | null): void {
    this.#of(jobId).value = what;
    for (const old of this.#known.keys()) {
      if (this.#known.size <= KEPT_MAX) break;
      this.#known.delete(old);
    }
    this.version.value++;
  }
}

let last: { client: Client; queue: string; definitions: Definitions } | null = null;

/** Those of one queue; panel and page share them. */
export function definitionsOf(client: Client, queue: string): Definitions {
  if (last?.client !== client || last.queue !== queue)
    last = { client, queue, definitions: new Definitions(client, queue) };
  return last.definitions;
}
