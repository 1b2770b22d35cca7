import { describe, expect, test } from "vitest";
import type { QueueHistory } from "../../src/contract.ts";
import {
  columnsOf,
  depthChart,
  roundUp,
  roundUpSeconds,
  runChart,
  stepsPath,
  throughputChart,
  waitChart,
} from "../../src/ui/chart-model.ts";

const NONE = { count: 0, median: null, p90: null };
const quiet = (start: number) => ({ start, queued: 0, submitted: 0, started: 0, finished: {}, wait: NONE, run: NONE });
const HISTORY: QueueHistory = {
  queue: "q",
  time: 190_000,
  since: 0,
  servers: 1,
  queued: 4,
  hour: {
    submitted: 9,
    started: 7,
    finished: { succeeded: 4, failed: 1, out_of_memory: 1, cancelled: 2 },
    wait: { count: 7, median: 12, p90: 70 },
    run: NONE,
  },
  minutes: [
    { ...quiet(0), finished: { succeeded: 3, failed: 1 }, queued: 6, wait: { count: 2, median: 10, p90: 65 } },
    quiet(60_000),
    {
      ...quiet(120_000),
      finished: { succeeded: 1, cancelled: 2, out_of_memory: 1 },
      queued: 3,
      wait: { count: 5, median: 14, p90: 70 },
    },
    { ...quiet(180_000), queued: 4 },
  ],
};
const EMPTY: QueueHistory = {
  ...HISTORY,
  queued: 0,
  hour: { submitted: 0, started: 0, finished: {}, wait: NONE, run: NONE },
  minutes: [quiet(0)],
};

describe("charts", () => {
  test("ends per minute, by how they went", () => {
    const chart = throughputChart(HISTORY);
    expect(chart.series.map(({ values }) => values)).toEqual([
      [3, 0, 1, 0],
      [1, 0, 1, 0],
      [0, 0, 2, 0],
    ]);
    expect(chart.summary).toBe("9 submitted, 7 started, 8 ended, 2 of them failed.");
    expect(chart.top).toBe(5);
    expect(chart.times).toEqual([0, 60_000, 120_000, 180_000]);
  });

  test("waits have gaps where no job started", () => {
    const chart = waitChart(HISTORY);
    expect(chart.series[0]?.values).toEqual([10, null, 14, null]);
    expect(chart.summary).toBe("Half of them at most 12 s, nine of ten at most 1 min 10 s.");
    expect(chart.top).toBe(120);
    expect(chart.show(70)).toBe("1 min 10 s");
  });

  test("nothing measured is said, not drawn as zero", () => {
    expect(runChart(HISTORY).summary).toBe("No job ran to its end.");
    expect(runChart(HISTORY).series[0]?.values).toEqual([null, null, null, null]);
    expect(throughputChart(EMPTY).summary).toBe("No job was submitted, started or ended.");
    expect(depthChart(EMPTY).summary).toBe("None waited at the end of any minute.");
    for (const make of [throughputChart, waitChart, depthChart, runChart]) {
      expect(make(EMPTY).top).toBeGreaterThan(0);
      expect(make(EMPTY).isEmpty).toBe(true);
    }
    expect([throughputChart, waitChart, depthChart].map((make) => make(HISTORY).isEmpty)).toEqual([
      false,
      false,
      false,
    ]);
  });

  test("the depth is that of now, and the most there was", () => {
    expect(depthChart(HISTORY).summary).toBe("4 wait now, at most 6 did.");
  });
});

test.each([
  [0, 1],
  [1, 1],
  [2, 2],
  [3, 5],
  [7, 10],
  [10, 10],
  [11, 20],
  [501, 1_000],
])("the edge over %d is %d", (value, top) => {
  expect(roundUp(value)).toBe(top);
});

test.each([
  [0, 1],
  [0.4, 1],
  [16, 30],
  [61, 120],
  [86_401, 172_800],
])("the edge over %d s is %d s", (value, top) => {
  expect(roundUpSeconds(value)).toBe(top);
});

describe("drawing", () => {
  const plot = { height: 100, step: 10 };

  test("bars stand on one another, and nothing is drawn for nothing", () => {
    const columns = columnsOf(throughputChart(HISTORY).series, 5, plot);
    expect(columns.map(({ x, y, height, tone }) => [x, y, height, tone])).toEqual([
      [1, 40, 60, "good"],
      [1, 20, 20, "bad"],
      [21, 80, 20, "good"],
      [21, 60, 20, "bad"],
      [21, 20, 40, "rest"],
    ]);
  });

  test("a line is broken at gaps and stays within the plot", () => {
    expect(stepsPath([50, 100, null, 400], 200, plot)).toBe("M0 75H10L10 50H20M30 0H40");
    expect(stepsPath([null, null], 1, plot)).toBe("");
  });
});
