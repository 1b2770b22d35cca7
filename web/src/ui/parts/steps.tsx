/** What the worker does with a job, step by step. */

import { Icon, type IconName } from "../icons.tsx";
import type { Session, Step, StepName } from "../model.ts";
import { showDuration, showElapsed, useNow } from "../time.ts";
import "./steps.css";

const LABELS: Record<StepName, string> = {
  inputs: "Inputs",
  pull: "Pull",
  clone: "Clone",
  build: "Build",
  push: "Store",
  start: "Start",
  run: "Run",
  upload: "Upload",
};

export type StepState = "pending" | "now" | "done" | "failed";

export interface ShownStep {
  name: StepName;
  state: StepState;
  step: Step | null;
}

/**
 * The steps that a job went through, and while it goes on those to come. What was not needed (an image that was there,
 * no files) is left out once something behind it has begun. `failed` is the step at which it ended, if it did.
 */
export function stepsOf(
  steps: readonly Step[],
  { isBuilt, isOver, failed }: { isBuilt: boolean; isOver: boolean; failed: StepName | null },
): ShownStep[] {
  const usual: StepName[] = isBuilt ? ["inputs", "build", "run", "upload"] : ["inputs", "pull", "run", "upload"];
  const order: StepName[] = ["inputs", "clone", "pull", "build", "push", "start", "run", "upload"];
  const has = (name: StepName) => steps.some((step) => step.name === name);
  const reached = isOver ? order.length : order.findLastIndex(has);
  const names = order.filter((name, at) => has(name) || (usual.includes(name) && at > reached));
  return names.map((name) => {
    const step = steps.findLast((each) => each.name === name) ?? null;
    if (!step) return { name, state: "pending", step };
    if (name === failed) return { name, state: "failed", step };
    return { name, state: step.end === null && !isOver ? "now" : "done", step };
  });
}

/** A container that ended badly failed at its run, whatever was sent afterwards; anything else where it stopped. */
export function failedStep(outcome: string | undefined, steps: readonly Step[]): StepName | null {
  if (outcome === undefined || outcome === "succeeded") return null;
  if (["failed", "out_of_memory", "timed_out"].includes(outcome)) return "run";
  return steps.at(-1)?.name ?? null;
}

const ICONS: Record<StepState, IconName> = { pending: "pending", now: "running", done: "check", failed: "bad" };
const STATES: Record<StepState, string> = { pending: "to come", now: "under way", done: "done", failed: "failed" };

export function Steps({ session }: { session: Session }) {
  const job = session.job.value;
  const assembled = session.assembled.value;
  const isBuilt = "definition" in assembled && !assembled.definition.image;
  const isOver = job !== null && job.record.state !== "Queued" && job.record.state !== "Running";
  const failed = isOver ? failedStep(job.record.outcome, job.steps) : null;
  const steps = stepsOf(job?.steps ?? [], { isBuilt, isOver, failed });
  if (!steps.length) return <p class="steps muted">It has no steps that are known.</p>;
  return <StepList steps={steps} isOver={isOver} />;
}

function StepList({ steps, isOver }: { steps: readonly ShownStep[]; isOver: boolean }) {
  const isMoving = steps.some(({ state }) => state === "now");
  const now = useNow(isMoving);
  return (
    <ol class="steps" aria-label="Steps of the job">
      {steps.map(({ name, state, step }) => (
        <li key={name} class={`step is-${state}`} aria-current={state === "now" ? "step" : undefined}>
          <Icon name={ICONS[state]} />
          <span class="step-name">{LABELS[name]}</span>
          <span class="sr-only">{STATES[state]}</span>
          <span class="step-time muted">
            {step &&
              (step.end === null
                ? isOver
                  ? ""
                  : showElapsed(now.value - step.start)
                : showDuration(step.end - step.start))}
          </span>
          {state === "now" && step?.progress != null && (
            <progress max={1} value={step.progress} aria-label={`${LABELS[name]}: progress`} />
          )}
        </li>
      ))}
    </ol>
  );
}
