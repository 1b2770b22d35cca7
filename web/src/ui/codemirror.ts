/**
 * CodeMirror with what our editor needs: loaded when the editor is opened, each language when a file asks for it.
 *
 * Its colours are our custom properties, so that it follows both schemes. Tab indents; Escape, then Tab leaves, as CodeMirror has it.
 */

import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import {
  bracketMatching,
  defaultHighlightStyle,
  foldGutter,
  foldKeymap,
  HighlightStyle,
  indentOnInput,
  indentUnit,
  type LanguageSupport,
  StreamLanguage,
  syntaxHighlighting,
} from "@codemirror/language";
import { highlightSelectionMatches, openSearchPanel, search, searchKeymap } from "@codemirror/search";
import { Compartment, EditorState, type Extension } from "@codemirror/state";
import {
  drawSelection,
  EditorView,
  highlightActiveLine,
  highlightActiveLineGutter,
  highlightSpecialChars,
  keymap,
  lineNumbers,
} from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { StyleModule } from "style-mod";
import { extensionOf } from "./files.ts";

export interface EditorActions {
  /** The text has changed by the person's hand. */
  onEdit: (name: string, text: string) => void;
  onSave: () => void;
  onRun: () => void;
  onLeave: () => void;
}

export interface TextEditor {
  /** Show a file; what was undone and where the cursor stood is kept for each. */
  open(name: string, text: string): void;
  focus(): void;
  find(): void;
  setWrap(isOn: boolean): void;
  destroy(): void;
}

const LEGACY = {
  shell: async () => StreamLanguage.define((await import("@codemirror/legacy-modes/mode/shell")).shell),
  dockerfile: async () => StreamLanguage.define((await import("@codemirror/legacy-modes/mode/dockerfile")).dockerFile),
  toml: async () => StreamLanguage.define((await import("@codemirror/legacy-modes/mode/toml")).toml),
  properties: async () => StreamLanguage.define((await import("@codemirror/legacy-modes/mode/properties")).properties),
  r: async () => StreamLanguage.define((await import("@codemirror/legacy-modes/mode/r")).r),
};

async function javascript(options: { typescript?: boolean; jsx?: boolean } = {}): Promise<LanguageSupport> {
  return (await import("@codemirror/lang-javascript")).javascript(options);
}
const json = async () => (await import("@codemirror/lang-json")).json();
const yaml = async () => (await import("@codemirror/lang-yaml")).yaml();
const cpp = async () => (await import("@codemirror/lang-cpp")).cpp();
const html = async () => (await import("@codemirror/lang-html")).html();
const markdown = async () => (await import("@codemirror/lang-markdown")).markdown();

const LANGUAGES: Record<string, () => Promise<Extension>> = {
  py: async () => (await import("@codemirror/lang-python")).python(),
  js: () => javascript(),
  mjs: () => javascript(),
  cjs: () => javascript(),
  jsx: () => javascript({ jsx: true }),
  ts: () => javascript({ typescript: true }),
  tsx: () => javascript({ typescript: true, jsx: true }),
  json,
  geojson: json,
  ipynb: json,
  yaml,
  yml: yaml,
  md: markdown,
  markdown,
  html,
  htm: html,
  css: async () => (await import("@codemirror/lang-css")).css(),
  sql: async () => (await import("@codemirror/lang-sql")).sql(),
  rs: async () => (await import("@codemirror/lang-rust")).rust(),
  c: cpp,
  h: cpp,
  cc: cpp,
  cpp,
  hpp: cpp,
  cu: cpp,
  sh: LEGACY.shell,
  bash: LEGACY.shell,
  dockerfile: LEGACY.dockerfile,
  toml: LEGACY.toml,
  ini: LEGACY.properties,
  conf: LEGACY.properties,
  env: LEGACY.properties,
  properties: LEGACY.properties,
  r: LEGACY.r,
};

/** The language of a file by its name, of one without an ending by its first line; null for plain text. */
export function languageOf(name: string, text = ""): (() => Promise<Extension>) | null {
  const extension = extensionOf(name);
  if (Object.hasOwn(LANGUAGES, extension)) return LANGUAGES[extension] ?? null;
  const program = /^#!.*?\b(python|node|bash|sh|Rscript)[\d.]*\b/.exec(text.slice(0, 200))?.[1];
  const by = { python: "py", node: "js", bash: "sh", sh: "sh", Rscript: "r" }[program ?? ""];
  return by ? (LANGUAGES[by] ?? null) : null;
}

