// What the Worker is made of: its modules, by the names under which they import each other.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const ours = (name) => fileURLToPath(new URL(`src/${name}`, import.meta.url));
const python = (name) => fileURLToPath(new URL(name, import.meta.resolve("pyodide")));

export const BUNDLE = fileURLToPath(new URL("dist/bundle.zip", import.meta.url));

const OURS = ["worker.mjs", "workerd.mjs", "bundle.mjs", "lines.mjs", "pair.mjs", "routing.mjs", "front.mjs"];

/** Shape: `{path, type, contents}` as Miniflare takes them; `type` is Cloudflare's word. The first one is the Worker. */
export function workerModules(bundle = BUNDLE) {
  const listed = [
    ...OURS.map((name) => [name, "ESModule", ours(name)]),
    ["python/pyodide.mjs", "ESModule", python("pyodide.mjs")],
    ["python/pyodide.asm.mjs", "ESModule", python("pyodide.asm.mjs")],
    ["python/pyodide.asm.wasm", "CompiledWasm", python("pyodide.asm.wasm")],
    ["python/python_stdlib.zip", "Data", python("python_stdlib.zip")],
    ["python/bundle.zip", "Data", bundle],
  ];
  return listed.map(([path, type, file]) => ({ path, type, contents: readFileSync(file) }));
}

/** Of the form whose Python is Cloudflare's own, with its configuration; what Python imports goes to python_modules/. */
export function nativeModules() {
  const listed = ["front.mjs", "lines.mjs", "pair.mjs", "routing.mjs"].map((name) => [`src/${name}`, ours(name)]);
  listed.push(["src/entry.py", fileURLToPath(new URL("entry.py", import.meta.url))]);
  listed.push(["wrangler.jsonc", fileURLToPath(new URL("wrangler-native.jsonc", import.meta.url))]);
  return listed.map(([path, file]) => ({ path, contents: readFileSync(file) }));
}
