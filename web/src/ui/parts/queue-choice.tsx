/** Which queue this page uses: its name, and where it is. */

import { Icon } from "../icons.tsx";
import { Button, Switch } from "../kit.tsx";
import type { Session } from "../model.ts";
import { QueueField } from "./queue-field.tsx";
import { isPublicQueue, newQueueName, queuePlace, queueText } from "./queue-name.ts";

const PREVIOUS = "previous-queue";

export function QueueChoice({ session }: { session: Session }) {
  const { params } = session;
  const isGiven = Boolean(params.queueOverride.value);
  const isLocked = isGiven && !params.ignoreQueueOverride.value;
  const queue = queueText(session);
  const place = queuePlace(queue, location.origin);
  return (
    <div class="queue-choice">
      {isGiven && (
        <Switch
          label="Use the queue of the page around this frame"
          checked={isLocked}
          hint={isLocked ? "Switch it off to choose another one here." : "The page around this frame has set one too."}
          onChange={(checked) => {
            params.ignoreQueueOverride.value = !checked;
          }}
        />
      )}
      <Where session={session} isLocked={isLocked} queue={queue} />
      {queue !== "local" && (
        <>
          <QueueField
            session={session}
            isLocked={isLocked}
            hint="Its name is its key: who has it may use it. It may be an address too: https://server/q/NAME"
          />
          {!isLocked && (
            <div class="queue-make">
              <Button
                icon="lock"
                label={queue ? "Make a new private queue" : "Make a private queue"}
                onClick={() => {
                  if (queue) keep(queue);
                  params.queue.value = newQueueName();
                }}
              />
            </div>
          )}
        </>
      )}
      {queue === "local" && (
        <p class="muted">
          A worker on this computer takes the jobs, started by <code>asman up</code>. Nothing leaves it.
        </p>
      )}
      {session.isLocal.value && !session.localConsent.value && (
        <div class="queue-warning">
          <Icon name="warn" />
          <p>This frame may not use this machine yet. Allow it only if you trust the page around it.</p>
          <Button
            icon="check"
            label="Allow"
            onClick={() => {
              session.localConsent.value = true;
            }}
          />
        </div>
      )}
      {isPublicQueue(place.name) && (
        <div class="queue-warning">
          <Icon name="warn" />
          <p>
            Everybody knows {place.name}: anybody can see these jobs and their files, and anybody's worker may run them.
          </p>
        </div>
      )}
    </div>
  );
}

/** On this machine, or at a server: the one that was used before comes back. */
function Where({ session, isLocked, queue }: { session: Session; isLocked: boolean; queue: string }) {
  const isLocal = queue === "local";
  const choose = (local: boolean) => {
    if (local === isLocal) return;
    if (local && queue) keep(queue);
    session.params.queue.value = local ? "local" : kept() || undefined;
  };
  return (
    <fieldset class="queue-where" disabled={isLocked}>
      <legend class="sr-only">Where jobs run</legend>
      {[false, true].map((local) => (
        <label key={String(local)} class="button">
          <input type="radio" name="queue-where" checked={local === isLocal} onChange={() => choose(local)} />
          {local ? "This machine" : "A server's queue"}
        </label>
      ))}
    </fieldset>
  );
}

function keep(queue: string): void {
  try {
    localStorage.setItem(PREVIOUS, queue);
  } catch {
    // then the field is empty when one comes back
  }
}

function kept(): string {
  try {
    return localStorage.getItem(PREVIOUS) ?? "";
  } catch {
    return "";
  }
}
