// The Worker and its objects. Python is loaded once per isolate, and the objects that share it share nothing else: what
// is done for one is never done in the name of another, so each has an app and stores of its own. A queue's object is
// the only one that writes the queue's jobs, and all sockets of the queue end in it.

import { DurableObject } from "cloudflare:workers";
import { answerWith, answerWithout, given, handle, lookAround } from "./front.mjs";
import { pythonOfIsolate } from "./workerd.mjs";

export default {
  fetch: (request, env) => handle(request, env),
  scheduled: (_, env) => lookAround(env),
};

export class QueueObject extends DurableObject {
  #host;

  async fetch(request) {
    let host;
    try {
      host = await this.#opened();
    } catch (error) {
      return answerWithout(error);
    }
    return answerWith(host, request);
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
    return (await this.#opened()).overdue();
  }

  /** A question about a job that is kept here. */
  async ask(question) {
    return (await this.#opened()).ask(question);
  }

  /** A message for who listens here. */
  async hear(topic, data) {
    await (await this.#opened()).hear(topic, data);
  }

  /** Of the isolate, which objects share: how much memory Python has, and how many of them have an app. */
  async about() {
    const python = await pythonOfIsolate();
    const apps = python.pyimport("asman_edge.objects").count_hosts();
    return JSON.stringify({ wasmBytes: python._module.HEAPU8.length, apps });
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
    return python.pyimport("asman_edge.objects").begin(...given(this.env, this.ctx));
  }
}
