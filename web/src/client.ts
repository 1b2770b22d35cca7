/**
 * The HTTP client: what the page uses, and what is published for other programs. Needs `fetch` and nothing else, so it
 * runs in browsers, workers, Node and Deno.
 *
 * It knows no rule about jobs: what is refused is refused by the server, and is thrown as `AsmanError` with the server's
 * code. A job's id is made from its content, so repeating a submit can never run anything twice; that, reads, uploads
 * (named by their content) and cancels are repeated when a connection breaks or the server asks for patience. A delete
 * is repeated only where the server said that it did nothing.
 */

import type * as Wire from "./contract.gen.ts";
import type {
  Attempt,
  Control,
  DataRef,
  Definition,
  DryRun,
  Half,
  JobRecord,
  JobView,
  LogPage,
  OutputRef,
  QueueHistory,
  Reason,
  Result,
  Scale,
  State,
  Status,
  StreamEvent,
  Submitted,
  Why,
} from "./contract.ts";
import { AsmanError, JobEnded } from "./errors.ts";
import { readEvents, type ServerEvent } from "./events.ts";
import { filePath, jobPath, part, queuePath, streamPath } from "./paths.ts";
import { readEvent, StreamPosition } from "./position.ts";
import { refusal, unknownJob, unreachable } from "./refusal.ts";
import { sha256, sha256OfBlob } from "./sha256.ts";
import { type Ask, type ClientOptions, putWithProgress, type RequestOptions, Transport } from "./transport.ts";
import { linked, pauseMs, sleep } from "./waiting.ts";

export type { ClientOptions, RequestOptions } from "./transport.ts";

export interface SubmitOptions extends RequestOptions {
  /** Stated id; must be the definition's by either rule. */
  id?: string | undefined;
  namespace?: string | undefined;
  control?: Control | Record<string, unknown> | undefined;
  debug?: boolean | undefined;
  /** Hold the answer back until the job has ended, at most so many seconds (300). */
  wait?: number | undefined;
}

export interface UploadOptions extends RequestOptions {
  onProgress?: ((sent: number, size: number) => void) | undefined;
  /** Told while the hash of a large blob is made, before anything is sent. */
  onHash?: ((done: number, size: number) => void) | undefined;
}

export interface StreamOptions extends RequestOptions {
  /** Go on behind this event: `attempt-build-run`, as `StreamPosition` writes it. */
  lastEventId?: string | undefined;
  /** Throw if no connection worked for so long. Default: never, as long as nobody aborts. */
  giveUpAfterMs?: number | undefined;
}

export interface Cancelled {
  /** False: there was nothing to cancel; `message` says why. */
  isCancelled: boolean;
  /** Null for a job that is not known. */
  state: State | null;
  /** Who wants the job still. */
  namespaces: string[];
  message: string;
}

/** The server sends a heartbeat every 15 s. */
const SILENT_STREAM_MS = 50_000;
const HAS_RESULT: ReadonlySet<Reason> = new Set(["Success", "Error", "TimedOut"]);
const ASK_WHERE_FROM_BYTES = 1 << 20;
const SIZES_AT_ONCE = 6;
const SIZE_WITHIN_MS = 5_000;

export class Client {
  /** Without a slash at the end; empty for the page's own. */
  readonly server: string;
  readonly #http: Transport;

  constructor(options: ClientOptions) {
    this.#http = new Transport(options);
    this.server = this.#http.server;
  }

  /** A request of this server whose answer is JSON: for routes that have no method here. */
  json<T>(method: string, path: string, ask: Ask = {}): Promise<T> {
    return this.#http.json(method, path, ask);
  }

  // --- jobs ----------------------------------------------------------------------------------------------------------

