// Runs in each page below the scope, before the page's own script: gives it sockets to the server in this browser, and
// makes one of the open tabs the one in which the server is.
//
// The server is in a worker of one tab, and the tabs agree on which by a lock: who holds it has the server. When that tab
// is closed or loaded again, the lock goes to another one, which starts the server again.

import { alive, ended } from "./alive.mjs";
import { saveByFetch } from "./saving.mjs";
import { socketClass } from "./socket.mjs";

export const SCOPE = new URL("../", import.meta.url).href;
const AGAIN_MS = 1_000;
const registered = navigator.serviceWorker;
const living = registered && navigator.locks ? alive() : undefined;

async function reach(told, port) {
  const socket = { ...told, life: await living };
  registered.controller.postMessage({ socket }, [port]);
}

/** This tab has the server now, until it is closed. A server that ended, as on a full disk, is started again. */
async function serve() {
  const policy = globalThis.trustedTypes?.createPolicy("asman-tab", { createScriptURL: (text) => text });
  const url = new URL("server.js", import.meta.url).href;
  for (;;) {
    await serveOnce(policy ? policy.createScriptURL(url) : url);
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}

async function serveOnce(url) {
  const server = new Worker(url, { type: "module", name: "asman" });
  const life = await new Promise((resolve, reject) => {
    server.onmessage = ({ data }) => resolve(data.life);
    server.onerror = (event) => reject(new Error(event.message || `${url} could not be loaded`));
  });
  server.onerror = null;

  /** A line between the service worker and the server, over which they talk without this page. */
  const introduce = (serviceWorker) => {
    const { port1, port2 } = new MessageChannel();
    server.postMessage({}, [port1]);
    serviceWorker.postMessage({ server: life }, [port2]);
  };
  const wanted = ({ data, source }) => data?.isWanted && introduce(source);
  registered.addEventListener("message", wanted);
  registered.startMessages();
  introduce(registered.controller);
  await ended(life);
  registered.removeEventListener("message", wanted);
  server.terminate();
}

/** The first visit, and one that went past the service worker: from the next load on it is there. */
async function begin() {
  await registered.register(new URL("sw.js", SCOPE), { scope: SCOPE });
  await registered.ready;
  location.reload();
}

function failed(words, error) {
  console.error(`${words}: ${error.message}`);
  const place = document.getElementById("said");
  if (place) place.textContent = `${words}: ${error.message}`;
}

if (!registered || !navigator.locks) {
  failed("This cannot start here", new Error("a browser needs https (or localhost), service workers and locks"));
} else if (!registered.controller) {
  begin().catch((error) => failed("The files of this page could not be kept", error));
} else {
  globalThis.WebSocket = socketClass({ scope: SCOPE, reach });
  saveByFetch(SCOPE);
  navigator.locks.request(`asman serves ${SCOPE}`, serve).catch((error) => {
    failed("The server of this tab did not start", error);
  });
}
