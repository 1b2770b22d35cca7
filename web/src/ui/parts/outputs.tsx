/** What the job left in /outputs: to look at, to save one by one or all as a zip. */

import { useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { showBytes, showCount, shownName, type TreeFile, treeRows, typeOf } from "../files.ts";
import { Icon } from "../icons.tsx";
import { Button, CopyButton, PanelFrame } from "../kit.tsx";
import type { Job, OutputFile, Session } from "../model.ts";
import { webAddress } from "../save.ts";
import { Preview, type PreviewFile, Save } from "./preview.tsx";
import "./outputs.css";

/** Rows that are drawn at first, and with each "more". */
const ROWS = 300;

export function Outputs({ session }: { session: Session }) {
  return (
    <PanelFrame
      title="Outputs"
      onClose={() => {
        session.panel.value = null;
      }}
    >
      <Body session={session} />
    </PanelFrame>
  );
}

function Body({ session }: { session: Session }) {
  const job = session.job.value;
  const files = session.outputs.value;
  if (job && files && files.length > 0) return <Files key={job.jobId} files={files} job={job} session={session} />;
  const { title, text, isBad } = whyEmpty(job, files);
  return (
    <div class="outputs" role="status">
      <div class="outputs-empty">
        <strong class={isBad ? "tone-bad" : ""}>{title}</strong>
        <p>{text}</p>
      </div>
      <Skipped job={job} />
    </div>
  );
}

/** Why there is nothing to list, in words. */
export function whyEmpty(
  job: Job | null,
  files: readonly OutputFile[] | null,
): { title: string; text: string; isBad?: boolean } {
  const hint = "Files that the container writes to /outputs appear here when it has ended.";
  if (!job) return { title: "No outputs yet", text: `Run the job. ${hint}` };
  const { state, outcome } = job.record;
  if (state !== "Finished") return { title: state === "Running" ? "The job is running" : "The job waits", text: hint };
  switch (outcome) {
    case "cancelled":
      return { title: "The job was stopped", text: "It left no outputs. Run it again to get them." };
    case "replaced":
      return { title: "The job was replaced", text: "A newer job took its place, so it left no outputs." };
    case "deleted":
      return { title: "The result was cleared", text: "Run the job again to get its outputs." };
    case "worker_lost":
      return {
        title: "The worker was lost",
        text: "It did not come back with a result, so there are no outputs. Run the job again.",
        isBad: true,
      };
  }
  if (files === null)
    return job.result
      ? { title: "Loading the list…", text: "One moment." }
      : { title: "The result is not here", text: "It is being fetched, or the server has dropped it already." };
  if (outcome && outcome !== "succeeded")
    return {
      title: "The job failed, and left no outputs",
      text: "The log says why. What it had written to /outputs before would be listed here.",
      isBad: true,
    };
  return {
    title: "The job wrote no files",
    text: "Write to /outputs what is to be kept, such as /outputs/result.csv.",
  };
}

function Files({ files, job, session }: { files: readonly OutputFile[]; job: Job; session: Session }) {
  const closed = useSignal<ReadonlySet<string>>(new Set());
  const most = useSignal(ROWS);
  const shown = useSignal<string | null>(null);
  const rows = useMemo(() => treeRows(files, closed.value), [files, closed.value]);
  const inOrder = useMemo(
    () => treeRows(files, new Set()).filter((row): row is TreeFile<OutputFile> => "file" in row),
    [files],
  );
  const size = files.reduce<number | null>(
    (sum, file) => (sum === null || file.size === null ? null : sum + file.size),
    0,
  );
  const at = shown.value === null ? -1 : inOrder.findIndex((row) => row.file.name === shown.value);
  const open = inOrder[at]?.file;
  const step = (by: number) => {
    const next = inOrder[at + by];
    return next
      ? () => {
          shown.value = next.file.name;
        }
      : undefined;
  };
  const failed = job.record.outcome && job.record.outcome !== "succeeded";
  return (
    <div class="outputs">
      <div class="outputs-bar">
        <span class="muted">
          {showCount(files.length, "file")}
          {size !== null && `, ${showBytes(size)}`}
        </span>
        <DownloadAll files={files} job={job} session={session} />
      </div>
      {failed && <p class="outputs-note">The job did not succeed. These files may be incomplete.</p>}
      <ul class="outputs-list" aria-label="Files of /outputs">
        {rows.slice(0, most.value).map((row) =>
          "file" in row ? (
            <Row
              key={row.name}
              row={row}
              onPreview={() => {
                shown.value = row.name;
              }}
            />
          ) : (
            <li key={`${row.name}/`} class="outputs-folder" style={{ paddingLeft: `${row.depth * 20}px` }}>
              <button
                type="button"
                class={row.isOpen ? "outputs-twist is-open" : "outputs-twist"}
                aria-expanded={row.isOpen}
                onClick={() => {
                  const next = new Set(closed.value);
                  if (row.isOpen) next.add(row.name);
                  else next.delete(row.name);
                  closed.value = next;
                }}
              >
                <Icon name="expand" />
                <span class="mono">{shownName(row.label)}/</span>
                <span class="muted outputs-facts">
                  {showCount(row.count, "file")}
                  {row.size !== null && `, ${showBytes(row.size)}`}
                </span>
              </button>
            </li>
          ),
        )}
      </ul>
      {rows.length > most.value && (
        <Button
          label={`Show ${Math.min(rows.length - most.value, ROWS).toLocaleString("en")} more`}
          onClick={() => {
            most.value += ROWS;
          }}
        />
      )}
      <Skipped job={job} />
      {open && (
        <Preview
          file={asPreview(open)}
          onPrevious={step(-1)}
          onNext={step(1)}
          onClose={() => {
            shown.value = null;
          }}
        />
      )}
    </div>
  );
}

const PREVIEWS = new WeakMap<OutputFile, PreviewFile>();

/** The same object for the same file, so that a preview is not fetched twice. */
function asPreview(file: OutputFile): PreviewFile {
  let preview = PREVIEWS.get(file);
  if (!preview) {
    const url = webAddress(file.url);
    preview = { name: file.name, size: file.size, source: url ? { url } : null };
    PREVIEWS.set(file, preview);
  }
  return preview;
}

function Row({ row, onPreview }: { row: TreeFile<OutputFile>; onPreview: () => void }) {
  const file = asPreview(row.file);
  const { label } = typeOf(file.name);
  const facts = file.size === null ? label : `${label}, ${showBytes(file.size)}`;
  return (
    <li class="outputs-row" style={{ paddingLeft: `${row.depth * 20}px` }}>
      <button
        type="button"
        class="outputs-name"
        onClick={onPreview}
        aria-label={`Look at ${shownName(file.name)} ${facts}`}
      >
        <span class="mono outputs-label">{shownName(row.label)}</span> <span class="muted outputs-facts">{facts}</span>
      </button>
      <span class="outputs-actions">
        {file.source && "url" in file.source && (
          <CopyButton
            text={() => webAddress(row.file.url) ?? ""}
            icon="link"
            iconOnly
            tone="plain"
            label={`Copy the link to ${shownName(file.name)}`}
          />
        )}
        <Save file={file} iconOnly />
      </span>
    </li>
  );
}

function DownloadAll({ files, job, session }: { files: readonly OutputFile[]; job: Job; session: Session }) {
  const progress = useSignal<{ files: number; bytes: number } | null>(null);
  const stop = useSignal<AbortController | null>(null);
  useEffect(() => () => stop.value?.abort(), [stop]);
  const start = async () => {
    const abort = new AbortController();
    stop.value = abort;
    progress.value = { files: 0, bytes: 0 };
    let seen = 0;
    try {
      const { saveZip } = await import("../zip.ts");
      await saveZip(files, `outputs-${job.jobId.slice(0, 8)}.zip`, {
        signal: abort.signal,
        onProgress: (now) => {
          // A chunk comes every few milliseconds; a person reads ten numbers a second at most.
          if (now.files === progress.value?.files && performance.now() - seen < 100) return;
          seen = performance.now();
          progress.value = now;
        },
      });
    } catch (error) {
      if (!abort.signal.aborted)
        session.notify({
          kind: "error",
          text: `The zip was not made: ${error instanceof Error ? error.message : String(error)}.`,
          action: { label: "Try again", run: () => void start() },
        });
    }
    if (stop.value === abort) stop.value = null;
    progress.value = null;
  };
  const now = progress.value;
  if (!now)
    return <Button icon="download" label={files.length === 1 ? "Download as zip" : "Download all"} onClick={start} />;
  return (
    <span class="outputs-progress">
      <span class="muted">
        {now.files} of {files.length}, {showBytes(now.bytes)}
      </span>
      <Button icon="stop" label="Cancel" onClick={() => stop.value?.abort()} />
    </span>
  );
}

/** Files that the worker left behind, and why: or they would be missed without a word. */
function Skipped({ job }: { job: Job | null }) {
  const skipped = job?.result?.finished?.result?.outputsSkipped ?? [];
  if (!skipped.length) return null;
  return (
    <section class="outputs-skipped" aria-label="Files that were not kept">
      <h3>
        <Icon name="warn" /> {showCount(skipped.length, "file was", "files were")} not kept
      </h3>
      <ul>
        {skipped.slice(0, 50).map(({ name, reason }) => (
          <li key={name}>
            <span class="mono">{shownName(name)}</span>: {reason}
          </li>
        ))}
      </ul>
      {skipped.length > 50 && <p class="muted">And {skipped.length - 50} more.</p>}
    </section>
  );
}
