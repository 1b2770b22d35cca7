// @vitest-environment happy-dom
import { signal } from "@preact/signals";
import { render } from "preact";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Definition } from "../../src/ui/model.ts";
import { Settings } from "../../src/ui/parts/settings.tsx";
import { fakeParams, fakeSession } from "../support/fake-session.ts";

type Job = Record<string, unknown>;

let root: HTMLElement;
beforeEach(() => {
  localStorage.clear();
  sessionStorage.clear();
  root = document.createElement("div");
  document.body.append(root);
});
afterEach(() => {
  render(null, root);
  root.remove();
});

function open(job: Job, more: { tab?: string; autostart?: boolean; inputs?: Record<string, string> } = {}) {
  localStorage.setItem("settings-tab", more.tab ?? "job");
  const session = fakeSession({
    params: fakeParams({
      job: signal(job as Definition | undefined),
      inputs: signal(more.inputs),
      autostart: signal(more.autostart ?? false),
    }),
  });
  render(<Settings session={session} />, root);
  return { session, params: session.params, job: () => session.params.job.value as Job | undefined };
}

/** The control that this label names. */
function field(label: string): HTMLInputElement {
  const found = [...root.querySelectorAll("label")].find((one) => one.textContent?.trim().startsWith(label));
  const control =
    found?.control ?? document.getElementById(found?.htmlFor ?? "") ?? root.querySelector(`[aria-label^="${label}"]`);
  if (!control) throw new Error(`no field ${label} in: ${root.textContent}`);
  return control as HTMLInputElement;
}

function type(control: HTMLInputElement, text: string) {
  control.value = text;
  control.dispatchEvent(new Event("input", { bubbles: true }));
}

function leave(control: HTMLElement) {
  control.dispatchEvent(new FocusEvent("blur"));
}

const button = (label: string) => {
  const found = [...root.querySelectorAll("button")].find((one) =>
    (one.getAttribute("aria-label") ?? one.textContent)?.trim().startsWith(label),
  );
  if (!found) throw new Error(`no button ${label}`);
  return found;
};
const shows = (text: string | RegExp) => vi.waitFor(() => expect(root.textContent).toMatch(text));
const settled = () => new Promise((done) => setTimeout(done, 30));

describe("a field", () => {
  it("is saved a moment after it was typed, and the change can be taken back", async () => {
    const { job } = open({ image: "a", requirements: { memory: "1g", network: "none" } });
    type(field("Memory"), "2g");
    await shows("Not in the link yet");
    expect(job()).toMatchObject({ requirements: { memory: "1g" } });
    await vi.waitFor(() => expect(job()).toEqual({ image: "a", requirements: { memory: "2g", network: "none" } }));
    await shows("Saved to the link");
    button("Undo: memory").click();
    expect(job()).toEqual({ image: "a", requirements: { memory: "1g", network: "none" } });
    await vi.waitFor(() => expect(field("Memory").value).toBe("2g")); // until it is left
    leave(field("Memory"));
    await vi.waitFor(() => expect(field("Memory").value).toBe("1g"));
  });

  it("is saved when it is left, and when the panel closes", async () => {
    const { job } = open({ image: "a" });
    await settled();
    type(field("Entrypoint"), "sh");
    leave(field("Entrypoint"));
    expect(job()).toEqual({ image: "a", entrypoint: "sh" });
    type(field("Working directory"), "/srv");
    render(null, root);
    expect(job()).toEqual({ image: "a", entrypoint: "sh", workdir: "/srv" });
  });

  it("waits until it is left where the job runs by itself", async () => {
    const { job } = open({ image: "a" }, { autostart: true });
    type(field("Command"), "ls");
    await shows("Saved when you leave the field");
    await new Promise((done) => setTimeout(done, 500));
    expect(job()).toEqual({ image: "a" });
    leave(field("Command"));
    expect(job()).toEqual({ image: "a", command: "ls" });
  });

  it("keeps what is wrong, says why, and the job is known not to run", async () => {
    const { job } = open({ image: "a" });
    type(field("Memory"), "lots");
    leave(field("Memory"));
    expect(job()).toEqual({ image: "a", requirements: { memory: "lots" } });
    await shows(/“?"lots" is not a size. Write sizes like "512m"/);
    await shows("The job cannot run yet: requirements.memory");
    expect(field("Memory").getAttribute("aria-invalid")).toBe("true");
    type(field("Memory"), "");
    leave(field("Memory"));
    expect(job()).toEqual({ image: "a" });
    await vi.waitFor(() => expect(root.textContent).not.toContain("cannot run"));
  });

  it("holds numbers, and what is no number as it was typed", () => {
    const { job } = open({ image: "a", requirements: { disk: "9g", gpus: 1 } });
    type(field("CPU cores"), "1.5");
    leave(field("CPU cores"));
    type(field("GPUs"), "two");
    leave(field("GPUs"));
    expect(job()?.requirements).toEqual({ disk: "9g", gpus: "two", cpus: 1.5 });
  });

  it("says what is more than a public server allows", async () => {
    open({ image: "a", maxDuration: "2d" });
    await shows('"2d" is longer than allowed; at most 24h. A private server may allow more.');
    await shows("The server may refuse this job");
  });

  it("keeps a command that is a list a list", () => {
    const { job } = open({ image: "a", command: ["echo", "a"] });
    expect(field("Command").value).toBe('["echo","a"]');
    type(field("Command"), '["echo","b"]');
    leave(field("Command"));
    expect(job()?.command).toEqual(["echo", "b"]);
  });

  it("takes over from the parameter maxJobDuration", () => {
    const { job, params } = open({ image: "a" });
    params.maxJobDuration.value = "5m";
    type(field("Maximum duration"), "20m");
    leave(field("Maximum duration"));
    expect(job()?.maxDuration).toBe("20m");
    expect(params.maxJobDuration.value).toBeUndefined();
  });

  it("of tags and of the namespace", () => {
    const { job, params } = open({ image: "a" });
    params.control.value = { callbacks: { queued: { url: "https://h" } } };
    type(field("Tags"), " gpu, big ,");
    leave(field("Tags"));
    type(field("Namespace"), "doc 1");
    leave(field("Namespace"));
    expect(job()?.tags).toEqual(["gpu", "big"]);
    expect(params.control.value).toEqual({ callbacks: { queued: { url: "https://h" } }, namespace: "doc 1" });
  });
});

