"""The table of steps: each row by an example, the rest refused, and the promises as sentences and as invariants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from asman.errors import LeaseLost, TransitionRefused
from asman.job import ANY_NAMESPACE, Callback, Job, Outcome, Reason, Requirements, State, absent, decode_job, encode_job
from asman.state import (
    TRANSITIONS,
    CallbackTried,
    Cancelled,
    Claimed,
    Deleted,
    Effect,
    Event,
    Expired,
    Imported,
    Lapsed,
    Released,
    Renewed,
    Replaced,
    Reported,
    Row,
    Submitted,
    Superseded,
    Unlisted,
    transition,
)

T = 1_000_000.0
DAY = 86_400.0
NOBODY = absent("queue", "0" * 64)
HOOKS = (
    Callback(event="queued", namespace="_", url="https://h.example/q", event_id="e1", due_at=T),
    Callback(event="finished", namespace="_", url="https://h.example/f", event_id="e2"),
)


def submitted(at: float = T, namespace: str = "_", **members: Any) -> Submitted:
    return Submitted(at=at, namespace=namespace, expires_at=at + DAY, listed_until=at + 60, **members)


def claimed(worker: str = "w1", at: float = T + 1, protocol: int = 2) -> Claimed:
    return Claimed(at=at, worker=worker, protocol=protocol, lease_until=at + 30)


def renewed(worker: str = "w1", attempt: int | None = 1, at: float = T + 5) -> Renewed:
    return Renewed(at=at, worker=worker, attempt=attempt, lease_until=at + 30)


def reported(
    worker: str = "w1", attempt: int | None = 1, at: float = T + 9, reason: Reason = Reason.SUCCESS, code: int = 0
) -> Reported:
    return Reported(
        at=at,
        worker=worker,
        attempt=attempt,
        reason=reason,
        outcome=Outcome.SUCCEEDED if code == 0 else Outcome.FAILED,
        exit_code=code,
        listed_until=at + 60,
        expires_at=at + DAY,
    )


def released(worker: str = "w1", attempt: int | None = 1) -> Released:
    return Released(at=T + 3, worker=worker, attempt=attempt)


def lapsed(at: float = T + 100, max_attempts: int = 3, **members: Any) -> Lapsed:
    return Lapsed(at=at, max_attempts=max_attempts, listed_until=at + 60, **members)


def cancelled(namespace: str = "_", at: float = T + 4) -> Cancelled:
    return Cancelled(at=at, namespace=namespace, listed_until=at + 60, message="enough")


def superseded(namespace: str = "_") -> Superseded:
    return Superseded(at=T + 2, namespace=namespace, replace_at=T + 6)


def replaced(namespace: str = "_", still_superseded: bool = True) -> Replaced:
    return Replaced(at=T + 6, namespace=namespace, listed_until=T + 66, still_superseded=still_superseded)


def deleted(namespace: str = "_", at: float = T + 20) -> Deleted:
    return Deleted(at=at, namespace=namespace, forget_at=at + 3600)


def unlisted(at: float = T + 200) -> Unlisted:
    return Unlisted(at=at)


def expired(at: float = T + 3 * DAY) -> Expired:
    return Expired(at=at, forget_at=at + 3600)


def imported(at: float = T + 50) -> Imported:
    return Imported(at=at, source=replace(DONE, queue="other"), expires_at=at + DAY, listed_until=at + 60)


def after(*events: Event, start: Job = NOBODY) -> Job:
    job = start
    for event in events:
        job, _ = transition(job, event)
    return job


def refused(job: Job, event: Event, kind: type[Exception] = TransitionRefused) -> str:
    """The step is refused with that error and the record is what it was. The answer is the error's text."""
    before = encode_job(job)
    with pytest.raises(kind) as caught:
        transition(job, event)
    assert encode_job(job) == before
    return str(caught.value)


WAITING = after(submitted())
RUNNING = after(claimed(), start=WAITING)
MIRRORED = after(claimed("w5", protocol=1), start=WAITING)
DONE = after(reported(), start=RUNNING)
GONE = after(unlisted(), start=DONE)
LOST = after(lapsed(), start=RUNNING)
CANCELLED = after(cancelled(), start=WAITING)
CANCELLED_GONE = after(unlisted(), start=CANCELLED)
TWO = after(submitted(namespace="b"), start=WAITING)
TWO_RUNNING = after(claimed(), start=TWO)
TWO_DONE = after(reported(), start=TWO_RUNNING)
HOOKED = after(submitted(callbacks=HOOKS))
HOOKED_RUNNING = after(claimed(), start=HOOKED)
HOOKED_DONE = after(reported(), start=HOOKED_RUNNING)
LATE = submitted(at=T + 2 * DAY)
TRIED = CallbackTried(at=T, event_id="e1", due_at=None)

