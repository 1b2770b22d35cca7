/**
 * Every screen in every state, made of a session that is not real. Only for development: `npm run dev`, then
 * `/gallery.html`. One screen alone, for screenshots: `/gallery.html?scene=running&panel=outputs`.
 *
 * Parameters: `scene`, `panel`, `framed`, `lines` (so many are added in chunks; `flooded` tells the longest
 * task).
 */

import { render } from "preact";
import { type FakeSession, fakeSession, SCENES, type Scene } from "../../test/support/fake-session.ts";
import { App } from "./app.tsx";
import type { Panel } from "./model.ts";
import { PANELS } from "./panels.ts";
import "./theme.css";

const asked = new URLSearchParams(location.search);
const scene = asked.get("scene") as Scene | null;
const root = document.getElementById("page");

function Index() {
  const shots = [
    ...SCENES.filter((name) => name !== "long-log"),
    ...Object.keys(PANELS)
      .filter((name) => name !== "why" && name !== "queue-page") // parts of scenes
      .flatMap((name) => ["success", "ready", "empty"].map((each) => `${each}:${name}`)),
  ];
  return (
    <main style={{ padding: "16px", overflow: "auto", height: "100%" }}>
      <h1>Gallery</h1>
      <p class="muted">Take pictures of all: node test/support/shots.mjs OUT</p>
      <ul>
        {shots.map((shot) => {
          const [name, panel] = shot.split(":");
          return (
            <li key={shot}>
              <a href={`?scene=${name}${panel ? `&panel=${panel}` : ""}`} data-shot={shot}>
                {shot}
              </a>
            </li>
          );
        })}
      </ul>
    </main>
  );
}

/** Lines in chunks, as a job that prints fast; the longest task goes into the title. */
function flood(session: FakeSession, lines: number): void {
  let longest = 0;
  let sent = 0;
  Object.assign(globalThis, { forget: () => (longest = 0) });
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) longest = Math.max(longest, entry.duration);
    Object.assign(globalThis, { flooded: { sent, longest } });
  }).observe({ type: "longtask", buffered: true });
  const timer = setInterval(() => {
    const texts = Array.from({ length: 1_000 }, (_, i) => {
      const color = 31 + (i % 6);
      return `${sent + i} \u001b[${color}mepoch\u001b[0m loss=${(1 / (i + 1)).toFixed(5)} ${"some more text ".repeat(i % 12)}`;
    });
    session.log.add("run", texts);
    sent += texts.length;
    Object.assign(globalThis, { flooded: { sent, longest } });
    if (sent >= lines) clearInterval(timer);
  }, 16);
}

if (root && scene) {
  const session = fakeSession({ scene, isFramed: asked.has("framed") });
  session.panel.value = asked.get("panel") as Panel;
  Object.assign(globalThis, { session }); // to be driven from the console, or by a script
  render(<App session={session} />, root);
  if (asked.has("lines")) flood(session, Number(asked.get("lines")));
} else if (root) {
  render(<Index />, root);
}
