import { DurableObject } from "cloudflare:workers";
import { answer } from "./lines.mjs";
import { pythonOfIsolate } from "./workerd.mjs";

export default {
  async fetch(request, env) {
    return env.QUEUES.get(env.QUEUES.idFromName("any")).fetch(request);
  },
};

export class QueueObject extends DurableObject {
  #host;

  async fetch(request) {
    this.#host ??= this.#begin();
    return answer(await this.#host, request);
  }

  async #begin() {
    const python = await pythonOfIsolate();
    return python.pyimport("asman_edge.host").begin(JSON.stringify({ flags: { backend: "memory" }, environ: {} }));
  }
}
