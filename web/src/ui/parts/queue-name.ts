/** Names of queues: which are names at all, which everybody knows, and how a new one is made. Pure. */

import type { Session } from "../model.ts";
import { whereOf } from "../where.ts";

/** What is wrong with a queue's name, and what to do; null if it is fine. Source: asman/identity.py, check_queue_name. */
export function queueNameFault(name: string): string | null {
  if (name === "." || name === "..") return `${name} stands for a folder in every address. Choose another name.`;
  const odd = [...new Set(name)].filter((c) => !/[A-Za-z0-9._~-]/.test(c));
  if (odd.length > 0)
    return `A queue's name has letters, digits and . _ ~ - only. Remove ${odd.map((c) => (/\s/.test(c) ? "the blanks" : c)).join(" ")}`;
  if (name.length > 128) return `The name has ${name.length} characters; at most 128 are allowed. Make it shorter.`;
  return name === "" ? "A queue is needed. Type its name, or make one." : null;
}

/** Where a queue is: the parameter of the link may be a name, `local`, or a whole address. */
export interface QueuePlace {
  server: string;
  name: string;
  isLocal: boolean;
}

/** Read the link's queue, for a page that comes from `origin`. */
export function queuePlace(queue: string, origin: string): QueuePlace {
  const { server, queue: name } = whereOf(queue, { origin });
  return { server: server || origin, name, isLocal: queue === "local" };
}

/** The queue as the link or the host page has it: what `session.queue` is the name of. */
export function queueText({ params }: Session): string {
  const isForced = Boolean(params.queueOverride.value) && !params.ignoreQueueOverride.value;
  return (isForced ? params.queueOverride.value : params.queue.value) ?? "";
}

/** What is wrong with what was typed as a queue: a name, or the address of one. */
export function queueFault(queue: string, origin: string): string | null {
  const place = queuePlace(queue, origin);
  if (queue.includes("://") && (place.name === queue || !URL.canParse(queue)))
    return "This is no address of a queue. Write https://server/q/NAME.";
  return queueNameFault(place.name);
}

/** Queues that everybody knows: anybody sees their jobs, and anybody's worker may take them. */
export function isPublicQueue(name: string): boolean {
  return /^public/i.test(name);
}

/** Names that are no key. All others are hidden wherever the page shows them, until somebody asks. */
export function isOpenQueue(queue: string): boolean {
  return queue === "local" || isPublicQueue(queuePlace(queue, "").name);
}

/** Enough of a name to know it again; of an address all but the name. */
export function maskQueue(queue: string): string {
  const start = queue.includes("://") ? queue.lastIndexOf("/") + 1 : 0;
  const name = queue.slice(start);
  return queue.slice(0, start) + (name.length <= 6 ? "••••••" : `${name.slice(0, 3)}••••`);
}

const LETTERS = "abcdefghijkmnpqrstuvwxyz23456789";

/** A name that nobody can guess: 24 of 32 letters are 120 bits. No letter looks like another one. */
export function newQueueName(random: (bytes: Uint8Array<ArrayBuffer>) => Uint8Array = fillRandom): string {
  const letters = Array.from(random(new Uint8Array(24)), (byte) => LETTERS[byte % LETTERS.length]).join("");
  return (letters.match(/.{6}/g) ?? []).join("-");
}

function fillRandom(bytes: Uint8Array<ArrayBuffer>): Uint8Array {
  return crypto.getRandomValues(bytes);
}
