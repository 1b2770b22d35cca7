// @vitest-environment happy-dom
import { signal } from "@preact/signals";
import { render } from "preact";
import { act } from "preact/test-utils";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Definition } from "../src/contract.ts";
import type { DataRefLike, OutputFile, Panel } from "../src/ui/model.ts";
import { Editor } from "../src/ui/parts/editor.tsx";
import { Inputs } from "../src/ui/parts/inputs.tsx";
import { Outputs, whyEmpty } from "../src/ui/parts/outputs.tsx";
import {
  type FakeSession,
  fakeParams,
  fakeSession,
  finished,
  record,
  resultOf,
  running,
} from "./support/fake-session.ts";

// happy-dom tells of a changed selection while it changes; browsers do later, which CodeMirror relies on.
document.addEventListener("selectionchange", (event) => event.stopImmediatePropagation(), true);

let page: HTMLElement;
beforeEach(() => {
  page = document.createElement("div");
  document.body.append(page);
});
afterEach(() => {
  act(() => render(null, page));
  page.remove();
});

const named = (name: string) => {
  const found = [...page.querySelectorAll<HTMLElement>("button, a")].find(
    (one) => (one.getAttribute("aria-label") ?? one.textContent)?.trim() === name,
  );
  if (!found) throw new Error(`no button or link is named ${name}`);
  return found;
};
const click = (name: string) => act(() => named(name).click());
const type = (text: string) => {
  const input = page.querySelector<HTMLInputElement>("form input");
  if (!input) throw new Error("there is no field");
  return act(() => {
    input.value = text;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  });
};
const submit = () =>
  act(() => void page.querySelector("form")?.dispatchEvent(new Event("submit", { cancelable: true })));

describe("inputs", () => {
  const show = (change: Partial<FakeSession> = {}) => {
    const session = fakeSession(change);
    session.panel.value = "inputs" as Panel;
    act(() => render(<Inputs session={session} />, page));
    return session;
  };

  it("lists each file where the container finds it", () => {
    show();
    const paths = [...page.querySelectorAll(".inputs-path")].map((one) => one.textContent);
    expect(paths).toEqual(["/etc/app.conf", "/inputs/fit.py", "/inputs/data.csv"]);
  });

  it("makes a file only under a name that keeps the rules, and opens it", () => {
    const session = show();
    click("New file");
    type("fit.py");
    submit();
    expect(page.querySelector(".fault")?.textContent).toMatch(/There is a file fit.py already/);
    expect(page.querySelector("form input")?.getAttribute("aria-invalid")).toBe("true");
    type("lib/util.py");
    submit();
    expect(Object.keys(session.params.inputs.value ?? {})).toContain("lib/util.py");
    expect(session.panel.value).toBe("editor");
  });

  it("renames in place", () => {
    const session = show();
    click("Rename fit.py");
    type("main.py");
    submit();
    expect(Object.keys(session.params.inputs.value ?? {}).sort()).toEqual(["/etc/app.conf", "main.py"]);
    expect(named("Rename main.py")).toBeTruthy();
  });

  it("deletes at once, and takes it back", () => {
    const session = show();
    click("Delete fit.py");
    expect(page.textContent).not.toContain("fit.py");
    act(() => session.notices.value[0]?.action?.run());
    expect(named("Edit fit.py")).toBeTruthy();
  });

  it("makes a file of a pasted text, but not while one types", async () => {
    const session = show();
    const paste = (target: EventTarget) => {
      const event = new Event("paste", { bubbles: true, cancelable: true });
      Object.assign(event, { clipboardData: { types: ["text/plain"], getData: () => "pasted words" } });
      target.dispatchEvent(event);
    };
    click("New file");
    const field = page.querySelector("form input");
    if (field) paste(field);
    paste(document.body);
    await vi.waitFor(() => expect(session.params.inputs.value?.["pasted.txt"]).toBe("pasted words"));
    expect(Object.keys(session.params.inputs.value ?? {})).toHaveLength(3);
  });

  it("gives strangers no address that runs", () => {
    show({
      dynamicInputs: signal<ReadonlyMap<string, DataRefLike>>(
        new Map([["x.html", { type: "url", value: "javascript:alert(1)" }]]),
      ),
    });
    expect(page.textContent).toContain("x.html");
    expect(page.querySelector("a")).toBeNull();
  });
});

