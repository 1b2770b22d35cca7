// The Worker in Cloudflare's own runtime, on this machine and without a network: workerd, run by Miniflare.

import { Miniflare } from "miniflare";
import { workerModules } from "./modules.mjs";

export const COMPATIBILITY_DATE = "2026-04-01";

/**
 * A Miniflare with the Worker's modules and bindings; `await made.ready` is its URL, `await made.dispose()` its end.
 *
 * bundle: the file that the build made. port: 0 for any free one. bindings: variables of the Worker (ASMAN_...).
 * modules: others than the Worker's own, for tests. more: any other option of Miniflare's.
 */
export function workerdOf({ bundle, host = "127.0.0.1", port = 0, bindings = {}, modules, ...more } = {}) {
  return new Miniflare({
    host,
    port,
    modules: modules ?? workerModules(bundle),
    modulesRoot: "/",
    compatibilityDate: COMPATIBILITY_DATE,
    bindings,
    d1Databases: { JOBS: "jobs" },
    r2Buckets: { BLOBS: "blobs" },
    durableObjects: { QUEUES: { className: "QueueObject", useSQLite: true } },
    ...more,
  });
}

/** What the Worker's isolate says of itself. */
export async function about(served) {
  const objects = await served.getDurableObjectNamespace("QUEUES");
  return JSON.parse(await objects.get(objects.idFromName("any")).about());
}
