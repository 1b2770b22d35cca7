// Python in workerd, Cloudflare's runtime: Pyodide from modules of the Worker itself, once per isolate.
//
// Pyodide knows workerd, but not that nothing can be fetched or compiled there: what it would fetch is given to it, and
// three of its habits are held back while it starts. All of that is here, and nothing else is.
//
// The compatibility flag nodejs_compat must not be set: Pyodide would take the host for Node and fail.

import { openPython } from "./bundle.mjs";
import bundle from "./python/bundle.zip";
import createPyodideModule from "./python/pyodide.asm.mjs";
import wasm from "./python/pyodide.asm.wasm";
import { loadPyodide } from "./python/pyodide.mjs";
import library from "./python/python_stdlib.zip";

const PLACE = "http://localhost/python/";
const LIBRARY = `${PLACE}python_stdlib.zip`;

/** Pyodide wants to know which packages could be loaded; none can. */
const NO_PACKAGES = {
  info: { abi_version: "2026_0", arch: "wasm32", platform: "emscripten_5_0_3", python: "3.14.2" },
  packages: {},
};

const LOOK_EVERY_MS = 25;
const LOADED_WITHIN_MS = 60_000;

/** What this takes the place of while Pyodide loads, as it was. */
const { fetch, addEventListener, MessageChannel } = globalThis;
const { instantiateStreaming } = WebAssembly;

let python;
let loadingSince;

/**
 * Python with asman's bundle on its path. The first object that asks loads it, in a few seconds; those that ask
 * meanwhile look again and again, by timers of their own: an object that only waits for a promise of another's has
 * nothing under way, which the runtime takes for a hang. It is not loaded at the start of the isolate, where neither time nor
 * randomness can be had.
 */
export async function pythonOfIsolate() {
  while (!python) {
    if (loadingSince === undefined || Date.now() - loadingSince > LOADED_WITHIN_MS) {
      loadingSince = Date.now();
      try {
        python = await load();
      } finally {
        loadingSince = undefined;
      }
    } else {
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    }
  }
  return python;
}

async function load() {
  const restore = heldBack();
  try {
    const options = { createPyodideModule, indexURL: PLACE, stdLibURL: LIBRARY, lockFileContents: NO_PACKAGES };
    const loaded = await openPython({
      loadPyodide,
      bundle: new Uint8Array(bundle),
      options: { ...options, stdout: (line) => console.log(line), stderr: (line) => console.warn(line) },
    });
    loaded.pyimport("pyodide.webloop").scheduleCallback = schedule;
    return loaded;
  } finally {
    restore();
  }
}

/** Stand-ins for what workerd lacks, while Pyodide loads. Answers with what puts everything back. */
function heldBack() {
  globalThis.location ??= new URL(PLACE);
  globalThis.fetch = (what, ...more) => (String(what).startsWith(PLACE) ? given(String(what)) : fetch(what, ...more));
  globalThis.addEventListener = () => {}; // Emscripten asks for the capture phase, which is refused
  globalThis.MessageChannel = undefined; // one channel would carry the calls of all objects: see `schedule`
  WebAssembly.instantiateStreaming = async (_, imports) => ({
    module: wasm,
    instance: await WebAssembly.instantiate(wasm, imports),
  });
  return () => {
    Object.assign(globalThis, { fetch, addEventListener, MessageChannel });
    WebAssembly.instantiateStreaming = instantiateStreaming;
  };
}

async function given(url) {
  return new Response(url === LIBRARY ? library : null);
}

// --- Python's event loop ---------------------------------------------------------------------------------------------

/** So many calls follow each other at once; then what comes in from outside has its turn. */
const TURNS = 100;
let turns = 0;
let timers = 0;

/**
 * What Python's event loop is driven by: call `made` after `delayMs`, in the order asked for.
 *
 * A call must happen in the I/O context of the object that asked, so nothing is kept here: a microtask or a timer is the
 * context's own. Microtasks cost nothing, but nothing else happens before the last of them; so after some they become
 * timers, until none of those is left and the order cannot be changed any more.
 */
function schedule(made, delayMs = 0) {
  if (delayMs > 0) {
    setTimeout(made, delayMs);
    return;
  }
  if (timers === 0 && turns < TURNS) {
    turns++;
    queueMicrotask(made);
    return;
  }
  timers++;
  setTimeout(() => {
    if (--timers === 0) turns = 0;
    made();
  }, 0);
}
