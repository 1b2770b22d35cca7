/** The workers of a queue: what each has, how much of it this queue uses, and what it takes. */

import { Meter } from "../charts.tsx";
import { Icon } from "../icons.tsx";
import type { Session } from "../model.ts";
import { workerRows } from "./queue-words.ts";
import { When } from "./when.tsx";
import { WorkerStart } from "./worker-start.tsx";
import "./worker-list.css";

export function WorkerList({ session }: { session: Session }) {
  const rows = workerRows(session.workers.value, session.jobs.value);
  return (
    <div class="worker-list">
      {rows.length === 0 ? (
        <p>No worker is connected. A worker takes jobs from this queue and runs them. Start one:</p>
      ) : (
        <ul class="worker-rows" aria-label="Workers">
          {rows.map((worker) => (
            <li key={worker.id} class="worker-row">
              <div class="worker-row-head">
                <Icon name="worker" />
                <span class="mono worker-row-id">{worker.id}</span>
                <span class={worker.running.length ? "" : "muted"}>
                  {worker.running.length === 0
                    ? "idle"
                    : `runs ${worker.running.length} ${worker.running.length === 1 ? "job" : "jobs"}`}
                </span>
              </div>
              <div class="worker-row-shares">
                {worker.shares.map(({ name, used, total, text }) => (
                  <Meter key={name} label={name} used={used} total={total} text={text} />
                ))}
              </div>
              <p class="worker-row-more muted">
                {worker.maxDuration && <span>jobs of at most {worker.maxDuration}</span>}
                {worker.tags.length > 0 && <span>tags {worker.tags.join(", ")}</span>}
                {worker.arch && <span>{worker.arch}</span>}
                {worker.version && <span>version {worker.version}</span>}
                {worker.since !== null && <When time={worker.since} before="connected " />}
              </p>
            </li>
          ))}
        </ul>
      )}
      {rows.length === 0 ? (
        <WorkerStart session={session} />
      ) : (
        <details>
          <summary>Add a worker</summary>
          <WorkerStart session={session} />
        </details>
      )}
    </div>
  );
}
