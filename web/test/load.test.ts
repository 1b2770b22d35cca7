import { createServer, type Server } from "node:http";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { webAddress } from "../src/ui/save.ts";
import { loadPart, textOfPart } from "../src/ui/viewers/load.ts";

const BODY = new TextEncoder().encode(`${"ä".repeat(1000)}end`); // 2,003 bytes

describe("the first bytes of a file", () => {
  let server: Server;
  let base = "";
  beforeAll(async () => {
    server = createServer((request, response) => {
      const range = /bytes=0-(\d+)/.exec(request.headers.range ?? "");
      if (request.url === "/empty") return response.writeHead(416, { "content-range": "bytes */0" }).end();
      if (request.url === "/gone") return response.writeHead(404).end("gone");
      if (request.url === "/untold" && range)
        return response.writeHead(206).end(BODY.subarray(0, Number(range[1]) + 1));
      if (request.url === "/ranged" && range) {
        const part = BODY.subarray(0, Number(range[1]) + 1);
        const told = { "content-range": `bytes 0-${part.length - 1}/${BODY.length}` };
        return response.writeHead(206, told).end(part);
      }
      return response.writeHead(200).end(BODY); // a server that knows no ranges, and does not tell the length
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = server.address();
    base = `http://127.0.0.1:${typeof address === "object" && address ? address.port : 0}`;
  });
  afterAll(() => void server.close());

  it.each(["/ranged", "/plain", "/untold"])("are cut at the limit: %s", async (path) => {
    const part = await loadPart({ url: base + path }, 501);
    expect(part.bytes).toEqual(BODY.slice(0, 501));
    expect(part.isPart).toBe(true);
    expect(part.size).toBe(path === "/ranged" ? BODY.length : null);
    expect(textOfPart(part)).toBe("ä".repeat(250)); // the cut went through a character
  });

  it.each(["/ranged", "/plain", "/untold"])("are the whole where it is short: %s", async (path) => {
    const part = await loadPart({ url: base + path }, BODY.length + 1);
    expect(part).toEqual({ bytes: BODY, isPart: false, size: BODY.length });
  });

  it("of an empty file are none", async () => {
    expect(await loadPart({ url: `${base}/empty` }, 10)).toEqual({ bytes: new Uint8Array(0), isPart: false, size: 0 });
  });

  it("that are gone are said to be", async () => {
    await expect(loadPart({ url: `${base}/gone` }, 10)).rejects.toThrow(/no longer on the server/);
    await expect(loadPart({ url: "http://127.0.0.1:1/" }, 10)).rejects.toThrow(/did not answer/);
  });

  it("of bytes that are here need no server", async () => {
    const part = await loadPart({ blob: () => new Blob([BODY]) }, 100);
    expect(part).toMatchObject({ isPart: true, size: BODY.length });
  });

  it("are no text if they are not UTF-8, or hold a NUL", () => {
    const part = (...bytes: number[]) => ({ bytes: new Uint8Array(bytes), isPart: false, size: null });
    expect(textOfPart(part(0x61, 0xc3))).toBeNull();
    expect(textOfPart({ ...part(0x61, 0xc3), isPart: true })).toBe("a");
    expect(textOfPart(part(0x61, 0))).toBeNull();
  });
});

describe("addresses", () => {
  it("are of the web, or none", () => {
    expect(webAddress("/f/a", "https://host/q")).toBe("https://host/f/a");
    for (const address of ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "blob:x", 7, null])
      expect(webAddress(address)).toBeNull();
  });
});
