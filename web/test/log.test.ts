import { describe, expect, it } from "vitest";
import { LogBuffer } from "../src/ui/log.ts";

function opened(limits = {}) {
  const frames: (() => void)[] = [];
  const log = new LogBuffer((tell) => frames.push(tell), limits);
  const draw = () => {
    for (const tell of frames.splice(0)) tell();
  };
  return { log, frames, draw, texts: (half: "build" | "run" = "run") => log.lines(half).map(({ text }) => text) };
}

describe("the log", () => {
  it("has a line for each newline, and goes on where a piece left off", () => {
    const { log, texts } = opened();
    log.append("run", [
      ["one\ntw", 1],
      ["o\n", 2],
      ["\n", 3],
      ["three", 4],
    ]);
    expect(texts()).toEqual(["one", "two", "", "three"]);
    log.append("run", [
      ["!\n", 5],
      ["four\n", 6],
    ]);
    expect(texts()).toEqual(["one", "two", "", "three!", "four"]);
    expect(log.lines("run").map(({ index }) => index)).toEqual([0, 1, 2, 3, 4]);
    expect(log.lines("run")[1]?.time).toBe(1);
  });

  it("goes on with the line of the same stream", () => {
    const { log, texts } = opened();
    log.append("run", [
      ["out", 1],
      ["err", 2, true],
      ["put\n", 3],
      ["or\n", 4, true],
    ]);
    expect(texts()).toEqual(["output", "error"]);
    expect(log.lines("run").map(({ isStderr }) => isStderr)).toEqual([false, true]);
  });

  it("leaves carriage returns in the text, and starts the worker's own lines anew", () => {
    const { log, texts } = opened();
    log.append("run", [
      ["10%\r", 1],
      ["20%\r", 2],
      ["half", 3],
      ["[asman] exit code 3", 4],
    ]);
    expect(texts()).toEqual(["10%\r20%\rhalf", "[asman] exit code 3"]);
  });

  it("keeps halves apart", () => {
    const { log, texts } = opened();
    log.append("build", [["b\n", 1]]);
    log.append("run", [["r\n", 1]]);
    expect([texts("build"), texts("run")]).toEqual([["b"], ["r"]]);
  });

  it("tells once per frame", () => {
    const { log, frames, draw } = opened();
    for (let line = 0; line < 1000; line++) log.append("run", [["x\n", 1]]);
    expect(frames).toHaveLength(1);
    expect(log.version.value).toBe(0);
    draw();
    expect(log.version.value).toBe(1);
    log.end();
    draw();
    expect([log.version.value, log.isFinal.value]).toEqual([2, true]);
  });

  it("keeps the first and the last lines of a long log, and says how many are missing", () => {
    const { log, draw, texts } = opened({ head: 10, tail: 20, slack: 5 });
    for (let line = 0; line < 1000; line++) log.append("run", [[`${line}\n`, 1]]);
    draw();
    const shown = texts();
    expect(shown.slice(0, 10)).toEqual(Array.from({ length: 10 }, (_, line) => String(line)));
    expect(shown.at(-1)).toBe("999");
    expect(shown.length).toBeLessThanOrEqual(35);
    expect(log.dropped.value + shown.length).toBe(1000);
    expect(log.lines("run").at(-1)?.index).toBe(999);
  });

  it("breaks a line that is too long, and loses nothing of it", () => {
    const { log, texts } = opened({ lineCharacters: 4 });
    log.append("run", [
      ["abcdefghij", 1],
      ["kl\nm", 2],
    ]);
    expect(texts().join("")).toBe("abcdefghijklm");
    expect(Math.max(...texts().map((text) => text.length))).toBe(4);
  });

  it("is empty again when an attempt starts anew", () => {
    const { log, draw, texts } = opened();
    log.append("run", [["x", 1]]);
    log.end();
    log.clear();
    draw();
    log.append("run", [["y", 1]]);
    expect([texts(), log.isFinal.value]).toEqual([["y"], false]);
  });

  it("takes 200,000 lines without a cost that grows with them", () => {
    const { log } = opened();
    const pieces = Array.from({ length: 1000 }, (_, line): [string, number] => [`line ${line}\n`, 1]);
    const start = performance.now();
    for (let times = 0; times < 200; times++) log.append("run", pieces);
    expect(performance.now() - start).toBeLessThan(5_000);
  });
});
