/** The command that starts a worker of this queue, one that fits the job, ready to copy. */

import { useSignal } from "@preact/signals";
import { Button, CopyButton } from "../kit.tsx";
import type { Session } from "../model.ts";
import { isOpenQueue, maskQueue } from "./footer.tsx";
import { needsHere, workerOptions } from "./needs.ts";
import { workerCommands } from "./snippets.ts";
import "./worker-start.css";

/** A private queue's name is hidden in it until it is asked for; what is copied has it. */
export function WorkerStart({ session }: { session: Session }) {
  const isShown = useSignal(false);
  const queue = session.queue.value;
  if (!queue) return null;
  const lacksServer = session.isLocal.value && queue === "local" && session.connection.value !== "connected";
  const server = session.client.value.server || location.origin;
  const { plain, docker } = workerCommands(server, queue, { lacksServer, options: workerOptions(needsHere(session)) });
  const isSecret = !isOpenQueue(queue);
  const hide = (text: string) => (isSecret && !isShown.value ? text.replaceAll(queue, maskQueue(queue)) : text);
  return (
    <div class="worker-start">
      <div class="worker-start-command">
        {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached by keyboard */}
        <pre tabIndex={0}>{hide(plain)}</pre>
        {isSecret && (
          <Button
            icon="eye"
            iconOnly
            tone="plain"
            label={isShown.value ? "Hide the queue's name in the command" : "Show the queue's name in the command"}
            aria-pressed={isShown.value}
            onClick={() => {
              isShown.value = !isShown.value;
            }}
          />
        )}
        <CopyButton text={() => plain} title="Copy the command" />
      </div>
      <details>
        <summary>As a container, and how to install it</summary>
        <div class="worker-start-command">
          {/* biome-ignore lint/a11y/noNoninteractiveTabindex: as above */}
          <pre tabIndex={0}>{hide(docker)}</pre>
          <CopyButton text={() => docker} title="Copy the command for Docker" />
        </div>
        <p class="muted">
          The image asman-worker is made by deploy/worker/build. Without it: <code>pip install "asman[worker]"</code>,
          then the first command.
        </p>
      </details>
    </div>
  );
}
