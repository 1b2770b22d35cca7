// What the Worker and its objects have in common, whether they are classes of JavaScript (worker.mjs) or of Python
// (entry.py): the Worker finds the object that answers, an object answers with the host of its app.

import { answer } from "./lines.mjs";
import { answerSocket } from "./pair.mjs";
import { ANY, isCopy, objectOf, objectOfCopy, objectOfQueue, queueOfObject } from "./routing.mjs";

const DEFAULTS = { ASMAN_BACKEND: "d1://JOBS", ASMAN_BLOBS: "r2://BLOBS", ASMAN_HOST: "0.0.0.0" };
const COPY_BYTES = 1 << 20;

/** In memory there is nothing that objects could share: one of them is everything. */
const isOne = (env) => env.ASMAN_BACKEND === "memory";

const objectNamed = (env, name) => env.QUEUES.get(env.QUEUES.idFromName(isOne(env) ? ANY : name));

const isSocket = (request) => (request.headers.get("upgrade") ?? "").toLowerCase() === "websocket";

// --- the Worker ------------------------------------------------------------------------------------------------------

export async function handle(request, env) {
  const path = new URL(request.url).pathname;
  if (isCopy(request.method, path) && !isOne(env)) return copy(request, env);
  return objectNamed(env, objectOf(path, { isSocket: isSocket(request) })).fetch(request);
}

/** What no alarm did: an object whose alarm was lost, and blobs whose time is over. */
export async function lookAround(env) {
  const any = objectNamed(env, ANY);
  for (const queue of JSON.parse(await any.overdue())) await objectNamed(env, objectOfQueue(queue)).sweep();
  await any.prune();
}

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

function refusal(status, error, code, hint) {
  return Response.json({ error, code, hint }, { status });
}

// --- an object -------------------------------------------------------------------------------------------------------

/** What `begin` of asman_edge.objects takes of an object: all arguments, in its order. */
export function given(env, ctx) {
  const defaults = isOne(env) ? { ASMAN_HOST: DEFAULTS.ASMAN_HOST } : DEFAULTS;
  const named = Object.entries({ ...defaults, ...env }).filter(([name]) => name.startsWith("ASMAN_"));
  const queue = queueOfObject(ctx.id.name);
  const peers = {
    ask: (of, question) => objectNamed(env, objectOfQueue(of)).ask(question),
    hear: (of, topic, data) => objectNamed(env, objectOfQueue(of)).hear(topic, data),
  };
  return [JSON.stringify({ environ: Object.fromEntries(named) }), env, ctx, queue, queue !== "" || isOne(env), peers];
}

export function answerWith(host, request) {
  const client = [request.headers.get("cf-connecting-ip") ?? "", 0];
  return isSocket(request) ? answerSocket(host, request, { client }) : answer(host, request, { client });
}

/** The answer of an object whose app could not be made. */
export function answerWithout(error) {
  console.error(error.message);
  return refusal(500, "the server could not start", "internal_error", "Its log says why.");
}
