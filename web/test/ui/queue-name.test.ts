import { describe, expect, it } from "vitest";
import {
  isOpenQueue,
  isPublicQueue,
  maskQueue,
  newQueueName,
  queueFault,
  queueNameFault,
  queuePlace,
} from "../../src/ui/parts/queue-name.ts";

const HERE = "https://h.example";

describe("a name", () => {
  it.each(["a", "public1", "local", "A.b_c~d-9", "x".repeat(128)])("%s is fine", (name) => {
    expect(queueNameFault(name)).toBeNull();
  });

  it.each([
    ["", /is needed/],
    [".", /folder/],
    ["..", /folder/],
    ["a b", /blanks/],
    ["a/b", /Remove \//],
    ["ä", /Remove ä/],
    ["x".repeat(129), /129 characters; at most 128/],
  ])("%j is none", (name, why) => {
    expect(queueNameFault(name)).toMatch(why);
  });
});

describe("a new name", () => {
  it("is a name, long, and another one each time", () => {
    const names = Array.from({ length: 50 }, () => newQueueName());
    expect(new Set(names).size).toBe(50);
    for (const name of names) {
      expect(name).toMatch(/^([a-z2-9]{6}-){3}[a-z2-9]{6}$/);
      expect(queueNameFault(name)).toBeNull();
      expect(isPublicQueue(name)).toBe(false);
    }
  });

  it("uses all of 32 letters alike", () => {
    const all = newQueueName((bytes) => bytes.map((_, at) => at));
    const rest = newQueueName((bytes) => bytes.map((_, at) => at + 24));
    expect(new Set((all + rest).replaceAll("-", "")).size).toBe(32);
  });
});

it.each([
  ["q", HERE, "q", false],
  ["local", "http://localhost:8000", "local", true],
  ["https://o.example/q/x", "https://o.example", "x", false],
  ["https://o.example/x/", "https://o.example", "x", false],
  ["https://o.example:8443/a%20b", "https://o.example:8443", "a b", false],
])("%s is at", (queue, server, name, isLocal) => {
  expect(queuePlace(queue, HERE)).toEqual({ server, name, isLocal });
});

it("an address is held to the rule of names as well", () => {
  expect(queueFault("https://o.example/q/x", HERE)).toBeNull();
  expect(queueFault("https://o.example/", HERE)).toMatch(/is needed/);
  expect(queueFault("https://", HERE)).toMatch(/no address/);
  expect(queueFault("ftp://o/x", HERE)).toMatch(/no address/);
});

it("queues that everybody knows", () => {
  expect(["public1", "Public", "publicly"].every(isPublicQueue)).toBe(true);
  expect(["mine", "not-public"].some(isPublicQueue)).toBe(false);
});

it.each([
  ["abc", "••••••"],
  ["secret", "••••••"],
  ["correct-horse", "cor••••"],
  ["https://h.example/q/correct-horse", "https://h.example/q/cor••••"],
])("%s is a key, shown as %s", (queue, mask) => {
  expect(isOpenQueue(queue)).toBe(false);
  expect(maskQueue(queue)).toBe(mask);
});

it.each(["local", "public1", "Public", "https://h.example/q/public1"])("%s is no key", (queue) => {
  expect(isOpenQueue(queue)).toBe(true);
});
