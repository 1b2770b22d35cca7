// biome-ignore-all lint/suspicious/noTemplateCurlyInString: that is how links write what is replaced in them
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { DataRef, Definition } from "../src/contract.ts";
import { jobIdNow } from "../src/identity.ts";
import { assemble, hasLarge, inputName, type PlaceOptions, Placer, type Sources, toRef } from "../src/ui/assembly.ts";

const NOTHING: Sources = {
  job: undefined,
  inputs: undefined,
  control: undefined,
  maxJobDuration: undefined,
  other: new Map(),
  dynamicInputs: new Map(),
};

function made(sources: Partial<Sources>): Definition {
  const draft = assemble({ ...NOTHING, ...sources });
  if ("what" in draft) throw new Error(draft.what);
  return draft.definition;
}

describe("the job of the link", () => {
  it("is what the parameters say, with nothing empty in it", () => {
    const job = { image: "alpine:3.19.1", command: 'echo "hello world"', env: {}, inputs: {}, configFiles: {} };
    expect(made({ job })).toEqual({ image: "alpine:3.19.1", command: 'echo "hello world"' });
  });

  it("has the server's id, whatever of it is empty or injected", () => {
    interface Vector {
      definition: string;
      new: string;
    }
    const text = readFileSync(new URL("../../tests/vectors/job_ids.json", import.meta.url), "utf8");
    const vectors: Vector[] = JSON.parse(text).known;
    let checked = 0;
    for (const vector of vectors) {
      const job = JSON.parse(vector.definition);
      if (vector.new === "error" || typeof job !== "object" || Array.isArray(job) || !(job.image || job.build))
        continue;
      const draft = assemble({ ...NOTHING, job });
      if ("what" in draft) continue;
      expect(jobIdNow(draft.definition), vector.definition).toBe(vector.new);
      checked++;
    }
    expect(checked).toBeGreaterThan(15);
  });

  it("needs an image or something to build; a platform alone is nothing", () => {
    expect(assemble(NOTHING)).toEqual({ what: "image" });
    expect(assemble({ ...NOTHING, job: { build: { platform: "linux/amd64" } } })).toEqual({ what: "image" });
    expect(made({ job: { build: { dockerfile: "FROM alpine" } } }).build).toEqual({ dockerfile: "FROM alpine" });
  });

  it("takes other parameters as variables and once for each ${name}, and changes nothing it was given", () => {
    const job: Definition = {
      image: "a",
      command: "echo ${A} ${A} ${B}",
      env: { A: "old", K: "kept" },
      build: { context: "https://git.example/${B}", dockerfile: "x" },
    };
    const before = JSON.stringify(job);
    const other = new Map([
      ["A", "$&1"],
      ["B", "b"],
    ]);
    const definition = made({ job, other });
    expect(definition.command).toBe("echo $&1 ${A} b");
    expect(definition.build?.context).toBe("https://git.example/b");
    expect(definition.env).toEqual({ A: "$&1", K: "kept", B: "b" });
    expect(JSON.stringify(job)).toBe(before);
  });

  it("mounts the files of the link in the place of the job's own, and keeps those where the link has none", () => {
    const own = { "a.sh": { type: "utf8" as const, value: "1" } };
    expect(made({ job: { image: "a", configFiles: own } }).configFiles).toEqual(own);
    expect(made({ job: { image: "a", configFiles: own }, inputs: { "b.sh": "2" } }).configFiles).toEqual({
      "b.sh": { type: "utf8", value: "2" },
    });
    expect(made({ job: { image: "a", configFiles: own }, inputs: {} }).configFiles).toBeUndefined();
  });

  it("bounds the time by the link's word if the job has none", () => {
    expect(made({ job: { image: "a" }, maxJobDuration: "10m" }).maxDuration).toBe("10m");
    expect(made({ job: { image: "a", maxDuration: "1m" }, maxJobDuration: "10m" }).maxDuration).toBe("1m");
  });

  it("submits what the server understands of control", () => {
    const control = { namespace: "me", callbacks: { queued: { url: "https://x" } }, maxDuration: 5 };
    expect(assemble({ ...NOTHING, job: { image: "a" }, control })).toMatchObject({
      namespace: "me",
      control: { namespace: "me", callbacks: control.callbacks },
    });
    expect(assemble({ ...NOTHING, job: { image: "a" } })).toMatchObject({
      namespace: "_",
      control: { namespace: "_" },
    });
    expect(JSON.stringify(assemble({ ...NOTHING, job: { image: "a" }, control }))).not.toContain("maxDuration");
  });
});

