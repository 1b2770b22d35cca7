import "fake-indexeddb/auto";
import { IDBFactory } from "fake-indexeddb";
import { describe, expect, it } from "vitest";
import type { Result } from "../src/contract.ts";
import { keyOf, Store } from "../src/ui/store.ts";

const resultOf = (text: string) =>
  ({ attempt: 1, finished: { reason: "Success", result: { logs: [[text]] } } }) as unknown as Result;
const PENDING = {
  server: "",
  queue: "q",
  jobId: "a",
  definition: { image: "i" },
  control: {},
  debug: false,
  drops: null,
};
const ENTRY = {
  jobId: "a",
  queue: "q",
  submitted: 1,
  hash: "#",
  image: "i",
  command: "c",
  outcome: null,
  exitCode: null,
};

const denied = {
  open: () => {
    throw new Error("denied");
  },
} as unknown as IDBFactory; // as browsers do it in frames
const KINDS: [string, () => globalThis.IDBFactory | null, boolean][] = [
  ["on disk", () => new IDBFactory(), true],
  ["in memory", () => null, false],
  ["where storage is denied", () => denied, false],
];

for (const [name, database, isKept] of KINDS) {
  describe(name, () => {
    it("keeps results for a while, and only so much", async () => {
      let now = 1_000;
      const store = new Store(database(), () => now);
      for (let job = 0; job < 60; job++, now++) await store.keepResult(keyOf("", "q", String(job)), resultOf("x"));
      expect(await store.result(keyOf("", "q", "9"))).toBeNull();
      expect(await store.result(keyOf("", "q", "59"))).toEqual(resultOf("x"));
      expect(await store.result(keyOf("", "other", "59"))).toBeNull();
      for (let job = 100; job < 104; job++, now++)
        await store.keepResult(keyOf("", "q", String(job)), resultOf("x".repeat(6 << 20)));
      expect(await store.result(keyOf("", "q", "59"))).toBeNull(); // bytes count too
      expect(await store.result(keyOf("", "q", "103"))).not.toBeNull();
      await store.keepResult(keyOf("", "q", "huge"), resultOf("x".repeat(9 << 20)));
      expect(await store.result(keyOf("", "q", "huge"))).toBeNull();
      await store.dropResult(keyOf("", "q", "103"));
      expect(await store.result(keyOf("", "q", "103"))).toBeNull();
      now += 8 * 86_400_000;
      expect(await store.result(keyOf("", "q", "102"))).toBeNull();
    });

    it("keeps the last 200 jobs, newest first, each once", async () => {
      const store = new Store(database());
      for (let job = 0; job < 205; job++) await store.addHistory({ ...ENTRY, jobId: String(job), submitted: job });
      await store.addHistory({ ...ENTRY, jobId: "204", submitted: 1_000 });
      await store.endHistory("q", "204", "failed", 3);
      await store.endHistory("q", "unknown", "failed", 3);
      const kept = await store.history();
      expect(kept).toHaveLength(200);
      expect(kept[0]).toEqual({ ...ENTRY, jobId: "204", submitted: 1_000, outcome: "failed", exitCode: 3 });
    });

    it("forgets a job of the history when it is told to, and no other", async () => {
      const store = new Store(database());
      for (const queue of ["q", "r"]) await store.addHistory({ ...ENTRY, queue });
      await store.dropHistory({ ...ENTRY, queue: "r" });
      await store.dropHistory({ queue: "q", jobId: "unknown" });
      expect((await store.history()).map(({ queue }) => queue)).toEqual(["q"]);
    });

    it("lets one page send a waiting submit, and another one if that page died over it", async () => {
      let now = 0;
      const factory = database();
      const store = new Store(factory, () => now);
      const key = await store.enqueue(PENDING);
      const pages = isKept ? [store, new Store(factory, () => now)] : [store, store];
      const claims = await Promise.all(pages.map((page) => page.claim(key)));
      expect(claims.filter(Boolean)).toHaveLength(1);
      await store.release(key);
      expect(await store.claim(key)).toMatchObject(PENDING);
      now = 61_000;
      expect(await store.claim(key)).toMatchObject(PENDING);
      await store.settle(key);
      expect(await store.claim(key)).toBeNull();
      expect(await store.waiting()).toEqual([]);
    });
  });
}

it("goes on in memory when the disk fails", async () => {
  const factory = new IDBFactory();
  const store = new Store(factory);
  await store.addHistory(ENTRY);
  const full = IDBObjectStore.prototype.put;
  IDBObjectStore.prototype.put = () => {
    throw new DOMException("full", "QuotaExceededError");
  };
  try {
    const key = await store.enqueue(PENDING);
    expect(await store.claim(key)).toMatchObject(PENDING);
  } finally {
    IDBObjectStore.prototype.put = full;
  }
  expect(await new Store(factory).history()).toHaveLength(1);
});
