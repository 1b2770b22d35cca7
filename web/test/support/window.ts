/** A window of its own for each test: a real one would leave Node's fetch and sockets replaced. */

import { Window } from "happy-dom";
import type { Surroundings } from "../../src/ui/session.ts";

export interface TestWindow {
  window: Surroundings["window"];
  dom: Window;
}

export function openWindow(url: string): TestWindow {
  const dom = new Window({ url });
  const base = dom.document.createElement("base");
  base.setAttribute("href", "/"); // as the page's HTML has it
  dom.document.head.append(base);
  return { dom, window: dom as unknown as Surroundings["window"] };
}
