// @vitest-environment happy-dom
import { signal } from "@preact/signals";
import { describe, expect, it, vi } from "vitest";
import type { Client } from "../src/client.ts";
import type { DataRef, Definition } from "../src/contract.ts";
import { INLINE_ALL_BYTES, INLINE_FILE_BYTES } from "../src/ui/files.ts";
import { intakeOf, sourceOf } from "../src/ui/intake.ts";
import { fakeParams, fakeSession } from "./support/fake-session.ts";

interface Put {
  blob: Blob;
  onProgress: (sent: number, size: number) => void;
  signal: AbortSignal;
  resolve: (ref: DataRef) => void;
  reject: (error: unknown) => void;
}

/** A session whose uploads end when the test says so: what the network does is the test's subject here. */
function make(job: Definition = { image: "a" }, inputs?: Record<string, string>) {
  const puts: Put[] = [];
  const upload = (blob: Blob, options: Pick<Put, "onProgress" | "signal">) =>
    new Promise<DataRef>((resolve, reject) => {
      puts.push({ blob, ...options, resolve, reject });
      options.signal.addEventListener("abort", () => reject(options.signal.reason));
    });
  const session = fakeSession({
    params: fakeParams({ job: signal<Definition | undefined>(job), inputs: signal(inputs) }),
    client: signal({ server: "https://host", upload } as unknown as Client),
  });
  return { session, puts, intake: intakeOf(session), params: session.params };
}

const ref = (value: string): DataRef => ({ type: "url", value: `https://host/f/${value}`, hash: value });
const blob = (size: number) => new Blob([new Uint8Array(size).fill(0x61)]);
const undo = ({ session }: ReturnType<typeof make>) => session.notices.value.at(-1)?.action?.run();

describe("what arrives", () => {
  it("is part of the link if it is a small text, and uploaded if not", async () => {
    const { intake, params, puts } = make();
    await intake.add([
      { name: "a.txt", blob: new Blob(["hello"]) },
      { name: "b.bin", blob: new Blob([new Uint8Array([0, 1])]) },
      { name: "c.txt", blob: blob(INLINE_FILE_BYTES + 1) },
    ]);
    expect(params.inputs.value).toEqual({ "a.txt": "hello" });
    expect(intake.uploads.value.map((upload) => upload.name)).toEqual(["b.bin", "c.txt"]);
    puts[0]?.resolve(ref("b"));
    await vi.waitFor(() => expect(params.job.value).toEqual({ image: "a", inputs: { "b.bin": ref("b") } }));
    expect(intake.files.value.map(({ name, kind, size }) => [name, kind, size])).toEqual([
      ["a.txt", "text", 5],
      ["b.bin", "stored", 2],
    ]);
  });

  it("is uploaded when the link would grow too long", async () => {
    const { intake, puts, params } = make({ image: "a" }, { big: "x".repeat(INLINE_ALL_BYTES - 10) });
    await intake.add([{ name: "ten", blob: blob(10) }]);
    expect(Object.keys(params.inputs.value ?? {})).toEqual(["big", "ten"]);
    await intake.add([{ name: "one", blob: blob(1) }]);
    expect(puts).toHaveLength(1);
  });

  it("replaces a file of its name, with a way back", async () => {
    const made = make({ image: "a", inputs: { data: ref("old") } }, { "a.txt": "old" });
    const { intake, params } = made;
    await intake.add([
      { name: "/inputs/a.txt", blob: new Blob(["new"]) },
      { name: "data", blob: new Blob(["text now"]) },
    ]);
    expect(params.inputs.value).toEqual({ "a.txt": "new", data: "text now" });
    expect(params.job.value).toEqual({ image: "a" });
    undo(made);
    expect(params.inputs.value).toEqual({ "a.txt": "old" });
    expect(params.job.value?.inputs).toEqual({ data: ref("old") });
  });

  it("of two with one name in one drop keeps both", async () => {
    const { intake, params } = make();
    await intake.add([
      { name: "a.txt", blob: new Blob(["1"]) },
      { name: "a.txt", blob: new Blob(["2"]) },
    ]);
    expect(params.inputs.value).toEqual({ "a.txt": "1", "a-2.txt": "2" });
  });
});

