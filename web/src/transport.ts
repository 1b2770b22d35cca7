/**
 * Requests of one server: sent, repeated where that can do no harm, and answers read; what is refused is thrown.
 *
 * It knows no route. A request is repeated while the connection breaks or the server asks for patience.
 */

import { AsmanError, type RequestInfo } from "./errors.ts";
import { checkedServer, withQuery } from "./paths.ts";
import { REFUSED_UNTOUCHED, refusal, refusalOf, unreachable } from "./refusal.ts";
import { type Linked, linked, pauseMs, sleep } from "./waiting.ts";

export interface ClientOptions {
  /** Where the server is, such as `https://queue.example`; empty: where the page came from. */
  server: string;
  fetch?: typeof fetch;
  /** How often a request is repeated before its error is thrown. Default 3. */
  retries?: number;
  /** How long an answer may take to begin. Default 30,000; uploads and streams have no such limit. */
  timeoutMs?: number;
}

export interface RequestOptions {
  signal?: AbortSignal | undefined;
}

export interface Ask {
  body?: unknown;
  query?: Record<string, string | undefined>;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
  /** Added to the time that the answer may take. */
  moreTimeMs?: number;
  /** May it be repeated after a connection broke, when nobody knows whether it arrived? */
  isRepeatable?: boolean;
}

export class Transport {
  /** Without a slash at the end; empty for the page's own. */
  readonly server: string;
  /** Whoever brings a `fetch` of their own sees all requests go through it. */
  readonly given: typeof fetch | undefined;
  readonly retries: number;
  readonly #timeoutMs: number;

  constructor(options: ClientOptions) {
    const hasOwn = Boolean(options.fetch ?? globalThis.location);
    this.server = options.server === "" && hasOwn ? "" : checkedServer(options.server);
    this.given = options.fetch;
    this.retries = options.retries ?? 3;
    this.#timeoutMs = options.timeoutMs ?? 30_000;
  }

  async json<T>(method: string, path: string, ask: Ask = {}): Promise<T> {
    return (await this.exchange<T>(method, path, ask)).value;
  }

  async data<T>(path: string, options: RequestOptions): Promise<T> {
    const answer = await this.json<{ data?: T }>("GET", path, { signal: options.signal });
    if (answer.data === undefined) throw new AsmanError(`${path} answered without data`, { code: "not_asman" });
    return answer.data;
  }

  async exchange<T>(method: string, path: string, ask: Ask): Promise<{ value: T; response: Response }> {
    const { text, response } = await this.text(method, path, ask);
    try {
      return { value: JSON.parse(text), response };
    } catch {
      const type = response.headers.get("content-type") ?? "no type";
      throw this.notOurs(`answered with ${type}, not with JSON`, method, response);
    }
  }

  async text(method: string, path: string, ask: Ask): Promise<{ text: string; response: Response }> {
    const { response, until } = await this.send(method, path, ask);
    until.restartClock();
    try {
      return { text: await response.text(), response };
    } catch (error) {
      ask.signal?.throwIfAborted();
      throw unreachable(
        { method, url: response.url },
        until.timedOut() ? "the answer was not complete in time" : error,
      );
    } finally {
      until.unlink();
    }
  }

  /** Send, and repeat while the connection breaks or the server asks for patience. */
  async send(method: string, path: string, ask: Ask): Promise<{ response: Response; until: Linked }> {
    const request = this.request(method, withQuery(path, ask.query));
    const headers = { ...ask.headers };
    const init: RequestInit = { headers };
    if (ask.body !== undefined) {
      init.body = JSON.stringify(ask.body);
      headers["Content-Type"] = "application/json";
    }
    const isRepeatable = ask.isRepeatable ?? method === "GET";
    for (let tried = 0; ; tried += 1) {
      const until = linked(ask.signal, this.#timeoutMs + (ask.moreTimeMs ?? 0));
      let failure: AsmanError;
      try {
        const response = await this.once(request, { ...init, signal: until.signal }, until);
        if (response.ok) {
          until.stopClock();
          return { response, until };
        }
        failure = await refusal(response, request);
      } catch (error) {
        ask.signal?.throwIfAborted();
        if (!(error instanceof AsmanError)) throw error;
        failure = error;
      }
      until.unlink();
      const mayRepeat = isRepeatable || REFUSED_UNTOUCHED.has(failure.status);
      if (!failure.isTemporary || !mayRepeat || tried >= this.retries) throw failure;
      await sleep(pauseMs(tried, failure), ask.signal);
    }
  }

  async once(request: RequestInfo, init: RequestInit, until?: Linked): Promise<Response> {
    try {
      return await this.fetch(request.url, { ...init, method: request.method });
    } catch (error) {
      if (until?.timedOut()) throw unreachable(request, `no answer came in ${this.#timeoutMs / 1000} s`);
      init.signal?.throwIfAborted();
      throw unreachable(request, error);
    }
  }

  fetch(url: string, init: RequestInit): Promise<Response> {
    const used = this.given ?? globalThis.fetch;
    return used(url, { credentials: "omit", ...init });
  }

  request(method: string, path: string): RequestInfo {
    return { method, url: path.startsWith("/") ? this.server + path : path };
  }

  notOurs(what: string, method: string, response: Response): AsmanError {
    return new AsmanError(`${this.server || "the server"} ${what}`, {
      code: "not_asman",
      status: response.status,
      hint: "Check that this is the address of an asman server.",
      request: { method, url: response.url },
    });
  }
}

export function putWithProgress(
  request: RequestInfo,
  blob: Blob,
  onProgress: (sent: number, size: number) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    const abort = () => sending.abort();
    sending.open(request.method, request.url);
    sending.setRequestHeader("Content-Type", "application/octet-stream");
    sending.upload.onprogress = (event) => onProgress(event.loaded, blob.size);
    sending.onload = () => {
      if (sending.status >= 200 && sending.status < 300) resolve();
      else {
        reject(refusalOf(sending.status, sending.responseText, request, sending.getResponseHeader("retry-after")));
      }
    };
    sending.onerror = () => reject(unreachable(request, "the connection broke"));
    sending.onabort = () => reject(signal?.reason ?? unreachable(request, "the upload was stopped"));
    sending.onloadend = () => signal?.removeEventListener("abort", abort);
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) reject(signal.reason);
    else sending.send(blob);
  });
}
