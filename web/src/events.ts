/**
 * Reading server-sent events from the body of an answer. `EventSource` is not used: it tells neither status nor error,
 * cannot be given a header, and exists in browsers only.
 *
 * Source: HTML standard, "Interpreting an event stream".
 */

export interface ServerEvent {
  event: string;
  data: string;
  id: string;
}

/** Text in pieces into events. Lines end in LF, CRLF or CR; comments and unknown fields pass. */
export class EventDecoder {
  #rest = "";
  #event = "";
  #data: string[] = [];
  #id = "";

  feed(text: string): ServerEvent[] {
    const all = this.#rest + text;
    const end = all.endsWith("\r") ? all.length - 1 : all.length; // a CR at the end may be half of a CRLF
    const lines = all.slice(0, end).split(/\r\n|\n|\r/);
    this.#rest = (lines.pop() ?? "") + all.slice(end);
    return lines.map((line) => this.#line(line)).filter((event) => event !== null);
  }

  #line(line: string): ServerEvent | null {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "event") this.#event = value;
    else if (name === "data") this.#data.push(value);
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    return null;
  }

  #dispatch(): ServerEvent | null {
    const made = this.#data.length ? { event: this.#event, data: this.#data.join("\n"), id: this.#id } : null;
    this.#event = "";
    this.#data = [];
    return made;
  }
}

/**
 * The events of a body until it ends.
 *
 * Errors: what reading the body raises; `onSilence` is called, and has to end it, if nothing comes for `silenceMs`.
 */
export async function* readEvents(
  body: ReadableStream<Uint8Array>,
  silenceMs: number,
  onSilence: () => void,
): AsyncGenerator<ServerEvent, void, undefined> {
  const reader = body.getReader();
  const decoder = new EventDecoder();
  const text = new TextDecoder();
  try {
    for (;;) {
      const timer = setTimeout(onSilence, silenceMs);
      const { done, value } = await reader.read().finally(() => clearTimeout(timer));
      if (done) return;
      yield* decoder.feed(text.decode(value, { stream: true }));
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
