/** From what the link says to a job that can be submitted: kept up to date as the link and the inputs change. */

import { computed, effect, type ReadonlySignal, signal, untracked } from "@preact/signals";
import type { Client } from "../client.ts";
import type { Definition } from "../contract.ts";
import { AsmanError } from "../errors.ts";
import { jobIdNow } from "../identity.ts";
import { assemble, type Draft, hasLarge, Placer } from "./assembly.ts";
import type { Assembled, DataRefLike, Missing, Params } from "./model.ts";
import { checkDefinition, namespaceFault, sentence } from "./parts/validate.ts";
import type { Where } from "./where.ts";

const TYPING_MS = 300;
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 15_000;

export interface Made {
  assembled: ReadonlySignal<Assembled | Missing>;
  uploads: ReadonlySignal<ReadonlyMap<string, { sent: number; size: number }>>;
  /** Wait until what the link says now has been made, or cannot be. */
  settled(): Promise<void>;
  dispose(): void;
}

export interface MakingOptions {
  params: Params;
  dynamicInputs: ReadonlySignal<ReadonlyMap<string, DataRefLike>>;
  where: ReadonlySignal<Where>;
  client: ReadonlySignal<Client>;
  /** May this queue be used: not a machine that nobody has agreed to use. */
  mayAct: ReadonlySignal<boolean>;
  /** The job of the page's address: its id counts, whatever would be made of it. Null on other pages. */
  page: ReadonlySignal<{ jobId: string; definition: Definition | null; isGone: boolean } | null>;
}

export function making({ params, dynamicInputs, where, client, mayAct, page }: MakingOptions): Made {
  const assembled = signal<Assembled | Missing>({ what: "loading" });
  const uploads = signal<ReadonlyMap<string, { sent: number; size: number }>>(new Map());
  const placers = new Map<string, Placer>();
  let last: Promise<void> = Promise.resolve();
  let stop = new AbortController();

  const drafted = computed((): Draft | Missing =>
    assemble({
      job: params.job.value,
      inputs: params.inputs.value,
      control: params.control.value,
      maxJobDuration: params.maxJobDuration.value,
      other: params.other.value,
      dynamicInputs: dynamicInputs.value,
    }),
  );

  const finish = (draft: Draft, jobId?: string) => {
    try {
      assembled.value = { ...draft, jobId: jobId ?? jobIdNow(draft.definition) };
    } catch (error) {
      assembled.value = { what: "invalid", problems: [message(error)] };
    }
  };

  const place = async (draft: Draft, { signal: stopped }: AbortController) => {
    const server = where.peek().server;
    const placer = placers.get(server) ?? new Placer();
    placers.set(server, placer);
    for (let failures = 0; ; failures++) {
      try {
        const definition = await placer.place(draft.definition, {
          signal: stopped,
          upload: (bytes, { signal, onProgress }) => client.peek().upload(bytes, { signal, onProgress }),
          onProgress: (name, progress) => {
            const now = new Map(uploads.peek());
            if (progress) now.set(name, progress);
            else now.delete(name);
            uploads.value = now;
          },
        });
        if (!stopped.aborted) finish({ ...draft, definition });
        return;
      } catch (error) {
        if (stopped.aborted) return;
        const text = `An input could not be sent to the server: ${message(error)}`;
        assembled.value = { what: "invalid", problems: [text] };
        if (!(error instanceof AsmanError && error.isTemporary)) return;
        await pause(Math.min(FIRST_PAUSE_MS * 2 ** failures, LONGEST_PAUSE_MS), stopped);
        if (stopped.aborted) return;
      }
    }
  };

  let isFirst = true;
  const start = (draft: Draft | Missing, at: Where, isAllowed: boolean) => {
    stop.abort();
    stop = new AbortController();
    if ("what" in draft) assembled.value = draft;
    else if (!at.queue) assembled.value = { what: "queue" };
    else if (!isAllowed) assembled.value = { what: "consent" };
    else if (faultsOf(draft).length > 0) assembled.value = { what: "invalid", problems: faultsOf(draft) };
    else if (!hasLarge(draft.definition)) finish(draft);
    else {
      const now = stop;
      const wait = isFirst ? 0 : TYPING_MS;
      assembled.value = { what: "loading" };
      last = pause(wait, now.signal).then(() => (now.signal.aborted ? undefined : place(draft, now)));
      last.catch(() => {});
    }
    isFirst = false;
  };

  const watched = effect(() => {
    const [shown, draft, at, isAllowed] = [page.value, drafted.value, where.value, mayAct.value];
    void client.value;
    untracked(() => {
      if (!shown) return start(draft, at, isAllowed);
      stop.abort();
      if (!shown.definition) assembled.value = { what: shown.isGone ? "image" : "loading" };
      else if (!isAllowed) assembled.value = { what: "consent" };
      else {
        const { namespace, control } = "what" in draft ? { namespace: "_", control: {} } : draft;
        finish({ definition: shown.definition, namespace, control }, shown.jobId);
      }
    });
  });

  return {
    assembled,
    uploads,
    settled: async () => {
      for (let waited: Promise<void> | null = null; waited !== last; ) {
        waited = last;
        await waited;
      }
    },
    dispose: () => {
      watched();
      stop.abort();
    },
  };
}

/** What the server would refuse, before anything is sent. The job of an address was accepted once, and is not asked. */
function faultsOf({ definition, namespace }: Draft): string[] {
  const fault = namespaceFault(namespace);
  return [...checkDefinition(definition).faults.map(sentence), ...(fault ? [fault] : [])];
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function pause(ms: number, stopped: AbortSignal): Promise<void> {
  if (!ms) return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    stopped.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
