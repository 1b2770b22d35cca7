"""Files and pipes of an export: one writer at a time, a name only when it is whole, no stream onto a terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import pytest

from asman.cli.streams import partial_file, partial_name, put_in_place, reading, source, target, writing
from asman.errors import ConfigError, Unavailable


def test_a_partial_file_is_for_its_owner_and_for_one_export_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with partial_file(path, resume=False) as file:
        file.write(b"one")
        assert os.stat(partial_name(path)).st_mode & 0o777 == 0o600
        with pytest.raises(ConfigError, match="another export is writing"), partial_file(path, resume=True):
            pass
    with pytest.raises(ConfigError, match="was interrupted, or runs"), partial_file(path, resume=False):
        pass
    with partial_file(path, resume=True) as file:
        assert file.read() == b"one"
        put_in_place(file, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
    assert path.read_bytes() == b"one"


def test_a_file_is_made_later_and_anything_else_is_written_to_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "new"):
        with target(str(tmp_path / name)) as direct:
            assert direct is None
    with target("/dev/null") as direct:
        assert direct is not None
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with pytest.raises(click.UsageError, match="terminal"), target("-"):
        pass


async def test_bytes_pass_through_a_pipe_and_a_reader_that_leaves_is_told(tmp_path: Path) -> None:
    end, start = os.pipe()
    with os.fdopen(end, "rb", buffering=0) as out, os.fdopen(start, "wb", buffering=0) as into:
        async with reading(out) as read, writing(into) as write:
            await write(b"x" * 1_000)
            assert await read(10_000) == b"x" * 1_000
        out.close()
        async with writing(into) as write:
            with pytest.raises(Unavailable, match="has gone"):
                await write(b"x" * 1_000)


async def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    with source(str(tmp_path / "x")) as opened:
        async with reading(opened) as read:
            assert [await read(2), await read(2), await read(2)] == [b"ab", b"c", b""]
