"""One step of a job: load, decide, save, then do the effects. Every change of every job goes through here.

The save is a compare-and-swap on the version. When somebody else was faster the record is loaded again and the
step decided anew, a few times; a rule that refuses is final. Effects run only after the save. They may be lost with
the process, and nothing depends on them: watchers read lists again, leases lapse, maintenance sweeps. They are not lost
with the caller: a store saves on when the caller is cancelled, so the step is taken to its end and told.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asman.completion import to_the_end
from asman.documents import DEFINITION, RESULT, blobs_behind
from asman.errors import Conflict, LeaseLost, TransitionRefused
from asman.job import Job, State, absent
from asman.messages import encode_event, is_shown, jobs_frame
from asman.services import Services
from asman.state import Deleted, Effect, Event, transition

__all__ = ["Step", "step", "topic"]

_log = logging.getLogger(__name__)
_TRIES = 20
_SPREAD_S = 0.1
"""At most so long before a repeat, by chance: on a store that answers many at once all others would fail again."""

_Decide = Callable[[Job], Event]
_Documents = Mapping[str, bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step that was saved (or needed no save): the record before and after."""

    before: Job
    after: Job
    effects: tuple[Effect, ...]


def topic(queue: str) -> str:
    """The notifier topic on which the changes of a queue are told."""
    return f"queue:{queue}"


async def step(
    services: Services,
    queue: str,
    job_id: str,
    event: Event | _Decide,
    *,
    documents: _Documents | None = None,
    on_start: _Documents | None = None,
    known: Job | None = None,
    is_carried: bool = False,
) -> Step:
    """Take one step of one job. Once it is being saved it is finished and told, also if the caller is cancelled.

    Shape:  ``event`` may be a function of the record where the event depends on it. ``documents`` are written with
            the step, ``on_start`` only if the step starts a new generation. ``known`` is the record as the caller
            believes it to be (``absent`` for a new job): it saves the read, and costs one more if it is wrong.
            ``is_carried`` says that the caller itself is carried to its end: the step needs no task of its own.
    Errors: TransitionRefused, LeaseLost from the table; Conflict when others were faster again and again.
    """
    before = known or await _load(services, queue, job_id)
    for tried in range(_TRIES):
        happened = event(before) if callable(event) else event
        after, effects = transition(before, happened)
        if after is before:
            return Step(before=before, after=after, effects=effects)
        starts = after.generation != before.generation
        dropped = {**_dropped(before, effects), **(on_start or {} if starts else {})}
        is_first = before.state is State.ABSENT
        garbage = await blobs_behind(services, before, dropped) if dropped and not is_first else []
        written: _Documents = {**dropped, **(documents or {})}
        done = Step(before=before, after=after, effects=effects)
        carrying_out = _carry_out(services, done, happened, written, garbage)
        overtaken = await (carrying_out if is_carried else to_the_end(carrying_out))
        if overtaken is None:
            return done
        if tried + 1 == _TRIES:
            raise overtaken
        await asyncio.sleep(random.random() * min(0.001 * 2.0**tried, _SPREAD_S) if tried else 0)
        before = await _load(services, queue, job_id)
    raise AssertionError("unreachable")


async def _carry_out(
    services: Services, done: Step, event: Event, documents: _Documents, garbage: Sequence[str]
) -> Conflict | None:
    """Save the step, drop the blobs that went with it, do the effects. Answers with the error if others were faster."""
    try:
        await services.jobs.save(done.after, expected=done.before.version, documents=documents)
    except (TransitionRefused, LeaseLost):
        raise
    except Conflict as overtaken:
        return overtaken
    for key in garbage:
        await services.blobs.delete(key)
    services.recent.count(done.before, done.after, services.clock())
    await _tell(services, done, event)
    return None


async def _load(services: Services, queue: str, job_id: str) -> Job:
    return await services.jobs.load(queue, job_id) or absent(queue, job_id)


def _dropped(before: Job, effects: tuple[Effect, ...]) -> dict[str, bytes | None]:
    """Documents that go with the step."""
    if before.state is State.ABSENT:
        return {}
    if Effect.DROP_DOCUMENTS in effects:
        return {DEFINITION: None, RESULT: None}
    if Effect.DROP_RESULT in effects:
        return {RESULT: None}
    return {}


async def _tell(services: Services, done: Step, event: Event) -> None:
    """Do the effects: drop what must go, tell the queue's watchers, call the hook."""
    before, after, effects = done.before, done.after, done.effects
    drops_logs = Effect.DROP_LOGS in effects or Effect.DROP_DOCUMENTS in effects
    if drops_logs and before.attempt:
        await services.logs.drop_log(after.queue, after.job_id)
    heard = topic(after.queue)
    header = _header(done, event) if services.is_heard(heard) else None
    if header is not None:
        shown = Effect.CHANGED in effects and is_shown(after)
        message = jobs_frame([after], subset=True) if shown else b""
        await services.notifier.publish(heard, encode_event(header, message))
    await _call_hooks(services, before, after)


def _header(done: Step, event: Event) -> dict[str, Any] | None:
    before, after, effects = done.before, done.after, done.effects
    if not {Effect.CHANGED, Effect.REVOKE, Effect.WORK, Effect.CLEAR_CACHE} & set(effects):
        return None
    header: dict[str, Any] = {
        "kind": "job",
        "job_id": after.job_id,
        "state": after.state.value,
        "worker": after.worker,
        "attempt": after.attempt,
    }
    if Effect.WORK in effects:
        header["shape"] = after.requirements.shape
    if Effect.REVOKE in effects and before.state is State.RUNNING:
        header["revoke"] = {
            "worker": before.worker,
            "attempt": before.attempt,
            "reason": after.reason.value if after.reason else "WorkerLost",
        }
    if Effect.CLEAR_CACHE in effects and isinstance(event, Deleted):
        header["clear"] = event.namespace
    return header


async def _call_hooks(services: Services, before: Job, after: Job) -> None:
    try:
        answers = services.plugins.hook.asman_job_changed(job=after, before=before)
    except Exception:
        _log.exception("a plugin failed", extra={"job": after.job_id, "queue": after.queue})
        return
    for result in await asyncio.gather(*(a for a in answers if a is not None), return_exceptions=True):
        if isinstance(result, BaseException):
            _log.error("a plugin failed", extra={"job": after.job_id, "queue": after.queue}, exc_info=result)
