/** The job of the page, written for other programs: each text can be pasted and run. Pure. */

import { formatHash, parseHash } from "../hash.ts";
import { commandOf, htmlAttribute, pythonLiteral, shellLine, shellWord } from "./quoting.ts";
import { isObject } from "./validate.ts";

export interface Shared {
  /** Where the API of this queue is, such as `https://compute.example.org`. */
  server: string;
  queue: string;
  definition: Record<string, unknown>;
  /** As it is submitted; a namespace `_` is none. */
  control: Record<string, unknown>;
}

/** Stands in a snippet for a queue that is not told. */
export const UNTOLD_QUEUE = "MY-QUEUE";

/**
 * The address of the page with this job. `queue` is written into it; null leaves every queue out.
 *
 * `href` is the page's own; a queue that the host page sets goes, because the link stands for itself.
 */
export function linkOf(href: string, queue: string | null): string {
  const [page = "", ...rest] = href.split("#");
  const { pre, values } = parseHash(rest.join("#"));
  const kept = new Map(values);
  for (const name of ["queue", "queueOverride", "ignoreQueueOverride"]) kept.delete(name);
  if (queue) kept.set("queue", encodeURIComponent(queue));
  return page + formatHash({ pre, values: kept });
}

export function iframeOf(link: string): string {
  return [
    "<iframe",
    `  src=${htmlAttribute(link)}`,
    '  title="Container job"',
    '  allow="clipboard-write"',
    '  width="100%"',
    '  height="480"',
    "></iframe>",
  ].join("\n");
}

export function curlOf(shared: Shared): string {
  const body = JSON.stringify(bodyOf(shared), null, 2);
  return [
    `curl -sS ${shellWord(submitUrl(shared))} \\`,
    "  -H 'Content-Type: application/json' \\",
    "  -H 'Prefer: wait=300' \\",
    `  --data-binary ${shellWord(body)}`,
  ].join("\n");
}

/** `asman run` or `asman submit`; with flags where they mean exactly this definition, else with its JSON. */
export function commandLineOf(shared: Shared, command: "run" | "submit"): string {
  const namespace = namespaceOf(shared);
  const leading = [
    "asman",
    command,
    "--server",
    shared.server,
    ...(namespace === null ? [] : ["--namespace", namespace]),
  ];
  const flags = flagsOf(shared.definition);
  if (flags) return shellLine([...leading, ...flags.options, shared.queue, flags.image, ...flags.argv]);
  const json = JSON.stringify(shared.definition, null, 2);
  return `${shellLine([...leading, "--definition", "-", shared.queue])} <<'DEFINITION'\n${json}\nDEFINITION`;
}

export function pythonOf(shared: Shared): string {
  return `import json
from urllib.request import Request, urlopen

body = ${pythonLiteral(bodyOf(shared))}
request = Request(
    ${JSON.stringify(submitUrl(shared))},
    data=json.dumps(body).encode(),
    headers={"Content-Type": "application/json", "Prefer": "wait=300"},
)
with urlopen(request, timeout=330) as response:
    answer = json.load(response)
print(answer["jobId"], answer["state"])
print(json.dumps(answer.get("data"), indent=2))
`;
}

export function javascriptOf(shared: Shared): string {
  const { queue, server, definition } = shared;
  const hasControl = Object.keys(controlOf(shared)).length > 0;
  const options = hasControl ? `, {\n  control: ${indented(controlOf(shared))},\n}` : "";
  return `import { Client } from "asman";

const client = new Client({ server: ${JSON.stringify(server)} });
const queue = ${JSON.stringify(queue)};
const definition = ${JSON.stringify(definition, null, 2)};
const { jobId } = await client.submit(queue, definition${options});
const result = await client.wait(queue, jobId);
console.log(jobId, result);
for (const { name, url } of await client.outputs(queue, jobId)) console.log(name, url);
`;
}

/**
 * How a worker of this queue is started: on a machine with asman, and as a container. `options` are what a job needs of
 * it. Where a local server is wanted and there is none (`lacksServer`), both are started at once.
 */
export function workerCommands(
  server: string,
  queue: string,
  { options = [], lacksServer = false }: { options?: readonly string[]; lacksServer?: boolean } = {},
): { plain: string; docker: string } {
  const isNear = /^https?:\/\/(localhost|127\.0\.0\.1|\[::1\])(:|\/|$)/.test(server);
  const words = [queue, "--server", server, ...options];
  const docker = [
    "docker run -d --name asman-worker --restart unless-stopped \\",
    "  -v /var/run/docker.sock:/var/run/docker.sock \\",
    "  -v /var/lib/asman-worker:/var/lib/asman-worker \\",
    ...(isNear ? ["  --network host \\"] : []),
    ...(options.includes("--gpus") ? ["  --gpus all \\"] : []), // by which it finds them
    `  asman-worker ${shellLine(words)}`,
  ];
  const up = ["asman", "up", ...(options.length > 0 ? ["--", ...options] : [])];
  return { plain: shellLine(lacksServer ? up : ["asman", "worker", ...words]), docker: docker.join("\n") };
}

