// What the Worker is made of: its modules, by the names under which they import each other.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const ours = (name) => fileURLToPath(new URL(`src/${name}`, import.meta.url));
const python = (name) => fileURLToPath(new URL(name, import.meta.resolve("pyodide")));

export const BUNDLE = fileURLToPath(new URL("dist/bundle.zip", import.meta.url));

const OURS = ["worker.mjs", "workerd.mjs", "bundle.mjs", "lines.mjs", "pair.mjs", "routing.mjs"];

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