describe("values of a host's pipes", () => {
  const bytes = new Uint8Array([0, 1, 2, 255]);
  const base64 = "AAEC/w==";
  const cases: [string, unknown, DataRef | null][] = [
    ["nothing", null, null],
    ["undefined", undefined, null],
    ["a function", () => {}, null],
    ["text", "a", { type: "utf8", value: "a" }],
    ["no text", "", { type: "utf8", value: "" }],
    ["a number", 1.5, { type: "utf8", value: "1.5" }],
    ["true", true, { type: "json", value: true }],
    ["false", false, { type: "json", value: false }],
    ["an object", { a: 1 }, { type: "json", value: { a: 1 } }],
    ["an array", [1], { type: "json", value: [1] }],
    ["a ref", { type: "url", value: "https://x", hash: "h" }, { type: "url", value: "https://x", hash: "h" }],
    ["a key", { type: "key", value: "k" }, { type: "key", value: "k" }],
    ["an empty file of another job", { type: "utf8", value: "" }, { type: "utf8", value: "" }],
    [
      "an object with a type of its own",
      { type: "Feature", value: 1 },
      { type: "json", value: { type: "Feature", value: 1 } },
    ],
    ["a ref without value", { type: "url", value: "" }, { type: "json", value: { type: "url", value: "" } }],
    ["a blob of library 1.5", { _s: true, _c: "Blob", value: base64, size: 4 }, { type: "base64", value: base64 }],
    ["a file of library 1.5", { _s: true, _c: "File", value: base64, name: "f" }, { type: "base64", value: base64 }],
    ["numbers of library 1.5", { _s: true, _c: "Float32Array", value: base64 }, { type: "base64", value: base64 }],
    ["a first data ref", { ref: "base64", c: "Uint8Array", value: base64 }, { type: "base64", value: base64 }],
    ["a buffer", bytes.buffer, { type: "base64", value: base64 }],
    ["a view", new Uint8Array([9, ...bytes, 9]).subarray(1, 5), { type: "base64", value: base64 }],
    ["a blob of library 1.10", `data:image/png;blob=true;base64,${base64}`, { type: "base64", value: base64 }],
    [
      "a file of library 1.10",
      `data:text/csv;file=true;name=a.csv;lastModified=1;base64,${base64}`,
      { type: "base64", value: base64 },
    ],
    [
      "numbers of library 1.10",
      `data:application/octet-stream;type=Float32Array;base64,${base64}`,
      { type: "base64", value: base64 },
    ],
    ["a percent-encoded payload", "data:x/y;base64,AAEC%2Fw%3D%3D", { type: "base64", value: base64 }],
    [
      "an address",
      "data:text/x-uri;charset=utf-8,https%3A%2F%2Fx%2F%3Fa%3Db",
      { type: "url", value: "https://x/?a=b" },
    ],
    ["JSON", "data:application/json,%7B%22a%22%3A1%7D", { type: "json", value: { a: 1 } }],
    ["JSON that is none", "data:application/json,%7Boops", { type: "utf8", value: "{oops" }],
    ["text in an address", "data:text/plain;charset=utf-8,a%20b", { type: "utf8", value: "a b" }],
    ["no text in an address", "data:,", { type: "utf8", value: "" }],
    ["a broken encoding", "data:text/plain,100%", { type: "utf8", value: "100%" }],
    ["no comma", "data: of today", { type: "utf8", value: "data: of today" }],
  ];
  for (const [what, value, ref] of cases) it(what, () => expect(toRef(value)).toEqual(ref));

  it("have one leading slash of their name dropped", () => {
    expect(["/a", "a", "//a"].map(inputName)).toEqual(["a", "a", "/a"]);
  });
});

describe("large values", () => {
  const stored: Uint8Array[] = [];
  const options: PlaceOptions = {
    signal: new AbortController().signal,
    onProgress: () => {},
    upload: async (data) => {
      stored.push(data);
      const hash = createHash("sha256").update(data).digest("hex");
      return { type: "url", value: `https://s/f/${hash}`, hash };
    },
  };
  const withInputs = (inputs: Record<string, DataRef>): Definition => ({ image: "a", inputs });

  it("are those over 200 bytes of what would be written", () => {
    const isLarge = (ref: DataRef) => hasLarge(withInputs({ x: ref }));
    expect(isLarge({ type: "utf8", value: "x".repeat(200) })).toBe(false);
    expect(isLarge({ type: "utf8", value: "x".repeat(201) })).toBe(true);
    expect(isLarge({ type: "utf8", value: "é".repeat(100) })).toBe(false);
    expect(isLarge({ type: "utf8", value: "é".repeat(101) })).toBe(true);
    expect(isLarge({ value: "x".repeat(201) })).toBe(true);
    expect(isLarge({ type: "json", value: "x".repeat(198) })).toBe(false);
    expect(isLarge({ type: "json", value: "x".repeat(199) })).toBe(true);
    expect(isLarge({ type: "base64", value: "A".repeat(204) })).toBe(true);
    expect(isLarge({ type: "url", value: "x".repeat(500) })).toBe(false);
  });

  it("are sent as what they stand for, once, and the definition is not changed", async () => {
    const placer = new Placer();
    const definition: Definition = {
      image: "a",
      inputs: {
        text: { type: "utf8", value: "é".repeat(150) },
        bytes: { type: "base64", value: Buffer.alloc(300, 7).toString("base64") },
        small: { type: "utf8", value: "s" },
      },
      configFiles: { "a.json": { type: "json", value: { k: "v".repeat(300) } } },
    };
    const before = JSON.stringify(definition);
    const placed = await placer.place(definition, options);
    const texts = stored.map((data) => Buffer.from(data));
    expect(texts).toContainEqual(Buffer.from("é".repeat(150)));
    expect(texts).toContainEqual(Buffer.alloc(300, 7));
    expect(texts).toContainEqual(Buffer.from(JSON.stringify({ k: "v".repeat(300) })));
    expect(placed.inputs?.small).toEqual({ type: "utf8", value: "s" });
    expect(placed.inputs?.text?.type).toBe("url");
    expect(JSON.stringify(definition)).toBe(before);
    expect(await placer.place(definition, options)).toEqual(placed);
    expect(stored).toHaveLength(3);
  });

  it("are not put into a definition that is not wanted any more", async () => {
    const stop = new AbortController();
    const placing = new Placer().place(withInputs({ x: { type: "utf8", value: "y".repeat(201) } }), {
      ...options,
      signal: stop.signal,
      upload: async (data) => {
        stop.abort();
        return options.upload(data, { signal: stop.signal, onProgress: () => {} });
      },
    });
    await expect(placing).rejects.toThrow();
  });
});
