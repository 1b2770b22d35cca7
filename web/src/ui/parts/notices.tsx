/** What a person should know, at the lower edge: nothing moves when one comes. */

import { Icon } from "../icons.tsx";
import { Button } from "../kit.tsx";
import type { Notice, Session } from "../model.ts";
import "./notices.css";

const ICONS = { error: "bad", warning: "warn", note: "check" } as const;

export function Notices({ session }: { session: Session }) {
  const notices = session.notices.value;
  const isOffline = session.connection.value === "offline";
  return (
    <div class="notices">
      <div aria-live="assertive">
        {notices
          .filter(({ kind }) => kind === "error")
          .map((notice) => (
            <Card key={notice.id} session={session} notice={notice} />
          ))}
      </div>
      <div aria-live="polite">
        {isOffline && (
          <div class="notice notice-offline is-warning">
            <Icon name="offline" />
            <div class="notice-words">
              <strong>You are offline.</strong> A job that you run now is sent once, when the connection is back.
            </div>
          </div>
        )}
        {notices
          .filter(({ kind }) => kind !== "error")
          .map((notice) => (
            <Card key={notice.id} session={session} notice={notice} />
          ))}
      </div>
    </div>
  );
}

function Card({ session, notice }: { session: Session; notice: Notice }) {
  const { id, kind, text, hint, action } = notice;
  return (
    <div class={`notice is-${kind}`}>
      <Icon name={ICONS[kind]} />
      <div class="notice-words">
        {text}
        {hint && <div class="notice-hint">{hint}</div>}
      </div>
      {action && (
        <Button
          label={action.label}
          onClick={() => {
            session.dismiss(id);
            action.run();
          }}
        />
      )}
      <Button icon="close" iconOnly tone="plain" label="Dismiss" onClick={() => session.dismiss(id)} />
    </div>
  );
}

/** Parts of the link that could not be read: what is wrong, and what to do. */
export function LinkProblems({ session }: { session: Session }) {
  const problems = session.linkProblems.value;
  if (!problems.length) return null;
  return (
    <div class="link-problems" role="alert">
      <Icon name="warn" />
      <div>
        <strong>{problems.length === 1 ? "A part" : "Parts"} of this link could not be read.</strong> The rest of it is
        used.
        <ul>
          {problems.map(({ parameter, text, hint }) => (
            <li key={parameter}>
              {text} {hint}
            </li>
          ))}
        </ul>
        <Button
          icon="settings"
          label="Open settings"
          onClick={() => {
            session.panel.value = "settings";
          }}
        />
      </div>
    </div>
  );
}
