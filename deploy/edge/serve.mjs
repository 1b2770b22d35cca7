// asman's app in Pyodide, on Node: `node serve.mjs --port 8000`.
//
// Settings are the server's own variables (ASMAN_PROFILE, ASMAN_LEASE, ...); jobs and files are kept in memory.

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { loadPyodide } from "pyodide";
import { openBundle } from "./src/bundle.mjs";
import { nodeServer } from "./src/node.mjs";

const GRACE_MS = 5_000;

const { values: flags } = parseArgs({
  options: {
    host: { type: "string", default: "127.0.0.1" },
    port: { type: "string", default: "8000" },
    bundle: { type: "string", default: fileURLToPath(new URL("dist/bundle.zip", import.meta.url)) },
  },
});

function say(text) {
  process.stderr.write(`${text}\n`);
}

async function serve() {
  const began = performance.now();
  const bundle = await readFile(flags.bundle).catch(() => {
    throw new Error(`there is no bundle ${flags.bundle}; make it with: node build.mjs`);
  });
  const environ = Object.fromEntries(Object.entries(process.env).filter(([name]) => name.startsWith("ASMAN_")));
  const settings = { environ, flags: { backend: "memory", host: flags.host, port: flags.port } };
  const { python, host } = await openBundle({ loadPyodide, bundle, settings, options: { stdout: say, stderr: say } });
  await host.maintain();
  const server = nodeServer(host);
  await new Promise((resolve, reject) => server.once("error", reject).listen(Number(flags.port), flags.host, resolve));
  const heap = () => (python._module.HEAPU8.length / 2 ** 20).toFixed(0);
  const { address, family, port } = server.address();
  say(`started in ${((performance.now() - began) / 1000).toFixed(1)} s, ${heap()} MiB of wasm memory`);
  say(`asman serves http://${family === "IPv6" ? `[${address}]` : address}:${port} in Pyodide ${python.version}`);

  let isEnding = false;
  const end = async () => {
    if (isEnding) process.exit(1);
    isEnding = true;
    const closed = new Promise((resolve) => server.close(resolve));
    await host.stop();
    server.closeIdleConnections();
    await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, GRACE_MS))]);
    say(`ended with ${heap()} MiB of wasm memory`);
    process.exit(0); // Python's timers that nobody waits for any more would hold the process
  };
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, end);
}

serve().catch((error) => {
  say(`Error: ${error.message.slice(0, 2000)}`);
  process.exit(2);
});
