/** The page: which part is where. */

import { useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { mayTakeFocus } from "./focus.ts";
import { listen } from "./keys.ts";
import { PanelFrame } from "./kit.tsx";
import type { Panel, Session } from "./model.ts";
import { TITLES } from "./panels.ts";
import { Console, type ConsoleCommands } from "./parts/console.tsx";
import { DropHint } from "./parts/drop-hint.tsx";
import { Footer } from "./parts/footer.tsx";
import { Header } from "./parts/header.tsx";
import { Lazy } from "./parts/lazy.tsx";
import { LinkProblems, Notices } from "./parts/notices.tsx";
import { Ending } from "./parts/status.tsx";
import { Steps } from "./parts/steps.tsx";
import "./layout.css";

export function App({ session }: { session: Session }) {
  if (session.route.value.kind === "queue-page")
    return (
      <div class="app">
        <Lazy session={session} name="queue-page" frame={(children) => <main class="app-message">{children}</main>} />
        <Notices session={session} />
      </div>
    );
  return <JobPage session={session} />;
}

function JobPage({ session }: { session: Session }) {
  const commands = useSignal<ConsoleCommands | null>(null);
  useEffect(() => listen(session, () => commands.peek()), [session]);
  useReturnedFocus(session);
  const isEmpty = useComputed(() => {
    const assembled = session.assembled.value;
    if (session.job.value !== null || !("what" in assembled)) return false;
    const hasNone = session.route.value.kind === "job" && !session.params.job.value;
    return assembled.what === "image" || (assembled.what === "loading" && hasNone);
  });
  const waits = useComputed(() => session.job.value?.record.state === "Queued" && session.why.value !== null);
  const panel = session.panel.value;
  return (
    <div class="app">
      <Header session={session} />
      <div class="content">
        <main class="content-main">
          <LinkProblems session={session} />
          {isEmpty.value ? (
            <div class="content-start">
              <Lazy session={session} name="start" frame={(children) => <div class="app-message">{children}</div>} />
            </div>
          ) : (
            <>
              <Steps session={session} />
              <Ending session={session} />
              {waits.value && (
                <div class="content-why">
                  <Lazy session={session} name="why" frame={() => null} />
                </div>
              )}
              <div class="content-console">
                <Console session={session} commands={commands} />
              </div>
            </>
          )}
        </main>
        {panel !== null && panel !== "help" && !(panel === "start" && isEmpty.value) && (
          <Side session={session} panel={panel} key={panel} />
        )}
      </div>
      <Footer session={session} />
      {panel === "help" && <Lazy session={session} name="help" frame={() => null} />}
      <Notices session={session} />
      <DropHint session={session} />
    </div>
  );
}

/** The open panel. The focus goes to its heading, so that one reads on there. */
function Side({ session, panel }: { session: Session; panel: NonNullable<Panel> }) {
  const side = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const element = side.current;
    if (!element || !mayTakeFocus()) return;
    const before = document.activeElement;
    let own: HTMLElement | null = null;
    /** Until somebody goes on elsewhere. While the part loads there is a heading too, which goes when it is there. */
    const focus = () => {
      const active = document.activeElement;
      if (own?.isConnected && active === own) return;
      const isLost = active === null || active === document.body || (own === null && active === before);
      if (!isLost || own?.isConnected) return observer.disconnect();
      own = element.querySelector<HTMLElement>(".panel-head h2");
      own?.focus({ preventScroll: true });
    };
    const observer = new MutationObserver(focus);
    observer.observe(element, { childList: true, subtree: true });
    focus();
    return () => observer.disconnect();
  }, []);
  return (
    <div ref={side} class={`content-side is-${panel}`}>
      <Lazy
        session={session}
        name={panel}
        frame={(children) => (
          <PanelFrame
            title={TITLES[panel]}
            onClose={() => {
              session.panel.value = null;
            }}
          >
            <div class="app-message">{children}</div>
          </PanelFrame>
        )}
      />
    </div>
  );
}

/** When a panel closes, the focus goes back to what opened it. */
function useReturnedFocus(session: Session): void {
  const opener = useRef<HTMLElement | null>(null);
  const before = useRef<Panel>(null);
  useSignalEffect(() => {
    const panel = session.panel.value;
    if (panel !== null && before.current === null) {
      const active = document.activeElement;
      opener.current = active instanceof HTMLElement && active !== document.body ? active : null;
    }
    if (panel === null && before.current !== null) {
      const target = opener.current?.isConnected ? opener.current : null;
      requestAnimationFrame(() => {
        const isLost = document.activeElement === document.body || document.activeElement === null;
        if (isLost) target?.focus({ preventScroll: true });
      });
    }
    before.current = panel;
  });
}
