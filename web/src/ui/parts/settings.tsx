/** The settings of the job and of this page. Each change is in the link at once, and can be taken back. */

import { useSignal } from "@preact/signals";
import { Icon } from "../icons.tsx";
import { Button, PanelFrame, Tabs } from "../kit.tsx";
import type { Session } from "../model.ts";
import { editsOf } from "./edits.ts";
import { DefinitionTab } from "./settings-definition.tsx";
import { ImageTab } from "./settings-image.tsx";
import { JobTab } from "./settings-job.tsx";
import { faultsBy, findingsOf } from "./settings-state.ts";
import { sentence } from "./validate.ts";
import "./settings.css";

const TABS = [
  { name: "job", label: "Job" },
  { name: "image", label: "Image" },
  { name: "definition", label: "Definition" },
] as const;
type Tab = (typeof TABS)[number]["name"];

const STORED = "settings-tab";

function storedTab(): Tab {
  try {
    const stored = localStorage.getItem(STORED);
    return TABS.find(({ name }) => name === stored)?.name ?? "job";
  } catch {
    return "job";
  }
}

export function Settings({ session }: { session: Session }) {
  const tab = useSignal<Tab>(storedTab());
  const findings = findingsOf(session);
  const faults = faultsBy(findings);
  const choose = (name: Tab) => {
    tab.value = name;
    try {
      localStorage.setItem(STORED, name);
    } catch {
      // Without storage the first tab opens next time.
    }
  };
  return (
    <PanelFrame title="Settings" onClose={() => (session.panel.value = null)}>
      <div class="settings">
        <SaveState session={session} />
        <Tabs name="Settings" tabs={TABS} chosen={tab.value} onChoose={choose}>
          <div class="settings-tab">
            {tab.value === "job" && <JobTab session={session} faults={faults} />}
            {tab.value === "image" && <ImageTab session={session} faults={faults} />}
            {tab.value === "definition" && <DefinitionTab session={session} />}
          </div>
        </Tabs>
      </div>
    </PanelFrame>
  );
}

/** Is everything in the link, can it run, and what can be taken back? */
function SaveState({ session }: { session: Session }) {
  const edits = editsOf(session);
  const { faults, excess } = findingsOf(session);
  const wrong = [...faults, ...excess];
  const isPending = edits.pending.value.size > 0;
  const undoable = edits.undoable.value;
  const first = wrong[0] && sentence(wrong[0]);
  return (
    <div class="settings-state">
      <div role="status">
        {isPending ? (
          <span class="muted">
            {session.params.autostart.value ? "Saved when you leave the field" : "Not in the link yet"}
          </span>
        ) : (
          <span class={edits.hasSaved.value ? "tone-good" : "muted"}>
            <Icon name={edits.hasSaved.value ? "check" : "link"} />{" "}
            {edits.hasSaved.value ? "Saved to the link" : "Everything here is in the link"}
          </span>
        )}
        {first && (
          <span class="settings-wrong tone-bad">
            <Icon name="warn" /> {faults.length > 0 ? "The job cannot run yet: " : "The server may refuse this job: "}
            {first}
            {wrong.length > 1 ? ` (and ${wrong.length - 1} more)` : ""}
          </span>
        )}
      </div>
      {undoable && <Button icon="again" label={`Undo: ${undoable}`} onClick={() => edits.undo()} />}
    </div>
  );
}
