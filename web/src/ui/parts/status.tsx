/** What the job is doing, in one line, with how long. */

import { useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { Icon } from "../icons.tsx";
import type { Session } from "../model.ts";
import { describe, shownOf } from "../status.ts";
import { showDuration, showElapsed, useNow } from "../time.ts";

export function Status({ session }: { session: Session }) {
  const status = useComputed(() => describe(shownOf(session)));
  const { icon, tone, title, details, since, took } = status.value;
  const job = session.job.value;
  const all = details.join(" ");
  useSignalEffect(() => {
    document.title = `${status.value.title} – asman`;
  });
  return (
    <div class={`status tone-${tone}`}>
      <span class="status-icon">{icon && <Icon name={icon} />}</span>
      <div class="status-words">
        <div class="status-title">
          <span aria-live="polite">{title}</span>
          {since !== null && <Elapsed since={since} />}
          {took !== null && <span class="status-time muted">{showDuration(took)}</span>}
        </div>
        <div class="status-more muted">
          {job && <JobLink session={session} jobId={job.jobId} />}
          <span class="status-details" title={all}>
            {all}
          </span>
        </div>
      </div>
    </div>
  );
}

/** As much as the header's line shows in a page of usual width, and in the narrowest, in characters. */
const LINE = 70;
const SHORT_LINE = 16;

/** The details of what did not go well, in full: shown where the header has no room for them. */
export function Ending({ session }: { session: Session }) {
  const { tone, details } = describe(shownOf(session));
  const text = details.join(" ");
  const state = session.job.value?.record.state;
  const isOver = state !== "Queued" && state !== "Running";
  if (text.length <= SHORT_LINE || !isOver || (tone !== "bad" && tone !== "warn")) return null;
  return <div class={`ending tone-${tone}${text.length > LINE ? " is-long" : ""}`}>{text}</div>;
}

function Elapsed({ since }: { since: number }) {
  const now = useNow(true);
  return <span class="status-time muted">{showElapsed(now.value - since)}</span>;
}

/** Opens the job's page in a new tab, and copies the id on the way. */
function JobLink({ session, jobId }: { session: Session; jobId: string }) {
  const copied = useSignal(false);
  const queue = session.queue.value;
  const server = session.client.value.server;
  const query = queue ? `#?queue=${encodeURIComponent(queue)}` : "";
  return (
    <>
      <a
        class="status-id mono"
        href={`${server}/j/${jobId}${query}`}
        target="_blank"
        rel="noopener"
        title="Open the job's page, and copy its id"
        onClick={() => {
          navigator.clipboard?.writeText(jobId).then(
            () => {
              copied.value = true;
              setTimeout(() => {
                copied.value = false;
              }, 2_000);
            },
            () => {},
          );
        }}
      >
        {copied.value ? "copied" : jobId.slice(0, 6)}
        <span class="sr-only">, id of the job: opens its page</span>
      </a>
      <span class="sr-only" role="status">
        {copied.value ? "The id was copied" : ""}
      </span>
    </>
  );
}
