/** What an empty page shows: what this is, three jobs that run, a box to paste into, and the queue with its worker. */

import { useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { withParameter } from "../hash.ts";
import { Icon } from "../icons.tsx";
import { Button, Field, PanelFrame } from "../kit.tsx";
import type { Definition, Session } from "../model.ts";
import { editsOf } from "./edits.ts";
import { EXAMPLES, type Example, hashOf } from "./examples.ts";
import { FindingsList } from "./findings.tsx";
import { type Pasted, readPasted } from "./paste.ts";
import { QueueField } from "./queue-field.tsx";
import { isPublicQueue, newQueueName, queuePlace, queueText } from "./queue-name.ts";
import { takeDefinition } from "./settings-state.ts";
import { checkDefinition } from "./validate.ts";
import { WorkerStart } from "./worker-start.tsx";
import "./settings.css";
import "./start.css";

export function Start({ session }: { session: Session }) {
  // What is asked for comes first, and stays where it is once it has been given.
  const needsQueue = useRef(false);
  const assembled = session.assembled.value;
  if ("what" in assembled && assembled.what === "queue") needsQueue.current = true;
  const body = (
    <div class="start">
      <p class="start-lead">
        Run a container from a link: choose what runs and which queue runs it, watch the log, take the files that come
        out.
      </p>
      <Missing session={session} />
      {needsQueue.current && <QueueBox session={session} />}
      <Examples session={session} />
      <PasteBox session={session} />
      {!needsQueue.current && <QueueBox session={session} />}
    </div>
  );
  if (session.panel.value !== "start") return <section aria-label="Start">{body}</section>;
  return (
    <PanelFrame title="Start" onClose={() => (session.panel.value = null)}>
      {body}
    </PanelFrame>
  );
}

/** What is needed before the job of the page can run, and where it is given. */
function Missing({ session }: { session: Session }) {
  const assembled = session.assembled.value;
  if ("jobId" in assembled) return null;
  const { job } = session.params;
  const settings = (tab: string, label: string) => (
    <Button
      icon="settings"
      label={label}
      onClick={() => {
        storeTab(tab);
        session.panel.value = "settings";
      }}
    />
  );
  if (assembled.what === "invalid")
    return (
      <div class="start-missing" role="status">
        <p>
          <strong>This job cannot run as it is.</strong> Correct it in the settings:
        </p>
        <ul>
          {assembled.problems.map((problem) => (
            <li key={problem}>{problem}</li>
          ))}
        </ul>
        {settings("definition", "Open the definition")}
      </div>
    );
  if (assembled.what === "image" && job.value)
    return (
      <div class="start-missing" role="status">
        <p>
          <strong>This job has no image.</strong> Name one, such as alpine:3.19.1, or describe a build.
        </p>
        {settings("image", "Choose an image")}
      </div>
    );
  if (assembled.what === "queue" && job.value)
    return (
      <div class="start-missing" role="status">
        <p>
          <strong>This job has no queue to run on.</strong> Type its name below, or make a new one.
        </p>
      </div>
    );
  return null;
}

function storeTab(name: string): void {
  try {
    localStorage.setItem("settings-tab", name);
  } catch {
    // Then the settings open where they were.
  }
}

// --- examples --------------------------------------------------------------------------------------------------------

function Examples({ session }: { session: Session }) {
  const queue = session.queue.value;
  const waiting = useSignal("");
  const waits = session.workers.value.length === 0 && session.connection.value === "connected";
  const run = async (event: MouseEvent, example: Example) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return; // a link, for the browser
    event.preventDefault();
    waiting.value = example.title;
    take(session, example.title, example.job, example.inputs);
    if (queue) await runWhenReady(session, example.job);
    else session.panel.value = "start"; // the page is not empty any more, and the queue is asked for here
    waiting.value = "";
  };
  return (
    <section aria-labelledby="start-examples">
      <h2 id="start-examples">
        {!queue ? "Try one" : waits ? "Try one: it waits for a worker" : "Try one: it runs at once"}
      </h2>
      <ul class="start-examples">
        {EXAMPLES.map((example) => (
          <li key={example.title}>
            <a href={hashOf(example, queueText(session))} target="_self" onClick={(event) => run(event, example)}>
              <strong>
                <Icon name={queue ? "run" : "add"} /> {example.title}
              </strong>
              <span>{example.about}</span>
            </a>
          </li>
        ))}
      </ul>
      {!queue && <p class="muted">Then choose a queue, and press Run.</p>}
      <p class="sr-only" role="status">
        {waiting.value && `${waiting.value} is on its way.`}
      </p>
    </section>
  );
}

