// entry.py, the Python form of the Worker, under Cloudflare's SDK for Python Workers: `node --test`. The runtime's own
// start of Python Workers needs a download; here the JavaScript that it would bring is stood in for, and nothing else.
//
// SDK=FILE names the SDK's wheel.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { WebSocket } from "ws";
import { workerdOf } from "./miniflare.mjs";
import { BUNDLE, workerModules } from "./modules.mjs";

const STAND_IN = `
import { DurableObject } from "cloudflare:workers";
import * as front from "./front.mjs";
import entry from "./entry.txt";
import sdk from "./sdk.zip";
import { pythonOfIsolate } from "./workerd.mjs";

let loaded;

async function entryOf() {
  const python = await pythonOfIsolate();
  if (!loaded) {
    python.FS.writeFile("/sdk.zip", new Uint8Array(sdk));
    python.FS.writeFile("/entry.py", entry);
    python.runPython("import sys; sys.path[:0] = ['/sdk.zip', '/']");
    python.registerJsModule("_cloudflare_compat_flags", { python_workflows_implicit_dependencies: false });
    python.registerJsModule("_pyodide_entrypoint_helper", {
      patchWaitUntil() {},
      cloudflareWorkersModule: {},
      cloudflareSocketsModule: {},
      async doAnImport(name) {
        if (name !== "front.mjs") throw new Error("no module " + name);
        return front;
      },
    });
    loaded = { entry: python.pyimport("entry"), Request: python.pyimport("workers").Request };
  }
  return loaded;
}

const made = (answer) => answer?.js_object ?? answer;

export default {
  async fetch(request, env, ctx) {
    const { entry, Request } = await entryOf();
    return made(await entry.Default(ctx, env).fetch(Request(request)));
  },
  async scheduled(controller, env, ctx) {
    const { entry } = await entryOf();
    await entry.Default(ctx, env).scheduled(controller, env, ctx);
  },
};

export class QueueObject extends DurableObject {
  async #python() {
    const { entry, Request } = await entryOf();
    this.object ??= entry.QueueObject(this.ctx, this.env);
    return { object: this.object, Request };
  }
  async fetch(request) {
    const { object, Request } = await this.#python();
    return made(await object.fetch(Request(request)));
  }
  async alarm(info) { await (await this.#python()).object.alarm(info); }
  async sweep() { await (await this.#python()).object.sweep(); }
  async prune() { await (await this.#python()).object.prune(); }
  async overdue() { return (await this.#python()).object.overdue(); }
  async ask(question) { return (await this.#python()).object.ask(question); }
  async hear(topic, data) { await (await this.#python()).object.hear(topic, data); }
}
`;

let served;
let url;

before(async () => {
  const entry = readFileSync(new URL("entry.py", import.meta.url));
  const modules = workerModules(process.env.BUNDLE ?? BUNDLE).filter(({ path }) => path !== "worker.mjs");
  served = workerdOf({
    modules: [
      { path: "native.mjs", type: "ESModule", contents: STAND_IN },
      { path: "entry.txt", type: "Text", contents: entry.toString() },
      { path: "sdk.zip", type: "Data", contents: readFileSync(process.env.SDK) },
      ...modules,
    ],
    bindings: { ASMAN_BACKEND: "durable://JOBS", ASMAN_EXPIRE_AFTER: "4s" },
    unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }],
  });
  await served.ready;
  url = await served.unsafeGetDirectURL();
});
after(() => served.dispose());

const ask = (path, options) => fetch(new URL(path, url), options);
let jobId;

test("requests are answered, each by its object", async () => {
  const definition = { image: "alpine:3.19.1", command: "echo native" };
  const said = await ask("/q/first", { method: "POST", body: JSON.stringify({ definition }) });
  assert.equal(said.status, 200, await said.clone().text());
  ({ jobId } = await said.json());
  assert.deepEqual(Object.keys((await (await ask("/q/first")).json()).data), [jobId]);
  assert.deepEqual(
    (await (await ask(`/j/${jobId}`)).json()).data.definition,
    definition,
    "another object asks this one",
  );
  assert.equal((await ask("/q/a%20b")).status, 400);
  const copied = await ask(`/j/${jobId}/copy`, { method: "POST", body: '{"queue": "second"}' });
  assert.equal(copied.status, 200, await copied.clone().text());
  assert.deepEqual(Object.keys((await (await ask("/q/second")).json()).data), [jobId]);
});

test("bodies are streamed, not read whole", async () => {
  const piece = new Uint8Array(1 << 16).fill(7);
  let pieces = 64;
  const body = new ReadableStream({ pull: (to) => (pieces-- > 0 ? to.enqueue(piece) : to.close()) });
  const stored = await ask("/f/large", { method: "PUT", body, duplex: "half" });
  assert.equal(stored.status, 200, await stored.clone().text());
  assert.equal((await (await ask("/f/large")).arrayBuffer()).byteLength, 64 << 16);
});

test("a socket is accepted, spoken to and closed", async () => {
  const address = new URL("/q/first/client", url);
  address.protocol = "ws:";
  const socket = new WebSocket(address);
  const heard = await new Promise((resolve, reject) => {
    socket.on("message", (data) => resolve(JSON.parse(data)));
    socket.on("error", reject);
  });
  assert.equal(heard.type, "Workers");
  const closed = new Promise((resolve) => socket.on("close", resolve));
  socket.close(1000);
  assert.equal(await closed, 1000);
});

test("what has expired is gone, and the schedule asks around", async () => {
  for (const end = Date.now() + 15_000; Date.now() < end; await new Promise((resolve) => setTimeout(resolve, 100)))
    if ((await ask(`/q/first/j/${jobId}`)).status === 410) break;
  assert.equal((await ask(`/q/first/j/${jobId}`)).status, 410);
  assert.equal((await (await served.getWorker()).scheduled({ cron: "* * * * *" })).outcome, "ok");
});
