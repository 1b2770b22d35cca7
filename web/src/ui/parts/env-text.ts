/** Lines of KEY=VALUE, as people paste them. Pure. */

export interface EnvText {
  entries: [name: string, value: string][];
  /** Lines that have no `=`. */
  rest: string[];
}

/**
 * Read many lines: what `.env` files, shells and `docker run -e` have.
 *
 * Blank lines and comments are passed over, and so is `export`. A value in quotes may go over several lines; in double
 * quotes `\n`, `\"` and `\\` are what they mean. Without quotes the value ends before ` #`.
 */
export function readEnvText(text: string): EnvText {
  const source = text.replace(/\r\n?/g, "\n");
  const entries: [string, string][] = [];
  const rest: string[] = [];
  const line =
    /[ \t]*(?:(?:export|-e|--env)[ \t]+)?([^\s=#"'][^=\n]*?)?[ \t]*=[ \t]*(?:"((?:[^"\\]|\\[\s\S])*)"|'([^']*)'|([^\n]*))[^\n]*(?:\n|$)/y;
  let at = 0;
  while (at < source.length) {
    const end = source.indexOf("\n", at) < 0 ? source.length : source.indexOf("\n", at);
    const plain = source.slice(at, end).trim();
    line.lastIndex = at;
    const found = plain && !plain.startsWith("#") ? line.exec(source) : null;
    const name = found?.[1]?.trim();
    if (found && name) {
      const [, , double, single, bare = ""] = found;
      entries.push([
        name,
        double !== undefined ? unescaped(double) : (single ?? bare.replace(/(^|\s)#.*$/, "").trim()),
      ]);
      at = line.lastIndex;
    } else {
      if (plain && !plain.startsWith("#")) rest.push(plain);
      at = end + 1;
    }
  }
  return { entries, rest };
}

function unescaped(text: string): string {
  const meant: Record<string, string> = { n: "\n", r: "\r", t: "\t", '"': '"', "\\": "\\", $: "$" };
  return text.replace(/\\([nrt"\\$])/g, (_, c: string) => meant[c] ?? c);
}
