// The bridge's lines on Node: its HTTP server's streams, and the sockets of `ws`.

import { createServer, STATUS_CODES } from "node:http";
import { WebSocketServer } from "ws";
import { promised, SocketLine, told, WAITING_BYTES } from "./lines.mjs";

const PING_MS = 15_000;
const HEADERS_MAX_BYTES = 16 << 10;
const KEEP_ALIVE_MS = 5_000;
const CHOSEN = Symbol("sub-protocol");

/** An HTTP server, not yet listening, that answers with the host's app. `end()` ends it in good order. */
export function nodeServer(host) {
  const server = createServer({ maxHeaderSize: HEADERS_MAX_BYTES, keepAliveTimeout: KEEP_ALIVE_MS });
  server.requestTimeout = 0; // it would count a slow upload as a fault; the routes cut bodies that stall
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: host.frame_bytes,
    perMessageDeflate: false,
    handleProtocols: (_, request) => request[CHOSEN] || false,
  });
  server.on("request", (request, response) => host.request(toldOf(request, "http"), httpLine(request, response)));
  server.on("upgrade", (request, socket, head) => upgrade(host, sockets, request, socket, head));
  const pinging = setInterval(() => ping(sockets), PING_MS);
  server.on("close", () => clearInterval(pinging));
  return server;
}

function toldOf(request, scheme) {
  const headers = [];
  for (let at = 0; at < request.rawHeaders.length; at += 2) headers.push(request.rawHeaders.slice(at, at + 2));
  const client = [request.socket.remoteAddress ?? "", request.socket.remotePort ?? 0];
  const { method, url: target, httpVersion } = request;
  return told({ method, scheme, target: path(target), headers, client, httpVersion });
}

/** A proxy may ask for a whole address. */
function path(target) {
  return target.startsWith("/") ? target : target.replace(/^[a-z]+:\/\/[^/?]*/i, "") || "/";
}

// --- HTTP ------------------------------------------------------------------------------------------------------------

function httpLine(request, response) {
  const gone = promised();
  const pieces = request[Symbol.asyncIterator]();
  response.on("close", gone.resolve);
  response.on("error", gone.resolve);
  const over = () => request.resume(); // what was not read is read away, so that the connection can go on
  return {
    async read() {
      try {
        const { value, done } = await pieces.next();
        return done ? undefined : asBytes(value);
      } catch {
        gone.resolve();
        return false; // cut off: not the end
      }
    },
    gone: () => gone.promise,
    answer(status, headers, body) {
      const named = JSON.parse(headers);
      const isSized = named.some(([name]) => name === "content-length" || name === "transfer-encoding");
      if (!isSized && status !== 204 && status !== 304 && status >= 200) named.push(["content-length", body.length]);
      response.writeHead(status, named.flat());
      response.end(body);
      over();
    },
    start(status, headers) {
      response.writeHead(status, JSON.parse(headers).flat());
      response.flushHeaders();
    },
    write(piece) {
      if (response.destroyed || response.write(piece)) return undefined;
      const room = promised();
      response.once("drain", room.resolve);
      gone.promise.then(room.resolve);
      return room.promise;
    },
    end() {
      response.end();
      over();
    },
    cut() {
      response.destroy();
    },
  };
}

/** Of a Buffer: the same bytes as the type that Python knows. */
function asBytes(buffer) {
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
}

// --- sockets ---------------------------------------------------------------------------------------------------------

function upgrade(host, sockets, request, raw, head) {
  let socket;
  const line = new SocketLine({
    accept(subprotocol, headers) {
      if (raw.destroyed) return undefined;
      request[CHOSEN] = subprotocol;
      const more = (lines) => lines.push(...headers.map(([name, value]) => `${name}: ${value}`));
      sockets.once("headers", more);
      sockets.handleUpgrade(request, raw, head, (made) => {
        socket = made;
        socket.isAlive = true;
        socket.on("pong", () => {
          socket.isAlive = true;
        });
        socket.on("message", (data, isBinary) => line.came(isBinary ? asBytes(data) : data.toString()));
        socket.on("close", (code, reason) => line.closed(code, reason.toString()));
        socket.on("error", () => {}); // "close" follows
      });
      sockets.off("headers", more); // it was called by now, unless the handshake was no good
      return undefined;
    },
    refuse(status, headers, body) {
      const named = [...headers, ["content-length", body.length], ["connection", "close"]];
      const unique = new Map(named.map(([name, value]) => [name.toLowerCase(), value]));
      const lines = [...unique].map(([name, value]) => `${name}: ${value}\r\n`).join("");
      raw.end(
        Buffer.concat([
          Buffer.from(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ""}\r\n${lines}\r\n`, "latin1"),
          body,
        ]),
      );
    },
    send(data) {
      const sent = promised();
      socket.send(data, sent.resolve);
      return socket.bufferedAmount > WAITING_BYTES ? sent.promise : undefined;
    },
    close: (code, reason) => socket.close(code, reason),
    hold: () => socket.pause(),
    goOn: () => socket.resume(),
  });
  raw.on("error", () => {});
  raw.on("close", () => line.closed(1006));
  if ((request.headers.upgrade ?? "").toLowerCase() !== "websocket") {
    raw.end("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    return;
  }
  host.socket(toldOf(request, "ws"), line);
}

/** Who did not answer the last one has gone without a word. */
function ping(sockets) {
  for (const socket of sockets.clients) {
    if (!socket.isAlive) {
      socket.terminate();
      continue;
    }
    socket.isAlive = false;
    socket.ping();
  }
}
