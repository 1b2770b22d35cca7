import { execFile, execFileSync } from "node:child_process";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Client } from "../../src/client.ts";
import { commandOf, htmlAttribute, pythonLiteral, shellLine } from "../../src/ui/parts/quoting.ts";
import {
  commandLineOf,
  curlOf,
  iframeOf,
  javascriptOf,
  linkOf,
  pythonOf,
  secretsIn,
  workerCommands,
} from "../../src/ui/parts/snippets.ts";

const has = (program: string) => {
  try {
    execFileSync(program, ["--version"]);
    return true;
  } catch {
    return false;
  }
};

const NASTY = `it's "q" $HOME \`id\` \\n \\' !x %s\n\ttab & <b> é 🎉 ${"\u2028"} </script> #`;
const DEFINITIONS: Record<string, unknown>[] = [
  { image: "alpine:3.19.1", command: "echo hello" },
  {
    image: "python:3.12",
    command: `sh -c '${NASTY.replaceAll("'", "")}'`,
    entrypoint: "",
    env: { A: NASTY, "B-c": "", "": "x" },
    configFiles: {
      "x'y.py": { type: "utf8", value: NASTY },
      j: { type: "json", value: [true, false, null, 1.5, {}, []] },
    },
    requirements: { cpus: 0.5, gpus: 1, memory: "2g", network: "none" },
    tags: ["'", "b"],
  },
  { build: { dockerfile: "FROM alpine\nRUN echo 'hi' > \"/x\"\n" }, command: ["sh", "-c", NASTY] },
];
const shared = (
  definition: Record<string, unknown>,
  control: Record<string, unknown> = {},
  server = "https://h.example",
) => ({
  server,
  queue: "q~1",
  definition,
  control,
});

/** The words that a shell makes of a line, and what it puts on the program's stdin. */
function shell(line: string, program: string): { argv: string[]; stdin: string } {
  const script = `${program}() { printf '%s\\0' "$@"; printf '\\1'; case "$*" in *"--definition -"*) cat;; esac; }\n${line}`;
  const [words = "", stdin = ""] = execFileSync("sh", ["-c", script]).toString().split("\x01");
  return { argv: words.split("\0").slice(0, -1), stdin };
}

describe.each(DEFINITIONS)("a shell reads it back: %j", (definition) => {
  it("curl", () => {
    const { argv } = shell(curlOf(shared(definition, { namespace: NASTY })), "curl");
    expect(argv.slice(0, 2)).toEqual(["-sS", "https://h.example/q/q~1"]);
    expect(JSON.parse(argv.at(-1) ?? "")).toEqual({ definition, control: { namespace: NASTY } });
  });

  it.each(["run", "submit"] as const)("asman %s", (command) => {
    const { argv, stdin } = shell(commandLineOf(shared(definition, { namespace: NASTY }), command), "asman");
    expect(argv.slice(0, 5)).toEqual([command, "--server", "https://h.example", "--namespace", NASTY]);
    if (argv.includes("--definition")) {
      expect(argv.slice(5)).toEqual(["--definition", "-", "q~1"]);
      expect(JSON.parse(stdin)).toEqual(definition);
    } else expect(argv.slice(5)).toEqual(["q~1", "alpine:3.19.1", "echo", "hello"]);
  });

  it("commands of words", () => {
    const words = [NASTY, "", "plain", JSON.stringify(definition)];
    expect(shell(`p ${shellLine(words)}`, "p").argv).toEqual(words);
  });
});

