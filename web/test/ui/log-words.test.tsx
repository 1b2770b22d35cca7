// @vitest-environment happy-dom
import { render } from "preact";
import { describe, expect, test, vi } from "vitest";
import { LogRows, type Row } from "../../src/ui/log-rows.ts";
import { pattern } from "../../src/ui/log-search.ts";
import { Rest, spans } from "../../src/ui/parts/log-words.tsx";

const E = "\u001b[";

function rowOf(text: string): Row {
  const rows = new LogRows();
  rows.take(
    { lines: (half) => (half === "run" ? [{ index: 0, half, text, time: 0, isStderr: false }] : []) },
    () => false,
  );
  return rows.run[0] as Row;
}

function drawn(row: Row, step = 0, query = "") {
  const root = document.createElement("div");
  const { words, length } = spans(row, step, { wanted: pattern(query, false), current: undefined });
  render(words, root);
  return { root, length };
}

describe("the words of a line", () => {
  const text = `${E}31msee https://a.example/b ${E}0mor https://c.example, then see`;
  test("are cut where colours, links and matches begin and end, and are all there", () => {
    const row = rowOf(text);
    const { root, length } = drawn(row, 0, "ee https://a");
    expect(root.textContent).toBe(row.text);
    expect(length).toBe(row.text.length);
    expect([...root.querySelectorAll("a")].map((each) => each.getAttribute("href"))).toEqual([
      "https://a.example/b", // in two parts: one was searched for
      "https://a.example/b",
      "https://c.example",
    ]);
    expect([...root.querySelectorAll("mark")].map((each) => each.textContent)).toEqual(["ee ", "https://a"]);
  });

  test("are the same when a line is drawn again with another search", () => {
    const row = rowOf(text);
    drawn(row);
    expect([...drawn(row, 0, "see").root.querySelectorAll("mark")]).toHaveLength(2);
  });
});

const LONG: [string, string][] = [
  ["one colour", "<b>".repeat(350_000)],
  ["many colours", `${E}31mred${E}0m plain `.repeat(50_000)],
  ["many links", "https://example.org/a ".repeat(48_000)],
  ["what goes back and forth", "ab\b".repeat(350_000)],
];

describe("a line of a megabyte", () => {
  test.each(LONG)("of %s is drawn in part, in a bounded number of elements", (_, text) => {
    const row = rowOf(text);
    let before = 0;
    for (const step of [0, 1, 2, 3]) {
      const { root, length } = drawn(row, step);
      expect(root.textContent).toBe(row.text.slice(0, length));
      expect(length).toBeGreaterThanOrEqual(before);
      expect(length).toBeLessThanOrEqual(120_000);
      expect(root.querySelectorAll("*").length).toBeLessThanOrEqual(2_000);
      before = length;
    }
    expect(before).toBeGreaterThan(4_000);
  });

  test("with more matches than can be drawn is drawn all the same", () => {
    const { root, length } = drawn(rowOf("<b>".repeat(350_000)), 2, "<");
    expect(root.querySelectorAll("mark").length).toBeLessThanOrEqual(2_000);
    expect(length).toBe(3_000);
  });

  test("has more to ask for, and in the end a word on where the rest is", () => {
    const root = document.createElement("div");
    const row = rowOf("x".repeat(1_000_000));
    const more = vi.fn();
    render(<Rest row={row} shown={4_000} step={0} onMore={more} />, root);
    expect(root.textContent).toBe("Show more of 1,000,000 characters");
    root.querySelector("button")?.click();
    expect(more).toHaveBeenCalledOnce();
    render(<Rest row={rowOf("x".repeat(10_001))} shown={4_000} step={0} onMore={more} />, root);
    expect(root.textContent).toBe("Show all 10,001 characters");
    render(<Rest row={row} shown={120_000} step={2} onMore={more} />, root);
    expect(root.querySelector("button")).toBeNull();
    expect(root.textContent).toContain("The download has all");
  });
});
