// The bridge's socket line on workerd's WebSocketPair.

import { promised, SocketLine, toldOfRequest } from "./lines.mjs";

/** Nothing holds back what comes in: a peer that sends so much faster than the app reads is closed. */
const MOST_WAITING_BYTES = 16 << 20;

const TOO_LARGE = 1009;
const TOO_FAST = 1013;
const BROKEN = 1006;
const NOT_SAYABLE = new Set([1004, 1005, BROKEN, 1015]);

/** Answer a Request that asks for a socket: with a Response that has one, or with one that says why not. */
export function answerSocket(host, request, { client } = {}) {
  const response = promised();
  const { 0: theirs, 1: ours } = new WebSocketPair();
  const line = new SocketLine({
    accept(subprotocol, headers) {
      ours.binaryType = "arraybuffer";
      ours.accept();
      if (subprotocol) headers.push(["sec-websocket-protocol", subprotocol]);
      response.resolve(new Response(null, { status: 101, webSocket: theirs, headers }));
    },
    refuse(status, headers, body) {
      response.resolve(new Response(body, { status, headers }));
    },
    send(data) {
      if (!quietly(() => ours.send(data))) line.closed(BROKEN);
    },
    close(code, reason) {
      quietly(() => ours.close(code, reason));
    },
  });
  ours.addEventListener("message", ({ data }) => {
    const size = data.byteLength ?? data.length;
    if (size > host.frame_bytes) return end(TOO_LARGE);
    line.came(typeof data === "string" ? data : new Uint8Array(data));
    if (line.waitingBytes > MOST_WAITING_BYTES) end(TOO_FAST);
  });
  ours.addEventListener("close", ({ code, reason }) => {
    quietly(() => (NOT_SAYABLE.has(code) ? ours.close() : ours.close(code, reason)));
    line.closed(code, reason);
  });
  ours.addEventListener("error", () => line.closed(BROKEN));
  const end = (code) => {
    quietly(() => ours.close(code));
    line.closed(code);
  };
  host.socket(toldOfRequest(request, client), line);
  return response.promise;
}

/** A socket that has gone refuses what is done with it; its close is told by an event. */
function quietly(does) {
  try {
    does();
    return true;
  } catch {
    return false;
  }
}
