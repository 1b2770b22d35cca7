"""Reasons to wait: each is lifted by itself, and the last one lets jobs in."""

from __future__ import annotations

import logging

import pytest

from asman_worker.intake import BY_OWNER, Intake


def test_jobs_are_taken_when_nobody_has_a_reason_left() -> None:
    intake = Intake()
    assert intake.is_open
    intake.hold(BY_OWNER)
    intake.hold("disk")
    intake.release(BY_OWNER)
    assert (intake.is_open, intake.reasons) == (False, ("disk",))
    intake.release("disk")
    assert intake.is_open


def test_only_a_change_is_told(caplog: pytest.LogCaptureFixture) -> None:
    intake, told = Intake(), []
    intake.on_change(lambda: told.append(intake.reasons))
    with caplog.at_level(logging.INFO):
        intake.release(BY_OWNER)
        intake.hold(BY_OWNER)
        intake.hold(BY_OWNER)
        intake.hold("disk")
        intake.release(BY_OWNER)
        intake.release("disk")
    assert told == [(BY_OWNER,), (BY_OWNER, "disk"), ("disk",), ()]
    assert [record.message for record in caplog.records] == [
        "no more jobs are taken",
        "no more jobs are taken",
        "jobs still wait",
        "jobs are taken again",
    ]
