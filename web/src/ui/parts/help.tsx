/** What the page is, and its keys. */

import { Fragment } from "preact";
import { KEYS, type Key, lettersWork, setLetters, showKey } from "../keys.ts";
import { Dialog, Switch } from "../kit.tsx";
import type { Session } from "../model.ts";
import "./help.css";

const WHERE: readonly { when: Key["when"]; title: string }[] = [
  { when: "always", title: "Everywhere" },
  { when: "outside text fields", title: "Outside of text fields" },
  { when: "in the console", title: "In the console" },
];

export function Help({ session }: { session: Session }) {
  return (
    <Dialog
      title="Help"
      onClose={() => {
        session.panel.value = null;
      }}
    >
      <div class="help">
        <p>
          This page holds one job: an image, a command and files. <strong>Run</strong> sends it to a queue; a worker
          that listens there runs it in a container. The log comes here as it is printed, and so do the files that the
          job writes to <code>/outputs</code>. Files of the job are in <code>/inputs</code>.
        </p>
        <p>
          The link in the address bar is the whole job. Whoever opens it sees the same job, and its result if it has
          one: the same job has the same id everywhere. Keep secrets out of it.
        </p>
        <h3>Keys</h3>
        <table class="help-keys">
          <thead class="sr-only">
            <tr>
              <th scope="col">Key</th>
              <th scope="col">What it does</th>
            </tr>
          </thead>
          {WHERE.map(({ when, title }) => (
            <tbody key={when}>
              <tr>
                <th scope="rowgroup" colSpan={2}>
                  {title}
                </th>
              </tr>
              {KEYS.filter((key) => key.when === when).map((key) => (
                <tr key={`${key.mod}${key.key}`}>
                  <td>
                    {showKey(key).map((name, at) => (
                      <Fragment key={name}>
                        {at > 0 && "+"}
                        <kbd>{name}</kbd>
                      </Fragment>
                    ))}
                  </td>
                  <td>{key.what}</td>
                </tr>
              ))}
            </tbody>
          ))}
        </table>
        <Switch
          label="Single letters are keys"
          checked={lettersWork.value}
          onChange={setLetters}
          hint="Turn this off if you speak to your computer. Keys with Ctrl or Cmd, and Esc, always work."
        />
      </div>
    </Dialog>
  );
}
