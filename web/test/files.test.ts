import { describe, expect, it } from "vitest";
import {
  asText,
  extensionOf,
  freeName,
  inlineBytes,
  landsAt,
  nameFault,
  showBytes,
  shownName,
  tidyName,
  treeRows,
  typeOf,
  utf8Bytes,
} from "../src/ui/files.ts";

describe("names", () => {
  it.each([
    ["script.py"],
    ["data/2024/a b.csv"],
    ["/etc/app.conf"],
    ["ümlaut/名前.txt"],
    [".env"],
    ["a..b"],
    ["/outputs-of-mine/a"],
    ["__proto__"],
  ])("takes %s", (name) => {
    expect(nameFault(name, ["other.txt"])).toBeNull();
  });

  it.each([
    ["", /Give the file a name/],
    ["   ", /Give the file a name/],
    ["a\u0000b", /control character/],
    ["a\nb", /control character/],
    ["\ud800", /not Unicode/],
    ["a\\b", /Use \//],
    ["folder/", /ends with a slash/],
    ["../a", /\.\./],
    ["a/../b", /\.\./],
    ["./a", /\. or/],
    ["a//b", /two slashes/],
    ["/", /ends with a slash/],
    ["//a", /two slashes/],
    ["x".repeat(256), /255 bytes/],
    ["é".repeat(128), /255 bytes/],
    [`${"folder/".repeat(33)}a`, /32 folders/],
    [`${`${"y".repeat(200)}/`.repeat(6)}a`, /1024 bytes/],
    ["/proc/self", /Nothing can be put/],
    ["/outputs", /Nothing can be put/],
    ["/outputs/a", /Nothing can be put/],
    ["/inputs", /Nothing can be put/],
    ["/etc/a:b", /colon/],
  ])("refuses %j", (name, fault) => {
    expect(nameFault(name, [])).toMatch(fault);
  });

  it("refuses what is taken, by the place and not by the letters", () => {
    expect(nameFault("/inputs/a.txt", ["a.txt"])).toMatch(/There is a file a.txt/);
    expect(nameFault("a", ["a/b"])).toMatch(/is the folder of a\/b/);
    expect(nameFault("a/b", ["a"])).toMatch(/a is a file/);
    expect(nameFault("ab", ["a", "a.b"])).toBeNull();
  });

  it("keeps uploaded files below /inputs", () => {
    expect(nameFault("/etc/a", [], false)).toMatch(/lies below \/inputs/);
    expect(nameFault("/inputs/a", [], false)).toBeNull();
  });

  it("tidies and places them", () => {
    expect(tidyName("  /inputs/a b.txt ")).toBe("a b.txt");
    expect(tidyName("e\u0301")).toBe("\u00e9");
    expect(landsAt("a/b")).toBe("/inputs/a/b");
    expect(landsAt("/etc/b")).toBe("/etc/b");
  });

  it("finds a name for a file from elsewhere that keeps the rules", () => {
    expect(freeName("C:\\data\\..\\a.csv", new Set())).toBe("C:/data/a.csv");
    expect(freeName("a.csv", new Set(["a.csv", "a-2.csv"]))).toBe("a-3.csv");
    expect(freeName("d/archive.tar.gz", new Set(["d/archive.tar.gz"]))).toBe("d/archive.tar-2.gz");
    expect(freeName("../..", new Set())).toBe("file");
    expect(freeName("/etc/passwd", new Set())).toBe("etc/passwd");
    expect(freeName("a\u0007b", new Set())).toBe("a_b");
  });
});

describe("sizes and texts", () => {
  it("counts the bytes that an encoder writes", () => {
    for (const text of ["", "abc", "é", "€", "😀", "a😀é\ud800", "\udc00\ud800"])
      expect(utf8Bytes(text)).toBe(new TextEncoder().encode(text).length);
  });

  it.each([
    [0, "0 B"],
    [999, "999 B"],
    [1000, "1.0 kB"],
    [9949, "9.9 kB"],
    [9951, "10 kB"],
    [999_499, "999 kB"],
    [999_500, "1.0 MB"],
    [48_211_904, "48 MB"],
    [5e12, "5.0 TB"],
  ])("shows %d as %s", (bytes, shown) => {
    expect(showBytes(bytes)).toBe(shown);
  });

  it("tells text from bytes, and keeps a byte order mark", () => {
    expect(asText(new Uint8Array([0xef, 0xbb, 0xbf, 0x61]))).toBe("\ufeffa");
    expect(asText(new Uint8Array([0xff, 0xfe]))).toBeNull();
    expect(asText(new Uint8Array([0x61, 0]))).toBeNull();
  });

  it("reads what a reference carries", () => {
    const text = (ref: Parameters<typeof inlineBytes>[0]) => new TextDecoder().decode(inlineBytes(ref) ?? undefined);
    expect(text({ value: "é" })).toBe("é");
    expect(text({ type: "json", value: { a: [1] } })).toBe('{"a":[1]}');
    expect(text({ type: "base64", value: "w6k" })).toBe("é");
    expect(inlineBytes({ type: "base64", value: "_-8=" })).toEqual(new Uint8Array([0xff, 0xef]));
    expect(inlineBytes({ type: "base64", value: "%" })).toHaveLength(0);
    expect(inlineBytes({ type: "url", value: "https://a/" })).toBeNull();
  });

  it("knows kinds by the name, and nothing that could run is drawn", () => {
    expect(extensionOf("a/Dockerfile.dev")).toBe("dockerfile");
    expect(extensionOf(".bashrc")).toBe("");
    expect(typeOf("A.PNG").kind).toBe("image");
    for (const name of ["a.html", "a.htm", "a.xhtml", "a.xml"]) expect(typeOf(name).kind).toBe("text");
    expect(typeOf("a.pdf").kind).toBe("none");
    expect(typeOf("a.constructor").kind).toBe("unknown");
  });
});

describe("trees", () => {
  const file = (name: string, size: number | null = 1) => ({ name, size });
  const files = [
    file("b.txt"),
    file("a10.txt"),
    file("a2.txt"),
    file("z/y/deep", 5),
    file("z/x", null),
    file("c/1", 2),
  ];

  it("lists folders first, numbers in their order, with what is in them", () => {
    const rows = treeRows(files, new Set());
    expect(rows.map((row) => `${" ".repeat(row.depth)}${row.label}${"file" in row ? "" : "/"}`)).toEqual([
      "c/",
      " 1",
      "z/",
      " y/",
      "  deep",
      " x",
      "a2.txt",
      "a10.txt",
      "b.txt",
    ]);
    expect(rows.find((row) => row.name === "z")).toMatchObject({ count: 2, size: null, isOpen: true });
    expect(rows.find((row) => row.name === "z/y")).toMatchObject({ count: 1, size: 5 });
  });

  it("hides what a closed folder holds", () => {
    const rows = treeRows(files, new Set(["z"]));
    expect(rows.map((row) => row.name)).toEqual(["c", "c/1", "z", "a2.txt", "a10.txt", "b.txt"]);
  });
});

describe("names as they are shown", () => {
  it.each([
    ["data/plot.png", "data/plot.png"],
    ["Ä 文 🙂 'quoted' <b>", "Ä 文 🙂 'quoted' <b>"],
    ["invoice\u202efdp.exe", "invoice\\u202efdp.exe"],
    ["two\nlines", "two\\u000alines"],
    ["\u2066a\u2069\u200b", "\\u2066a\\u2069\\u200b"],
  ])("writes out what cannot be seen in %j", (name, shown) => {
    expect(shownName(name)).toBe(shown);
  });
});
