/** The files of the job: those of the link, those that were uploaded, and those that the host page sends. */

import { type Signal, useComputed, useSignal } from "@preact/signals";
import type { RefObject } from "preact";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { isTextField } from "../drop.ts";
import {
  freeName,
  INLINE_FILE_BYTES,
  inlineBytes,
  landsAt,
  nameFault,
  showBytes,
  shownName,
  tidyName,
  typeOf,
} from "../files.ts";
import { Icon } from "../icons.tsx";
import { type InputFile, type Intake, intakeOf, openInEditor, sourceOf, type Upload } from "../intake.ts";
import { Button, Field, type FieldIds, PanelFrame } from "../kit.tsx";
import type { Session } from "../model.ts";
import { Preview, type PreviewFile, Save } from "./preview.tsx";
import "./inputs.css";

export function Inputs({ session }: { session: Session }) {
  const intake = intakeOf(session);
  const isCreating = useSignal(false);
  const renaming = useSignal<string | null>(null);
  const shown = useSignal<PreviewFile | null>(null);
  const chooser = useRef<HTMLInputElement>(null);
  const folderChooser = useRef<HTMLInputElement>(null);
  const box = useRef<HTMLDivElement>(null);

  useLayoutEffect(() => {
    folderChooser.current?.setAttribute("webkitdirectory", "");
    // A text that is pasted while the panel is open becomes a file; files are taken by the whole page.
    const paste = (event: ClipboardEvent) => {
      const text = event.clipboardData?.getData("text/plain") ?? "";
      if (event.defaultPrevented || !text || isTextField(event.target)) return;
      if (event.clipboardData?.types.includes("Files")) return;
      event.preventDefault();
      const name = freeName("pasted.txt", new Set(intake.names));
      intake.add([{ name, blob: new Blob([text]) }]).then(() => {
        renaming.value = name;
      });
    };
    document.addEventListener("paste", paste);
    return () => document.removeEventListener("paste", paste);
  }, [intake]);

  const take = (list: FileList | null) => {
    const files = [...(list ?? [])];
    void intake.add(files.map((file) => ({ name: file.webkitRelativePath || file.name, blob: file })));
  };
  const files = intake.files.value;
  return (
    <PanelFrame
      title="Inputs"
      onClose={() => {
        session.panel.value = null;
      }}
    >
      <div class="inputs" ref={box}>
        <div class="inputs-bar">
          <Button
            icon="add"
            label="New file"
            aria-expanded={isCreating.value}
            onClick={() => {
              isCreating.value = !isCreating.value;
            }}
          />
          <Button icon="inputs" label="Add files" onClick={() => chooser.current?.click()} />
          <Button icon="folder" label="Add a folder" onClick={() => folderChooser.current?.click()} />
          <input
            ref={chooser}
            type="file"
            multiple
            hidden
            aria-label="Files to add"
            onChange={(event) => {
              take(event.currentTarget.files);
              event.currentTarget.value = "";
            }}
          />
          <input
            ref={folderChooser}
            type="file"
            hidden
            aria-label="Folder to add"
            onChange={(event) => {
              take(event.currentTarget.files);
              event.currentTarget.value = "";
            }}
          />
        </div>
        {isCreating.value && (
          <NewFile
            intake={intake}
            onDone={(name) => {
              isCreating.value = false;
              if (name !== null) openInEditor(session, name);
            }}
          />
        )}
        <p class="muted inputs-about">
          The container finds these files. You can also drop or paste files here. Small texts are part of the link;
          files above {showBytes(INLINE_FILE_BYTES)} and binary ones are uploaded to the server, where everybody with
          the link can read them.
        </p>
        {files.length === 0 && intake.uploads.value.length === 0 ? (
          <p class="inputs-empty">No files yet. A script, a settings file or data can stand here.</p>
        ) : (
          <ul class="inputs-list" aria-label="Files of the job">
            {files.map((file) => (
              <Row
                key={file.path}
                session={session}
                intake={intake}
                file={file}
                isRenaming={renaming.value === file.name}
                onRename={(isOn) => {
                  renaming.value = isOn ? file.name : null;
                }}
                onPreview={() => {
                  shown.value = file;
                }}
                onDeleted={() => {
                  // The row with the focus is gone: the focus goes to what is left, not to the page's start.
                  requestAnimationFrame(() => box.current?.querySelector<HTMLElement>("button")?.focus());
                }}
              />
            ))}
          </ul>
        )}
        <Uploads intake={intake} />
        <Sending session={session} />
        <Upstream
          session={session}
          onPreview={(file) => {
            shown.value = file;
          }}
        />
        {shown.value && (
          <Preview
            file={shown.value}
            onClose={() => {
              shown.value = null;
            }}
          />
        )}
      </div>
    </PanelFrame>
  );
}

