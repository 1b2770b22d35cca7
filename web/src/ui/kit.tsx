/** The small parts that all others are made of. They look alike everywhere, and have a name for a screen reader. */

import { useSignal } from "@preact/signals";
import type { ComponentChildren, JSX } from "preact";
import { useId, useLayoutEffect, useRef } from "preact/hooks";
import { Icon, type IconName } from "./icons.tsx";
import "./kit.css";

interface ButtonProps extends Omit<JSX.IntrinsicElements["button"], "icon"> {
  icon?: IconName;
  tone?: "primary" | "danger" | "plain";
  /** A number beside the icon; none if absent or 0. */
  badge?: number | undefined;
  /** The name is kept for screen readers only; a tooltip shows it. */
  iconOnly?: boolean;
  label: string;
}

export function Button({ icon, tone, badge, iconOnly, label, class: extra, ...rest }: ButtonProps) {
  const name = badge ? `${label} (${badge})` : label;
  return (
    <button
      type="button"
      class={["button", tone, extra].filter(Boolean).join(" ")}
      {...(iconOnly ? { "aria-label": name, title: label } : {})}
      {...rest}
    >
      {icon && <Icon name={icon} />}
      {!iconOnly && <span>{label}</span>}
      {badge ? (
        <span class="badge" aria-hidden="true">
          {badge}
        </span>
      ) : null}
    </button>
  );
}

/** Copies a text and says so where the button is. `text` is asked for at the click. */
export function CopyButton({ text, label = "Copy", ...rest }: { text: () => string } & Partial<ButtonProps>) {
  const copied = useSignal<"" | "Copied" | "Could not copy">("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text());
      copied.value = "Copied";
    } catch {
      copied.value = "Could not copy";
    }
    setTimeout(() => {
      copied.value = "";
    }, 2000);
  };
  return (
    <>
      <Button
        icon={copied.value === "Copied" ? "check" : "copy"}
        label={copied.value || label}
        onClick={copy}
        {...rest}
      />
      <span class="sr-only" role="status">
        {copied.value}
      </span>
    </>
  );
}

/** What ties a control to its label and to what is said below it. */
export interface FieldIds {
  id: string;
  "aria-describedby": string | undefined;
  "aria-invalid": boolean;
}

interface FieldProps {
  label: ComponentChildren;
  hint?: ComponentChildren;
  fault?: string | undefined;
  children: (ids: FieldIds) => ComponentChildren;
}

/** A label, its control, and below it what is wrong or what is meant. */
export function Field({ label, hint, fault, children }: FieldProps) {
  const id = useId();
  const about = fault || hint ? `${id}-about` : undefined;
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {children({ id, "aria-describedby": about, "aria-invalid": Boolean(fault) })}
      {fault ? (
        <div class="fault" id={about} role="alert">
          {fault}
        </div>
      ) : hint ? (
        <div class="hint" id={about}>
          {hint}
        </div>
      ) : null}
    </div>
  );
}

interface SearchFieldProps {
  /** For screen readers; the placeholder says it to those who see. */
  label: string;
  placeholder: string;
  value: string;
  onInput: (text: string) => void;
  onKeyDown?: (event: KeyboardEvent) => void;
  box?: { current: HTMLInputElement | null };
}

export function SearchField({ label, onInput, box, ...rest }: SearchFieldProps) {
  return (
    <input
      {...rest}
      {...(box ? { ref: box } : {})}
      class="search-field"
      type="search"
      aria-label={label}
      onInput={(event) => onInput(event.currentTarget.value)}
    />
  );
}

export function Switch({ label, checked, onChange, hint }: SwitchProps) {
  const id = useId();
  return (
    <div class="switch">
      <input
        type="checkbox"
        role="switch"
        id={id}
        checked={checked}
        aria-checked={checked}
        aria-describedby={hint ? `${id}-about` : undefined}
        onChange={(event) => onChange(event.currentTarget.checked)}
      />
      <label for={id}>{label}</label>
      {hint && (
        <div class="hint muted" id={`${id}-about`}>
          {hint}
        </div>
      )}
    </div>
  );
}

interface SwitchProps {
  label: string;
  checked: boolean;
  onChange: (checked: boolean) => void;
  hint?: string;
}

interface TabsProps<Name extends string> {
  name: string;
  tabs: readonly { name: Name; label: string }[];
  chosen: Name;
  onChoose: (name: Name) => void;
  children: ComponentChildren;
}

/** Tabs as ARIA describes them: arrow keys move between them. */
export function Tabs<Name extends string>({ name, tabs, chosen, onChoose, children }: TabsProps<Name>) {
  const id = useId();
  const move = (event: KeyboardEvent) => {
    const by = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    const at = tabs.findIndex((tab) => tab.name === chosen);
    const next = by && tabs[(at + by + tabs.length) % tabs.length];
    if (!next) return;
    onChoose(next.name);
    document.getElementById(`${id}-${next.name}`)?.focus();
  };
  return (
    <div class="tabs">
      <div role="tablist" aria-label={name} onKeyDown={move}>
        {tabs.map((tab) => (
          <button
            key={tab.name}
            type="button"
            role="tab"
            id={`${id}-${tab.name}`}
            aria-selected={tab.name === chosen}
            aria-controls={`${id}-panel`}
            tabIndex={tab.name === chosen ? 0 : -1}
            onClick={() => onChoose(tab.name)}
          >
            {tab.label}
          </button>
        ))}
      </div>
      <div role="tabpanel" id={`${id}-panel`} aria-labelledby={`${id}-${chosen}`}>
        {children}
      </div>
    </div>
  );
}

interface DialogProps {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
}

/**
 * A modal dialog: the browser keeps the focus in it, Escape closes it.
 *
 * `onClose` is called once, and in the same moment in which the dialog goes. The browser tells of it a moment later only:
 * by then a key or a click may have opened something else, which that word would close.
 */
export function Dialog({ title, onClose, children }: DialogProps) {
  const id = useId();
  const dialog = useRef<HTMLDialogElement>(null);
  const isOver = useRef(false);
  useLayoutEffect(() => {
    dialog.current?.showModal();
    return () => {
      isOver.current = true;
    };
  }, []);
  const close = () => {
    if (isOver.current) return;
    isOver.current = true;
    dialog.current?.close(); // gives the focus back, which taking it out of the page does not
    onClose();
  };
  return (
    <dialog
      ref={dialog}
      aria-labelledby={id}
      onClose={close}
      onCancel={(event) => {
        if (event.target !== dialog.current) return; // that of a file chooser within
        event.preventDefault();
        close();
      }}
      onKeyDown={(event) => {
        if (event.key !== "Escape" || event.defaultPrevented) return;
        event.preventDefault();
        close();
      }}
    >
      <header class="panel-head">
        <h2 id={id}>{title}</h2>
        <Button icon="close" iconOnly tone="plain" label="Close" onClick={close} />
      </header>
      <div class="panel-body">{children}</div>
    </dialog>
  );
}

/** The frame of a panel right of the console. */
export function PanelFrame({ title, onClose, actions, children }: DialogProps & { actions?: ComponentChildren }) {
  const id = useId();
  return (
    <section class="panel" aria-labelledby={id}>
      <header class="panel-head">
        <h2 id={id} tabIndex={-1}>
          {title}
        </h2>
        <span class="panel-actions">
          {actions}
          <Button icon="close" iconOnly tone="plain" label={`Close ${title.toLowerCase()}`} onClick={onClose} />
        </span>
      </header>
      <div class="panel-body">{children}</div>
    </section>
  );
}
