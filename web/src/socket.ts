/**
 * The socket of a queue: its jobs and workers as they change, and log lines as they come.
 *
 * It opens itself, and opens again for as long as nobody closes it. It pings whether or not the server ever answered a
 * ping; whatever the server sends counts as a sign of life. Submits, cancels and deletes do not go through it: over HTTP
 * they are answered.
 *
 * Source: published socket protocol.
 */

import type { ClientFrame, ErrorFrame, JobRecord, LogsFrame, WorkerRecord } from "./contract.ts";

/** `reconnecting`: it will try again by itself. `offline`: likewise, and the browser says that it has no network. */
export type SocketState = "connecting" | "connected" | "reconnecting" | "offline";

export interface QueueSocketOptions {
  /** As `socketUrl` makes it. */
  url: string;
  /**
   * All jobs that are known. `isWhole`: this is the queue, and what is missing has left it; else only the jobs of
   * `changed` are news. Those may show how a job left the queue (cancelled, deleted); the next whole list lacks them.
   */
  onJobs(jobs: ReadonlyMap<string, JobRecord>, isWhole: boolean, changed: ReadonlyMap<string, JobRecord>): void;
  onWorkers?(workers: WorkerRecord[]): void;
  /** Lines as the worker sent them. Not replayed after a reconnect: the stream of a job has all of them. */
  onLogs?(lines: LogsFrame["payload"]): void;
  onConnection?(state: SocketState, retryInMs: number | null): void;
  /** The server refused a frame. */
  onError?(error: ErrorFrame["payload"]): void;
  /** For runtimes without a `WebSocket` of their own, and tests. */
  WebSocket?: new (
    url: string,
  ) => WebSocket;
  /** Where `online` and `offline` are told; default the window (or worker), where there is one. */
  network?: Pick<EventTarget, "addEventListener" | "removeEventListener"> | null;
}

const PING_EVERY_MS = 5_000;
const ANSWER_WITHIN_MS = 10_000;
const OPEN_WITHIN_MS = 15_000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;
const OPEN = 1;

type Timer = ReturnType<typeof setTimeout>;

export class QueueSocket {
  readonly url: string;
  readonly #options: QueueSocketOptions;
  readonly #network: QueueSocketOptions["network"];
  readonly #jobs = new Map<string, JobRecord>();
  #socket: WebSocket | null = null;
  #state: SocketState = "connecting";
  #failures = 0;
  #isClosed = false;
  #isOffline = false;
  #retry: Timer | undefined;
  #ping: Timer | undefined;
  #deadline: Timer | undefined;

  constructor(options: QueueSocketOptions) {
    this.url = options.url;
    this.#options = options;
    // A server on this machine needs no network.
    this.#network = isLoopback(options.url) ? null : options.network === undefined ? ownNetwork() : options.network;
    this.#network?.addEventListener("online", this.#online);
    this.#network?.addEventListener("offline", this.#offline);
    this.#isOffline = this.#network === globalThis && globalThis.navigator?.onLine === false;
    this.#tell(this.#isOffline ? "offline" : "connecting", null);
    this.#open();
  }

  get state(): SocketState {
    return this.#state;
  }

