/** The first tab of the settings: what runs, with what, and how the page behaves. */

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useRef } from "preact/hooks";
import { Button, Field, Switch } from "../kit.tsx";
import type { Params, Session } from "../model.ts";
import { editsOf } from "./edits.ts";
import { readEnvText } from "./env-text.ts";
import { SavedField, useSaved } from "./fields.tsx";
import { type Faults, memberOf } from "./settings-state.ts";
import { secretsIn } from "./snippets.ts";
import { isEnvName, isObject, namespaceFault } from "./validate.ts";

interface TabProps {
  session: Session;
  faults: Faults;
}

export function JobTab({ session, faults }: TabProps) {
  const edits = editsOf(session);
  const { params } = session;
  const job = (params.job.value ?? {}) as Record<string, unknown>;
  /** A text field of one member of the definition. */
  const member = (label: string, path: string[], more: Partial<Parameters<typeof SavedField>[0]> = {}) => (
    <SavedField
      session={session}
      name={path.join(".")}
      label={label}
      value={textOf(memberOf(job, path))}
      fault={faults(path.join("."))}
      save={(text) => edits.changeJob(path.join("."), label.toLowerCase(), path, meantBy(text, memberOf(job, path)))}
      {...more}
    />
  );
  const number = (label: string, path: string[], more: Partial<Parameters<typeof SavedField>[0]>) =>
    member(label, path, {
      ...more,
      save: (text) => edits.changeJob(path.join("."), label.toLowerCase(), path, numberOf(text)),
    });
  return (
    <>
      <Group title="What runs">
        {member("Command", ["command"], {
          lines: rowsOf(textOf(job.command)),
          placeholder: "the image's own",
          hint: Array.isArray(job.command)
            ? "A list of arguments, as JSON."
            : "Pipes, && and * are for a shell: sh -c '…'",
        })}
        <div class="settings-columns">
          {member("Entrypoint", ["entrypoint"], { flag: "--entrypoint", placeholder: "the image's own" })}
          {member("Working directory", ["workdir"], { flag: "--workdir", placeholder: "the image's own" })}
        </div>
      </Group>
      <Environment session={session} faults={faults} />
      <Group title="Resources">
        <div class="settings-columns">
          {number("CPU cores", ["requirements", "cpus"], { flag: "--cpus", placeholder: "1", inputMode: "decimal" })}
          {member("Memory", ["requirements", "memory"], { flag: "--memory", placeholder: "as the worker allows" })}
          {number("GPUs", ["requirements", "gpus"], { flag: "--gpus", placeholder: "0", inputMode: "numeric" })}
          {member("Shared memory", ["shmSize"], { flag: "--shm-size", placeholder: "64m" })}
          <SavedField
            session={session}
            name="maxDuration"
            label="Maximum duration"
            placeholder="as the worker allows"
            hint="Such as 90s, 20m or 1h30."
            value={textOf(job.maxDuration) || (params.maxJobDuration.value ?? "")}
            fault={faults("maxDuration") ?? faults("requirements.maxDuration")}
            save={(text) =>
              edits.change("maxDuration", "maximum duration", () => {
                edits.setJob(["maxDuration"], text.trim());
                params.maxJobDuration.value = undefined;
              })
            }
          />
          <Field label="Network" fault={faults("requirements.network")}>
            {(ids) => (
              <select
                {...ids}
                value={textOf(memberOf(job, ["requirements", "network"]))}
                onChange={(event) =>
                  edits.changeJob("network", "network", ["requirements", "network"], event.currentTarget.value)
                }
              >
                <option value="">as the worker allows</option>
                <option value="none">none</option>
                <option value="egress">the public internet</option>
              </select>
            )}
          </Field>
        </div>
      </Group>
      <Group title="Which worker, and for whom">
        <div class="settings-columns">
          <SavedField
            session={session}
            name="tags"
            label="Tags"
            hint="With commas. Only workers with all of them take the job."
            value={Array.isArray(job.tags) ? job.tags.join(", ") : textOf(job.tags)}
            fault={faults("tags")}
            save={(text) => edits.changeJob("tags", "tags", ["tags"], tagsOf(text))}
          />
          <Namespace session={session} />
        </div>
      </Group>
      <Group title="This page">
        <Flag session={session} name="autostart" label="Run by itself">
          Runs when the page opens, and again after each change.
        </Flag>
        <Flag session={session} name="terminal" label="Show the console first">
          Otherwise the first input file opens in the editor.
        </Flag>
        <Flag session={session} name="debug" label="Debug">
          The worker and this page log more.
        </Flag>
      </Group>
      <Group title="Inside another page">
        <Flag session={session} name="allowsetjob" label="The page around may change the job">
          It sends a definition as the input “job”, and receives the result as “job/result.json”.
        </Flag>
        <Flag session={session} name="resolverefs" label="Send contents, not links">
          Outputs are downloaded here before they are passed on.
        </Flag>
      </Group>
    </>
  );
}

