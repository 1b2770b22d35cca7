/** Asked before something that cannot be undone, in the place of the button that was pressed. */

import { useLayoutEffect, useRef } from "preact/hooks";
import { Button } from "../kit.tsx";
import "./confirm.css";

interface ConfirmProps {
  question: string;
  yes: string;
  no: string;
  onYes: () => void;
  onNo: () => void;
}

export function Confirm({ question, yes, no, onYes, onNo }: ConfirmProps) {
  const place = useRef<HTMLFieldSetElement>(null);
  useLayoutEffect(() => place.current?.querySelector("button")?.focus(), []);
  return (
    <fieldset
      ref={place}
      class="confirm"
      onKeyDown={(event) => {
        if (event.key !== "Escape") return;
        event.preventDefault();
        event.stopPropagation();
        onNo();
      }}
    >
      <legend class="confirm-question">{question}</legend>
      <Button tone="danger" label={yes} onClick={onYes} />
      <Button label={no} onClick={onNo} />
    </fieldset>
  );
}
