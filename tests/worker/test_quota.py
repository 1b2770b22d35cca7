"""A file system for outputs: as large as it should be, gone when it should be, and nothing in between."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman_worker import quota
from asman_worker.quota import Geometry, attach, detach, geometry, is_attached, is_full, reattach

MIB = 1 << 20
needs_mounts = pytest.mark.skipif(
    bool(quota.what_is_missing()), reason=f"needs root and e2fsprogs, mount: {quota.what_is_missing()}"
)


@given(st.integers(1, 1 << 44), st.integers(1, 1_000_000))
def test_an_image_has_room_for_the_limit_and_little_more(limit_bytes: int, limit_files: int) -> None:
    shape = geometry(limit_bytes, limit_files)
    assert shape.inodes > limit_files
    assert shape.size_bytes % shape.block_bytes == 0
    data = shape.size_bytes - shape.inodes * 256
    assert limit_bytes < data < limit_bytes * 1.05 + limit_files * 2048 + 10 * MIB


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    folder = tmp_path / "outputs"
    folder.mkdir()
    yield tmp_path / "image", folder
    detach(folder)


def _options(folder: Path) -> set[str]:
    (line,) = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if line.split()[4] == str(folder)]
    return set(line.split()[5].split(","))


def _loops(image: Path) -> str:
    return subprocess.run(["losetup", "-j", str(image)], capture_output=True, text=True, check=True).stdout


def _fill(file: Path, chunk_bytes: int) -> int:
    """Write until it is refused, and answer with how much was taken."""
    with file.open("wb", buffering=0) as opened:
        with pytest.raises(OSError, match="No space left"):  # noqa: PT012 - how often it works is not known
            while True:
                opened.write(b"x" * chunk_bytes)
        return opened.tell()


@needs_mounts
@pytest.mark.parametrize(("limit_bytes", "files"), [(MIB, 10), (5 * MIB, 2000), (600 * MIB, 100), (1 << 40, 10_000)])
async def test_what_a_job_can_use_is_the_limit(place: tuple[Path, Path], limit_bytes: int, files: int) -> None:
    await attach(*place, geometry(limit_bytes, files))
    about = os.statvfs(place[1])
    slack = 2048 * about.f_frsize
    assert limit_bytes + slack <= about.f_bavail * about.f_frsize <= limit_bytes + slack + files * 64 + MIB // 4
    assert files <= about.f_favail
    assert place[0].stat().st_blocks * 512 < 16 * MIB


@needs_mounts
async def test_it_is_empty_open_to_any_user_and_fenced_in(place: tuple[Path, Path]) -> None:
    await attach(*place, geometry(MIB, 10))
    assert list(place[1].iterdir()) == []
    assert place[1].stat().st_mode & 0o7777 == 0o777
    assert {"nodev", "nosuid"} <= _options(place[1])
    assert "noexec" not in _options(place[1])


@needs_mounts
async def test_nothing_in_it_can_be_executed_where_that_is_asked(place: tuple[Path, Path]) -> None:
    await attach(*place, geometry(MIB, 10), may_execute=False)
    assert "noexec" in _options(place[1])


@needs_mounts
@pytest.mark.parametrize("chunk_bytes", [500, 4096, MIB, 16 * MIB])
async def test_bytes_end_at_the_limit(place: tuple[Path, Path], chunk_bytes: int) -> None:
    await attach(*place, geometry(4 * MIB, 10))
    assert not is_full(place[1])
    (place[1] / "exact").write_bytes(b"x" * 4 * MIB)
    assert not is_full(place[1])
    assert _fill(place[1] / "more", chunk_bytes) < 3 * MIB
    assert is_full(place[1])


@needs_mounts
async def test_files_end_at_the_limit(place: tuple[Path, Path]) -> None:
    await attach(*place, geometry(4 * MIB, 100))
    with pytest.raises(OSError, match="No space left"):  # noqa: PT012 - how often it works is not known
        for number in range(1000):
            (place[1] / str(number)).touch()
    assert 100 <= len(list(place[1].iterdir())) < 300
    assert is_full(place[1])


@needs_mounts
async def test_unmounting_frees_the_device_and_may_be_repeated(place: tuple[Path, Path]) -> None:
    await attach(*place, geometry(MIB, 10))
    assert is_attached(place[1])
    assert _loops(place[0])
    detach(place[1])
    detach(place[1])
    assert not is_attached(place[1])


@needs_mounts
async def test_what_is_in_use_leaves_the_folder_at_once(place: tuple[Path, Path]) -> None:
    await attach(*place, geometry(MIB, 10))
    with (place[1] / "open").open("wb") as opened:
        detach(place[1])
        assert not is_attached(place[1])
        opened.write(b"still there")
    assert list(place[1].iterdir()) == []


@needs_mounts
async def test_an_image_can_be_mounted_again_after_a_crash(place: tuple[Path, Path]) -> None:
    await attach(*place, geometry(MIB, 10))
    (place[1] / "kept").write_text("x")
    os.sync()
    with (place[1] / "open").open("wb"):
        detach(place[1])  # not in good order: it was in use
    await reattach(*place)
    assert (place[1] / "kept").read_text() == "x"


@needs_mounts
async def test_a_caller_that_is_cancelled_leaves_nothing_that_comes_later(place: tuple[Path, Path]) -> None:
    making = asyncio.create_task(attach(*place, geometry(MIB, 10)))
    await asyncio.sleep(0)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert is_attached(place[1])


@needs_mounts
async def test_a_tool_that_fails_is_quoted(place: tuple[Path, Path]) -> None:
    with pytest.raises(OSError, match=r"mkfs\.ext4 ended with 1: .*"):
        await attach(*place, Geometry(size_bytes=1024, block_bytes=1024, inodes=16))
    assert not is_attached(place[1])


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quota, "_TOOLS_PATH", str(tmp_path))
    assert quota.what_is_missing() == (
        "the worker is not root" if os.geteuid() else "not installed: mkfs.ext4, mount, e2fsck"
    )
