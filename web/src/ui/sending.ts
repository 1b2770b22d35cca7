/**
 * Submits, sent once: each is written down first, so that one made offline, or cut off by a reload, is sent when the
 * connection is back.
 *
 * The server makes repeating harmless, because a job's id is made from its content. Only running a finished job anew
 * takes more: its result is dropped first, and only the very result (its generation) that was there when that was asked.
 */

import { type ReadonlySignal, signal } from "@preact/signals";
import type { Client } from "../client.ts";
import { ANY_NAMESPACE } from "../contract.gen.ts";
import type { Submitted } from "../contract.ts";
import { AsmanError } from "../errors.ts";
import type { Pending, Store } from "./store.ts";

const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 15_000;

export type Submitting = "no" | "sending" | "waits-for-connection";

export interface SendingOptions {
  store: Store;
  clientAt: (server: string) => Client;
  /** May this server be used by itself, without a step of a person? */
  mayUse: (server: string) => boolean;
  isOnline: () => boolean;
  onSent: (pending: Pending, answer: Submitted) => void;
  onRefused: (pending: Pending, error: unknown) => void;
}

export class Sending {
  readonly #options: SendingOptions;
  readonly #state = signal<Submitting>("no");
  readonly state: ReadonlySignal<Submitting> = this.#state;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #failures = 0;
  #isDisposed = false;
  #own = new Set<string>();
  #sending: Promise<void> | null = null;

  constructor(options: SendingOptions) {
    this.#options = options;
  }

  /** Answers when it has been sent, refused, or is known to wait for the connection. */
  async send(pending: Omit<Pending, "key" | "at" | "claimedUntil">): Promise<void> {
    this.#state.value = "sending";
    this.#own.add(await this.#options.store.enqueue(pending));
    await this.flush();
  }

  /** A waiting submit is not wanted any more. */
  async drop(key: string): Promise<boolean> {
    if (this.#state.value !== "waits-for-connection" || !this.#own.delete(key)) return false;
    await this.#options.store.settle(key);
    this.#state.value = this.#own.size ? "waits-for-connection" : "no";
    return true;
  }

  /** Send what waits: at the start, when the connection is back, and by and by. */
  async flush(): Promise<void> {
    while (this.#sending) await this.#sending;
    this.#sending = this.#flush();
    try {
      await this.#sending;
    } finally {
      this.#sending = null;
    }
  }

  dispose(): void {
    this.#isDisposed = true;
    clearTimeout(this.#timer);
  }

  async #flush(): Promise<void> {
    clearTimeout(this.#timer);
    let isStuck = false;
    let claimed = Number.POSITIVE_INFINITY;
    for (const waiting of await this.#options.store.waiting()) {
      if (this.#isDisposed) return;
      if (!this.#options.mayUse(waiting.server) && !this.#own.has(waiting.key)) continue;
      if (waiting.claimedUntil > Date.now()) {
        claimed = Math.min(claimed, waiting.claimedUntil); // another page is at it, or has died over it
        this.#own.delete(waiting.key);
      } else if (!(await this.#one(waiting.key))) isStuck = true;
    }
    this.#failures = isStuck ? this.#failures + 1 : 0;
    const pause = Math.min(FIRST_PAUSE_MS * 2 ** (this.#failures - 1), LONGEST_PAUSE_MS);
    const next = isStuck ? pause : claimed - Date.now() + 1;
    if (!this.#isDisposed && Number.isFinite(next)) this.#timer = setTimeout(() => void this.flush(), next);
    this.#state.value = this.#own.size ? "waits-for-connection" : "no";
  }

  /** False: it waits on. */
  async #one(key: string): Promise<boolean> {
    const { store, clientAt, isOnline, onSent, onRefused } = this.#options;
    if (!isOnline()) return false;
    const pending = await store.claim(key);
    if (!pending) {
      this.#own.delete(key); // another page is at it
      return true;
    }
    try {
      const answer = await submit(clientAt(pending.server), pending);
      await store.settle(key);
      this.#own.delete(key);
      if (!this.#isDisposed) onSent(pending, answer);
      return true;
    } catch (error) {
      if (error instanceof AsmanError && error.isTemporary) {
        await store.release(key);
        this.#own.add(key);
        return false;
      }
      await store.settle(key);
      this.#own.delete(key);
      if (!this.#isDisposed) onRefused(pending, error);
      return true;
    }
  }
}

async function submit(client: Client, pending: Pending): Promise<Submitted> {
  const { queue, jobId, definition, control, debug, drops } = pending;
  if (drops !== null) await drop(client, queue, jobId, drops);
  return client.submit(queue, definition, { id: jobId, control, debug });
}

/** Drop the result of this generation; one that is newer stays, somebody was quicker. */
async function drop(client: Client, queue: string, jobId: string, generation: number): Promise<void> {
  try {
    const { record } = await client.job(queue, jobId);
    const isOver = record.state === "Finished" || record.state === "Removed";
    if (isOver && record.generation === generation) await client.remove(queue, jobId, { namespace: ANY_NAMESPACE });
  } catch (error) {
    const isGone =
      error instanceof AsmanError && (error.status === 404 || error.status === 410 || error.status === 409);
    if (!isGone) throw error;
  }
}
