/** The jobs that were sent from this browser: to open them again, or to forget them. */

import { useSignal } from "@preact/signals";
import { attempt } from "../actions.ts";
import { Icon } from "../icons.tsx";
import { Button, PanelFrame, SearchField } from "../kit.tsx";
import type { HistoryEntry, Session } from "../model.ts";
import { Confirm } from "./confirm.tsx";
import { isOpenQueue, maskQueue } from "./queue-name.ts";
import { endWords, jobWords } from "./queue-words.ts";
import { When } from "./when.tsx";
import "./rows.css";
import "./history.css";

export function History({ session }: { session: Session }) {
  const text = useSignal("");
  const isAsked = useSignal(false);
  const all = session.history.value;
  const found = foundIn(all, text.value);
  return (
    <PanelFrame
      title="History"
      onClose={() => {
        session.panel.value = null;
      }}
    >
      <div class="history">
        {all.length === 0 ? (
          <p class="muted">
            Jobs that are run from this browser are listed here, newest first. The list stays in this browser.
          </p>
        ) : (
          <>
            <div class="history-head">
              <SearchField
                label="Search the history"
                placeholder="Image, command, id, outcome…"
                value={text.value}
                onInput={(typed) => {
                  text.value = typed;
                }}
              />
              {!isAsked.value && (
                <Button
                  icon="trash"
                  label="Clear all"
                  onClick={() => {
                    isAsked.value = true;
                  }}
                />
              )}
            </div>
            {isAsked.value && (
              <Confirm
                question={`Forget ${all.length === 1 ? "this job" : `all ${all.length} jobs`}? Their results stay on the server.`}
                yes="Forget"
                no="Keep"
                onYes={() => {
                  isAsked.value = false;
                  attempt(session, "The history was not cleared", () => session.forget(null));
                }}
                onNo={() => {
                  isAsked.value = false;
                }}
              />
            )}
            <p class="muted" role="status">
              {text.value.trim() ? `${found.length} of ${all.length}` : all.length} {all.length === 1 ? "job" : "jobs"},
              kept in this browser only
            </p>
            <ul class="rows" aria-label="Jobs of this browser">
              {found.map((entry) => (
                <Entry key={`${entry.queue} ${entry.jobId}`} entry={entry} session={session} />
              ))}
            </ul>
          </>
        )}
      </div>
    </PanelFrame>
  );
}

/** All words must be found. The queue's name is no part of it: it is a key. */
export function foundIn(entries: readonly HistoryEntry[], text: string): HistoryEntry[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return entries.filter((entry) => {
    const { jobId, image, command, outcome, exitCode } = entry;
    const whole = `${jobId} ${image} ${command} ${outcome ? endWords(outcome, exitCode).title : ""}`.toLowerCase();
    return words.every((word) => whole.includes(word));
  });
}

/** The page with this job in its link, from wherever one is now. */
export function addressOf(entry: HistoryEntry): string {
  const at = entry.hash.indexOf("#");
  return at < 0 ? `./#${entry.hash}` : `./${entry.hash.slice(at)}`;
}

function Entry({ entry, session }: { entry: HistoryEntry; session: Session }) {
  const live = session.queue.value === entry.queue ? session.jobs.value.get(entry.jobId) : undefined;
  const words = live
    ? jobWords(live)
    : entry.outcome
      ? endWords(entry.outcome, entry.exitCode)
      : ({ title: "Sent", icon: "wait", tone: "plain" } as const);
  const isShown = session.job.value?.jobId === entry.jobId && session.queue.value === entry.queue;
  const open = (event: MouseEvent) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    if (session.route.peek().kind !== "job") return; // the link leads to the page
    event.preventDefault();
    location.hash = addressOf(entry).slice("./".length);
    session.show(null);
    if (innerWidth < 1_000) session.panel.value = null;
  };
  return (
    <li class={`row ${isShown ? "is-shown" : ""}`} aria-current={isShown ? "true" : undefined}>
      <span class={`row-state tone-${words.tone}`}>
        <Icon name={words.icon} />
        <strong>{words.title}</strong>
      </span>
      <span class="row-what">
        <a class="row-open" target="_self" href={addressOf(entry)} onClick={open} title="Open this job">
          {entry.image}
        </a>
        {entry.command && (
          <code class="row-command" title={entry.command}>
            {entry.command}
          </code>
        )}
      </span>
      <span class="row-more muted">
        <When time={entry.submitted} />
        <span class="mono" title={entry.jobId}>
          {entry.jobId.slice(0, 8)}
        </span>
        <span>on {isOpenQueue(entry.queue) ? entry.queue : maskQueue(entry.queue)}</span>
      </span>
      <span class="row-actions">
        <Button
          icon="trash"
          iconOnly
          tone="plain"
          label={`Forget job ${entry.jobId.slice(0, 8)}`}
          onClick={() => attempt(session, "The job was not forgotten", () => session.forget(entry))}
        />
      </span>
    </li>
  );
}
