/** Why the shown job waits, and what would make it start. */

import { Icon } from "../icons.tsx";
import type { Session } from "../model.ts";
import { pastAttempts } from "../status.ts";
import { showElapsed, useNow } from "../time.ts";
import { countsOf } from "./queue-words.ts";
import { whyWords } from "./why-words.ts";
import { WorkerStart } from "./worker-start.tsx";
import "./why.css";

export function Why({ session }: { session: Session }) {
  const why = session.why.value;
  const record = session.job.value?.record;
  const isWaiting = why !== null && record?.state === "Queued";
  const now = useNow(isWaiting);
  if (!why || !isWaiting) return null;
  // The answer's own number of attempts goes on when a person runs the job anew.
  const words = whyWords({ ...why, attempt: pastAttempts(record).length }, countsOf(session.jobs.value).queued);
  const last = words.advice.length - 1;
  return (
    <section class="why" aria-label="Why it waits">
      <div class="why-head">
        <Icon name="wait" />
        <p class="why-reason" role="status">
          <strong>{words.reason}</strong> {words.place}
        </p>
        <span class="why-waited muted">waited {showElapsed(now.value - record.queuedTime)}</span>
      </div>
      {words.missing.length > 0 && (
        <ul class="why-missing">
          {words.missing.map((text) => (
            <li key={text}>{text}</li>
          ))}
        </ul>
      )}
      {words.advice.map((text, at) => (
        <p key={text} class={at === last ? "" : "muted"}>
          {text}
        </p>
      ))}
      {words.wantsWorker && <WorkerStart session={session} />}
      {words.workers.length > 0 && (
        <details>
          <summary>{words.workers.length === 1 ? "The worker" : `The ${words.workers.length} workers`}</summary>
          <ul class="why-workers">
            {words.workers.map(({ id, isFitting, text }) => (
              <li key={id}>
                <span class={isFitting ? "" : "tone-warn"}>
                  <Icon name={isFitting ? "worker" : "close"} />
                </span>
                <span>
                  <span class="mono">{id}</span> {text}
                </span>
              </li>
            ))}
          </ul>
        </details>
      )}
    </section>
  );
}
