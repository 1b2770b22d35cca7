import { describe, expect, it } from "vitest";
import { CHILDREN, jsonRows, LongNumber, moveInTree, openAtFirst, parseJson } from "../src/ui/viewers/json-tree.ts";

const root = { a: [1, { b: null }], "x/y~z": "t", n: 1.5, e: {}, f: false };

describe("rows", () => {
  it("shows a closed node by its size", () => {
    expect(jsonRows(root, new Set()).map((row) => row.text)).toEqual(["5 members"]);
  });

  it("shows open nodes with their children, in the order of the file", () => {
    const rows = jsonRows(root, new Set(["", "/a"]));
    expect(rows.map((row) => [row.path, row.depth, row.text, row.isOpen])).toEqual([
      ["", 0, "5 members", true],
      ["/a", 1, "2 items", true],
      ["/a/0", 2, "1", null],
      ["/a/1", 2, "1 member", false],
      ["/x~1y~0z", 1, '"t"', null],
      ["/n", 1, "1.5", null],
      ["/e", 1, "0 members", null],
      ["/f", 1, "false", null],
    ]);
    expect(rows[3]).toMatchObject({ place: 2, siblings: 2 });
  });

  it("offers more of a long list", () => {
    const long = Array.from({ length: CHILDREN + 3 }, (_, index) => index);
    const rows = jsonRows(long, new Set([""]));
    expect(rows).toHaveLength(CHILDREN + 2);
    expect(rows.at(-1)).toMatchObject({ kind: "more", text: "3 more", path: "" });
    expect(jsonRows(long, new Set([""]), new Map([["", 10_000]]))).toHaveLength(CHILDREN + 4);
  });

  it("cuts a long string, and shows control characters as they are written", () => {
    expect(jsonRows("x".repeat(5000), new Set())[0]?.text.length).toBeLessThan(2010);
    expect(jsonRows("\u0007\n", new Set())[0]?.text).toBe('"\\u0007\\n"');
  });
});

describe("reading", () => {
  it("takes a byte order mark, and refuses what is no JSON", () => {
    expect(parseJson('\ufeff{"a":1}')).toEqual({ a: 1 });
    expect(() => parseJson("{a:1}")).toThrow(SyntaxError);
  });

  it("keeps members that are named like parts of an object", () => {
    const value = parseJson('{"__proto__":{"x":1},"constructor":2}') as object;
    expect(jsonRows(value, new Set([""])).map((row) => row.key)).toEqual([null, "__proto__", "constructor"]);
  });

  it("shows whole numbers that are too long as they are written, where the engine tells how", () => {
    const value = parseJson("[12345678901234567890]") as unknown[];
    const hasSource = value[0] instanceof LongNumber;
    expect(jsonRows(value, new Set([""]))[1]?.text).toBe(hasSource ? "12345678901234567890" : "12345678901234567000");
  });

  it("opens little of a large value at first", () => {
    expect(openAtFirst({ a: { b: 1 } })).toEqual(new Set(["", "/a"]));
    expect(openAtFirst(Array.from({ length: 100 }, () => ({})))).toEqual(new Set([""]));
  });
});

describe("keys", () => {
  const rows = jsonRows(root, new Set(["", "/a"]));
  it.each([
    [0, "ArrowDown", { at: 1 }],
    [0, "ArrowUp", { at: 0 }],
    [7, "ArrowDown", { at: 7 }],
    [0, "End", { at: 7 }],
    [5, "Home", { at: 0 }],
    [3, "ArrowRight", { at: 3, open: "/a/1" }],
    [1, "ArrowRight", { at: 2 }],
    [2, "ArrowRight", null],
    [1, "ArrowLeft", { at: 1, close: "/a" }],
    [3, "ArrowLeft", { at: 1 }],
    [4, "ArrowLeft", { at: 0 }],
    [3, "Enter", { at: 3, open: "/a/1" }],
    [1, " ", { at: 1, close: "/a" }],
    [2, "Enter", null],
    [2, "x", null],
  ])("row %d, %s", (at, key, move) => {
    expect(moveInTree(rows, at, key)).toEqual(move);
  });
});
