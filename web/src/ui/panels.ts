/** The panels and pages, each loaded when it is first opened. */

import type { ComponentType } from "preact";
import type { Panel, Session } from "./model.ts";

export type Part = ComponentType<{ session: Session }>;
export type PartName = NonNullable<Panel> | "why" | "queue-page";

/** Where each part comes from. */
export const PANELS: Partial<Record<PartName, () => Promise<Part>>> = {
  inputs: async () => (await import("./parts/inputs.tsx")).Inputs,
  editor: async () => (await import("./parts/editor.tsx")).Editor,
  outputs: async () => (await import("./parts/outputs.tsx")).Outputs,
  help: async () => (await import("./parts/help.tsx")).Help,
  settings: async () => (await import("./parts/settings.tsx")).Settings,
  share: async () => (await import("./parts/share.tsx")).Share,
  start: async () => (await import("./parts/start.tsx")).Start,
  queue: async () => (await import("./parts/queue.tsx")).Queue,
  why: async () => (await import("./parts/why.tsx")).Why,
  history: async () => (await import("./parts/history.tsx")).History,
  "queue-page": async () => (await import("./pages/queue-page.tsx")).QueuePage,
};

/** What the parts are called while they load. */
export const TITLES: Record<PartName, string> = {
  inputs: "Inputs",
  editor: "Editor",
  outputs: "Outputs",
  settings: "Settings",
  share: "Share",
  start: "Start",
  queue: "Queue",
  history: "History",
  help: "Help",
  why: "Why it waits",
  "queue-page": "Queue",
};
