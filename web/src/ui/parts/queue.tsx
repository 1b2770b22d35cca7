/** The queue of this page: which it is, how it is, its jobs and its workers. */

import { type Signal, useSignal } from "@preact/signals";
import { Icon, type IconName } from "../icons.tsx";
import { Button, PanelFrame, Tabs } from "../kit.tsx";
import type { Session } from "../model.ts";
import { useCalm } from "./calm.ts";
import { JobList } from "./job-list.tsx";
import { QueueChoice } from "./queue-choice.tsx";
import { countsOf, healthOf, type JobFilter } from "./queue-words.ts";
import { WorkerList } from "./worker-list.tsx";
import { WorkerStart } from "./worker-start.tsx";
import "./queue.css";

type Tab = "jobs" | "workers";

/** Below this the panel lies over the console: whoever opens a job wants to see it. As in layout.css. */
const BESIDE = 1_000;

export function Queue({ session: live }: { session: Session }) {
  const session = useCalm(live);
  const tab = useSignal<Tab>("jobs");
  const filter = useSignal<JobFilter>({ state: "all", text: "" });
  const queue = session.queue.value;
  const workers = session.workers.value.length;
  const { queued, running } = countsOf(session.jobs.value);
  const active = queued + running;
  const show = (jobId: string) => {
    session.show(jobId);
    if (innerWidth < BESIDE) session.panel.value = null;
  };
  return (
    <PanelFrame
      title="Queue"
      onClose={() => {
        session.panel.value = null;
      }}
      actions={
        queue ? (
          <a
            class="button plain"
            href={`${session.client.value.server}/q/${encodeURIComponent(queue)}`}
            target="_blank"
            rel="noopener"
          >
            <Icon name="queue" />
            Dashboard
          </a>
        ) : undefined
      }
    >
      <div class="queue">
        <QueueChoice session={session} />
        {queue && <HealthLine session={session} />}
        {queue && workers === 0 && session.connection.value === "connected" && (
          <div class="queue-start">
            <p>Start a worker on any machine with Docker:</p>
            <WorkerStart session={session} />
          </div>
        )}
        <OtherJob session={session} />
        {queue && (
          <Tabs
            name="What is in the queue"
            tabs={[
              { name: "jobs", label: `Jobs (${active} active)` },
              { name: "workers", label: `Workers (${workers})` },
            ]}
            chosen={tab.value}
            onChoose={(name) => {
              tab.value = name;
            }}
          >
            <Chosen session={session} tab={tab.value} filter={filter} show={show} />
          </Tabs>
        )}
      </div>
    </PanelFrame>
  );
}

function Chosen(props: { session: Session; tab: Tab; filter: Signal<JobFilter>; show: (jobId: string) => void }) {
  const { session, tab, filter, show } = props;
  if (tab === "workers") return <WorkerList session={session} />;
  return <JobList session={session} filter={filter} open={{ show }} />;
}

/** One sentence on the queue, with a tick only if nothing is wrong; read aloud when it changes. */
export function HealthLine({ session }: { session: Session }) {
  const health = healthOf(session.jobs.value, session.workers.value, session.connection.value, session.why.value);
  const icons: Record<string, IconName> = { good: "check", warn: "warn", bad: "bad", plain: "wait" };
  return (
    <p class={`queue-health tone-${health.tone}`} role="status">
      <Icon name={icons[health.tone] ?? "wait"} />
      <span>{health.text}</span>
    </p>
  );
}

/** Another job than the link's is shown: the way back. */
function OtherJob({ session }: { session: Session }) {
  const shown = session.job.value?.jobId;
  const assembled = session.assembled.value;
  if (!shown || !("jobId" in assembled) || assembled.jobId === shown) return null;
  return (
    <p class="queue-other">
      <span>
        Job <span class="mono">{shown.slice(0, 8)}</span> is shown in place of this page's own.
      </span>
      <Button icon="again" label="Back to the page's job" onClick={() => session.show(null)} />
    </p>
  );
}
