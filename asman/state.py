"""What may happen to a job, as one table, and nothing else.

A step is (record, event) -> (record, effects). Events bring the time, ids and settings with them, so this module
reads no clock and draws no chance. Every legal step is a row of ``TRANSITIONS``; rows are tried from the top and
the first whose states, event and guard match is taken. What no row matches is refused, and nothing is changed.
Every accepted step raises ``version`` by one; the store saves it only if the version before is still the stored one.

Effects are names of things to do after the save. They are safe to repeat and safe to lose: a lease that lapses, a
list that is read again and a sweep cure every loss.

Source: the published conflict table and finish rules of the job model decide which of two records wins; leases,
attempts and fencing are this project's (promises P3 to P8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from asman.errors import LeaseLost, TransitionRefused
from asman.job import ANY_NAMESPACE, Attempt, Callback, Job, Outcome, Reason, Requirements, State
from asman.matching import is_preferred

__all__ = [
    "TRANSITIONS",
    "Cancelled",
    "CallbackTried",
    "Claimed",
    "Deleted",
    "Effect",
    "Event",
    "Expired",
    "Imported",
    "Lapsed",
    "Released",
    "Renewed",
    "Replaced",
    "Reported",
    "Row",
    "Submitted",
    "Superseded",
    "Unlisted",
    "transition",
]

_HISTORY_KEPT = 10


class Effect(StrEnum):
    CHANGED = "changed"
    """Tell the watchers of the queue about this one job."""
    WORK = "work"
    """The job became claimable: wake a worker it fits."""
    REVOKE = "revoke"
    """The worker that held the job before this step must stop it."""
    CLEAR_CACHE = "clear_cache"
    """Workers drop what they keep of the job."""
    DROP_RESULT = "drop_result"
    """The result document goes."""
    DROP_LOGS = "drop_logs"
    """Stored log lines go: they belong to an attempt that no longer counts."""
    DROP_DOCUMENTS = "drop_documents"
    """Definition, result and logs go."""
    DELIVER = "deliver"
    """A callback became due."""


# --- events -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """Somebody pushed the job (again), for one namespace."""

    at: float
    namespace: str
    expires_at: float
    listed_until: float
    requirements: Requirements = field(default_factory=Requirements)
    advertised: Mapping[str, Any] = field(default_factory=dict)
    callbacks: tuple[Callback, ...] = ()
    debug: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A worker takes the job: assigned to it (protocol 2) or announced by it (protocol 1)."""

    at: float
    worker: str
    protocol: int
    lease_until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """The holder is alive; after a reconnect this also takes a rescued job up again. ``attempt`` None: protocol 1."""

    at: float
    worker: str
    attempt: int | None
    lease_until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A worker says how the job ended. ``attempt`` None: protocol 1, which does not know its number."""

    at: float
    worker: str
    attempt: int | None
    reason: Reason
    outcome: Outcome
    listed_until: float
    expires_at: float
    exit_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The holder hands the job back in good order (draining)."""

    at: float
    worker: str
    attempt: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapsed:
    """The lease ran out."""

    at: float
    max_attempts: int
    listed_until: float
    holder_is_gone: bool = False
    """The holder itself came back without the job: no need to wait for the lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """Somebody gives up the job for one namespace, or for all (``*``)."""

    at: float
    namespace: str
    listed_until: float
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Superseded:
    """A newer job of the namespace exists; this one is replaced at ``replace_at`` if that is still so."""

    at: float
    namespace: str
    replace_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """A newer job of the namespace takes this one's place now."""

    at: float
    namespace: str
    listed_until: float
    message: str = ""
    still_superseded: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """Somebody wants the job and its result gone, for one namespace or for all (``*``)."""

    at: float
    namespace: str
    forget_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlisted:
    """The time on the listing is over."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """The last second of the job and its data is over; ``forget_at`` is when even this is no longer said."""

    at: float
    forget_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackTried:
    """One delivery was attempted. ``due_at`` None: it succeeded or is given up."""

    at: float
    event_id: str
    due_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A result is brought from another queue on purpose; ``source`` is the finished record there."""

    at: float
    source: Job
    expires_at: float
    listed_until: float


