"""The event plugin: one line for each job that ended, and none for anything else."""

import asyncio
import json
from pathlib import Path

import pytest

from asman.app import create_app
from asman.config import Config
from asman.errors import ConfigError
from asman.job import Outcome, Reason, State
from asman.testing import make_job
from asman_lmdb import journal


def test_no_variable_no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASMAN_JOURNAL", raising=False)
    assert journal.asman_app_plugins(Config()) == []


def test_file_that_cannot_be_written_stops_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASMAN_JOURNAL", str(tmp_path / "absent" / "journal"))
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        journal.asman_app_plugins(Config())


async def test_only_the_end_of_a_job_is_noted(tmp_path: Path) -> None:
    noted = journal.Journal(tmp_path / "journal")
    queued = make_job("q")
    ended = make_job(
        "q", queued.job_id, state=State.FINISHED, reason=Reason.SUCCESS, outcome=Outcome.FAILED, exit_code=3
    )
    removed = make_job("q", queued.job_id, state=State.REMOVED)
    for after, before in ((queued, make_job("q", state=State.ABSENT)), (removed, ended), (ended, removed)):
        assert noted.asman_job_changed(job=after, before=before) is None
    work = noted.asman_job_changed(job=ended, before=queued)
    assert work is not None
    await work
    (line,) = (tmp_path / "journal").read_text().splitlines()
    told = {name: json.loads(line)[name] for name in ("job", "reason", "outcome", "exit_code")}
    assert told == {"job": queued.job_id, "reason": "Success", "outcome": "failed", "exit_code": 3}
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o600


async def test_cancelled_job_of_a_real_app_is_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASMAN_JOURNAL", str(tmp_path / "journal"))
    app = create_app(Config(backend="memory"), [journal], discover=False)
    async with app.test_app():
        client = app.test_client()
        answer = await client.post("/q/q", json={"definition": {"image": "busybox", "command": "true"}})
        job_id = (await answer.get_json())["jobId"]
        await client.post(f"/q/q/j/{job_id}/cancel")
    lines = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    assert [(line["job"], line["reason"]) for line in lines] == [(job_id, "Cancelled")]


async def test_many_ends_at_once_are_lines_of_their_own(tmp_path: Path) -> None:
    noted = journal.Journal(tmp_path / "journal")
    jobs = [make_job("q", state=State.FINISHED, finished_at=float(number)) for number in range(50)]
    await asyncio.gather(*(noted._note(job) for job in jobs))
    lines = (tmp_path / "journal").read_text().splitlines()
    assert {json.loads(line)["job"] for line in lines} == {job.job_id for job in jobs}