describe("a job is written with flags where they mean the same", () => {
  const line = (definition: Record<string, unknown>) => commandLineOf(shared(definition), "run");

  it("all of them", () => {
    const definition = {
      image: "a:1",
      command: "ls -la /x",
      workdir: "/my dir",
      entrypoint: "sh",
      shmSize: "1g",
      maxDuration: "20m",
      env: { A: "b c", E: "" },
      tags: ["t"],
      requirements: { cpus: 2, memory: "1g", gpus: 1 },
    };
    expect(line(definition)).toBe(
      "asman run --server https://h.example --workdir '/my dir' --entrypoint sh --shm-size 1g --max-duration 20m " +
        "-e 'A=b c' -e E= --tag t --cpus 2 --memory 1g --gpus 1 'q~1' a:1 ls -la /x",
    );
  });

  it.each([
    { image: "a", command: "echo 'a b'" },
    { image: "a", command: "echo $A" },
    { image: "a", command: "a  b" },
    { image: "a", command: "x -- y" },
    { image: "a", command: ["a"] },
    { image: "a", command: "" },
    { image: "-a" },
    { image: "a", requirements: { network: "none" } },
    { image: "a", env: { A: null } },
    { image: "a", maxDuration: 5000 },
    { image: "a", v: 1 },
    { build: { dockerfile: "FROM a" } },
  ])("and as JSON where not: %j", (definition) => {
    expect(JSON.parse(shell(line(definition), "asman").stdin)).toEqual(definition);
  });
});

describe("what is sent is the job", () => {
  let server: Server;
  let address = "";
  const bodies: { path: string; body: unknown; wait: string | undefined }[] = [];
  const answer = JSON.stringify({ success: true, jobId: "0".repeat(64), cached: false, state: "Queued" });

  beforeAll(async () => {
    server = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on("data", (chunk: Buffer) => chunks.push(chunk));
      request.on("end", () => {
        const text = Buffer.concat(chunks).toString();
        if (request.method === "POST")
          bodies.push({ path: request.url ?? "", body: JSON.parse(text), wait: request.headers.prefer as string });
        response.writeHead(request.method === "POST" ? 200 : 404, { "content-type": "application/json" });
        response.end(request.method === "POST" ? answer : "{}");
      });
    });
    await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
    address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterAll(() => server.close());

  const runs = async (program: string, args: string[]) =>
    (await promisify(execFile)(program, args, { env: { ...process.env, no_proxy: "*", http_proxy: "" } })).stdout;

  it.skipIf(!has("python3")).each(DEFINITIONS)("by Python: %j", async (definition) => {
    const out = await runs("python3", ["-c", pythonOf(shared(definition, { namespace: NASTY }, address))]);
    expect(out).toContain("0000 Queued");
    expect(bodies.pop()).toEqual({
      path: "/q/q~1",
      body: { definition, control: { namespace: NASTY } },
      wait: "wait=300",
    });
  });

  it.skipIf(!has("curl")).each(DEFINITIONS)("by curl: %j", async (definition) => {
    expect(JSON.parse(await runs("sh", ["-c", curlOf(shared(definition, {}, address))]))).toEqual(JSON.parse(answer));
    expect(bodies.pop()).toEqual({ path: "/q/q~1", body: { definition }, wait: "wait=300" });
  });

  it.each(DEFINITIONS)("by our module: %j", async (definition) => {
    const [, ...lines] = javascriptOf(shared(definition, { namespace: NASTY }, address)).split("\n");
    const AsyncFunction = (async () => {}).constructor as new (
      ...texts: string[]
    ) => (client: unknown) => Promise<void>;
    const program = new AsyncFunction("Client", lines.join("\n"));
    await expect(program(Client)).rejects.toThrow(); // there is no such job to wait for
    const sent = bodies.pop();
    expect(sent?.path).toBe("/q/q~1");
    expect(sent?.body).toMatchObject({ definition, control: { namespace: NASTY } });
  });
});

