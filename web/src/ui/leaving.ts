/**
 * What is written into the link while the page goes.
 *
 * A reload opens the address that the page had before it was told to go: an edit that was saved on the way out would be
 * lost, though going back to the page would find it. So it is kept for the next load of this tab, which uses it only if
 * it is that reload.
 */

const KEPT = "asman-link-on-leaving";

export interface LeavingWindow {
  readonly location: { readonly href: string };
  readonly history: Pick<History, "replaceState">;
  readonly sessionStorage: Pick<Storage, "getItem" | "setItem" | "removeItem">;
  readonly performance: Pick<Performance, "getEntriesByType">;
  addEventListener(kind: string, listener: () => void, options?: { capture: boolean }): void;
}

/** To be called before anything reads the link. */
export function keepOverReload(window: LeavingWindow): void {
  const { location, history } = window;
  try {
    const [before, after] = JSON.parse(window.sessionStorage.getItem(KEPT) ?? "[]");
    window.sessionStorage.removeItem(KEPT);
    const navigation = window.performance.getEntriesByType("navigation")[0];
    const isReload = (navigation as PerformanceNavigationTiming | undefined)?.type === "reload";
    if (isReload && before === location.href && typeof after === "string") history.replaceState(null, "", after);
  } catch {
    // a frame without storage: an edit of the last moment before a reload is not kept
  }
  let before: string | null = null;
  window.addEventListener(
    "pagehide",
    () => {
      before = location.href; // those who save hear of it after this
    },
    { capture: true },
  );
  window.addEventListener("pageshow", () => {
    before = null;
  });
  window.addEventListener("hashchange", () => {
    if (before === null) return;
    try {
      window.sessionStorage.setItem(KEPT, JSON.stringify([before, location.href]));
    } catch {
      // as above
    }
  });
}
