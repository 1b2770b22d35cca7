/**
 * Can a worker use this definition? The rules of the server (`asman/definition.py`), told before anything is sent.
 *
 * The server decides; this only says the same earlier, in the same words and at the same places. Both read
 * `tests/vectors/definitions.json`. A `fault` is refused everywhere. `excess` is more than the limits that are given
 * here, which are those of a public server unless told otherwise: a private server may allow more. A `warning` is about
 * something that is kept and has no effect.
 */

export interface Finding {
  /** A dotted path such as `definition.env.PATH`. */
  where: string;
  what: string;
}

export interface Findings {
  faults: Finding[];
  excess: Finding[];
  warnings: string[];
}

export interface Limits {
  definitionBytes: number;
  inlineDataBytes: number;
  envEntries: number;
  envValueBytes: number;
  commandBytes: number;
  tags: number;
  maxDurationS: number;
}

export const PUBLIC_LIMITS: Limits = {
  definitionBytes: 256 << 10,
  inlineDataBytes: 128 << 10,
  envEntries: 64,
  envValueBytes: 8 << 10,
  commandBytes: 32 << 10,
  tags: 32,
  maxDurationS: 86_400,
};

type Members = Record<string, unknown>;

const KNOWN = new Set(
  "v image build command entrypoint env workdir shmSize inputs configFiles maxDuration tags requirements".split(" "),
);
const KNOWN_BUILD = new Set("context buildContext filename target dockerfile buildArgs platform".split(" "));
const KNOWN_REQUIREMENTS = new Set("cpus gpus maxDuration memory network".split(" "));
const KNOWN_REF = new Set(["type", "value", "hash"]);
const REF_TYPES = ["base64", "json", "key", "url", "utf8"];
const MAX_CORES = 1024;
const MAX_GPUS = 64;
const MAX_MEMORY_BYTES = 2 ** 50;
const MAX_TAG_CHARACTERS = 64;
const MAX_ENV_NAME_CHARACTERS = 128;
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const BLANK_OR_CONTROL = /[\x00-\x20\x7f]/;

/** Everything that is wrong with a definition, each with its place. */
export function checkDefinition(raw: unknown, limits: Limits = PUBLIC_LIMITS): Findings {
  const findings: Findings = { faults: [], excess: [], warnings: [] };
  if (!isObject(raw)) {
    findings.faults.push({ where: "definition", what: "not an object" });
    return findings;
  }
  const check = new Checker(raw, limits, findings);
  check.top();
  check.build();
  check.env();
  check.refs();
  check.tags();
  check.requirements();
  check.amounts();
  return findings;
}

/** The namespace under which a job is held; null if it is fine. Source: asman/identity.py, check_namespace. */
export function namespaceFault(namespace: string): string | null {
  if (namespace === "*") return "* stands for all namespaces; a job is submitted to one. Use another name.";
  const size = utf8Size(namespace);
  if (size < 1 || size > 256) return `The namespace has ${size} bytes; 1 to 256 are allowed.`;
  if (NOT_PRINTABLE.test(namespace)) return "The namespace holds characters that cannot be printed. Remove them.";
  return null;
}

/** One line for a person: the place as a name, and what is wrong there. */
export function sentence({ where, what }: Finding): string {
  const place = where.replace(/^definition\.?/, "");
  return place ? `${place}: ${what}` : `The definition is ${what}`;
}

class Checker {
  private readonly raw: Members;
  private readonly limits: Limits;
  private readonly found: Findings;

  constructor(raw: Members, limits: Limits, found: Findings) {
    this.raw = raw;
    this.limits = limits;
    this.found = found;
  }

  top(): void {
    this.unknown("", this.raw, KNOWN);
    const image = this.text(this.raw, "image", "image");
    if (!image && !isFilled(this.raw.build) && this.found.faults.length === 0)
      this.fault("image", "is missing: a job needs an image or a build");
    else if (typeof this.raw.image === "string" && BLANK_OR_CONTROL.test(this.raw.image))
      this.fault("image", `${clip(this.raw.image)} holds blanks or control characters`);
    const v = this.raw.v;
    if (v !== undefined && v !== null && !["number", "string", "boolean"].includes(typeof v))
      this.fault("v", `is ${kind(v)}; a number was expected`);
    const workdir = this.text(this.raw, "workdir", "workdir");
    if (workdir && !workdir.startsWith("/")) this.fault("workdir", `${clip(workdir)} is not an absolute path`);
    for (const name of ["command", "entrypoint"]) {
      if (Array.isArray(this.raw[name])) this.texts(this.raw, name, name);
      else this.text(this.raw, name, name);
    }
    this.memory(this.raw, "shmSize", "shmSize");
  }

