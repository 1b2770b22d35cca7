// The JavaScript half of the bridge: lines on which the Python half (asman_edge/bridge.py) answers, for hosts with
// the web's own Request, Response and streams, and what sockets of all hosts have in common.
//
// Python is told `null` as something else than its None, so nothing here answers with null: undefined is "no more".

/** Statuses that have no body; a Response refuses to be made with one. */
const WITHOUT_BODY = new Set([101, 204, 205, 304]);

/** What a body that was cut off reads as: Python must not take what came for all there is. */
const CUT = { value: false };

/** How much of an answer waits for a slow reader, and how much of a socket for a slow app. */
export const WAITING_BYTES = 1 << 18;

/** What a request's scope is made of, as JSON. */
export function told({ method = "GET", scheme, target, headers, client, httpVersion = "1.1" }) {
  const [path, query] = splitOnce(target, "?");
  return JSON.stringify({ method, scheme, path, query, headers, client, http_version: httpVersion });
}

function splitOnce(text, mark) {
  const at = text.indexOf(mark);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}

/** A promise and what settles it. */
export function promised() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

// --- HTTP with Request and Response ----------------------------------------------------------------------------------

/** Answer a Request. `client` is [address, port] where the host knows it. */
export function answer(host, request, { client } = {}) {
  const { line, response } = fetchLine(request);
  host.request(toldOfRequest(request, client), line);
  return response;
}

/** The same of a Request. */
export function toldOfRequest(request, client) {
  const url = new URL(request.url);
  const headers = [...request.headers];
  if (!request.headers.has("host")) headers.push(["host", url.host]);
  const { method } = request;
  return told({ method, scheme: url.protocol.slice(0, -1), target: url.pathname + url.search, headers, client });
}

function fetchLine(request) {
  const response = promised();
  const gone = promised();
  const reader = request.body?.getReader();
  let stream;
  let room;
  request.signal?.addEventListener("abort", gone.resolve);
  const over = () => {
    gone.resolve();
    reader?.cancel().catch(() => {});
  };
  const line = {
    async read() {
      if (!reader) return undefined;
      try {
        const { value, done } = await Promise.race([reader.read(), gone.promise.then(() => CUT)]);
        return done ? undefined : value;
      } catch {
        gone.resolve();
        return false;
      }
    },
    gone: () => gone.promise,
    answer(status, headers, body) {
      response.resolve(new Response(hasBody(request, status) ? body : null, { status, headers: JSON.parse(headers) }));
      over();
    },
    start(status, headers) {
      const begin = (controller) => {
        stream = controller;
      };
      const leave = () => {
        stream = undefined;
        room?.resolve();
        over();
      };
      const body = new ReadableStream(
        { start: begin, pull: () => room?.resolve(), cancel: leave },
        new ByteLengthQueuingStrategy({ highWaterMark: WAITING_BYTES }),
      );
      gone.promise.then(() => room?.resolve());
      response.resolve(new Response(hasBody(request, status) ? body : null, { status, headers: JSON.parse(headers) }));
      if (!hasBody(request, status)) stream = undefined;
    },
    write(piece) {
      if (!stream) return undefined;
      stream.enqueue(piece);
      if (stream.desiredSize > 0) return undefined;
      room = promised();
      return room.promise;
    },
    end() {
      stream?.close();
      over();
    },
    cut() {
      stream?.error(new Error("the answer broke off"));
      over();
    },
  };
  return { line, response: response.promise };
}

function hasBody(request, status) {
  return request.method !== "HEAD" && !WITHOUT_BODY.has(status);
}

// --- sockets ---------------------------------------------------------------------------------------------------------

/**
 * The line of a socket. `peer` is what differs between hosts:
 *   accept(subprotocol, headers), refuse(status, headers, body), send(data), close(code, reason), and where the host
 *   can, hold() and goOn(), which stop and resume what comes in.
 * The host calls `came` with each message (text or Uint8Array) and `closed` once.
 */
export class SocketLine {
  #peer;
  #waiting = [];
  #bytes = 0;
  #isHeld = false;
  #asked;
  #closing;

  constructor(peer) {
    this.#peer = peer;
  }

  get waitingBytes() {
    return this.#bytes;
  }

  came(data) {
    if (this.#closing) return;
    if (this.#asked) return this.#settle(data);
    this.#waiting.push(data);
    this.#bytes += data.length;
    if (this.#bytes > WAITING_BYTES && !this.#isHeld && this.#peer.hold) {
      this.#isHeld = true;
      this.#peer.hold();
    }
  }

  closed(code = 1005, reason = "") {
    if (this.#closing) return;
    this.#closing = [code, reason];
    if (this.#asked) this.#settle(undefined);
  }

  #settle(data) {
    const asked = this.#asked;
    this.#asked = undefined;
    asked.resolve(data);
  }

  // What Python calls.

  async read() {
    if (this.#waiting.length) {
      const data = this.#waiting.shift();
      this.#bytes -= data.length;
      if (this.#isHeld && this.#bytes <= WAITING_BYTES / 2) {
        this.#isHeld = false;
        this.#peer.goOn();
      }
      return data;
    }
    if (this.#closing) return undefined;
    this.#asked = promised();
    return this.#asked.promise;
  }

  closing() {
    return JSON.stringify(this.#closing ?? [1005, ""]);
  }

  accept(subprotocol, headers) {
    return this.#peer.accept(subprotocol, JSON.parse(headers));
  }

  refuse(status, headers, body) {
    this.#peer.refuse(status, JSON.parse(headers), body);
  }

  write(data) {
    return this.#closing ? undefined : this.#peer.send(data);
  }

  close(code, reason) {
    if (!this.#closing) this.#peer.close(code, reason);
  }
}
