import { describe, expect, it } from "vitest";
import { showAgo, showClock, showDuration, showElapsed, showOffset } from "../src/ui/time.ts";

describe("durations", () => {
  it.each([
    [0, "0.0 s"],
    [840, "0.8 s"],
    [9_949, "9.9 s"],
    [9_960, "10 s"],
    [59_400, "59 s"],
    [59_600, "1 min 00 s"],
    [65_000, "1 min 05 s"],
    [3_599_400, "59 min 59 s"],
    [3_600_000, "1 h 00 min"],
    [7_380_000, "2 h 03 min"],
    [86_370_000, "1 d 0 h"],
    [100 * 3_600_000, "4 d 4 h"],
    [-5, "0 s"],
    [Number.NaN, "0 s"],
  ])("%d ms is %s", (ms, words) => {
    expect(showDuration(ms)).toBe(words);
  });

  it.each([
    [999, "0 s"],
    [41_900, "41 s"],
    [62_900, "1 min 02 s"],
    [-1, "0 s"],
  ])("after %d ms it shows %s", (ms, words) => {
    expect(showElapsed(ms)).toBe(words);
  });
});

describe("times", () => {
  const at = (text: string) => new Date(text).getTime(); // of the local zone

  it.each([
    ["2025-03-02T14:03:00", "just now"],
    ["2025-03-02T14:02:30", "35 s ago"],
    ["2025-03-02T13:50:00", "13 min ago"],
    ["2025-03-02T11:00:00", "3 h ago"],
    ["2025-03-01T23:10:00", "yesterday, 23:10"],
    ["2025-02-27T08:05:00", "2025-02-27, 08:05"],
    ["2025-03-02T15:00:00", "just now"], // a server whose clock is ahead
  ])("%s is %s", (time, words) => {
    expect(showAgo(at(time), at("2025-03-02T14:03:05"))).toBe(words);
  });

  it("shows the clock and what has passed", () => {
    expect(showClock(at("2025-03-02T04:03:02.007"))).toBe("04:03:02.007");
    expect(showOffset(2_120)).toBe("+0:02.120");
    expect(showOffset(3_802_120)).toBe("+1:03:22.120");
    expect(showOffset(-1)).toBe("+0:00.000");
  });
});
