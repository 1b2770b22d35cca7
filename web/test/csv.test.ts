import { describe, expect, it } from "vitest";
import { guessSeparator, hasHeading, readTable } from "../src/ui/viewers/csv.ts";

const rows = (text: string) => readTable(text).rows;

describe("reading", () => {
  it.each([
    [
      "plain",
      "a,b\n1,2\n",
      [
        ["a", "b"],
        ["1", "2"],
      ],
    ],
    [
      "no last newline",
      "a,b\n1,2",
      [
        ["a", "b"],
        ["1", "2"],
      ],
    ],
    [
      "CRLF",
      "a,b\r\n1,2\r\n",
      [
        ["a", "b"],
        ["1", "2"],
      ],
    ],
    [
      "CR alone",
      "a,b\r1,2\r",
      [
        ["a", "b"],
        ["1", "2"],
      ],
    ],
    ["quotes", '"a,1","b ""c"""\n', [["a,1", 'b "c"']]],
    [
      "newline in quotes",
      '"a\r\nb",c\n1,2\n',
      [
        ["a\r\nb", "c"],
        ["1", "2"],
      ],
    ],
    [
      "empty cells",
      "a,,c\n,,\n",
      [
        ["a", "", "c"],
        ["", "", ""],
      ],
    ],
    ["empty cell at the end of the file", "a,", [["a", ""]]],
    ["empty quoted cell", '"",a\n', [["", "a"]]],
    ["text after a quote", '"a"b,c\n', [["ab", "c"]]],
    ["quote within a bare cell", 'a"b,c\n', [['a"b', "c"]]],
    ["uneven rows", "a,b\n1\n1,2,3\n", [["a", "b"], ["1"], ["1", "2", "3"]]],
    ["empty line", "a,b\n\n1,2\n", [["a", "b"], [""], ["1", "2"]]],
    [
      "byte order mark",
      "\ufeffa,b\n1,2\n",
      [
        ["a", "b"],
        ["1", "2"],
      ],
    ],
    ["nothing", "", []],
  ])("%s", (_, text, expected) => {
    expect(rows(text)).toEqual(expected);
  });

  it("says where a quote is not closed, and keeps the rest", () => {
    const table = readTable('a,b\n"1,2\n3,4');
    expect(table.brokenAt).toBe(2);
    expect(table.rows).toEqual([["a", "b"], ["1,2\n3,4"]]);
  });

  it("stops where it was told to, and says so", () => {
    const text = "a,b\n".repeat(1500);
    expect(readTable(text, { most: 1000 })).toMatchObject({ isCut: true });
    expect(readTable(text, { most: 1000 }).rows).toHaveLength(1000);
    expect(readTable(text, { most: 1500 }).isCut).toBe(false);
  });

  it("reads a wide megabyte in a moment", () => {
    const text = `${"cell,".repeat(200)}end\n`.repeat(1000);
    const start = performance.now();
    expect(rows(text)).toHaveLength(1000);
    expect(performance.now() - start).toBeLessThan(8_000);
  });
});

describe("separators", () => {
  it.each([
    [",", "a,b;c\n1,2;3\n"],
    [";", "a;b\n1,5;2,5\n3,5;4\n"],
    ["\t", "a\tb c, d\n1\t2, 3, 4\n"],
    ["|", "a|b\n1|2\n"],
    [",", "one column\nonly\n"],
  ])("%j", (separator, text) => {
    expect(guessSeparator(text)).toBe(separator);
  });
});

describe("headings", () => {
  it("are words above something", () => {
    expect(
      hasHeading([
        ["a", "b"],
        ["1", "2"],
      ]),
    ).toBe(true);
    expect(
      hasHeading([
        ["1", "b"],
        ["1", "2"],
      ]),
    ).toBe(false);
    expect(
      hasHeading([
        ["a", ""],
        ["1", "2"],
      ]),
    ).toBe(false);
    expect(hasHeading([["a", "b"]])).toBe(false);
  });
});