describe("the link", () => {
  const href = "https://h.example/j/1?x=1#pre?job=e30%3D&queue=old&queueOverride=o&ignoreQueueOverride=true&A=b%26c";

  it("has the queue that is meant, and no other", () => {
    expect(linkOf(href, "new/é")).toBe("https://h.example/j/1?x=1#pre?A=b%26c&job=e30%3D&queue=new%2F%C3%A9");
  });

  it("can leave it out", () => {
    expect(linkOf(href, null)).toBe("https://h.example/j/1?x=1#pre?A=b%26c&job=e30%3D");
    expect(linkOf("https://h.example/", null)).toBe("https://h.example/");
  });

  it("stands in a frame as it is", () => {
    const link = `https://h.example/#?A="x"&B=<y>&amp;`;
    const src = /src="([^"]*)"/.exec(iframeOf(link))?.[1] ?? "";
    const names: Record<string, string> = { "&amp;": "&", "&quot;": '"', "&lt;": "<", "&gt;": ">" };
    expect(src.replace(/&(amp|quot|lt|gt);/g, (name) => names[name] ?? name)).toBe(link);
    expect(htmlAttribute("a")).toBe('"a"');
  });
});

it("values are Python's", () => {
  const values = { a: [true, null, "x"], b: {}, c: [], d: -1.5e21 };
  expect(
    JSON.parse(execFileSync("python3", ["-c", `import json;print(json.dumps(${pythonLiteral(values)}))`]).toString()),
  ).toEqual(values);
});

it("a list is given where a worker's grammar differs from a shell's", () => {
  expect(commandOf(["echo", "a b"])).toBe("echo 'a b'");
  expect(commandOf(["echo", "a\\"])).toEqual(["echo", "a\\"]);
});

describe("secrets are noticed", () => {
  it.each(["API_KEY", "GITHUB_TOKEN", "DB_PASSWORD", "aws_secret_access_key", "token", "PGPASS_PASS", "MY-SECRET"])(
    "by the name %s",
    (name) => {
      expect(secretsIn({ env: { [name]: "x" } })).toEqual([name]);
      expect(secretsIn({ env: { [name]: "secret:NAME" } })).toEqual([]);
      expect(secretsIn({ env: { [name]: "" } })).toEqual([]);
    },
  );

  it.each(["KEYBOARD", "TOKENIZER", "AUTHOR", "SEED", "PASSES", "MONKEY"])("but not by the name %s", (name) => {
    expect(secretsIn({ env: { [name]: "x" } })).toEqual([]);
  });

  it.each(["ghp_abc", "AKIA123", "-----BEGIN KEY", "postgres://u:p@h/db", "hf_x"])("by the value %s", (value) => {
    expect(secretsIn({ env: { X: value } })).toEqual(["X"]);
  });

  it("in the address of a build", () => {
    expect(secretsIn({ build: { context: "https://u:p@h.example/r" } })).toEqual(["build.context"]);
    expect(secretsIn({ build: { context: "https://secret:T@h.example/r" } })).toEqual([]);
  });
});

it("a worker is started for the queue, near or far", () => {
  const far = workerCommands("https://h.example", "q");
  expect(far.plain).toBe("asman worker q --server https://h.example");
  expect(shell(far.docker, "docker").argv.slice(-4)).toEqual(["asman-worker", "q", "--server", "https://h.example"]);
  expect(far.docker).not.toContain("--network");
  expect(workerCommands("http://localhost:8000", "q").docker).toContain("--network host");
  expect(workerCommands("http://localhost:8000", "local", { lacksServer: true }).plain).toBe("asman up");
});

it("a worker is started with what a job needs of it", () => {
  const options = ["--gpus", "2", "--tags", "a100,x y"];
  const { plain, docker } = workerCommands("https://h.example", "q", { options });
  expect(shell(plain, "asman").argv).toEqual(["worker", "q", "--server", "https://h.example", ...options]);
  expect(shell(docker, "docker").argv.slice(-8)).toEqual([
    "asman-worker",
    "q",
    "--server",
    "https://h.example",
    ...options,
  ]);
  expect(docker).toContain("  --gpus all \\\n"); // before the image: the container sees them
  const up = workerCommands("http://localhost:8000", "local", { lacksServer: true, options: ["--tags", "a"] });
  expect(up.plain).toBe("asman up -- --tags a");
});
