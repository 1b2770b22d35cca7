import { signal } from "@preact/signals";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Autosave, SAVE_AFTER_MS } from "../src/ui/autosave.ts";
import type { Unsaved } from "../src/ui/model.ts";

function make() {
  const unsaved = signal<Unsaved | null>(null);
  const written: [string, string][] = [];
  return { unsaved, written, saves: new Autosave(unsaved, (name, text) => written.push([name, text])) };
}

describe("edits", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it("are written once, a moment after the last key", () => {
    const { unsaved, written, saves } = make();
    saves.edit("a", "1");
    vi.advanceTimersByTime(SAVE_AFTER_MS - 1);
    saves.edit("a", "12");
    vi.advanceTimersByTime(SAVE_AFTER_MS - 1);
    expect(written).toEqual([]);
    expect(unsaved.value).toEqual({ name: "a", text: "12" });
    vi.advanceTimersByTime(1);
    expect(written).toEqual([["a", "12"]]);
    expect(unsaved.value).toBeNull();
    vi.advanceTimersByTime(10_000);
    expect(written).toHaveLength(1);
  });

  it("are written at once when asked, and then not again", () => {
    const { unsaved, written, saves } = make();
    saves.edit("a", "1");
    saves.flush();
    saves.flush();
    vi.advanceTimersByTime(10_000);
    expect(written).toEqual([["a", "1"]]);
    expect(unsaved.value).toBeNull();
  });

  it("of another file write the one before first", () => {
    const { unsaved, written, saves } = make();
    saves.edit("a", "1");
    saves.edit("b", "2");
    expect(written).toEqual([["a", "1"]]);
    expect(unsaved.value).toEqual({ name: "b", text: "2" });
    saves.flush();
    expect(written.at(-1)).toEqual(["b", "2"]);
  });

  it("are in the link before they cease to be unsaved", () => {
    const unsaved = signal<Unsaved | null>(null);
    let whileWriting: Unsaved | null = null;
    const saves = new Autosave(unsaved, () => {
      whileWriting = unsaved.value;
    });
    saves.edit("a", "1");
    saves.flush();
    expect(whileWriting).toEqual({ name: "a", text: "1" });
  });
});
