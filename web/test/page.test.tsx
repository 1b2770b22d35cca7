// @vitest-environment happy-dom
import { signal } from "@preact/signals";
import { render } from "preact";
import { act } from "preact/test-utils";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { App } from "../src/ui/app.tsx";
import { Dialog, PanelFrame } from "../src/ui/kit.tsx";
import { PANELS, type Part } from "../src/ui/panels.ts";
import { Console, type ConsoleCommands } from "../src/ui/parts/console.tsx";
import { Footer } from "../src/ui/parts/footer.tsx";
import { Header } from "../src/ui/parts/header.tsx";
import { Help } from "../src/ui/parts/help.tsx";
import { LinkProblems, Notices } from "../src/ui/parts/notices.tsx";
import { type FakeSession, fakeSession, finished, JOB_ID, SCENES, type Scene } from "./support/fake-session.ts";

let root: HTMLElement;

beforeEach(() => {
  root = document.createElement("div");
  document.body.replaceChildren(root);
  localStorage.clear();
});

afterEach(() => {
  render(null, root);
});

const shown = async (part: (session: FakeSession) => preact.ComponentChild, scene: Scene = "ready") => {
  const session = fakeSession({ scene });
  await act(() => render(part(session), root));
  return session;
};
const button = (name: string | RegExp) => {
  const found = [...root.querySelectorAll("button")].find((each) => {
    const own = each.getAttribute("aria-label") ?? each.textContent ?? "";
    return typeof name === "string" ? own === name : name.test(own);
  });
  if (!found) throw new Error(`no button ${name}`);
  return found;
};
const press = (name: string | RegExp) => act(() => button(name).click());
const frames = (count = 3) =>
  act(async () => {
    for (let i = 0; i < count; i++) await new Promise((resolve) => requestAnimationFrame(resolve));
  });
const rows = () => [...root.querySelectorAll(".log-text")].map((each) => each.textContent);

describe("the page", () => {
  it.each(SCENES.filter((scene) => scene !== "long-log" && scene !== "queue-page"))("shows %s", async (scene) => {
    await shown((session) => <App session={session} />, scene);
    await vi.waitFor(async () => {
      await frames(); // a part that is fetched when it is shown takes its time
      expect(root.querySelectorAll("button:not([aria-label])").length).toBeGreaterThan(0);
    });
    expect(root.querySelector(".status-title")?.textContent).not.toBe("");
    for (const each of root.querySelectorAll("button, a"))
      expect((each.getAttribute("aria-label") ?? each.textContent)?.trim(), each.outerHTML).not.toBe("");
  });

  it("gives the focus back to what opened a panel", async () => {
    const session = await shown((each) => <App session={each} />, "success");
    const opener = button(/^Outputs/);
    opener.focus();
    await press(/^Outputs/);
    expect(session.panel.value).toBe("outputs");
    expect(opener.getAttribute("aria-expanded")).toBe("true");
    (document.activeElement as HTMLElement).blur();
    await act(() => {
      session.panel.value = null;
    });
    await frames();
    expect(document.activeElement).toBe(opener);
  });
});

describe("what comes a moment later", () => {
  /** As browsers do it: `open` goes at once, the event comes later. */
  const asBrowsers = () =>
    vi.spyOn(HTMLDialogElement.prototype, "close").mockImplementation(function (this: HTMLDialogElement) {
      this.removeAttribute("open");
      setTimeout(() => this.dispatchEvent(new Event("close")), 5);
    });
  const pressEscape = (target: Element | null) =>
    target?.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true, cancelable: true }));
  const dialog = () => root.querySelector<HTMLDialogElement>("dialog");
  afterEach(() => vi.restoreAllMocks());

  it("the word that a dialog closed does not close what was opened since", async () => {
    asBrowsers();
    const session = await shown((each) => <App session={each} />, "success");
    session.panel.value = "help";
    await vi.waitFor(() => expect(dialog()?.open).toBe(true));
    pressEscape(dialog());
    expect(session.panel.value).toBeNull(); // not a moment later
    session.panel.value = "outputs";
    await act(() => new Promise((done) => setTimeout(done, 30)));
    expect(session.panel.value).toBe("outputs");
  });

  it.each([
    ["Escape", () => pressEscape(dialog())],
    ["its button", () => button("Close").click()],
    ["a gesture of the browser's", () => dialog()?.dispatchEvent(new Event("cancel", { cancelable: true }))],
    ["the browser, unasked", () => dialog()?.close()],
  ])("a dialog that goes by %s says so once", async (_, go) => {
    asBrowsers();
    const closed = vi.fn();
    await act(() => render(<Dialog title="A dialog" onClose={closed} children="words" />, root));
    expect(dialog()?.open).toBe(true);
    go();
    await new Promise((done) => setTimeout(done, 30));
    expect(closed).toHaveBeenCalledOnce();
    expect(dialog()?.open).toBe(false);
  });

  it("what is typed right after the search was asked for is searched, and is no key of the page", async () => {
    const commands = signal<ConsoleCommands | null>(null);
    await shown((session) => <Console session={session} commands={commands} />, "success");
    commands.value?.search();
    await Promise.resolve(); // the next key comes after this, a frame may take longer
    await Promise.resolve();
    expect(document.activeElement?.getAttribute("aria-label")).toBe("Search the log");
  });

  it.each([
    ["share", false],
    ["history", true],
  ] as const)("%s that took long to load has the focus, unless somebody went on: %s", async (name, hasGoneOn) => {
    const session = await shown((each) => <App session={each} />, "success");
    const other = document.body.appendChild(document.createElement("input"));
    let loaded: (part: Part) => void = () => {};
    vi.spyOn(PANELS, name).mockImplementation(() => new Promise((resolve) => (loaded = resolve)));
    await act(() => {
      session.panel.value = name;
    });
    await frames();
    expect(document.activeElement?.tagName).toBe("H2");
    if (hasGoneOn) other.focus();
    loaded(() => <PanelFrame title="It is here" onClose={() => {}} children="words" />);
    await vi.waitFor(() => expect(root.textContent).toContain("It is here"));
    await frames();
    if (hasGoneOn) expect(document.activeElement).toBe(other);
    else expect(document.activeElement?.textContent).toBe("It is here");
  });
});

