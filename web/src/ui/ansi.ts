/**
 * What a terminal would show of one line of a log: colours, overwritten text, links. Pure.
 *
 * Text comes out as pieces with a style; nothing here makes HTML. Colours are moved until they can be read on the
 * page's ground, in the light and in the dark scheme.
 */

/** 0 to 255: the terminal's palette; above: `RGB` plus 24 bits. */
type Color = number;
const RGB = 1 << 24;

export interface Style {
  readonly fg: Color | null;
  readonly bg: Color | null;
  readonly bold: boolean;
  readonly dim: boolean;
  readonly italic: boolean;
  readonly underline: boolean;
  readonly strike: boolean;
  readonly inverse: boolean;
  /** An http or https address, or empty. */
  readonly link: string;
}

export interface Piece {
  text: string;
  style: Style;
}

export const PLAIN: Style = Object.freeze({
  fg: null,
  bg: null,
  bold: false,
  dim: false,
  italic: false,
  underline: false,
  strike: false,
  inverse: false,
  link: "",
});

/** Of a longer line that overwrites itself, only what comes last is written over itself. */
const LONG_OVERWRITE = 20_000;
/** The longest code that is looked for where such a line is cut. */
const LONGEST_CODE = 64;
/** How far to the right the cursor is followed. */
const WIDEST = 10_000;

// A control sequence (1: parameters, 2: what it does), an operating system command (3), other strings, short escapes,
// and single control characters (4) but the tab. What is not closed loses its introducer only, and is shown.
const ESC = "\u001b";
const CONTROL = "[\\u0000-\\u0008\\u000a-\\u001f\\u007f-\\u009f]";
const CODE_SOURCE = [
  `${ESC}(?:\\[([0-?]*)[ -/]*([@-~])`,
  `\\]([^\\u0007${ESC}]*)(?:\\u0007|${ESC}\\\\)`,
  `[PX^_][^${ESC}]*${ESC}\\\\`,
  `[ -/]*[0-~]?)`,
  `(${CONTROL})`,
].join("|");
const HAS_CODE = new RegExp(CONTROL);
const MOVES = new RegExp(`[\\r\\b]|${ESC}\\[[0-9;]*[KGCDPX]`);

/** Does the text hold anything but what is shown as it is? */
export function hasCodes(text: string): boolean {
  return HAS_CODE.test(text);
}

/** The line as it is seen at its end: no codes, overwritten text gone. */
export function plainText(text: string): string {
  if (!hasCodes(text)) return text;
  const line = trimmed(text);
  if (!MOVES.test(line)) return withoutCodes(line);
  const at = cutOf(line);
  return withoutCodes(line.slice(0, at)) + cellsOf(line.slice(at), PLAIN).reduce((all, { text }) => all + text, "");
}

const withoutCodes = (text: string) => text.replace(new RegExp(CODE_SOURCE, "g"), "");

/** Where the part begins that is written over itself; never within a code. */
function cutOf(line: string): number {
  const at = line.length - LONG_OVERWRITE;
  if (at <= 0) return 0;
  const code = line.lastIndexOf("\u001b", at);
  return code > at - LONGEST_CODE && code >= 0 ? code : at;
}

/** The style that the next line starts with. */
export function styleAfter(text: string, start: Style): Style {
  if (!text.includes("\u001b")) return start;
  // What comes before the last reset has no say, but for links.
  const reset = text.includes("\u001b]") ? -1 : Math.max(text.lastIndexOf("\u001b[0m"), text.lastIndexOf("\u001b[m"));
  let style = reset < 0 ? start : { ...PLAIN, link: start.link };
  for (const match of text.slice(Math.max(reset, 0)).matchAll(new RegExp(CODE_SOURCE, "g")))
    style = styled(style, match);
  return style;
}

