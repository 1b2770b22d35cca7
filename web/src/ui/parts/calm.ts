/** The session of a page that shows a whole queue: a busy queue changes it a few times a second and not more often. */

import { type ReadonlySignal, useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import type { Session } from "../model.ts";

const CALM_MS = 250;

/** The same session with jobs that change at most four times a second; the first change comes at once. */
export function useCalm(session: Session): Session {
  const jobs = useThrottled(session.jobs);
  return useMemo(() => ({ ...session, jobs }), [session, jobs]);
}

function useThrottled<T>(source: ReadonlySignal<T>): ReadonlySignal<T> {
  const calm = useSignal(source.peek());
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let last = 0;
    const take = () => {
      timer = undefined;
      last = Date.now();
      calm.value = source.peek();
    };
    const stop = source.subscribe(() => {
      const wait = last + CALM_MS - Date.now();
      if (wait <= 0) take();
      else timer ??= setTimeout(take, wait);
    });
    return () => {
      stop();
      clearTimeout(timer);
    };
  }, [source, calm]);
  return calm;
}
