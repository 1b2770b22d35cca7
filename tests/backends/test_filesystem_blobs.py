"""The filesystem blob store takes the whole exam; what it promises beyond that: paths, full disks, leftovers."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asman.errors import BadName, HashMismatch, StorageFull, Unavailable
from asman.testing import BlobStoreKit, chunked, joined
from asman_filesystem import blobs
from asman_filesystem.blobs import FileBlobStore

FAR = 4_000_000_000.0
MIB = 1 << 20


class TestFileBlobStore(BlobStoreKit):
    durable = True
    shared = True

    async def open_store(self) -> FileBlobStore:
        return FileBlobStore(self.folder / "blobs")


def files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "key", ["", ".", "..", ".x", "../x", "a/b", "/etc/passwd", "a\x00b", "a\n", "ä", "x" * 201, "a b", "a\\b"]
)
async def test_key_that_is_none_is_refused_before_anything_happens(tmp_path: Path, key: str) -> None:
    async with FileBlobStore(tmp_path / "blobs") as store:
        calls = [
            store.put(key, chunked(b"x"), expires_at=FAR),
            store.get(key),
            store.stat(key),
            store.extend(key, FAR),
            store.delete(key),
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(r) for r in results] == [BadName] * 5
    assert files(tmp_path) == []


async def test_blob_is_one_file_in_its_folder_and_its_time_is_the_expiry(tmp_path: Path) -> None:
    data = b"some bytes"
    key = hashlib.sha256(data).hexdigest()
    async with FileBlobStore(tmp_path) as store:
        await store.put(key, chunked(data), expires_at=1_800_000_000.123456)
        assert files(tmp_path) == [Path(hashlib.sha256(key.encode()).hexdigest()[:2]) / key]
        info = await store.stat(key)
        assert info is not None
        assert (info.sha256, info.expires_at) == (key, 1_800_000_000.123456)


async def test_sha256_is_not_made_up_for_other_keys(tmp_path: Path) -> None:
    async with FileBlobStore(tmp_path) as store:
        await store.put("name", chunked(b"x"), expires_at=FAR)
        info = await store.stat("name")
        assert info is not None
        assert info.sha256 == ""


async def test_content_key_takes_no_other_bytes_even_if_nobody_asked_for_a_check(tmp_path: Path) -> None:
    async with FileBlobStore(tmp_path) as store:
        key = hashlib.sha256(b"right").hexdigest()
        with pytest.raises(HashMismatch):
            await store.put(key, chunked(b"wrong"), expires_at=FAR)
        assert files(tmp_path) == []


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow above 2 MiB: the system refuses the write, as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


async def test_upload_that_the_disk_refuses_is_storage_full_and_leaves_nothing(
    tmp_path: Path, small_disk: None
) -> None:
    async with FileBlobStore(tmp_path) as store:
        with pytest.raises(StorageFull, match="nothing was stored") as caught:
            await store.put("large", chunked(b"x" * 5 * MIB), expires_at=FAR)
        assert isinstance(caught.value.__cause__, OSError)
        assert files(tmp_path) == []
        await store.put("small", chunked(b"x" * MIB), expires_at=FAR)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_and_full_quota_are_storage_full(number: int) -> None:
    assert isinstance(blobs._storage_error(OSError(number, "x")), StorageFull)
    assert isinstance(blobs._storage_error(OSError(errno.EIO, "x")), Unavailable)


async def test_abandoned_uploads_are_removed_at_the_next_start_when_they_are_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FileBlobStore(tmp_path) as store:
        await store.put("kept", chunked(b"x"), expires_at=FAR)
    (tmp_path / ".incoming" / "left").write_bytes(b"half an upl")
    async with FileBlobStore(tmp_path):
        assert len(files(tmp_path)) == 2, "another server's upload may be young"
    later = time.time() + blobs._ABANDONED_S + 1
    monkeypatch.setattr(blobs.time, "time", lambda: later)
    async with FileBlobStore(tmp_path) as store:
        assert [path.name for path in files(tmp_path)] == ["kept"]
        assert await joined(await store.get("kept")) == b"x"


async def test_filesystem_without_hard_links_keeps_the_first_bytes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(blobs.os, "link", no_links)
    async with FileBlobStore(tmp_path) as store:
        bodies = [bytes([n]) * 1_000 for n in range(6)]
        uploads = [store.put("key", chunked(body), expires_at=FAR) for body in bodies]
        results = await asyncio.gather(*uploads, return_exceptions=True)
        assert sum(not isinstance(r, BaseException) for r in results) == 1
        assert await joined(await store.get("key")) in bodies
    assert [path.name for path in files(tmp_path)] == ["key"]


async def test_every_opened_file_is_closed(tmp_path: Path) -> None:
    def opened() -> int:
        return sum("blobs" in os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if _is_open(n))

    async with FileBlobStore(tmp_path / "blobs") as store:
        await store.put("key", chunked(b"x" * 3 * MIB), expires_at=FAR)
        await joined(await store.get("key"))
        async for _ in await store.get("key"):
            break
        await store.get("key")
        await store.get("key", start=MIB, stop=MIB + 1)
        with pytest.raises(BadName):
            await store.get("../key")
        for _ in range(10):
            reading = asyncio.create_task(store.get("key"))
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        del reading
        assert opened() == 0


def _is_open(number: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")


async def test_deleted_blob_can_be_read_to_its_end_by_who_reads_it(tmp_path: Path) -> None:
    data = os.urandom(3 * MIB)
    async with FileBlobStore(tmp_path) as store:
        await store.put("key", chunked(data), expires_at=FAR)
        reading = await store.get("key")
        first = await anext(reading)
        await store.delete("key")
        assert first + await joined(reading) == data


async def test_idle_prune_looks_at_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FileBlobStore(tmp_path) as store:
        for n in range(20):
            await store.put(f"key{n}", chunked(b"x"), expires_at=10_000.0 + n)
        assert await store.prune(5_000.0) == 0
        looked: list[object] = []
        scandir = os.scandir
        monkeypatch.setattr(blobs.os, "scandir", lambda path: looked.append(path) or scandir(path))
        for second in range(100):
            assert await store.prune(5_000.0 + second) == 0
        assert looked == []
        assert await store.prune(10_005.0) == 5
        assert looked


async def test_prune_looks_at_a_bounded_number_of_files_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_LOOKED_AT_PER_PRUNE", 10)
    async with FileBlobStore(tmp_path) as store:
        for n in range(60):
            await store.put(f"key{n}", chunked(b"x"), expires_at=1_000.0)
        counts = [await store.prune(2_000.0) for _ in range(12)]
        assert sum(counts) == 60
        assert max(counts) < 30
        assert counts[-1] == 0


async def test_prune_sees_what_another_server_stored(tmp_path: Path) -> None:
    async with FileBlobStore(tmp_path) as one, FileBlobStore(tmp_path) as two:
        assert await one.prune(1_000.0) == 0
        await two.put("key", chunked(b"x"), expires_at=2_000.0)
        assert await one.prune(1_000.0 + 3_700.0) == 1


@pytest.mark.parametrize("never", [float("inf"), 1e300, 1e11])
async def test_blob_that_never_expires_is_kept_until_the_last_time_that_files_know(
    tmp_path: Path, never: float
) -> None:
    async with FileBlobStore(tmp_path) as store:
        await store.put("key", chunked(b"x"), expires_at=FAR)
        await store.extend("key", never)
        info = await store.stat("key")
        assert info is not None
        assert info.expires_at >= blobs._LAST_S
        assert await store.prune(FAR * 1.5) == 0
        again = await store.put("key", chunked(b"x"), expires_at=never)
        assert again.expires_at >= blobs._LAST_S
