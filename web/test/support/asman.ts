/** A real server as a process of its own, and a worker that speaks protocol 2 and does what a test tells it. */

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { WebSocket } from "ws";

const COMMAND = process.env.ASMAN_COMMAND ?? "asman";

/** Why the tests with a server cannot run here; empty where they can. In CI they run or fail. */
export function missing(): string {
  const found = spawnSync(COMMAND, ["--help"], { stdio: "ignore" });
  if (found.status === 0) return "";
  const reason = `"${COMMAND}" does not run here; name the command in ASMAN_COMMAND`;
  if (process.env.CI) throw new Error(reason);
  console.warn(`skipped: ${reason}`);
  return reason;
}

export class Served {
  url = "";
  #process: ChildProcess | null = null;
  readonly #folder = mkdtempSync(join(tmpdir(), "asman-web-"));
  readonly #options: string[];

  constructor(...options: string[]) {
    this.#options = options;
  }

  /** At a free port, or again at the same one. */
  async start(): Promise<this> {
    const port = this.url ? new URL(this.url).port : "0";
    const kept = Object.entries(process.env).filter(([name]) => !name.startsWith("ASMAN_"));
    const child = spawn(COMMAND, ["serve", "--port", port, "--data", this.#folder, ...this.#options], {
      cwd: this.#folder,
      env: { ...Object.fromEntries(kept), PYTHONUNBUFFERED: "1" },
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.#process = child;
    let said = "";
    this.url = await new Promise<string>((resolve, reject) => {
      child.stderr?.setEncoding("utf8").on("data", (text: string) => {
        said += text;
        const found = /^asman serves (\S+)/m.exec(said);
        if (found?.[1]) resolve(found[1]);
      });
      child.once("exit", (code) => reject(new Error(`the server ended with ${code}: ${said}`)));
    });
    return this;
  }

  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    const child = this.#process;
    this.#process = null;
    if (!child || child.exitCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill(signal);
    await ended;
  }

  async end(): Promise<void> {
    await this.stop("SIGKILL");
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

export interface Assigned {
  jobId: string;
  attempt: number;
  definition: Record<string, unknown>;
}

/** What a container does, told step by step by the test. */
export interface Container {
  assigned: Assigned;
  say(text: string, options?: { step?: string; isStderr?: boolean }): void;
  end(result: Record<string, unknown>, value?: Record<string, unknown>): void;
}

/** A worker that comes back when its connection breaks, and still holds then what it held. */
export class ScriptedWorker {
  readonly id: string;
  readonly revoked: string[] = [];
  readonly #url: string;
  readonly #holding = new Map<string, number>();
  readonly #waiting: ((container: Container) => void)[] = [];
  readonly #given: Container[] = [];
  #unsent: string[] = [];
  #socket: WebSocket | null = null;
  #isRegistered = false;
  #isClosed = false;
  #ready: () => void = () => {};

  constructor(server: string, queue: string, id = "scripted") {
    this.id = id;
    this.#url = `${server.replace(/^http/, "ws")}/q/${queue}/worker?protocol=2`;
  }

  async connect(): Promise<this> {
    this.#open();
    await this.connected();
    return this;
  }

  /** Registered, now or as soon as it is. */
  async connected(): Promise<void> {
    if (this.#isRegistered) return;
    await new Promise<void>((resolve) => {
      this.#ready = resolve;
    });
  }

  /** The next job that the server gives out to this worker. */
  next(): Promise<Container> {
    const given = this.#given.shift();
    return given ? Promise.resolve(given) : new Promise((resolve) => this.#waiting.push(resolve));
  }

  close(): void {
    this.#isClosed = true;
    this.#socket?.close();
  }

  #open(): void {
    if (this.#isClosed) return;
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    this.#isRegistered = false;
    socket.on("open", () => {
      const capacity = { cpus: 2, memory_bytes: 4 * 2 ** 30, gpus: [], tags: [], max_duration_s: 1200, arch: "amd64" };
      const about = { time: Date.now(), version: "0", id: this.id, cpus: 2, gpus: 0, maxJobDuration: "20m" };
      const holding = Object.fromEntries(this.#holding);
      socket.send(frame("WorkerRegistration", { ...about, protocol: 2, capacity, holding }));
    });
    socket.on("message", (data) => this.#heard(String(data)));
    socket.on("error", () => {});
    socket.on("close", () => {
      this.#isRegistered = false;
      setTimeout(() => this.#open(), 100);
    });
  }

  #send(kind: string, payload: unknown): void {
    const text = frame(kind, payload);
    if (this.#isRegistered) this.#socket?.send(text);
    else this.#unsent.push(text);
  }

  #heard(text: string): void {
    if (!text.startsWith("{")) return;
    const { type, payload } = JSON.parse(text);
    if (type === "Registered") {
      this.#isRegistered = true;
      for (const unsent of this.#unsent) this.#socket?.send(unsent);
      this.#unsent = [];
      this.#free();
      this.#ready();
    } else if (type === "Assign") this.#take(payload);
    else if (type === "Revoke") {
      this.#holding.delete(payload.jobId);
      this.revoked.push(payload.jobId);
    } else if (type === "StatusRequest") {
      this.#send("WorkerStatusResponse", { id: this.id, time: Date.now(), cpus: 2, gpus: 0, queue: {} });
    }
  }

  #free(): void {
    this.#send("Ready", { cpus: 2, memory_bytes: 4 * 2 ** 30, gpus: 0, jobs: 2 });
  }

  #take(assigned: Assigned): void {
    const { jobId, attempt } = assigned;
    this.#holding.set(jobId, attempt);
    let seq = 0;
    const container: Container = {
      assigned,
      say: (text, { step = "Running", isStderr = false } = {}) => {
        const line = isStderr ? [text, Date.now(), true] : [text, Date.now()];
        this.#send("JobStatusLogs", { jobId, attempt, seq: seq++, step, logs: [line] });
      },
      end: (result, value = { reason: "Success", outcome: "succeeded" }) => {
        this.#holding.delete(jobId);
        const whole = { logs: [], duration: 5, isTimedOut: false, StatusCode: 0, outputs: {}, ...result };
        const finished = { type: "Finished", worker: this.id, time: Date.now(), ...value, result: whole };
        this.#send("StateChange", { job: jobId, tag: this.id, state: "Finished", attempt, value: finished });
        this.#free();
      },
    };
    const waiting = this.#waiting.shift();
    if (waiting) waiting(container);
    else this.#given.push(container);
  }
}

function frame(type: string, payload: unknown): string {
  return JSON.stringify({ type, payload });
}