EXAMPLES: tuple[tuple[Job, Event], ...] = (
    (NOBODY, submitted()),
    (WAITING, LATE),
    (RUNNING, LATE),
    (DONE, LATE),
    (GONE, LATE),
    (WAITING, submitted(T + 1, "b")),
    (RUNNING, submitted(T + 2, "b")),
    (DONE, submitted(T + 20)),
    (GONE, submitted(T + 300)),
    (CANCELLED, submitted(T + 20)),
    (CANCELLED_GONE, submitted(T + 300)),
    (NOBODY, imported()),
    (CANCELLED, imported()),
    (CANCELLED_GONE, imported(T + 300)),
    (WAITING, claimed()),
    (MIRRORED, claimed("w5", T + 2, protocol=1)),
    (MIRRORED, claimed("w4", T + 2, protocol=1)),
    (RUNNING, renewed()),
    (LOST, renewed(at=T + 101)),
    (RUNNING, reported()),
    (LOST, reported(at=T + 101)),
    (DONE, reported(at=T + 20)),
    (GONE, reported(at=T + 300)),
    (RUNNING, released()),
    (RUNNING, lapsed(max_attempts=1)),
    (RUNNING, lapsed()),
    (TWO, cancelled()),
    (TWO_RUNNING, cancelled()),
    (WAITING, cancelled()),
    (RUNNING, cancelled()),
    (TWO, superseded()),
    (WAITING, superseded()),
    (TWO_RUNNING, superseded()),
    (RUNNING, superseded()),
    (after(superseded(), start=WAITING), replaced(still_superseded=False)),
    (after(superseded(), start=RUNNING), replaced(still_superseded=False)),
    (after(superseded(), start=TWO), replaced()),
    (after(superseded(), start=TWO_RUNNING), replaced()),
    (after(superseded(), start=WAITING), replaced()),
    (after(superseded(), start=RUNNING), replaced()),
    (WAITING, deleted()),
    (RUNNING, deleted()),
    (DONE, deleted()),
    (GONE, deleted()),
    (TWO, deleted()),
    (TWO_RUNNING, deleted()),
    (TWO_DONE, deleted()),
    (DONE, unlisted()),
    (WAITING, expired()),
    (RUNNING, expired()),
    (DONE, expired()),
    (GONE, expired()),
    (HOOKED, TRIED),
    (HOOKED_RUNNING, TRIED),
    (HOOKED_DONE, TRIED),
    (after(unlisted(), start=HOOKED_DONE), TRIED),
)


def row_of(job: Job, event: Event) -> Row:
    """The first row whose state, event and guard match, read from the table afresh."""
    return next(r for r in TRANSITIONS if job.state in r.states and type(event) is r.event and r.when(job, event))


def name_of(example: tuple[Job, Event]) -> str:
    job, event = example
    return f"{job.state}-{type(event).__name__}-{row_of(job, event).why}"


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_a_row_does_what_it_says(example: tuple[Job, Event]) -> None:
    job, event = example
    row, before = row_of(job, event), encode_job(job)
    next_job, effects = transition(job, event)
    assert encode_job(job) == before
    assert next_job.state is row.to
    assert (next_job.queue, next_job.job_id) == (job.queue, job.job_id)
    assert next_job.attempt >= job.attempt
    if next_job is job:
        assert effects == ()
    else:
        assert next_job.version == job.version + 1
        assert effects == row.effects


def test_every_row_is_taken_from_each_of_its_states_by_an_example() -> None:
    taken = {(TRANSITIONS.index(row_of(job, event)), job.state) for job, event in EXAMPLES}
    assert taken == {(index, state) for index, row in enumerate(TRANSITIONS) for state in row.states}
    assert len(taken) == len(EXAMPLES), "one example for each is enough"


def test_every_event_has_a_row_and_every_row_says_why() -> None:
    assert {row.event for row in TRANSITIONS} == set(get_args(Event))
    assert all(row.why for row in TRANSITIONS)


ONE_OF_EACH: tuple[Event, ...] = (
    submitted(), imported(), claimed(), renewed(), reported(), released(), lapsed(), cancelled(), superseded(),
    replaced(), deleted(), unlisted(), expired(), TRIED,
)  # fmt: skip
STATES = {
    State.ABSENT: NOBODY,
    State.QUEUED: WAITING,
    State.RUNNING: RUNNING,
    State.FINISHED: DONE,
    State.REMOVED: GONE,
}
NOT_IN_THE_TABLE = [
    (state, event)
    for state in State
    for event in ONE_OF_EACH
    if not any(state in row.states and row.event is type(event) for row in TRANSITIONS)
]