/** The line as pieces of one style each, up to `limit` characters of what is seen. */
export function piecesOf(text: string, start: Style = PLAIN, limit = Number.POSITIVE_INFINITY): Piece[] {
  if (!hasCodes(text)) return text ? [{ text: text.slice(0, limit), style: start }] : [];
  const line = trimmed(text);
  if (!MOVES.test(line)) return cut(straight(line, start, limit), limit);
  const at = cutOf(line);
  const head = line.slice(0, at);
  const pieces = straight(head, start, limit);
  const seen = pieces.reduce((sum, piece) => sum + piece.text.length, 0);
  if (seen < limit) pieces.push(...cellsOf(line.slice(at), styleAfter(head, start)));
  return cut(pieces, limit);
}

function cut(pieces: Piece[], limit: number): Piece[] {
  let left = limit;
  const kept: Piece[] = [];
  for (const piece of pieces) {
    if (left <= 0) break;
    kept.push(piece.text.length > left ? { ...piece, text: piece.text.slice(0, left) } : piece);
    left -= piece.text.length;
  }
  return kept;
}

/** Without the carriage returns at the end, which move nothing that is followed by text. */
function trimmed(text: string): string {
  let end = text.length;
  while (end > 0 && text.charCodeAt(end - 1) === 13) end--;
  const line = end === text.length ? text : text.slice(0, end);
  if (line.length <= LONG_OVERWRITE || !line.includes("\r")) return line;
  const from = line.indexOf("\r", line.length - LONG_OVERWRITE);
  return from < 0 ? line.slice(line.lastIndexOf("\r") + 1) : line.slice(from + 1);
}

function straight(line: string, start: Style, limit: number): Piece[] {
  const pieces: Piece[] = [];
  let style = start;
  let from = 0;
  let seen = 0;
  const add = (text: string) => {
    if (!text) return;
    seen += text.length;
    const last = pieces.at(-1);
    if (last && last.style === style) last.text += text;
    else pieces.push({ text, style });
  };
  const code = new RegExp(CODE_SOURCE, "g");
  for (let match = code.exec(line); match && seen < limit; match = code.exec(line)) {
    add(line.slice(from, match.index));
    style = styled(style, match);
    from = match.index + match[0].length;
  }
  if (seen < limit) add(line.slice(from));
  return pieces;
}

/** The line written into cells, for what overwrites itself: one cell is one character. */
function cellsOf(line: string, start: Style): Piece[] {
  const chars: string[] = [];
  const styles: Style[] = [];
  let style = start;
  let at = 0;
  const write = (text: string) => {
    for (const char of text) {
      while (chars.length < at) {
        chars.push(" ");
        styles.push(PLAIN);
      }
      chars[at] = char;
      styles[at] = style;
      at++;
    }
  };
  let from = 0;
  for (const match of line.matchAll(new RegExp(CODE_SOURCE, "g"))) {
    write(line.slice(from, match.index));
    from = match.index + match[0].length;
    const [, parameters = "", does, , control] = match;
    const count = Math.min(Number.parseInt(parameters, 10) || 0, WIDEST);
    if (control === "\r") at = 0;
    else if (control === "\b") at = Math.max(0, at - 1);
    else if (does === "K") {
      if (count === 0) chars.length = styles.length = Math.min(at, chars.length);
      else for (let i = 0; i < (count === 2 ? chars.length : Math.min(at + 1, chars.length)); i++) chars[i] = " ";
    } else if (does === "G") at = Math.max(0, count - 1);
    else if (does === "C") at = Math.min(at + (count || 1), WIDEST);
    else if (does === "D") at = Math.max(0, at - (count || 1));
    else if (does === "P") {
      chars.splice(at, count || 1);
      styles.splice(at, count || 1);
    } else if (does === "X") for (let i = at; i < Math.min(at + (count || 1), chars.length); i++) chars[i] = " ";
    else style = styled(style, match);
  }
  write(line.slice(from));
  const pieces: Piece[] = [];
  chars.forEach((char, i) => {
    const last = pieces.at(-1);
    const own = styles[i] ?? PLAIN;
    if (last && last.style === own) last.text += char;
    else pieces.push({ text: char, style: own });
  });
  return pieces;
}