const THEME = EditorView.theme({
  "&": { backgroundColor: "var(--ground)", color: "var(--text)", height: "100%" },
  "&.cm-focused": { outline: "none" }, // around all of it: see editor.css
  ".cm-scroller": { fontFamily: "var(--mono)", fontSize: "13px", lineHeight: "1.5" },
  ".cm-content": { caretColor: "var(--text)", paddingBottom: "40px" },
  ".cm-cursor": { borderLeftColor: "var(--text)", borderLeftWidth: "2px" },
  ".cm-gutters": { backgroundColor: "var(--raised)", color: "var(--muted)", borderRight: "1px solid var(--line)" },
  ".cm-activeLineGutter": { backgroundColor: "var(--sunken)", color: "var(--text)" },
  ".cm-activeLine": { backgroundColor: "color-mix(in srgb, var(--sunken) 55%, transparent)" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": {
    backgroundColor: "color-mix(in srgb, var(--accent) 28%, transparent)",
  },
  ".cm-selectionMatch": { backgroundColor: "color-mix(in srgb, var(--accent) 16%, transparent)" },
  "&.cm-focused .cm-matchingBracket": { backgroundColor: "var(--good-ground)", color: "inherit" },
  "&.cm-focused .cm-nonmatchingBracket": { backgroundColor: "var(--bad-ground)", color: "inherit" },
  ".cm-searchMatch": { backgroundColor: "var(--warn-ground)", outline: "1px solid var(--warn)" },
  ".cm-searchMatch-selected": { backgroundColor: "color-mix(in srgb, var(--warn) 35%, transparent)" },
  ".cm-panels": { backgroundColor: "var(--raised)", color: "var(--text)", borderColor: "var(--line)" },
  ".cm-panels.cm-panels-bottom": { borderTop: "1px solid var(--line)" },
  ".cm-panels.cm-panels-top": { borderBottom: "1px solid var(--line)" },
  ".cm-panel.cm-search": { padding: "8px 36px 8px 8px", font: "13px var(--sans)" },
  ".cm-panel.cm-search label": { fontSize: "13px", whiteSpace: "nowrap" },
  ".cm-panel.cm-search [name=close]": { fontSize: "20px", minHeight: "36px", minWidth: "36px", color: "var(--text)" },
  ".cm-textfield": {
    backgroundColor: "var(--ground)",
    border: "1px solid var(--line-strong)",
    borderRadius: "var(--radius)",
    fontSize: "13px",
    minHeight: "36px",
    padding: "4px 8px",
    width: "min(100%, 220px)",
  },
  ".cm-button": {
    backgroundImage: "none",
    backgroundColor: "var(--ground)",
    border: "1px solid var(--line-strong)",
    borderRadius: "var(--radius)",
    color: "var(--text)",
    fontSize: "13px",
    minHeight: "36px",
  },
  ".cm-foldPlaceholder": { backgroundColor: "var(--sunken)", border: "1px solid var(--line)", color: "var(--muted)" },
  ".cm-specialChar": { color: "var(--bad)" },
});

const COLOURS = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.modifier, tags.self], color: "var(--accent)" },
  { tag: [tags.string, tags.special(tags.string), tags.regexp], color: "var(--good)" },
  { tag: [tags.number, tags.bool, tags.null, tags.atom], color: "var(--warn)" },
  { tag: [tags.comment, tags.meta, tags.processingInstruction], color: "var(--muted)" },
  { tag: [tags.definition(tags.variableName), tags.function(tags.variableName), tags.className], fontWeight: "600" },
  { tag: [tags.propertyName, tags.attributeName, tags.tagName, tags.heading], color: "var(--accent)" },
  { tag: tags.heading, fontWeight: "600" },
  { tag: tags.strong, fontWeight: "700" },
  { tag: tags.emphasis, fontStyle: "italic" },
  { tag: tags.link, textDecoration: "underline" },
  { tag: tags.invalid, color: "var(--bad)" },
]);

/** Every line ends with CR LF: then edits keep it so. */
function isWindows(text: string): boolean {
  return text.includes("\r\n") && !/(^|[^\r])\n/.test(text);
}

/** The unit of this text's own indentation. */
function unitOf(name: string, text: string): string {
  const found = /^(\t| {2,8})\S/m.exec(text)?.[1];
  if (found) return found;
  return ["py", "rs", "c", "h", "cpp", "java"].includes(extensionOf(name)) ? "    " : "  ";
}