@pytest.mark.parametrize(
    ("state", "event"), NOT_IN_THE_TABLE, ids=lambda v: v if isinstance(v, State) else type(v).__name__
)
def test_what_is_not_in_the_table_is_refused_and_changes_nothing(state: State, event: Event) -> None:
    speaks_for_a_worker = isinstance(event, (Renewed, Reported, Released))
    text = refused(STATES[state], event, LeaseLost if speaks_for_a_worker else TransitionRefused)
    assert state.value in text


def test_the_events_and_states_above_are_all_there_are() -> None:
    assert {type(event) for event in ONE_OF_EACH} == set(get_args(Event))
    assert {state: job.state for state, job in STATES.items()} == {state: state for state in State}
    assert len(NOT_IN_THE_TABLE) == 33


# --- submitting ------------------------------------------------------------------------------------------------------


def test_a_first_submit_starts_the_first_generation_and_asks_for_work() -> None:
    need = Requirements(cores=2.0)
    job, effects = transition(NOBODY, submitted(requirements=need, advertised={"tags": ["a"]}, debug=True))
    assert (job.state, job.version, job.generation, job.attempt) == (State.QUEUED, 1, 1, 0)
    assert (job.queued_at, job.expires_at) == (T, T + DAY)
    assert (job.requirements, job.advertised, job.debug) == (need, {"tags": ["a"]}, True)
    assert Effect.WORK in effects


def test_a_repeated_submit_of_a_live_job_never_disturbs_it() -> None:
    for job in (WAITING, RUNNING):
        again, effects = transition(job, submitted(T + 5))
        assert Effect.WORK not in effects
        assert replace(again, version=job.version, namespaces=job.namespaces, expires_at=job.expires_at) == job


def test_namespaces_join_once_each_and_remember_their_last_submit() -> None:
    job = after(submitted(T), submitted(T + 1, "b"), submitted(T + 2, "a"), submitted(T + 3, "b"))
    assert job.namespaces == (("_", T), ("a", T + 2), ("b", T + 3))


def test_a_submit_renews_the_time_to_live_and_never_shortens_it() -> None:
    assert after(submitted(T + 10), start=WAITING).expires_at == T + 10 + DAY
    early = Submitted(at=T + 10, namespace="_", expires_at=T + 11, listed_until=T + 70)
    assert after(early, start=WAITING).expires_at == WAITING.expires_at


def test_a_stored_result_answers_without_running_again() -> None:
    for job, at in ((DONE, T + 20), (GONE, T + 300)):
        again, effects = transition(job, submitted(at, "b"))
        assert (again.state, again.reason, again.attempt, again.generation) == (State.FINISHED, Reason.SUCCESS, 1, 1)
        assert "b" in again.namespace_names
        assert Effect.WORK not in effects
        assert Effect.DROP_RESULT not in effects


def test_a_result_that_had_left_the_listing_is_listed_again_for_a_while() -> None:
    assert after(submitted(T + 300), start=GONE).listed_until == T + 360


@pytest.mark.parametrize("reason", [Reason.ERROR, Reason.TIMED_OUT])
def test_an_error_or_timeout_is_a_result_and_answers_too(reason: Reason) -> None:
    job = after(reported(reason=reason), submitted(T + 20), start=RUNNING)
    assert (job.state, job.reason) == (State.FINISHED, reason)


ENDED_WITHOUT_A_RESULT = {
    "cancelled": after(cancelled(), start=RUNNING),
    "replaced": after(superseded(), replaced(), start=RUNNING),
    "deleted": after(deleted(), start=DONE),
    "lost": after(lapsed(max_attempts=1), start=RUNNING),
}


@pytest.mark.parametrize("how", ENDED_WITHOUT_A_RESULT)
def test_a_job_that_ended_without_a_result_runs_again_when_submitted(how: str) -> None:
    for ended in (ENDED_WITHOUT_A_RESULT[how], after(unlisted(), start=ENDED_WITHOUT_A_RESULT[how])):
        job, effects = transition(ended, submitted(T + 300))
        assert (job.state, job.generation, job.queued_at) == (State.QUEUED, 2, T + 300)
        assert (job.reason, job.outcome, job.lost, job.history, job.worker) == (None, None, 0, (), "")
        assert job.attempt == ended.attempt, "the number goes on, so that late reports stay refused"
        assert {Effect.WORK, Effect.DROP_RESULT, Effect.DROP_LOGS} <= set(effects)


def test_an_expired_job_starts_anew_whatever_it_was() -> None:
    for job in (WAITING, RUNNING, DONE, GONE, after(expired(), start=DONE)):
        again = after(submitted(T + 4 * DAY), start=job)
        assert (again.state, again.generation, again.attempt) == (State.QUEUED, 2, job.attempt)
        assert not again.forgotten


# --- holding and reporting -------------------------------------------------------------------------------------------