export function Group({ title, children }: { title: string; children: ComponentChildren }) {
  return (
    <fieldset class="settings-group">
      <legend>{title}</legend>
      {children}
    </fieldset>
  );
}

type FlagName = "autostart" | "terminal" | "debug" | "allowsetjob" | "resolverefs";

function Flag(props: { session: Session; name: FlagName; label: string; children: string }) {
  const { session, name, label, children } = props;
  const flag = session.params[name as keyof Params] as Params[FlagName];
  const change = (checked: boolean) =>
    editsOf(session).change(name, `“${label}”`, () => {
      flag.value = checked;
    });
  return <Switch label={label} hint={children} checked={flag.value} onChange={change} />;
}

function Namespace({ session }: { session: Session }) {
  const { control } = session.params;
  const namespace = textOf(control.value?.namespace);
  const save = (text: string) =>
    editsOf(session).change("namespace", "namespace", () => {
      const { namespace: _, ...rest } = control.value ?? {};
      const next = text ? { ...rest, namespace: text } : rest;
      control.value = Object.keys(next).length > 0 ? next : undefined;
    });
  return (
    <SavedField
      session={session}
      name="namespace"
      label="Namespace"
      placeholder="_"
      hint="A new job replaces the one before in the same namespace."
      value={namespace}
      fault={namespace ? (namespaceFault(namespace) ?? undefined) : undefined}
      save={save}
    />
  );
}

// --- environment -----------------------------------------------------------------------------------------------------

interface Row {
  id: number;
  name: string;
  value: string;
}

let lastRow = 0;
const newRow = (name = "", value = ""): Row => {
  lastRow += 1;
  return { id: lastRow, name, value };
};

function Environment({ session, faults }: TabProps) {
  const edits = editsOf(session);
  const job = (session.params.job.value ?? {}) as Record<string, unknown>;
  const env = isObject(job.env) ? job.env : {};
  const rows = useSignal<Row[]>([]);
  const note = useSignal("");
  const list = useRef<HTMLDivElement>(null);
  // The rows keep their order and their duplicates while they say the same as the link.
  if (!saysTheSame(rows.peek(), env))
    rows.value = Object.entries(env).map(([name, value]) => newRow(name, textOf(value)));

  const save = (next: Row[]) => {
    rows.value = next;
    const written = next.filter(({ name, value }) => name || value).map(({ name, value }) => [name, value]);
    edits.changeJob("env", "environment", ["env"], Object.fromEntries(written));
  };
  const change = (id: number, by: Partial<Row>) =>
    save(rows.peek().map((row) => (row.id === id ? { ...row, ...by } : row)));
  const take = (text: string, id?: number) => {
    const { entries, rest } = readEnvText(text);
    const names = new Set(entries.map(([name]) => name));
    const kept = rows.peek().filter((row) => row.id !== id && !names.has(row.name));
    save([...kept, ...new Map(entries)].map((row) => (Array.isArray(row) ? newRow(...row) : row)));
    const added = entries.length === 1 ? "1 variable was set." : `${names.size} variables were set.`;
    note.value = rest.length > 0 ? `${added} Left out, because there is no = in them: ${rest.join(" · ")}` : added;
    return entries.length > 0;
  };
  const add = () => {
    rows.value = [...rows.value, newRow()];
    requestAnimationFrame(() =>
      list.current?.querySelector<HTMLInputElement>(".settings-env-row:last-child input")?.focus(),
    );
  };
  const secrets = secretsIn({ env });
  const others = [...session.params.other.value.keys()];
  return (
    <Group title="Environment">
      <div ref={list} class="settings-env">
        {rows.value.map((row, at) => (
          <EnvRow
            key={row.id}
            session={session}
            row={row}
            fault={envFault(row, rows.value, at, faults)}
            onChange={(by) => change(row.id, by)}
            onPaste={(text) => take(text, row.name || row.value ? undefined : row.id)}
            onRemove={() => save(rows.peek().filter(({ id }) => id !== row.id))}
          />
        ))}
      </div>
      <div class="settings-line">
        <Button icon="add" label="Add a variable" onClick={add} />
        <PasteMany take={take} />
      </div>
      <div class="muted" role="status">
        {note.value}
      </div>
      {faults("env") && <div class="settings-fault">{faults("env")}</div>}
      {secrets.length > 0 && (
        <p class="settings-warning">
          {secrets.join(", ")} {secrets.length === 1 ? "looks" : "look"} like a secret. Whoever has the link or the
          job's id can read it. Keep it with the worker, and write <code>secret:NAME</code> here.
        </p>
      )}
      {others.length > 0 && (
        <p class="muted">
          Also set, by the link's own parameters: <code>{others.join(", ")}</code>
        </p>
      )}
    </Group>
  );
}

