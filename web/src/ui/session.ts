/**
 * The session behind the page: what the link asks for, what the server knows, what a person does, in one place.
 *
 * It is put together here from parts that know nothing of each other: the link (`params`), the job made of it (`making`),
 * the job that is shown (`watching`), submits (`sending`), the host page (`metaframe`), this browser's memory (`store`).
 */

import { batch, computed, effect, type ReadonlySignal, signal, untracked } from "@preact/signals";
import { Client } from "../client.ts";
import { ANY_NAMESPACE, DEFAULT_NAMESPACE } from "../contract.gen.ts";
import type { Definition, JobRecord, Submitted, WorkerRecord } from "../contract.ts";
import { AsmanError } from "../errors.ts";
import { QueueSocket, type QueueSocketOptions, socketUrl } from "../socket.ts";
import { emitted, isQueueOfHost } from "./emitting.ts";
import { making } from "./making.ts";
import { type FrameWindow, type Inputs, JOB_PIPES, Metaframe, refsOf } from "./metaframe.ts";
import type { Assembled, Connection, DataRefLike, HistoryEntry, Missing, Panel, Session, Unsaved } from "./model.ts";
import { noticeBoard } from "./notice-board.ts";
import { consent, isAmongOwn, localPort } from "./own-machine.ts";
import { linkParams, type Place } from "./params.ts";
import { routeOf } from "./routes.ts";
import { Sending } from "./sending.ts";
import { keyOf, type Pending, Store } from "./store.ts";
import { isActive, leavesResult, watching } from "./watching.ts";
import { whereOf } from "./where.ts";

/** What a session needs of the window it runs in. */
export type SessionWindow = Omit<Place, "addEventListener" | "removeEventListener"> &
  Omit<FrameWindow, "addEventListener" | "removeEventListener"> & {
    readonly location: { origin: string };
    readonly document: { readonly baseURI: string };
    readonly navigator: { onLine: boolean };
    readonly sessionStorage: Pick<Storage, "getItem" | "setItem" | "removeItem">;
    // biome-ignore lint/suspicious/noExplicitAny: windows tell of events of many kinds
    addEventListener(kind: string, listener: (event: any) => void): void;
    // biome-ignore lint/suspicious/noExplicitAny: as above
    removeEventListener(kind: string, listener: (event: any) => void): void;
  };

export interface Surroundings {
  window: SessionWindow;
  database?: IDBFactory | null | undefined;
  fetch?: typeof fetch;
  WebSocket?: QueueSocketOptions["WebSocket"];
}

export interface LiveSession extends Session {
  dispose(): void;
}