  build(): void {
    const build = this.object(this.raw, "build");
    if (!isFilled(build)) return;
    this.unknown("build", build, KNOWN_BUILD);
    const context = this.text(build, "context", "build.context");
    const dockerfile = this.text(build, "dockerfile", "build.dockerfile");
    if (context) this.context(context);
    else if (!dockerfile) this.fault("build", "has neither a context nor a dockerfile");
    for (const name of ["buildContext", "filename"]) {
      const path = this.text(build, name, `build.${name}`);
      if (path.startsWith("/") || path.includes("\\") || path.split("/").includes(".."))
        this.fault(`build.${name}`, `${clip(path)} does not stay inside the build context`);
    }
    for (const name of ["target", "platform"]) {
      if (BLANK_OR_CONTROL.test(this.text(build, name, `build.${name}`)))
        this.fault(`build.${name}`, "holds blanks or control characters");
    }
    for (const [index, argument] of this.texts(build, "buildArgs", "build.buildArgs").entries()) {
      if ((argument.split("=")[0] ?? "").trim() === "")
        this.fault(`build.buildArgs[${index}]`, `${clip(argument)} is not of the form NAME=VALUE`);
    }
  }

  env(): void {
    const env = this.object(this.raw, "env");
    const count = Object.keys(env).length;
    if (isOver(count, this.limits.envEntries))
      this.tooMuch("env", `has ${count} entries; at most ${this.limits.envEntries} are allowed`);
    for (const name of Object.keys(env)) {
      const where = `env.${name}`;
      if (!isEnvName(name))
        this.fault(
          where,
          `${clip(name)} is no variable name: 1 to ${MAX_ENV_NAME_CHARACTERS} characters, no = and no blanks`,
        );
      const size = utf8Size(this.text(env, name, where));
      if (isOver(size, this.limits.envValueBytes))
        this.tooMuch(where, `has ${size} bytes; at most ${this.limits.envValueBytes} are allowed`);
    }
  }

  refs(): void {
    for (const section of ["inputs", "configFiles"]) {
      const refs = this.object(this.raw, section);
      for (const [name, ref] of Object.entries(refs)) {
        const fault = fileNameFault(name, section === "configFiles");
        if (fault) this.fault(`${section}.${name}`, fault);
        this.ref(ref, `${section}.${name}`);
      }
      for (const name of Object.keys(refs)) {
        const parts = name.split("/");
        for (let depth = 1; depth < parts.length; depth++) {
          const folder = parts.slice(0, depth).join("/");
          if (Object.hasOwn(refs, folder)) this.fault(`${section}.${name}`, `lies in ${clip(folder)}, which is a file`);
        }
      }
    }
  }

  tags(): void {
    const tags = this.texts(this.raw, "tags", "tags");
    if (isOver(tags.length, this.limits.tags))
      this.tooMuch("tags", `has ${tags.length} entries; at most ${this.limits.tags} are allowed`);
    for (const [index, tag] of tags.entries()) {
      const size = [...tag].length;
      if (size < 1 || size > MAX_TAG_CHARACTERS)
        this.fault(`tags[${index}]`, `has ${size} characters; 1 to ${MAX_TAG_CHARACTERS} are allowed`);
    }
  }

  requirements(): void {
    const asked = this.object(this.raw, "requirements");
    this.unknown("requirements", asked, KNOWN_REQUIREMENTS);
    const network = this.text(asked, "network", "requirements.network");
    if (!["", "none", "egress"].includes(network))
      this.fault("requirements.network", `is ${clip(network)}; "none" or "egress" (the public internet) expected`);
    this.duration(this.raw, "maxDuration", "maxDuration");
    this.duration(asked, "maxDuration", "requirements.maxDuration");
    const cpus = asked.cpus ?? null;
    if (cpus !== null && !(typeof cpus === "number" && cpus > 0 && cpus <= MAX_CORES))
      this.fault("requirements.cpus", `${clip(cpus)} is not a number above 0 and up to ${MAX_CORES}`);
    this.memory(asked, "memory", "requirements.memory");
    const gpus = typeof asked.gpus === "boolean" ? Number(asked.gpus) : (asked.gpus ?? null);
    if (gpus !== null && !(typeof gpus === "number" && Number.isInteger(gpus) && gpus >= 0 && gpus <= MAX_GPUS))
      this.fault("requirements.gpus", `${clip(gpus)} is not a whole number from 0 to ${MAX_GPUS}`);
  }

