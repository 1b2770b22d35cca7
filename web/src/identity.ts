/**
 * What names a job: its id is the SHA-256 of its definition's canonical JSON.
 *
 * `jobId` is the rule of the server (known members only), `verbatimId` the one of older clients, under which the server
 * keeps a job just as well if it is stated. Both name the definition as it is sent: what JSON leaves out does not count.
 *
 * Source: published job id rules; the same vectors are read by the server's tests.
 */

import { ID_MEMBERS, ID_PICKED_MEMBERS, INJECTED_ENV, INJECTED_ENV_PREFIXES } from "./contract.gen.ts";
import { AsmanError } from "./errors.ts";
import { sha256 } from "./sha256.ts";

type Members = Record<string, unknown>;

/**
 * Write a JSON value the one way that is hashed: no blanks, members in the order of their UTF-16 code units, numbers and
 * text as ECMAScript writes them, members without a value left out.
 */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map((entry) => canonicalJson(entry ?? null)).join(",")}]`;
  if (isObject(value)) {
    const names = Object.keys(value).filter((name) => value[name] !== undefined);
    return `{${names
      .sort()
      .map((name) => `${JSON.stringify(name)}:${canonicalJson(value[name])}`)
      .join(",")}}`;
  }
  const text = typeof value === "bigint" ? undefined : JSON.stringify(value);
  if (text === undefined) throw bad(`a ${typeof value} is not a JSON value`);
  return text;
}

/** The id of a definition, by the server's rule: 64 lowercase hex digits. */
export function jobIdNow(definition: unknown): string {
  const sent = asSent(definition);
  return sha256(canonicalJson(isObject(sent) ? knownMembers(sent) : {}));
}

/** As `jobIdNow`, for those who can wait. */
export async function jobId(definition: unknown): Promise<string> {
  return jobIdNow(definition);
}

/** The id of a definition by the older rule: all of it counts but a few volatile members. */
export async function verbatimId(definition: unknown): Promise<string> {
  const sent = asSent(definition);
  return sha256(canonicalJson(isObject(sent) ? verbatimMembers(sent) : sent));
}

/** Is this variable one that host pages put into the environment? Such ones do not count for the id. */
export function isInjectedEnv(name: string): boolean {
  return (
    (INJECTED_ENV as readonly string[]).includes(name) ||
    INJECTED_ENV_PREFIXES.some((prefix) => name.startsWith(prefix))
  );
}

function asSent(definition: unknown): unknown {
  if (definition === null || definition === undefined) throw bad("the definition is null; an object was expected");
  try {
    return JSON.parse(JSON.stringify(definition));
  } catch (error) {
    throw bad(`the definition is no JSON value: ${error instanceof Error ? error.message : error}`);
  }
}

function knownMembers(definition: Members): Members {
  const kept: [string, unknown][] = ID_MEMBERS.filter((name) => has(definition, name)).map((n) => [n, definition[n]]);
  for (const [name, members] of Object.entries(ID_PICKED_MEMBERS)) {
    const given = definition[name];
    if (!isObject(given)) continue;
    const picked = members.filter((member) => has(given, member)).map((member) => [member, given[member]] as const);
    if (picked.length) kept.push([name, Object.fromEntries(picked)]);
  }
  const env = entries(definition, "env").filter(([name]) => !isInjectedEnv(name));
  if (env.length) kept.push(["env", Object.fromEntries(env)]);
  for (const name of REF_MAPS) {
    const refs = entries(definition, name);
    if (refs.length) kept.push([name, Object.fromEntries(refs.map(([n, ref]) => [n, knownRef(`${name}.${n}`, ref)]))]);
  }
  return Object.fromEntries(kept);
}

const REF_MAPS = ["inputs", "configFiles"] as const;

function knownRef(where: string, ref: unknown): Members {
  if (ref === null) throw nullRef(where);
  if (!isObject(ref)) return {};
  const kept: Members = {};
  if (has(ref, "type")) kept.type = ref.type;
  if (Object.hasOwn(ref, "value")) {
    kept.value = ref.type === "url" && typeof ref.value === "string" ? reducedUrl(ref.value) : ref.value;
  }
  return kept;
}

function verbatimMembers(definition: Members): Members {
  const kept = Object.entries(definition).map(([name, value]): [string, unknown] => {
    if (name === "env" && isObject(value)) {
      const own = Object.entries(value).filter(([key, v]) => !((key === "channel" || key === "CHANNEL") && v));
      return [name, Object.fromEntries(own)];
    }
    if (!(REF_MAPS as readonly string[]).includes(name)) return [name, value];
    const refs = entries(definition, name);
    if (!refs.length) return [name, value];
    return [name, Object.fromEntries(refs.map(([n, ref]) => [n, verbatimRef(`${name}.${n}`, ref)]))];
  });
  return Object.fromEntries(kept);
}

function verbatimRef(where: string, ref: unknown): unknown {
  if (ref === null) throw nullRef(where);
  if (!isObject(ref)) return ref;
  const kept = Object.fromEntries(Object.entries(ref).filter(([name]) => name !== "hash"));
  if (kept.type === "url") {
    if (typeof kept.value !== "string") throw bad(`${where} is a url ref without text as value`);
    kept.value = reducedUrl(kept.value);
  }
  return kept;
}

/** An object's members; numbers and booleans have none, and what is indexed by position is refused. */
function entries(definition: Members, name: string): [string, unknown][] {
  const value = Object.hasOwn(definition, name) ? definition[name] : undefined;
  if (isObject(value)) return Object.entries(value);
  if (typeof value === "string" ? value !== "" : Array.isArray(value) && value.length > 0) {
    throw bad(`${name} is ${typeof value === "string" ? "text" : "an array"}; an object was expected`);
  }
  return [];
}

// --- volatile URLs ---------------------------------------------------------------------------------------------------

const PRESIGNED = "/presignedurl/";
const LEGACY_BUCKET = "https://metaframe-asman-test.s3.us-west-1.amazonaws.com";

/** Cut what differs from one signing to the next. */
function reducedUrl(url: string): string {
  if (url.includes(PRESIGNED)) return url.slice(0, url.indexOf(PRESIGNED));
  if (!url.startsWith(LEGACY_BUCKET)) return url;
  const parsed = URL.canParse(url) ? new URL(url) : null;
  if (!parsed || parsed.username || parsed.password) throw bad(`the url ${JSON.stringify(url)} cannot be read`);
  parsed.search = "";
  parsed.hash = "";
  return parsed.href;
}

// --- small things ----------------------------------------------------------------------------------------------------

function isObject(value: unknown): value is Members {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function has(object: Members, name: string): boolean {
  return Object.hasOwn(object, name) && object[name] !== null;
}

function nullRef(where: string): AsmanError {
  return bad(`${where} is null; a data ref was expected`);
}

function bad(text: string): AsmanError {
  return new AsmanError(text, {
    code: "bad_definition",
    status: 422,
    hint: "Correct the named members of the definition.",
  });
}
