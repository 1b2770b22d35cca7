/**
 * The second tab of the settings: an image that is there, or one that is built.
 *
 * Both are kept while one is chosen: what is not chosen waits in this tab's storage. The link changes over when the
 * other one says enough to run, so that there is never a moment without a job.
 */

import { useSignal } from "@preact/signals";
import { Button } from "../kit.tsx";
import type { Session } from "../model.ts";
import { editsOf } from "./edits.ts";
import { SavedField } from "./fields.tsx";
import { Group, textOf } from "./settings-job.tsx";
import { type Faults, memberOf } from "./settings-state.ts";
import { isObject } from "./validate.ts";

type Source = "image" | "build";
type Build = Record<string, unknown>;

/** What is not in the link: the other source, or one that is not complete yet. */
interface Kept {
  chosen?: Source | null;
  image?: string;
  build?: Build;
}

const STORED = "settings-image";
const PLATFORMS = ["linux/amd64", "linux/arm64"];

function readKept(): Kept {
  try {
    const kept: unknown = JSON.parse(sessionStorage.getItem(STORED) ?? "{}");
    return isObject(kept) ? kept : {};
  } catch {
    return {};
  }
}

function writeKept(kept: Kept): void {
  try {
    const { image, build } = kept;
    sessionStorage.setItem(STORED, JSON.stringify({ image, build }));
  } catch {
    // A page without storage keeps it until it is closed.
  }
}

/** Enough to build from. */
function isComplete(build: Build | undefined): build is Build {
  return Boolean(build?.context || build?.dockerfile);
}

export function ImageTab({ session, faults }: { session: Session; faults: Faults }) {
  const edits = editsOf(session);
  const kept = useSignal<Kept>(readKept());
  const keep = (by: Kept) => {
    kept.value = { ...kept.peek(), ...by };
    writeKept(kept.peek());
  };
  const job = (session.params.job.value ?? {}) as Record<string, unknown>;
  const { inLink, image, build } = sourcesOf(job, kept.value);
  const chosen = kept.value.chosen ?? inLink;

  /** Write the source that is meant, and keep the other one. `change` starts from what is there at that moment. */
  const write = (
    source: Source,
    key: string,
    label: string,
    change: { image?: string; part?: [string, unknown] } = {},
  ) => {
    const now = sourcesOf((session.params.job.peek() ?? {}) as Record<string, unknown>, kept.peek());
    const next = {
      image: change.image ?? now.image,
      build: change.part ? withPart(now.build, ...change.part) : now.build,
    };
    const isReady = source === "image" ? next.image !== "" : isComplete(next.build);
    keep({ ...next, chosen: isReady ? null : source });
    if (!isReady && now.inLink !== source) return;
    edits.change(key, label, () => {
      edits.setJob(["image"], source === "image" ? next.image : undefined);
      edits.setJob(["build"], source === "build" ? next.build : undefined);
    });
  };
  const choose = (source: Source) => write(source, "source", source);
  const part = (label: string, name: string, more: Partial<Parameters<typeof SavedField>[0]> = {}) => (
    <SavedField
      session={session}
      name={`build.${name}`}
      label={label}
      value={textOf(build[name])}
      fault={inLink === "build" ? faults(`build.${name}`) : undefined}
      save={(text) => write("build", `build.${name}`, label.toLowerCase(), { part: [name, text] })}
      {...more}
    />
  );
  const isWaiting = chosen !== inLink && (inLink === "build" || Boolean(job.image));
  return (
    <>
      <fieldset class="settings-choice">
        <legend class="sr-only">Where the image comes from</legend>
        {(["image", "build"] as const).map((source) => (
          <label key={source} class={chosen === source ? "chosen" : ""}>
            <input type="radio" name="settings-source" checked={chosen === source} onChange={() => choose(source)} />
            {source === "image" ? "Use an image" : "Build an image"}
          </label>
        ))}
      </fieldset>
      {isWaiting && (
        <p class="settings-warning" role="status">
          {chosen === "build"
            ? "The link still has the image: give a Dockerfile or a repository, and it is built instead."
            : "The link still has the build: give an image, and it is used instead."}
        </p>
      )}
      {inLink === "build" && Boolean(job.image) && (
        <p class="settings-warning">
          The link has an image too ({textOf(job.image)}). The build is what runs.{" "}
          <Button
            label="Remove the image"
            onClick={() => {
              keep({ image: textOf(job.image) });
              edits.changeJob("image", "image", ["image"], undefined);
            }}
          />
        </p>
      )}
      {chosen === "image" ? (
        <Group title="Image">
          <SavedField
            session={session}
            name="image"
            label="Name"
            placeholder="alpine:3.19.1"
            hint="With a tag, so that it stays the same. The worker pulls it."
            value={image}
            fault={isWaiting ? undefined : faults("image")}
            save={(text) => write("image", "image", "image", { image: text.trim() })}
          />
        </Group>
      ) : (
        <>
          <Group title="Dockerfile">
            {part("Its text", "dockerfile", {
              lines: Math.min(Math.max(textOf(build.dockerfile).split("\n").length + 1, 5), 24),
              placeholder: "FROM python:3.12-slim\nRUN pip install numpy",
              hint: "Leave it empty to use the one of the repository.",
            })}
          </Group>
          <Group title="Repository">
            {part("Address", "context", {
              placeholder: "https://github.com/owner/name",
              hint: "A repository, a folder of one (…/tree/main/folder), or an archive. Not needed with a Dockerfile.",
            })}
            <div class="settings-columns">
              {part("Folder in it", "buildContext", { placeholder: "." })}
              {part("Name of the Dockerfile", "filename", { flag: "--file", placeholder: "Dockerfile" })}
            </div>
          </Group>
          <Group title="Build">
            <div class="settings-columns">
              {part("Target stage", "target", { flag: "--target", placeholder: "the last one" })}
              {part("Platform", "platform", {
                flag: "--platform",
                placeholder: "the worker's own",
                suggestions: PLATFORMS,
              })}
            </div>
            {part("Arguments", "buildArgs", {
              flag: "--build-arg",
              lines: Math.max(argumentsOf(build).length + 1, 2),
              placeholder: "NAME=VALUE",
              hint: "One to a line.",
              value: argumentsOf(build).join("\n"),
              fault: inLink === "build" ? faults("build.buildArgs") : undefined,
              save: (text) => {
                const args = text.split("\n").filter((line) => line.trim());
                write("build", "build.buildArgs", "build arguments", {
                  part: ["buildArgs", args.length > 0 ? args : ""],
                });
              },
            })}
          </Group>
        </>
      )}
      {faults("build") && <div class="settings-fault">{faults("build")}</div>}
    </>
  );
}

/** What the link has, and both sources, from the link or as they are kept. */
function sourcesOf(job: Record<string, unknown>, kept: Kept): { inLink: Source; image: string; build: Build } {
  const inLink = isObject(job.build) && Object.keys(job.build).length > 0 ? "build" : "image";
  return {
    inLink,
    image: inLink === "image" || job.image ? textOf(job.image) : (kept.image ?? ""),
    build: inLink === "build" ? (job.build as Build) : (kept.build ?? {}),
  };
}

function argumentsOf(build: Build): string[] {
  const args = memberOf(build, ["buildArgs"]);
  return Array.isArray(args) ? args.map(textOf) : textOf(args) ? [textOf(args)] : [];
}

function withPart(build: Build, name: string, value: unknown): Build {
  const { [name]: _, ...others } = build;
  return value === "" ? others : { ...others, [name]: value };
}