Event = (
    Submitted
    | Imported
    | Claimed
    | Renewed
    | Reported
    | Released
    | Lapsed
    | Cancelled
    | Superseded
    | Replaced
    | Deleted
    | Unlisted
    | Expired
    | CallbackTried
)


# --- guards: plain questions about a record and an event -------------------------------------------------------------


def _always(job: Job, event: Any) -> bool:
    return True


def _expired(job: Job, event: Submitted) -> bool:
    return job.is_expired(event.at)


def _has_result(job: Job, event: Any) -> bool:
    return job.has_result


def _holds(job: Job, event: Any) -> bool:
    return job.worker == event.worker and event.attempt in (None, job.attempt)


def _held_last(job: Job, event: Any) -> bool:
    """Nobody was given the job since: the last attempt was this worker's and ended as lost or handed back."""
    if not job.history or job.history[-1].end not in ("lost", "released"):
        return False
    last = job.history[-1]
    return last.number == job.attempt and last.worker == event.worker and event.attempt in (None, last.number)


def _reported_already(job: Job, event: Reported) -> bool:
    return (
        job.has_result
        and job.result_worker == event.worker
        and event.attempt in (None, job.attempt)
        and (job.reason, job.outcome, job.exit_code) == (event.reason, event.outcome, event.exit_code)
    )


def _same_worker(job: Job, event: Claimed) -> bool:
    return job.worker == event.worker and job.protocol == event.protocol == 1


def _preferred(job: Job, event: Claimed) -> bool:
    both_mirror = job.protocol == 1 and event.protocol == 1
    return both_mirror and is_preferred(event.worker, job.worker)


def _lapsed(job: Job, event: Lapsed) -> bool:
    return event.holder_is_gone or (job.lease_until is not None and job.lease_until <= event.at)


def _lapsed_too_often(job: Job, event: Lapsed) -> bool:
    return _lapsed(job, event) and job.lost + 1 >= event.max_attempts


def _names(job: Job, namespace: str) -> bool:
    return namespace == ANY_NAMESPACE or namespace in job.namespace_names


def _last_namespace(job: Job, event: Any) -> bool:
    return _names(job, event.namespace) and not _without(job, event.namespace)


def _one_of_several(job: Job, event: Any) -> bool:
    return _names(job, event.namespace) and bool(_without(job, event.namespace))


def _superseded_last(job: Job, event: Replaced) -> bool:
    return event.still_superseded and _last_namespace(job, event)


def _superseded_one(job: Job, event: Replaced) -> bool:
    return event.still_superseded and _one_of_several(job, event)


def _no_longer_superseded(job: Job, event: Replaced) -> bool:
    return not event.still_superseded


def _nobody_holds(job: Job, event: Deleted) -> bool:
    return not job.namespaces or _last_namespace(job, event)


def _listing_over(job: Job, event: Unlisted) -> bool:
    return job.listed_until is not None and job.listed_until <= event.at


def _past_expiry(job: Job, event: Expired) -> bool:
    return job.expires_at <= event.at


def _owed(job: Job, event: CallbackTried) -> bool:
    return any(c.event_id == event.event_id and not c.done for c in job.callbacks)


# --- steps: the next record ------------------------------------------------------------------------------------------


def _without(job: Job, namespace: str) -> tuple[tuple[str, float], ...]:
    if namespace == ANY_NAMESPACE:
        return ()
    return tuple(entry for entry in job.namespaces if entry[0] != namespace)


def _with(job: Job, namespace: str, at: float) -> tuple[tuple[str, float], ...]:
    return tuple(sorted([*_without(job, namespace), (namespace, at)]))


