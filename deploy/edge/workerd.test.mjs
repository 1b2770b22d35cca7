// The Worker in Cloudflare's own runtime, with its bindings, beside what the contract suite asks: `node --test`.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { WebSocket } from "ws";
import { about, workerdOf } from "./miniflare.mjs";
import { BUNDLE } from "./modules.mjs";

const IS_STRICT = process.env.ASMAN_TEST_BARS === "1";
const WARM_MS = IS_STRICT ? 25 : 250;
const WASM_BYTES = 64 << 20;
const QUEUES = 50;

const environ = { ASMAN_BACKEND: "d1://JOBS", ASMAN_EXPIRE_AFTER: "3s" };
let served;
let url;

before(async () => {
  served = workerdOf({
    bundle: process.env.BUNDLE ?? BUNDLE,
    bindings: environ,
    unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }],
  });
  await served.ready;
  url = await served.unsafeGetDirectURL();
  assert.equal((await ask("/readyz")).status, 200);
});
after(() => served.dispose());

const ask = (path, options) => fetch(new URL(path, url), options);
const definition = (n) => ({ image: "alpine:3.19.1", command: `echo ${n}` });

async function submit(queue, n) {
  const answer = await ask(`/q/${queue}`, { method: "POST", body: JSON.stringify({ definition: definition(n) }) });
  assert.equal(answer.status, 200, await answer.clone().text());
  return (await answer.json()).jobId;
}

async function until(holds, ms = 15_000) {
  for (const end = Date.now() + ms; Date.now() < end; await new Promise((resolve) => setTimeout(resolve, 50))) {
    if (await holds()) return;
  }
  assert.fail("it did not come to be so");
}

/** A socket whose messages are waited for by their type. */
async function peer(path, protocols) {
  const address = new URL(path, url);
  address.protocol = "ws:";
  const socket = new WebSocket(address, protocols);
  const heard = [];
  const closed = new Promise((resolve) => socket.on("close", (code, reason) => resolve([code, String(reason)])));
  socket.on("message", (data) => heard.push(JSON.parse(data)));
  await new Promise((resolve, reject) => {
    socket.on("open", resolve);
    socket.on("error", reject);
    socket.on("unexpected-response", (_, answer) => reject(new Error(`status ${answer.statusCode}`)));
  });
  const hear = async (type) => {
    await until(() => heard.some((message) => message.type === type));
    return heard.find((message) => message.type === type).payload;
  };
  return { socket, hear, closed, send: (type, payload) => socket.send(JSON.stringify({ type, payload })) };
}

async function worker(queue) {
  const made = await peer(`/q/${queue}/worker?protocol=2`);
  const capacity = { cpus: 1, memory_bytes: 1 << 30, gpus: [], tags: [], max_duration_s: 86_400 };
  const registration = { time: 1, version: "1", id: `w-${queue}`, cpus: 1, gpus: 0, maxJobDuration: "1d" };
  made.send("WorkerRegistration", { ...registration, protocol: 2, capacity, holding: {} });
  await made.hear("Registered");
  made.send("Ready", { jobs: 1 });
  return made;
}

test("a warm request is quick, and memory stays where it was over a thousand", async () => {
  await submit("warm", 1);
  const took = [];
  for (let n = 0; n < 100; n++) {
    const began = performance.now();
    await (await ask("/q/warm")).text();
    took.push(performance.now() - began);
  }
  const median = took.sort((a, b) => a - b)[50];
  for (let round = 0; round < 20; round++) {
    const answers = await Promise.all(Array.from({ length: 50 }, () => ask("/q/warm")));
    assert.ok(answers.every((answer) => answer.status === 200));
    await Promise.all(answers.map((answer) => answer.text()));
  }
  const { wasmBytes } = await about(served);
  console.log(`warm request ${median.toFixed(1)} ms (median), ${wasmBytes >> 20} MiB of wasm memory after 1,100 more`);
  assert.ok(median <= WARM_MS, `${median} ms`);
  assert.ok(wasmBytes <= WASM_BYTES, `${wasmBytes} bytes`);
});

test("fifty queues at once, each in an object of its own, with the sockets of a worker and a watcher", async () => {
  const began = performance.now();
  const names = Array.from({ length: QUEUES }, (_, n) => `many-${n}`);
  const done = await Promise.all(
    names.map(async (queue, n) => {
      const [watcher, works] = await Promise.all([peer(`/q/${queue}/client`), worker(queue)]);
      const jobId = await submit(queue, n);
      const given = await works.hear("Assign");
      assert.equal(given.jobId, jobId);
      await watcher.hear("JobStates");
      watcher.socket.close(1000);
      works.socket.close(4000, "enough");
      assert.deepEqual(
        [await watcher.closed, await works.closed],
        [
          [1000, ""],
          [4000, "enough"],
        ],
      );
      return jobId;
    }),
  );
  assert.equal(new Set(done).size, QUEUES);
  const { wasmBytes, apps } = await about(served);
  console.log(
    `${QUEUES} queues with two sockets each: ${((performance.now() - began) / 1000).toFixed(1)} s, ` +
      `${apps} apps in ${(wasmBytes / 2 ** 20).toFixed(0)} MiB of wasm memory`,
  );
  assert.ok(apps >= QUEUES);
});

test("a wrong frame, and one that is too large, end as the app and the runtime say", async () => {
  const watcher = await peer("/q/frames/client");
  watcher.send("Nonsense", {});
  assert.equal((await watcher.hear("Error")).code, "bad_message");
  watcher.socket.send("x".repeat((16 << 20) + 1));
  assert.equal((await watcher.closed)[0], 1009);
});

test("a handshake is refused by its status, before there is a socket", async () => {
  await assert.rejects(peer("/q/a/nobody"), /status 404/);
  await assert.rejects(peer("/q/a%20b/client"), /status 400/);
});

test("the alarm does what is due while nobody asks", async () => {
  const jobId = await submit("alarm", 1);
  const jobs = await served.getD1Database("JOBS");
  const state = async () => (await jobs.prepare("SELECT record FROM jobs WHERE job_id = ?").bind(jobId).first()).record;
  assert.doesNotMatch(await state(), /"forgotten":true/);
  await until(async () => /"forgotten":true/.test(await state()));
});

test("the schedule wakes an object whose alarm was lost, and removes blobs whose time is over", async () => {
  const jobId = await submit("found", 2);
  const jobs = await served.getD1Database("JOBS");
  const row = await jobs.prepare("SELECT * FROM jobs WHERE job_id = ?").bind(jobId).first();
  const lost = { ...row, queue: "lost", due_at: 1 };
  lost.record = JSON.stringify({ ...JSON.parse(row.record), queue: "lost", expires_at: 1 });
  const [names, places] = [Object.keys(lost).join(), Object.keys(lost).fill("?").join()];
  await jobs
    .prepare(`INSERT OR IGNORE INTO jobs (${names}) VALUES (${places})`)
    .bind(...Object.values(lost))
    .run();
  const stored = await ask("/f/name", { method: "PUT", body: "data" });
  assert.equal(stored.status, 200);
  const { outcome } = await (await served.getWorker()).scheduled({ cron: "* * * * *" });
  assert.equal(outcome, "ok");
  const swept = await jobs.prepare("SELECT record FROM jobs WHERE queue = 'lost'").first("record");
  assert.match(swept, /"forgotten":true/);
  assert.equal((await ask(`/q/lost/j/${jobId}`)).status, 410);
});
