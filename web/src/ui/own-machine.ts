/** Whether a page may use the machine that it is shown on, and at which port its server is. */

import { effect, type Signal, signal } from "@preact/signals";
import type { SessionWindow } from "./session.ts";

const CONSENT = "asman-local-consent";
/** Where a person can say which port the worker of this machine listens on. */
const LOCAL_PORT = "asman-local-port";

/** Are the pages around this frame of this origin? They could do all that it can. */
export function isAmongOwn(window: SessionWindow): boolean {
  const { origin } = window.location;
  try {
    const around = window as unknown as Record<"parent" | "top", { location: { origin: string } }>;
    return around.parent.location.origin === origin && around.top.location.origin === origin;
  } catch {
    return false; // another origin's page does not say
  }
}

/** May this machine be used? In a frame of a stranger's page a person of this tab must have said so. */
export function consent(window: SessionWindow, isAsked: boolean): Signal<boolean> {
  if (!isAsked) return signal(true);
  let given = false;
  try {
    given = window.sessionStorage.getItem(CONSENT) === "true";
  } catch {
    // asked again in each frame
  }
  const now = signal(given);
  effect(() => {
    const value = String(now.value);
    try {
      window.sessionStorage.setItem(CONSENT, value);
    } catch {
      // as above
    }
  });
  return now;
}

export function localPort(window: SessionWindow): number | undefined {
  try {
    const port = Number(window.localStorage.getItem(LOCAL_PORT));
    return Number.isInteger(port) && port > 0 && port < 65536 ? port : undefined;
  } catch {
    return undefined;
  }
}
