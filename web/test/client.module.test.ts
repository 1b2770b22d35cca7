/** The module as it is published: built, imported by programs that know nothing of this folder. */

import { spawn, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { missing, ScriptedWorker, Served } from "./support/asman.ts";

const WEB = dirname(dirname(fileURLToPath(import.meta.url)));
const DOCS = join(WEB, "..", "docs", "client.md");
const reason = missing();
const program = mkdtempSync(join(tmpdir(), "asman-program-"));
const installed = join(program, "node_modules", "asman");

beforeAll(() => {
  const tsc = join(WEB, "node_modules", "typescript", "bin", "tsc");
  const built = join(installed, "dist", "client");
  mkdirSync(built, { recursive: true });
  const done = spawnSync(process.execPath, [tsc, "-p", "tsconfig.client.json", "--outDir", built], {
    cwd: WEB,
    encoding: "utf8",
  });
  expect(done.stdout).toBe("");
  cpSync(join(WEB, "package.json"), join(installed, "package.json"));
}, 60_000);

afterAll(() => rmSync(program, { recursive: true, force: true }));

/** What a program prints; it has to end by itself, without a word to stderr. */
async function run(name: string, text: string): Promise<string[]> {
  writeFileSync(join(program, name), text);
  const child = spawn(process.execPath, [name], { cwd: program, stdio: ["ignore", "pipe", "pipe"] });
  let out = "";
  let err = "";
  child.stdout.on("data", (chunk) => {
    out += chunk;
  });
  child.stderr.on("data", (chunk) => {
    err += chunk;
  });
  const code = await new Promise((resolve) => child.once("close", resolve));
  expect({ code, err }, out).toEqual({ code: 0, err: "" });
  return out.trim().split("\n");
}

const ID = "60df706d2979acdde563d0b3014d1fcccada8894cadfad24dedca2f26d33c865";

test("it is imported in plain Node", async () => {
  const text = `import { jobId } from "asman"; console.log(await jobId({ image: "alpine:3.18.5", command: "echo hi" }));`;
  expect(await run("plain.mjs", text)).toEqual([ID]);
});

test("it is imported in a worker", async () => {
  writeFileSync(
    join(program, "inner.mjs"),
    `import { parentPort } from "node:worker_threads"; import { jobIdNow } from "asman";
     parentPort.postMessage(jobIdNow({ image: "alpine:3.18.5", command: "echo hi" }));`,
  );
  const text = `import { Worker } from "node:worker_threads";
    new Worker(new URL("inner.mjs", import.meta.url)).on("message", (id) => console.log(id));`;
  expect(await run("outer.mjs", text)).toEqual([ID]);
});

test("it imports nothing but itself, and has types for everything", () => {
  const folder = join(installed, "dist", "client");
  const seen = new Set<string>();
  const look = (file: string) => {
    if (seen.has(file)) return;
    seen.add(file);
    for (const ending of [".js", ".d.ts"]) {
      const text = readFileSync(join(folder, file.replace(/\.[jt]s$/, ending)), "utf8");
      for (const [, from] of text.matchAll(/(?:from|import\()\s*"([^"]+)"/g)) {
        expect(from).toMatch(/^\.\/[\w.]+\.[jt]s$/);
        look(String(from).slice(2));
      }
    }
  };
  look("index.js");
  expect([...seen].join()).not.toContain("ui/");
  expect(seen.size).toBeGreaterThan(6);
});

describe.skipIf(reason)("the examples of docs/client.md", { timeout: 60_000 }, () => {
  const server = new Served("--backend", "memory");
  let worker: ScriptedWorker;
  const blocks = [...readFileSync(DOCS, "utf8").matchAll(/^```js\n(.*?)^```$/gms)].map((found) => String(found[1]));

  beforeAll(async () => {
    await server.start();
    worker = await new ScriptedWorker(server.url, "my-queue").connect();
    void (async () => {
      for (;;) {
        const container = await worker.next();
        container.say("said\n");
        container.end({ outputs: { "out.txt": { type: "utf8", value: "written" } } });
      }
    })();
  }, 60_000);

  afterAll(async () => {
    worker?.close();
    await server.end();
  });

  const prints: Record<string, (string | RegExp)[]> = {
    "run and wait": ["succeeded 0", "out.txt 7 written"],
    watch: [/^(Queued|Running scripted|Finished)/, /^run false said$/, /^ended: succeeded$/],
    "send files": [/^[0-9a-f]{64} \[\]$/],
    why: [/^no connected worker fits: gpus 0$/, /^scripted \[/, /^true$/, /^bad_definition /],
    socket: [/^connecting null$/, /^connected null$/, /^\[ 'scripted' \]$/, /^\d+ jobs true$/],
  };

  test("there are as many as are looked at", () => {
    expect(blocks).toHaveLength(Object.keys(prints).length);
  });

  test.each(Object.keys(prints).map((name, index) => [name, index] as const))("%s", async (name, index) => {
    let text = String(blocks[index]).replaceAll("http://localhost:8000", server.url);
    if (name === "socket") {
      const ws = JSON.stringify(join(WEB, "node_modules", "ws", "wrapper.mjs"));
      text = `import { WebSocket } from ${ws};\nglobalThis.WebSocket ??= WebSocket;\n${text}`;
    }
    const printed = await run(`example-${index}.mjs`, text);
    for (const expected of prints[name] ?? []) {
      expect(
        printed.some((line) => (typeof expected === "string" ? line === expected : expected.test(line))),
        `${expected} in ${printed.join("\n")}`,
      ).toBe(true);
    }
  });
});
