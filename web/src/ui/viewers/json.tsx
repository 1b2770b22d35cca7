/** JSON as a tree: closed and opened by click or keys. */

import { useSignal } from "@preact/signals";
import { useId, useMemo } from "preact/hooks";
import { CHILDREN, jsonRows, moveInTree, openAtFirst, parseJson, type TreeMove } from "./json-tree.ts";
import { Rows } from "./rows.tsx";
import { Text } from "./text.tsx";

function read(text: string): { root: unknown } | { fault: string } {
  try {
    return { root: parseJson(text) };
  } catch (error) {
    return { fault: error instanceof Error ? error.message : String(error) };
  }
}

export function Json({ text, name }: { text: string; name: string }) {
  const json = useMemo(() => read(text), [text]);
  if ("root" in json) return <Tree root={json.root} name={name} />;
  return (
    <>
      <p class="viewer-note" role="status">
        This is not valid JSON, so it is shown as text. {json.fault}
      </p>
      <Text text={text} name={name} />
    </>
  );
}

function Tree({ root, name }: { root: unknown; name: string }) {
  const id = useId();
  const open = useSignal<ReadonlySet<string>>(useMemo(() => openAtFirst(root), [root]));
  const shown = useSignal<ReadonlyMap<string, number>>(new Map());
  const at = useSignal(0);
  const rows = useMemo(() => jsonRows(root, open.value, shown.value), [root, open.value, shown.value]);
  const width = useMemo(
    () => rows.reduce((most, row) => Math.max(most, row.depth * 2 + String(row.key ?? "").length + row.text.length), 0),
    [rows],
  );
  const apply = (move: TreeMove | null) => {
    if (!move) return;
    const next = new Set(open.value);
    if (move.open !== undefined) next.add(move.open);
    if (move.close !== undefined) next.delete(move.close);
    if (move.open !== undefined || move.close !== undefined) open.value = next;
    if (move.more !== undefined) {
      const count = shown.value.get(move.more) ?? CHILDREN;
      shown.value = new Map(shown.value).set(move.more, count + CHILDREN * 10);
    }
    at.value = move.at;
  };
  const current = Math.min(at.value, rows.length - 1);
  return (
    <Rows
      count={rows.length}
      width={`${Math.min(width, 2100) + 8}ch`}
      keep={current}
      class="viewer-json mono"
      role="tree"
      aria-label={name}
      aria-activedescendant={`${id}-${current}`}
      onKeyDown={(event) => {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const move = moveInTree(rows, current, event.key);
        if (!move) return;
        event.preventDefault();
        apply(move);
      }}
    >
      {(index) => {
        const row = rows[index];
        if (!row) return null;
        return (
          // The keys are handled by the tree, which has the focus.
          // biome-ignore lint/a11y/useKeyWithClickEvents: see above
          // biome-ignore lint/a11y/useFocusableInteractive: see above
          <div
            key={`${row.kind === "more" ? "+" : ""}${row.path}`}
            id={`${id}-${index}`}
            class="viewer-node"
            role="treeitem"
            aria-level={row.depth + 1}
            aria-setsize={row.siblings}
            aria-posinset={row.place}
            aria-selected={index === current}
            {...(row.isOpen === null ? {} : { "aria-expanded": row.isOpen })}
            style={{ paddingLeft: `calc(${row.depth * 2}ch + 6px)` }}
            onClick={() => {
              at.value = index;
              apply(moveInTree(rows, index, " ") ?? { at: index });
            }}
          >
            <span class="viewer-twist" aria-hidden="true">
              {row.isOpen === null ? "" : row.isOpen ? "▾" : "▸"}
            </span>
            {row.key !== null && (
              <span class="viewer-key">{typeof row.key === "number" ? row.key : JSON.stringify(row.key)}: </span>
            )}
            <span class={row.kind === "number" ? "viewer-number-value" : `viewer-${row.kind}`}>
              {row.kind === "array" ? "[ " : row.kind === "object" ? "{ " : ""}
              {row.kind === "more" ? `Show ${row.text}` : row.text}
              {row.kind === "array" ? " ]" : row.kind === "object" ? " }" : ""}
            </span>
          </div>
        );
      }}
    </Rows>
  );
}