describe("the environment", () => {
  const rows = () => [...root.querySelectorAll<HTMLElement>(".settings-env-row")];
  const parts = (row: HTMLElement | undefined) =>
    [...(row?.querySelectorAll("input, textarea") ?? [])] as HTMLInputElement[];

  it("takes NAME=VALUE in the name, with = in the value, and empty values", async () => {
    const { job } = open({ image: "a", env: { OLD: "1" } });
    button("Add a variable").click();
    await vi.waitFor(() => expect(rows()).toHaveLength(2));
    const [name, value] = parts(rows()[1]);
    if (!name || !value) throw new Error("no row");
    type(name, "A=b=c");
    leave(name);
    leave(value);
    expect(job()?.env).toEqual({ OLD: "1", A: "b=c" });
    type(value, "");
    leave(value);
    expect(job()?.env).toEqual({ OLD: "1", A: "" });
    button("Remove OLD").click();
    expect(job()?.env).toEqual({ A: "" });
  });

  it("keeps the order of its rows, says what is set twice, and never drops a value without a name", async () => {
    const { job } = open({ image: "a", env: { Z: "1", B: "2" } });
    const [name] = parts(rows()[1]);
    if (!name) throw new Error("no row");
    type(name, "Z");
    leave(name);
    await shows("Z is set again below");
    expect(rows()).toHaveLength(2);
    type(name, "");
    leave(name);
    await shows("This value has no name");
    expect(job()?.env).toEqual({ Z: "1", "": "2" });
    await shows("The job cannot run yet");
  });

  it("takes many lines at once, and says what it left out", async () => {
    const { job } = open({ image: "a", env: { A: "old", KEEP: "1" } });
    button("Paste many").click();
    await settled();
    type(field("Lines of KEY=VALUE"), 'export A=1\n# remark\nB="x y"\nnothing\n');
    await settled();
    button("Add them").click();
    expect(job()?.env).toEqual({ KEEP: "1", A: "1", B: "x y" });
    await shows("Left out, because there is no = in them: nothing");
  });

  it("warns of what looks like a secret", async () => {
    open({ image: "a", env: { API_TOKEN: "x", OTHER: "secret:NAME" } });
    await shows(/API_TOKEN looks like a secret/);
  });
});

