// Which object answers a request: what asman/routes say of paths, as far as it takes to find the queue in them.
//
// One object is named for each queue and is the only one that writes the queue's jobs. What names no queue is shared out
// among a few others, by what it asks for.

const NAME = /^[A-Za-z0-9._~-]{1,128}$/;
const FILES = new Set(["f", "upload", "download"]);
const ROLES = new Set(["client", "browser", "worker"]);
const FILE_OBJECTS = 64;
const JOB_OBJECTS = 16;

/** Answers what concerns no queue, and what is refused whoever is asked. */
export const ANY = "any";

export const objectOfQueue = (queue) => `queue ${queue}`;

/** The queue that an object is for; "" if it is for none. */
export const queueOfObject = (name) => (name.startsWith("queue ") ? name.slice("queue ".length) : "");

/** The name of the object. `path` as it was asked for, still encoded. */
export function objectOf(path, { isSocket = false } = {}) {
  const pieces = decoded(path)?.split("/").slice(1);
  if (!pieces) return ANY;
  const queue = isSocket ? queueOfSocket(pieces) : queueOf(pieces);
  if (queue !== undefined) return NAME.test(queue) ? objectOfQueue(queue) : ANY;
  if (pieces[0] === "api" && pieces[2] === "download") return shared("files", pieces[3], FILE_OBJECTS);
  if (FILES.has(pieces[0])) return shared("files", pieces[1], FILE_OBJECTS);
  if (pieces[0] === "j") return shared("jobs", pieces[1]?.slice(0, 64), JOB_OBJECTS);
  return ANY;
}

/** Of a request that takes a job over into another queue, that queue's object: it is named in the body. */
export function objectOfCopy(body) {
  try {
    const { queue } = JSON.parse(body);
    return typeof queue === "string" && NAME.test(queue) ? objectOfQueue(queue) : ANY;
  } catch {
    return ANY;
  }
}

export const isCopy = (method, path) => method === "POST" && /^\/j\/[^/]+\/copy$/.test(decoded(path) ?? "");

function queueOf(pieces) {
  if (pieces[0] === "q") return pieces[1];
  return pieces.length === 2 && (pieces[1] === "status" || pieces[1] === "metrics") ? pieces[0] : undefined;
}

/** As `parse_socket_path` reads it. */
function queueOfSocket(pieces) {
  const named = pieces.filter(Boolean).map((piece) => decoded(piece) ?? "");
  if (named[0] === "q") named.shift();
  return ROLES.has(named[1]) ? named[0] : undefined;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

function shared(kind, key, among) {
  if (!key) return ANY;
  let hash = 2166136261; // FNV-1a
  for (let at = 0; at < key.length; at++) hash = Math.imul(hash ^ key.charCodeAt(at), 16777619);
  return `${kind} ${(hash >>> 0) % among}`;
}
