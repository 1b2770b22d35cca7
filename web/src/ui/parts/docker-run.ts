/**
 * A `docker run` line, read as the definition of a job. Pure.
 *
 * The line is split as a POSIX shell would, but nothing is filled in: `$HOME` and `$(pwd)` stay as they are and are
 * told. Flags that mean nothing here (`--rm`, `-it`) are passed over; flags whose meaning a job cannot have are named, so
 * that nobody believes that a volume is mounted.
 */

import { commandOf } from "./quoting.ts";

export interface DockerRun {
  definition: Record<string, unknown>;
  /** What was left out or could not be meant, one sentence each. */
  notes: string[];
}

/** Why a line could not be read. */
export class NoDockerRun extends Error {}

/** Is there a `docker run` in this text? */
export function looksLikeDockerRun(text: string): boolean {
  return COMMAND.test(text);
}

const COMMAND =
  /^[ \t]*(?:[$#>%]\s+)?(?:sudo\s+(?:-\S+\s+)*)?(?:docker|podman|nerdctl)\s+(?:container\s+)?(?:run|create)(?=\s)/m;

const WITHOUT_VALUE = new Set(
  (
    "--detach --interactive --tty --publish-all --rm --init --privileged --read-only --no-healthcheck --oom-kill-disable " +
    "--sig-proxy --quiet --disable-content-trust --help --use-api-socket --no-hosts --replace --systemd --tls-verify"
  ).split(" "),
);
const SHORT_NAMES: Record<string, string> = {
  a: "--attach",
  c: "--cpu-shares",
  d: "--detach",
  e: "--env",
  h: "--hostname",
  i: "--interactive",
  l: "--label",
  m: "--memory",
  p: "--publish",
  P: "--publish-all",
  q: "--quiet",
  t: "--tty",
  u: "--user",
  v: "--volume",
  w: "--workdir",
};

/** These change nothing for a job that runs once, alone and watched. */
const WITHOUT_MEANING = new Set(
  (
    "--rm --detach --interactive --tty --name --init --restart --pull --quiet --sig-proxy --attach --label --label-file " +
    "--cidfile --detach-keys --disable-content-trust --log-driver --log-opt --hostname --no-healthcheck --replace"
  ).split(" "),
);

const ADVICE: Record<string, string> = {
  "--volume": "files of your machine do not reach the worker: add them as inputs, they are in /inputs",
  "--mount": "files of your machine do not reach the worker: add them as inputs, they are in /inputs",
  "--env-file": "paste the file into the environment in the settings",
  "--publish": "a job has no open ports",
  "--publish-all": "a job has no open ports",
  "--user": "the worker's owner decides as whom a job runs",
  "--privileged": "only the worker's owner can loosen a container",
  "--cap-add": "only the worker's owner can loosen a container",
  "--device": "only the worker's owner can lend devices",
  "--memory-swap": "memory is bounded by --memory alone",
  "--platform": "a platform can be chosen for a build only; an image runs on what the worker is",
};

/**
 * Read the first `docker run` of a text.
 *
 * Errors: NoDockerRun, with what is missing.
 */
export function readDockerRun(text: string): DockerRun {
  const start = COMMAND.exec(text);
  if (!start) throw new NoDockerRun("There is no docker run in it.");
  const { words, notes } = splitShell(text.slice(start.index + start[0].length));
  const given = new Given(notes);
  let at = 0;
  while (at < words.length) {
    const word = words[at] ?? "";
    if (!word.startsWith("-") || word === "-") break;
    at += 1;
    if (word === "--") break;
    at += given.flag(word, words[at]);
  }
  const image = words[at];
  if (!image) throw new NoDockerRun("The line names no image. Write docker run IMAGE COMMAND.");
  return { definition: given.definition(image, words.slice(at + 1)), notes: given.notes };
}

/** What the flags of one line say. */
class Given {
  readonly notes: string[];
  private readonly members: Record<string, unknown> = {};
  private readonly env: Record<string, string> = {};
  private readonly requirements: Record<string, unknown> = {};

  constructor(notes: string[]) {
    this.notes = notes;
  }

  /** Takes one flag; the answer is how many of the following words belong to it. */
  flag(word: string, next: string | undefined): number {
    if (!word.startsWith("--")) return this.shortFlags(word.slice(1), next);
    const equals = word.indexOf("=");
    const name = equals < 0 ? word : word.slice(0, equals);
    if (equals >= 0) this.take(name, word.slice(equals + 1));
    else if (WITHOUT_VALUE.has(name)) this.take(name, "true");
    else return this.withNext(name, next);
    return 0;
  }

  definition(image: string, argv: string[]): Record<string, unknown> {
    return {
      image,
      ...(argv.length > 0 ? { command: commandOf(argv) } : {}),
      ...this.members,
      ...(Object.keys(this.env).length > 0 ? { env: this.env } : {}),
      ...(Object.keys(this.requirements).length > 0 ? { requirements: this.requirements } : {}),
    };
  }

  /** `-it`, `-eA=1`, `-e=A=1`, `-w /x`. */
  private shortFlags(letters: string, next: string | undefined): number {
    for (let at = 0; at < letters.length; at++) {
      const letter = letters[at] ?? "";
      const name = SHORT_NAMES[letter] ?? `-${letter}`;
      const rest = letters.slice(at + 1);
      if (rest.startsWith("=")) this.take(name, rest.slice(1));
      else if (WITHOUT_VALUE.has(name)) {
        this.take(name, "true");
        continue;
      } else if (rest) this.take(name, rest);
      else return this.withNext(name, next);
      return 0;
    }
    return 0;
  }

  private withNext(name: string, next: string | undefined): number {
    if (next === undefined) throw new NoDockerRun(`${name} has no value, and there is no image after it.`);
    this.take(name, next);
    return 1;
  }

  private take(name: string, value: string): void {
    switch (name) {
      case "--env":
        this.takeEnv(value);
        return;
      case "--workdir":
        this.members.workdir = value;
        return;
      case "--entrypoint":
        if (value) this.members.entrypoint = commandOf([value]);
        else this.note("The empty --entrypoint", "the image's own is used");
        return;
      case "--memory":
        this.requirements.memory = value;
        return;
      case "--shm-size":
        this.members.shmSize = value;
        return;
      case "--cpus":
        this.takeCpus(value);
        return;
      case "--gpus":
        this.takeGpus(value);
        return;
      case "--stop-timeout":
        this.note(name, "the longest run is the maximum duration in the settings");
        return;
      case "--network":
      case "--net":
        if (value === "none") this.requirements.network = "none";
        else if (value !== "bridge" && value !== "default")
          this.note(`${name} ${value}`, "a job has no network or the public internet, as the worker allows");
        return;
      default:
        if (!WITHOUT_MEANING.has(name) && value !== "false") this.note(name, ADVICE[name] ?? "a job cannot have this");
    }
  }

  private takeEnv(text: string): void {
    const equals = text.indexOf("=");
    if (equals > 0) this.env[text.slice(0, equals)] = text.slice(equals + 1);
    else this.note(`--env ${text}`, "its value is on your machine: write NAME=VALUE");
  }

  private takeCpus(value: string): void {
    const count = Number(value);
    if (value.trim() !== "" && Number.isFinite(count)) this.requirements.cpus = count;
    else this.note(`--cpus ${value}`, "a number was expected");
  }

  /** `all`, `2`, `device=0,1`, `count=2,capabilities=utility`. */
  private takeGpus(text: string): void {
    const value = text.replace(/^"|"$/g, "");
    const count = /^(?:count=)?(\d+)(?:,|$)/.exec(value);
    const devices = /^"?device=([^"]*)/.exec(value);
    if (count) {
      this.requirements.gpus = Number(count[1]);
      return;
    }
    this.requirements.gpus = devices ? (devices[1] ?? "").split(",").filter((part) => !part.includes("=")).length : 1;
    const what = devices ? "the worker chooses which" : "how many that is depends on the worker";
    this.notes.push(`--gpus ${value} was changed to ${this.requirements.gpus}: ${what}.`);
  }

  private note(what: string, why: string): void {
    this.notes.push(`${what} was left out: ${why}.`);
  }
}