describe("header", () => {
  it.each<[Scene, string, string]>([
    ["ready", "Run", "run"],
    ["success", "Re-run", "run"],
    ["running", "Stop", "stop"],
  ])("%s: %s", async (scene, label, call) => {
    const session = await shown((each) => <Header session={each} />, scene);
    await press(label);
    expect(session.calls.map(({ name }) => name)).toEqual([call]);
    expect(session.calls[0]?.values).toEqual(label === "Re-run" ? [{ again: true }] : []);
  });

  it("saves the edit before it runs", async () => {
    const session = await shown((each) => <Header session={each} />, "unsaved");
    await press("Save + Run");
    expect(session.params.inputs.value?.["fit.py"]).toBe("print('new')\n");
    expect(session.unsaved.value).toBeNull();
    expect(session.calls).toEqual([{ name: "run", values: [] }]);
  });

  it("says what went wrong, and tries again", async () => {
    const session = await shown((each) => <Header session={each} />);
    let tries = 0;
    session.run = async () => {
      tries++;
      throw Object.assign(new Error("the server is full"), { hint: "Wait a minute." });
    };
    await press("Run");
    await frames(1);
    expect(session.notices.value[0]).toMatchObject({
      kind: "error",
      text: "The job was not sent: the server is full",
      hint: "Wait a minute.",
    });
    session.notices.value[0]?.action?.run();
    expect(tries).toBe(2);
  });

  it("has what is rare, and in a narrow page all, in a menu", async () => {
    const session = await shown((each) => <Header session={each} />, "success");
    await press("More");
    const names = [...root.querySelectorAll(".menu-list button")].map((each) => each.textContent?.replace(/\d/g, ""));
    expect(names).toEqual([
      "Inputs",
      "Outputs",
      "Settings",
      "Share",
      "History",
      "Queue",
      "Help and keys",
      "Clear result",
    ]);
    await press("Clear result");
    expect(session.calls).toEqual([{ name: "clear", values: [] }]);
    expect(root.querySelector(".menu-list")).toBeNull();
  });

  it("links to the job's page, with its queue", async () => {
    const session = await shown((each) => <Header session={each} />, "success");
    expect(root.querySelector(".status-id")?.getAttribute("href")).toBe(`/j/${JOB_ID}#?queue=public1`);
    await act(() => {
      session.queue.value = "a b";
    });
    expect(root.querySelector(".status-id")?.getAttribute("href")).toBe(`/j/${JOB_ID}#?queue=a%20b`);
  });

  it("ticks while it runs", async () => {
    vi.useFakeTimers({ now: Date.now(), toFake: ["setInterval", "clearInterval", "Date"] });
    try {
      await shown((each) => <Header session={each} />, "running");
      const before = root.querySelector(".status-time")?.textContent;
      await act(() => void vi.advanceTimersByTime(61_000));
      expect(root.querySelector(".status-time")?.textContent).not.toBe(before);
    } finally {
      vi.useRealTimers();
    }
  });

  it("reads out the title when it changes, and not the time", async () => {
    const session = await shown((each) => <Header session={each} />, "running");
    const live = root.querySelector(".status-title [aria-live]");
    expect(live?.textContent).toBe("Running");
    await act(() => {
      session.job.value = { jobId: JOB_ID, record: finished("failed"), result: null, steps: [] };
    });
    expect(live?.textContent).toBe("Failed");
    expect(document.title).toBe("Failed – asman");
  });
});

