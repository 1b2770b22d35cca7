// @vitest-environment happy-dom
import { afterEach, describe, expect, it } from "vitest";
import { isText, KEYS, keyFor, listen, type Pressed, setLetters } from "../src/ui/keys.ts";
import { fakeSession } from "./support/fake-session.ts";

const pressed = (key: string, more: Partial<Pressed> = {}): Pressed => ({
  key,
  ctrlKey: false,
  metaKey: false,
  altKey: false,
  shiftKey: false,
  isComposing: false,
  ...more,
});

afterEach(() => setLetters(true));

describe("keys", () => {
  it.each<[string, Pressed, boolean, string | undefined]>([
    ["Ctrl+Enter", pressed("Enter", { ctrlKey: true }), true, "Run, re-run, or save and run"],
    ["Cmd+Enter", pressed("Enter", { metaKey: true }), false, "Run, re-run, or save and run"],
    ["Enter", pressed("Enter"), false, undefined],
    ["Ctrl+S", pressed("s", { ctrlKey: true }), true, "Save the edited file into the link"],
    ["S", pressed("s"), false, "Settings"],
    ["s in a text", pressed("s"), true, undefined],
    ["a capital", pressed("S", { shiftKey: true }), false, undefined],
    ["?", pressed("?", { shiftKey: true }), false, "This help"],
    ["Escape in a text", pressed("Escape"), true, "Close the panel"],
    ["Alt+i", pressed("i", { altKey: true }), false, undefined],
    ["Ctrl+Shift+I", pressed("I", { ctrlKey: true, shiftKey: true }), false, undefined],
    ["an input method", pressed("i", { isComposing: true }), false, undefined],
  ])("%s", (_, event, isInText, what) => {
    expect(keyFor(event, isInText)?.what).toBe(what);
  });

  it("has letters that can be turned off, and others that can not", () => {
    setLetters(false);
    expect(keyFor(pressed("i"), false)).toBeNull();
    expect(keyFor(pressed("Enter", { ctrlKey: true }), false)).not.toBeNull();
  });

  it("has one meaning for each key", () => {
    const names = KEYS.filter(({ run }) => run).map(({ key, mod }) => `${mod ?? false} ${key}`);
    expect(new Set(names).size).toBe(names.length);
  });

  it("knows where one writes", () => {
    document.body.innerHTML = "<input><input type=checkbox><textarea></textarea><button></button><select></select>";
    expect([...document.body.children].map(isText)).toEqual([true, false, true, false, true]);
  });

  it("acts on the session", () => {
    document.body.innerHTML = "<input><button></button>";
    const [input, button] = [...document.body.children];
    const session = fakeSession({ scene: "success" });
    const stop = listen(session, () => null);
    const press = (key: string, init: KeyboardEventInit = {}, target: Element | undefined = button) => {
      const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...init });
      target?.dispatchEvent(event);
      return event;
    };
    press("o");
    expect(session.panel.value).toBe("outputs");
    expect(press("Escape").defaultPrevented).toBe(true);
    expect(session.panel.value).toBeNull();
    expect(press("Escape").defaultPrevented).toBe(false);
    press("o", {}, input);
    expect(session.panel.value).toBeNull();
    press("Enter", { ctrlKey: true }, input);
    expect(session.calls).toEqual([{ name: "run", values: [{ again: true }] }]);

    session.unsaved.value = { name: "fit.py", text: "new" };
    press("s", { ctrlKey: true }, input);
    expect(session.params.inputs.value?.["fit.py"]).toBe("new");
    expect(session.unsaved.value).toBeNull();

    stop();
    press("o");
    expect(session.panel.value).toBeNull();
  });

  it("stops a job with its own key only", () => {
    const session = fakeSession({ scene: "running" });
    const stop = listen(session, () => null);
    const press = (key: string) =>
      document.dispatchEvent(new KeyboardEvent("keydown", { key, ctrlKey: true, bubbles: true }));
    press("Enter");
    expect(session.calls).toEqual([]);
    press(".");
    expect(session.calls).toEqual([{ name: "stop", values: [] }]);
    stop();
  });
});