export function createSession({ window, database, ...runtime }: Surroundings): LiveSession {
  const stops: (() => void)[] = [];
  const listen = (kind: string, listener: () => void) => {
    window.addEventListener(kind, listener);
    stops.push(() => window.removeEventListener(kind, listener));
  };
  const isFramed = (window.parent as unknown) !== window;
  const store = new Store(database);
  const base = new URL(".", window.document.baseURI).pathname.replace(/\/+$/, "");
  const page = { origin: window.location.origin, base };

  const { notices, notify, dismiss, complain } = noticeBoard();

  // --- the address ---------------------------------------------------------------------------------------------------
  const route = signal(routeOf(window.location.pathname, base));
  const reroute = () => {
    const next = routeOf(window.location.pathname, base);
    if (JSON.stringify(next) !== JSON.stringify(route.peek())) route.value = next;
  };
  listen("popstate", reroute);
  listen("hashchange", reroute);
  const pageJob = signal<{ jobId: string; definition: Definition | null; isGone: boolean } | null>(null);
  const params = linkParams(window, { isFramed, base, stored: computed(() => pageJob.value?.definition ?? null) });
  stops.push(params.dispose);

  // --- the queue and its server --------------------------------------------------------------------------------------
  const where = stable(() => {
    if (route.value.kind === "queue-page") return whereOf(route.value.queue, page, localPort(window));
    const override = params.ignoreQueueOverride.value ? undefined : params.queueOverride.value;
    return whereOf(override || params.queue.value || "", page, localPort(window));
  });
  const server = computed(() => where.value.server);
  const clients = new Map<string, Client>();
  const clientAt = (address: string): Client => {
    const known = clients.get(address);
    if (known) return known;
    const made = new Client({ server: address, ...(runtime.fetch ? { fetch: runtime.fetch } : {}) });
    clients.set(address, made);
    return made;
  };
  const client = computed(() => clientAt(server.value));
  const localConsent = consent(window, isFramed && !isAmongOwn(window));
  const mayUseLocal = (isLocal: boolean) => !isLocal || localConsent.value;
  const mayAct = computed(() => mayUseLocal(where.value.isLocal));

  // --- the job of the link -------------------------------------------------------------------------------------------
  const dynamicInputs = signal<ReadonlyMap<string, DataRefLike>>(new Map());
  const made = making({ params, dynamicInputs, where, client, mayAct, page: pageJob });
  stops.push(made.dispose);
  const { assembled } = made;

  const shownInstead = signal<string | null>(null);
  const linkJobId = computed(() => ("jobId" in assembled.value ? assembled.value.jobId : null));
  /** While the job of the link is being made the one before it stays, unless it can not be made. */
  const lastJobId = signal<string | null>(null);
  stops.push(
    effect(() => {
      const now = assembled.value;
      if ("jobId" in now) lastJobId.value = now.jobId;
      else if (now.what !== "loading") lastJobId.value = null;
    }),
    effect(() => {
      void linkJobId.value;
      shownInstead.value = null;
    }),
  );
  const shown = computed(() => shownInstead.value ?? lastJobId.value);

  // --- the socket ----------------------------------------------------------------------------------------------------
  const socketState = signal<Connection>("none");
  const isOnline = signal(window.navigator.onLine);
  listen("online", () => {
    isOnline.value = true;
  });
  listen("offline", () => {
    isOnline.value = false;
  });
  const connection = computed<Connection>(() => {
    if (socketState.value === "none" || isOnline.value || where.value.isLocal) return socketState.value;
    return "offline";
  });
  const jobs = signal<ReadonlyMap<string, JobRecord>>(new Map());
  const workers = signal<readonly WorkerRecord[]>([]);
  const isConnected = computed(() => connection.value === "connected");

  const watch = watching({
    where,
    client,
    jobId: shown,
    definition: computed(() => {
      const now = assembled.value;
      return "jobId" in now && now.jobId === shown.value ? now.definition : null;
    }),
    workers,
    isConnected,
    store,
    onFinished: (record) => void remember(record),
  });
  stops.push(watch.dispose);

  const socketAddress = computed(() =>
    where.value.queue && mayAct.value ? socketUrl(where.value.server || window.location.origin, where.value.queue) : "",
  );
  stops.push(
    effect(() => {
      const url = socketAddress.value;
      batch(() => {
        jobs.value = new Map();
        workers.value = [];
        socketState.value = url ? "connecting" : "none";
      });
      if (!url) return;
      const socket = new QueueSocket({
        url,
        onJobs: (all, isWhole, changed) =>
          batch(() => {
            jobs.value = new Map(all);
            watch.tell(changed, isWhole ? all : null);
          }),
        onWorkers: (list) => {
          workers.value = list;
        },
        onLogs: watch.tellLines,
        onConnection: (state) => {
          socketState.value = state;
        },
        ...(runtime.WebSocket ? { WebSocket: runtime.WebSocket } : {}),
        network: window as unknown as NonNullable<QueueSocketOptions["network"]>,
      });
      return () => socket.close();
    }),
  );

  // --- history -------------------------------------------------------------------------------------------------------
  const history = signal<readonly HistoryEntry[]>([]);
  const readHistory = async () => {
    history.value = await store.history();
  };
  const forget = async (entry: HistoryEntry | null): Promise<void> => {
    for (const each of entry ? [entry] : await store.history()) await store.dropHistory(each);
    await readHistory();
  };
  const remember = async (record: JobRecord) => {
    const id = shown.peek();
    if (!id) return;
    const outcome = record.outcome ?? record.finishedReason ?? null;
    await store.endHistory(where.peek().queue, id, outcome, record.exitCode ?? null);
    await readHistory();
  };

  // --- submits -------------------------------------------------------------------------------------------------------
  const sending = new Sending({
    store,
    clientAt,
    mayUse: (address) => mayUseLocal(whereOf(address || page.origin, page).isLocal),
    isOnline: () => window.navigator.onLine || where.peek().isLocal,
    onSent: (pending, answer) => sent(pending, answer),
    onRefused: (_pending, error) => complain("The job was not accepted", error, () => void run()),
  });
  stops.push(() => sending.dispose());

  const sent = (pending: Pending, answer: Submitted) => {
    for (const text of answer.warnings) notify({ kind: "warning", text });
    const isShown = pending.jobId === shown.peek() && pending.queue === where.peek().queue;
    if (isShown) watch.lookAgain(true);
  };

  const run = async ({ again = false }: { again?: boolean } = {}): Promise<void> => {
    await made.settled();
    const now = assembled.peek();
    if (!("jobId" in now)) {
      notify({ kind: "warning", text: absence(now) });
      return;
    }
    shownInstead.value = null;
    const at = where.peek();
    if (!at.queue) {
      notify({ kind: "warning", text: absence({ what: "queue" }) });
      return;
    }
    const record = watch.job.peek()?.record ?? null;
    const drops = again && record && !isActive(record) ? record.generation : null;
    const key = keyOf(at.server, at.queue, now.jobId);
    if (drops !== null) {
      await store.dropResult(key);
      watch.forget();
    }
    await store.addHistory(historyEntry(now, at.queue, params.link()));
    void readHistory();
    await sending.send({
      server: at.server,
      queue: at.queue,
      jobId: now.jobId,
      definition: now.definition,
      control: now.control,
      debug: params.debug.peek(),
      drops,
    });
  };

  const namespaceOf = (record: JobRecord | null): string => {
    const held = record?.namespaces ?? [];
    const now = assembled.peek();
    const own = "jobId" in now ? now.namespace : DEFAULT_NAMESPACE;
    if (held.includes(own) || !held.length) return own;
    return held.length === 1 ? (held[0] ?? own) : ANY_NAMESPACE;
  };

  const cancel = async (jobId: string): Promise<void> => {
    const at = where.peek();
    const record = jobId === shown.peek() ? (watch.job.peek()?.record ?? null) : (jobs.peek().get(jobId) ?? null);
    if (await sending.drop(keyOf(at.server, at.queue, jobId))) return;
    try {
      const answer = await client.peek().cancel(at.queue, jobId, { namespace: namespaceOf(record) });
      if (answer.isCancelled && answer.state !== "Finished") {
        notify({ kind: "note", text: `It goes on: others want it too (${answer.namespaces.join(", ")}).` });
      } else if (!answer.isCancelled) notify({ kind: "note", text: answer.message });
      if (jobId === shown.peek()) watch.lookAgain();
    } catch (error) {
      complain("The job could not be stopped", error, () => void cancel(jobId));
    }
  };

  const stop = async (): Promise<void> => {
    const id = shown.peek();
    if (id) await cancel(id);
  };

  const clear = async (): Promise<void> => {
    const at = where.peek();
    const id = shown.peek();
    const record = watch.job.peek()?.record ?? null;
    if (!id || !record) return;
    try {
      await client.peek().remove(at.queue, id, { namespace: namespaceOf(record) });
    } catch (error) {
      const isGone = error instanceof AsmanError && (error.status === 404 || error.status === 410);
      if (!isGone) return complain("The result could not be dropped", error, () => void clear());
    }
    await store.dropResult(keyOf(at.server, at.queue, id));
    watch.lookAgain();
  };

  // --- the page of a job ---------------------------------------------------------------------------------------------
  stops.push(
    effect(() => {
      const now = route.value;
      if (now.kind !== "job-page") {
        pageJob.value = null;
        return;
      }
      const { jobId } = now;
      pageJob.value = { jobId, definition: null, isGone: false };
      const stopped = new AbortController();
      const fetchIt = async () => {
        try {
          const definition = await client.peek().definition(jobId, { signal: stopped.signal });
          if (stopped.signal.aborted) return;
          pageJob.value = { jobId, definition, isGone: definition === null };
          if (!definition) {
            notify({
              kind: "error",
              text: "This job is not known here.",
              hint: "Jobs are kept for a limited time: it may have expired, or the link belongs to another server.",
            });
          }
        } catch (error) {
          if (stopped.signal.aborted) return;
          pageJob.value = { jobId, definition: null, isGone: true };
          complain("The job could not be read", error, () => void fetchIt());
        }
      };
      untracked(() => void fetchIt());
      return () => stopped.abort();
    }),
  );

  // --- autostart -----------------------------------------------------------------------------------------------------
  let considered = "";
  stops.push(
    effect(() => {
      const now = assembled.value;
      const at = where.value;
      if (!params.autostart.value || route.value.kind !== "job" || !("jobId" in now) || !at.queue || !mayAct.value)
        return;
      const key = keyOf(at.server, at.queue, now.jobId);
      if (key === considered || watch.known.value !== key) return;
      considered = key;
      untracked(() => {
        const record = watch.job.peek()?.record;
        if (!record || (!isActive(record) && !leavesResult(record))) void run();
      });
    }),
  );

  // --- the host page -------------------------------------------------------------------------------------------------
  const receive = async (inputs: Inputs) => {
    for (const pipe of JOB_PIPES) {
      if (pipe in inputs && params.allowsetjob.peek()) setJob(inputs[pipe]);
    }
    const changed = await refsOf(inputs);
    if (!changed.size) return;
    const next = new Map(dynamicInputs.peek());
    for (const [name, ref] of changed) {
      if (ref) next.set(name, ref);
      else next.delete(name);
    }
    dynamicInputs.value = next;
  };
  const setJob = (value: unknown) => {
    const job = typeof value === "string" ? parsedOr(value) : value;
    if (job !== null && typeof job === "object" && !Array.isArray(job)) params.job.value = job as Definition;
    else notify({ kind: "warning", text: "The host page sent a job that is not an object; it was not used." });
  };
  if (isFramed) {
    let receiving = Promise.resolve();
    const frame = new Metaframe(window as unknown as FrameWindow, (inputs) => {
      receiving = receiving.then(() => receive(inputs)).catch((error) => complain("An input could not be read", error));
    });
    stops.push(() => frame.dispose());
    let isFirst = true;
    let told = "";
    stops.push(
      effect(() => {
        const hash = params.hash.value;
        if (!isFirst) frame.reportHash(hash);
        isFirst = false;
      }),
      effect(() => {
        const now = watch.job.value;
        if (!now?.result || now.jobId !== linkJobId.value || isActive(now.record)) return;
        const { result } = now;
        const news = `${now.jobId} ${result.generation} ${result.attempt}`;
        if (news === told) return;
        told = news;
        const at = untracked(() => where.value);
        const own = untracked(() => client.value);
        const isGiven = isQueueOfHost(params.hash.peek(), at.queue);
        emitted(own, {
          jobId: now.jobId,
          result,
          base: at.server || window.location.origin,
          queue: isGiven ? at.queue : null,
          withResult: params.allowsetjob.peek(),
          resolves: params.resolverefs.peek(),
        }).then(
          (outputs) => {
            if (told === news) frame.setOutputs(outputs);
          },
          (error) => complain("The outputs could not be handed to the host page", error),
        );
      }),
    );
  }
  stops.push(
    effect(() => {
      const isAsked = "what" in assembled.value && assembled.value.what === "consent";
      if (!isAsked) return;
      const id = untracked(() =>
        notify({
          kind: "warning",
          text: "This page wants to run containers on this machine.",
          hint: "Agree only if you trust the page that shows this frame. It holds until the tab is closed.",
          action: {
            label: "Use this machine",
            run: () => {
              localConsent.value = true;
            },
          },
        }),
      );
      return () => dismiss(id);
    }),
  );

  // --- start ---------------------------------------------------------------------------------------------------------
  void readHistory();
  stops.push(
    effect(() => {
      void isConnected.value;
      void isOnline.value;
      void localConsent.value;
      untracked(() => void sending.flush());
    }),
  );

  return {
    route,
    isFramed,
    panel: signal<Panel>(null),
    notices,
    linkProblems: params.problems,
    params,
    queue: computed(() => where.value.queue),
    isLocal: computed(() => where.value.isLocal),
    localConsent,
    client,
    connection,
    assembled,
    dynamicInputs,
    uploads: made.uploads,
    job: watch.job,
    why: watch.why,
    log: watch.log,
    outputs: watch.outputs,
    unsaved: signal<Unsaved | null>(null),
    submitting: sending.state,
    jobs,
    workers,
    history,
    run,
    stop,
    clear,
    cancel,
    forget,
    show: (jobId) => {
      shownInstead.value = jobId === lastJobId.peek() ? null : jobId;
    },
    link: params.link,
    notify,
    dismiss,
    dispose: () => {
      for (const end of stops.reverse()) end();
    },
  };
}

/** A computed value that changes only when what it says changes. */
function stable<T>(compute: () => T): ReadonlySignal<T> {
  let before: T | undefined;
  return computed(() => {
    const now = compute();
    if (before === undefined || JSON.stringify(now) !== JSON.stringify(before)) before = now;
    return before;
  });
}

function historyEntry({ jobId, definition }: Assembled, queue: string, hash: string): HistoryEntry {
  const { command, image, build } = definition;
  return {
    jobId,
    queue,
    submitted: Date.now(),
    hash,
    image: image ?? build?.context ?? "built image",
    command: Array.isArray(command) ? command.join(" ") : (command ?? ""),
    outcome: null,
    exitCode: null,
  };
}

function absence(missing: Missing): string {
  switch (missing.what) {
    case "image":
      return "Choose an image, or what to build one from, first.";
    case "queue":
      return "Choose a queue first.";
    case "consent":
      return "Agree to the use of this machine first.";
    case "loading":
      return "The job is not ready yet.";
    case "invalid":
      return missing.problems.join(" ");
  }
}

function parsedOr(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
