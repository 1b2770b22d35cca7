"""The record: written down and read again, and when it must be looked at next."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given

from asman.job import Callback, Job, Reason, Requirements, State, absent, decode_job, encode_job
from asman.testing.strategies import jobs, requirements

QUEUED = replace(absent("q", "0" * 64), state=State.QUEUED, expires_at=1000.0)


@given(jobs())
def test_a_record_is_read_back_as_it_was_written(job: Job) -> None:
    assert decode_job(encode_job(job)) == job


@given(jobs())
def test_a_record_is_written_as_one_line_of_ascii_json(job: Job) -> None:
    data = encode_job(job)
    assert data.isascii()
    assert b"\n" not in data
    assert json.loads(data)["job_id"] == job.job_id


def test_members_at_their_default_are_not_written() -> None:
    assert json.loads(encode_job(QUEUED)) == {
        "queue": "q",
        "job_id": "0" * 64,
        "state": "Queued",
        "expires_at": 1000.0,
    }


def test_members_of_a_newer_release_are_dropped_at_every_level() -> None:
    raw = json.loads(encode_job(replace(QUEUED, callbacks=(Callback(event="queued", namespace="_", url="u"),))))
    raw["colour"] = "red"
    raw["callbacks"][0]["colour"] = "red"
    raw["requirements"] = {"cores": 2.0, "tags": ["a"], "colour": "red"}
    raw["history"] = [{"number": 1, "worker": "w", "started_at": 1, "ended_at": 2, "end": "lost", "colour": "red"}]
    job = decode_job(json.dumps(raw))
    assert job.callbacks == (Callback(event="queued", namespace="_", url="u"),)
    assert job.requirements == Requirements(cores=2.0, tags=("a",))
    assert job.history[0].worker == "w"


@given(requirements())
def test_requirements_come_back_from_their_shape(need: Requirements) -> None:
    assert Requirements.from_shape(need.shape) == need


def test_different_requirements_have_different_shapes() -> None:
    needs = [Requirements(), Requirements(cores=2.0), Requirements(gpus=1), Requirements(memory_bytes=1)]
    needs += [
        Requirements(max_duration_s=1.0),
        Requirements(tags=("a",)),
        Requirements(tags=("a", "b")),
        Requirements(tags=("a,b",)),
    ]
    assert len({need.shape for need in needs}) == len(needs)


def test_only_success_error_and_timeout_leave_a_result() -> None:
    assert {reason for reason in Reason if reason.has_result} == {Reason.SUCCESS, Reason.ERROR, Reason.TIMED_OUT}


def test_a_forgotten_record_has_no_result_and_counts_as_expired() -> None:
    job = replace(QUEUED, state=State.REMOVED, reason=Reason.SUCCESS, forgotten=True, expires_at=9e9)
    assert not job.has_result
    assert job.is_expired(0.0)


def test_a_record_expires_in_its_last_second_and_an_absent_one_never() -> None:
    assert not QUEUED.is_expired(999.9)
    assert QUEUED.is_expired(1000.0)
    assert not absent("q", "0" * 64).is_expired(1e12)


def test_a_job_is_active_while_it_waits_or_runs() -> None:
    assert [s for s in State if replace(QUEUED, state=s).is_active] == [State.QUEUED, State.RUNNING]


CALLBACK = Callback(event="queued", namespace="_", url="u", due_at=7.0)


@pytest.mark.parametrize(
    ("changes", "due_at"),
    [
        ({}, 1000.0),
        ({"lease_until": 5.0}, 1000.0),
        ({"state": State.RUNNING, "lease_until": 5.0}, 5.0),
        ({"state": State.RUNNING, "lease_until": None}, 1000.0),
        ({"state": State.RUNNING, "lease_until": 5000.0}, 1000.0),
        ({"state": State.FINISHED, "listed_until": 6.0}, 6.0),
        ({"state": State.REMOVED, "listed_until": 6.0}, 1000.0),
        ({"replacements": (("a", 9.0), ("b", 8.0))}, 8.0),
        ({"state": State.FINISHED, "replacements": (("a", 9.0),)}, 1000.0),
        ({"callbacks": (CALLBACK,)}, 7.0),
        ({"state": State.REMOVED, "callbacks": (CALLBACK,)}, 7.0),
        ({"callbacks": (replace(CALLBACK, due_at=None),)}, 1000.0),
    ],
)
def test_a_record_is_due_at_the_first_moment_something_must_happen(changes: dict[str, object], due_at: float) -> None:
    assert replace(QUEUED, **changes).due_at == due_at  # type: ignore[arg-type]


def test_namespaces_are_named_in_order() -> None:
    assert replace(QUEUED, namespaces=(("a", 2.0), ("b", 1.0))).namespace_names == ["a", "b"]