interface NameInputProps {
  ids: FieldIds;
  input: RefObject<HTMLInputElement | null>;
  name: Signal<string>;
  placeholder?: string;
  onEscape: () => void;
}

/** Where the name of a file is typed. Escape gives up the name, and not the panel around it. */
function NameInput({ ids, input, name, onEscape, ...more }: NameInputProps) {
  return (
    <input
      {...ids}
      {...more}
      ref={input}
      type="text"
      class="mono"
      autocomplete="off"
      spellcheck={false}
      value={name.value}
      onInput={(event) => {
        name.value = event.currentTarget.value;
      }}
      onKeyDown={(event) => {
        if (event.key !== "Escape") return;
        event.stopPropagation();
        onEscape();
      }}
    />
  );
}

function NewFile({ intake, onDone }: { intake: Intake; onDone: (name: string | null) => void }) {
  const name = useSignal("");
  const isTried = useSignal(false);
  const fault = useComputed(() => (isTried.value ? nameFault(name.value, intake.names) : null));
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => input.current?.focus(), []);
  return (
    <form
      class="inputs-new"
      onSubmit={(event) => {
        event.preventDefault();
        isTried.value = true;
        if (fault.value) return input.current?.focus();
        intake.create(name.value);
        onDone(tidyName(name.value));
      }}
    >
      <Field
        label="Name of the new file"
        hint={
          <>
            It lies at <code>{landsAt(tidyName(name.value) || "…")}</code>
          </>
        }
        fault={fault.value ?? undefined}
      >
        {(ids) => (
          <NameInput ids={ids} input={input} name={name} placeholder="script.py" onEscape={() => onDone(null)} />
        )}
      </Field>
      <span class="inputs-new-buttons">
        <Button type="submit" tone="primary" label="Create and edit" />
        <Button label="Cancel" tone="plain" onClick={() => onDone(null)} />
      </span>
    </form>
  );
}

interface RowProps {
  session: Session;
  intake: Intake;
  file: InputFile;
  isRenaming: boolean;
  onRename: (isOn: boolean) => void;
  onPreview: () => void;
  onDeleted: () => void;
}

function Path({ path }: { path: string }) {
  const slash = path.lastIndexOf("/") + 1;
  return (
    <span class="inputs-path mono">
      <span class="muted">{shownName(path.slice(0, slash))}</span>
      {shownName(path.slice(slash))}
    </span>
  );
}

function Row({ session, intake, file, isRenaming, onRename, onPreview, onDeleted }: RowProps) {
  if (isRenaming)
    return (
      <li class="inputs-row">
        <Rename intake={intake} file={file} onDone={() => onRename(false)} />
      </li>
    );
  const { name } = file;
  return (
    <li class="inputs-row">
      <span class="inputs-name">
        <Path path={file.path} />
        <span class="muted inputs-facts">
          {typeOf(name).label}
          {file.size !== null && `, ${showBytes(file.size)}`}
          {file.kind === "text" ? ", in the link" : ", uploaded"}
        </span>
      </span>
      <span class="inputs-actions">
        {file.kind === "text" ? (
          <Button
            icon="edit"
            iconOnly
            tone="plain"
            label={`Edit ${name}`}
            onClick={() => openInEditor(session, name)}
          />
        ) : (
          <Button icon="eye" iconOnly tone="plain" label={`Look at ${name}`} onClick={onPreview} />
        )}
        <Button icon="rename" iconOnly tone="plain" label={`Rename ${name}`} onClick={() => onRename(true)} />
        <Save file={file} iconOnly />
        <Button
          icon="trash"
          iconOnly
          tone="plain"
          label={`Delete ${name}`}
          onClick={() => {
            intake.remove(file);
            onDeleted();
          }}
        />
      </span>
    </li>
  );
}

