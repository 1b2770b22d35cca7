"""Shapes on the wire: queue records, frames, what is shown where."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman.job import Attempt, Job, Outcome, Reason, State, absent
from asman.messages import (
    decode_event,
    encode,
    encode_event,
    frame,
    is_listed,
    is_shown,
    job_record,
    jobs_frame,
    ms,
)
from asman.testing.strategies import jobs, json_values

NOW = 1_700_000_000.0
JOB = replace(
    absent("q", "0" * 64),
    state=State.QUEUED,
    version=1,
    generation=1,
    queued_at=NOW,
    changed_at=NOW,
    expires_at=NOW + 100,
    namespaces=(("_", NOW), ("b", NOW)),
)
DONE = replace(
    JOB,
    state=State.FINISHED,
    attempt=1,
    worker="w1",
    result_worker="w1",
    changed_at=NOW + 2.0006,
    finished_at=NOW + 2.0006,
    listed_until=NOW + 60,
    reason=Reason.SUCCESS,
    outcome=Outcome.FAILED,
    exit_code=3,
    history=(Attempt(number=1, worker="w1", started_at=NOW + 1, ended_at=NOW + 2, end="reported"),),
)


def test_a_waiting_job_has_the_members_every_client_reads() -> None:
    assert job_record(JOB) == {
        "queuedTime": 1_700_000_000_000,
        "state": "Queued",
        "time": 1_700_000_000_000,
        "worker": "",
        "namespaces": ["_", "b"],
        "attempt": 0,
        "generation": 1,
        "expiresAt": 1_700_000_100_000,
    }


def test_a_running_job_says_who_holds_it_until_when() -> None:
    record = job_record(replace(JOB, state=State.RUNNING, worker="w1", attempt=2, lease_until=NOW + 30.5))
    assert (record["worker"], record["attempt"], record["leaseUntil"]) == ("w1", 2, 1_700_000_030_500)
    assert "attempts" not in record


def test_a_job_that_is_tried_again_says_what_came_of_the_attempts_before() -> None:
    """Its number alone does not: it goes on when the job is submitted anew after its end."""
    lost = replace(DONE.history[0], end="lost")
    record = job_record(replace(JOB, attempt=1, lost=1, history=(lost,)))
    assert (record["state"], [each["how"] for each in record["attempts"]]) == ("Queued", ["lost"])


def test_a_finished_job_says_how_in_both_words_and_what_happened_before() -> None:
    record = job_record(DONE)
    assert (record["finishedReason"], record["outcome"], record["exitCode"]) == ("Success", "failed", 3)
    assert record["time"] == 1_700_000_002_001
    assert record["attempts"] == [
        {"attempt": 1, "worker": "w1", "start": 1_700_000_001_000, "end": 1_700_000_002_000, "how": "reported"}
    ]


def test_members_of_the_definition_that_listings_repeat_are_verbatim() -> None:
    advertised = {"requirements": {"cpus": 2, "x": None}, "tags": ["b", "a"]}
    record = job_record(replace(JOB, advertised=advertised, debug=False, message="hm"))
    assert {name: record[name] for name in advertised} == advertised
    assert (record["debug"], record["message"]) == (False, "hm")


@given(jobs())
def test_a_record_never_has_a_null_member_of_its_own_and_times_are_whole(job: Job) -> None:
    record = job_record(replace(job, advertised={}))
    assert None not in record.values()
    for name in ("queuedTime", "time", "leaseUntil", "expiresAt"):
        assert isinstance(record.get(name, 0), int)
    assert json.loads(encode(job_record(job))) == json.loads(json.dumps(job_record(job)))


def test_a_frame_without_payload_has_no_such_member() -> None:
    assert frame("ClearJobCache") == b'{"type":"ClearJobCache"}'
    assert frame("Workers", {}) == b'{"type":"Workers","payload":{}}'


def test_the_whole_queue_and_a_part_of_it_differ_in_type_and_flag() -> None:
    whole, part = (json.loads(jobs_frame([JOB], subset=subset)) for subset in (False, True))
    assert (whole["type"], whole["payload"]["isSubset"]) == ("JobStates", False)
    assert (part["type"], part["payload"]["isSubset"]) == ("JobStateUpdates", True)
    assert whole["payload"]["state"] == part["payload"]["state"] == {"jobs": {JOB.job_id: job_record(JOB)}}
    assert json.loads(jobs_frame([], subset=False))["payload"]["state"] == {"jobs": {}}


@given(json_values())
def test_everything_json_is_encoded_as_utf8_on_one_line(value: Any) -> None:
    data = encode(value)
    assert json.loads(data.decode()) == value
    assert b"\n" not in data


def test_text_is_sent_as_it_is_unless_it_cannot_be() -> None:
    assert encode("ä") == '"ä"'.encode()
    assert encode("\ud83d") == b'"\\ud83d"'


def test_what_json_does_not_have_is_never_sent() -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode(float("nan"))


@given(st.dictionaries(st.text(max_size=5), json_values(), max_size=3), st.binary(max_size=50))
def test_what_servers_tell_each_other_comes_apart_again(header: dict[str, Any], message: bytes) -> None:
    assert decode_event(encode_event(header, message)) == (header, message)


@pytest.mark.parametrize(
    ("seconds", "whole"), [(0.0, 0), (1.0004, 1000), (1.0006, 1001), (NOW + 0.123, 1_700_000_000_123)]
)
def test_times_on_the_wire_are_whole_milliseconds(seconds: float, whole: int) -> None:
    assert ms(seconds) == whole
    assert isinstance(ms(seconds), int)


@pytest.mark.parametrize(
    ("job", "now", "listed"),
    [
        (JOB, NOW, True),
        (replace(JOB, state=State.RUNNING), NOW, True),
        (JOB, NOW + 100, False),
        (DONE, NOW + 59, True),
        (DONE, NOW + 60, False),
        (replace(DONE, listed_until=None), NOW + 60, True),
        (replace(DONE, expires_at=NOW), NOW, False),
        (replace(DONE, reason=Reason.ERROR), NOW, True),
        (replace(DONE, reason=Reason.TIMED_OUT), NOW, True),
        (replace(DONE, reason=Reason.WORKER_LOST), NOW, True),
        (replace(DONE, reason=Reason.CANCELLED), NOW, False),
        (replace(DONE, reason=Reason.REPLACED), NOW, False),
        (replace(DONE, reason=Reason.DELETED), NOW, False),
        (replace(DONE, state=State.REMOVED), NOW, False),
        (absent("q", "0" * 64), NOW, False),
    ],
)
def test_the_listing_shows_what_somebody_still_wants(job: Job, now: float, listed: bool) -> None:
    assert is_listed(job, now) is listed


@given(jobs(), st.floats(0, 4e9))
def test_what_is_listed_may_also_be_sent(job: Job, now: float) -> None:
    assert not is_listed(job, now) or is_shown(job)


def test_a_frame_also_says_how_a_job_left_but_not_that_it_is_forgotten() -> None:
    assert is_shown(replace(DONE, reason=Reason.CANCELLED))
    assert not is_shown(replace(DONE, forgotten=True))
    assert not is_shown(replace(DONE, state=State.REMOVED))
    assert not is_shown(absent("q", "0" * 64))
