/** What buttons and keys do, with what goes wrong said in a notice. */

import type { Session } from "./model.ts";
import type { Action } from "./status.ts";

/** With less there is no room for a panel: the page is opened in a tab instead. As in layout.css. */
const PANEL_HEIGHT = 120;

/** Do what a button of the header offers. */
export function perform(session: Session, action: Action): void {
  switch (action.kind) {
    case "run":
      attempt(session, "The job was not sent", () => session.run());
      return;
    case "again":
      attempt(session, "The job was not sent", () => session.run({ again: true }));
      return;
    case "stop":
      attempt(session, "The job was not stopped", () => session.stop());
      return;
    case "save-run": {
      const edit = session.unsaved.peek();
      if (edit) {
        session.params.inputs.value = { ...session.params.inputs.peek(), [edit.name]: edit.text };
        session.unsaved.value = null;
      }
      attempt(session, "The job was not sent", () => session.run());
      return;
    }
    case "open":
      if (innerHeight < PANEL_HEIGHT) window.open(session.link(), "_blank", "noopener");
      else session.panel.value = action.panel ?? null;
      return;
    case "consent":
      session.localConsent.value = true;
      return;
    case "back":
      session.show(null);
      return;
    case "busy":
      return;
  }
}

/** Do it; if it fails say so, with a button that tries again. */
export function attempt(session: Session, fault: string, work: () => Promise<unknown>): void {
  work().catch((error: unknown) => {
    const { message, hint } = error as { message?: string; hint?: string };
    session.notify({
      kind: "error",
      text: `${fault}: ${message ?? String(error)}`,
      ...(hint ? { hint } : {}),
      action: { label: "Try again", run: () => attempt(session, fault, work) },
    });
  });
}
