/**
 * A look at one file, in a dialog. What it is decides its name, how it is shown decides what runs: nothing.
 *
 * HTML is shown as its source, a PDF is only saved: neither is ever drawn in the page's origin.
 */

import { useSignal } from "@preact/signals";
import type { ComponentType } from "preact";
import { useEffect } from "preact/hooks";
import { showBytes, shownName, typeOf } from "../files.ts";
import { Icon } from "../icons.tsx";
import type { Source } from "../intake.ts";
import { Button, CopyButton, Dialog } from "../kit.tsx";
import { fileName, saveBlob } from "../save.ts";
import { loadPart, type Part, textOfPart } from "../viewers/load.ts";
import "./preview.css";

/** How much of a text is fetched at first, and with each "more". */
export const TEXT_BYTES = 1_000_000;
export const TEXT_MOST_BYTES = 20_000_000;
/** JSON cannot be read in part. */
export const JSON_BYTES = 20_000_000;

export interface PreviewFile {
  name: string;
  size: number | null;
  source: Source | null;
}

interface PreviewProps {
  file: PreviewFile;
  /** To step to the file before and after; absent at the ends. */
  onPrevious?: (() => void) | undefined;
  onNext?: (() => void) | undefined;
  onClose: () => void;
}

export function Preview({ file, onPrevious, onNext, onClose }: PreviewProps) {
  return (
    <Dialog title={shownName(file.name)} onClose={onClose}>
      <div class="preview">
        <div class="preview-bar">
          <span class="muted">
            {typeOf(file.name).label}
            {file.size !== null && `, ${showBytes(file.size)}`}
          </span>
          <span class="preview-actions">
            {(onPrevious || onNext) && (
              <>
                <Button label="Previous" tone="plain" disabled={!onPrevious} onClick={onPrevious} />
                <Button label="Next" tone="plain" disabled={!onNext} onClick={onNext} />
              </>
            )}
            <Save file={file} />
          </span>
        </div>
        <Body key={file.name} file={file} />
      </div>
    </Dialog>
  );
}

/** Saves a file: a link to the server where it is there, which answers it as an attachment. */
export function Save({ file, iconOnly = false }: { file: PreviewFile; iconOnly?: boolean }) {
  const { source, name } = file;
  if (!source) return null;
  const label = iconOnly ? `Download ${shownName(name)}` : "Download";
  if ("blob" in source)
    return (
      <Button
        icon="download"
        iconOnly={iconOnly}
        {...(iconOnly ? { tone: "plain" as const } : {})}
        label={label}
        onClick={() => saveBlob(source.blob(), name)}
      />
    );
  return <SaveLink url={source.url} name={name} label={label} iconOnly={iconOnly} />;
}

function SaveLink({ url, name, label, iconOnly }: { url: string; name: string; label: string; iconOnly: boolean }) {
  return (
    <a
      class={`button ${iconOnly ? "plain" : ""}`}
      href={url}
      download={fileName(name)}
      target="_blank"
      rel="noopener noreferrer"
      {...(iconOnly ? { "aria-label": label, title: label } : {})}
    >
      <Icon name="download" />
      {!iconOnly && <span>{label}</span>}
    </a>
  );
}

function Body({ file }: { file: PreviewFile }) {
  const fault = useSignal<string | null>(null);
  const { kind } = typeOf(file.name);
  const { source, name } = file;
  if (!source) return <p class="preview-fault">This file has no address that can be opened.</p>;
  if (fault.value !== null)
    return (
      <p class="preview-fault" role="alert">
        {fault.value} {kind === "none" ? "" : "You can still download it."}
      </p>
    );
  const onFault = (text: string) => {
    fault.value = text;
  };
  if (kind === "none")
    return <p class="preview-fault">There is no preview of this kind of file. Download it to open it.</p>;
  if (kind === "image" || kind === "svg" || kind === "audio" || kind === "video")
    return (
      <Lazy
        load={async () => {
          const { Image, Media } = await import("../viewers/media.tsx");
          return kind === "image" || kind === "svg" ? Image : Media;
        }}
        props={{ source, name, onFault }}
      />
    );
  return <TextBody source={source} name={name} isJson={kind === "json"} isTable={kind === "table"} onFault={onFault} />;
}