describe("footer", () => {
  it("masks a queue's name until somebody asks", async () => {
    const session = await shown((each) => <Footer session={each} />);
    await act(() => {
      session.queue.value = "correct-horse-battery";
    });
    expect(root.textContent).not.toContain("horse");
    expect(root.innerHTML).not.toContain("horse");
    await press("Show the queue's name");
    expect(root.textContent).toContain("correct-horse-battery");
  });

  it.each([
    ["public1", "public1"],
    ["local", "local"],
  ])("shows %s, which is no secret", async (queue, words) => {
    const session = await shown((each) => <Footer session={each} />);
    await act(() => {
      session.queue.value = queue;
    });
    expect(root.textContent).toContain(words);
  });

  it("says when there is no queue, no worker, no connection", async () => {
    const session = await shown((each) => <Footer session={each} />);
    expect(button(/^Queue public1/).getAttribute("aria-label")).toBe("Queue public1, 2 workers");
    await act(() => {
      session.workers.value = [];
    });
    expect(button(/^Queue/).className).toContain("tone-warn");
    await act(() => {
      session.connection.value = "reconnecting";
    });
    expect(root.querySelector("[role=status]")?.textContent).toBe("reconnecting…");
    await act(() => {
      session.queue.value = "";
    });
    expect(button(/^No queue/).className).toContain("tone-bad");
  });

  it("opens the first file, or shows the command", async () => {
    const session = await shown((each) => <Footer session={each} />);
    await press(/app.conf/);
    expect(session.panel.value).toBe("editor");
    await act(() => {
      session.params.inputs.value = undefined;
    });
    expect(root.querySelector(".footer-what")?.textContent).toBe("python /inputs/fit.py --epochs 20");
  });
});

describe("notices", () => {
  it("tell errors at once, other things politely, with what to do", async () => {
    const session = await shown((each) => <Notices session={each} />, "notices");
    expect(root.querySelector("[aria-live=assertive]")?.textContent).toContain("the server is full");
    expect(root.querySelector("[aria-live=polite]")?.textContent).toContain("Saved.");
    const run = vi.fn();
    await act(() => {
      session.notices.value = [{ id: 9, kind: "error", text: "It failed", action: { label: "Again", run } }];
    });
    await press("Again");
    expect(run).toHaveBeenCalledOnce();
    expect(session.notices.value).toEqual([]);
  });

  it("say that one is offline", async () => {
    await shown((each) => <Notices session={each} />, "offline");
    expect(root.textContent).toContain("You are offline.");
  });

  it("explain a link that could not be read", async () => {
    const session = await shown((each) => <LinkProblems session={each} />, "bad-link");
    expect(root.querySelector("[role=alert]")?.textContent).toContain("job");
    await press("Open settings");
    expect(session.panel.value).toBe("settings");
  });
});

describe("help", () => {
  it("lists the keys, and turns letters off", async () => {
    const session = await shown((each) => <Help session={each} />);
    expect(root.querySelectorAll("tbody tr").length).toBeGreaterThan(10);
    await act(() => root.querySelector<HTMLInputElement>("[role=switch]")?.click());
    expect(localStorage.getItem("letter-keys")).toBe("off");
    await act(() => root.querySelector<HTMLInputElement>("[role=switch]")?.click());
    await act(() => button("Close").click());
    expect(session.panel.value).toBeNull();
  });
});