  amounts(): void {
    for (const name of ["command", "entrypoint"]) {
      const value = this.raw[name];
      const parts: unknown[] = Array.isArray(value) ? value : [value];
      const size = parts.reduce<number>((sum, part) => sum + (typeof part === "string" ? utf8Size(part) : 0), 0);
      if (isOver(size, this.limits.commandBytes))
        this.tooMuch(name, `has ${size} bytes; at most ${this.limits.commandBytes} are allowed`);
    }
    const { inlineDataBytes, definitionBytes } = this.limits;
    const inline = [this.raw.inputs, this.raw.configFiles].reduce<number>((sum, refs) => sum + inlineSize(refs), 0);
    if (isOver(inline, inlineDataBytes))
      this.tooMuch(
        "inputs",
        `inline data has ${inline} bytes; at most ${inlineDataBytes} (${showBytes(inlineDataBytes)}) are allowed; ` +
          "put larger files into blobs",
      );
    const size = utf8Size(JSON.stringify(this.raw));
    if (isOver(size, definitionBytes))
      this.found.excess.unshift({
        where: "definition",
        what: `has ${size} bytes; at most ${definitionBytes} (${showBytes(definitionBytes)}) are allowed`,
      });
  }

  private context(context: string): void {
    const url = this.httpUrl(context, "build.context");
    if (url?.authority.includes("@") && url.user !== "secret")
      this.found.warnings.push(
        "build.context holds credentials: whoever knows the queue can read them, and they count for the job's id",
      );
  }

  private ref(ref: unknown, where: string): void {
    if (!isObject(ref)) {
      this.fault(where, `is ${kind(ref)}; a data ref such as {"type":"utf8","value":"text"} was expected`);
      return;
    }
    this.unknown(where, ref, KNOWN_REF);
    const type = ref.type || "utf8";
    if (typeof type !== "string" || !REF_TYPES.includes(type))
      this.fault(`${where}.type`, `${clip(type)} is unknown; known are ${REF_TYPES.join(", ")}`);
    else if (!Object.hasOwn(ref, "value")) this.fault(where, "has no value");
    else if (type !== "json") this.refValue(type, ref.value, `${where}.value`);
    if (typeof (ref.hash ?? "") !== "string") this.fault(`${where}.hash`, `is ${kind(ref.hash)}; text was expected`);
  }

  private refValue(type: string, value: unknown, where: string): void {
    if (typeof value !== "string") {
      this.fault(where, `is ${kind(value)}; text was expected`);
    } else if (type === "base64") {
      if (base64Size(value) === null) this.fault(where, `${clip(value, 24)} is not base64`);
    } else if (type === "key") {
      if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$/.test(value))
        this.fault(
          where,
          `the blob key ${clip(value)} is not 1 to 200 letters, digits and . _ - that start with a letter or digit`,
        );
    } else if (type === "url") {
      const url = this.httpUrl(value, where);
      if (url?.authority.includes("@") && url.user !== "secret")
        this.fault(where, "holds credentials (user:password@); data urls must not");
    }
  }

  private httpUrl(text: string, where: string): HttpUrl | null {
    const url = splitUrl(text);
    if (!url) this.fault(where, `${text.includes("@") ? "the url" : clip(text)} is not an absolute http or https url`);
    return url;
  }

  private memory(owner: Members, name: string, where: string): void {
    const value = owner[name] ?? "";
    if (value === "") return;
    const size = parseSizeBytes(value);
    if (size === null)
      this.fault(where, `${clip(value)} is not a size. Write sizes like "512m", "2g" or a number of bytes.`);
    else if (size > MAX_MEMORY_BYTES)
      this.fault(where, `${clip(value)} is more memory than any machine has; at most ${showBytes(MAX_MEMORY_BYTES)}`);
  }

  private duration(owner: Members, name: string, where: string): void {
    const value = owner[name] ?? "";
    if (value === "") return;
    const seconds = parseDurationS(value);
    if (seconds === null) {
      this.fault(where, `${clip(value)} is not a duration above zero. Write durations like "90s", "20m" or "1h30".`);
      return;
    }
    if (seconds < 1) this.fault(where, `${clip(value)} is less than a second; a number without a unit is milliseconds`);
    if (isOver(seconds, this.limits.maxDurationS))
      this.tooMuch(where, `${clip(value)} is longer than allowed; at most ${showDuration(this.limits.maxDurationS)}`);
  }

  private text(owner: Members, name: string, where: string): string {
    const value = owner[name] ?? "";
    if (typeof value !== "string") {
      this.fault(where, `is ${kind(value)}; text was expected`);
      return "";
    }
    if (value.includes("\0")) this.fault(where, "holds a NUL character");
    return value;
  }

  private texts(owner: Members, name: string, where: string): string[] {
    const value = owner[name] ?? [];
    if (!Array.isArray(value)) {
      this.fault(where, `is ${kind(value)}; an array of text was expected`);
      return [];
    }
    for (const [index, entry] of value.entries()) {
      if (typeof entry !== "string") this.fault(`${where}[${index}]`, `is ${kind(entry)}; text was expected`);
      else if (entry.includes("\0")) this.fault(`${where}[${index}]`, "holds a NUL character");
    }
    return value.filter((entry): entry is string => typeof entry === "string");
  }

  private object(owner: Members, name: string): Members {
    const value = owner[name] ?? {};
    if (isObject(value)) return value;
    this.fault(name, `is ${kind(value)}; an object was expected`);
    return {};
  }

  private unknown(where: string, given: Members, known: ReadonlySet<string>): void {
    for (const name of Object.keys(given)) {
      if (!known.has(name))
        this.found.warnings.push(
          `${clip(where ? `${where}.${name}` : name)} is not a known member: it is kept but has no effect`,
        );
    }
  }

  private fault(where: string, what: string): void {
    this.found.faults.push({ where: location(where), what });
  }

  private tooMuch(where: string, what: string): void {
    this.found.excess.push({ where: location(where), what });
  }
}