function take(session: Session, label: string, job: Record<string, unknown>, inputs?: Record<string, string>): void {
  editsOf(session).change(`start-${label}`, label, () => {
    session.params.inputs.value = inputs;
    session.params.job.value = job as Definition;
  });
}

const READY_MS = 10_000;

/** The job is assembled a moment after the link has changed; then it is run. */
async function runWhenReady(session: Session, job: Record<string, unknown>): Promise<void> {
  const isReady = () => {
    const assembled = session.assembled.peek();
    if (!("jobId" in assembled)) return false;
    const definition = assembled.definition as Record<string, unknown>;
    return Object.entries(job).every(([name, value]) => JSON.stringify(definition[name]) === JSON.stringify(value));
  };
  await new Promise<void>((resolve) => {
    const timer = setTimeout(done, READY_MS);
    let stop: (() => void) | undefined;
    function done() {
      clearTimeout(timer);
      stop?.();
      resolve();
    }
    stop = session.assembled.subscribe(() => isReady() && queueMicrotask(done));
  });
  if (isReady()) await session.run();
}

// --- paste -----------------------------------------------------------------------------------------------------------

function PasteBox({ session }: { session: Session }) {
  const text = useSignal("");
  const told = useSignal<{ kind: "good" | "bad"; text: string; notes: string[] } | null>(null);
  const read = text.value.trim() ? readPasted(text.value) : null;
  const findings = read?.kind === "job" ? checkDefinition(read.definition) : null;
  const isUsable = read !== null && read.kind !== "none" && (findings?.faults.length ?? 0) === 0;
  const use = async (event: Event) => {
    event.preventDefault();
    if (!isUsable || !read) return;
    const used = text.value;
    try {
      told.value = { kind: "good", ...(await takePasted(session, read)) };
      text.value = "";
    } catch (error) {
      text.value = used;
      told.value = { kind: "bad", text: error instanceof Error ? error.message : String(error), notes: [] };
    }
  };
  return (
    <section aria-labelledby="start-paste">
      <h2 id="start-paste">Bring your own</h2>
      <form class="start-paste" onSubmit={use}>
        <Field
          label="Paste a docker run line, a GitHub address, a Dockerfile, JSON, or a link of such a page"
          fault={read?.kind === "none" ? `${read.text} ${read.hint}` : undefined}
        >
          {(ids) => (
            <textarea
              {...ids}
              class="mono"
              rows={Math.min(Math.max(text.value.split("\n").length, 3), 12)}
              spellcheck={false}
              autocapitalize="off"
              placeholder="docker run --rm -e NAME=you alpine:3.19.1 sh -c 'echo hello $NAME'"
              value={text.value}
              onInput={(event) => {
                text.value = event.currentTarget.value;
                told.value = null;
              }}
            />
          )}
        </Field>
        {read?.kind === "job" && (
          <div class="start-read" role="status">
            <p>
              Read as {read.what}
              {read.notes.length > 0 ? ", with this:" : "."}
            </p>
            <Notes notes={read.notes} />
          </div>
        )}
        {findings && <FindingsList findings={findings} />}
        {text.value.trim() && <Button type="submit" tone="primary" label="Use this" disabled={!isUsable} />}
        {told.value && (
          <div class={told.value.kind === "good" ? "start-read" : "settings-fault"} role="status">
            <p>{told.value.text}</p>
            <Notes notes={told.value.notes} />
          </div>
        )}
      </form>
    </section>
  );
}

function Notes({ notes }: { notes: readonly string[] }) {
  if (notes.length === 0) return null;
  return (
    <ul>
      {notes.map((note) => (
        <li key={note}>{note}</li>
      ))}
    </ul>
  );
}

