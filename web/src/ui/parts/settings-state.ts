/** What is wrong with the job of the link, looked up by field. */

import type { Definition, Session } from "../model.ts";
import { checkDefinition, type Finding, type Findings, isObject, namespaceFault } from "./validate.ts";

/** What is wrong at a place such as `requirements.memory`, or below it; undefined if nothing is. */
export type Faults = (where: string) => string | undefined;

/** The definition as the link has it: the input files are its config files. */
export function definitionOf(session: Session): Record<string, unknown> {
  const { job, inputs } = session.params;
  const definition = { ...(job.value ?? {}) } as Record<string, unknown>;
  if (inputs.value)
    definition.configFiles = Object.fromEntries(
      Object.entries(inputs.value).map(([name, value]) => [name, { type: "utf8", value }]),
    );
  return definition;
}

/** Take a whole definition over. Its config files become the input files of the link where they are all text. */
export function takeDefinition(session: Session, definition: Record<string, unknown>): void {
  const { job, inputs } = session.params;
  const { configFiles, ...rest } = definition;
  const refs = isObject(configFiles) ? Object.entries(configFiles) : [];
  const texts = refs.filter(
    (entry): entry is [string, { value: string }] =>
      isObject(entry[1]) && typeof entry[1].value === "string" && (entry[1].type ?? "utf8") === "utf8",
  );
  const areTexts = refs.length === texts.length;
  inputs.value =
    areTexts && refs.length > 0 ? Object.fromEntries(texts.map(([name, ref]) => [name, ref.value])) : undefined;
  job.value = (areTexts ? rest : definition) as Definition;
}

export function findingsOf(session: Session): Findings {
  const found = checkDefinition(definitionOf(session));
  const namespace = session.params.control.value?.namespace;
  const fault = typeof namespace === "string" && namespace ? namespaceFault(namespace) : null;
  return fault ? { ...found, faults: [...found.faults, { where: "namespace", what: fault }] } : found;
}

export function faultsBy({ faults, excess }: Findings): Faults {
  const all: Finding[] = [...faults, ...excess];
  return (where) => {
    const place = `definition.${where}`;
    const found =
      all.find((one) => one.where === place) ??
      all.find((one) => one.where.startsWith(`${place}[`) || one.where === `${place} `);
    if (!found) return undefined;
    const isLimit = excess.includes(found);
    return `${capital(found.what)}.${isLimit ? " A private server may allow more." : ""}`.replace("..", ".");
  };
}

export function memberOf(owner: Record<string, unknown>, path: readonly string[]): unknown {
  return path.reduce<unknown>((value, name) => (isObject(value) ? value[name] : undefined), owner);
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
