import { readFileSync } from "node:fs";
import { setHashParamValueInHashString, setHashParamValueJsonInHashString } from "@metapages/hash-query";
import { describe, expect, it } from "vitest";
import { encodeJson, formatHash, parseHash, readJson, readText, sortedJson, withParameter } from "../src/ui/hash.ts";
import { linkParams, PAGE_PARAMETERS } from "../src/ui/params.ts";
import { openWindow } from "./support/window.ts";

interface Vectors {
  links: { what: string; writer: string; hash: string; values: Record<string, unknown>; rewritten: string }[];
  malformed: { what: string; hash: string; parameter: string; values: Record<string, unknown> }[];
}
const VECTORS: Vectors = JSON.parse(
  readFileSync(new URL("../../tests/vectors/hash_links.json", import.meta.url), "utf8"),
);

function paramsOf(hash: string) {
  const { window, dom } = openWindow(`https://page.example/${hash}`);
  return { params: linkParams(window), window, dom };
}

function rewritten(hash: string): string {
  let now = formatHash(parseHash(hash));
  for (const [name, value] of parseHash(hash).values) {
    if (!PAGE_PARAMETERS.has(name)) continue;
    const read = readJson(value);
    if (["job", "inputs", "control", "definition"].includes(name) && "value" in read)
      now = withParameter(now, name, encodeJson(read.value));
  }
  return now;
}

describe("links of every generation of writers", () => {
  for (const { what, writer, hash, values, rewritten: wanted } of VECTORS.links) {
    it(`${writer}: ${what}`, () => {
      const { params } = paramsOf(hash);
      const { other, ...own } = values;
      for (const [name, value] of Object.entries(own)) {
        expect(params[name as "job"].value, name).toEqual(value);
      }
      expect(params.problems.value).toEqual([]);
      expect(Object.fromEntries(params.other.value)).toEqual(other ?? {});
      expect(rewritten(hash)).toBe(wanted);
    });
  }

  it("reads what the present library writes, by running it", () => {
    for (const { values } of VECTORS.links) {
      for (const [name, value] of Object.entries(values)) {
        if (value === null || typeof value !== "object" || name === "other") continue;
        const hash = `#${setHashParamValueJsonInHashString("", name, value)}`;
        expect(paramsOf(hash).params[name as "job"].value).toEqual(value);
      }
    }
    const text = `#${setHashParamValueInHashString("", "NAME", "a=b/c?d+ü")}`;
    expect(paramsOf(text).params.other.value.get("NAME")).toBe("a=b/c?d+ü");
  });
});

describe("malformed links", () => {
  for (const { what, hash, parameter, values } of VECTORS.malformed) {
    it(what, () => {
      const { params, window } = paramsOf(hash);
      expect(params.problems.value.map((problem) => problem.parameter)).toEqual([parameter]);
      expect(params.problems.value[0]?.text).toContain(parameter);
      expect(params.problems.value[0]?.hint).not.toBe("");
      expect(params[parameter as "job"].value).toBeUndefined();
      for (const [name, value] of Object.entries(values)) expect(params[name as "queue"].value).toEqual(value);
      params.queue.value = "another"; // an edit elsewhere loses nothing of it
      const kept = (text: string) => readText(parseHash(text).values.get(parameter) ?? "");
      expect(kept(window.location.hash)).toBe(kept(hash));
    });
  }
});

describe("writing", () => {
  it("sorts keys as text, at every depth, and leaves out what is undefined", () => {
    expect(sortedJson({ b: [{ z: 1, a: undefined }, undefined], "9": 1, "10": 2, a: null })).toBe(
      '{"10":2,"9":1,"a":null,"b":[{"z":1},null]}',
    );
  });

  it("writes any text, lone surrogates too", () => {
    const value = { command: "a\ud800b \udfff 😀" };
    expect(readJson(encodeJson(value))).toEqual({ value });
    expect(readText(parseHash(withParameter("", "A", "x\ud800y")).values.get("A") ?? "")).toBe("x\ufffdy");
  });

  it("round-trips values and never throws on noise", () => {
    let seed = 7;
    const random = (limit: number) => {
      seed = (seed * 1103515245 + 12345) % 2147483648;
      return seed % limit;
    };
    for (let times = 0; times < 2000; times++) {
      const noise = Array.from({ length: random(40) }, () => '%=&?#-_+/ Aa0zé{"}[]'[random(20)]).join("");
      expect(["value", "fault"].some((name) => name in readJson(noise))).toBe(true);
      expect(typeof formatHash(parseHash(noise))).toBe("string");
      const value = { command: noise, env: { [noise]: noise } };
      expect(readJson(encodeURIComponent(encodeJson(value)))).toEqual({ value });
    }
  });
});

describe("signals over the link", () => {
  it("rewrites the link when one is set, replacing the entry and telling listeners", () => {
    const { params, window, dom } = paramsOf("#?z=1&job=e30%3D");
    const entries = dom.history.length;
    let told = 0;
    window.addEventListener("hashchange", () => told++);
    params.autostart.value = true;
    expect(window.location.hash).toBe("#?autostart=true&job=e30%3D&z=1");
    params.autostart.value = true;
    params.autostart.value = false;
    expect(window.location.hash).toBe("#?job=e30%3D&z=1");
    params.job.value = { image: "a" };
    expect(readJson(parseHash(window.location.hash).values.get("job") ?? "")).toEqual({ value: { image: "a" } });
    expect(told).toBe(3);
    expect(dom.history.length).toBe(entries);
  });

  it("reads the link anew when somebody else changes it, without writing it back", () => {
    const { params, window } = paramsOf("#?queue=a");
    let told = 0;
    window.addEventListener("hashchange", () => told++);
    window.history.replaceState(null, "", "#?queue=b&autostart=true&FOO=1");
    window.dispatchEvent(new window.HashChangeEvent("hashchange"));
    expect(params.queue.value).toBe("b");
    expect(params.autostart.value).toBe(true);
    expect(params.other.value.get("FOO")).toBe("1");
    expect(told).toBe(1);
  });

  it("keeps names of the page and what host pages inject out of the rest", () => {
    const all = [...PAGE_PARAMETERS].map((name) => `${name}=true`).join("&");
    const injected = "mp-channel=1&mp_debug=1&channel=1&CHANNEL=1&readonly=1&edit=1&parent-metapage-id=1&fs-path=1";
    const { params } = paramsOf(`#?${all}&${injected}&MP_X=1&Channel=1&KEEP=`);
    expect([...params.other.value.keys()].sort()).toEqual(["Channel", "KEEP", "MP_X"]);
  });
});

describe("the queue in a frame", () => {
  it("is never written into the link", () => {
    const { window } = openWindow("https://page.example/#?queue=given");
    const params = linkParams(window, { isFramed: true });
    params.queue.value = "secret";
    params.autostart.value = true;
    expect(params.queue.value).toBe("secret");
    expect(window.location.hash).toBe("#?autostart=true&queue=given");
    expect(params.link()).toBe("#?autostart=true&queue=secret");
    params.dispose();
    expect(linkParams(window, { isFramed: true }).queue.value).toBe("secret");
  });

  it("is what the host gives once the host gives another", () => {
    const { window } = openWindow("https://page.example/#?queue=given");
    const params = linkParams(window, { isFramed: true });
    params.queue.value = "secret";
    window.history.replaceState(null, "", "#?queue=other");
    window.dispatchEvent(new window.HashChangeEvent("hashchange"));
    expect(params.queue.value).toBe("other");
  });
});
