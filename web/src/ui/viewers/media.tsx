/**
 * Images, audio and video: given to elements of the browser that run no scripts.
 *
 * An SVG is shown as `<img>`, where it can neither run scripts nor fetch anything, from a `data:` address: opened in a
 * tab of its own, a `blob:` address would be of this page's origin, a `data:` address is of none.
 */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { showBytes, typeOf } from "../files.ts";
import type { Source } from "../intake.ts";
import { loadPart } from "./load.ts";
import "./viewers.css";

export const IMAGE_BYTES = 50_000_000;
export const SVG_BYTES = 5_000_000;
export const MEDIA_BYTES = 300_000_000;

interface MediaProps {
  source: Source;
  name: string;
  onFault: (fault: string) => void;
}

function dataUrl(blob: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** The address for an element, of bytes that are here. */
function useAddress({ source, name, onFault }: MediaProps, limit: number, isWanted = true): string | null {
  const address = useSignal<string | null>(null);
  useEffect(() => {
    if (!isWanted) return;
    const stop = new AbortController();
    let made: string | null = null;
    const { mime, kind } = typeOf(name);
    loadPart(source, limit, { signal: stop.signal })
      .then(async (part) => {
        if (part.isPart) throw new Error(`This file is larger than ${showBytes(limit)}, the most that is shown here.`);
        const blob = new Blob([part.bytes], { type: mime });
        const url = kind === "svg" ? await dataUrl(blob) : URL.createObjectURL(blob);
        if (url.startsWith("blob:")) made = url;
        if (stop.signal.aborted && made) URL.revokeObjectURL(made);
        else address.value = url;
      })
      .catch((error) => {
        if (!stop.signal.aborted) onFault(error instanceof Error ? error.message : String(error));
      });
    return () => {
      stop.abort();
      if (made) URL.revokeObjectURL(made);
    };
  }, [source, name, limit, isWanted]);
  return address.value;
}

export function Image(props: MediaProps) {
  const address = useAddress(props, typeOf(props.name).kind === "svg" ? SVG_BYTES : IMAGE_BYTES);
  const size = useSignal("");
  if (!address) return <p class="viewer-note">Loading…</p>;
  return (
    <figure class="viewer-image">
      <img
        src={address}
        alt={props.name}
        onLoad={({ currentTarget: image }) => {
          size.value = image.naturalWidth ? `${image.naturalWidth} × ${image.naturalHeight} pixels` : "";
        }}
        onError={() => props.onFault("This is not an image that the browser can show.")}
      />
      <figcaption class="viewer-note">{size.value}</figcaption>
    </figure>
  );
}

/** From the server where the page may, so that one can seek in a large file; else from bytes that are fetched first. */
export function Media(props: MediaProps) {
  const { source, name } = props;
  const own = "url" in source && new URL(source.url, location.href).origin === location.origin ? source.url : null;
  const isFetched = useSignal(own === null);
  const fetched = useAddress(props, MEDIA_BYTES, isFetched.value);
  const address = isFetched.value ? fetched : own;
  const common = {
    key: address,
    src: address ?? "",
    controls: true,
    preload: "metadata",
    class: "viewer-media",
    "aria-label": name,
    onError: () => {
      if (isFetched.value) props.onFault("The browser cannot play this file.");
      else isFetched.value = true; // the server may have sent it on to a store of another origin
    },
  } as const;
  if (!address) return <p class="viewer-note">Loading…</p>;
  return typeOf(name).kind === "audio" ? <audio {...common} /> : <video {...common} />;
}
