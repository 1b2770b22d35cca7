// The service worker: answers what is asked for below its scope, with files of the build or by the server in a tab.
//
// It keeps nothing that it could not find again: it may be stopped at any time and started by the next request. Then it
// asks the open tabs which of them has the server. A classic script without imports, which every browser runs as one.
// `tab.mjs` writes BUILD before it: {version, bytes, files: {path below the scope: sha256 as base64}}.

const SCOPE = new URL(registration.scope);
const CACHE = `asman-tab ${SCOPE.pathname}`;
const KEPT = `${CACHE} ${BUILD.version}`;
const FIND_MS = 20_000;

/** Addresses that are the page for a reader who opens them, as the server has it. */
const PAGES = /^(|j\/[^/]+|q\/[^/]+)$/;

/** Only this origin: what this browser is told in this page stays in it. */
const ONLY_SELF = "default-src 'self'; connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'";
const POLICY = `${ONLY_SELF}; style-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; frame-src 'self' blob:; frame-ancestors 'self'; require-trusted-types-for 'script'`;
const WASM_POLICY = `${ONLY_SELF}; script-src 'self' 'wasm-unsafe-eval'`;

const TYPES = {
  html: "text/html; charset=UTF-8",
  js: "text/javascript; charset=UTF-8",
  mjs: "text/javascript; charset=UTF-8",
  css: "text/css; charset=UTF-8",
  svg: "image/svg+xml",
  json: "application/json; charset=UTF-8",
  woff2: "font/woff2",
  wasm: "application/wasm",
};

// --- the files of the build ------------------------------------------------------------------------------------------

addEventListener("install", (event) => event.waitUntil(keep()));
addEventListener("activate", (event) => event.waitUntil(begin()));

/** All of them, each with the hash that the build wrote down: what starts once starts without a network. */
async function keep() {
  const cache = await caches.open(KEPT);
  const names = Object.entries(BUILD.files);
  await Promise.all(
    names.map(async ([name, hash]) => {
      const url = new URL(name, SCOPE);
      const response = await fetch(url, { integrity: `sha256-${hash}`, cache: "no-cache" });
      if (!response.ok) throw new Error(`${url} answered ${response.status}`);
      await cache.put(url, response);
    }),
  );
}

async function begin() {
  for (const name of await caches.keys()) {
    if (name.startsWith(`${CACHE} `) && name !== KEPT) await caches.delete(name);
  }
  await clients.claim();
}

async function file(name) {
  const cache = await caches.open(KEPT);
  const kept = (await cache.match(new URL(name, SCOPE))) ?? (await fetch(new URL(name, SCOPE)));
  const headers = {
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
  };
  headers["content-type"] = TYPES[name.split(".").pop()] ?? "application/octet-stream";
  headers["content-security-policy"] = name === "tab/server.js" ? WASM_POLICY : POLICY;
  return new Response(kept.body, { status: kept.status, headers });
}

/** The page, told below which path its server is. */
async function page() {
  const made = await file("tab/page.html");
  const html = (await made.text()).replace('<base href="/"', `<base href="${SCOPE.pathname}"`);
  return new Response(html, { status: made.status, headers: made.headers });
}

// --- the server ------------------------------------------------------------------------------------------------------

/** Named before it is told to anybody; released by the browser when this service worker is stopped. */
const LIFE = `alive ${crypto.randomUUID()}`;
const living = new Promise((held) => {
  navigator.locks.request(LIFE, () => {
    held();
    return new Promise(() => {});
  });
});

let server;
let finding = promised();
let count = 0;

function promised() {
  const made = {};
  made.promise = new Promise((resolve) => {
    made.resolve = resolve;
  });
  return made;
}

/** The port to it, and what waits for its answers; undefined if no open tab has it. */
async function find() {
  if (server) return server;
  for (const tab of await clients.matchAll({ type: "window" })) tab.postMessage({ isWanted: true });
  const late = new Promise((resolve) => setTimeout(resolve, FIND_MS));
  return Promise.race([finding.promise, late]);
}

addEventListener("message", (event) => {
  const { data, ports } = event;
  if (data?.server) event.waitUntil(found(data.server, ports[0]));
  else if (data?.socket) event.waitUntil(connect(data.socket, ports[0]));
});

async function found(life, port) {
  await living;
  if (server?.life === life) return port.close();
  const ending = new AbortController();
  const mine = { life, port, asked: new Map(), ended: ending.signal };
  port.onmessage = ({ data }) => {
    mine.asked.get(data.id)?.(data);
    mine.asked.delete(data.id);
  };
  port.postMessage({ life: LIFE });
  server = mine;
  finding.resolve(mine);
  navigator.locks.request(life, { mode: "shared" }, () => {
    if (server === mine) {
      server = undefined;
      finding = promised();
    }
    for (const answer of mine.asked.values()) answer(undefined);
    ending.abort();
  });
}

async function connect(socket, port) {
  const found = await find();
  if (found) found.port.postMessage({ socket }, [port]);
  else port.postMessage({ close: [1006, ""] });
}

// --- requests --------------------------------------------------------------------------------------------------------

addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (url.origin !== SCOPE.origin || !url.pathname.startsWith(SCOPE.pathname)) return;
  const name = url.pathname.slice(SCOPE.pathname.length);
  const isRead = request.method === "GET" || request.method === "HEAD";
  if (isRead && Object.hasOwn(BUILD.files, name)) event.respondWith(file(name));
  else if (isRead && request.mode === "navigate" && PAGES.test(name)) event.respondWith(page());
  else event.respondWith(ask(event));
});

async function ask(event) {
  const { request } = event;
  const found = await find();
  if (!found) return unavailable("no open tab has the server of this address");
  const body = await bodyOf(request);
  const id = ++count;
  const answered = promised();
  found.asked.set(id, answered.resolve);
  request.signal.addEventListener("abort", () => found.port.postMessage({ id, isGone: true }));
  const { method, url, headers } = request;
  found.port.postMessage({ id, method, url, headers: [...headers], body }, body ? [body] : []);
  const answer = found.ended.aborted ? undefined : await answered.promise;
  if (!answer) return unavailable("the server of this browser ended before it answered; it starts again");
  const { status, headers: named } = answer;
  if (!answer.body) return new Response(null, { status, headers: named });
  const { readable, writable } = new TransformStream();
  event.waitUntil(answer.body.pipeTo(writable, { signal: found.ended }).catch(() => {}));
  return new Response(readable, { status, headers: named });
}

/** A stream, also where the browser does not show the body of a request as one. */
async function bodyOf(request) {
  if (request.method === "GET" || request.method === "HEAD") return undefined;
  return request.body ?? (await request.blob()).stream();
}

function unavailable(error) {
  const said = { error, code: "unavailable", hint: "Try again, with the page open in a tab: the server is in it." };
  return Response.json(said, { status: 503, headers: { "retry-after": "1", "cache-control": "no-store" } });
}