def _past(job: Job, at: float, end: str) -> tuple[Attempt, ...]:
    """History with the running attempt closed."""
    ended = Attempt(number=job.attempt, worker=job.worker, started_at=job.claimed_at, ended_at=at, end=end)
    return (*job.history, ended)[-_HISTORY_KEPT:]


def _owing(
    present: tuple[Callback, ...], wanted: tuple[Callback, ...], finished_at: float | None
) -> tuple[Callback, ...]:
    """Add callbacks that are not already there; one for a job that has finished is due at once."""
    known = {(c.event, c.namespace, c.url) for c in present}
    new = [c for c in wanted if (c.event, c.namespace, c.url) not in known]
    if finished_at is not None:
        new = [replace(c, due_at=finished_at) if c.event == "finished" else c for c in new]
    return (*present, *new)


def _finished_due(job: Job, at: float) -> tuple[Callback, ...]:
    return tuple(
        replace(c, due_at=at) if c.event == "finished" and not c.done and c.due_at is None else c for c in job.callbacks
    )


def _start(job: Job, event: Submitted) -> Job:
    """A new incarnation: queued from now, with nothing left of what came before but the attempt number."""
    return Job(
        queue=job.queue,
        job_id=job.job_id,
        state=State.QUEUED,
        generation=job.generation + 1,
        queued_at=event.at,
        changed_at=event.at,
        attempt=job.attempt,
        expires_at=event.expires_at,
        namespaces=((event.namespace, event.at),),
        callbacks=event.callbacks,
        debug=event.debug,
        requirements=event.requirements,
        advertised=event.advertised,
    )


def _import(job: Job, event: Imported) -> Job:
    """A finished record of this queue's own, with the result of another one."""
    source = event.source
    return Job(
        queue=job.queue,
        job_id=job.job_id,
        state=State.FINISHED,
        generation=job.generation + 1,
        queued_at=event.at,
        changed_at=event.at,
        finished_at=event.at,
        attempt=job.attempt + 1,
        worker=source.worker,
        result_worker=source.result_worker,
        reason=source.reason,
        outcome=source.outcome,
        exit_code=source.exit_code,
        listed_until=event.listed_until,
        expires_at=event.expires_at,
        requirements=source.requirements,
        advertised=source.advertised,
        history=source.history,
    )


def _no_result(job: Job, event: Imported) -> bool:
    return not job.has_result or job.is_expired(event.at)


def _join(job: Job, event: Submitted) -> Job:
    """The job is known and counts: the namespace joins it and its time to live is renewed."""
    return replace(
        job,
        namespaces=_with(job, event.namespace, event.at),
        replacements=tuple(r for r in job.replacements if r[0] != event.namespace),
        callbacks=_owing(job.callbacks, event.callbacks, event.at if job.state is State.FINISHED else None),
        expires_at=max(job.expires_at, event.expires_at),
    )


def _relist(job: Job, event: Submitted) -> Job:
    """A stored result answers: show it on the listing again for a while."""
    back = replace(job, state=State.FINISHED, listed_until=event.listed_until)
    return _join(back, event)


def _claim(job: Job, event: Claimed) -> Job:
    return replace(
        job,
        state=State.RUNNING,
        changed_at=event.at,
        attempt=job.attempt + 1,
        worker=event.worker,
        protocol=event.protocol,
        claimed_at=event.at,
        lease_until=event.lease_until,
    )


def _take_over(job: Job, event: Claimed) -> Job:
    return _claim(replace(job, history=_past(job, event.at, "taken_over")), event)


def _extend(job: Job, event: Renewed | Claimed) -> Job:
    return replace(job, lease_until=event.lease_until)


def _readopt(job: Job, event: Renewed) -> Job:
    """The job was put back but given to nobody: the worker that still runs it keeps it, under the same attempt."""
    last = job.history[-1]
    return replace(
        job,
        state=State.RUNNING,
        changed_at=event.at,
        worker=event.worker,
        protocol=1 if event.attempt is None else 2,
        claimed_at=last.started_at,
        lease_until=event.lease_until,
        lost=max(job.lost - 1, 0) if last.end == "lost" else job.lost,
        history=job.history[:-1],
    )