interface TextBodyProps {
  source: Source;
  name: string;
  isJson: boolean;
  isTable: boolean;
  onFault: (text: string) => void;
}

type View = "tree" | "table" | "text";

function TextBody({ source, name, isJson, isTable, onFault }: TextBodyProps) {
  const part = useSignal<Part | null>(null);
  const limit = useSignal(isJson ? JSON_BYTES : TEXT_BYTES);
  const isLoading = useSignal(true);
  const asSource = useSignal(false);
  useEffect(() => {
    const stop = new AbortController();
    isLoading.value = true;
    loadPart(source, limit.value, { signal: stop.signal })
      .then((loaded) => {
        part.value = loaded;
        isLoading.value = false;
      })
      .catch((error) => {
        if (!stop.signal.aborted) onFault(error instanceof Error ? error.message : String(error));
      });
    return () => stop.abort();
  }, [source, limit.value]);
  const loaded = part.value;
  if (!loaded)
    return (
      <p class="viewer-note" role="status">
        Loading…
      </p>
    );
  const text = textOfPart(loaded);
  if (text === null)
    return (
      <p class="preview-fault">This is not text, and of no other kind that can be shown. Download it to open it.</p>
    );
  if (text === "") return <p class="viewer-note">The file is empty.</p>;
  const rich: View = isJson && !loaded.isPart ? "tree" : isTable ? "table" : "text";
  const view: View = asSource.value ? "text" : rich;
  const size = loaded.size === null ? "" : ` of ${showBytes(loaded.size)}`;
  return (
    <>
      <div class="preview-bar">
        <span class="muted" role="status">
          {loaded.isPart ? `The first ${showBytes(loaded.bytes.length)}${size}.` : ""}
        </span>
        <span class="preview-actions">
          {rich !== "text" && (
            <Button
              label="As text"
              tone="plain"
              aria-pressed={asSource.value}
              onClick={() => {
                asSource.value = !asSource.value;
              }}
            />
          )}
          {loaded.isPart && view === "text" && loaded.bytes.length < TEXT_MOST_BYTES && (
            <Button
              label={isLoading.value ? "Loading…" : "Show more"}
              disabled={isLoading.value}
              onClick={() => {
                limit.value = Math.min(limit.value * 4, TEXT_MOST_BYTES);
              }}
            />
          )}
          <CopyButton text={() => text} label={loaded.isPart ? "Copy this part" : "Copy"} tone="plain" />
        </span>
      </div>
      {view === "tree" ? (
        <Lazy key="json" load={async () => (await import("../viewers/json.tsx")).Json} props={{ text, name }} />
      ) : view === "table" ? (
        <Lazy
          key="table"
          load={async () => (await import("../viewers/table.tsx")).Table}
          props={{ text, name, isPart: loaded.isPart }}
        />
      ) : (
        <Lazy key="text" load={async () => (await import("../viewers/text.tsx")).Text} props={{ text, name }} />
      )}
    </>
  );
}

/** A part that is fetched when it is first needed. */
function Lazy<Props extends object>({ load, props }: { load: () => Promise<ComponentType<Props>>; props: Props }) {
  const part = useSignal<{ View: ComponentType<Props> } | null>(null);
  const isLost = useSignal(false);
  useEffect(() => {
    load().then(
      (View) => {
        part.value = { View };
      },
      () => {
        isLost.value = true;
      },
    );
  }, []);
  if (isLost.value)
    return (
      <p class="preview-fault" role="alert">
        A part of the page could not be loaded. Check the connection, then open this file again.
      </p>
    );
  if (!part.value) return <p class="viewer-note">Loading…</p>;
  const { View } = part.value;
  return <View {...props} />;
}