describe("outputs", () => {
  const show = (session: FakeSession) => {
    act(() => render(<Outputs session={session} />, page));
    return session;
  };

  it("lists files in folders, with sizes and links to the server", () => {
    show(fakeSession({ scene: "success" }));
    expect([...page.querySelectorAll(".outputs-list .mono")].map((one) => one.textContent)).toEqual([
      "plots/",
      "loss.png",
      "metrics.csv",
      "model.bin",
      "report.html",
    ]);
    const link = named("Download metrics.csv");
    expect(link.getAttribute("href")).toMatch(/\/j\/x\/outputs\/metrics\.csv$/);
    expect(link.getAttribute("download")).toBe("metrics.csv");
    expect(page.textContent).toContain("2.1 kB");
  });

  it("closes a folder", () => {
    show(fakeSession({ scene: "success" }));
    const folder = page.querySelector<HTMLElement>(".outputs-twist");
    act(() => folder?.click());
    expect(folder?.getAttribute("aria-expanded")).toBe("false");
    expect(page.textContent).not.toContain("loss.png");
  });

  it("draws thousands of files a part at a time", () => {
    const session = fakeSession({ scene: "success" });
    session.outputs.value = Array.from(
      { length: 5000 },
      (_, index): OutputFile => ({ name: `f${index}`, size: 1, url: `/f${index}` }),
    );
    show(session);
    expect(page.querySelectorAll(".outputs-row")).toHaveLength(300);
    click("Show 300 more");
    expect(page.querySelectorAll(".outputs-row")).toHaveLength(600);
  });

  it("says which files were not kept, and why", () => {
    const session = fakeSession({ scene: "success" });
    const job = finished("succeeded");
    const result = resultOf(job, { outputsSkipped: [{ name: "pipe", reason: "it is a named pipe" }] });
    session.job.value = { jobId: "a", record: job, result, steps: [] };
    show(session);
    expect(page.textContent).toContain("1 file was not kept");
    expect(page.textContent).toContain("pipe: it is a named pipe");
  });

  it("says why there are none", () => {
    const job = (of: ReturnType<typeof record>) => ({ jobId: "a", record: of, result: resultOf(of), steps: [] });
    expect(whyEmpty(null, null).title).toBe("No outputs yet");
    expect(whyEmpty(job(record()), null).title).toBe("The job waits");
    expect(whyEmpty(job(running()), null).title).toBe("The job is running");
    expect(whyEmpty(job(finished("succeeded")), []).title).toBe("The job wrote no files");
    expect(whyEmpty(job(finished("failed")), [])).toMatchObject({ isBad: true });
    expect(whyEmpty(job(finished("cancelled")), null).title).toBe("The job was stopped");
    expect(whyEmpty(job(finished("succeeded")), null).title).toBe("Loading the list…");
    expect(whyEmpty({ ...job(finished("succeeded")), result: null }, null).title).toBe("The result is not here");
  });
});

