// The server: Python with asman's bundle, in a worker of one tab. It is a worker and not the service worker itself
// because that one is stopped whenever the browser likes, may import nothing late, and cannot keep a file open.
//
// Each service worker that finds it has a port to it, on which requests come and answers go:
//   it says   {life} of the service worker, {id, method, url, headers, body}, {id, isGone}, {socket: {url, protocols, life}}
//   and hears {id, status, headers, body}
// Bodies are streams that are handed over, so each side goes as fast as the other.

import { alive, ended } from "./alive.mjs";
import { openPython } from "./bundle.mjs";
import { keepFiles } from "./keeping.mjs";
import { answer, SocketLine, told } from "./lines.mjs";
import { loadPyodide } from "./pyodide/pyodide.mjs";

const SCOPE = new URL("../", import.meta.url);
const KEPT = "/kept";
const NAMES = ["jobs.db", "blobs.db"];
const began = performance.now();
let flush = () => {};
const starting = start();

alive().then((life) => {
  postMessage({ life });
  addEventListener("message", ({ ports }) => serve(ports[0], life));
});

async function start() {
  const bundle = new Uint8Array(await (await fetch(new URL("bundle.zip", import.meta.url))).arrayBuffer());
  const python = await openPython({
    loadPyodide,
    bundle,
    options: { indexURL: new URL("pyodide/", import.meta.url).href },
  });
  const folder = `asman-tab ${SCOPE.pathname.replaceAll("/", " ")}`;
  flush = await keepFiles({ FS: python.FS, place: KEPT, folder, names: NAMES });
  const [jobs, blobs] = NAMES.map((name) => `sqlite:///${KEPT}/${name}`);
  const settings = { flags: { backend: jobs, blobs, public_url: SCOPE.href } };
  const host = python.pyimport("asman_edge.kept").begin(JSON.stringify(settings), flush);
  await host.maintain();
  const heap = (python._module.HEAPU8.length / 2 ** 20).toFixed(0);
  console.info(`started in ${((performance.now() - began) / 1000).toFixed(1)} s, ${heap} MiB of wasm memory`);
  return host;
}

/** Is what was written on the disk? If it cannot be, this server ends: who waits is told, and the page starts another. */
function isKept() {
  try {
    flush();
    return true;
  } catch (error) {
    console.error(`the browser keeps no more: ${error.message}`);
    close();
    return false;
  }
}

// --- one service worker ----------------------------------------------------------------------------------------------

function serve(port, life) {
  const asked = new Map();
  port.onmessage = ({ data, ports }) => {
    if (data.life) {
      ended(data.life).then(() => {
        for (const { leave } of asked.values()) leave();
      });
    } else if (data.socket) socket(data.socket, ports[0], life);
    else if (data.isGone) asked.get(data.id)?.leave();
    else reply(port, asked, data);
  };
}

async function reply(port, asked, { id, method, url, headers, body }) {
  const leaving = new AbortController();
  asked.set(id, { leave: () => leaving.abort() });
  const response = await ask({ method, url: inside(url), headers: new Headers(headers), body, signal: leaving.signal });
  if (!isKept()) return;
  const told = { id, status: response.status, headers: [...response.headers] };
  if (!response.body) {
    asked.delete(id);
    port.postMessage(told);
    return;
  }
  const [sent, over] = watched(response.body);
  over.then(() => asked.delete(id));
  port.postMessage({ ...told, body: sent }, [sent]);
}

async function ask(request) {
  try {
    return await answer(await starting, request);
  } catch (error) {
    console.error(error);
    const said = { error: `the server of this tab did not start: ${error.message}`, code: "unavailable" };
    return Response.json({ ...said, hint: "Load the page again." }, { status: 503 });
  }
}

/** The same stream, and a promise that is kept when it has ended, however it did. */
function watched(stream) {
  const { readable, writable } = new TransformStream();
  return [readable, stream.pipeTo(writable).catch(() => {})];
}

/** The address as the app knows it: it is not told that it is below a path. */
function inside(url) {
  const address = new URL(url);
  address.pathname = address.pathname.slice(SCOPE.pathname.length - 1);
  return address.href;
}

// --- one socket ------------------------------------------------------------------------------------------------------

async function socket({ url, protocols, life: peer }, port, life) {
  port.postMessage({ life });
  const host = await starting.catch(() => null);
  if (!host) {
    port.postMessage({ close: [1006, ""] });
    return;
  }
  const line = new SocketLine({
    accept: (subprotocol) => port.postMessage({ open: subprotocol }),
    refuse: () => port.postMessage({ close: [1006, ""] }),
    send: (data) => {
      if (isKept()) port.postMessage({ data });
    },
    close: (code, reason) => port.postMessage({ close: [code, reason] }),
  });
  port.onmessage = ({ data: { data, close } }) => {
    if (close) line.closed(...close);
    else if (data.length <= host.frame_bytes) line.came(data);
    else {
      port.postMessage({ close: [1009, ""] });
      line.closed(1009);
    }
  };
  ended(peer).then(() => line.closed(1001));
  const { protocol, host: name, pathname, search } = new URL(inside(url));
  const headers = [["host", name]];
  if (protocols.length) headers.push(["sec-websocket-protocol", protocols.join(", ")]);
  host.socket(told({ scheme: protocol.slice(0, -1), target: pathname + search, headers }), line);
}
