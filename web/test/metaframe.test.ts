// @vitest-environment happy-dom
/** Our side of the protocol against the published library as the host, in its present and an older release. */

import * as present from "@metapages/metapage";
import * as older from "metapage-1-5";
import { afterEach, describe, expect, it } from "vitest";
import { type FrameWindow, type Inputs, Metaframe, refsOf } from "../src/ui/metaframe.ts";

interface Host {
  getMetaframe(id: string): { _iframe: HTMLIFrameElement; iframe: Promise<HTMLIFrameElement> };
  setDefinition(definition: unknown): Promise<void> | void;
  addListener(kind: string, listener: (value: never) => void): void;
  setInput(frame: string, pipe: string, value: unknown): void;
  dispose(): void;
}

const hosts: Host[] = [];
afterEach(() => {
  for (const host of hosts.splice(0)) host.dispose();
});

const settle = (ms = 30) => new Promise((resolve) => setTimeout(resolve, ms));

/** A window of a frame, wired to the host as browsers do it: copies of messages, with their source. */
function frameOf(host: Host, id: string, sent: Record<string, unknown>[]) {
  const listeners = new Set<(event: MessageEvent) => void>();
  const parent = {
    postMessage: (message: unknown) => {
      const data = structuredClone(message) as Record<string, unknown>;
      sent.push(data);
      window.dispatchEvent(new MessageEvent("message", { data }));
    },
  };
  const frame: FrameWindow = {
    parent,
    name: id,
    addEventListener: (_kind, listener) => listeners.add(listener),
    removeEventListener: (_kind, listener) => listeners.delete(listener),
  };
  const deliver = (data: unknown, source: unknown = parent) => {
    const event = { data: structuredClone(data), source } as MessageEvent;
    for (const listener of listeners) listener(event);
  };
  Object.defineProperty(host.getMetaframe(id)._iframe, "contentWindow", {
    value: { postMessage: (data: unknown) => deliver(data) },
  });
  return { frame, deliver };
}

async function opened(Library: new () => unknown, version: string) {
  const host = new Library() as Host;
  hosts.push(host);
  await host.setDefinition({
    version,
    metaframes: {
      first: { url: "http://127.0.0.1:9/#?queue=given", allow: "clipboard-write" }, // so no metaframe.json is asked for
      second: {
        url: "http://127.0.0.1:9/",
        allow: "clipboard-write",
        inputs: [{ metaframe: "first", source: "*" }],
      },
    },
  });
  await settle();
  for (const id of ["first", "second"]) {
    // The test stands for the pages: the frames need not load any, but the host wants to see them attached.
    Object.defineProperty(host.getMetaframe(id)._iframe, "parentNode", { value: { removeChild: () => {} } });
  }
  const sent: Record<string, unknown>[] = [];
  const got: Record<string, Inputs[]> = { first: [], second: [] };
  const start = (id: string) => {
    const wired = frameOf(host, id, sent);
    return { ...wired, metaframe: new Metaframe(wired.frame, (inputs) => got[id]?.push(inputs)) };
  };
  return { host, sent, got, start };
}

const RELEASES: [string, new () => unknown, string][] = [
  ["1.10.10", present.Metapage as never, "2"],
  ["1.5.0", older.Metapage as never, "0.3"],
];

