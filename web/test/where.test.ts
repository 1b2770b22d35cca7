import { expect, it } from "vitest";
import { routeOf } from "../src/ui/routes.ts";
import { whereOf } from "../src/ui/where.ts";

const PAGE = { origin: "https://page.example" };
const ID = "0a".repeat(32);

it("a queue is at the page's server, on this machine, or where its address says", () => {
  const cases: [string, string, string, boolean][] = [
    ["", "", "", false],
    ["public1", "", "public1", false],
    ["local", "http://localhost:8000", "local", true],
    ["https://other.example/q/x", "https://other.example", "x", false],
    ["https://other.example:8443/x", "https://other.example:8443", "x", false],
    ["https://other.example/a%20b/", "https://other.example", "a b", false],
    ["https://other.example", "https://other.example", "", false],
    ["https://page.example/q/x", "", "x", false],
    ["http://127.0.0.1:9000/q/x", "http://127.0.0.1:9000", "x", true],
    ["http://[::1]:9000/x", "http://[::1]:9000", "x", true],
    ["http://localhost.evil.example/x", "http://localhost.evil.example", "x", false],
    ["https://", "", "", false],
  ];
  for (const [text, server, queue, isLocal] of cases)
    expect(whereOf(text, PAGE), text).toEqual({ server, queue, isLocal });
  expect(whereOf("local", PAGE, 9123).server).toBe("http://localhost:9123");
  for (const origin of ["http://localhost:8123", "http://127.0.0.1:8000"])
    expect(whereOf("local", { origin })).toEqual({ server: "", queue: "local", isLocal: true });
  expect(whereOf("x", { origin: "http://localhost:8000" })).toEqual({ server: "", queue: "x", isLocal: true });
});

it("a server below a path is found there", () => {
  const page = { origin: "https://page.example", base: "/asman" };
  expect(whereOf("x", page).server).toBe("https://page.example/asman");
  expect(whereOf("https://other.example/q/x", page).server).toBe("https://other.example");
  expect(routeOf(`/asman/j/${ID}`, "/asman")).toEqual({ kind: "job-page", jobId: ID });
  expect(routeOf("/asman/", "/asman")).toEqual({ kind: "job" });
});

it("the path says which page it is", () => {
  expect(routeOf("/")).toEqual({ kind: "job" });
  expect(routeOf("/index.html")).toEqual({ kind: "job" });
  for (const path of [`/j/${ID}`, `/j/${ID}/`, `/j/${ID}.json`])
    expect(routeOf(path)).toEqual({ kind: "job-page", jobId: ID });
  expect(routeOf("/j/short")).toEqual({ kind: "job" });
  expect(routeOf("/q/a%20b")).toEqual({ kind: "queue-page", queue: "a b" });
  expect(routeOf("/q/%")).toEqual({ kind: "job" });
});
