import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { canonicalJson, isInjectedEnv, jobId, jobIdNow, verbatimId } from "../src/identity.ts";
import { sha256 } from "../src/sha256.ts";

interface Vectors {
  verbatim: { what: string; definition: string; canonical: string; id: string }[];
  verbatim_errors: string[];
  verbatim_canonical: { canonical: string; id: string }[];
  known: { what: string; definition: string; blob: string; old: string; new: string }[];
}

const VECTORS: Vectors = JSON.parse(readFileSync(new URL("../../tests/vectors/job_ids.json", import.meta.url), "utf8"));

test.each(VECTORS.verbatim)("verbatim: $what", async ({ definition, canonical, id }) => {
  expect(await verbatimId(JSON.parse(definition))).toBe(id);
  expect(sha256(canonical)).toBe(id);
});

test.each(VECTORS.verbatim_errors)("verbatim, refused: %s", async (definition) => {
  await expect(verbatimId(JSON.parse(definition))).rejects.toMatchObject({ code: "bad_definition" });
});

test.each(VECTORS.verbatim_canonical)("canonical: $canonical", async ({ canonical, id }) => {
  expect(canonicalJson(JSON.parse(canonical))).toBe(canonical);
  expect(sha256(canonical)).toBe(id);
});

test.each(VECTORS.known)("known members: $what", async ({ definition, blob, new: id, old }) => {
  const parsed = JSON.parse(definition);
  if (id === "error") await expect(jobId(parsed)).rejects.toMatchObject({ code: "bad_definition" });
  else {
    expect(await jobId(parsed)).toBe(id);
    expect(jobIdNow(parsed)).toBe(id);
    expect(sha256(blob)).toBe(id);
  }
  if (old === "error") await expect(verbatimId(parsed)).rejects.toMatchObject({ code: "bad_definition" });
  else expect(await verbatimId(parsed)).toBe(old);
});

test("numbers are written as ECMAScript writes them, and those out of range are null", () => {
  const text = "[1.0, -0, 1e21, 1e-7, 12345678901234567890, 1e400, 0.1]";
  expect(canonicalJson(JSON.parse(text))).toBe("[1,0,1e+21,1e-7,12345678901234567000,null,0.1]");
});

test("members stand in the order of their UTF-16 code units, integers among them", () => {
  expect(canonicalJson({ "\uffff": 1, "😀": 2, "10": 3, "9": 4, é: 5 })).toBe('{"10":3,"9":4,"é":5,"😀":2,"\uffff":1}');
});

test("an unpaired surrogate is escaped, a pair is not", () => {
  expect(canonicalJson("\ud83d x 😀")).toBe('"\\ud83d x 😀"');
});

test("a member called __proto__ counts like any other", async () => {
  const with_ = JSON.parse('{"image":"a","env":{"__proto__":"1","A":"2"}}');
  expect(await jobId(with_)).toBe(sha256('{"env":{"A":"2","__proto__":"1"},"image":"a"}'));
});

test("what JSON leaves out does not count", async () => {
  const plain = { image: "a", env: { A: "1" } };
  const padded = { image: "a", command: undefined, env: { A: "1", B: undefined }, inputs: undefined };
  expect(await jobId(padded)).toBe(await jobId(plain));
  expect(await verbatimId(padded)).toBe(await verbatimId(plain));
});

test("the definition itself is not changed", async () => {
  const definition = {
    image: "a",
    env: { channel: "1" },
    inputs: { f: { type: "url", value: "https://x/presignedurl/1", hash: "h" } },
  };
  const before = structuredClone(definition);
  await jobId(definition);
  await verbatimId(definition);
  expect(definition).toEqual(before);
});

test.each([null, undefined, 1n, { image: 1n }])("%s has no id", async (definition) => {
  await expect(jobId(definition)).rejects.toMatchObject({ code: "bad_definition" });
});

test("variables of host pages are known by name and prefix, in their case", () => {
  expect(["mp-x", "mp_x", "channel", "CHANNEL", "fs-path"].every(isInjectedEnv)).toBe(true);
  expect(["MP_X", "Channel", "mpower", "READONLY"].some(isInjectedEnv)).toBe(false);
});