// --- text with a unit ------------------------------------------------------------------------------------------------

const STEPS: readonly [number, string][] = [
  [1e-9, "ns nanosecond nanoseconds"],
  [1e-6, "us µs microsecond microseconds"],
  [1e-3, "ms millisecond milliseconds"],
  [1, "s sec secs second seconds"],
  [60, "m min mins minute minutes"],
  [3600, "h hr hrs hour hours"],
  [86400, "d day days"],
  [604800, "w wk week weeks"],
  [2629800, "month months mo mth"],
  [31557600, "y yr year years"],
];
const SECONDS = new Map(STEPS.flatMap(([seconds, names]) => names.split(" ").map((name) => [name, seconds] as const)));
const GROUP = /[ \t\n\r\f\v]*((?:\d+(?:\.\d+)?|(?<!\d)\.\d+)(?:[eE][+-]?\d+)?)[ \t\n\r\f\v]*([a-zA-Zµ]*)/y;

/** `20m`, `1h30`, `1.5h`, `10s`; a bare number is milliseconds. Seconds, or null for text that is no duration. */
export function parseDurationS(value: unknown): number | null {
  if (typeof value !== "string" && typeof value !== "number") return null;
  const source = String(value)
    .replace(/(?<=\d)[,_ ](?=\d)/g, "")
    .trim();
  let total = 0;
  let smaller = 1e-3;
  GROUP.lastIndex = 0;
  while (GROUP.lastIndex < source.length) {
    const found = GROUP.exec(source);
    if (!found) return null;
    const unit = (found[2] ?? "").toLowerCase();
    const step = unit ? SECONDS.get(unit) : smaller;
    if (step === undefined) return null;
    total += Number(found[1]) * step;
    if (unit) smaller = STEPS[Math.max(STEPS.findIndex(([seconds]) => seconds === step) - 1, 0)]?.[0] ?? step;
  }
  return total > 0 && Number.isFinite(total) ? total : null;
}

const POWER = " kmgtp";

/** `64m`, `1g`, `1.5GiB`, `512` (bytes); 1024 to the step. Bytes, or null for text that is no size. */
export function parseSizeBytes(value: unknown): number | null {
  if (typeof value !== "string" && typeof value !== "number") return null;
  const found = /^[ \t\n\r\f\v]*(\d+(?:\.\d+)?)[ \t\n\r\f\v]*([kmgtp]?)(i?b)?[ \t\n\r\f\v]*$/i.exec(String(value));
  if (!found) return null;
  const size = Number(found[1]) * 1024 ** (found[2] ? POWER.indexOf(found[2].toLowerCase()) : 0);
  return Number.isFinite(size) ? Math.trunc(size) : null;
}

export function showBytes(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let left = count;
  while (Math.abs(left) >= 1024 && at < units.length - 1) {
    left /= 1024;
    at += 1;
  }
  return `${at === 0 ? left.toFixed(0) : left.toFixed(1)} ${units[at]}`;
}

