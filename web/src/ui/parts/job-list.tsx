/** The jobs of a queue as rows, with filters. Image and command are fetched for the rows that are on screen. */

import { type Signal, useComputed, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { attempt } from "../actions.ts";
import { Icon } from "../icons.tsx";
import { Button, SearchField } from "../kit.tsx";
import type { Session } from "../model.ts";
import { pastAttempts } from "../status.ts";
import { showDuration, showElapsed, useNow } from "../time.ts";
import { Confirm } from "./confirm.tsx";
import { type Definitions, definitionsOf } from "./definitions.ts";
import {
  type JobFilter,
  type JobRow,
  jobRows,
  jobWords,
  lastedOf,
  namespacesOf,
  STATE_FILTERS,
  type StateFilter,
  shortId,
} from "./queue-words.ts";
import { When } from "./when.tsx";
import "./rows.css";
import "./job-list.css";

/** So many more are shown at a time. */
const MORE = 100;
/** A search looks at the definitions of so many jobs. */
const SEARCHED_MAX = 2_000;

interface JobListProps {
  session: Session;
  filter: Signal<JobFilter>;
  /** Where a job is opened: at its own page, or in place. */
  open: { href: (jobId: string) => string } | { show: (jobId: string) => void };
  rowsAtFirst?: number;
}

export function JobList({ session, filter, open, rowsAtFirst = 50 }: JobListProps) {
  const definitions = definitionsOf(session.client.value, session.queue.value);
  const most = useSignal(rowsAtFirst);
  const rows = useComputed(() => {
    if (filter.value.text) void definitions.version.value;
    return jobRows(session.jobs.value, filter.value, (jobId) => definitions.get(jobId) ?? null);
  });
  /** A search has not seen these yet. */
  const unknown = useComputed(() => {
    if (!filter.value.text.trim()) return 0;
    void definitions.version.value;
    const ids = [...session.jobs.value.keys()].slice(0, SEARCHED_MAX);
    return ids.filter((jobId) => definitions.get(jobId) === undefined).length;
  });
  const all = session.jobs.value.size;
  const shown = rows.value.slice(0, most.value);
  const isNarrowed = filter.value.text !== "" || filter.value.state !== "all";
  useSearched(session, filter, definitions);
  return (
    <div class="job-list">
      <Filters filter={filter} />
      <p class="job-list-count muted" role="status">
        {isNarrowed
          ? `${rows.value.length} of ${all} ${all === 1 ? "job" : "jobs"}`
          : `${all} ${all === 1 ? "job" : "jobs"}`}
        {all > 0 && ". Those that ended are listed for a minute."}
        {unknown.value > 0 && " More are being looked at…"}
      </p>
      {shown.length === 0 ? (
        <p class="job-list-empty">
          {isNarrowed && all > 0 ? "No job is like that." : "No job is in this queue now. What you run shows up here."}
        </p>
      ) : (
        <ul class="rows" aria-label="Jobs">
          {shown.map((row) => (
            <Row key={row.jobId} row={row} session={session} definitions={definitions} open={open} />
          ))}
        </ul>
      )}
      {rows.value.length > shown.length && (
        <Button
          icon="down"
          label={`Show ${Math.min(rows.value.length - shown.length, MORE)} more`}
          onClick={() => {
            most.value += MORE;
          }}
        />
      )}
    </div>
  );
}

/** A search needs image and command of jobs that are not on screen, too. */
function useSearched(session: Session, filter: Signal<JobFilter>, definitions: Definitions): void {
  const isSearching = filter.value.text.trim() !== "";
  useEffect(() => {
    if (!isSearching) return;
    const ids = [...session.jobs.peek().keys()].slice(0, SEARCHED_MAX);
    for (const jobId of ids) definitions.want(jobId);
    return () => {
      for (const jobId of ids) definitions.leave(jobId);
    };
  }, [isSearching, definitions, session]);
}

function Filters({ filter }: { filter: Signal<JobFilter> }) {
  return (
    <search class="job-filters">
      <SearchField
        label="Search jobs"
        placeholder="Image, command, id, worker…"
        value={filter.value.text}
        onInput={(text) => {
          filter.value = { ...filter.value, text };
        }}
      />
      <select
        aria-label="State"
        value={filter.value.state}
        onChange={(event) => {
          filter.value = { ...filter.value, state: event.currentTarget.value as StateFilter };
        }}
      >
        {STATE_FILTERS.map(({ name, label }) => (
          <option key={name} value={name}>
            {label}
          </option>
        ))}
      </select>
    </search>
  );
}

interface RowProps extends Pick<JobListProps, "session" | "open"> {
  row: JobRow;
  definitions: Definitions;
}

function Row({ row: { jobId, record }, session, definitions, open }: RowProps) {
  const place = useRef<HTMLLIElement>(null);
  const isAsked = useSignal(false);
  const isOnScreen = useSignal(false);
  useOnScreen(place, (isIn) => {
    isOnScreen.value = isIn;
    if (isIn) definitions.want(jobId);
    else definitions.leave(jobId);
  });
  const what = definitions.of(jobId).value;
  const words = jobWords(record);
  const isActive = record.state === "Queued" || record.state === "Running";
  const isShown = session.job.value?.jobId === jobId;
  const name = what ? what.image : what === null ? "Its definition is gone" : "…";
  const namespaces = namespacesOf(record);
  const past = pastAttempts(record).length;
  return (
    <li ref={place} class={`row job-row ${isShown ? "is-shown" : ""}`} aria-current={isShown ? "true" : undefined}>
      <span class={`row-state tone-${words.tone}`}>
        <Icon name={words.icon} />
        <span>
          <strong>{words.title}</strong>
          <Lasted record={record} ticks={isOnScreen.value} />
        </span>
      </span>
      <span class="row-what">
        {"href" in open ? (
          <a class="row-open" target="_self" href={open.href(jobId)} title={`Open job ${jobId}`}>
            {name}
          </a>
        ) : (
          <button type="button" class="row-open" title={`Show job ${jobId}`} onClick={() => open.show(jobId)}>
            {name}
          </button>
        )}
        {what?.command ? (
          <code class="row-command" title={what.command}>
            {what.command}
          </code>
        ) : (
          <span class="row-command muted">{what ? "the image's own command" : "\u00a0"}</span>
        )}
        {record.message && !isActive && <span class="job-row-message">{record.message}</span>}
      </span>
      <span class="row-more muted">
        <span class="mono" title={jobId}>
          {jobId.slice(0, 8)}
        </span>
        <When time={record.queuedTime} before="queued " ages={isOnScreen.value} />
        {record.worker && <span title={`Worker ${record.worker}`}>on {shortId(record.worker)}</span>}
        {past > 0 && <span>attempt {past + 1}</span>}
        {namespaces && <span title="Namespace">for {namespaces}</span>}
        {record.tags?.length ? <span title="Tags">{record.tags.join(", ")}</span> : null}
      </span>
      {isActive && (
        <span class="row-actions">
          {isAsked.value ? (
            <Confirm
              question={record.state === "Running" ? "End it?" : "Take it out?"}
              yes="Cancel the job"
              no="Keep it"
              onYes={() => {
                isAsked.value = false;
                attempt(session, "The job was not cancelled", () => session.cancel(jobId));
              }}
              onNo={() => {
                isAsked.value = false;
                requestAnimationFrame(() => place.current?.querySelector<HTMLElement>(".job-row-cancel")?.focus());
              }}
            />
          ) : (
            <Button
              class="job-row-cancel"
              icon="stop"
              tone="plain"
              label="Cancel"
              aria-label={`Cancel job ${jobId.slice(0, 8)}`}
              onClick={() => {
                isAsked.value = true;
              }}
            />
          )}
        </span>
      )}
    </li>
  );
}

function Lasted({ record, ticks }: { record: JobRow["record"]; ticks: boolean }) {
  const isActive = record.state === "Queued" || record.state === "Running";
  const now = useNow(isActive && ticks);
  const lasted = lastedOf(record, isActive && ticks ? now.value : Date.now());
  if (lasted === null) return null;
  return <span class="job-row-time">{isActive ? showElapsed(lasted) : showDuration(lasted)}</span>;
}

type Listener = (isOnScreen: boolean) => void;
const listeners = new WeakMap<Element, Listener>();
let observer: IntersectionObserver | null = null;

/** One observer for all rows. Where there is none, everything counts as on screen. */
function useOnScreen(place: { current: Element | null }, tell: Listener): void {
  useEffect(() => {
    const element = place.current;
    if (!element) return;
    if (typeof IntersectionObserver === "undefined") {
      tell(true);
      return () => tell(false);
    }
    observer ??= new IntersectionObserver(
      (entries) => {
        for (const entry of entries) listeners.get(entry.target)?.(entry.isIntersecting);
      },
      { rootMargin: "100px" },
    );
    listeners.set(element, tell);
    observer.observe(element);
    return () => {
      observer?.unobserve(element);
      listeners.delete(element);
      tell(false);
    };
  }, []);
}
