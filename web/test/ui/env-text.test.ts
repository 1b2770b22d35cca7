import { expect, it } from "vitest";
import { readEnvText } from "../../src/ui/parts/env-text.ts";

it.each<[string, [string, string][], string[]?]>([
  ["A=1", [["A", "1"]]],
  ["A=b=c==", [["A", "b=c=="]]],
  ["A=", [["A", ""]]],
  ["A = x y ", [["A", "x y"]]],
  [
    "export A=1\n\n# remark\nB=2 # why\nC=a#b",
    [
      ["A", "1"],
      ["B", "2"],
      ["C", "a#b"],
    ],
  ],
  ["A=# only a remark", [["A", ""]]],
  [
    `A="x # y"\r\nB='it\\n'\r\n`,
    [
      ["A", "x # y"],
      ["B", "it\\n"],
    ],
  ],
  [`A="a\\nb\\"c\\\\"`, [["A", `a\nb"c\\`]]],
  [
    `KEY="-----BEGIN\nabc\n-----END"\nB=1`,
    [
      ["KEY", "-----BEGIN\nabc\n-----END"],
      ["B", "1"],
    ],
  ],
  [
    "-e A=1\n--env B=2",
    [
      ["A", "1"],
      ["B", "2"],
    ],
  ],
  ["A\nB=1\n=x", [["B", "1"]], ["A", "=x"]],
  ["A='open", [["A", "'open"]]],
  [
    "A=1\nA=2",
    [
      ["A", "1"],
      ["A", "2"],
    ],
  ],
  ["", []],
])("%j", (text, entries, rest = []) => {
  expect(readEnvText(text)).toEqual({ entries, rest });
});
