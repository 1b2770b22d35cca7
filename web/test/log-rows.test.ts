import { describe, expect, it } from "vitest";
import { LogBuffer } from "../src/ui/log.ts";
import { Heights, LogRows, placeOf } from "../src/ui/log-rows.ts";
import { LogSearch, matchesIn, pattern } from "../src/ui/log-search.ts";

const never = () => false;
const always = () => true;
const buffer = (limits = {}) => new LogBuffer((tell) => tell(), limits);
const texts = (rows: LogRows) => rows.run.map(({ text }) => text);

describe("rows", () => {
  it("take what is new, in portions", () => {
    const log = buffer();
    const rows = new LogRows();
    log.append(
      "run",
      Array.from({ length: 1_000 }, (_, i) => [`line ${i}\n`]),
    );
    let portions = 1;
    while (!rows.take(log, always)) portions++;
    expect(rows.run).toHaveLength(1_000);
    expect(portions).toBeGreaterThan(3);
    log.append("run", [["one more\n"]]);
    rows.take(log, never);
    expect(texts(rows).at(-1)).toBe("one more");
  });

  it("that are long are taken one at a time", () => {
    const log = buffer();
    const rows = new LogRows();
    log.append(
      "run",
      Array.from({ length: 10 }, () => [`${"x".repeat(200_000)}\n`]),
    );
    let portions = 1;
    while (!rows.take(log, always)) portions++;
    expect(rows.run).toHaveLength(10);
    expect(portions).toBe(10);
  });

  it("carry colours over lines, and interpret what was overwritten", () => {
    const log = buffer();
    const rows = new LogRows();
    log.append("run", [["\u001b[31mred\nstill\u001b[0m\nplain\n 0%\r99%\n"]]);
    rows.take(log, never);
    expect(texts(rows)).toEqual(["red", "still", "plain", "99%"]);
    expect(rows.run.map(({ start }) => start.fg)).toEqual([null, 1, null, null]);
  });

  it("follow a line that grows, also with lines of the other stream after it", () => {
    const log = buffer();
    const rows = new LogRows();
    log.append("run", [["working"]]);
    log.append("run", [["a warning\n", 0, true]]);
    rows.take(log, never);
    const [first] = rows.run;
    log.append("run", [["... done\n"]]);
    rows.take(log, never);
    expect(texts(rows)).toEqual(["working... done", "a warning"]);
    expect(first?.isGone).toBe(true);
    expect(rows.streams().out.map(({ text }) => text)).toEqual(["working... done"]);
    expect(rows.streams().err.map(({ text }) => text)).toEqual(["a warning"]);
  });

  it("drop what the log dropped, and say how much", () => {
    const log = buffer({ head: 100, tail: 200, slack: 50 });
    const rows = new LogRows();
    const write = (from: number, to: number) => {
      log.append(
        "run",
        Array.from({ length: to - from }, (_, i) => [`line ${from + i}\n`]),
      );
      rows.take(log, never);
      expect(texts(rows)).toEqual(log.lines("run").map(({ text }) => text));
    };
    for (let at = 0; at < 1_000; at += 125) write(at, at + 125);
    write(1_000, 9_000); // more than is kept comes at once
    const gap = rows.run.findIndex((row) => row.gap > 0);
    expect(gap).toBe(100);
    expect(rows.run[gap]?.gap).toBe((rows.run[gap]?.line.index ?? 0) - 100);
    expect(rows.run.filter((row) => row.gap > 0)).toHaveLength(1);
  });

  it("begin anew with another attempt", () => {
    const log = buffer();
    const rows = new LogRows();
    log.append(
      "run",
      Array.from({ length: 600 }, (_, i) => [`old ${i}\n`]),
    );
    rows.take(log, never);
    log.clear();
    log.append(
      "run",
      Array.from({ length: 700 }, (_, i) => [`new ${i}\n`]),
    );
    rows.take(log, never);
    expect(texts(rows)).toEqual(log.lines("run").map(({ text }) => text));
    log.clear();
    rows.take(log, never);
    expect(rows.run).toEqual([]);
  });

  it("are found by their line", () => {
    const log = buffer({ head: 10, tail: 20, slack: 5 });
    const rows = new LogRows();
    log.append(
      "run",
      Array.from({ length: 90 }, (_, i) => [`line ${i}\n`]),
    );
    rows.take(log, never);
    rows.run.forEach((row, i) => {
      expect(placeOf(rows.run, row)).toBe(i);
    });
    const [row] = rows.run;
    log.clear();
    rows.take(log, never);
    expect(row && placeOf(rows.run, row)).toBe(-1);
  });
});

describe("heights", () => {
  it("agree with a plain sum, whatever is changed", () => {
    const heights = new Heights();
    const plain: number[] = [];
    for (let i = 0; i < 2_000; i++) {
      const height = 20 * (1 + (i % 7));
      heights.push(height);
      plain.push(height);
    }
    for (const i of [0, 255, 256, 257, 1_999]) {
      heights.set(i, 333);
      plain[i] = 333;
    }
    let top = 0;
    plain.forEach((height, i) => {
      expect(heights.top(i)).toBe(top);
      expect(heights.find(top)).toBe(i);
      expect(heights.find(top + height - 1)).toBe(i);
      top += height;
    });
    expect(heights.total).toBe(top);
    expect(heights.find(top + 1_000)).toBe(1_999);
    expect(new Heights().find(5)).toBe(0);
  });
});

describe("search", () => {
  const searched = (query: string, isExact = false, lines = 3_000) => {
    const log = buffer();
    const rows = new LogRows();
    log.append("build", [["Pulling Alpine\n"]]);
    log.append(
      "run",
      Array.from({ length: lines }, (_, i) => [i % 3 ? `line ${i}\n` : `ALPINE ${i} alpine\n`]),
    );
    rows.take(log, never);
    const search = new LogSearch(query, isExact);
    let portions = 1;
    while (!search.read(rows, always)) portions++;
    return { log, rows, search, portions };
  };

  it("finds in all lines, build first, in portions", () => {
    const { search, portions } = searched("alpine");
    expect(search.count).toBe(1 + 2_000);
    expect(search.at(0)?.row.line.half).toBe("build");
    expect(search.at(1)).toMatchObject({ start: 0, end: 6 });
    expect(search.at(2)).toMatchObject({ start: 9, end: 15 });
    expect(search.at(2_001)).toBeUndefined();
    expect(portions).toBeGreaterThan(3);
  });

  it("heeds capitals if asked to, and takes the query as it is written", () => {
    expect(searched("alpine", true).search.count).toBe(1_000);
    expect(searched("a.*e").search.count).toBe(0);
    expect(searched("").search.count).toBe(0);
    expect(matchesIn("a[0] a[0]", pattern("A[0]", false) as RegExp)).toHaveLength(2);
  });

  it("goes on with new lines, and with a line that grew", () => {
    const { log, rows, search } = searched("needle");
    log.append("run", [["half a nee"]]);
    rows.take(log, never);
    search.read(rows, never);
    expect(search.count).toBe(0);
    log.append("run", [["dle\nneedle\n"]]);
    rows.take(log, never);
    search.read(rows, never);
    expect([search.at(0)?.row.text, search.at(1)?.row.text]).toEqual(["half a needle", "needle"]);
  });

  it("counts no more than anybody walks through", () => {
    const { search } = searched("i", false, 80_000);
    expect(search.isFull).toBe(true);
    expect(search.count).toBeLessThan(50_010);
  });
});