def test_each_claim_raises_the_attempt() -> None:
    job = after(released(), claimed("w2", T + 4), start=RUNNING)
    assert (job.attempt, job.worker, job.claimed_at, job.lease_until) == (2, "w2", T + 4, T + 34)


def test_a_job_is_given_to_one_worker_only() -> None:
    refused(RUNNING, claimed("w0"))
    refused(RUNNING, claimed("w1"))


def test_a_holder_that_renews_keeps_the_job_longer() -> None:
    assert after(renewed(at=T + 20), start=RUNNING).lease_until == T + 50


@pytest.mark.parametrize("event", [renewed, reported, released])
@pytest.mark.parametrize(("worker", "attempt"), [("w2", 1), ("w2", None), ("w1", 0), ("w1", 2)])
def test_only_the_holder_with_its_own_attempt_is_heard(event: Any, worker: str, attempt: int | None) -> None:
    text = refused(RUNNING, event(worker=worker, attempt=attempt), LeaseLost)
    assert worker in text
    assert "attempt 1 is w1's" in text


def test_a_result_tells_the_wire_and_the_truth() -> None:
    job, effects = transition(RUNNING, reported(code=3))
    assert (job.state, job.reason, job.outcome, job.exit_code) == (State.FINISHED, Reason.SUCCESS, Outcome.FAILED, 3)
    assert (job.result_worker, job.finished_at, job.listed_until) == ("w1", T + 9, T + 69)
    assert job.expires_at == T + 9 + DAY
    assert [a.end for a in job.history] == ["reported"]
    assert job.lease_until is None
    assert Effect.CHANGED in effects


def test_the_same_report_again_is_accepted_and_changes_nothing() -> None:
    for job in (DONE, GONE):
        for attempt in (1, None):
            assert transition(job, reported(attempt=attempt, at=T + 300)) == (job, ())


def test_another_result_for_a_finished_job_is_refused() -> None:
    refused(DONE, reported(reason=Reason.ERROR), LeaseLost)
    refused(DONE, reported(worker="w2"), LeaseLost)
    refused(DONE, reported(attempt=2), LeaseLost)


def test_a_late_report_of_the_last_holder_is_accepted_while_nobody_else_was_given_the_job() -> None:
    for waiting in (LOST, after(released(), start=RUNNING)):
        job = after(reported(at=T + 101), start=waiting)
        assert (job.state, job.reason, job.result_worker, job.attempt) == (State.FINISHED, Reason.SUCCESS, "w1", 1)


def test_a_late_report_is_refused_once_another_attempt_exists() -> None:
    job = after(claimed("w2", T + 101), start=LOST)
    refused(job, reported(at=T + 102), LeaseLost)
    refused(job, reported(attempt=None, at=T + 102), LeaseLost)
    again = after(lapsed(T + 200), start=job)
    text = refused(again, reported(at=T + 201), LeaseLost)
    assert "attempt 2 lost by w2" in text


def test_a_late_report_of_somebody_else_is_refused() -> None:
    refused(LOST, reported(worker="w2"), LeaseLost)
    refused(LOST, reported(attempt=2), LeaseLost)


def test_a_stale_attempt_of_the_same_worker_is_refused() -> None:
    job = after(claimed("w1", T + 101), start=LOST)
    assert job.attempt == 2
    refused(job, reported(attempt=1), LeaseLost)
    refused(job, renewed(attempt=1), LeaseLost)
    assert after(reported(attempt=2), start=job).state is State.FINISHED


@pytest.mark.parametrize("how", ENDED_WITHOUT_A_RESULT)
def test_a_report_of_an_earlier_generation_is_refused(how: str) -> None:
    ended = ENDED_WITHOUT_A_RESULT[how]
    again = after(submitted(T + 300), start=ended)
    for job in (ended, again, after(claimed("w1", T + 301), start=again)):
        refused(job, reported(attempt=1, at=T + 302), LeaseLost)


def test_a_worker_that_comes_back_in_time_takes_the_job_up_again_under_the_same_attempt() -> None:
    job, effects = transition(LOST, renewed(at=T + 101))
    assert (job.state, job.worker, job.attempt, job.lost) == (State.RUNNING, "w1", 1, 0)
    assert (job.protocol, job.claimed_at, job.history) == (2, T + 1, ())
    assert job.lease_until == T + 131
    assert Effect.CHANGED in effects
    assert after(renewed(attempt=None), start=LOST).protocol == 1


def test_a_worker_that_comes_back_too_late_does_not() -> None:
    refused(LOST, renewed(worker="w2"), LeaseLost)
    refused(after(claimed("w2", T + 101), start=LOST), renewed(at=T + 102), LeaseLost)
    refused(CANCELLED, renewed(), LeaseLost)


