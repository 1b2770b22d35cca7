/** The page's entry: a session, and the parts that show it. What goes wrong is said, never a blank page. */

import { Component, type ComponentChildren, render } from "preact";
import { App } from "./app.tsx";
import { keepOverReload } from "./leaving.ts";
import type { Session } from "./model.ts";
import { createSession } from "./session.ts";
import "./theme.css";

const EDITOR_FITS = "(min-width: 600px) and (min-height: 300px)";

function Fault({ error }: { error: unknown }) {
  const said = error instanceof Error ? error.message : String(error);
  return (
    <main aria-live="assertive" style={{ padding: "2rem", maxWidth: "40rem" }}>
      <h1>This page could not be shown</h1>
      <p>{said}</p>
      <p>
        Load it again. If that does not help, <a href="./">start with an empty page</a> and open the link once more:
        your jobs and their results are kept on the server.
      </p>
    </main>
  );
}

class Boundary extends Component<{ children: ComponentChildren }, { error: unknown }> {
  override state: { error: unknown } = { error: null };

  static override getDerivedStateFromError(error: unknown) {
    return { error };
  }

  override render() {
    return this.state.error === null ? this.props.children : <Fault error={this.state.error} />;
  }
}

/** Denied in some frames, where even asking throws. */
function database(): IDBFactory | null {
  try {
    return window.indexedDB;
  } catch {
    return null;
  }
}

/** A link with files is one to edit, unless it asks for the log first. On a small page the log has the place. */
function opensEditor({ route, params }: Session): boolean {
  const hasFiles = Object.keys(params.inputs.peek() ?? {}).length > 0;
  return route.peek().kind === "job" && hasFiles && !params.terminal.peek() && matchMedia(EDITOR_FITS).matches;
}

const root = document.getElementById("page");
if (root) {
  try {
    keepOverReload(window);
    const session = createSession({ window, database: database() });
    if (opensEditor(session)) session.panel.value = "editor";
    render(
      <Boundary>
        <App session={session} />
      </Boundary>,
      root,
    );
  } catch (error) {
    render(<Fault error={error} />, root);
  }
}
