"""The record of one attempt: its key, its step, and how a failure is told."""

from __future__ import annotations

import logging

import pytest

from asman.errors import LimitExceeded
from asman_worker.attempt import UPLOAD_STEP, Assignment, Attempt
from asman_worker.logs import LogPump
from asman_worker.report import StepFailed
from asman_worker.secrets import Secret


def attempt() -> Attempt:
    given = Assignment(queue="q", job_id="a" * 64, attempt=2, definition={}, server_url="http://s")
    return Attempt(assignment=given, log=lambda step, lines: None, pump=LogPump(lambda lines: None))


def test_an_attempt_is_known_by_queue_job_and_number() -> None:
    assert attempt().key == ("q", "a" * 64, 2)


async def test_a_failure_names_the_step_at_hand_and_says_what_to_do() -> None:
    job = attempt()
    job.at_step("inputs")
    with pytest.raises(StepFailed) as failed:
        async with job.failing():
            raise LimitExceeded("too large", hint="Send less.")
    assert str(failed.value) == "[asman] step inputs failed: too large (Send less.)"


async def test_secrets_of_the_job_are_out_of_its_failure_and_its_log() -> None:
    job = attempt()
    job.take_secrets({"T": Secret(name="TOKEN", value="the-value")})
    with pytest.raises(StepFailed) as failed:
        async with job.failing():
            raise LimitExceeded("cannot run the-value", hint="Ask.")
    assert str(failed.value) == "[asman] step limits failed: cannot run [secret TOKEN] (Ask.)"
    job.pump.add("the-value")
    job.pump.finish()
    assert [line[0] for line in job.pump.kept.lines()] == ["[secret TOKEN]\n"]
    assert "the-value" not in repr(job)


def test_watchers_hear_of_a_step_once_as_it_begins() -> None:
    job, told = attempt(), []
    job.log = lambda step, lines: told.append((step, lines))
    for step in ("limits", "room", "inputs", "image", "create", "create", "start", "wait", "outputs"):
        job.at_step(step)
    job.begin(UPLOAD_STEP)
    names = ["fetching inputs", "starting", "Running", "uploading outputs"]
    assert told == [(name, []) for name in names]
    assert [name for name, _ in job.began] == names
    again = attempt()
    again.at_step("wait", is_news=False)
    assert again.began == []


async def test_each_step_that_begins_is_told() -> None:
    job, told = attempt(), []
    job.on_step = told.append
    job.at_step("inputs")
    job.at_step("image")
    assert (told, job.step) == (["inputs", "image"], "image")


async def test_a_fault_of_ours_is_logged_and_one_of_the_world_is_not(caplog: pytest.LogCaptureFixture) -> None:
    for error, is_logged in ((KeyError("x"), True), (FileNotFoundError(2, "none"), False)):
        caplog.clear()
        with caplog.at_level(logging.ERROR), pytest.raises(StepFailed):
            async with attempt().failing():
                raise error
        assert bool(caplog.records) is is_logged


async def test_a_named_failure_passes_through_as_it_is() -> None:
    first = StepFailed("image", "none")
    with pytest.raises(StepFailed) as failed:
        async with attempt().failing():
            raise first
    assert failed.value is first
