import { expect, test } from "vitest";
import { EventDecoder, readEvents, type ServerEvent } from "../src/events.ts";

const feed = (...pieces: string[]) => {
  const decoder = new EventDecoder();
  return pieces.flatMap((piece) => decoder.feed(piece));
};

const bytes = (...chunks: Uint8Array[]) =>
  new ReadableStream<Uint8Array>({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(chunk);
      controller.close();
    },
  });

async function all(body: ReadableStream<Uint8Array>): Promise<ServerEvent[]> {
  const found: ServerEvent[] = [];
  for await (const event of readEvents(body, 1000, () => {})) found.push(event);
  return found;
}

test.each(["\n", "\r\n", "\r"])("lines end in %j", (end) => {
  const text = ["event: run-log", "id: 1-0-2", "data: {}", "", ""].join(end);
  const expected = [{ event: "run-log", id: "1-0-2", data: "{}" }];
  expect(feed(`${text}${end === "\r" ? ":" : ""}`)).toEqual(expected);
});

test("any split of the text gives the same events", () => {
  const text = ': hello\r\nevent: state\r\ndata: {"a":\r\ndata: 1}\r\nid: 1-2-3\r\n\r\nevent: final\ndata: x\n\n';
  const whole = feed(text);
  expect(whole).toEqual([
    { event: "state", data: '{"a":\n1}', id: "1-2-3" },
    { event: "final", data: "x", id: "1-2-3" },
  ]);
  for (let at = 0; at <= text.length; at += 1) expect(feed(text.slice(0, at), text.slice(at))).toEqual(whole);
  expect(feed(...text)).toEqual(whole);
});

test("comments, unknown fields and events without data pass", () => {
  expect(feed(": still here\n\nretry: 5\nevent: state\n\nfoo\n\ndata: 1\n\n")).toEqual([
    { event: "", data: "1", id: "" },
  ]);
});

test("a field keeps blanks but the first, and colons", () => {
  expect(feed("data:  a: b\n\ndata:c\n\n").map((e) => e.data)).toEqual([" a: b", "c"]);
});

test("an event that is not complete when the stream ends is dropped", async () => {
  expect(await all(bytes(new TextEncoder().encode("data: 1\n\ndata: 2\n")))).toMatchObject([{ data: "1" }]);
});

test("characters may be split between chunks", async () => {
  const encoded = new TextEncoder().encode("data: h\u00e9llo \u{1f600}\n\n");
  const chunks = Array.from(encoded, (byte) => Uint8Array.of(byte));
  expect(await all(bytes(...chunks))).toMatchObject([{ data: "h\u00e9llo \u{1f600}" }]);
});

test("silence is told", async () => {
  let stop: () => void = () => {};
  const silent = new ReadableStream<Uint8Array>({
    start(controller) {
      stop = () => controller.error(new Error("silent"));
    },
  });
  const reading = readEvents(silent, 20, () => stop()).next();
  await expect(reading).rejects.toThrow("silent");
});
