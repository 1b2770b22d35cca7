import { expect, test } from "vitest";
import { Client } from "../../src/client.ts";
import { Definitions, definitionsOf } from "../../src/ui/parts/definitions.ts";

/** A server that answers when it is told to. */
function slow() {
  const asked: { jobId: string; answer: (response: Response) => void }[] = [];
  const fetch = (input: RequestInfo | URL) =>
    new Promise<Response>((answer) => {
      const jobId = /\/j\/([^/]+)\//.exec(String(input))?.[1] ?? "";
      asked.push({ jobId, answer });
    });
  return { asked, client: new Client({ server: "http://fake", fetch: fetch as typeof globalThis.fetch }) };
}

const settle = () => new Promise((resolve) => setTimeout(resolve));
const told = (image: string) => Response.json({ data: { image, command: "x" } });

test("a few are asked for at a time, each once, and those that left the screen not at all", async () => {
  const { asked, client } = slow();
  const definitions = new Definitions(client, "q");
  for (const jobId of ["a", "b", "c", "d", "e", "f", "g", "a"]) definitions.want(jobId);
  await settle();
  expect(asked.map(({ jobId }) => jobId)).toEqual(["a", "b", "c", "d"]);
  definitions.leave("e");
  const before = definitions.version.value;
  asked[0]?.answer(told("alpine"));
  await settle();
  expect(definitions.get("a")).toEqual({ image: "alpine", command: "x" });
  expect(definitions.version.value).toBe(before + 1);
  expect(asked.map(({ jobId }) => jobId).slice(4)).toEqual(["f"]);
  definitions.want("a");
  asked[1]?.answer(told("b"));
  await settle();
  expect(asked.map(({ jobId }) => jobId).slice(4)).toEqual(["f", "g"]);
});

test("a definition that is gone is not asked for again, one that could not be had is", async () => {
  const { asked, client } = slow();
  const definitions = new Definitions(client, "q");
  definitions.want("gone");
  definitions.want("later");
  await settle();
  const error = (code: string, status: number) => Response.json({ error: "no", code, hint: "" }, { status });
  asked[0]?.answer(error("expired", 410));
  asked[1]?.answer(error("forbidden", 403));
  await settle();
  expect(definitions.get("gone")).toBeNull();
  definitions.want("gone");
  await settle();
  expect(asked).toHaveLength(2);
});

test("panel and page share what is known, another queue does not", () => {
  const { client } = slow();
  const one = definitionsOf(client, "a");
  expect(definitionsOf(client, "a")).toBe(one);
  expect(definitionsOf(client, "b")).not.toBe(one);
});
