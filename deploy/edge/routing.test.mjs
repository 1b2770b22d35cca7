// Which object answers what: `node --test`.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ANY, isCopy, objectOf, objectOfCopy, objectOfQueue, queueOfObject } from "./src/routing.mjs";

const KEY = "a".repeat(64);

test("what names a queue goes to the queue's object", () => {
  const paths = [
    "/q/a",
    "/q/a/",
    "/q/a/j",
    `/q/a/j/${KEY}/logs`,
    "/q/a/status",
    "/a/status",
    "/a/metrics",
    "/q/%61/why",
  ];
  for (const path of paths) assert.equal(objectOf(path), "queue a", path);
  assert.equal(objectOf("/q/status"), "queue status");
  assert.equal(objectOf("/q/metrics/scale"), "queue metrics");
});

test("what names no queue, or none that can be, goes elsewhere", () => {
  for (const path of [
    "/",
    "/healthz",
    "/metrics",
    "/q",
    "/q/",
    "/q/a%20b",
    `/q/${"x".repeat(129)}`,
    "/%",
    "/a/b",
    "/f/",
    "/j/",
  ])
    assert.equal(objectOf(path), ANY, path);
});

test("sockets of a queue end in the queue's object, under each of their names", () => {
  const paths = ["/q/a/client", "/a/client", "/a/browser", "//q//a/worker/more", "/%61/worker", "/q/a/worker/"];
  for (const path of paths) assert.equal(objectOf(path, { isSocket: true }), "queue a", path);
  for (const path of ["/", "/a", "/a/other", "/q/a", "/q/worker", "/a%2520b/worker"])
    assert.equal(objectOf(path, { isSocket: true }), ANY, path);
  assert.equal(objectOf("/q/client/worker", { isSocket: true }), "queue client");
});

test("one key is always the same object's, many are shared out", () => {
  const named = (count, path) => new Set(Array.from({ length: count }, (_, n) => objectOf(path(n))));
  for (const path of [`/upload/${KEY}`, `/download/${KEY}`, `/f/${KEY}/exists`, `/api/v1/download/${KEY}`])
    assert.equal(objectOf(path), objectOf(`/f/${KEY}`), path);
  assert.equal(objectOf(`/j/${KEY}/logs?since=1`), objectOf(`/j/${KEY}.json`));
  const files = named(2000, (n) => `/f/file-${n}`);
  const jobs = named(1000, (n) => `/j/${n}`);
  assert.deepEqual([files.size, jobs.size], [64, 16]);
  assert.ok(
    [...files].every((name) => name.startsWith("files ")) && [...jobs].every((name) => name.startsWith("jobs ")),
  );
});

test("a copy is done by the object of the queue it goes to", () => {
  assert.ok(isCopy("POST", `/j/${KEY}/copy`));
  assert.ok(!isCopy("GET", `/j/${KEY}/copy`) && !isCopy("POST", `/q/a/j/${KEY}/copy`) && !isCopy("POST", `/j/${KEY}`));
  assert.equal(objectOfCopy('{"queue": "b"}'), "queue b");
  for (const body of ["", "{", "null", "[]", '{"queue": 1}', '{"queue": "a b"}', '{"queue": ""}', "{}"])
    assert.equal(objectOfCopy(body), ANY, body);
});

test("an object knows its queue by its name", () => {
  assert.equal(queueOfObject(objectOfQueue("a.b~c")), "a.b~c");
  for (const name of [ANY, "files 3", "jobs 0"]) assert.equal(queueOfObject(name), "");
});
