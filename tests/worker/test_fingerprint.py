"""Ids and the directories that go with them."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from asman.errors import ConfigError
from asman_worker.fingerprint import hold_identity


def test_the_id_is_made_once_and_kept(tmp_path: Path) -> None:
    with hold_identity(tmp_path) as first:
        assert uuid.UUID(first.worker_id).version == 4
    with hold_identity(tmp_path) as second:
        assert second == first


def test_a_second_worker_on_one_directory_gets_a_slot_of_its_own(tmp_path: Path) -> None:
    with hold_identity(tmp_path) as first, hold_identity(tmp_path) as second, hold_identity(tmp_path) as third:
        assert [second.worker_id, third.worker_id] == [f"{first.worker_id}-2", f"{first.worker_id}-3"]
        assert len({first.directory, second.directory, third.directory}) == 3
    with hold_identity(tmp_path) as again:
        assert again == first


def test_a_lock_is_kept_between_processes_and_goes_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from asman_worker.fingerprint import hold_identity\n"
        "with hold_identity(Path(sys.argv[1])) as identity:\n"
        "    print(identity.worker_id, flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = other.stdout.readline().strip()
        with hold_identity(tmp_path) as ours:
            assert ours.worker_id == f"{theirs}-2"
        other.kill()
    with hold_identity(tmp_path) as ours:
        assert ours.worker_id == theirs


def test_a_given_id_is_used_as_it_is_and_never_twice(tmp_path: Path) -> None:
    with hold_identity(tmp_path, worker_id="desk/1") as first:
        assert first.worker_id == "desk/1"
        assert first.directory.parent == tmp_path
        with pytest.raises(ConfigError, match="desk/1"), hold_identity(tmp_path, worker_id="desk/1"):
            pass
        with hold_identity(tmp_path, worker_id="desk_1") as other:
            assert other.directory != first.directory


def test_a_generated_id_is_fresh_at_every_start_and_not_kept(tmp_path: Path) -> None:
    with hold_identity(tmp_path) as kept:
        pass
    seen = set()
    for _ in range(2):
        with hold_identity(tmp_path, generate=True) as fresh:
            seen.add(fresh.worker_id)
    with hold_identity(tmp_path) as again:
        assert again == kept
    assert len(seen | {kept.worker_id}) == 3


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file") as refused, hold_identity(tmp_path / "file" / "data"):
        pass
    assert "--data-directory" in refused.value.hint