function styled(style: Style, [, parameters, does, command]: RegExpMatchArray): Style {
  if (does === "m") return select(style, parameters ?? "");
  if (command?.startsWith("8;")) {
    const link = command.slice(command.indexOf(";", 2) + 1);
    return { ...style, link: isWeb(link) ? link : "" };
  }
  return style;
}

/** "Select graphic rendition": the codes of one `ESC [ … m`. */
function select(before: Style, parameters: string): Style {
  if (/[<=>?]/.test(parameters)) return before;
  let style: { -readonly [Member in keyof Style]: Style[Member] } = { ...before };
  const codes = parameters.split(";");
  for (let i = 0; i < codes.length; i++) {
    const [head = "", ...sub] = (codes[i] ?? "").split(":");
    const code = Number(head || 0);
    if (code === 0) style = { ...PLAIN, link: style.link };
    else if (code === 1) style.bold = true;
    else if (code === 2) style.dim = true;
    else if (code === 3) style.italic = true;
    else if (code === 4) style.underline = sub[0] !== "0";
    else if (code === 7) style.inverse = true;
    else if (code === 9) style.strike = true;
    else if (code === 21) style.underline = true;
    else if (code === 22) style.bold = style.dim = false;
    else if (code === 23) style.italic = false;
    else if (code === 24) style.underline = false;
    else if (code === 27) style.inverse = false;
    else if (code === 29) style.strike = false;
    else if (code >= 30 && code <= 37) style.fg = code - 30;
    else if (code === 39) style.fg = null;
    else if (code >= 40 && code <= 47) style.bg = code - 40;
    else if (code === 49) style.bg = null;
    else if (code >= 90 && code <= 97) style.fg = code - 82;
    else if (code >= 100 && code <= 107) style.bg = code - 92;
    else if (code === 38 || code === 48) {
      // With colons all is in one parameter, and a true colour may name its space before the three numbers.
      const rest = sub.length ? sub : codes.slice(i + 1);
      const color = extended(rest, sub.length > 0);
      if (!sub.length) i += rest[0] === "2" ? 4 : 2;
      if (color !== null) style[code === 38 ? "fg" : "bg"] = color;
    }
  }
  return style;
}

function extended(codes: string[], isColon: boolean): Color | null {
  const byte = (text: string | undefined) => {
    const value = Number(text || 0);
    return Number.isInteger(value) && value >= 0 && value <= 255 ? value : null;
  };
  if (codes[0] === "5") return byte(codes[1]);
  if (codes[0] !== "2") return null;
  const [r, g, b] = codes.slice(isColon && codes.length > 4 ? 2 : 1).map(byte);
  return r == null || g == null || b == null ? null : RGB + (r << 16) + (g << 8) + b;
}

// --- colours that can be read ----------------------------------------------------------------------------------------

type Triple = readonly [number, number, number];

export const LIGHT_GROUND: Triple = [0xff, 0xff, 0xff];
export const DARK_GROUND: Triple = [0x14, 0x17, 0x1c];
const LIGHT_TEXT: Triple = [0x17, 0x1b, 0x22];
const DARK_TEXT: Triple = [0xe8, 0xeb, 0xf0];
const CONTRAST = 4.5;

const SIXTEEN = [
  0x000000, 0xc72e2e, 0x0f8a3c, 0x9a6a00, 0x2563d9, 0xa626a4, 0x0b7f93, 0xc8ccd4, 0x6b7280, 0xef5350, 0x35c46a,
  0xe5b93c, 0x5b93ff, 0xd670d6, 0x35c1d6, 0xffffff,
];
const LEVELS = [0, 95, 135, 175, 215, 255];

function triple(color: Color): Triple {
  let packed = color & 0xffffff;
  if (color < 16) packed = SIXTEEN[color] ?? 0;
  else if (color < 232) {
    const level = (place: number) => LEVELS[Math.floor((color - 16) / place) % 6] ?? 0;
    return [level(36), level(6), level(1)];
  } else if (color < 256) {
    const grey = 8 + (color - 232) * 10;
    return [grey, grey, grey];
  }
  return [packed >> 16, (packed >> 8) & 255, packed & 255];
}