/** `1h30m`, `12.3s`: at most two units. */
export function showDuration(seconds: number): string {
  if (seconds < 60) return `${Number(seconds.toPrecision(3))}s`;
  const two = (number: number) => String(number).padStart(2, "0");
  const whole = Math.round(seconds);
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return whole % 60 ? `${minutes}m${two(whole % 60)}s` : `${minutes}m`;
  return minutes % 60 ? `${Math.floor(minutes / 60)}h${two(minutes % 60)}m` : `${Math.floor(minutes / 60)}h`;
}

// --- small rules -----------------------------------------------------------------------------------------------------

export function isObject(value: unknown): value is Members {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isEnvName(name: string): boolean {
  const size = [...name].length;
  return size > 0 && size <= MAX_ENV_NAME_CHARACTERS && !name.includes("=") && !BLANK_OR_CONTROL.test(name);
}

/** Is there anything in it? What is of a wrong kind counts as something. */
export function isFilled(build: unknown): boolean {
  if (build === undefined || build === null) return false;
  return !isObject(build) || Object.values(build).some((value) => value !== null && value !== "");
}

/** What is wrong with the name of an input (relative) or config file (may be absolute); null if it is fine. */
export function fileNameFault(name: string, mayBeAbsolute: boolean): string | null {
  const size = utf8Size(name);
  if (/\p{Surrogate}/u.test(name)) return `the file name ${clip(name)} cannot be written as UTF-8 text`;
  if (size > 512) return `the file name ${clip(name)} has ${size} bytes; at most 512 are allowed`;
  if (/[\0\\]/.test(name)) return `the file name ${clip(name)} holds a NUL or a backslash; separate its parts with /`;
  if (name.startsWith("/") && !mayBeAbsolute) return `the file name ${clip(name)} is absolute; it must be relative`;
  const parts = name.replace(/^\//, "").split("/");
  if (parts.length > 32) return `the file name ${clip(name)} has ${parts.length} parts; at most 32 are allowed`;
  if (parts.some((part) => ["", ".", ".."].includes(part)))
    return `the file name ${clip(name)} has an empty part, . or ..; write it without`;
  return null;
}

interface HttpUrl {
  authority: string;
  user: string;
}

function splitUrl(text: string): HttpUrl | null {
  const found = /^https?:\/\/([^/?#]*)/i.exec(text);
  const authority = found?.[1] ?? "";
  if (!found || BLANK_OR_CONTROL.test(text) || authority.includes("\\")) return null;
  const at = authority.lastIndexOf("@");
  const host = /^(\[[^[\]]*\]|[^[\]:]*)(?::(\d*))?$/.exec(authority.slice(at + 1));
  if (!host || host[1] === "" || host[1] === "[]" || Number(host[2] || 0) > 65535) return null;
  return { authority, user: at < 0 ? "" : (authority.slice(0, at).split(":")[0] ?? "") };
}

function inlineSize(refs: unknown): number {
  if (!isObject(refs)) return 0;
  return Object.values(refs).reduce<number>((sum, ref) => {
    if (!isObject(ref)) return sum;
    const type = ref.type || "utf8";
    if (type === "json") return sum + utf8Size(JSON.stringify(ref.value ?? null));
    if (typeof ref.value !== "string") return sum;
    if (type === "base64") return sum + (base64Size(ref.value) ?? 0);
    return type === "utf8" ? sum + utf8Size(ref.value) : sum;
  }, 0);
}

/** How many bytes this base64 text is; null if it is none. */
function base64Size(text: string): number | null {
  const bare = text.replace(/\s+/g, "").replace(/=+$/, "");
  return /^[A-Za-z0-9+/]*$/.test(bare) && bare.length % 4 !== 1 ? Math.floor((bare.length * 3) / 4) : null;
}

function isOver(amount: number, limit: number): boolean {
  return limit > 0 && amount > limit;
}

function utf8Size(text: string): number {
  return new TextEncoder().encode(text).length;
}

function location(where: string): string {
  return clip(`definition.${where}`, 120).slice(1, -1);
}

const NOT_PRINTABLE = /(?! )[\p{C}\p{Z}]/u;

/** A caller's value in quotes, cut, and free of what cannot be printed. */
export function clip(value: unknown, limit = 80): string {
  const text = [...(typeof value === "string" ? value : JSON.stringify(value))];
  const shown = text.slice(0, limit).map((c) => (NOT_PRINTABLE.test(c) ? "?" : c));
  return `"${shown.join("")}${text.length > limit ? "..." : ""}"`;
}

function kind(value: unknown): string {
  if (value === null || value === undefined) return "null";
  if (Array.isArray(value)) return "an array";
  const names: Record<string, string> = { boolean: "a boolean", string: "text", number: "a number" };
  return names[typeof value] ?? "an object";
}
