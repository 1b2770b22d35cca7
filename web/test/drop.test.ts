import { describe, expect, it } from "vitest";
import { filesIn, TooManyFiles } from "../src/ui/drop.ts";

const entry = (name: string) => ({
  isFile: true,
  isDirectory: false,
  name,
  file: (take: (file: File) => void) => take(new File([name], name)),
});

/** A folder as a browser tells it: a few entries at a time, then none. */
const folder = (name: string, entries: object[]) => ({
  isFile: false,
  isDirectory: true,
  name,
  createReader() {
    let at = 0;
    return {
      readEntries: (take: (some: object[]) => void) => {
        take(entries.slice(at, at + 2));
        at += 2;
      },
    };
  },
});

const transfer = (...entries: { name: string; isFile: boolean }[]) =>
  ({
    items: entries.map((one) => ({
      kind: "file",
      webkitGetAsEntry: () => one,
      getAsFile: () => new File([one.name], one.name),
    })),
    files: [],
  }) as unknown as DataTransfer;

describe("a drop", () => {
  it("gives files, and those in folders with their folder", async () => {
    const data = transfer(
      entry("a.txt"),
      folder("d", [entry("1"), entry("2"), folder("e", [entry("3")]), entry("4"), folder("none", [])]),
    );
    const names = (await filesIn(data)).map((arrival) => arrival.name);
    expect(names).toEqual(["a.txt", "d/1", "d/2", "d/e/3", "d/4"]);
  });

  it("is refused as a whole if it is too much", async () => {
    const data = transfer(folder("d", [entry("1"), entry("2"), entry("3")]));
    await expect(filesIn(data, 2)).rejects.toThrow(TooManyFiles);
  });

  it("without items gives its files", async () => {
    const data = { items: [], files: [new File(["x"], "x.txt")] } as unknown as DataTransfer;
    expect((await filesIn(data)).map((arrival) => arrival.name)).toEqual(["x.txt"]);
  });
});
