// The kits inside the runtime: a Worker whose Durable Object runs pytest in Pyodide, and who starts it.
//
//   node edge_exam.mjs --edge DIR --bundle FILE --kits FILE --inside FILE URL-OR-TEST-FILE...
//
// Prints one line of JSON: {URL: [[test, outcome], ...]}. The kits wait for the end of their coroutines, so Python must
// be able to suspend itself (JSPI). workerd has that, but Pyodide asks first whether it may compile wasm, which no
// Worker may: the two modules that it would compile are given to it.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const { values: flags, positionals: urls } = parseArgs({
  allowPositionals: true,
  options: {
    edge: { type: "string" },
    bundle: { type: "string" },
    kits: { type: "string" },
    inside: { type: "string" },
    only: { type: "string", default: "" },
  },
});

const WORKER = `
import { DurableObject } from "cloudflare:workers";
import kits from "./kits.zip";
import inside from "./inside.txt";
import trampoline from "./trampoline.wasm";
import { pythonOfIsolate } from "./workerd.mjs";

async function pythonThatSuspends() {
  const Module = WebAssembly.Module;
  const construct = (Made, [bytes]) => {
    if (bytes.length === 8) return {};
    return bytes.length < 1000 ? trampoline : Reflect.construct(Made, [bytes]);
  };
  WebAssembly.Module = new Proxy(Module, { construct });
  try {
    return await pythonOfIsolate();
  } finally {
    WebAssembly.Module = Module;
  }
}

export class Room extends DurableObject {
  async fetch(request) {
    try {
      const python = await pythonThatSuspends();
      if (!python.globals.has("exam")) {
        python.FS.writeFile("/kits.zip", new Uint8Array(kits));
        python.runPython(inside);
      }
      const [url, only, text] = await request.json();
      if (text) return new Response(await python.globals.get("own")(text, only, this.env, this.ctx));
      return new Response(await python.globals.get("exam")(url, only, this.env, this.ctx, ""));
    } catch (error) {
      return new Response(String(error.stack ?? error).slice(-4000), { status: 500 });
    }
  }
}

export default {
  async fetch(request, env) {
    const name = new URL(request.url).hostname;
    return env.ROOM.get(env.ROOM.idFromName(name)).fetch(request);
  },
};
`;

const edge = (name) => pathToFileURL(join(flags.edge, name));
const { workerdOf } = await import(edge("miniflare.mjs"));
const { workerModules } = await import(edge("modules.mjs"));

/** The module that Pyodide would compile itself: it stands in its glue as a string of hex digits. */
function trampoline(modules) {
  const glue = modules.find(({ path }) => path.endsWith("pyodide.asm.mjs")).contents.toString();
  const found = /hexStringToUTF8Array\("([0-9a-f]+)"\)/.exec(glue);
  if (!found) throw new Error("this Pyodide has no trampoline where it used to be");
  return Buffer.from(found[1], "hex");
}

const modules = workerModules(flags.bundle).slice(1);
const runtime = workerdOf({
  modules: [
    { type: "ESModule", path: "exam.mjs", contents: WORKER },
    ...modules,
    { type: "CompiledWasm", path: "trampoline.wasm", contents: trampoline(modules) },
    { type: "Data", path: "kits.zip", contents: readFileSync(flags.kits) },
    { type: "Text", path: "inside.txt", contents: readFileSync(flags.inside) },
  ],
  durableObjects: { ROOM: { className: "Room", useSQLite: true } },
});
try {
  const outcomes = {};
  for (const [n, url] of urls.entries()) {
    const text = url.endsWith(".py") ? readFileSync(url, "utf8") : "";
    const body = JSON.stringify([url, flags.only, text]);
    const asked = await runtime.dispatchFetch(`http://room-${n}/`, { method: "POST", body });
    if (!asked.ok) throw new Error(`${url}: ${await asked.text()}`);
    outcomes[url] = await asked.json();
  }
  console.log(JSON.stringify(outcomes));
} finally {
  await runtime.dispose();
}
