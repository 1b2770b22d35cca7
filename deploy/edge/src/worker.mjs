// The Worker: it finds the object that answers and hands the request on. The objects: each has an app of its own.
//
// Python is loaded once per isolate, and the objects that share it share nothing else: what is done for one is never done
// in the name of another, so each has its own stores. A queue's object is the only one that writes the queue's jobs, and
// all sockets of the queue end in it.

import { DurableObject } from "cloudflare:workers";
import { answer } from "./lines.mjs";
import { answerSocket } from "./pair.mjs";
import { ANY, isCopy, objectOf, objectOfCopy, objectOfQueue, queueOfObject } from "./routing.mjs";
import { pythonOfIsolate } from "./workerd.mjs";

const DEFAULTS = { ASMAN_BACKEND: "d1://JOBS", ASMAN_BLOBS: "r2://BLOBS", ASMAN_HOST: "0.0.0.0" };
const COPY_BYTES = 1 << 20;

/** In memory there is nothing that objects could share: one of them is everything. */
const isOne = (env) => env.ASMAN_BACKEND === "memory";

const objectNamed = (env, name) => env.QUEUES.get(env.QUEUES.idFromName(isOne(env) ? ANY : name));

const isSocket = (request) => (request.headers.get("upgrade") ?? "").toLowerCase() === "websocket";

function settings(env) {
  const defaults = isOne(env) ? { ASMAN_HOST: DEFAULTS.ASMAN_HOST } : DEFAULTS;
  const named = Object.entries({ ...defaults, ...env }).filter(([name]) => name.startsWith("ASMAN_"));
  return JSON.stringify({ environ: Object.fromEntries(named) });
}

function refusal(status, error, code, hint) {
  return Response.json({ error, code, hint }, { status });
}

export default {
  async fetch(request, env) {
    const path = new URL(request.url).pathname;
    if (isCopy(request.method, path) && !isOne(env)) return copy(request, env);
    return objectNamed(env, objectOf(path, { isSocket: isSocket(request) })).fetch(request);
  },

  /** What no alarm did: an object whose alarm was lost, and blobs whose time is over. */
  async scheduled(_, env) {
    const any = objectNamed(env, ANY);
    for (const queue of await any.overdue()) await objectNamed(env, objectOfQueue(queue)).sweep();
    await any.prune();
  },
};

/** A copy is carried out by the object of the queue that it writes to. */
async function copy(request, env) {
  const pieces = [];
  let size = 0;
  for await (const piece of request.body ?? []) {
    size += piece.length;
    if (size > COPY_BYTES) {
      const error = `the body has more than ${COPY_BYTES} bytes, which is the most that is allowed`;
      return refusal(413, error, "limit_exceeded", "Send less.");
    }
    pieces.push(piece);
  }
  const body = await new Blob(pieces).text();
  return objectNamed(env, objectOfCopy(body)).fetch(new Request(request, { body }));
}

export class QueueObject extends DurableObject {
  #host;

  async fetch(request) {
    let host;
    try {
      host = await this.#opened();
    } catch (error) {
      console.error(error.message);
      return refusal(500, "the server could not start", "internal_error", "Its log says why.");
    }
    const client = [request.headers.get("cf-connecting-ip") ?? "", 0];
    return isSocket(request) ? answerSocket(host, request, { client }) : answer(host, request, { client });
  }

  async alarm() {
    await this.sweep();
  }

  // --- asked by the Worker and by other objects ----------------------------------------------------------------------

  async sweep() {
    await (await this.#opened()).sweep();
  }

  async prune() {
    await (await this.#opened()).prune();
  }

  async overdue() {
    return JSON.parse(await (await this.#opened()).overdue());
  }

  /** Of the isolate, which objects share: how much memory Python has, and how many of them have an app. */
  async about() {
    const python = await pythonOfIsolate();
    const apps = python.pyimport("asman_edge.objects").count_hosts();
    return JSON.stringify({ wasmBytes: python._module.HEAPU8.length, apps });
  }

  /** A question about a job that is kept here. */
  async ask(question) {
    return (await this.#opened()).ask(question);
  }

  /** A message for who listens here. */
  async hear(topic, data) {
    await (await this.#opened()).hear(topic, data);
  }

  #opened() {
    this.#host ??= this.#open();
    this.#host.catch(() => {
      this.#host = undefined;
    });
    return this.#host;
  }

  async #open() {
    const python = await pythonOfIsolate();
    const { env, ctx } = this;
    const queue = queueOfObject(ctx.id.name);
    const peers = {
      ask: (of, question) => objectNamed(env, objectOfQueue(of)).ask(question),
      hear: (of, topic, data) => objectNamed(env, objectOfQueue(of)).hear(topic, data),
    };
    const looksAfter = queue !== "" || isOne(env);
    return python.pyimport("asman_edge.objects").begin(settings(env), env, ctx, queue, looksAfter, peers);
  }
}
