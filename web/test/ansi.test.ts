import { describe, expect, it } from "vitest";
import {
  contrast,
  DARK_GROUND,
  LIGHT_GROUND,
  linksIn,
  lookOf,
  PLAIN,
  paint,
  piecesOf,
  plainText,
  type Style,
  styleAfter,
} from "../src/ui/ansi.ts";

const E = "\u001b[";
const styles = (text: string) => piecesOf(text).map(({ text: seen, style }) => [seen, differing(style)]);
const differing = (style: Style) =>
  Object.fromEntries(Object.entries(style).filter(([name, value]) => value !== PLAIN[name as keyof Style]));

describe("colours and attributes", () => {
  it.each<[string, string, unknown[]]>([
    [
      "16 colours",
      `${E}31mred${E}0m plain`,
      [
        ["red", { fg: 1 }],
        [" plain", {}],
      ],
    ],
    ["bright", `${E}97;104mx`, [["x", { fg: 15, bg: 12 }]]],
    [
      "256",
      `${E}38;5;200mx${E}48;5;17my`,
      [
        ["x", { fg: 200 }],
        ["y", { fg: 200, bg: 17 }],
      ],
    ],
    ["true colour", `${E}38;2;1;2;3mx`, [["x", { fg: (1 << 24) + 0x010203 }]]],
    ["true colour with colons", `${E}38:2::1:2:3mx`, [["x", { fg: (1 << 24) + 0x010203 }]]],
    ["256 with colons", `${E}38:5:9mx`, [["x", { fg: 9 }]]],
    ["what follows a long colour", `${E}38;2;1;2;3;1mx`, [["x", { fg: (1 << 24) + 0x010203, bold: true }]]],
    [
      "attributes",
      `${E}1;2;3;4;7;9mx`,
      [["x", { bold: true, dim: true, italic: true, underline: true, inverse: true, strike: true }]],
    ],
    ["attributes off", `${E}1;2;3;4;7;9m${E}22;23;24;27;29mx`, [["x", {}]]],
    [
      "an empty code resets",
      `${E}1mx${E}my`,
      [
        ["x", { bold: true }],
        ["y", {}],
      ],
    ],
    ["default colours", `${E}31;42m${E}39;49mx`, [["x", {}]]],
    ["a colour out of range", `${E}38;5;999mx`, [["x", {}]]],
    ["private codes are not colours", `${E}>4;2mx`, [["x", {}]]],
  ])("%s", (_, text, expected) => {
    expect(styles(text)).toEqual(expected);
  });

  it("carries a style on to the next line", () => {
    const style = styleAfter(`${E}31;1mred`, PLAIN);
    expect(differing(style)).toEqual({ fg: 1, bold: true });
    expect(differing(piecesOf("goes on", style)[0]?.style as Style)).toEqual({ fg: 1, bold: true });
    expect(styleAfter(`x${E}0m`, style)).toEqual(PLAIN);
  });
});