def _finish(job: Job, event: Any, reason: Reason, outcome: Outcome, end: str, message: str = "") -> Job:
    was_running = job.state is State.RUNNING
    return replace(
        job,
        state=State.FINISHED,
        changed_at=event.at,
        finished_at=event.at,
        lease_until=None,
        reason=reason,
        outcome=outcome,
        message=message,
        listed_until=event.listed_until,
        history=_past(job, event.at, end) if was_running else job.history,
        callbacks=_finished_due(job, event.at),
        replacements=(),
    )


def _report(job: Job, event: Reported) -> Job:
    done = _finish(job, event, event.reason, event.outcome, "reported")
    return replace(
        done,
        exit_code=event.exit_code,
        result_worker=event.worker,
        worker=event.worker,
        expires_at=max(job.expires_at, event.expires_at),
    )


def _release(job: Job, event: Released) -> Job:
    return _requeue(job, event.at, "released")


def _requeue(job: Job, at: float, end: str) -> Job:
    return replace(
        job,
        state=State.QUEUED,
        changed_at=at,
        worker="",
        protocol=0,
        lease_until=None,
        history=_past(job, at, end),
    )


def _rescue(job: Job, event: Lapsed) -> Job:
    return replace(_requeue(job, event.at, "lost"), lost=job.lost + 1)


def _give_up(job: Job, event: Lapsed) -> Job:
    text = f"{job.lost + 1} attempts were lost with their workers; the job is not tried again"
    done = _finish(job, event, Reason.WORKER_LOST, Outcome.WORKER_LOST, "lost", text)
    return replace(done, lost=job.lost + 1)


def _leave(job: Job, event: Any) -> Job:
    """One namespace lets go, others keep the job alive."""
    return replace(
        job,
        namespaces=_without(job, event.namespace),
        replacements=tuple(r for r in job.replacements if r[0] != event.namespace),
        callbacks=tuple(
            replace(c, done=True, due_at=None) if c.namespace == event.namespace and c.event == "finished" else c
            for c in job.callbacks
        ),
    )


def _cancel(job: Job, event: Cancelled) -> Job:
    done = _finish(job, event, Reason.CANCELLED, Outcome.CANCELLED, "cancelled", event.message)
    return replace(done, namespaces=())


def _supersede(job: Job, event: Superseded) -> Job:
    others = [r for r in job.replacements if r[0] != event.namespace]
    return replace(job, replacements=tuple(sorted([*others, (event.namespace, event.replace_at)])))


def _replace(job: Job, event: Replaced) -> Job:
    done = _finish(job, event, Reason.REPLACED, Outcome.REPLACED, "replaced", event.message)
    return replace(done, namespaces=())


def _spare(job: Job, event: Replaced) -> Job:
    return replace(job, replacements=tuple(r for r in job.replacements if r[0] != event.namespace))


def _delete(job: Job, event: Deleted) -> Job:
    """The record stays a while as a mark that keeps its attempt number, so that a late report stays refused."""
    return replace(
        job,
        state=State.FINISHED,
        changed_at=event.at,
        finished_at=event.at,
        lease_until=None,
        reason=Reason.DELETED,
        outcome=Outcome.DELETED,
        exit_code=None,
        message="",
        result_worker="",
        listed_until=event.at,
        expires_at=event.forget_at,
        history=_past(job, event.at, "deleted") if job.state is State.RUNNING else job.history,
        namespaces=(),
        replacements=(),
        callbacks=(),
    )


def _unlist(job: Job, event: Unlisted) -> Job:
    return replace(job, state=State.REMOVED, listed_until=None, namespaces=())


def _expire(job: Job, event: Expired) -> Job:
    return replace(
        job,
        state=State.REMOVED,
        changed_at=event.at,
        lease_until=None,
        listed_until=None,
        expires_at=event.forget_at,
        namespaces=(),
        replacements=(),
        callbacks=(),
        forgotten=True,
    )


