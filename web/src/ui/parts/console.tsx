/** The log of the shown job: build and run, searched, copied and downloaded. */

import { effect, type Signal, useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { Button, CopyButton, SearchField } from "../kit.tsx";
import { type Half, LogRows } from "../log-rows.ts";
import { LogSearch } from "../log-search.ts";
import { logFile, saveFile, showLines, textOf } from "../log-text.ts";
import type { Session } from "../model.ts";
import { LogPane, type PaneHandle, type PaneView, type Times } from "./log-pane.tsx";
import "./console.css";

/** What keys of the whole page do here. */
export interface ConsoleCommands {
  search(): void;
  focus(): void;
  toEnd(): void;
  toggleWrap(): void;
  nextTimes(): void;
}

interface ConsoleProps {
  session: Session;
  commands?: Signal<ConsoleCommands | null>;
}

/** A frame has time for this much of ours. */
const SLICE_MS = 8;
/** How often new lines are told of to those who listen. */
const TELL_MS = 8_000;
const TIMES: Record<Times, { label: string; next: Times }> = {
  off: { label: "Times: off", next: "clock" },
  clock: { label: "Times: local", next: "offset" },
  offset: { label: "Times: since the start", next: "off" },
};

export function Console({ session, commands }: ConsoleProps) {
  const { log } = session;
  const rows = useMemo(() => new LogRows(), [log]);
  const version = useSignal(0);
  const wrap = useRemembered<boolean>("wrap", true);
  const times = useRemembered<Times>("times", "off");
  const isSplit = useRemembered<boolean>("split", false);
  const folded = useSignal<Partial<Record<Half, boolean>>>({});
  const isSearching = useSignal(false);
  const main = useSignal<PaneHandle | null>(null);
  const side = useSignal<PaneHandle | null>(null);
  const jobId = useComputed(() => session.job.value?.jobId);

  useEffect(() => {
    let frame = 0;
    const work = () => {
      frame = 0;
      const end = performance.now() + SLICE_MS;
      const isDone = rows.take(log, () => performance.now() > end);
      version.value++;
      if (!isDone) frame = requestAnimationFrame(work);
    };
    const stop = effect(() => {
      log.version.value;
      if (!frame) frame = requestAnimationFrame(work);
    });
    return () => {
      stop();
      cancelAnimationFrame(frame);
    };
  }, [rows]);

  useSignalEffect(() => {
    jobId.value;
    folded.value = {};
  });

  const searchBox = useRef<HTMLInputElement>(null);
  const search = useSearch(rows, version, (match) => {
    if (match.row.line.half === "build") folded.value = { ...folded.value, build: false };
    requestAnimationFrame(() => main.value?.reveal(match.row) || side.value?.reveal(match.row));
  });
  const openSearch = () => {
    isSearching.value = true; // and what is typed next goes there: see SearchBar
    focusOn(searchBox.current);
  };
  const closeSearch = () => {
    isSearching.value = false;
    search.query.value = "";
    main.value?.focus();
  };

  useEffect(() => {
    if (!commands) return;
    commands.value = {
      search: openSearch,
      focus: () => main.value?.focus(),
      toEnd: () => main.value?.toEnd(),
      toggleWrap: () => {
        wrap.value = !wrap.value;
      },
      nextTimes: () => {
        times.value = TIMES[times.value].next;
      },
    };
    return () => {
      commands.value = null;
    };
  }, []);

  version.value;
  const hasBuild = rows.build.length > 0;
  const isBuildFolded = folded.value.build ?? rows.run.length > 0;
  const streams = isSplit.value ? rows.streams() : null;
  const build = { half: "build" as const, rows: rows.build, title: "Build log", isOpen: !isBuildFolded };
  const run = (some: typeof rows.run | readonly (typeof rows.run)[number][]) => ({
    half: "run" as const,
    rows: some,
    title: null,
    isOpen: true,
  });
  const start = session.job.value?.steps.find((step) => step.name === "run")?.start;
  const view: PaneView = {
    wrap: wrap.value,
    times: times.value,
    start: start ?? rows.run[0]?.line.time ?? rows.build[0]?.line.time ?? 0,
    wanted: search.wanted.value,
    current: search.current.value,
  };
  const common = {
    version: version.value,
    epoch: rows.epoch,
    view,
    onFold: () => {
      folded.value = { ...folded.value, build: !isBuildFolded };
    },
  };
  const hasLines = hasBuild || rows.run.length > 0;
  const dropped = log.dropped.value;

  return (
    <section
      class="console"
      aria-labelledby="console-title"
      onKeyDown={(event) => {
        if (event.key.toLowerCase() === "f" && (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey) {
          event.preventDefault();
          openSearch();
        }
      }}
    >
      <header class="console-head">
        <h2 id="console-title">Console</h2>
        {dropped > 0 && <span class="console-dropped tone-warn">{showLines(dropped)} left out</span>}
        <span class="console-tools">
          <Button
            icon="search"
            iconOnly
            tone="plain"
            label="Search the log"
            aria-expanded={isSearching.value}
            onClick={openSearch}
          />
          <Button
            icon="wrap"
            iconOnly
            tone="plain"
            label="Wrap long lines"
            aria-pressed={wrap.value}
            onClick={() => {
              wrap.value = !wrap.value;
            }}
          />
          <Button
            icon="clock"
            iconOnly
            tone="plain"
            label={TIMES[times.value].label}
            aria-pressed={times.value !== "off"}
            onClick={() => {
              times.value = TIMES[times.value].next;
            }}
          />
          <Button
            icon="split"
            iconOnly
            tone="plain"
            label={isSplit.value ? "Combine the two streams" : "Split the two streams"}
            aria-pressed={isSplit.value}
            onClick={() => {
              isSplit.value = !isSplit.value;
            }}
          />
          <CopyButton
            iconOnly
            tone="plain"
            label="Copy the log"
            disabled={!hasLines}
            text={() => textOf([...rows.build, ...rows.run])}
          />
          <Download session={session} disabled={!hasLines} />
        </span>
      </header>
      <div class={`console-panes${isSplit.value ? " is-split" : ""}${isSearching.value ? " is-searching" : ""}`}>
        {streams ? (
          <>
            <div class="console-stream">
              <h3>stdout</h3>
              <LogPane
                {...common}
                key="out"
                label="Standard output"
                sections={hasBuild ? [build, run(streams.out)] : [run(streams.out)]}
                empty="Nothing on stdout."
                handle={main}
              />
            </div>
            <div class="console-stream">
              <h3>stderr</h3>
              <LogPane
                {...common}
                key="err"
                label="Standard error"
                sections={[run(streams.err)]}
                empty="Nothing on stderr."
                handle={side}
              />
            </div>
          </>
        ) : (
          <LogPane
            {...common}
            key="all"
            label="Log of the job"
            sections={hasBuild ? [build, run(rows.run)] : [run(rows.run)]}
            empty={emptyText(session)}
            handle={main}
          />
        )}
        {isSearching.value && <SearchBar search={search} box={searchBox} onClose={closeSearch} />}
      </div>
      <Teller rows={rows} version={version} />
    </section>
  );
}

function emptyText(session: Session): string {
  const record = session.job.value?.record;
  if (!record) return "Nothing has run yet. What the job prints appears here.";
  if (record.state === "Queued") return "The log begins when a worker takes the job.";
  if (record.state === "Running") return "No output yet.";
  return session.log.isFinal.value ? "The job printed nothing." : "No log of this job is here.";
}

// --- search ----------------------------------------------------------------------------------------------------------

type Search = ReturnType<typeof useSearch>;

function useSearch(
  rows: LogRows,
  version: Signal<number>,
  reveal: (match: NonNullable<ReturnType<LogSearch["at"]>>) => void,
) {
  const query = useSignal("");
  const isExact = useSignal(false);
  const engine = useSignal(new LogSearch("", false));
  const count = useSignal(0);
  const index = useSignal(-1);
  const isReading = useSignal(false);
  const wanted = useComputed(() => engine.value.wanted);
  const current = useComputed(() => {
    count.value;
    return index.value < 0 ? undefined : engine.value.at(index.value);
  });

  useSignalEffect(() => {
    engine.value = new LogSearch(query.value, isExact.value);
    index.value = -1;
    count.value = 0;
  });
  useSignalEffect(() => {
    version.value;
    const own = engine.value;
    let frame = 0;
    const work = () => {
      const end = performance.now() + SLICE_MS;
      const isDone = own.read(rows, () => performance.now() > end);
      count.value = own.count;
      isReading.value = !isDone;
      if (!isDone) frame = requestAnimationFrame(work);
      if (index.peek() < 0 && own.count > 0) go(0);
    };
    work();
    return () => cancelAnimationFrame(frame);
  });

  function go(to: number): void {
    const match = engine.peek().at(to);
    if (!match) return;
    index.value = to;
    reveal(match);
  }
  const step = (by: number) => {
    const all = engine.peek().count;
    if (all) go((index.peek() + by + all) % all);
  };
  return { query, isExact, count, index, isReading, wanted, current, step, engine };
}

function focusOn(box: HTMLInputElement | null): void {
  box?.focus();
  box?.select();
}

interface SearchBarProps {
  search: Search;
  box: { current: HTMLInputElement | null };
  onClose: () => void;
}

function SearchBar({ search, box, onClose }: SearchBarProps) {
  useLayoutEffect(() => focusOn(box.current), []);
  const { query, isExact, count, index, isReading, engine } = search;
  const more = engine.value.isFull ? "more than " : "";
  const words = !query.value
    ? ""
    : count.value
      ? `${index.value + 1} of ${more}${count.value.toLocaleString()}`
      : isReading.value
        ? "searching…"
        : "not found";
  return (
    <search class="console-search">
      <SearchField
        box={box}
        label="Search the log"
        placeholder="Search the log"
        value={query.value}
        onInput={(text) => {
          query.value = text;
        }}
        onKeyDown={(event) => {
          if (event.key === "Enter") {
            event.preventDefault();
            search.step(event.shiftKey ? -1 : 1);
          } else if (event.key === "Escape") {
            event.preventDefault();
            event.stopPropagation();
            onClose();
          }
        }}
      />
      <span class="console-count" role="status">
        {words}
      </span>
      <Button
        label="Aa"
        tone="plain"
        title="Match capital letters"
        aria-label="Aa: match capital letters"
        aria-pressed={isExact.value}
        onClick={() => {
          isExact.value = !isExact.value;
        }}
      />
      <Button
        icon="up"
        iconOnly
        tone="plain"
        label="Previous match"
        disabled={!count.value}
        onClick={() => search.step(-1)}
      />
      <Button
        icon="down"
        iconOnly
        tone="plain"
        label="Next match"
        disabled={!count.value}
        onClick={() => search.step(1)}
      />
      <Button icon="close" iconOnly tone="plain" label="Close search" onClick={onClose} />
    </search>
  );
}

// --- small parts -----------------------------------------------------------------------------------------------------

function Download({ session, disabled }: { session: Session; disabled: boolean }) {
  const isBusy = useSignal(false);
  const download = async () => {
    isBusy.value = true;
    try {
      saveFile(await logFile(session), `${session.job.peek()?.jobId.slice(0, 8) ?? "job"}.log`);
    } catch (error) {
      session.notify({
        kind: "error",
        text: `The whole log could not be fetched: ${error instanceof Error ? error.message : error}`,
        hint: "Copy takes the lines that are here.",
        action: { label: "Try again", run: () => void download() },
      });
    } finally {
      isBusy.value = false;
    }
  };
  return (
    <Button
      icon="download"
      iconOnly
      tone="plain"
      label={isBusy.value ? "Fetching the log…" : "Download the whole log"}
      disabled={disabled || isBusy.value}
      onClick={() => void download()}
    />
  );
}

/** Says now and then how much came, and the last line: a log that moves is not read out whole. */
function Teller({ rows, version }: { rows: LogRows; version: Signal<number> }) {
  const said = useSignal("");
  const told = useRef({ count: -1, time: 0, timer: 0 });
  useSignalEffect(() => {
    version.value;
    const state = told.current;
    const tell = () => {
      state.timer = 0;
      const count = rows.run.length + rows.build.length;
      const more = count - Math.max(0, state.count);
      const last = (rows.run.at(-1) ?? rows.build.at(-1))?.text.slice(0, 200);
      if (state.count >= 0 && more > 0) said.value = `${showLines(more)} more. ${last ?? ""}`;
      state.count = count;
    };
    if (state.count < 0) tell();
    else if (!state.timer) state.timer = window.setTimeout(tell, TELL_MS);
  });
  useEffect(() => () => clearTimeout(told.current.timer), []);
  return (
    <div class="sr-only" aria-live="polite">
      {said.value}
    </div>
  );
}

/** A choice of this browser; kept if the browser keeps anything. */
function useRemembered<Value>(name: string, usual: Value): Signal<Value> {
  const key = `console-${name}`;
  const value = useSignal<Value>(
    useMemo(() => {
      try {
        const kept = JSON.parse(localStorage.getItem(key) ?? "null");
        return typeof kept === typeof usual ? kept : usual;
      } catch {
        return usual;
      }
    }, []),
  );
  useSignalEffect(() => {
    try {
      localStorage.setItem(key, JSON.stringify(value.value));
    } catch {
      // A frame without storage: the choice lasts as long as the page.
    }
  });
  return value;
}