describe("what a terminal would show", () => {
  it.each([
    ["a progress bar", "  0%|  |\r 50%|# |\r100%|##|", "100%|##|"],
    ["a shorter text leaves the rest", "abcdef\rxy", "xycdef"],
    ["erase to the end of the line", `abcdef\r${E}Kxy`, "xy"],
    ["erase the whole line", `abc${E}2K\rxy`, "xy "],
    ["backspace", "abc\b\bX", "aXc"],
    ["a column", `abc${E}2GX`, "aXc"],
    ["to the right and back", `a${E}3Cb${E}2DX`, "a  Xb"],
    ["a carriage return at the end", "abc\r", "abc"],
    ["Windows' line ends", `${E}32mabc${E}0m\r\r`, "abc"],
    ["other control codes", "a\u0000b\u0007c\u000ed\u009be", "abcde"],
    ["cursor and screen codes", `${E}2J${E}H${E}?25lx${E}?25h`, "x"],
    ["a window's title", "\u001b]0;evil\u0007x", "x"],
    ["a device string", "\u001bPpayload\u001b\\x", "x"],
    ["a code that is not closed is shown", "\u001b]0;never closed", "0;never closed"],
    ["a control sequence cut off", `abc${E}3`, "abc3"],
    ["tabs stay", "a\tb", "a\tb"],
    ["grep's erase codes", `${E}01;31m${E}Kmatch${E}m${E}K rest`, "match rest"],
  ])("%s", (_, text, expected) => {
    expect(plainText(text)).toBe(expected);
    expect(
      piecesOf(text)
        .map((piece) => piece.text)
        .join(""),
    ).toBe(expected);
  });

  it("keeps the colours of overwritten text apart", () => {
    expect(styles(`${E}31mabc\r${E}32mX`)).toEqual([
      ["X", { fg: 2 }],
      ["bc", { fg: 1 }],
    ]);
  });

  it("reads a megabyte of progress in no time", () => {
    const text = "\r 99%|#########|".repeat(65_000);
    const start = performance.now();
    expect(plainText(text)).toBe(" 99%|#########|");
    expect(performance.now() - start).toBeLessThan(2_000);
  });

  it("writes only the end of a very long line over itself, and loses nothing before it", () => {
    const head = `${E}31mstart${E}0m `;
    for (let pad = 0; pad < 12; pad++) {
      const text = `${head}${"x".repeat(pad)}${`${E}32mab\b${E}0m`.repeat(20_000)}end`;
      const plain = plainText(text);
      expect(plain.startsWith(`start ${"x".repeat(pad)}ab`)).toBe(true);
      expect(plain.endsWith("aaaend")).toBe(true);
      expect(plain).not.toContain("["); // no code was cut in two
      expect(
        piecesOf(text)
          .map((piece) => piece.text)
          .join(""),
      ).toBe(plain);
    }
  });

  it("starts the next line as a whole reading would, whatever was reset", () => {
    const bold = styleAfter(`${E}1m`, PLAIN);
    expect(styleAfter(`${E}31ma${E}0mb${E}4mc`, bold)).toEqual({ ...PLAIN, underline: true });
    expect(styleAfter(`${E}31ma${E}mb`, bold)).toEqual(PLAIN);
    expect(styleAfter(`${E}0mb${E}31mc`, bold)).toEqual({ ...PLAIN, fg: 1 });
    const link = "\u001b]8;;https://a.example/\u0007";
    expect(styleAfter(`${link}${E}31ma${E}0mb`, bold)).toEqual({ ...PLAIN, link: "https://a.example/" });
    expect(styleAfter(`a${E}0mb`, { ...bold, link: "https://b.example/" }).link).toBe("https://b.example/");
  });

  it("does not follow the cursor to the end of the world", () => {
    expect(plainText(`${E}999999999Cx`).length).toBeLessThan(20_000);
  });

  it("cuts a long line at the limit", () => {
    expect(piecesOf("x".repeat(1_000_000), PLAIN, 10)[0]?.text).toBe("xxxxxxxxxx");
    const pieces = piecesOf(`${E}31m${"x".repeat(8)}${E}32m${"y".repeat(8)}`, PLAIN, 10);
    expect(pieces.map(({ text }) => text)).toEqual(["xxxxxxxx", "yy"]);
  });

  it.each([
    "\u001b[".repeat(50_000),
    "\u001b]".repeat(50_000),
    `\u001bP${"x".repeat(100_000)}`,
    `\u001b[${"1;".repeat(50_000)}`,
  ])("hostile codes take no long time", (text) => {
    const start = performance.now();
    plainText(text);
    styleAfter(text, PLAIN);
    expect(performance.now() - start).toBeLessThan(5_000);
  });
});

describe("links", () => {
  const link = (text: string) => linksIn(text).map(({ start, end }) => text.slice(start, end));

  it.each([
    ["see https://a.example/x?y=1#z.", ["https://a.example/x?y=1#z"]],
    ["(https://a.example/x_(y))", ["https://a.example/x_(y)"]],
    ['"http://a.example" and <https://b.example>', ["http://a.example", "https://b.example"]],
    ["javascript://a.example/%0aalert(1)", []],
    ["file:///etc/passwd ftp://a.example", []],
    ["https://", []],
    ["no link", []],
  ])("%s", (text, expected) => {
    expect(link(text)).toEqual(expected);
  });

  it("takes links that the text names", () => {
    const [piece, rest] = piecesOf("\u001b]8;;https://a.example/\u0007here\u001b]8;;\u0007 and on");
    expect(piece).toMatchObject({ text: "here", style: { link: "https://a.example/" } });
    expect(rest?.style.link).toBe("");
  });

  it.each(["javascript:alert(1)", "data:text/html,x", "https://a b", "vbscript:x"])("refuses %s", (address) => {
    expect(piecesOf(`\u001b]8;;${address}\u0007here`)[0]?.style.link).toBe("");
  });
});

describe("contrast", () => {
  const colors = [
    ...Array.from({ length: 256 }, (_, i) => i),
    (1 << 24) + 0x0a141e,
    (1 << 24) + 0xf0f0f0,
    (1 << 24) + 0x777777,
  ];

  it("makes every colour readable in both schemes", () => {
    for (const fg of colors) {
      const { light, dark } = paint({ ...PLAIN, fg }) ?? {};
      expect(contrast(light?.text ?? [0, 0, 0], LIGHT_GROUND)).toBeGreaterThanOrEqual(4.5);
      expect(contrast(dark?.text ?? [0, 0, 0], DARK_GROUND)).toBeGreaterThanOrEqual(4.5);
    }
  });

  it("makes colours readable on each other", () => {
    const some = colors.filter((color, i) => i < 16 || i % 7 === 0 || color > 255);
    for (const inverse of [false, true])
      for (const fg of [null, ...some])
        for (const bg of some) {
          const { light, dark } = paint({ ...PLAIN, fg, bg, inverse }) ?? {};
          for (const scheme of [light, dark])
            if (contrast(scheme?.text ?? [0, 0, 0], scheme?.ground ?? [0, 0, 0]) < 4.5)
              throw new Error(`${fg} on ${bg}${inverse ? ", inverse" : ""} cannot be read`);
        }
  });

  it("leaves plain text to the page", () => {
    expect(lookOf(PLAIN)).toBeUndefined();
    expect(lookOf({ ...PLAIN, bold: true })).toEqual({ fontWeight: "700" });
    expect(lookOf({ ...PLAIN, inverse: true })?.backgroundColor).toContain("light-dark(");
  });
});
