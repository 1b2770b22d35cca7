// A WebSocket whose other end is in this browser. A service worker is asked for pages and files but never for sockets,
// so the page is given this class in the place of its own: addresses below the scope go over a MessagePort, all others
// where they always went.
//
// What goes over the port: {life} of the server, {open: subprotocol}, {data}, {close: [code, reason]}.

import { ended } from "./alive.mjs";

const [CONNECTING, OPEN, CLOSING, CLOSED] = [0, 1, 2, 3];
const CUT = 1006;

/**
 * The class. `scope` is the URL below which the server is; `reach(told, port)` hands the server one end of a socket.
 */
export function socketClass({ scope, reach, Native = WebSocket }) {
  const base = new URL(scope);

  return class TabSocket extends EventTarget {
    static CONNECTING = CONNECTING;
    static OPEN = OPEN;
    static CLOSING = CLOSING;
    static CLOSED = CLOSED;
    CONNECTING = CONNECTING;
    OPEN = OPEN;
    CLOSING = CLOSING;
    CLOSED = CLOSED;
    readyState = CONNECTING;
    protocol = "";
    extensions = "";
    bufferedAmount = 0;
    binaryType = "blob";
    onopen = null;
    onmessage = null;
    onerror = null;
    onclose = null;
    #port;

    constructor(address, protocols = []) {
      super();
      const url = new URL(address, base);
      url.protocol = url.protocol.replace(/^http/, "ws");
      // biome-ignore lint/correctness/noConstructorReturn: what is not ours is the browser's own socket
      if (url.host !== base.host || !url.pathname.startsWith(base.pathname)) return new Native(address, protocols);
      this.url = url.href;
      const { port1, port2 } = new MessageChannel();
      this.#port = port1;
      port1.onmessage = ({ data }) => this.#heard(data);
      reach({ url: url.href, protocols: [protocols].flat() }, port2);
    }

    send(data) {
      if (this.readyState === CONNECTING) throw new DOMException("the socket is not open yet", "InvalidStateError");
      if (this.readyState !== OPEN) return;
      if (data instanceof Blob) data.arrayBuffer().then((bytes) => this.#say(new Uint8Array(bytes)));
      else if (typeof data === "string") this.#say(data);
      else this.#say(ArrayBuffer.isView(data) ? bytesOf(data) : new Uint8Array(data));
    }

    #say(data) {
      this.#port.postMessage({ data });
    }

    close(code = 1005, reason = "") {
      if (this.readyState >= CLOSING) return;
      this.readyState = CLOSING;
      this.#port.postMessage({ close: [code, reason] });
      queueMicrotask(() => this.#over(code, reason));
    }

    #heard({ life, open, data, close }) {
      if (life) ended(life).then(() => this.#over(CUT, ""));
      else if (open !== undefined && this.readyState === CONNECTING) {
        this.protocol = open;
        this.readyState = OPEN;
        this.#tell(new Event("open"));
      } else if (data !== undefined && this.readyState === OPEN) {
        this.#tell(new MessageEvent("message", { data: this.#given(data), origin: base.origin }));
      } else if (close) this.#over(...close);
    }

    #given(data) {
      if (typeof data === "string") return data;
      return this.binaryType === "blob" ? new Blob([data]) : data.slice().buffer;
    }

    #over(code, reason) {
      if (this.readyState === CLOSED) return;
      this.readyState = CLOSED;
      this.#port.close();
      if (code === CUT) this.#tell(new Event("error"));
      this.#tell(new CloseEvent("close", { code, reason, wasClean: code !== CUT }));
    }

    #tell(event) {
      this[`on${event.type}`]?.(event);
      this.dispatchEvent(event);
    }
  };
}

function bytesOf(view) {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice();
}
