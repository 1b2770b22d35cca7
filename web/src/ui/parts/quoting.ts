/** Text quoted for the languages of the snippets, so that each reads it back as it was. Pure. */

/** One word of a POSIX shell. */
export function shellWord(text: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
}

export function shellLine(argv: readonly string[]): string {
  return argv.map(shellWord).join(" ");
}

/**
 * What to put into `definition.command` so that the worker starts exactly these arguments.
 *
 * Workers read a backslash before a closing single quote as an escape; where that would matter a list is given, which
 * they take as it is. Source: asman/cli/draft.py, command_of.
 */
export function commandOf(argv: readonly string[]): string | string[] {
  const text = shellLine(argv);
  return text.includes("\\'") ? [...argv] : text;
}

/** A JSON value as a Python literal. */
export function pythonLiteral(value: unknown, indent = ""): string {
  const deeper = `${indent}    `;
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) {
    if (value.length === 0) return "[]";
    return `[\n${value.map((entry) => `${deeper}${pythonLiteral(entry, deeper)},\n`).join("")}${indent}]`;
  }
  if (typeof value === "object") {
    const members = Object.entries(value);
    if (members.length === 0) return "{}";
    const lines = members.map(
      ([name, member]) => `${deeper}${JSON.stringify(name)}: ${pythonLiteral(member, deeper)},\n`,
    );
    return `{\n${lines.join("")}${indent}}`;
  }
  return JSON.stringify(value);
}

/** A value of an HTML attribute, in double quotes. */
export function htmlAttribute(text: string): string {
  const names: Record<string, string> = { "&": "&amp;", '"': "&quot;", "<": "&lt;", ">": "&gt;" };
  return `"${text.replace(/[&"<>]/g, (c) => names[c] ?? c)}"`;
}
