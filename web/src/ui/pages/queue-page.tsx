/** `/q/QUEUE`: what a queue does now, and what it did within the last hour. */

import { type Signal, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { QueueHistory } from "../../contract.ts";
import { AsmanError } from "../../errors.ts";
import { depthChart, runChart, throughputChart, waitChart } from "../chart-model.ts";
import { MinuteChart } from "../charts.tsx";
import { Icon } from "../icons.tsx";
import { Button } from "../kit.tsx";
import type { Session } from "../model.ts";
import { useCalm } from "../parts/calm.ts";
import { JobList } from "../parts/job-list.tsx";
import { HealthLine } from "../parts/queue.tsx";
import { isOpenQueue, maskQueue } from "../parts/queue-name.ts";
import { countsOf, type JobFilter } from "../parts/queue-words.ts";
import { Reveal } from "../parts/reveal.tsx";
import { When } from "../parts/when.tsx";
import { WorkerList } from "../parts/worker-list.tsx";
import "./queue-page.css";

export function QueuePage({ session: live }: { session: Session }) {
  const session = useCalm(live);
  const filter = useSignal<JobFilter>({ state: "all", text: "" });
  const queue = session.queue.value;
  const { queued, running } = countsOf(session.jobs.value);
  const hash = `#?queue=${encodeURIComponent(queue)}`;
  useEffect(() => {
    const before = document.title;
    document.title = `${running} running, ${queued} queued`;
    return () => {
      document.title = before;
    };
  }, [running, queued]);
  return (
    <main class="queue-page">
      <Head session={session} hash={hash} />
      <div class="queue-page-now">
        <HealthLine session={session} />
        <dl class="queue-page-counts">
          <Count name="queued" value={queued} />
          <Count name="running" value={running} />
          <Count
            name={session.workers.value.length === 1 ? "worker" : "workers"}
            value={session.workers.value.length}
          />
        </dl>
      </div>
      <div class="queue-page-columns">
        <section aria-labelledby="queue-page-jobs">
          <h2 id="queue-page-jobs">Jobs</h2>
          <JobList
            session={session}
            filter={filter}
            open={{ href: (jobId) => `./j/${jobId}${hash}` }}
            rowsAtFirst={20}
          />
        </section>
        <div class="queue-page-side">
          <section aria-labelledby="queue-page-workers">
            <h2 id="queue-page-workers">Workers</h2>
            <WorkerList session={session} />
          </section>
          <LastHour session={session} />
        </div>
      </div>
    </main>
  );
}

function Count({ name, value }: { name: string; value: number }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

function Head({ session, hash }: { session: Session; hash: string }) {
  const isShown = useSignal(false);
  const queue = session.queue.value;
  const isSecret = !isOpenQueue(queue);
  const connection = session.connection.value;
  return (
    <header class="queue-page-head">
      <h1>
        Queue <span class="mono">{isSecret && !isShown.value ? maskQueue(queue) : queue}</span>
      </h1>
      {isSecret && <Reveal isShown={isShown} />}
      <span class="queue-page-space" />
      {(connection === "reconnecting" || connection === "offline") && (
        <span class="tone-warn queue-page-connection" role="status">
          <Icon name="offline" />
          <span class="queue-page-more">{connection === "offline" ? "Offline" : "Reconnecting…"}</span>
        </span>
      )}
      <a class="button primary" target="_self" href={`./${hash}`} aria-label="Submit a job">
        <Icon name="run" />
        <span>
          Submit<span class="queue-page-more"> a job</span>
        </span>
      </a>
    </header>
  );
}

// --- the last hour ---------------------------------------------------------------------------------------------------

const EVERY_MS = 10_000;

function LastHour({ session }: { session: Session }) {
  const history = useSignal<QueueHistory | null>(null);
  const fault = useSignal("");
  const asked = useSignal(0);
  const client = session.client.value;
  const queue = session.queue.value;
  const isConnected = session.connection.value === "connected";
  const again = asked.value;
  useEffect(() => {
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const ask = async () => {
      clearTimeout(timer);
      if (!document.hidden) await read(client.history(queue, { signal: stop.signal }), history, fault, stop.signal);
      if (!stop.signal.aborted) timer = setTimeout(ask, EVERY_MS);
    };
    const shown = () => void (document.hidden || ask());
    document.addEventListener("visibilitychange", shown);
    void ask();
    return () => {
      stop.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", shown);
    };
  }, [client, queue, isConnected, again]);
  return (
    <section aria-labelledby="queue-page-hour">
      <h2 id="queue-page-hour">The last hour</h2>
      {fault.value && (
        <div class="queue-page-fault" role="alert">
          <p>{fault.value}</p>
          <Button
            icon="again"
            label="Try again"
            onClick={() => {
              asked.value++;
            }}
          />
        </div>
      )}
      {history.value ? <Charts history={history.value} /> : !fault.value && <p class="muted">Asking the server…</p>}
    </section>
  );
}

function Charts({ history }: { history: QueueHistory }) {
  const charts = [throughputChart, waitChart, depthChart, runChart].map((make) => make(history));
  const isNothing = charts.every(({ isEmpty }) => isEmpty);
  return (
    <>
      <Since history={history} />
      {isNothing ? (
        <p>
          {history.hour.submitted > 0
            ? "Its first jobs are on their way: there is nothing to draw yet."
            : `No job ${isWhole(history) ? "came within the hour" : "has come yet"}: how many end, how long they wait and how long they run is drawn here.`}
        </p>
      ) : (
        <div class="queue-page-charts">
          {charts.map((chart) => (
            <MinuteChart key={chart.title} chart={chart} />
          ))}
        </div>
      )}
    </>
  );
}

async function read(
  asked: Promise<QueueHistory>,
  history: Signal<QueueHistory | null>,
  fault: Signal<string>,
  stopped: AbortSignal,
): Promise<void> {
  try {
    const answer = await asked;
    if (stopped.aborted) return;
    history.value = answer;
    fault.value = "";
  } catch (error) {
    if (stopped.aborted) return;
    const isOld = error instanceof AsmanError && error.status === 404;
    fault.value = isOld
      ? "This server does not keep the last hour of a queue."
      : `The last hour could not be read: ${error instanceof Error ? error.message : String(error)}`;
  }
}

const WHOLE_MS = 59 * 60_000;

const isWhole = ({ since, time }: QueueHistory) => time - since >= WHOLE_MS;

/** From when on it was counted, if that is not the whole hour. */
function Since({ history }: { history: QueueHistory }) {
  const { since, servers } = history;
  if (isWhole(history)) return null;
  return (
    <p class="muted">
      Counted since <When time={since} />, when {servers === 1 ? "the server" : "one of the servers"} began: what came
      earlier is not in it.
    </p>
  );
}