describe("image or build", () => {
  const choose = async (label: string) => {
    const radio = [...root.querySelectorAll<HTMLInputElement>('input[type="radio"]')].find((one) =>
      one.parentElement?.textContent?.includes(label),
    );
    radio?.click();
    radio?.dispatchEvent(new Event("change", { bubbles: true }));
    await settled();
  };

  it("never leaves the link without either, and loses neither", async () => {
    const { job } = open({ image: "alpine:3", command: "ls" }, { tab: "image" });
    await choose("Build an image");
    expect(job()).toEqual({ image: "alpine:3", command: "ls" });
    await shows("The link still has the image");
    type(field("Platform"), "linux/arm64");
    leave(field("Platform"));
    expect(job()).toEqual({ image: "alpine:3", command: "ls" });
    type(field("Its text"), "FROM alpine\nRUN ls\n");
    leave(field("Its text"));
    await settled();
    expect(job()).toEqual({ command: "ls", build: { platform: "linux/arm64", dockerfile: "FROM alpine\nRUN ls\n" } });
    type(field("Arguments"), "A=1\n\nB=x,y");
    leave(field("Arguments"));
    await settled();
    expect(job()?.build).toMatchObject({ buildArgs: ["A=1", "B=x,y"] });

    await choose("Use an image");
    expect(job()).toEqual({ image: "alpine:3", command: "ls" });
    await choose("Build an image");
    expect(job()?.build).toMatchObject({ platform: "linux/arm64", buildArgs: ["A=1", "B=x,y"] });
    expect(job()?.image).toBeUndefined();
  });

  it("says what is wrong at its field", async () => {
    open({ build: { context: "git@github.com:a/b", buildContext: "../x" } }, { tab: "image" });
    await shows("is not an absolute http or https url");
    await shows("does not stay inside the build context");
  });
});

describe("the definition", () => {
  const json = () => field("Definition");

  it("is shown whole, and taken over only when it is right", async () => {
    const { job, params } = open({ image: "a" }, { tab: "definition", inputs: { "x.py": "print(1)" } });
    expect(JSON.parse(json().value)).toEqual({
      image: "a",
      configFiles: { "x.py": { type: "utf8", value: "print(1)" } },
    });
    type(json(), '{"image": ');
    await shows("This is not JSON");
    expect(button("Use this definition").disabled).toBe(true);
    type(json(), '{"image": "b", "shmSize": "x", "gpu": 1}');
    await shows('shmSize: "x" is not a size');
    await shows('"gpu" is not a known member');
    expect(button("Use this definition").disabled).toBe(true);
    expect(job()).toEqual({ image: "a" });

    const whole = { image: "b", configFiles: { "y.py": { value: "print(2)" } } };
    type(json(), JSON.stringify({ definition: whole, control: { namespace: "n" } }));
    await settled();
    button("Use this definition").click();
    expect(job()).toEqual({ image: "b" });
    expect(params.inputs.value).toEqual({ "y.py": "print(2)" });
    expect(params.control.value).toEqual({ namespace: "n" });
    await settled();
    button("Undo: definition").click();
    expect(job()).toEqual({ image: "a" });
    expect(params.inputs.value).toEqual({ "x.py": "print(1)" });
  });

  it("that is typed and not used yet is there again later", async () => {
    const { session } = open({ image: "a" }, { tab: "definition" });
    type(json(), "{ half");
    await settled();
    render(null, root);
    render(<Settings session={session} />, root);
    expect(json().value).toBe("{ half");
    button("Drop the changes").click();
    await vi.waitFor(() => expect(json().value).toContain('"image": "a"'));
  });

  it("keeps config files in the job where they are not all text", async () => {
    const { job, params } = open({ image: "a" }, { tab: "definition", inputs: { "x.py": "" } });
    const whole = { image: "b", configFiles: { "y.bin": { type: "base64", value: "AAEC" } } };
    type(json(), JSON.stringify(whole));
    await settled();
    button("Use this definition").click();
    expect(job()).toEqual(whole);
    expect(params.inputs.value).toBeUndefined();
  });

  it("declares inputs and outputs, and keeps what else a host wrote", async () => {
    const { params } = open({ image: "a" }, { tab: "definition" });
    params.definition.value = { version: "2", inputs: { old: {} } };
    await settled();
    type(field("Name of a new input"), "data.csv");
    await settled();
    const form = root.querySelector("form");
    form?.dispatchEvent(new Event("submit", { bubbles: true, cancelable: true }));
    expect(params.definition.value).toEqual({ version: "2", inputs: { old: {}, "data.csv": {} } });
    await settled();
    button("Remove old").click();
    await settled();
    button("Remove data.csv").click();
    expect(params.definition.value).toEqual({ version: "2" });
  });
});

it("switches are saved and taken back like fields, and the tab is remembered", async () => {
  const { params } = open({ image: "a" });
  field("Debug").click();
  expect(params.debug.value).toBe(true);
  await settled();
  button("Undo").click();
  expect(params.debug.value).toBe(false);
  button("Image").click();
  expect(localStorage.getItem("settings-tab")).toBe("image");
});
