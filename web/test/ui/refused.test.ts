import { signal } from "@preact/signals";
import { describe, expect, it } from "vitest";
import { Client } from "../../src/client.ts";
import { making } from "../../src/ui/making.ts";
import type { Definition } from "../../src/ui/model.ts";
import { fakeParams } from "../support/fake-session.ts";

function made(job: Record<string, unknown>, control?: Record<string, unknown>) {
  const { assembled, dispose } = making({
    params: fakeParams({
      job: signal(job as Definition | undefined),
      inputs: signal<Record<string, string> | undefined>(undefined),
      control: signal(control),
    }),
    dynamicInputs: signal(new Map()),
    where: signal({ server: "", queue: "q", isLocal: false }),
    client: signal(new Client({ server: "https://h.example" })),
    mayAct: signal(true),
    page: signal(null),
  });
  const value = assembled.value;
  dispose();
  return value;
}

describe("a job that the server would refuse is never submitted", () => {
  it.each<[Record<string, unknown>, Record<string, unknown> | undefined, RegExp]>([
    [{ image: "a", requirements: { memory: "lots" } }, undefined, /^requirements\.memory: "lots" is not a size/],
    [{ image: "a", env: { "A B": "1" } }, undefined, /^env\.A B: /],
    [{ image: "a" }, { namespace: "*" }, /stands for all namespaces/],
  ])("%j %j", (job, control, why) => {
    const value = made(job, control);
    expect(value).toMatchObject({ what: "invalid" });
    expect("problems" in value && value.problems[0]).toMatch(why);
  });

  it("what is only more than a public server allows is left to the server", () => {
    expect(made({ image: "a", maxDuration: "2d" })).toHaveProperty("jobId");
  });
});
