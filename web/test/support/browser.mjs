/** A headless Chromium, driven over its debugging protocol: enough for pictures and measurements. */

import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { WebSocket } from "ws";

const FLAGS = [
  "--headless=new",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--hide-scrollbars",
  "--remote-debugging-port=0",
];

export async function openBrowser(program = "/usr/bin/chromium") {
  const profile = await mkdtemp(join(tmpdir(), "shots-"));
  const child = spawn(program, [...FLAGS, `--user-data-dir=${profile}`, "about:blank"], { stdio: "ignore" });
  let address = "";
  for (let i = 0; i < 100 && !address; i++) {
    await sleep(100);
    const text = await readFile(join(profile, "DevToolsActivePort"), "utf8").catch(() => "");
    const [port, path] = text.split("\n");
    if (path) address = `ws://127.0.0.1:${port}${path}`;
  }
  if (!address) throw new Error(`${program} did not start`);
  const socket = new WebSocket(address, { perMessageDeflate: false });
  await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));

  let last = 0;
  const waiting = new Map();
  const listeners = new Set();
  socket.on("message", (data) => {
    const message = JSON.parse(data.toString());
    const { resolve, reject } = waiting.get(message.id) ?? {};
    waiting.delete(message.id);
    if (message.error) reject?.(new Error(message.error.message));
    else if (message.id) resolve?.(message.result);
    else for (const listener of listeners) listener(message);
  });
  const send = (method, params = {}, sessionId = undefined) =>
    new Promise((resolve, reject) => {
      waiting.set(++last, { resolve, reject });
      socket.send(JSON.stringify({ id: last, method, params, sessionId }));
    });

  async function page() {
    const { targetId } = await send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
    const faults = [];
    const own = (method, params) => send(method, params, sessionId);
    let onLoad = () => {};
    listeners.add((message) => {
      if (message.sessionId !== sessionId) return;
      if (message.method === "Page.loadEventFired") onLoad();
      if (message.method === "Runtime.exceptionThrown")
        faults.push(message.params.exceptionDetails.exception?.description);
      if (message.method === "Log.entryAdded" && message.params.entry.level === "error")
        faults.push(message.params.entry.text);
      if (message.method === "Runtime.consoleAPICalled" && message.params.type === "error")
        faults.push(message.params.args.map((each) => each.value ?? each.description).join(" "));
    });
    await Promise.all([own("Page.enable"), own("Runtime.enable"), own("Log.enable")]);
    const run = async (expression) => {
      const { result, exceptionDetails } = await own("Runtime.evaluate", {
        expression,
        awaitPromise: true,
        returnByValue: true,
      });
      if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
      return result.value;
    };
    return {
      faults,
      send: own,
      run,
      async go(url) {
        const loaded = new Promise((resolve) => {
          onLoad = resolve;
        });
        await own("Page.navigate", { url });
        await loaded;
        await run("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))");
      },
      /** Until nothing is loading any more. */
      settle: () => sleep(300),
      key: async (key, modifiers = 0) => {
        await own("Input.dispatchKeyEvent", { type: "keyDown", key, modifiers, text: modifiers ? undefined : key });
        await own("Input.dispatchKeyEvent", { type: "keyUp", key, modifiers });
      },
    };
  }

  return {
    page,
    async close() {
      socket.close();
      child.kill();
      await new Promise((resolve) => child.once("exit", resolve));
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}