  /** False: there is no connection and it was not sent. */
  send(frame: ClientFrame): boolean {
    if (this.#socket?.readyState !== OPEN) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  /** For good; nothing is told afterwards. */
  close(): void {
    this.#isClosed = true;
    this.#network?.removeEventListener("online", this.#online);
    this.#network?.removeEventListener("offline", this.#offline);
    this.#drop();
  }

  // --- the connection ------------------------------------------------------------------------------------------------

  #open(): void {
    this.#drop();
    let socket: WebSocket;
    try {
      socket = new (this.#options.WebSocket ?? WebSocket)(this.url);
    } catch (error) {
      if (error instanceof DOMException && error.name === "SyntaxError") throw error; // no address: trying is no use
      this.#lost();
      return;
    }
    this.#socket = socket;
    this.#deadline = setTimeout(() => this.#lost(), OPEN_WITHIN_MS);
    const isOurs = () => this.#socket === socket;
    socket.onopen = () => {
      if (!isOurs()) return;
      this.#tell("connected", null);
      this.#sendPing();
    };
    socket.onmessage = (event: MessageEvent) => {
      if (isOurs()) this.#heard(event.data);
    };
    socket.onclose = () => {
      if (isOurs()) this.#lost();
    };
    socket.onerror = () => {}; // a close follows
  }

  /** Let go of the connection, if there is one, without trying again. */
  #drop(): void {
    for (const timer of [this.#retry, this.#ping, this.#deadline]) clearTimeout(timer);
    this.#ping = this.#deadline = this.#retry = undefined;
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }

  #lost(): void {
    this.#drop();
    if (this.#isClosed) return;
    const whole = Math.min(FIRST_PAUSE_MS * 2 ** this.#failures, LONGEST_PAUSE_MS);
    const pauseMs = Math.round(whole * (0.5 + Math.random() / 2));
    this.#failures += 1;
    this.#retry = setTimeout(() => this.#open(), pauseMs);
    this.#tell(this.#isOffline ? "offline" : "reconnecting", pauseMs);
  }

  /** What the browser says may be wrong (a server in the own network), so it is tried all the same. */
  #offline = (): void => {
    this.#isOffline = true;
    this.#lost();
  };

  #online = (): void => {
    this.#isOffline = false;
    if (this.#state === "connected") return;
    this.#failures = 0;
    this.#tell("reconnecting", 0);
    this.#open();
  };

  #tell(state: SocketState, retryInMs: number | null): void {
    this.#state = state;
    this.#options.onConnection?.(state, retryInMs);
  }

  // --- signs of life -------------------------------------------------------------------------------------------------

  #sendPing(): void {
    this.#ping = undefined;
    this.#socket?.send("PING");
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.#lost(), ANSWER_WITHIN_MS);
  }

  #heard(data: unknown): void {
    this.#failures = 0;
    clearTimeout(this.#deadline);
    this.#deadline = undefined;
    this.#ping ??= setTimeout(() => this.#sendPing(), PING_EVERY_MS);
    if (typeof data === "string" && data.startsWith("{")) this.#read(data);
  }

  // --- frames --------------------------------------------------------------------------------------------------------

  #read(text: string): void {
    let frame: { type?: unknown; payload?: Record<string, unknown> | null };
    try {
      frame = JSON.parse(text);
    } catch {
      return;
    }
    const payload = frame.payload;
    if (typeof payload !== "object" || payload === null) return;
    switch (frame.type) {
      case "JobStates":
      case "JobStateUpdates":
        this.#readJobs(payload, frame.type === "JobStates" && payload.isSubset !== true);
        break;
      case "Workers":
        if (Array.isArray(payload.workers)) this.#options.onWorkers?.(payload.workers);
        break;
      case "JobStatusPayload":
        if (typeof payload.jobId === "string" && Array.isArray(payload.logs)) {
          this.#options.onLogs?.(payload as unknown as LogsFrame["payload"]);
        }
        break;
      case "Error":
        this.#options.onError?.(payload as unknown as ErrorFrame["payload"]);
    }
  }

  #readJobs(payload: Record<string, unknown>, isWhole: boolean): void {
    const shown = (payload.state as { jobs?: unknown } | undefined)?.jobs;
    if (typeof shown !== "object" || shown === null) return;
    const changed = new Map(Object.entries(shown as Record<string, JobRecord>));
    if (isWhole) this.#jobs.clear();
    for (const [jobId, record] of changed) this.#jobs.set(jobId, record);
    this.#options.onJobs(new Map(this.#jobs), isWhole, changed);
  }
}

/** Where the socket of a queue is. `server` empty: where the page came from. */
export function socketUrl(server: string, queue: string): string {
  const base = server || globalThis.location?.origin;
  return `${base.replace(/^http/, "ws")}/q/${encodeURIComponent(queue)}/client`;
}

function isLoopback(url: string): boolean {
  return /^wss?:\/\/(localhost|127\.\d+\.\d+\.\d+|\[::1\])([:/]|$)/.test(url);
}

/** Both, as a browser has them: Node has neither the events nor a reason to look for them. */
function ownNetwork(): QueueSocketOptions["network"] {
  return typeof globalThis.addEventListener === "function" ? globalThis : null;
}