/**
 * Split one command as a shell does, up to an operator, a line end or the end.
 *
 * A backslash, a backtick (PowerShell) or a caret (cmd) at the end of a line goes on with the next one.
 */
export function splitShell(text: string): { words: string[]; notes: string[] } {
  const source = text.replace(/(?:\\|(?<=\s)[`^])[ \t]*\r?\n/g, " ").replace(/\r\n/g, "\n");
  const words: string[] = [];
  const notes: string[] = [];
  let word: string | null = null;
  let hasVariables = false;
  let at = 0;
  const quoted = (from: number, quote: string): [string, number] => {
    let out = "";
    let i = from;
    for (; i < source.length && source[i] !== quote; i++) {
      if (quote === '"' && source[i] === "\\" && '"\\$`'.includes(source[i + 1] ?? " ")) i += 1;
      else if (quote === '"' && /[$`]/.test(source[i] ?? "")) hasVariables = true;
      out += source[i];
    }
    if (i >= source.length) throw new NoDockerRun(`The quote ${quote} is not closed. Add it at the end of its text.`);
    return [out, i + 1];
  };
  for (;;) {
    const c = source[at];
    if (c === undefined || c === "\n" || "|&;<>()".includes(c)) {
      if (c !== undefined && c !== "\n") notes.push(`What follows ${c} is for your own shell, and was left out.`);
      else if (c === "\n" && source.slice(at).trim()) notes.push("Only the first command was read.");
      break;
    }
    if (c === " " || c === "\t") {
      if (word !== null) words.push(word);
      word = null;
      at += 1;
    } else if (c === "#" && word === null) {
      at = source.indexOf("\n", at) < 0 ? source.length : source.indexOf("\n", at);
    } else if (c === "'" || c === '"') {
      const [inner, end] = quoted(at + 1, c);
      word = (word ?? "") + inner;
      at = end;
    } else if (c === "\\") {
      word = (word ?? "") + (source[at + 1] ?? "");
      at += 2;
    } else {
      if (c === "$" && source[at + 1] === "(") {
        const end = source.indexOf(")", at);
        word = (word ?? "") + source.slice(at, end < 0 ? source.length : end + 1);
        at = end < 0 ? source.length : end + 1;
        hasVariables = true;
        continue;
      }
      if (c === "$" || c === "`") hasVariables = true;
      word = (word ?? "") + c;
      at += 1;
    }
  }
  if (word !== null) words.push(word);
  if (hasVariables) notes.push("Variables of your shell ($…) were not filled in: they stay as they are written.");
  return { words, notes };
}