describe("editor", () => {
  const open = async (session: FakeSession) => {
    act(() => render(<Editor session={session} />, page));
    return await vi.waitFor(
      () => {
        const content = page.querySelector<HTMLElement>(".cm-content[aria-label]");
        if (!content) throw new Error("no editor yet");
        return content;
      },
      { timeout: 10_000 },
    );
  };
  const viewOf = async () => {
    const { EditorView } = await import("@codemirror/view");
    const view = EditorView.findFromDOM(page.querySelector(".cm-editor") as HTMLElement);
    if (!view) throw new Error("no view");
    return view;
  };
  const session = () =>
    fakeSession({
      params: fakeParams({ inputs: signal<Record<string, string> | undefined>({ "a.txt": "one", "b.txt": "two" }) }),
    });

  it("shows the first file, named for a screen reader, and the others as tabs", async () => {
    const content = await open(session());
    await vi.waitFor(() => expect(content.textContent).toBe("one"));
    expect(page.querySelector(".cm-content")?.getAttribute("aria-label")).toBe("a.txt");
    const tabs = [...page.querySelectorAll("[role=tab]")];
    expect(tabs.map((tab) => [tab.textContent, tab.getAttribute("aria-selected")])).toEqual([
      ["a.txt", "true"],
      ["b.txt", "false"],
    ]);
  });

  it("saves what was typed when the panel closes", async () => {
    const made = session();
    await open(made);
    const view = await viewOf();
    act(() => view.dispatch({ changes: { from: 0, insert: "zero " } }));
    expect(made.unsaved.value).toEqual({ name: "a.txt", text: "zero one" });
    expect(made.params.inputs.value?.["a.txt"]).toBe("one");
    act(() => render(null, page));
    expect(made.params.inputs.value?.["a.txt"]).toBe("zero one");
    expect(made.unsaved.value).toBeNull();
  });

  it("saves when the page goes away, and when another file is chosen", async () => {
    const made = session();
    await open(made);
    const view = await viewOf();
    act(() => view.dispatch({ changes: { from: 0, insert: "1" } }));
    window.dispatchEvent(new Event("pagehide"));
    expect(made.params.inputs.value?.["a.txt"]).toBe("1one");
    act(() => view.dispatch({ changes: { from: 0, insert: "2" } }));
    act(() => page.querySelectorAll<HTMLElement>("[role=tab]")[1]?.click());
    expect(made.params.inputs.value?.["a.txt"]).toBe("21one");
    expect(view.state.doc.toString()).toBe("two");
  });

  it("takes a change from outside, and does not count it as an edit", async () => {
    const made = session();
    await open(made);
    const view = await viewOf();
    act(() => {
      made.params.inputs.value = { "a.txt": "from the host", "b.txt": "two" };
    });
    await vi.waitFor(() => expect(view.state.doc.toString()).toBe("from the host"));
    expect(made.unsaved.value).toBeNull();
  });

  it("saves before it runs", async () => {
    const made = session();
    let atRun: string | undefined;
    made.run = async () => {
      atRun = made.params.inputs.value?.["a.txt"];
    };
    const content = await open(made);
    const view = await viewOf();
    act(() => view.dispatch({ changes: { from: 0, insert: "!" } }));
    content.dispatchEvent(
      new KeyboardEvent("keydown", { key: "Enter", ctrlKey: true, bubbles: true, cancelable: true }),
    );
    expect(atRun).toBe("!one");
  });

  it("makes no style element, which the page's policy forbids", async () => {
    await open(session());
    await viewOf();
    expect(document.querySelectorAll("style")).toHaveLength(0);
    expect(document.adoptedStyleSheets.length).toBeGreaterThan(0);
  });

  it("makes a job's own files the link's before the first edit waits", async () => {
    const job = { image: "a", configFiles: { "a.txt": { value: "one" }, "b.txt": { value: "two" } } };
    const made = fakeSession({
      params: fakeParams({ job: signal<Definition | undefined>(job), inputs: signal(undefined) }),
    });
    await open(made);
    const view = await viewOf();
    act(() => view.dispatch({ changes: { from: 0, insert: "!" } }));
    expect(made.params.inputs.value).toEqual({ "a.txt": "one", "b.txt": "two" });
    expect(made.unsaved.value).toEqual({ name: "a.txt", text: "!one" });
  });

  it("keeps Escape to itself, so that Tab can leave", async () => {
    const content = await open(session());
    const heard = vi.fn();
    document.addEventListener("keydown", heard);
    content.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true, cancelable: true }));
    document.removeEventListener("keydown", heard);
    expect(heard).not.toHaveBeenCalled();
  });

  it("keeps line ends as they are", async () => {
    const made = fakeSession({
      params: fakeParams({ inputs: signal<Record<string, string> | undefined>({ "dos.txt": "a\r\nb\r\n" }) }),
    });
    await open(made);
    const view = await viewOf();
    act(() => view.dispatch({ changes: { from: 0, insert: "x" } }));
    expect(made.unsaved.value?.text).toBe("xa\r\nb\r\n");
  });
});
