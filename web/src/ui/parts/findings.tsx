/** What is wrong with a definition, as a list for people. */

import { type Findings, sentence } from "./validate.ts";

export function FindingsList({ findings }: { findings: Findings }) {
  const { faults, excess, warnings } = findings;
  if (faults.length + excess.length + warnings.length === 0) return null;
  return (
    <ul class="settings-findings" role="status">
      {faults.map((one) => (
        <li key={one.where + one.what} class="tone-bad">
          {sentence(one)}
        </li>
      ))}
      {excess.map((one) => (
        <li key={one.where + one.what} class="tone-warn">
          {sentence(one)}. A private server may allow more.
        </li>
      ))}
      {warnings.map((text) => (
        <li key={text} class="tone-warn">
          {text}
        </li>
      ))}
    </ul>
  );
}
