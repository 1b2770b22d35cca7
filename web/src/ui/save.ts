/** Saving to the person's disk, and the addresses that may stand in a link. */

/** The address if it is http or https, else null: strangers choose these, and `javascript:` is an address too. */
export function webAddress(
  text: unknown,
  base: string = globalThis.location?.href ?? "http://localhost/",
): string | null {
  if (typeof text !== "string") return null;
  try {
    const url = new URL(text, base);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

export function fileName(name: string): string {
  return name.slice(name.lastIndexOf("/") + 1) || "file";
}

/** Save bytes that are here. The type is of no kind that a browser would open. */
export function saveBlob(blob: Blob, name: string): void {
  const url = URL.createObjectURL(new Blob([blob], { type: "application/octet-stream" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = fileName(name);
  link.target = "_self"; // the page's base is _parent
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