/** The start goes once there is a job, so what was left out is told by the page. */
function tellTaken(session: Session, text: string, notes: readonly string[]): void {
  session.notify({
    kind: notes.length > 0 ? "warning" : "note",
    text,
    ...(notes.length > 0 ? { hint: notes.join(" ") } : {}),
  });
  if (!session.queue.value) session.panel.value = "start";
}

/** Put what was pasted into the link. Throws an Error in words for people. */
async function takePasted(session: Session, read: Pasted): Promise<{ text: string; notes: string[] }> {
  const { params } = session;
  const next = session.queue.value ? "Press Run." : "Now choose a queue.";
  if (read.kind === "job") {
    editsOf(session).change("paste", "paste", () => {
      takeDefinition(session, read.definition);
      if (read.control) params.control.value = read.control;
    });
    tellTaken(session, `Taken over from ${read.what}. ${next}`, read.notes);
    return { text: `Taken over. ${next}`, notes: read.notes };
  }
  if (read.kind === "link") {
    // The queue is set by itself: in a frame it must not be in the hash, which the host page is told.
    const queue = read.queue ?? params.queue.value;
    const hash = withParameter(read.hash, "queue", undefined);
    if (session.route.value.kind === "job") location.hash = hash;
    else location.assign(`/${hash}`);
    params.queue.value = queue;
    return { text: "The link is open.", notes: [] };
  }
  if (read.kind !== "job-page") throw new Error(read.text);
  if (read.origin !== location.origin)
    throw new Error(`This job is on ${read.origin}. Open the link itself: another page cannot show it.`);
  const queue = read.queue ?? session.queue.value;
  const definition = await session.client.value.definition(read.jobId, queue ? { queue } : {});
  if (!definition) throw new Error("The server does not know this job, or does not keep it any more.");
  editsOf(session).change("paste", "paste", () => takeDefinition(session, definition as Record<string, unknown>));
  if (read.queue && !session.queue.value) params.queue.value = read.queue;
  tellTaken(session, `The job's definition was taken over. ${next}`, []);
  return { text: `Its definition was taken over. ${next}`, notes: [] };
}

// --- queue -----------------------------------------------------------------------------------------------------------

function QueueBox({ session }: { session: Session }) {
  const { params } = session;
  const isSetByHost = Boolean(params.queueOverride.value) && !params.ignoreQueueOverride.value;
  const made = useSignal("");
  const queue = queueText(session);
  const place = queuePlace(queue, location.origin);
  const make = () => {
    made.value = newQueueName();
    params.queue.value = made.value;
  };
  return (
    <section aria-labelledby="start-queue">
      <h2 id="start-queue">The queue</h2>
      <p class="muted">
        Jobs wait in a queue until one of its workers takes them. Its name is its key: who has it may use it.
      </p>
      <div class="start-queue">
        <QueueField session={session} isLocked={isSetByHost} hint="Or local: a worker on this computer." />
        {!isSetByHost && <Button icon="lock" label={queue ? "Make another" : "Make a private one"} onClick={make} />}
      </div>
      {queue && queue === made.value && (
        <p class="start-read" role="status">
          This name is new, and nobody can guess it. Keep the link: it is the only place that has it.
        </p>
      )}
      {isPublicQueue(place.name) && (
        <p class="settings-warning">
          Everybody knows queues like {place.name}: anybody can see these jobs, and anybody's worker may run them. Send
          nothing secret there.
        </p>
      )}
      {queue && <Worker session={session} isLocal={place.isLocal} />}
    </section>
  );
}

function Worker({ session, isLocal }: { session: Session; isLocal: boolean }) {
  const count = session.workers.value.length;
  return (
    <div class="start-worker">
      <h3>
        {count > 0
          ? `${count} ${count === 1 ? "worker is" : "workers are"} there. Add another:`
          : "Start a worker for it"}
      </h3>
      <WorkerStart session={session} />
      <p class="muted">
        {isLocal && session.connection.value !== "connected"
          ? "On this computer, with Docker: server and worker in one."
          : isLocal
            ? "On this computer, with Docker."
            : "On any machine with Docker. It needs no open port."}
      </p>
    </div>
  );
}
