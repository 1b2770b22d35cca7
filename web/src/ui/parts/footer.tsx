/** What runs, on which queue, and whether the server is there. */

import { useSignal } from "@preact/signals";
import { Icon } from "../icons.tsx";
import { Button } from "../kit.tsx";
import type { Connection, Session } from "../model.ts";
import { isOpenQueue, maskQueue } from "./queue-name.ts";
import { Reveal } from "./reveal.tsx";
import "./footer.css";

const CONNECTIONS: Record<Connection, { text: string; isBad: boolean }> = {
  none: { text: "", isBad: false },
  connecting: { text: "connecting…", isBad: false },
  connected: { text: "", isBad: false },
  reconnecting: { text: "reconnecting…", isBad: true },
  offline: { text: "offline", isBad: true },
};

export function Footer({ session }: { session: Session }) {
  const connection = CONNECTIONS[session.connection.value];
  return (
    <footer class="footer">
      <What session={session} />
      <div class="footer-right">
        <span class={`footer-connection${connection.isBad ? " tone-warn" : " muted"}`} role="status">
          {connection.isBad && <Icon name="offline" />}
          {connection.text && <span class="footer-words">{connection.text}</span>}
        </span>
        <QueueName session={session} />
        <span class="footer-wide">
          <Button
            icon="help"
            iconOnly
            tone="plain"
            label="Help and keys"
            onClick={() => {
              session.panel.value = "help";
            }}
          />
        </span>
      </div>
    </footer>
  );
}

/** The main file, to be edited; without one the command. */
function What({ session }: { session: Session }) {
  const { inputs, job } = session.params;
  const file = mainFile(inputs.value);
  if (file)
    return (
      <Button
        class="footer-what"
        icon="edit"
        tone="plain"
        label={session.unsaved.value ? `${file}, not saved` : file}
        title={`Edit ${file}`}
        aria-expanded={session.panel.value === "editor"}
        onClick={() => {
          session.panel.value = session.panel.peek() === "editor" ? null : "editor";
        }}
      />
    );
  const command = commandText(job.value?.command);
  if (!command && !job.value?.image) return <span />;
  return (
    <Button
      class="footer-what mono"
      tone="plain"
      label={command || `${job.value?.image}: its own command`}
      title={`${command}\nChange it in the settings`}
      onClick={() => {
        session.panel.value = "settings";
      }}
    />
  );
}

/** The alphabetically first file of the job's own. */
export function mainFile(inputs: Record<string, string> | undefined): string | null {
  return Object.keys(inputs ?? {}).sort()[0] ?? null;
}

function commandText(command: unknown): string {
  return Array.isArray(command) ? command.join(" ") : typeof command === "string" ? command : "";
}

function QueueName({ session }: { session: Session }) {
  const isShown = useSignal(false);
  const queue = session.queue.value;
  const workers = session.workers.value.length;
  const isConnected = session.connection.value === "connected";
  const tone = !queue ? "tone-bad" : isConnected && workers === 0 ? "tone-warn" : "";
  const count = workers === 1 ? "1 worker" : `${workers} workers`;
  const name = !queue ? "No queue" : isOpenQueue(queue) || isShown.value ? queue : maskQueue(queue);
  return (
    <span class="footer-queue">
      <Button
        class={`footer-queue-name ${tone}`}
        icon={tone ? "warn" : "queue"}
        tone="plain"
        label={name}
        title={!queue ? "Choose a queue" : `Queue with ${count}: jobs and workers`}
        aria-label={!queue ? "No queue: choose one" : `Queue ${name}, ${count}`}
        aria-expanded={session.panel.value === "queue"}
        onClick={() => {
          session.panel.value = session.panel.peek() === "queue" ? null : "queue";
        }}
      />
      {queue && !isOpenQueue(queue) && (
        <span class="footer-wide">
          <Reveal isShown={isShown} />
        </span>
      )}
    </span>
  );
}