  /** Push a job. Repeating is safe: the same definition is the same job. */
  async submit(queue: string, definition: Definition, options: SubmitOptions = {}): Promise<Submitted> {
    const { value: answer, response } = await this.#http.exchange<Wire.Submitted>("POST", queuePath(queue), {
      body: submission(definition, options),
      headers: options.wait ? { Prefer: `wait=${Math.ceil(options.wait)}` } : {},
      moreTimeMs: (options.wait ?? 0) * 1000,
      signal: options.signal,
      isRepeatable: true,
    });
    if (typeof answer.jobId !== "string") throw this.#http.notOurs("answered a submit without an id", "POST", response);
    return {
      jobId: answer.jobId,
      isCached: Boolean(answer.cached),
      state: answer.state,
      warnings: answer.warnings ?? [],
      durability: response.headers.get("asman-durability"),
      record: answer.job ?? null,
      result: (answer.data as Result | null | undefined) ?? null,
    };
  }

  /** What a submit would do: the id, whether a result is there, which connected workers would take it. */
  async dryRun(queue: string, definition: Definition, options: SubmitOptions = {}): Promise<DryRun> {
    const body = submission(definition, options);
    return this.json("POST", queuePath(queue), { body, query: { dry_run: "1" }, isRepeatable: true, ...only(options) });
  }

  /** A job in its queue: definition, record, and the result if it left one. Errors: job_not_found, expired. */
  async job(queue: string, jobId: string, options: RequestOptions = {}): Promise<JobView> {
    const found = await this.#http.data<Wire.Job>(jobPath(queue, jobId), options);
    if (!found.job)
      throw new AsmanError(`the server told nothing of job ${jobId} in this queue`, { code: "not_asman" });
    const view: JobView = { definition: found.definition ?? null, record: found.job };
    if (found.results) view.results = found.results as Result;
    return view;
  }

  /** The definition as it was submitted, from any queue unless one is given. Null for an unknown job. */
  async definition(
    jobId: string,
    options: RequestOptions & { queue?: string | undefined } = {},
  ): Promise<Definition | null> {
    const path = options.queue ? jobPath(options.queue, jobId) : `/j/${part(jobId)}`;
    return this.#http.data(`${path}/definition.json`, options);
  }

  /** The whole finished record. Null for a job that is unknown, unfinished, or left none. */
  async result(queue: string, jobId: string, options: RequestOptions = {}): Promise<Result | null> {
    return this.#http.data(`${jobPath(queue, jobId)}/result.json`, options);
  }

  /** Why a job waits: its place, and each connected worker held against each rule. */
  async why(queue: string, jobId: string, options: RequestOptions = {}): Promise<Why> {
    return this.#http.data(`${jobPath(queue, jobId)}/why`, options);
  }

  /** Past attempts, oldest first. */
  async attempts(queue: string, jobId: string, options: RequestOptions = {}): Promise<Attempt[]> {
    return this.#http.data(`${jobPath(queue, jobId)}/history.json`, options);
  }

  /** The queue's jobs by id. A queue that nobody used is an empty one. */
  async list(queue: string, options: RequestOptions = {}): Promise<Map<string, JobRecord>> {
    return new Map(Object.entries(await this.#http.data<Record<string, JobRecord>>(queuePath(queue), options)));
  }

  /** Jobs, workers and clients of a queue. Workers are asked, so it may take two seconds. */
  async status(queue: string, options: RequestOptions = {}): Promise<Status> {
    return this.json("GET", `${queuePath(queue)}/status`, only(options));
  }

  /** How many workers the queue wants. */
  async scale(queue: string, options: RequestOptions = {}): Promise<Scale> {
    return this.json("GET", `${queuePath(queue)}/scale`, only(options));
  }

  /** What happened in a queue within the last hour, minute by minute. */
  async history(queue: string, options: RequestOptions = {}): Promise<QueueHistory> {
    return this.json("GET", `${queuePath(queue)}/history`, only(options));
  }

  /** Prometheus text. */
  async metrics(queue: string, options: RequestOptions = {}): Promise<string> {
    return (await this.#http.text("GET", `${queuePath(queue)}/metrics`, only(options))).text;
  }

  /** Give a job up for one namespace (default `_`), or with `*` for all. Final at once if nobody else wants it. */
  async cancel(
    queue: string,
    jobId: string,
    options: RequestOptions & { namespace?: string | undefined; message?: string | undefined } = {},
  ): Promise<Cancelled> {
    const answer = await this.json<Partial<Cancelled> & { success?: boolean }>(
      "POST",
      `${jobPath(queue, jobId)}/cancel`,
      { query: { namespace: options.namespace, message: options.message }, isRepeatable: true, ...only(options) },
    );
    return {
      isCancelled: answer.success === true,
      state: answer.state ?? null,
      namespaces: answer.namespaces ?? [],
      message: answer.message ?? "",
    };
  }

  /** Drop a job with its result and logs, for one namespace or (default) all. Errors: job_not_found. */
  async remove(
    queue: string,
    jobId: string,
    options: RequestOptions & { namespace?: string | undefined } = {},
  ): Promise<{ state: State; namespaces: string[] }> {
    const query = { namespace: options.namespace };
    return this.json("DELETE", jobPath(queue, jobId), { query, ...only(options) });
  }

  /** Put a known job, with its result if it has one, on another queue of this server. */
  async copy(
    jobId: string,
    queue: string,
    options: RequestOptions & { control?: Control | undefined } = {},
  ): Promise<{ jobId: string; isCached: boolean }> {
    const body = { queue, ...(options.control ? { control: options.control } : {}) };
    const path = `/j/${part(jobId)}/copy`;
    const answer = await this.json<{ jobId: string; cached: boolean }>("POST", path, {
      body,
      isRepeatable: true,
      ...only(options),
    });
    return { jobId: answer.jobId, isCached: answer.cached };
  }

  // --- logs ----------------------------------------------------------------------------------------------------------

  /** One page of a log, from line `since` on, of the latest attempt. */
  async logs(
    queue: string,
    jobId: string,
    half: Half,
    options: RequestOptions & { since?: number | undefined } = {},
  ): Promise<LogPage> {
    const query = { since: String(options.since ?? 0) };
    const slice = await this.json<Wire.LogSlice>("GET", `${jobPath(queue, jobId)}/${half}-logs.json`, {
      query,
      ...only(options),
    });
    const { data, sliceStart, nextCursor, isFinal, attempt } = slice;
    return { lines: data, start: sliceStart, nextCursor, isFinal, attempt };
  }

  /**
   * Everything a job tells until it ends, over lost connections and server restarts: no line is lost or told twice.
   *
   * Errors: job_not_found; what the server refuses; the reason of the signal. A server that cannot be reached is no
   *         error but a `connection` event, unless `giveUpAfterMs` is over.
   */
  async *stream(
    queue: string,
    jobId: string,
    options: StreamOptions = {},
  ): AsyncGenerator<StreamEvent, void, undefined> {
    const position = new StreamPosition(options.lastEventId);
    let failures = 0;
    let lastGood = Date.now();
    let isLost = false;
    for (;;) {
      let error: AsmanError | null = null;
      try {
        for await (const event of this.#events(queue, jobId, position.id, options.signal)) {
          if (isLost) yield { kind: "connection", isOpen: true, error: null, retryInMs: null };
          isLost = false;
          failures = 0;
          lastGood = Date.now();
          const told = readEvent(event);
          if (told?.kind === "timeout") break; // the server ends very long streams; the job goes on
          if (told?.kind === "unknown")
            throw unknownJob(queue, jobId, this.#http.request("GET", streamPath(queue, jobId)));
          if (told) yield* position.advance(told, event.id);
          if (told?.kind === "final") return;
        }
      } catch (thrown) {
        options.signal?.throwIfAborted();
        if (!(thrown instanceof AsmanError && thrown.isTemporary)) throw thrown;
        if (Date.now() - lastGood > (options.giveUpAfterMs ?? Number.POSITIVE_INFINITY)) throw thrown;
        error = thrown;
      }
      options.signal?.throwIfAborted();
      const retryInMs = pauseMs(failures, error);
      failures += 1;
      if (error || failures > 1) {
        isLost = true;
        yield { kind: "connection", isOpen: false, error, retryInMs };
      }
      await sleep(retryInMs, options.signal);
    }
  }

  /**
   * The result of a job, once it has one.
   *
   * Errors: JobEnded for a job that ended without one; as `stream`.
   */
  async wait(queue: string, jobId: string, options: StreamOptions = {}): Promise<Result> {
    for await (const event of this.stream(queue, jobId, options)) {
      if (event.kind !== "final") continue;
      const result = HAS_RESULT.has(event.reason) ? await this.result(queue, jobId, options) : null;
      if (result) return result;
      const { kind: _, ...ending } = event;
      const why = ending.message ? `: ${ending.message}` : "";
      throw new JobEnded(`job ${jobId} ended without a result, as ${ending.outcome ?? ending.reason}${why}`, ending, {
        request: this.#http.request("GET", streamPath(queue, jobId)),
        hint: "Submit the job again to run it again.",
      });
    }
    throw unknownJob(queue, jobId, this.#http.request("GET", streamPath(queue, jobId)));
  }

  async *#events(
    queue: string,
    jobId: string,
    lastEventId: string,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<ServerEvent, void, undefined> {
    const request = this.#http.request("GET", streamPath(queue, jobId));
    const until = linked(signal);
    try {
      const headers: Record<string, string> = { Accept: "text/event-stream" };
      if (lastEventId) headers["Last-Event-ID"] = lastEventId;
      const response = await this.#http.once(request, { headers, signal: until.signal, cache: "no-store" }, until);
      if (!response.ok) throw await refusal(response, request);
      if (!response.body || !response.headers.get("content-type")?.startsWith("text/event-stream")) {
        throw this.#http.notOurs("has no follow stream", "GET", response);
      }
      const silent = () => until.abort(unreachable(request, `nothing came for ${SILENT_STREAM_MS / 1000} s`));
      yield* readEvents(response.body, SILENT_STREAM_MS, silent);
    } catch (error) {
      signal?.throwIfAborted();
      throw error instanceof AsmanError ? error : unreachable(request, error);
    } finally {
      until.abort(undefined);
      until.unlink();
    }
  }

  // --- files ---------------------------------------------------------------------------------------------------------

  /** Where an output is fetched from. A path if the client's server is the page's own. */
  outputUrl(queue: string, jobId: string, name: string): string {
    return `${this.server}${jobPath(queue, jobId)}/outputs/${filePath(name)}`;
  }

  inputUrl(queue: string, jobId: string, name: string): string {
    return `${this.server}${jobPath(queue, jobId)}/inputs/${filePath(name)}`;
  }

  /** The outputs of a result, by name. Sizes are known of those that stand in the result itself. */
  outputsOf(queue: string, jobId: string, result: Result): OutputRef[] {
    const outputs = Object.entries(result.finished.result?.outputs ?? {});
    return outputs
      .map(([name, ref]) => ({ name, ref, url: this.outputUrl(queue, jobId, name), size: inlineSize(ref) }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /**
   * The outputs of a finished job, by name, with their sizes (the server is asked for those that are not in the result).
   *
   * Errors: not_finished for a job that has no result.
   */
  async outputs(
    queue: string,
    jobId: string,
    options: RequestOptions & { sizes?: boolean | undefined } = {},
  ): Promise<OutputRef[]> {
    const result = await this.result(queue, jobId, options);
    if (!result) {
      throw new AsmanError(`job ${jobId} has no result`, {
        code: "not_finished",
        status: 404,
        hint: "Wait for the job to end.",
        request: this.#http.request("GET", `${jobPath(queue, jobId)}/result.json`),
      });
    }
    const found = this.outputsOf(queue, jobId, result);
    return options.sizes === false ? found : this.withSizes(found, options);
  }

  /** The same outputs with the sizes that the server tells; a few are asked for at a time. */
  async withSizes(outputs: readonly OutputRef[], options: RequestOptions = {}): Promise<OutputRef[]> {
    const found = [...outputs];
    let next = 0;
    const ask = async () => {
      for (let index = next++; index < found.length; index = next++) {
        const output = found[index];
        if (output && output.size === null) found[index] = { ...output, size: await this.#size(output.url, options) };
      }
    };
    await Promise.all(Array.from({ length: SIZES_AT_ONCE }, ask));
    return found;
  }

  /** The bytes of an output (or of any file of this server), as an answer to read as text, stream or blob. */
  async fetchFile(url: string, options: RequestOptions & { range?: string | undefined } = {}): Promise<Response> {
    const headers: Record<string, string> = options.range ? { Range: options.range } : {};
    const path = url.startsWith(this.server) ? url.slice(this.server.length) : url;
    return (await this.#http.send("GET", path, { headers, signal: options.signal })).response;
  }

  async #size(url: string, options: RequestOptions): Promise<number | null> {
    const until = linked(options.signal, SIZE_WITHIN_MS);
    try {
      const response = await this.#http.fetch(url, { method: "HEAD", signal: until.signal });
      const length = response.headers.get("content-length");
      return response.ok && length !== null && /^\d+$/.test(length) ? Number(length) : null;
    } catch {
      options.signal?.throwIfAborted();
      return null; // such as a file of another host, which does not let pages ask
    } finally {
      until.unlink();
    }
  }

  /** Are these bytes (by their sha256) here? */
  async hasBlob(key: string, options: RequestOptions = {}): Promise<boolean> {
    try {
      return (await this.json<{ exists: boolean }>("GET", `/f/${part(key)}/exists`, only(options))).exists;
    } catch (error) {
      if (error instanceof AsmanError && error.status === 404) return false;
      throw error;
    }
  }

  /**
   * Store bytes unless the server has them, and answer with the ref that a definition takes.
   *
   * A blob is hashed and sent in pieces: memory does not grow with it.
   */
  async upload(data: Blob | Uint8Array | string, options: UploadOptions = {}): Promise<DataRef> {
    const blob = data instanceof Blob ? data : new Blob([data as BlobPart]);
    const key =
      data instanceof Blob ? await sha256OfBlob(data, { ...options, onProgress: options.onHash }) : sha256(data);
    if (!(await this.hasBlob(key, options))) await this.#put(key, blob, options);
    options.onProgress?.(blob.size, blob.size);
    const origin = this.server || globalThis.location?.origin || "";
    return { value: `${origin}/f/${key}`, type: "url", hash: key };
  }

  async #put(key: string, blob: Blob, options: UploadOptions): Promise<void> {
    for (let tried = 0; ; tried += 1) {
      try {
        await this.#putOnce(await this.#whereToPut(key, blob.size, options), blob, options);
        return;
      } catch (error) {
        options.signal?.throwIfAborted();
        if (!(error instanceof AsmanError && error.isTemporary) || tried >= this.#http.retries) throw error;
        await sleep(pauseMs(tried, error), options.signal);
      }
    }
  }

  /** Asked for before a large body is sent: on a redirect it would be sent twice. */
  async #whereToPut(key: string, size: number, options: UploadOptions): Promise<string> {
    const own = `${this.server}/f/${part(key)}`;
    if (size < ASK_WHERE_FROM_BYTES) return own;
    try {
      const query = { size: String(size) };
      const answer = await this.json<{ url?: string; size?: number }>("GET", `/upload/${part(key)}`, {
        query,
        ...only(options),
      });
      return answer.size === size && answer.url && /^https?:/.test(answer.url) ? answer.url : own;
    } catch (error) {
      options.signal?.throwIfAborted();
      if (error instanceof AsmanError && error.code === "limit_exceeded") throw error;
      return own;
    }
  }

  /** One try. With `XMLHttpRequest`, where there is one, because `fetch` does not say how much it has sent. */
  async #putOnce(url: string, blob: Blob, options: UploadOptions): Promise<void> {
    const request = { method: "PUT", url };
    if (options.onProgress && !this.#http.given && typeof XMLHttpRequest === "function") {
      await putWithProgress(request, blob, options.onProgress, options.signal);
      return;
    }
    const headers = { "Content-Type": "application/octet-stream" };
    const response = await this.#http.once(request, { headers, body: blob, signal: options.signal ?? null });
    if (!response.ok) throw await refusal(response, request);
    await response.body?.cancel();
  }
}

function only(options: RequestOptions): { signal: AbortSignal | undefined } {
  return { signal: options.signal };
}

function submission(definition: Definition, options: SubmitOptions): Record<string, unknown> {
  const control = { ...options.control, ...(options.namespace ? { namespace: options.namespace } : {}) };
  return {
    definition,
    ...(options.id ? { id: options.id } : {}),
    ...(Object.keys(control).length ? { control } : {}),
    ...(options.debug ? { debug: true } : {}),
  };
}

/** Bytes of a ref that carries its content; null for one that points elsewhere. */
function inlineSize(ref: DataRef): number | null {
  switch (ref.type ?? "utf8") {
    case "base64": {
      const text = String(ref.value).replace(/=+$/, "");
      return Math.floor((text.length * 3) / 4);
    }
    case "json":
      return utf8Length(JSON.stringify(ref.value) ?? "");
    case "utf8":
    case "":
      return utf8Length(String(ref.value));
  }
  return null;
}

function utf8Length(text: string): number {
  return new TextEncoder().encode(text).length;
}
