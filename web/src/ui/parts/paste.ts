/**
 * What somebody pasted to begin with: a `docker run` line, a link of this kind, a repository, a Dockerfile, a definition,
 * or the name of an image. Pure.
 */

import { parseHash, readJson, readText } from "../hash.ts";
import { looksLikeDockerRun, NoDockerRun, readDockerRun } from "./docker-run.ts";
import { isObject } from "./validate.ts";

export type Pasted =
  | {
      kind: "job";
      /** What it was taken for, such as "a docker run line". */
      what: string;
      definition: Record<string, unknown>;
      control?: Record<string, unknown>;
      notes: string[];
    }
  /** The hash of another link, `#` included, without its queue unless it is the only one. */
  | { kind: "link"; hash: string; queue: string | undefined }
  | { kind: "job-page"; jobId: string; queue: string | undefined; origin: string }
  | { kind: "none"; text: string; hint: string };

const EXAMPLES =
  "Paste a docker run line, a GitHub address, a Dockerfile, a definition as JSON, or a link of such a page.";
const GIT_HOSTS = /^(www\.)?(github\.com|gitlab\.com|bitbucket\.org|codeberg\.org|gist\.github\.com)$/;
const IMAGE =
  /^(?:[a-z0-9.-]+(?::\d+)?\/)?[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:\/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$/;

export function readPasted(given: string): Pasted {
  const text = given.replace(/\r\n/g, "\n").trim();
  if (!text) return none("There is nothing in it.", EXAMPLES);
  if (/^[{[]/.test(text)) return readDefinition(text);
  if (looksLikeDockerRun(text)) return readDocker(text);
  if (/^(?:\s*#.*\n|\s*\n|ARG\s.*\n)*FROM\s+\S/i.test(text))
    return job("a Dockerfile", { build: { dockerfile: `${text}\n` } });
  const pulled = /^(?:\$\s+)?(?:sudo\s+)?(?:docker|podman)\s+(?:image\s+)?pull\s+(\S+)$/.exec(text);
  if (/\s/.test(text) && !pulled) return none("This was not understood.", EXAMPLES);
  if (/^#?\?\w+=/.test(text)) return readHash(`#${text.replace(/^#/, "")}`);
  if (/^https?:\/\//i.test(text)) return readUrl(text);
  const ssh = /^(?:ssh:\/\/)?git@([\w.-]+)[:/](.+?)$/.exec(text);
  if (ssh) return job("a repository", { build: { context: `https://${ssh[1]}/${ssh[2]}` } });
  if (/^(www\.)?(github|gitlab)\.com\//i.test(text)) return readUrl(`https://${text}`);
  const image = pulled?.[1] ?? text;
  return IMAGE.test(image) ? job("the name of an image", { image }) : none("This was not understood.", EXAMPLES);
}

function readDocker(text: string): Pasted {
  try {
    const { definition, notes } = readDockerRun(text);
    return job("a docker run line", definition, notes);
  } catch (error) {
    if (error instanceof NoDockerRun) return none(error.message, "Correct the line and try again.");
    throw error;
  }
}

/** A definition, alone or as it is submitted (`{"definition": …, "control": …}`). */
export function readDefinition(text: string): Pasted {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return none(`This is not JSON: ${(error as Error).message}.`, "Correct it at that place and try again.");
  }
  if (!isObject(value)) return none("This is no definition: an object { … } was expected.", EXAMPLES);
  const inner = isObject(value.data) ? value.data : value;
  if (!isObject(inner.definition)) return job("a definition", inner);
  const read = job("a definition", inner.definition);
  return isObject(inner.control) ? { ...read, control: inner.control } : read;
}

function readUrl(text: string): Pasted {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    return none("This is not an address.", "Copy it again, from https:// to its end.");
  }
  if (url.hash.includes("?")) {
    const page = /\/j\/([0-9a-f]{64})(?:\.json)?\/?$/.exec(url.pathname);
    const queue = textOf(parseHash(url.hash).values.get("queue"));
    if (page?.[1]) return { kind: "job-page", jobId: page[1], queue, origin: url.origin };
    return readHash(url.hash);
  }
  const page = /^(?:\/q\/([^/]+))?\/j\/([0-9a-f]{64})(?:\.json)?\/?$/.exec(url.pathname);
  if (page?.[2]) return { kind: "job-page", jobId: page[2], queue: textOf(page[1]), origin: url.origin };
  return readRepository(url, text);
}

function readRepository(url: URL, text: string): Pasted {
  const file = /^(\/[^/]+\/[^/]+)\/blob\/([^/]+)\/(.*)$/.exec(url.pathname);
  if (GIT_HOSTS.test(url.hostname) && file?.[3] && /dockerfile/i.test(file[3])) {
    const parts = file[3].split("/").map(decodeURIComponent);
    const filename = parts.pop() ?? "";
    return job("a Dockerfile in a repository", {
      build: {
        context: `${url.origin}${file[1]}/tree/${file[2]}`,
        ...(parts.length > 0 ? { buildContext: parts.join("/") } : {}),
        ...(parts.length > 0 || filename !== "Dockerfile" ? { filename: [...parts, filename].join("/") } : {}),
      },
    });
  }
  const isRepository = GIT_HOSTS.test(url.hostname) && /^\/[^/]+\/[^/]+/.test(url.pathname);
  const isArchive = /\.(git|zip|tar|tgz|tar\.\w+)\/?$/.test(url.pathname);
  if (isRepository || isArchive) return job("a repository", { build: { context: text } });
  return none(
    "This address is neither a repository nor a link of such a page.",
    "A repository's address looks like https://github.com/owner/name. A link of a job has a # in it: copy all of it.",
  );
}

function readHash(hash: string): Pasted {
  const { values } = parseHash(hash);
  const job = values.get("job");
  if (job !== undefined) {
    const read = readJson(job);
    if ("fault" in read)
      return none(`The job of this link cannot be read: ${read.fault}.`, "Copy the whole link again, to its end.");
  }
  if (![...values.keys()].some((name) => ["job", "inputs", "queue"].includes(name)))
    return none("This link has no job in it.", "Copy the whole link, with all that follows the #.");
  return { kind: "link", hash, queue: textOf(values.get("queue")) };
}

function textOf(value: string | undefined): string | undefined {
  return value === undefined ? undefined : readText(value) || undefined;
}

function job(what: string, definition: Record<string, unknown>, notes: string[] = []): Pasted & { kind: "job" } {
  return { kind: "job", what, definition, notes };
}

function none(text: string, hint: string): Pasted {
  return { kind: "none", text, hint };
}
