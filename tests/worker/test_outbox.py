"""Reports on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from asman.messages import encode
from asman_worker.outbox import Outbox, Report, file_stem, fit_report, write_durably


def _report(number: int = 1, *, queue: str = "first", attempt: int = 1, protocol: int = 2) -> Report:
    value = {"type": "Finished", "reason": "Success", "result": {"StatusCode": 0, "logs": [["\ud800é\n", 1]]}}
    return Report(queue=queue, job_id=f"{number:064x}", attempt=attempt, protocol=protocol, worker="w", value=value)


def _opened(directory: Path) -> Outbox:
    outbox = Outbox(directory)
    outbox.load()
    return outbox


async def test_a_report_is_there_after_a_restart_until_it_is_removed(tmp_path: Path) -> None:
    outbox = _opened(tmp_path)
    await outbox.put(_report())
    assert _opened(tmp_path).pending("first") == (_report(),)
    await outbox.remove(_report().key)
    assert len(outbox) == len(_opened(tmp_path)) == 0
    assert os.listdir(tmp_path) == []


async def test_queues_and_attempts_are_kept_apart(tmp_path: Path) -> None:
    outbox = _opened(tmp_path)
    reports = [_report(), _report(attempt=2), _report(queue="second"), _report(queue="../..")]
    for report in reports:
        await outbox.put(report)
    again = _opened(tmp_path)
    assert again.pending("first") == tuple(reports[:2])
    assert again.find("first", reports[0].job_id) == reports[1]
    assert again.find("third", reports[0].job_id) is None
    assert len({file_stem(report.key) for report in reports}) == 4


async def test_a_file_that_cannot_be_read_is_set_aside_and_costs_the_others_nothing(tmp_path: Path) -> None:
    await _opened(tmp_path).put(_report())
    (tmp_path / "broken.json").write_text('{"queue": "fir')
    assert _opened(tmp_path).pending("first") == (_report(),)
    assert (tmp_path / "broken.unreadable").exists()


async def test_a_full_disk_does_not_cost_the_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(tmp_path / "not there")
    await outbox.put(_report())
    assert outbox.pending("first") == (_report(),)
    assert "kept in memory only" in caplog.text


def test_a_file_that_was_being_written_when_the_power_went_is_not_taken_for_a_report(tmp_path: Path) -> None:
    write_durably(tmp_path / "whole.json", b"{}")
    (tmp_path / "half.part").write_bytes(b"{")
    assert (tmp_path / "whole.json").read_bytes() == b"{}"
    assert len(_opened(tmp_path)) == 0
    assert not (tmp_path / "half.part").exists()


def test_an_attempt_is_told_to_servers_that_count_them_only() -> None:
    assert _report(attempt=4).payload()["attempt"] == 4
    assert "attempt" not in _report(protocol=1).payload()


@pytest.mark.parametrize("max_bytes", [2_000, 20_000, 100_000])
def test_a_long_report_is_cut_in_the_middle_of_its_log(max_bytes: int) -> None:
    logs = [[f"line {i} {'x' * (i % 50)}\n", i] for i in range(5000)]
    payload: dict[str, Any] = {"job": "j", "value": {"reason": "Success", "result": {"StatusCode": 7, "logs": logs}}}
    cut = fit_report(payload, max_bytes)
    kept = cut["value"]["result"]["logs"]
    assert len(encode(cut)) <= max_bytes
    assert (kept[0], kept[-1]) == (logs[0], logs[-1])
    notes = [line for line in kept if line not in logs]
    assert len(notes) == 1
    assert "left out" in notes[0][0]
    assert cut["value"]["result"]["StatusCode"] == 7
    assert len(payload["value"]["result"]["logs"]) == 5000, "the kept report stays whole"


def test_a_report_that_fits_or_has_no_log_is_not_touched() -> None:
    short = {"value": {"result": {"logs": [["a\n", 1]]}}}
    assert fit_report(short, 10_000) is short
    odd = {"value": {"result": {"error": "x" * 1000}}}
    assert fit_report(odd, 100) is odd