for (const [release, Library, version] of RELEASES) {
  describe(`a host of library ${release}`, () => {
    it("registers the frame, gives it inputs from before and later ones", async () => {
      const { host, got, start } = await opened(Library, version);
      host.setInput("first", "a.txt", "before");
      const { metaframe } = start("first");
      await settle();
      expect(metaframe.isConnected).toBe(true);
      expect(Object.assign({}, ...(got.first ?? []))).toEqual({ "a.txt": "before" });
      host.setInput("first", "b", { x: 1 });
      await settle();
      expect(Object.assign({}, ...(got.first ?? []))).toEqual({ "a.txt": "before", b: { x: 1 } });
    });

    it("pipes outputs of one frame to another, those from before the connection too, refs untouched", async () => {
      const { got, start } = await opened(Library, version);
      const second = start("second");
      const first = start("first");
      const ref = { type: "url", value: "https://s/f/1" };
      first.metaframe.setOutputs({ early: ref });
      await settle();
      first.metaframe.setOutputs({ late: "text" });
      await settle();
      expect(second.metaframe.isConnected).toBe(true);
      expect(Object.assign({}, ...(got.second ?? []))).toEqual({ early: ref, late: "text" });
    });

    it("gives binary values in a form that becomes a file", async () => {
      const { host, got, start } = await opened(Library, version);
      start("first");
      await settle();
      host.setInput("first", "bytes", new Uint8Array([1, 2, 255]));
      await settle();
      host.setInput("first", "file", new File([new Uint8Array([1, 2, 255])], "a.bin", { type: "image/png" }));
      await settle(100);
      const refs = await refsOf(Object.assign({}, ...(got.first ?? [])));
      expect(refs.get("bytes")).toEqual({ type: "base64", value: "AQL/" });
      expect(refs.get("file")).toEqual({ type: "base64", value: "AQL/" });
    });

    it("keeps the link that is reported, once for each change", async () => {
      const { host, sent, start } = await opened(Library, version);
      const reported: string[] = [];
      host.addListener("definition", ((event: { definition: { metaframes: Record<string, { url: string }> } }) => {
        reported.push(event.definition.metaframes.first?.url ?? "");
      }) as never);
      const { metaframe } = start("first");
      await settle();
      metaframe.reportHash("#?autostart=true&queue=given");
      metaframe.reportHash("#?autostart=true&queue=given");
      await settle();
      expect(sent.filter(({ method }) => method === "HashParamsUpdate")).toHaveLength(1);
      expect(reported.at(-1)).toContain("autostart=true");
    });
  });
}

describe("strangers", () => {
  it("are not heard: other windows, other ids, other shapes", async () => {
    const { host, got, start } = await opened(present.Metapage as never, "2");
    const { deliver, metaframe } = start("first");
    await settle();
    const known = { jsonrpc: "2.0", method: "InputsUpdate", iframeId: "first" };
    const parentId = (host as unknown as { _id: string })._id;
    const inputs = { evil: "1" };
    deliver({ ...known, parentId, params: { inputs } }, { another: "window" });
    deliver({ ...known, parentId: "other", params: { inputs } });
    deliver({ ...known, parentId, iframeId: "second", params: { inputs } });
    deliver({ ...known, parentId, jsonrpc: "1.0", params: { inputs } });
    for (const odd of [null, "text", 1, [], { ...known, parentId }, { ...known, parentId, params: null }]) deliver(odd);
    deliver({ jsonrpc: "2.0", method: "SetupIframeServerResponse", params: { parentId: "other" } });
    expect(got.first).toEqual([]);
    deliver({ ...known, parentId, params: { inputs: { good: "1" } } });
    expect(got.first).toEqual([{ good: "1" }]);
    metaframe.dispose();
    deliver({ ...known, parentId, params: { inputs } });
    expect(got.first).toHaveLength(1);
  });

  it("before the host has answered nothing of theirs is taken", () => {
    const taken: Inputs[] = [];
    let receive: (event: MessageEvent) => void = () => {};
    const parent = { postMessage: () => {} };
    const frame: FrameWindow = {
      parent,
      name: "",
      addEventListener: (_kind, listener) => {
        receive = listener;
      },
      removeEventListener: () => {},
    };
    new Metaframe(frame, (inputs) => taken.push(inputs));
    const data = { jsonrpc: "2.0", method: "InputsUpdate", iframeId: "", params: { inputs: { a: 1 } } };
    receive({ data, source: parent } as unknown as MessageEvent);
    expect(taken).toEqual([]);
  });
});

it("what arrives becomes files, but for the job", async () => {
  const refs = await refsOf({ job: {}, "metaframe/job": {}, "/a": 1, gone: null, b: new Blob(["x"]) });
  expect([...refs]).toEqual([
    ["a", { type: "utf8", value: "1" }],
    ["gone", null],
    ["b", { type: "base64", value: "eA==" }],
  ]);
});
