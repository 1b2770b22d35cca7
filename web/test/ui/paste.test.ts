import { describe, expect, it } from "vitest";
import { encodeJson } from "../../src/ui/hash.ts";
import { readPasted } from "../../src/ui/parts/paste.ts";

const ID = "a".repeat(64);
const LINK = `#?job=${encodeURIComponent(encodeJson({ image: "alpine" }))}&queue=q%201`;

describe("a job is made of", () => {
  it.each<[string, Record<string, unknown>]>([
    ["docker run alpine ls", { image: "alpine", command: "ls" }],
    ["alpine", { image: "alpine" }],
    ["ghcr.io/a/b-c_d:1.2", { image: "ghcr.io/a/b-c_d:1.2" }],
    ["localhost:5000/x", { image: "localhost:5000/x" }],
    [`alpine@sha256:${"0".repeat(64)}`, { image: `alpine@sha256:${"0".repeat(64)}` }],
    ["docker pull alpine:3", { image: "alpine:3" }],
    ['{"image":"a","x":1}', { image: "a", x: 1 }],
    ['{"definition":{"image":"a"}}', { image: "a" }],
    ['{"data":{"definition":{"image":"a"},"record":{}}}', { image: "a" }],
    ["FROM alpine\nRUN ls", { build: { dockerfile: "FROM alpine\nRUN ls\n" } }],
    ["# syntax=x\r\n\r\nARG V=1\nfrom alpine:$V", { build: { dockerfile: "# syntax=x\n\nARG V=1\nfrom alpine:$V\n" } }],
    ["https://github.com/o/r", { build: { context: "https://github.com/o/r" } }],
    ["github.com/o/r", { build: { context: "https://github.com/o/r" } }],
    ["https://github.com/o/r/tree/main/sub", { build: { context: "https://github.com/o/r/tree/main/sub" } }],
    ["git@github.com:o/r.git", { build: { context: "https://github.com/o/r.git" } }],
    ["https://git.example/x/r.git", { build: { context: "https://git.example/x/r.git" } }],
    ["https://h.example/x.tar.gz", { build: { context: "https://h.example/x.tar.gz" } }],
    ["https://github.com/o/r/blob/main/Dockerfile", { build: { context: "https://github.com/o/r/tree/main" } }],
    [
      "https://github.com/o/r/blob/v1/sub/Dockerfile.gpu",
      { build: { context: "https://github.com/o/r/tree/v1", buildContext: "sub", filename: "sub/Dockerfile.gpu" } },
    ],
  ])("%j", (text, definition) => {
    expect(readPasted(`  ${text}\n`)).toMatchObject({ kind: "job", definition });
  });

  it("with its control", () => {
    const text = JSON.stringify({ definition: { image: "a" }, control: { namespace: "n" } });
    expect(readPasted(text)).toMatchObject({ kind: "job", control: { namespace: "n" } });
  });
});

it.each([`https://h.example/${LINK}`, LINK, LINK.slice(1)])("a link is taken as it is: %s", (text) => {
  expect(readPasted(text)).toEqual({ kind: "link", hash: LINK, queue: "q 1" });
});

it.each([
  [`https://h.example/j/${ID}`, undefined],
  [`https://h.example/j/${ID}#?queue=q`, "q"],
  [`https://h.example/q/q/j/${ID}`, "q"],
])("a job's own page: %s", (text, queue) => {
  expect(readPasted(text)).toEqual({ kind: "job-page", jobId: ID, queue, origin: "https://h.example" });
});

describe("what is not understood is told", () => {
  it.each([
    ["", /nothing/],
    ["please run my job", /not understood/],
    ["{image: 1}", /not JSON/],
    ["[1]", /no definition/],
    ["docker run -it", /names no image/],
    ["https://example.org/", /neither a repository/],
    ["https://h.example/#?job=xx!!", /cannot be read: it is not base64/],
    ["https://h.example/#?A=1", /no job in it/],
    ["UPPER", /not understood/],
    ["https://", /not an address/],
  ])("%j", (text, why) => {
    const read = readPasted(text);
    expect(read.kind).toBe("none");
    expect(read.kind === "none" && read.text).toMatch(why);
    expect(read.kind === "none" && read.hint).not.toBe("");
  });
});