def test_a_job_handed_back_waits_again_at_once_and_that_is_not_held_against_it() -> None:
    job, effects = transition(RUNNING, released())
    assert (job.state, job.worker, job.lost, job.queued_at) == (State.QUEUED, "", 0, T)
    assert [a.end for a in job.history] == ["released"]
    assert {Effect.WORK, Effect.DROP_LOGS} <= set(effects)


# --- leases ----------------------------------------------------------------------------------------------------------


def test_a_lease_that_has_not_run_out_is_not_ended() -> None:
    refused(RUNNING, lapsed(at=T + 30.9))
    assert after(lapsed(at=T + 31), start=RUNNING).state is State.QUEUED


def test_a_holder_that_says_it_lost_the_job_need_not_be_waited_for() -> None:
    job = after(lapsed(at=T + 2, holder_is_gone=True), start=RUNNING)
    assert (job.state, job.lost) == (State.QUEUED, 1)


def test_a_lost_job_keeps_its_place_in_the_queue() -> None:
    job, effects = transition(RUNNING, lapsed())
    assert (job.queued_at, job.attempt, job.lost) == (T, 1, 1)
    assert {Effect.WORK, Effect.REVOKE, Effect.DROP_LOGS} <= set(effects)


def test_a_job_that_lost_three_attempts_is_given_up() -> None:
    job = WAITING
    for attempt in (1, 2, 3):
        job = after(claimed(f"w{attempt}", T + attempt), start=job)
        job = after(lapsed(T + 100 + attempt), start=job)
    assert (job.state, job.reason, job.outcome, job.lost) == (
        State.FINISHED,
        Reason.WORKER_LOST,
        Outcome.WORKER_LOST,
        3,
    )
    assert [a.worker for a in job.history] == ["w1", "w2", "w3"]
    assert "3 attempts" in job.message
    assert not job.has_result
    refused(job, reported("w3", 3), LeaseLost)


def test_history_is_bounded() -> None:
    job = WAITING
    for n in range(30):
        job = after(claimed("w1", T + n), Released(at=T + n, worker="w1", attempt=n + 1), start=job)
    assert [a.number for a in job.history] == list(range(21, 31))


# --- two mirroring workers -------------------------------------------------------------------------------------------


def test_of_two_mirroring_workers_the_one_whose_id_sorts_first_takes_the_job_over() -> None:
    job = after(claimed("w4", T + 2, protocol=1), start=MIRRORED)
    assert (job.worker, job.attempt, job.protocol) == ("w4", 2, 1)
    assert [(a.worker, a.end) for a in job.history] == [("w5", "taken_over")]
    refused(job, reported("w5", None), LeaseLost)
    refused(job, claimed("w5", T + 3, protocol=1))
    assert after(reported("w4", None), start=job).result_worker == "w4"


def test_a_mirroring_worker_that_sorts_later_is_refused() -> None:
    refused(MIRRORED, claimed("w6", T + 2, protocol=1))


def test_nothing_is_taken_over_from_or_by_a_worker_that_was_assigned_it() -> None:
    refused(RUNNING, claimed("w0", T + 2, protocol=1))
    refused(MIRRORED, claimed("w0", T + 2, protocol=2))


def test_a_mirroring_worker_that_claims_again_only_extends_its_lease() -> None:
    job = after(claimed("w5", T + 9, protocol=1), start=MIRRORED)
    assert (job.attempt, job.claimed_at, job.lease_until) == (1, T + 1, T + 39)
    refused(MIRRORED, claimed("w5", T + 9, protocol=2))


# --- namespaces, cancel, replace, delete -----------------------------------------------------------------------------


def test_cancelling_one_of_several_namespaces_leaves_the_job_as_it_is_to_the_others() -> None:
    three = after(submitted(), submitted(namespace="b"), submitted(namespace="c"), claimed())
    job, effects = transition(three, cancelled("b"))
    assert (job.state, job.namespace_names, job.lease_until) == (State.RUNNING, ["_", "c"], T + 31)
    assert Effect.REVOKE not in effects


def test_cancelling_the_last_namespace_ends_the_job_and_stops_its_worker() -> None:
    job, effects = transition(RUNNING, cancelled())
    assert (job.state, job.reason, job.outcome) == (State.FINISHED, Reason.CANCELLED, Outcome.CANCELLED)
    assert (job.namespaces, job.message, job.has_result) == ((), "enough", False)
    assert [a.end for a in job.history] == ["cancelled"]
    assert Effect.REVOKE in effects


def test_cancelling_for_all_ends_the_job_whoever_holds_it() -> None:
    assert after(cancelled(ANY_NAMESPACE), start=TWO).reason is Reason.CANCELLED


def test_cancelling_for_a_namespace_that_does_not_hold_the_job_is_refused() -> None:
    refused(WAITING, cancelled("stranger"))
    refused(RUNNING, cancelled("stranger"))


