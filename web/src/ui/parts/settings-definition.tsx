/** The third tab of the settings: what the frame declares to host pages, and the whole job as JSON. */

import { useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { Button, CopyButton, Field } from "../kit.tsx";
import type { Session } from "../model.ts";
import { saveBlob } from "../save.ts";
import { editsOf } from "./edits.ts";
import { FindingsList } from "./findings.tsx";
import { readDefinition } from "./paste.ts";
import { Group, textOf } from "./settings-job.tsx";
import { definitionOf, takeDefinition } from "./settings-state.ts";
import { checkDefinition, isObject } from "./validate.ts";

export function DefinitionTab({ session }: { session: Session }) {
  return (
    <>
      <JsonGroup session={session} />
      <Pipes session={session} side="inputs" title="Declared inputs">
        Files that other frames of a page can send to this one.
      </Pipes>
      <Pipes session={session} side="outputs" title="Declared outputs">
        Files that this frame passes on.
      </Pipes>
    </>
  );
}

// --- the job as JSON -------------------------------------------------------------------------------------------------

/** What was typed over the JSON and is not taken over yet, for each session. */
const DRAFTS = new WeakMap<Session["params"], string>();

function JsonGroup({ session }: { session: Session }) {
  const edits = editsOf(session);
  const draft = useSignal(DRAFTS.get(session.params) ?? null);
  const file = useRef<HTMLInputElement>(null);
  const definition = definitionOf(session);
  const text = Object.keys(definition).length > 0 ? JSON.stringify(definition, null, 2) : "";
  const setDraft = (next: string | null) => {
    draft.value = next === text ? null : next;
    if (draft.value === null) DRAFTS.delete(session.params);
    else DRAFTS.set(session.params, draft.value);
    edits.setPending("json", draft.value !== null);
  };
  const read = draft.value?.trim() ? readDefinition(draft.value) : null;
  const findings = read?.kind === "job" ? checkDefinition(read.definition) : null;
  const isUsable = findings?.faults.length === 0;
  const use = () => {
    if (read?.kind !== "job") return;
    edits.change("json", "definition", () => {
      takeDefinition(session, read.definition);
      if (read.control) session.params.control.value = read.control;
    });
    DRAFTS.delete(session.params);
    draft.value = null;
    edits.setPending("json", false);
  };
  const open = async (input: HTMLInputElement) => {
    const chosen = input.files?.[0];
    if (chosen) setDraft(await chosen.text());
    input.value = "";
  };
  return (
    <Group title="The job as JSON">
      <Field
        label="Definition"
        hint="Edit it, or paste another one. It is checked before it is used."
        fault={read?.kind === "none" ? `${read.text} ${read.hint}` : undefined}
      >
        {(ids) => (
          <textarea
            {...ids}
            class="mono settings-json"
            rows={Math.min(Math.max((draft.value ?? text).split("\n").length + 1, 8), 20)}
            spellcheck={false}
            placeholder={'{\n  "image": "alpine:3.19.1",\n  "command": "echo hello"\n}'}
            value={draft.value ?? text}
            onInput={(event) => setDraft(event.currentTarget.value)}
          />
        )}
      </Field>
      {findings && <FindingsList findings={findings} />}
      <div class="settings-line">
        {draft.value !== null && (
          <>
            <Button tone="primary" icon="check" label="Use this definition" disabled={!isUsable} onClick={use} />
            <Button label="Drop the changes" onClick={() => setDraft(null)} />
          </>
        )}
        <Button icon="file" label="Open a file" onClick={() => file.current?.click()} />
        <input
          ref={file}
          type="file"
          accept=".json,application/json"
          hidden
          onChange={(event) => open(event.currentTarget)}
        />
        {text && draft.value === null && (
          <>
            <CopyButton text={() => text} />
            <Button
              icon="download"
              label="Download"
              onClick={() => saveBlob(new Blob([`${text}\n`]), "definition.json")}
            />
          </>
        )}
      </div>
    </Group>
  );
}

// --- declared pipes --------------------------------------------------------------------------------------------------

type Side = "inputs" | "outputs";

function Pipes({ session, side, title, children }: { session: Session; side: Side; title: string; children: string }) {
  const edits = editsOf(session);
  const { definition } = session.params;
  const name = useSignal("");
  const type = useSignal("");
  const pipes = isObject(definition.value?.[side]) ? (definition.value[side] as Record<string, unknown>) : {};
  const write = (next: Record<string, unknown>) =>
    edits.change(`definition.${side}`, title.toLowerCase(), () => {
      const { [side]: _, ...rest } = definition.value ?? {};
      const whole = Object.keys(next).length > 0 ? { ...rest, [side]: next } : rest;
      definition.value = Object.keys(whole).length > 0 ? whole : undefined;
    });
  const add = (event: Event) => {
    event.preventDefault();
    const added = name.value.trim();
    if (!added) return;
    write({ ...pipes, [added]: type.value.trim() ? { type: type.value.trim() } : {} });
    name.value = "";
    type.value = "";
  };
  return (
    <Group title={title}>
      <p class="muted">{children}</p>
      {Object.keys(pipes).length > 0 && (
        <ul class="settings-pipes">
          {Object.entries(pipes).map(([pipe, about]) => (
            <li key={pipe}>
              <code>{pipe}</code>
              <span class="muted">{isObject(about) ? textOf(about.type) : ""}</span>
              <Button
                icon="trash"
                iconOnly
                tone="plain"
                label={`Remove ${pipe}`}
                onClick={() => write(Object.fromEntries(Object.entries(pipes).filter(([other]) => other !== pipe)))}
              />
            </li>
          ))}
        </ul>
      )}
      <form class="settings-pipe" onSubmit={add}>
        <input
          type="text"
          class="mono"
          aria-label={`Name of a new ${side.slice(0, -1)}`}
          placeholder={side === "inputs" ? "data.csv" : "plot.png"}
          value={name.value}
          onInput={(event) => (name.value = event.currentTarget.value)}
        />
        <input
          type="text"
          class="mono"
          aria-label="Its type, if it has one"
          placeholder="text/csv"
          value={type.value}
          onInput={(event) => (type.value = event.currentTarget.value)}
        />
        <Button icon="add" label="Add" type="submit" disabled={!name.value.trim()} />
      </form>
    </Group>
  );
}