function Rename({ intake, file, onDone }: { intake: Intake; file: InputFile; onDone: () => void }) {
  const name = useSignal(file.name);
  const fault = useComputed(() =>
    nameFault(
      name.value,
      intake.names.filter((other) => other !== file.name),
      file.kind === "text",
    ),
  );
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const element = input.current;
    if (!element) return;
    element.focus();
    const dot = file.name.lastIndexOf(".");
    element.setSelectionRange(file.name.lastIndexOf("/") + 1, dot > 0 ? dot : file.name.length);
  }, []);
  return (
    <form
      class="inputs-new"
      onSubmit={(event) => {
        event.preventDefault();
        if (fault.value) return input.current?.focus();
        intake.rename(file, name.value);
        onDone();
      }}
    >
      <Field label={`New name of ${file.name}`} fault={fault.value ?? undefined}>
        {(ids) => <NameInput ids={ids} input={input} name={name} onEscape={onDone} />}
      </Field>
      <span class="inputs-new-buttons">
        <Button type="submit" tone="primary" label="Rename" />
        <Button label="Cancel" tone="plain" onClick={onDone} />
      </span>
    </form>
  );
}

function Uploads({ intake }: { intake: Intake }) {
  const uploads = intake.uploads.value;
  if (!uploads.length) return null;
  return (
    <section class="inputs-part" aria-label="Uploads">
      <h3>Uploads</h3>
      <ul class="inputs-list">
        {uploads.map((upload) => (
          <UploadRow key={upload.name} upload={upload} intake={intake} />
        ))}
      </ul>
    </section>
  );
}

function UploadRow({ upload, intake }: { upload: Upload; intake: Intake }) {
  const { name, size, sent, fault } = upload;
  return (
    <li class="inputs-row">
      <span class="inputs-name">
        <Path path={landsAt(name)} />
        {fault === null ? (
          <>
            <progress max={size || 1} value={sent} aria-label={`Upload of ${name}`} />
            <span class="muted inputs-facts">
              {showBytes(sent)} of {showBytes(size)}
            </span>
          </>
        ) : (
          <span class="inputs-fault" role="alert">
            {fault}
          </span>
        )}
      </span>
      <span class="inputs-actions">
        {fault !== null && <Button icon="again" label="Try again" onClick={() => intake.retry(name)} />}
        <Button
          icon="close"
          iconOnly
          tone="plain"
          label={fault === null ? `Cancel the upload of ${name}` : `Leave out ${name}`}
          onClick={() => intake.cancel(name)}
        />
      </span>
    </li>
  );
}

/** Inputs that are too large to travel in the definition: sent before the job is. */
function Sending({ session }: { session: Session }) {
  const uploads = [...session.uploads.value];
  if (!uploads.length) return null;
  return (
    <section class="inputs-part" aria-label="Sent before the job starts">
      <h3>Sent before the job starts</h3>
      <ul class="inputs-list">
        {uploads.map(([name, { sent, size }]) => (
          <li key={name} class="inputs-row">
            <span class="inputs-name">
              <Path path={landsAt(name)} />
              <progress max={size || 1} value={sent} aria-label={`Upload of ${name}`} />
            </span>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Upstream({ session, onPreview }: { session: Session; onPreview: (file: PreviewFile) => void }) {
  const inputs = [...session.dynamicInputs.value];
  if (!inputs.length) return null;
  return (
    <section class="inputs-part" aria-label="From the page around this one">
      <h3>
        <Icon name="link" /> From the page around this one
      </h3>
      <p class="muted">They cannot be changed here.</p>
      <ul class="inputs-list">
        {inputs.map(([name, ref]) => {
          const file = { name, size: inlineBytes(ref)?.length ?? null, source: sourceOf(ref, name, session) };
          return (
            <li key={name} class="inputs-row">
              <span class="inputs-name">
                <Path path={landsAt(name)} />
                <span class="muted inputs-facts">
                  {typeOf(name).label}
                  {file.size !== null && `, ${showBytes(file.size)}`}, {sortOf(ref.type)}
                </span>
              </span>
              <span class="inputs-actions">
                <Button icon="eye" iconOnly tone="plain" label={`Look at ${name}`} onClick={() => onPreview(file)} />
                <Save file={file} iconOnly />
              </span>
            </li>
          );
        })}
      </ul>
    </section>
  );
}

function sortOf(type: string | undefined): string {
  switch (type) {
    case "url":
    case "key":
      return "a link";
    case "base64":
      return "bytes";
    case "json":
      return "a JSON value";
    default:
      return "a text";
  }
}