def test_cancel_is_final_and_a_result_cannot_be_cancelled() -> None:
    refused(after(cancelled(), start=RUNNING), reported(), LeaseLost)
    refused(after(cancelled(), start=RUNNING), claimed())
    refused(DONE, cancelled())
    refused(CANCELLED, cancelled())


def test_a_superseded_job_is_replaced_when_its_time_comes() -> None:
    waiting = after(superseded(), start=RUNNING)
    assert waiting.replacements == (("_", T + 6),)
    assert waiting.due_at == T + 6
    job, effects = transition(waiting, replaced())
    assert (job.state, job.reason, job.outcome) == (State.FINISHED, Reason.REPLACED, Outcome.REPLACED)
    assert (job.namespaces, job.replacements) == ((), ())
    assert Effect.REVOKE in effects


def test_replacing_one_of_several_namespaces_keeps_the_job_alive() -> None:
    job = after(superseded("b"), replaced("b"), start=TWO_RUNNING)
    assert (job.state, job.namespace_names, job.replacements) == (State.RUNNING, ["_"], ())


def test_a_replacement_is_dropped_if_the_newer_job_is_gone() -> None:
    job = after(superseded(), replaced(still_superseded=False), start=RUNNING)
    assert (job.state, job.replacements, job.namespace_names) == (State.RUNNING, (), ["_"])


def test_a_replacement_is_dropped_if_the_job_is_submitted_again() -> None:
    assert after(superseded(), submitted(T + 3), start=WAITING).replacements == ()
    assert after(superseded(), submitted(T + 3, "b"), start=WAITING).replacements == (("_", T + 6),)


def test_a_replacement_is_planned_once_for_each_namespace() -> None:
    job = after(superseded(), superseded("b"), superseded(), start=TWO)
    assert job.replacements == (("_", T + 6), ("b", T + 6))


def test_a_job_of_another_namespace_is_not_superseded() -> None:
    refused(WAITING, superseded("stranger"))
    refused(WAITING, replaced("stranger"))
    refused(DONE, superseded())


def test_deleting_for_the_last_namespace_drops_job_and_result_in_any_state() -> None:
    for job in (WAITING, RUNNING, DONE, GONE, CANCELLED):
        gone, effects = transition(job, deleted())
        assert (gone.reason, gone.outcome, gone.has_result) == (Reason.DELETED, Outcome.DELETED, False)
        assert (gone.namespaces, gone.result_worker, gone.exit_code) == ((), "", None)
        assert gone.attempt == job.attempt
        assert {Effect.DROP_DOCUMENTS, Effect.CLEAR_CACHE, Effect.REVOKE} <= set(effects)
        refused(gone, claimed())


def test_deleting_for_one_of_several_namespaces_keeps_the_result() -> None:
    job, effects = transition(TWO_DONE, deleted("b"))
    assert (job.state, job.reason, job.namespace_names) == (State.FINISHED, Reason.SUCCESS, ["_"])
    assert Effect.DROP_DOCUMENTS not in effects
    assert after(deleted(ANY_NAMESPACE), start=TWO_DONE).reason is Reason.DELETED


def test_deleting_for_a_namespace_that_does_not_hold_the_job_is_refused() -> None:
    for job in (WAITING, RUNNING, DONE):
        refused(job, deleted("stranger"))


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_finished_job_leaves_the_listing_in_its_time_and_keeps_its_result() -> None:
    refused(DONE, unlisted(T + 68.9))
    job = after(unlisted(T + 69), start=DONE)
    assert (job.state, job.has_result, job.namespaces) == (State.REMOVED, True, ())
    refused(job, unlisted(T + 999))


def test_expiry_drops_everything_but_the_memory_that_there_was_a_job() -> None:
    refused(DONE, expired(at=DONE.expires_at - 0.1))
    for job in (WAITING, RUNNING, DONE, GONE):
        gone, effects = transition(job, expired(job.expires_at))
        assert (gone.state, gone.forgotten, gone.has_result) == (State.REMOVED, True, False)
        assert gone.is_expired(job.expires_at)
        assert gone.due_at == gone.expires_at == job.expires_at + 3600
        assert Effect.DROP_DOCUMENTS in effects
        refused(gone, reported(), LeaseLost)


def test_an_imported_result_is_this_queues_own() -> None:
    job = after(imported())
    assert (job.queue, job.state, job.reason, job.result_worker) == ("queue", State.FINISHED, Reason.SUCCESS, "w1")
    assert (job.attempt, job.generation, job.version) == (1, 1, 1)
    assert job.has_result


def test_a_result_is_not_imported_over_a_result_or_a_live_job() -> None:
    for job in (WAITING, RUNNING, DONE, GONE):
        refused(job, imported())
    assert after(imported(at=T + 2 * DAY), start=DONE).generation == 2


# --- callbacks -------------------------------------------------------------------------------------------------------


