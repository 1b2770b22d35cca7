/**
 * The page as a metaframe: inputs from the host page, outputs and changes of the link to it.
 *
 * A reader and writer of our own of the wire protocol. The published library reports the whole hash and listens to
 * whoever has the right ids; here messages come from and go to the parent window only, and what the hash holds is the
 * caller's to say.
 *
 * Source: published web client, "Wire protocol" and "Value formats in pipes".
 */

import { inputName, toRef } from "./assembly.ts";
import type { DataRefLike } from "./model.ts";

/** The version of the protocol that is spoken. */
const VERSION = "2";

/** What the protocol needs of a window. */
export interface FrameWindow {
  readonly parent: { postMessage(message: unknown, target: string): void };
  readonly name: string;
  addEventListener(kind: "message", listener: (event: MessageEvent) => void): void;
  removeEventListener(kind: "message", listener: (event: MessageEvent) => void): void;
}

interface Message {
  jsonrpc?: unknown;
  method?: unknown;
  params?: unknown;
  iframeId?: unknown;
  parentId?: unknown;
}

export type Inputs = Readonly<Record<string, unknown>>;

export class Metaframe {
  readonly #window: FrameWindow;
  readonly #onInputs: (changed: Inputs) => void;
  #parentId: unknown;
  #isConnected = false;
  #sent = 0;
  #outputs: Record<string, unknown> = {};
  #hash: string | null = null;

  /** `onInputs` is told what has changed, binary values as buffers of bytes or as their text forms. */
  constructor(window: FrameWindow, onInputs: (changed: Inputs) => void) {
    this.#window = window;
    this.#onInputs = onInputs;
    window.addEventListener("message", this.#receive);
    this.#send("SetupIframeClientRequest", { version: VERSION });
  }

  get isConnected(): boolean {
    return this.#isConnected;
  }

  /** Send outputs; until the host has answered they wait. */
  setOutputs(outputs: Inputs): void {
    this.#outputs = { ...this.#outputs, ...outputs };
    if (this.#isConnected) this.#send("OutputsUpdate", outputs);
  }

  /** Tell the host that the link of this frame has changed. */
  reportHash(hash: string): void {
    if (hash === this.#hash) return;
    this.#hash = hash;
    this.#send("HashParamsUpdate", { hash, metaframe: this.#window.name });
  }

  dispose(): void {
    this.#window.removeEventListener("message", this.#receive);
  }

  #send(method: string, params: unknown): void {
    const message = {
      jsonrpc: "2.0",
      id: ++this.#sent,
      method,
      params,
      iframeId: this.#window.name,
      parentId: this.#parentId,
    };
    this.#window.parent.postMessage(message, "*"); // the parent's origin is not known before it has answered
  }

  #receive = (event: MessageEvent): void => {
    if (event.source !== this.#window.parent || typeof event.data !== "object" || event.data === null) return;
    const { jsonrpc, method, params, iframeId, parentId } = event.data as Message;
    if (jsonrpc !== "2.0") return;
    if (method === "SetupIframeServerResponse") this.#connect(object(params));
    else if (
      method === "InputsUpdate" &&
      this.#isConnected &&
      parentId === this.#parentId &&
      iframeId === this.#window.name
    ) {
      this.#take(object(object(params).inputs));
    }
  };

  #connect(params: Record<string, unknown>): void {
    if (this.#isConnected) return;
    this.#parentId = params.parentId;
    this.#isConnected = true;
    this.#send("SetupIframeServerResponseAck", { version: VERSION });
    this.#take(object(object(params.state).inputs));
    this.#send("OutputsUpdate", this.#outputs);
  }

  #take(inputs: Record<string, unknown>): void {
    if (Object.keys(inputs).length) this.#onInputs(inputs);
  }
}

function object(value: unknown): Record<string, unknown> {
  return value !== null && typeof value === "object" ? (value as Record<string, unknown>) : {};
}

/** Pipes that replace the job, if the link allows that. */
export const JOB_PIPES: readonly string[] = ["job", "metaframe/job"];

/** What arrived, as files of a job: a name with null is gone. Blobs of hosts that do not serialise are read. */
export async function refsOf(inputs: Inputs): Promise<Map<string, DataRefLike | null>> {
  const refs = new Map<string, DataRefLike | null>();
  for (const [name, value] of Object.entries(inputs)) {
    if (!JOB_PIPES.includes(name))
      refs.set(inputName(name), toRef(value instanceof Blob ? await value.arrayBuffer() : value));
  }
  return refs;
}