function envFault(row: Row, rows: Row[], at: number, faults: Faults): string | undefined {
  if (!row.name && !row.value) return undefined;
  if (!row.name) return "This value has no name. Give it one.";
  if (!isEnvName(row.name)) return "A name has 1 to 128 characters, without = and blanks.";
  if (rows.some((other, index) => index > at && other.name === row.name))
    return `${row.name} is set again below; that value counts.`;
  return faults(`env.${row.name}`);
}

interface EnvRowProps {
  session: Session;
  row: Row;
  fault: string | undefined;
  onChange: (by: Partial<Row>) => void;
  onPaste: (text: string) => boolean;
  onRemove: () => void;
}

function EnvRow({ session, row, fault, onChange, onPaste, onRemove }: EnvRowProps) {
  const name = useSaved(session, `env-name-${row.id}`, row.name, (text) => onChange({ name: text }));
  const value = useSaved(session, `env-value-${row.id}`, row.value, (text) => onChange({ value: text }));
  const field = useRef<HTMLTextAreaElement>(null);
  const typeName = (text: string) => {
    const equals = text.indexOf("=");
    if (equals < 1) return name.type(text);
    name.type(text.slice(0, equals));
    name.leave();
    if (text.length > equals + 1) value.type(text.slice(equals + 1));
    field.current?.focus();
  };
  const paste = (event: ClipboardEvent) => {
    const text = event.clipboardData?.getData("text") ?? "";
    if (/[=\n]/.test(text) && onPaste(text)) event.preventDefault();
  };
  const about = fault ? `env-${row.id}-about` : undefined;
  const shown = name.text || "new variable";
  return (
    <div class="settings-env-row">
      <input
        type="text"
        class="mono"
        aria-label="Name of a variable"
        aria-invalid={Boolean(fault)}
        aria-describedby={about}
        placeholder="NAME"
        spellcheck={false}
        autocapitalize="off"
        value={name.text}
        onInput={(event) => typeName(event.currentTarget.value)}
        onBlur={name.leave}
        onPaste={paste}
        onKeyDown={(event) => event.key === "Enter" && field.current?.focus()}
      />
      <span aria-hidden="true">=</span>
      <textarea
        ref={field}
        class="mono"
        rows={rowsOf(value.text)}
        aria-label={`Value of ${shown}`}
        aria-describedby={about}
        placeholder="empty"
        spellcheck={false}
        autocapitalize="off"
        value={value.text}
        onInput={(event) => value.type(event.currentTarget.value)}
        onBlur={value.leave}
      />
      <Button icon="trash" iconOnly tone="plain" label={`Remove ${shown}`} onClick={onRemove} />
      {fault && (
        <div class="settings-fault" id={about} role="alert">
          {fault}
        </div>
      )}
    </div>
  );
}

/** A box for many lines at once. */
function PasteMany({ take }: { take: (text: string) => boolean }) {
  const isOpen = useSignal(false);
  const text = useSignal("");
  if (!isOpen.value) return <Button label="Paste many" aria-expanded={false} onClick={() => (isOpen.value = true)} />;
  const add = () => {
    if (!take(text.value)) return;
    text.value = "";
    isOpen.value = false;
  };
  return (
    <div class="settings-paste">
      <Field label="Lines of KEY=VALUE" hint="As in an .env file: comments and export are passed over.">
        {(ids) => (
          <textarea
            {...ids}
            class="mono"
            rows={5}
            spellcheck={false}
            value={text.value}
            onInput={(event) => (text.value = event.currentTarget.value)}
          />
        )}
      </Field>
      <div class="settings-line">
        <Button tone="primary" label="Add them" disabled={!text.value.trim()} onClick={add} />
        <Button tone="plain" label="Cancel" onClick={() => (isOpen.value = false)} />
      </div>
    </div>
  );
}

function saysTheSame(rows: readonly Row[], env: Record<string, unknown>): boolean {
  const said = Object.fromEntries(rows.filter((row) => row.name || row.value).map((row) => [row.name, row.value]));
  const names = Object.keys(said);
  return names.length === Object.keys(env).length && names.every((name) => said[name] === textOf(env[name]));
}

// --- values and their text -------------------------------------------------------------------------------------------

/** A value of the definition as it stands in a field. */
export function textOf(value: unknown): string {
  if (value === undefined || value === null) return "";
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Text as a value: what was a list stays one while the text is one. */
function meantBy(text: string, before: unknown): unknown {
  if (!Array.isArray(before)) return text;
  try {
    const value: unknown = JSON.parse(text);
    return Array.isArray(value) ? value : text;
  } catch {
    return text;
  }
}

/** A number where it is one; else what was typed, which is then told to be none. */
function numberOf(text: string): number | string {
  const number = Number(text);
  return text.trim() !== "" && Number.isFinite(number) ? number : text.trim();
}

function tagsOf(text: string): string[] | undefined {
  const tags = text
    .split(",")
    .map((tag) => tag.trim())
    .filter(Boolean);
  return tags.length > 0 ? tags : undefined;
}

function rowsOf(text: string): number {
  return Math.min(Math.max(text.split("\n").length, Math.ceil(text.length / 60), 1), 8);
}