def _tried(job: Job, event: CallbackTried) -> Job:
    return replace(
        job,
        callbacks=tuple(
            replace(c, tries=c.tries + 1, due_at=event.due_at, done=event.due_at is None)
            if c.event_id == event.event_id
            else c
            for c in job.callbacks
        ),
    )


def _stay(job: Job, event: Any) -> Job:
    return job


# --- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """In these states, this event, if ``when`` holds: go to ``to`` by ``step``, then do ``effects``."""

    states: tuple[State, ...]
    event: type
    when: Callable[[Job, Any], bool]
    to: State
    step: Callable[[Job, Any], Job]
    effects: tuple[Effect, ...]
    why: str


_Q, _R, _F, _X, _NONE = State.QUEUED, State.RUNNING, State.FINISHED, State.REMOVED, State.ABSENT
_NEWS = (Effect.CHANGED,)
_START = (Effect.CHANGED, Effect.DROP_RESULT, Effect.DROP_LOGS, Effect.WORK, Effect.DELIVER)
_STOP = (Effect.REVOKE, Effect.CHANGED, Effect.DELIVER)
_AGAIN = (Effect.DROP_LOGS, Effect.CHANGED, Effect.WORK)

TRANSITIONS: tuple[Row, ...] = (
    Row((_NONE,), Submitted, _always, _Q, _start, _START, "first submit"),
    Row((_Q, _R, _F, _X), Submitted, _expired, _Q, _start, _START, "its data has expired: starts anew"),
    Row((_Q,), Submitted, _always, _Q, _join, (*_NEWS, Effect.DELIVER), "already waiting: the namespace joins"),
    Row((_R,), Submitted, _always, _R, _join, (*_NEWS, Effect.DELIVER), "already running: the namespace joins"),
    Row((_F,), Submitted, _has_result, _F, _join, (*_NEWS, Effect.DELIVER), "the stored result answers"),
    Row(
        (_X,), Submitted, _has_result, _F, _relist, (*_NEWS, Effect.DELIVER), "the stored result answers, listed again"
    ),
    Row((_F, _X), Submitted, _always, _Q, _start, _START, "ended without a result: runs again"),
    Row((_NONE, _F, _X), Imported, _no_result, _F, _import, _NEWS, "a result is brought from another queue"),
    Row((_Q,), Claimed, _always, _R, _claim, _NEWS, "given to a worker"),
    Row((_R,), Claimed, _same_worker, _R, _extend, (), "the same worker says so again"),
    Row(
        (_R,),
        Claimed,
        _preferred,
        _R,
        _take_over,
        (Effect.REVOKE, *_NEWS),
        "two mirroring workers: the one that sorts first keeps it",
    ),
    Row((_R,), Renewed, _holds, _R, _extend, (), "the holder is alive"),
    Row((_Q,), Renewed, _held_last, _R, _readopt, _NEWS, "back in time: nobody was given the job since"),
    Row((_R,), Reported, _holds, _F, _report, (*_NEWS, Effect.DELIVER), "the holder's result"),
    Row((_Q,), Reported, _held_last, _F, _report, (*_NEWS, Effect.DELIVER), "late, but nobody was given the job since"),
    Row((_F,), Reported, _reported_already, _F, _stay, (), "the same report again"),
    Row((_X,), Reported, _reported_already, _X, _stay, (), "the same report again"),
    Row((_R,), Released, _holds, _Q, _release, _AGAIN, "handed back while draining"),
    Row((_R,), Lapsed, _lapsed_too_often, _F, _give_up, _STOP, "lost its workers too often"),
    Row((_R,), Lapsed, _lapsed, _Q, _rescue, (Effect.REVOKE, *_AGAIN), "lost its worker: waits again"),
    Row((_Q,), Cancelled, _one_of_several, _Q, _leave, _NEWS, "one namespace gives up"),
    Row((_R,), Cancelled, _one_of_several, _R, _leave, _NEWS, "one namespace gives up"),
    Row((_Q, _R), Cancelled, _last_namespace, _F, _cancel, _STOP, "nobody wants it any more"),
    Row((_Q,), Superseded, _one_of_several, _Q, _supersede, (), "a newer job of the namespace waits its turn"),
    Row((_Q,), Superseded, _last_namespace, _Q, _supersede, (), "a newer job of the namespace waits its turn"),
    Row((_R,), Superseded, _one_of_several, _R, _supersede, (), "a newer job of the namespace waits its turn"),
    Row((_R,), Superseded, _last_namespace, _R, _supersede, (), "a newer job of the namespace waits its turn"),
    Row((_Q,), Replaced, _no_longer_superseded, _Q, _spare, (), "the newer job is gone"),
    Row((_R,), Replaced, _no_longer_superseded, _R, _spare, (), "the newer job is gone"),
    Row((_Q,), Replaced, _superseded_one, _Q, _leave, _NEWS, "one namespace moves on"),
    Row((_R,), Replaced, _superseded_one, _R, _leave, _NEWS, "one namespace moves on"),
    Row((_Q, _R), Replaced, _superseded_last, _F, _replace, _STOP, "a newer job takes its place"),
    Row(
        (_Q, _R, _F, _X),
        Deleted,
        _nobody_holds,
        _F,
        _delete,
        (Effect.REVOKE, Effect.DROP_DOCUMENTS, Effect.CLEAR_CACHE, Effect.CHANGED),
        "job and result are dropped",
    ),
    Row((_Q,), Deleted, _one_of_several, _Q, _leave, _NEWS, "others still hold it"),
    Row((_R,), Deleted, _one_of_several, _R, _leave, _NEWS, "others still hold it"),
    Row((_F,), Deleted, _one_of_several, _F, _leave, _NEWS, "others still hold it"),
    Row((_F,), Unlisted, _listing_over, _X, _unlist, _NEWS, "leaves the listing; the result stays"),
    Row(
        (_Q, _R, _F, _X),
        Expired,
        _past_expiry,
        _X,
        _expire,
        (Effect.REVOKE, Effect.DROP_DOCUMENTS, Effect.CHANGED),
        "its time is over",
    ),
    *(Row((s,), CallbackTried, _owed, s, _tried, (), "one delivery attempted") for s in (_Q, _R, _F, _X)),
)