def due(job: Job) -> dict[str, float | None]:
    return {c.event_id: c.due_at for c in job.callbacks}


def test_the_finished_callback_becomes_due_with_the_end_whatever_it_is() -> None:
    assert due(HOOKED_RUNNING) == {"e1": T, "e2": None}
    for event, at in ((reported(), T + 9), (cancelled(), T + 4), (lapsed(max_attempts=1), T + 100)):
        job, effects = transition(HOOKED_RUNNING, event)
        assert due(job)["e2"] == at
        assert Effect.DELIVER in effects


def test_a_namespace_that_leaves_is_not_called_back() -> None:
    others = after(submitted(callbacks=HOOKS), submitted(namespace="b"), claimed(), cancelled("_"), reported())
    assert [(c.event_id, c.done, c.due_at) for c in others.callbacks] == [("e1", False, T), ("e2", True, None)]


def test_a_callback_of_a_submit_that_a_result_answers_is_due_at_once() -> None:
    job = after(submitted(T + 20, callbacks=(HOOKS[1],)), start=DONE)
    assert due(job) == {"e2": T + 20}


def test_a_callback_that_is_known_is_not_owed_twice() -> None:
    again = replace(HOOKS[1], event_id="e3")
    assert due(after(submitted(T + 1, callbacks=(again,)), start=HOOKED)) == {"e1": T, "e2": None}


def test_a_delivery_is_tried_until_it_is_done_and_then_refused() -> None:
    job = after(CallbackTried(at=T, event_id="e1", due_at=T + 60), start=HOOKED)
    assert [(c.tries, c.due_at, c.done) for c in job.callbacks] == [(1, T + 60, False), (0, None, False)]
    job = after(TRIED, start=job)
    assert [(c.tries, c.due_at, c.done) for c in job.callbacks] == [(2, None, True), (0, None, False)]
    refused(job, TRIED)
    refused(job, CallbackTried(at=T, event_id="unknown", due_at=None))


def test_a_new_generation_owes_only_its_own_callbacks() -> None:
    ended = after(cancelled(), start=HOOKED)
    assert after(submitted(T + 20), start=ended).callbacks == ()


# --- all orders of events --------------------------------------------------------------------------------------------

WORKERS = st.sampled_from(["w1", "w2", "w3"])
NAMESPACES = st.sampled_from(["_", "a", "b"])
WAITS = st.sampled_from([0.0, 1.0, 31.0, 90.0, DAY])