describe("an upload", () => {
  const start = async (made: ReturnType<typeof make>, ...names: string[]) =>
    made.intake.add(names.map((name) => ({ name, blob: new Blob([new Uint8Array([0])]) })));

  it("tells how far it is", async () => {
    const made = make();
    await start(made, "a");
    made.puts[0]?.onProgress(1, 1);
    expect(made.intake.uploads.value[0]).toMatchObject({ sent: 1, size: 1, fault: null });
  });

  it("that is cancelled is aborted, and leaves nothing", async () => {
    const made = make();
    await start(made, "a");
    made.intake.cancel("a");
    expect(made.puts[0]?.signal.aborted).toBe(true);
    await Promise.resolve();
    expect(made.intake.uploads.value).toEqual([]);
    expect(made.params.job.value).toEqual({ image: "a" });
  });

  it("that fails says why, and can be tried again", async () => {
    const made = make();
    await start(made, "a");
    made.puts[0]?.reject(Object.assign(new Error("the blob has more than 5 bytes"), { status: 413 }));
    await vi.waitFor(() => expect(made.intake.uploads.value[0]?.fault).toMatch(/does not take files of 1 B: the blob/));
    made.intake.retry("a");
    expect(made.intake.uploads.value[0]?.fault).toBeNull();
    await vi.waitFor(() => expect(made.puts).toHaveLength(2));
    made.puts[1]?.resolve(ref("a"));
    await vi.waitFor(() => expect(made.params.job.value?.inputs).toEqual({ a: ref("a") }));
    expect(made.intake.uploads.value).toEqual([]);
  });

  it("waits while two others go on, and a failed one holds up none", async () => {
    const made = make();
    await start(made, "a", "b", "c");
    expect(made.puts).toHaveLength(2);
    made.puts[0]?.reject(new Error("no"));
    await vi.waitFor(() => expect(made.puts).toHaveLength(3));
  });

  it("keeps what else changed in the job meanwhile", async () => {
    const made = make();
    await start(made, "a");
    made.params.job.value = { image: "b", command: "ls" };
    made.puts[0]?.resolve(ref("a"));
    await vi.waitFor(() =>
      expect(made.params.job.value).toEqual({ image: "b", command: "ls", inputs: { a: ref("a") } }),
    );
  });
});

describe("changes", () => {
  it("deletes with a way back, under another name if the first is taken", () => {
    const made = make({ image: "a" }, { "a.txt": "1", b: "2" });
    const { intake, params } = made;
    const [file] = intake.files.value;
    if (file) intake.remove(file);
    expect(params.inputs.value).toEqual({ b: "2" });
    params.inputs.value = { b: "3" }; // edited meanwhile
    undo(made);
    expect(params.inputs.value).toEqual({ "a.txt": "1", b: "3" });
  });

  it("leaves no empty maps behind", () => {
    const { intake, params } = make({ image: "a", inputs: { x: ref("x") } }, { a: "1" });
    for (const file of intake.files.value) intake.remove(file);
    expect(params.inputs.value).toBeUndefined();
    expect(params.job.value).toEqual({ image: "a" });
  });

  it("renames texts and uploaded files", () => {
    const { intake, params } = make({ image: "a", inputs: { x: ref("x") } }, { a: "1" });
    const [text, stored] = intake.files.value;
    if (text) intake.rename(text, " /etc/a.conf ");
    if (stored) intake.rename(stored, "data/x");
    expect(params.inputs.value).toEqual({ "/etc/a.conf": "1" });
    expect(params.job.value?.inputs).toEqual({ "data/x": ref("x") });
  });

  it("writes nothing when a text is as it was", () => {
    const { intake, params } = make({ image: "a" }, { a: "1" });
    const before = params.inputs.value;
    intake.write("a", "1");
    expect(params.inputs.value).toBe(before);
  });
});

describe("files that the job brought along (configFiles)", () => {
  const job: Definition = {
    image: "a",
    configFiles: {
      "main.py": { type: "utf8", value: "print(1)" },
      "data.bin": { type: "base64", value: "AAE=" },
      "/etc/app.json": { type: "json", value: { a: 1 } },
    },
  };

  it("are listed", () => {
    expect(make(job).intake.files.value.map((file) => [file.path, file.kind])).toEqual([
      ["/etc/app.json", "stored"],
      ["/inputs/data.bin", "stored"],
      ["/inputs/main.py", "text"],
    ]);
  });

  it("are not lost with the first edit, which makes the link's texts replace them", () => {
    const { intake, params } = make(job);
    intake.write("main.py", "print(2)");
    expect(params.inputs.value).toEqual({ "main.py": "print(2)", "/etc/app.json": '{"a":1}' });
    expect(params.job.value).toEqual({ image: "a", inputs: { "data.bin": { type: "base64", value: "AAE=" } } });
  });
});

it("gives no address to a reference that is no address of the web", () => {
  const { session } = make();
  expect(sourceOf({ type: "url", value: "javascript:alert(1)" }, "a", session)).toBeNull();
  expect(sourceOf({ type: "key", value: "ab" }, "d/a.txt", session)).toEqual({
    url: "https://host/f/ab?name=d%2Fa.txt",
  });
});