describe("console", () => {
  it("shows strangers' text as text", async () => {
    const session = await shown((each) => <Console session={each} />);
    session.log.add("run", [
      "<img src=x onerror=alert(1)>",
      "<script>alert(1)</script>",
      "\u001b]8;;javascript:alert(1)\u0007click\u001b]8;;\u0007",
      "https://a.example/<b>x</b>",
    ]);
    await frames();
    expect(rows()).toEqual([
      "<img src=x onerror=alert(1)>",
      "<script>alert(1)</script>",
      "click",
      "https://a.example/<b>x</b>",
    ]);
    expect(root.querySelector(".log-port img, .log-port script, .log-port b")).toBeNull();
    const links = [...root.querySelectorAll<HTMLAnchorElement>(".log-text a")];
    expect(links.map((each) => each.getAttribute("href"))).toEqual(["https://a.example/"]);
    expect(links[0]?.rel).toContain("noopener");
    expect(links[0]?.target).toBe("_blank");
  });

  it("draws few of many lines", async () => {
    const session = await shown((each) => <Console session={each} />);
    session.log.add(
      "run",
      Array.from({ length: 50_000 }, (_, i) => `line ${i}`),
    );
    await frames(20);
    expect(root.querySelectorAll(".log-row").length).toBeLessThan(200);
  });

  it("folds the build log when the run begins, and opens it again", async () => {
    const session = await shown((each) => <Console session={each} />);
    session.log.add("build", ["pulling"]);
    await frames();
    expect(rows()).toEqual(["pulling"]);
    session.log.add("run", ["hello"]);
    await frames();
    expect(rows()).toEqual(["hello"]);
    await press(/Build log \(1 line\)/);
    expect(rows()).toEqual(["pulling", "hello"]);
  });

  it("splits the streams, and marks stderr for those who listen", async () => {
    const session = await shown((each) => <Console session={each} />);
    session.log.add("run", ["out"]);
    session.log.add("run", ["err"], { isStderr: true });
    await frames();
    expect(root.querySelector(".is-stderr")?.textContent).toBe("stderr: err");
    await press("Split the two streams");
    await frames();
    const panes = [...root.querySelectorAll("[role=log]")];
    expect(panes.map((pane) => pane.querySelector(".log-text")?.textContent)).toEqual(["out", "err"]);
    expect(JSON.parse(localStorage.getItem("console-split") ?? "")).toBe(true);
  });

  it("shows times of the clock, then since the start", async () => {
    const session = await shown((each) => <Console session={each} />);
    session.log.add("run", ["first"], { time: 1_000_000 });
    session.log.add("run", ["second"], { time: 1_002_500 });
    await frames();
    expect(root.querySelector("time")).toBeNull();
    await press("Times: off");
    expect(root.querySelector("time")?.textContent).toMatch(/^\d\d:\d\d:\d\d\.000$/);
    await press("Times: local");
    expect([...root.querySelectorAll("time")].map((each) => each.textContent)).toEqual(["+0:00.000", "+0:02.500"]);
  });

  it("searches all lines, and walks through what was found", async () => {
    const commands = signal<ConsoleCommands | null>(null);
    const session = await shown((each) => <Console session={each} commands={commands} />);
    session.log.add("build", ["needle in the build"]);
    session.log.add(
      "run",
      Array.from({ length: 5_000 }, (_, i) => (i % 1_000 === 999 ? `a Needle ${i}` : `hay ${i}`)),
    );
    await frames(10);
    await act(() => commands.value?.search());
    const input = root.querySelector<HTMLInputElement>("input[type=search]") as HTMLInputElement;
    const type = (text: string) =>
      act(() => {
        input.value = text;
        input.dispatchEvent(new Event("input", { bubbles: true }));
      });
    await type("needle");
    await frames(10);
    const count = () => root.querySelector(".console-count")?.textContent;
    expect(count()).toBe("1 of 6");
    expect(rows()[0]).toBe("needle in the build"); // the fold was opened
    expect(root.querySelector("mark.current")?.textContent).toBe("needle");
    await press("Next match");
    expect(count()).toBe("2 of 6");
    await press("Previous match");
    await press("Previous match");
    expect(count()).toBe("6 of 6");
    await press(/match capital letters/);
    await frames(10);
    expect(count()).toBe("1 of 1");
    await type("nothing like it");
    await frames(10);
    expect(count()).toBe("not found");
    await press("Close search");
    expect(root.querySelector("mark")).toBeNull();
  });

  it("copies every line once, without codes", async () => {
    const session = await shown((each) => <Console session={each} />);
    session.log.add("build", ["pull"]);
    session.log.add("run", ["\u001b[31mred\u001b[0m", "", " 0%\r99%"]);
    await frames();
    const writeText = vi.fn(async () => {});
    vi.stubGlobal("navigator", { ...navigator, clipboard: { writeText } });
    await press("Copy the log");
    vi.unstubAllGlobals();
    expect(writeText).toHaveBeenCalledWith("pull\nred\n\n99%");
  });

  it("cuts a huge line, and shows more of it on demand", async () => {
    const session = await shown((each) => <Console session={each} />);
    session.log.add("run", ["x".repeat(1_000_000)]);
    await frames();
    const drawn = () => root.querySelector(".log-text")?.firstChild?.textContent?.length;
    expect(drawn()).toBe(4_000);
    await press(/^Show more of 1,000,000/);
    expect(drawn()).toBe(40_000);
  });

  it("says what was left out", async () => {
    const session = await shown((each) => <Console session={each} />);
    session.log.add("run", ["a", "b", "c"]);
    (session.log.lines("run") as unknown[]).splice(1, 1);
    session.log.dropped.value = 1;
    session.log.version.value++;
    await frames();
    expect(root.querySelector(".console-dropped")?.textContent).toBe("1 line left out");
    expect(root.querySelector(".log-gap")?.textContent).toContain("1 line left out here");
  });

  it("is a log that is not read out line by line", async () => {
    await shown((each) => <Console session={each} />, "running");
    const port = root.querySelector("[role=log]");
    expect(port?.getAttribute("aria-live")).toBe("off");
    expect(port?.getAttribute("tabindex")).toBe("0");
  });
});