class AnyOrder(RuleBasedStateMachine):
    """Any events in any order: what is promised holds, and what is refused changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.job = NOBODY
        self.now = T
        self.given_to: dict[int, str] = {}
        self.results: dict[int, int] = {}
        self.ended: set[int] = set()
        self.first_attempt = 1

    def step(self, event: Event) -> tuple[Job, tuple[Effect, ...]] | None:
        before, written = self.job, encode_job(self.job)
        refusal = LeaseLost if isinstance(event, (Renewed, Reported, Released)) else TransitionRefused
        try:
            after_it, effects = transition(before, event)
        except refusal:
            assert encode_job(before) == written
            return None
        assert encode_job(before) == written
        if after_it is not before:
            assert after_it.version == before.version + 1
            assert after_it.attempt - before.attempt in (0, 1)
            assert after_it.generation - before.generation in (0, 1)
        if after_it.generation > before.generation:
            self.first_attempt = after_it.attempt + 1
        self.job = after_it
        return before, effects

    @initialize()
    def first_submit(self) -> None:
        self.submit("_", 0.0)

    @rule(wait=WAITS)
    def time_passes(self, wait: float) -> None:
        self.now += wait

    @rule(namespace=NAMESPACES, wait=WAITS)
    def submit(self, namespace: str, wait: float) -> None:
        self.now += wait
        done = self.step(submitted(self.now, namespace))
        assert done is not None, "a submit is never refused"
        assert (Effect.WORK in done[1]) is (self.job.generation > done[0].generation)
        assert namespace in self.job.namespace_names

    @rule(worker=WORKERS, protocol=st.sampled_from([1, 2]))
    def claim(self, worker: str, protocol: int) -> None:
        done = self.step(claimed(worker, self.now, protocol))
        if done is not None and self.job.attempt > done[0].attempt:
            taken_over = done[0].protocol == protocol == 1 and worker < done[0].worker
            assert done[0].state is State.QUEUED or taken_over
            self.given_to[self.job.attempt] = worker

    @rule(worker=WORKERS, back=st.sampled_from([None, 0, 0, 1]))
    def renew(self, worker: str, back: int | None) -> None:
        attempt = None if back is None else self.job.attempt - back
        if self.step(renewed(worker, attempt, self.now)) is not None:
            assert back in (None, 0)
            assert self.given_to[self.job.attempt] == worker
            assert self.job.state is State.RUNNING

    @rule(worker=WORKERS, back=st.sampled_from([None, 0, 0, 1]), reason=st.sampled_from(list(Reason)[:3]))
    def report(self, worker: str, back: int | None, reason: Reason) -> None:
        attempt = None if back is None else self.job.attempt - back
        done = self.step(reported(worker, attempt, self.now, reason))
        if done is None:
            return
        assert back in (None, 0)
        assert self.given_to[self.job.attempt] == worker
        assert self.job.attempt >= self.first_attempt
        if done[0] is not self.job:
            self.results[self.job.generation] = self.results.get(self.job.generation, 0) + 1

    @rule(worker=WORKERS, back=st.sampled_from([None, 0, 1]))
    def release(self, worker: str, back: int | None) -> None:
        attempt = None if back is None else self.job.attempt - back
        done = self.step(Released(at=self.now, worker=worker, attempt=attempt))
        assert done is None or (done[0].worker == worker and back in (None, 0))

    @rule(gone=st.booleans())
    def lapse(self, gone: bool) -> None:
        self.ends(lapsed(self.now, holder_is_gone=gone))

    @rule(namespace=NAMESPACES | st.just(ANY_NAMESPACE))
    def cancel(self, namespace: str) -> None:
        self.ends(cancelled(namespace, self.now))

    @rule(namespace=NAMESPACES)
    def supersede(self, namespace: str) -> None:
        self.step(Superseded(at=self.now, namespace=namespace, replace_at=self.now + 4))

    @rule(namespace=NAMESPACES, still=st.booleans())
    def replace(self, namespace: str, still: bool) -> None:
        self.ends(Replaced(at=self.now, namespace=namespace, listed_until=self.now + 60, still_superseded=still))

    @rule(namespace=NAMESPACES | st.just(ANY_NAMESPACE))
    def delete(self, namespace: str) -> None:
        done = self.ends(deleted(namespace, self.now))
        assert done is None or (Effect.DROP_DOCUMENTS in done[1]) is (self.job.reason is Reason.DELETED)

    @rule()
    def unlist(self) -> None:
        self.step(unlisted(self.now))

    @rule()
    def expire(self) -> None:
        over = self.job.expires_at <= self.now
        assert (self.step(expired(self.now)) is not None) is over
        assert self.job.forgotten or not over

    @rule()
    def bring_a_result(self) -> None:
        done = self.step(imported(self.now))
        if done is not None:
            self.results[self.job.generation] = self.results.get(self.job.generation, 0) + 1
            self.first_attempt = self.job.attempt
            self.given_to[self.job.attempt] = "w1"

    def ends(self, event: Event) -> tuple[Job, tuple[Effect, ...]] | None:
        done = self.step(event)
        if done is not None and self.job.state is State.FINISHED and not self.job.has_result:
            self.ended.add(self.job.generation)
        return done

    @invariant()
    def a_generation_has_at_most_one_result(self) -> None:
        assert all(count == 1 for count in self.results.values())

    @invariant()
    def what_was_ended_has_no_result(self) -> None:
        assert not (self.job.has_result and self.job.generation in self.ended)
        assert not self.job.has_result or self.job.generation in self.results

    @invariant()
    def a_job_is_held_exactly_while_it_runs(self) -> None:
        job = self.job
        assert (job.lease_until is not None) is (job.state is State.RUNNING)
        if job.state is State.RUNNING:
            assert self.given_to[job.attempt] == job.worker
        if job.state is State.QUEUED:
            assert (job.worker, job.protocol) == ("", 0)

    @invariant()
    def a_job_has_ended_exactly_if_it_says_how(self) -> None:
        if self.job.state in (State.QUEUED, State.RUNNING):
            assert (self.job.reason, self.job.outcome, self.job.finished_at) == (None, None, None)
        if self.job.state is State.FINISHED:
            assert None not in (self.job.reason, self.job.outcome, self.job.finished_at)

    @invariant()
    def somebody_wants_each_live_job_and_replacements_are_theirs(self) -> None:
        names = self.job.namespace_names
        assert names == sorted(set(names))
        assert not self.job.is_active or names
        assert {name for name, _ in self.job.replacements} <= set(names)

    @invariant()
    def a_record_is_bounded_and_can_be_written_down(self) -> None:
        assert len(self.job.history) <= 10
        assert self.job.lost <= 3
        assert decode_job(encode_job(self.job)) == self.job


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


def history_of(events: Sequence[Event]) -> list[State]:
    states, job = [], NOBODY
    for event in events:
        job, _ = transition(job, event)
        states.append(job.state)
    return states


def test_a_life_without_incidents_goes_through_every_state_once() -> None:
    assert history_of([submitted(), claimed(), reported(), unlisted()]) == list(State)[1:]
