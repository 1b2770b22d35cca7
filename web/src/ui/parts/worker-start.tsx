/** The command that starts a worker of this queue, one that fits the job, ready to copy. */

import { useSignal } from "@preact/signals";
import { Button, CopyButton } from "../kit.tsx";
import type { Session } from "../model.ts";
import { needsHere, workerOptions } from "./needs.ts";
import { isOpenQueue, maskQueue, queueText } from "./queue-name.ts";
import { workerCommands } from "./snippets.ts";
import "./worker-start.css";

/** A private queue's name is hidden in it until it is asked for; what is copied has it. */
export function WorkerStart({ session }: { session: Session }) {
  const isShown = useSignal(false);
  const queue = session.queue.value;
  if (!queue) return null;
  const lacksServer = queueText(session) === "local" && session.connection.value !== "connected";
  const server = session.client.value.server || location.origin;
  const isSecret = !isOpenQueue(queue);
  const mask = isSecret && !isShown.value ? maskQueue(queue) : queue;
  const how = { lacksServer, options: workerOptions(needsHere(session)) };
  const { plain, docker } = workerCommands(server, queue, how);
  const seen = workerCommands(server, mask, how);
  const bare = (text: string) => text.replace(`'${mask}'`, mask); // what hides it needs no quotes
  return (
    <div class="worker-start">
      <div class="worker-start-command">
        {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached by keyboard */}
        <pre tabIndex={0}>{bare(seen.plain)}</pre>
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
          <pre tabIndex={0}>{bare(seen.docker)}</pre>
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