function luminance(color: Triple): number {
  const [r, g, b] = color.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  }) as [number, number, number];
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** The contrast of two colours as WCAG counts it: 1 to 21. */
export function contrast(a: Triple, b: Triple): number {
  const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x) as [number, number];
  return (high + 0.05) / (low + 0.05);
}

/** The colour, moved towards black or white as far as it must be to be read on the ground. */
function readable(color: Triple, ground: Triple): Triple {
  const goal = contrast([0, 0, 0], ground) > contrast([255, 255, 255], ground) ? 0 : 255;
  for (let step = 0; step <= 20; step++) {
    const moved = color.map((part) => Math.round(part + ((goal - part) * step) / 20)) as unknown as Triple;
    if (contrast(moved, ground) >= CONTRAST) return moved;
  }
  return [goal, goal, goal];
}

export interface Paint {
  light: { text: Triple; ground: Triple | null };
  dark: { text: Triple; ground: Triple | null };
}

/** The colours of a style in both schemes; null if it has the page's own. */
export function paint(style: Style): Paint | null {
  if (style.fg === null && style.bg === null && !style.inverse) return null;
  const scheme = (text: Triple, page: Triple) => {
    let fg = style.fg === null ? text : triple(style.fg);
    let bg = style.bg === null ? null : triple(style.bg);
    if (style.inverse) [fg, bg] = [bg ?? page, fg];
    return { text: readable(fg, bg ?? page), ground: bg };
  };
  return { light: scheme(LIGHT_TEXT, LIGHT_GROUND), dark: scheme(DARK_TEXT, DARK_GROUND) };
}

const looks = new Map<string, Record<string, string> | undefined>();

/** The style as CSS properties, to be set on an element; undefined for plain text. */
export function lookOf(style: Style): Record<string, string> | undefined {
  const { fg, bg, bold, dim, italic, underline, strike, inverse } = style;
  if (fg === null && bg === null && !bold && !dim && !italic && !underline && !strike && !inverse) return undefined;
  const key = [fg, bg, +bold, +dim, +italic, +underline, +strike, +inverse].join();
  let look = looks.get(key);
  if (!look) {
    if (looks.size > 5_000) looks.clear();
    look = makeLook(style);
    looks.set(key, look);
  }
  return look;
}

function makeLook(style: Style): Record<string, string> {
  const look: Record<string, string> = {};
  const both = (light: Triple, dark: Triple) => `light-dark(rgb(${light.join(" ")}), rgb(${dark.join(" ")}))`;
  const colors = paint(style);
  if (colors) {
    look.color = both(colors.light.text, colors.dark.text);
    if (colors.light.ground && colors.dark.ground) look.backgroundColor = both(colors.light.ground, colors.dark.ground);
  } else if (style.dim) look.color = "var(--muted)";
  if (style.bold) look.fontWeight = "700";
  if (style.italic) look.fontStyle = "italic";
  const lines = [style.underline && "underline", style.strike && "line-through"].filter(Boolean).join(" ");
  if (lines) look.textDecoration = lines;
  return look;
}

// --- links -----------------------------------------------------------------------------------------------------------

const ADDRESS = /\bhttps?:\/\/[^\s<>"'`{}|\\^]+/g;

function isWeb(link: string): boolean {
  return /^https?:\/\/[^\s]+$/i.test(link) && URL.canParse(link);
}

/** Where addresses are in a text: [start, end) of each, without the punctuation of the sentence around it. */
export function linksIn(text: string): { start: number; end: number }[] {
  if (!text.includes("://")) return [];
  const found: { start: number; end: number }[] = [];
  for (const match of text.matchAll(ADDRESS)) {
    let link = match[0];
    for (;;) {
      const last = link.at(-1) ?? "";
      const opens = { ")": "(", "]": "[" }[last];
      const isUnbalanced = opens !== undefined && link.split(last).length > link.split(opens).length;
      if (!/[.,;:!?*]/.test(last) && !isUnbalanced) break;
      link = link.slice(0, -1);
    }
    if (isWeb(link)) found.push({ start: match.index, end: match.index + link.length });
  }
  return found;
}
