// The Worker in Cloudflare's own runtime, on this machine: `node serve-workerd.mjs --port 8000`.
//
// Settings are the server's own variables (ASMAN_PROFILE, ASMAN_LEASE, ...), given to the Worker as its variables.
// D1, R2 and the objects' own storage are in memory, or below `--store FOLDER`.

import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { about, workerdOf } from "./miniflare.mjs";
import { BUNDLE } from "./modules.mjs";

const { values: flags } = parseArgs({
  options: {
    host: { type: "string", default: "127.0.0.1" },
    port: { type: "string", default: "8000" },
    bundle: { type: "string", default: BUNDLE },
    store: { type: "string" },
  },
});

function say(text) {
  process.stderr.write(`${text}\n`);
}

function kept() {
  if (!flags.store) return {};
  const below = (name) => join(resolve(flags.store), name);
  return { d1Persist: below("d1"), r2Persist: below("r2"), durableObjectsPersist: below("objects") };
}

/** workerd's own word on what it does, line by line. */
function heard(...streams) {
  for (const stream of streams) stream.on("data", (data) => process.stderr.write(data));
}

async function serve() {
  const began = performance.now();
  try {
    readFileSync(flags.bundle);
  } catch {
    throw new Error(`there is no bundle ${flags.bundle}; make it with: node build.mjs`);
  }
  const bindings = Object.fromEntries(Object.entries(process.env).filter(([name]) => name.startsWith("ASMAN_")));
  const served = workerdOf({
    bundle: flags.bundle,
    bindings: { ASMAN_HOST: flags.host, ...bindings },
    unsafeDirectSockets: [{ host: flags.host, port: Number(flags.port) }],
    handleRuntimeStdio: heard,
    ...kept(),
  });
  await served.ready;
  const url = await served.unsafeGetDirectURL();
  const ready = await fetch(new URL("/readyz", url));
  if (!ready.ok) throw new Error(`it does not start: ${(await ready.text()).slice(0, 500)}`);
  say(`started in ${((performance.now() - began) / 1000).toFixed(1)} s`);
  say(`asman serves ${url.origin} in workerd`);
  let isEnding = false;
  const end = async () => {
    if (isEnding) process.exit(1);
    isEnding = true;
    const { wasmBytes } = await about(served);
    await served.dispose();
    say(`ended with ${(wasmBytes / 2 ** 20).toFixed(0)} MiB of wasm memory`);
    process.exit(0);
  };
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.removeAllListeners(signal); // Miniflare's own ends the process at once
    process.on(signal, end);
  }
}

serve().catch((error) => {
  say(`Error: ${error.message.slice(0, 2000)}`);
  process.exit(2);
});