/**
 * Have CodeMirror's styles put into a constructed sheet, which the page's policy allows, unlike the `<style>` that
 * style-mod makes for a document. It constructs one for a shadow root: so it is shown one that hands on to the document,
 * and what it notes on that root is noted on the document. An editor in a real shadow root would do without this, but
 * hide from the page's keys that somebody types in it.
 */
export function constructSheets(page: Document): void {
  if (!page.adoptedStyleSheets) return;
  const root = {
    ownerDocument: page,
    get adoptedStyleSheets() {
      return page.adoptedStyleSheets;
    },
    set adoptedStyleSheets(sheets) {
      page.adoptedStyleSheets = sheets;
    },
  };
  StyleModule.mount(root as unknown as ShadowRoot, []);
  for (const note of Object.getOwnPropertySymbols(root)) Reflect.set(page, note, Reflect.get(root, note));
}

export function makeEditor(parent: HTMLElement, actions: EditorActions, describedBy = ""): TextEditor {
  constructSheets(parent.ownerDocument);
  const states = new Map<string, EditorState>();
  const wrap = new Compartment();
  let isWrapped = true;
  let current: string | null = null;
  let isOurs = false; // a text that is put in from outside is no edit

  const done = (act: () => void) => () => {
    act();
    return true;
  };
  const make = (name: string, text: string): { state: EditorState; language: Compartment } => {
    const language = new Compartment();
    const state = EditorState.create({
      doc: text,
      extensions: [
        lineNumbers(),
        foldGutter(),
        highlightSpecialChars(),
        highlightActiveLine(),
        highlightActiveLineGutter(),
        history(),
        drawSelection(),
        indentOnInput(),
        indentUnit.of(unitOf(name, text)),
        bracketMatching(),
        highlightSelectionMatches(),
        search({ top: true }),
        syntaxHighlighting(COLOURS),
        syntaxHighlighting(defaultHighlightStyle, { fallback: true }),
        THEME,
        language.of([]),
        isWindows(text) ? EditorState.lineSeparator.of("\r\n") : [],
        wrap.of(isWrapped ? EditorView.lineWrapping : []),
        EditorView.contentAttributes.of({
          "aria-label": name,
          "aria-describedby": describedBy,
          spellcheck: "false",
          autocapitalize: "off",
        }),
        EditorView.updateListener.of((update) => {
          if (update.docChanged && !isOurs) actions.onEdit(name, update.state.sliceDoc());
        }),
        EditorView.domEventHandlers({
          blur: () => actions.onLeave(),
          keydown: (event) => {
            if (event.key === "Escape") event.stopPropagation(); // it lets Tab leave, and does not close the panel
          },
        }),
        keymap.of([
          { key: "Mod-s", run: done(actions.onSave), preventDefault: true, stopPropagation: true },
          { key: "Mod-Enter", run: done(actions.onRun), preventDefault: true, stopPropagation: true },
          ...searchKeymap,
          ...historyKeymap,
          ...foldKeymap,
          ...defaultKeymap,
          indentWithTab,
        ]),
      ],
    });
    return { state, language };
  };

  const view = new EditorView({ parent });
  return {
    open(name, text) {
      if (current !== null) states.set(current, view.state);
      const kept = current === name ? view.state : states.get(name);
      current = name;
      if (!kept) {
        const { state, language } = make(name, text);
        view.setState(state);
        void languageOf(name, text)?.().then((support) => {
          const effects = language.reconfigure(support);
          if (current === name) view.dispatch({ effects });
          else {
            const waiting = states.get(name);
            if (waiting) states.set(name, waiting.update({ effects }).state);
          }
        });
        return;
      }
      if (view.state !== kept) view.setState(kept);
      view.dispatch({ effects: wrap.reconfigure(isWrapped ? EditorView.lineWrapping : []) });
      if (view.state.doc.toString() === text.replace(/\r\n?/g, "\n")) return;
      isOurs = true; // somebody else changed the link: the page around this one, or another tab
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: view.state.toText(text) } });
      isOurs = false;
    },
    focus: () => view.focus(),
    find: () => void openSearchPanel(view),
    setWrap(isOn) {
      isWrapped = isOn;
      view.dispatch({ effects: wrap.reconfigure(isOn ? EditorView.lineWrapping : []) });
    },
    destroy: () => view.destroy(),
  };
}
