/** The job of the page for others: as a link, in a page of theirs, and as a program. */

import { useSignal } from "@preact/signals";
import { Icon } from "../icons.tsx";
import { Button, CopyButton, PanelFrame, Switch, Tabs } from "../kit.tsx";
import type { Session } from "../model.ts";
import { isPublicQueue, queuePlace, queueText } from "./queue-name.ts";
import {
  commandLineOf,
  curlOf,
  iframeOf,
  javascriptOf,
  linkOf,
  pythonOf,
  type Shared,
  secretsIn,
  UNTOLD_QUEUE,
} from "./snippets.ts";
import "./share.css";

const TABS = [
  { name: "link", label: "Link" },
  { name: "embed", label: "Embed" },
  { name: "curl", label: "curl" },
  { name: "cli", label: "Command line" },
  { name: "python", label: "Python" },
  { name: "javascript", label: "JavaScript" },
] as const;
type Tab = (typeof TABS)[number]["name"];

export function Share({ session }: { session: Session }) {
  const tab = useSignal<Tab>("link");
  const queue = queueText(session);
  const place = queuePlace(queue, location.origin);
  const isOpen = isPublicQueue(place.name) || place.name === "";
  const isUntold = useSignal(false);
  const assembled = session.assembled.value;
  const secrets = "jobId" in assembled ? secretsIn(assembled.definition as Record<string, unknown>) : [];
  const told = isUntold.value ? null : queue || null;
  const link = linkOf(location.href, told);
  const shared: Shared | null =
    "jobId" in assembled
      ? {
          server: place.server,
          queue: told === null ? UNTOLD_QUEUE : place.name,
          definition: assembled.definition as Record<string, unknown>,
          control: assembled.control,
        }
      : null;
  return (
    <PanelFrame title="Share" onClose={() => (session.panel.value = null)}>
      <div class="share">
        {secrets.length > 0 && (
          <p class="share-warning">
            <Icon name="warn" />
            <span>
              <strong>{secrets.join(", ")}</strong> {secrets.length === 1 ? "looks" : "look"} like a secret. Whoever has
              the link or the job's id can read it. Keep it with the worker and write <code>secret:NAME</code> in the
              settings, then share.
            </span>
          </p>
        )}
        {queue && (
          <Switch label="Leave the queue out" checked={isUntold.value} onChange={(off) => (isUntold.value = off)} />
        )}
        {queue && !isUntold.value && !isOpen && (
          <p class="share-warning">
            <Icon name="lock" />
            <span>
              This holds the queue name <strong>{place.name}</strong>. Who has it can run jobs on its workers and see
              all of its jobs.
            </span>
          </p>
        )}
        {queue && !isUntold.value && isOpen && place.name && (
          <p class="muted">The queue {place.name} is public: everybody can see its jobs.</p>
        )}
        <Tabs name="How to share" tabs={TABS} chosen={tab.value} onChoose={(name) => (tab.value = name)}>
          <div class="share-tab">
            {tab.value === "link" && <Links session={session} link={link} told={told} />}
            {tab.value === "embed" && (
              <Snippet label="For a page of yours" text={iframeOf(link)} isLink>
                Or give the link to a metapage as the address of a metaframe.
              </Snippet>
            )}
            {tab.value !== "link" && tab.value !== "embed" && !shared && (
              <p class="muted">There is no job to run yet. Choose an image in the settings.</p>
            )}
            {shared && <Program tab={tab.value} shared={shared} />}
            {shared && isUntold.value && !["link", "embed"].includes(tab.value) && (
              <p class="muted">
                Put the name of a queue in the place of <code>{UNTOLD_QUEUE}</code>.
              </p>
            )}
          </div>
        </Tabs>
      </div>
    </PanelFrame>
  );
}

function Links({ session, link, told }: { session: Session; link: string; told: string | null }) {
  const job = session.job.value;
  const page = job && linkOf(`${new URL(`./j/${job.jobId}`, document.baseURI)}`, told);
  return (
    <>
      <Snippet label="This page" text={link} isLink>
        Everything of the job is in it, with its input files. The server stores none of it.
      </Snippet>
      {link.length > LONG_LINK && (
        <p class="muted">
          Some programs cut links as long as this one.{" "}
          {page ? "That of the run is short." : "Once it runs, there is a short one."}
        </p>
      )}
      {page && (
        <Snippet label="This run" text={page} isLink>
          Shorter: shows this job with its log and outputs, while the server keeps them.
        </Snippet>
      )}
    </>
  );
}

function Program({ tab, shared }: { tab: Tab; shared: Shared }) {
  switch (tab) {
    case "curl":
      return (
        <Snippet label="Submit, and wait for the result" text={curlOf(shared)}>
          The answer has the result if the job ends within five minutes.
        </Snippet>
      );
    case "cli":
      return (
        <>
          <Snippet label="Run, follow the log and fetch the outputs" text={commandLineOf(shared, "run")} />
          <Snippet label="Submit only, and print the job's id" text={commandLineOf(shared, "submit")} />
          <p class="muted">
            Needs <code>pip install "asman[client]"</code>
          </p>
        </>
      );
    case "python":
      return (
        <Snippet label="Submit, and wait for the result" text={pythonOf(shared)}>
          Needs nothing but Python.
        </Snippet>
      );
    case "javascript":
      return (
        <Snippet label="Run, and list the outputs" text={javascriptOf(shared)}>
          For browsers, Node and others with fetch. The module is in asman's folder web.
        </Snippet>
      );
    default:
      return null;
  }
}

/** A line with a link has so many characters before somebody asks for all: a large job's is a wall. */
const SHOWN = 240;
/** Chat programs and mail cut longer ones. */
const LONG_LINK = 2_000;

interface SnippetProps {
  label: string;
  text: string;
  isLink?: boolean;
  children?: string;
}

function Snippet({ label, text, isLink = false, children }: SnippetProps) {
  const isWhole = useSignal(false);
  const beginning = text.replaceAll(new RegExp(`^(.{${SHOWN}}).+$`, "gm"), "$1…");
  const isLong = isLink && beginning !== text;
  const isCut = isLong && !isWhole.value;
  return (
    <section class="share-snippet" aria-label={label}>
      <header>
        <h3>{label}</h3>
        <CopyButton text={() => text} aria-label={`Copy: ${label}`} />
      </header>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached by keyboard */}
      <pre tabIndex={0}>{isCut ? beginning : text}</pre>
      {isLong && (
        <Button
          tone="plain"
          label={isCut ? `Show all ${text.length.toLocaleString()} characters` : "Show its beginning only"}
          aria-expanded={isWhole.value}
          onClick={() => {
            isWhole.value = !isWhole.value;
          }}
        />
      )}
      {children && <p class="muted">{children}</p>}
    </section>
  );
}
