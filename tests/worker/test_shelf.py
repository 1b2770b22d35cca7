"""Notes about running jobs."""

from __future__ import annotations

import os
from pathlib import Path

from asman_worker.log_stream import Progress
from asman_worker.shelf import Shelf, ShelvedJob

JOB = ShelvedJob(
    queue="first", job_id="a" * 64, attempt=3, protocol=2, since=1.5, definition={"image": "x:1", "env": {"A": "ü"}}
)


async def test_a_note_is_there_until_it_is_removed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    assert shelf.load() == {}
    await shelf.put(JOB)
    assert Shelf(tmp_path).load() == {JOB.key: JOB}
    shelf.remove(JOB.key)
    shelf.remove(JOB.key)
    assert os.listdir(tmp_path) == []


async def test_progress_is_remembered_and_unknown_progress_is_none(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    assert shelf.progress(JOB.key) == Progress()
    shelf.note_progress(JOB.key, Progress(seq=9, container_lines=7))
    assert Shelf(tmp_path).progress(JOB.key) == Progress(seq=9, container_lines=7)
    assert shelf.progress(("first", JOB.job_id, 4)) == Progress()


async def test_a_note_that_cannot_be_read_is_dropped_and_costs_the_others_nothing(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    await shelf.put(JOB)
    (tmp_path / "broken.json").write_text('{"queue": 1}')
    assert list(shelf.load()) == [JOB.key]
    assert not (tmp_path / "broken.json").exists()


def test_what_a_killed_process_left_half_written_goes_at_the_next_start(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for name in ("q-a-1.part", "q-a-1.progress.part", "q-b-1.progress"):
        (tmp_path / name).write_bytes(b"{")
    assert shelf.load() == {}
    assert list(tmp_path.iterdir()) == []