_BY_STEP: dict[tuple[State, type], tuple[Row, ...]] = {}
for _row in TRANSITIONS:
    for _state in _row.states:
        _key = (_state, _row.event)
        _BY_STEP[_key] = (*_BY_STEP.get(_key, ()), _row)


def transition(job: Job, event: Event) -> tuple[Job, tuple[Effect, ...]]:
    """Take one step.

    Errors: LeaseLost when a worker speaks for a job it does not hold; TransitionRefused for every other step that
            the table does not have. The record given is never changed.
    """
    for row in _BY_STEP.get((job.state, type(event)), ()):
        if row.when(job, event):
            after = row.step(job, event)
            if after is job:
                return job, ()
            return replace(after, version=job.version + 1), row.effects
    raise _refusal(job, event)


def _refusal(job: Job, event: Event) -> TransitionRefused | LeaseLost:
    name = type(event).__name__.lower()
    story = ", ".join(f"attempt {a.number} {a.end} by {a.worker or 'nobody'}" for a in job.history[-3:])
    where = f"job {job.job_id[:12]} is {job.state}"
    if job.reason is not None and not job.is_active:
        where += f" ({job.reason})"
    if isinstance(event, (Renewed, Reported, Released)):
        held = f"attempt {job.attempt} is {job.worker}'s" if job.worker else f"attempt {job.attempt} is nobody's"
        said = "no attempt" if event.attempt is None else f"attempt {event.attempt}"
        return LeaseLost(f"{where}: {held}; {event.worker} spoke for {said}" + (f"; {story}" if story else ""))
    return TransitionRefused(f"{where}: {name} does not apply" + (f"; {story}" if story else ""))
