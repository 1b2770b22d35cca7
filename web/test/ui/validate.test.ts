import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  checkDefinition,
  type Finding,
  namespaceFault,
  parseDurationS,
  sentence,
  showDuration,
} from "../../src/ui/parts/validate.ts";

interface Case {
  what: string;
  definition: unknown;
  faults?: [string, string][];
  excess?: [string, string][];
  warnings?: string[];
}

const vectors = (name: string) =>
  JSON.parse(readFileSync(new URL(`../../../tests/vectors/${name}`, import.meta.url), "utf8"));
const CASES: Case[] = vectors("definitions.json").definitions;

/** Long texts are written as `{"$text": [head, text, times]}`. */
function written(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(written);
  if (typeof value !== "object" || value === null) return value;
  const text = (value as { $text?: [string, string, number] }).$text;
  if (text) return text[0] + text[1].repeat(text[2]);
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, written(member)]));
}

/** Python writes values that are no text in its own way, and hints and decoders' words are not repeated here. */
function comparable(findings: readonly [string, string][]): [string, string][] {
  return findings.map(([where, what]) => [
    where,
    what
      .replace(/^"(True|False|None|\[.*\]|\{.*\})"/, '"..."')
      .replace(/(is not base64).*/, "$1")
      .replace(/\. See \/openapi\.json.*/, ""),
  ]);
}

const pairs = (findings: Finding[]) =>
  comparable(
    findings.map(({ where, what }): [string, string] => [
      where,
      what.replace(/^"(true|false|null)"/, '"..."').replace(/^"(\[.*\]|\{.*\})"/, '"..."'),
    ]),
  );

describe("what the server says of a definition is said here as well", () => {
  it.each(CASES)("$what", ({ definition, faults = [], excess, warnings = [] }) => {
    const found = checkDefinition(written(definition));
    expect(pairs(found.faults)).toEqual(comparable(faults));
    if (faults.length === 0) expect(pairs(found.excess)).toEqual(comparable(excess ?? []));
    if (faults.length === 0 && !excess) expect(found.warnings).toEqual(warnings);
  });

  it("has cases of every kind", () => {
    expect(CASES.filter((one) => one.faults).length).toBeGreaterThan(50);
    expect(CASES.filter((one) => one.excess).length).toBeGreaterThan(5);
    expect(CASES.filter((one) => one.warnings).length).toBeGreaterThan(3);
  });
});

describe("amounts", () => {
  it.each(vectors("durations.json").durations as { text: string; ms: number | null }[])("$text", ({ text, ms }) => {
    const seconds = parseDurationS(text);
    expect(seconds === null ? null : seconds * 1000).toBe(ms);
  });

  it("are shown in at most two units", () => {
    expect([45, 90, 600, 3600, 5400, 86_400].map(showDuration)).toEqual(["45s", "1m30s", "10m", "1h", "1h30m", "24h"]);
  });
});

it("a limit of 0 is none", () => {
  const limits = { definitionBytes: 0, inlineDataBytes: 0, envEntries: 0, envValueBytes: 0, commandBytes: 0, tags: 0 };
  const large = { image: "a", command: "x".repeat(100_000), maxDuration: "2y" };
  expect(checkDefinition(large).excess.map(({ where }) => where)).toEqual([
    "definition.maxDuration",
    "definition.command",
  ]);
  expect(checkDefinition(large, { ...limits, maxDurationS: 0 }).excess).toEqual([]);
});

it("a namespace has a length and can be printed", () => {
  expect(namespaceFault("user 1/doc ä")).toBeNull();
  expect(namespaceFault("*")).toContain("all namespaces");
  expect(namespaceFault("ä".repeat(129))).toContain("258 bytes");
  expect(namespaceFault("")).toContain("0 bytes");
  expect(namespaceFault("a\tb")).toContain("cannot be printed");
});

it("a finding reads as a sentence without the word definition", () => {
  expect(sentence({ where: "definition.env.A B", what: "is no name" })).toBe("env.A B: is no name");
  expect(sentence({ where: "definition", what: "not an object" })).toBe("The definition is not an object");
});
