import { describe, expect, it } from "vitest";
import { logFile, showLines } from "../src/ui/log-text.ts";
import { fakeSession } from "./support/fake-session.ts";

describe("the log as a file", () => {
  it("is made of the lines that are here, if all are", async () => {
    const session = fakeSession({ scene: "running" });
    session.log.clear();
    session.log.add("build", ["pulling"]);
    session.log.add("run", ["\u001b[31mred\u001b[0m", ""]);
    expect(await (await logFile(session)).text()).toBe("pulling\n\u001b[31mred\u001b[0m\n\n");
  });

  it("comes from the server, page by page, if some were left out", async () => {
    const session = fakeSession({ scene: "running" });
    session.log.dropped.value = 5;
    const asked: string[] = [];
    const stored = { build: ["b0\n"], run: Array.from({ length: 5 }, (_, i) => `r${i}\n`) };
    session.client.value.logs = async (_queue, _job, half, { since = 0 } = {}) => {
      asked.push(`${half} ${since}`);
      const lines = stored[half].slice(since, since + 2);
      return {
        lines: lines.map((text) => [text, 0, false] as [string, number, boolean]),
        start: since,
        nextCursor: since + lines.length,
        isFinal: true,
        attempt: 1,
      };
    };
    expect(await (await logFile(session)).text()).toBe("b0\nr0\nr1\nr2\nr3\nr4\n");
    expect(asked).toEqual(["build 0", "build 1", "run 0", "run 2", "run 4", "run 5"]);
  });

  it("counts in words", () => {
    expect([showLines(1), showLines(0), showLines(12)]).toEqual(["1 line", "0 lines", "12 lines"]);
  });
});
