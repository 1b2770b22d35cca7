// The half of the bridge that speaks Request and Response, with the real bundle behind it: `node --test`.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { loadPyodide } from "pyodide";
import { openBundle } from "./src/bundle.mjs";
import { answer } from "./src/lines.mjs";

const BUNDLE = process.env.BUNDLE ?? fileURLToPath(new URL("dist/bundle.zip", import.meta.url));
const URL_ = "http://localhost:8000";
const JOB = { image: "alpine:3.19.1", command: "echo fetch" };
let host;

before(async () => {
  const bundle = await readFile(BUNDLE);
  ({ host } = await openBundle({ loadPyodide, bundle, settings: { flags: { backend: "memory" } } }));
});
after(() => host.stop());

const ask = (path, options) => answer(host, new Request(URL_ + path, { duplex: "half", ...options }));

test("the first request starts the app, and there is no other start", async () => {
  const said = await Promise.all(
    [1, 2, 3].map(() => ask("/q/once", { method: "POST", body: JSON.stringify({ definition: JOB }) })),
  );
  assert.deepEqual(
    said.map((response) => response.status),
    [200, 200, 200],
  );
  const listed = await (await ask("/q/once")).json();
  assert.equal(Object.keys(listed.data).length, 1);
});

test("answers that have no body are made without one", async () => {
  const preflight = await ask("/q/once", { method: "OPTIONS" });
  assert.deepEqual([preflight.status, preflight.body], [204, null]);
  await ask("/f/etag", { method: "PUT", body: "known" });
  const known = await ask("/f/etag", { headers: { "if-none-match": '"etag"' } });
  assert.deepEqual([known.status, known.body], [304, null]);
  const head = await ask("/f/etag", { method: "HEAD" });
  assert.deepEqual([head.status, head.body, head.headers.get("content-length")], [200, null, "5"]);
});

test("bodies are streamed both ways", async () => {
  const piece = new Uint8Array(1 << 16).fill(7);
  let pieces = 64;
  const body = new ReadableStream({ pull: (to) => (pieces-- > 0 ? to.enqueue(piece) : to.close()) });
  assert.equal((await ask("/f/large", { method: "PUT", body })).status, 200);
  const back = new Uint8Array(await (await ask("/f/large")).arrayBuffer());
  assert.equal(back.length, 64 << 16);
  assert.ok(back.every((byte) => byte === 7));
});

test("an upload that breaks off leaves nothing", async () => {
  let to;
  const body = new ReadableStream({
    start: (controller) => {
      to = controller;
    },
  });
  const asked = ask("/f/cut", { method: "PUT", body });
  to.enqueue(new Uint8Array(1000));
  await new Promise((resolve) => setTimeout(resolve, 50));
  to.error(new Error("the line broke"));
  await asked;
  assert.equal((await ask("/f/cut")).status, 404);
});

async function openQueues() {
  const text = await (await ask("/metrics")).text();
  return Number(/^asman_open_queues (\d+)/m.exec(text)[1]);
}

async function until(holds) {
  for (let turn = 0; turn < 200; turn++) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.fail("it did not come to be so");
}

for (const how of ["cancel", "abort"]) {
  test(`a stream comes as it happens, and a reader that leaves is noticed: ${how}`, async () => {
    const queue = `stream-${how}`;
    const made = await ask(`/q/${queue}`, { method: "POST", body: JSON.stringify({ definition: JOB }) });
    const { jobId } = await made.json();
    const leaving = new AbortController();
    const response = await ask(`/q/${queue}/j/${jobId}/stream`, { signal: leaving.signal });
    const reader = response.body.getReader();
    const { value } = await reader.read();
    assert.match(new TextDecoder().decode(value), /^event: state/);
    assert.equal(await openQueues(), 1);
    if (how === "cancel") await reader.cancel();
    else leaving.abort();
    await until(async () => (await openQueues()) === 0);
  });
}