// --- what is told to the reader --------------------------------------------------------------------------------------

const SECRET_NAME =
  /(^|[_-])(token|secrets?|password|passwd|pwd|pass|passphrase|api_?key|apikey|access_?key|private_?key|secret_?key|credentials?|auth|bearer|session_?id|cookie)([_-]|$)/i;
const SECRET_VALUE =
  /^(gh[pousr]_|github_pat_|glpat-|sk-|sk_live_|rk_live_|AKIA|ASIA|xox[abprs]-|hf_|npm_|pypi-|AIza|dckr_pat_|eyJ[\w-]+\.eyJ|-----BEGIN)/;
const CREDENTIAL_URL = /:\/\/[^/\s:@]+:[^/\s@]+@/;

/** Where a definition seems to hold a secret. What a worker keeps (`secret:NAME`) is none. */
export function secretsIn(definition: Record<string, unknown>): string[] {
  const found: string[] = [];
  const env = isObject(definition.env) ? definition.env : {};
  for (const [name, value] of Object.entries(env)) {
    if (typeof value !== "string" || value === "" || value.startsWith("secret:")) continue;
    if (SECRET_NAME.test(name) || SECRET_VALUE.test(value) || CREDENTIAL_URL.test(value)) found.push(name);
  }
  const context = isObject(definition.build) ? definition.build.context : "";
  if (typeof context === "string" && CREDENTIAL_URL.test(context) && !context.includes("://secret:"))
    found.push("build.context");
  return found;
}

// --- parts -----------------------------------------------------------------------------------------------------------

function submitUrl({ server, queue }: Shared): string {
  return `${server}/q/${encodeURIComponent(queue)}`;
}

function bodyOf(shared: Shared): Record<string, unknown> {
  const control = controlOf(shared);
  return { definition: shared.definition, ...(Object.keys(control).length > 0 ? { control } : {}) };
}

function controlOf({ control }: Shared): Record<string, unknown> {
  const { namespace, ...rest } = control;
  return namespace && namespace !== "_" ? { namespace, ...rest } : rest;
}

function namespaceOf({ control }: Shared): string | null {
  const { namespace } = control;
  return typeof namespace === "string" && namespace !== "" && namespace !== "_" ? namespace : null;
}

function indented(value: unknown): string {
  return JSON.stringify(value, null, 2).replaceAll("\n", "\n  ");
}

interface Flags {
  options: string[];
  image: string;
  argv: string[];
}

/** The definition as flags of the command line, or null if they would make another one. */
function flagsOf(definition: Record<string, unknown>): Flags | null {
  const { image, command, env, tags, requirements, ...rest } = definition;
  if (typeof image !== "string" || image === "" || image.startsWith("-")) return null;
  const argv = command === undefined ? [] : argvOf(command);
  if (argv === null) return null;
  const options: string[] = [];
  const names: Record<string, string> = {
    workdir: "--workdir",
    entrypoint: "--entrypoint",
    shmSize: "--shm-size",
    maxDuration: "--max-duration",
  };
  for (const [name, value] of Object.entries(rest)) {
    const flag = names[name];
    if (!flag || typeof value !== "string" || value === "") return null;
    options.push(flag, value);
  }
  for (const [name, value] of Object.entries(isObject(env) ? env : {})) {
    if (typeof value !== "string") return null;
    options.push("-e", `${name}=${value}`);
  }
  for (const tag of Array.isArray(tags) ? tags : []) options.push("--tag", String(tag));
  for (const [name, value] of Object.entries(isObject(requirements) ? requirements : {})) {
    if (name === "memory" && typeof value === "string") options.push("--memory", value);
    else if ((name === "gpus" || name === "cpus") && typeof value === "number")
      options.push(`--${name}`, String(value));
    else return null;
  }
  return { options, image, argv };
}

/** The words that the command line would write as this command; null if there are none. */
function argvOf(command: unknown): string[] | null {
  if (typeof command !== "string" || command === "" || command.includes("$")) return null;
  const words = command.split(" ");
  return commandOf(words) === command && !words.includes("--") ? words : null;
}
