"""What a blob store must do. Subclass ``BlobStoreKit`` and write ``open_store``; see ``asman.testing``."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from asman.abc import BlobStore
from asman.errors import BlobNotFound, Conflict, HashMismatch, LimitExceeded
from asman.testing.fixtures import FAR, Exam, chunked, differs_at, joined

__all__ = ["BlobStoreKit"]

_MIB = 1 << 20
_LONG_AGO = 1_000.0
"""Expiries of these tests: no live blob has expired as long ago, so they also work beside real data."""

_SIZES = (0, 1, 4096, _MIB - 1, _MIB, _MIB + 1, 3 * _MIB + 7)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _expires(found: float, wanted: float) -> bool:
    """Filesystems and services keep whole seconds at worst."""
    return abs(found - wanted) <= 1.0


class _ClientGone(Exception):
    """What an upload's chunks end in when its sender leaves."""


async def _broken(data: bytes) -> AsyncIterator[bytes]:
    async for chunk in chunked(data):
        yield chunk
    raise _ClientGone


class BlobStoreKit(Exam):
    """The exam of a blob store.

    Shape:  ``streams`` says that memory does not grow with a blob; only a store *in* memory may clear it.
    Units:  ``memory_bytes`` is what one transfer may hold; more than the default is for a store that must send parts
            of a certain size.
    """

    pytestmark = pytest.mark.asyncio
    streams = True
    memory_bytes = 8 * _MIB

    keys: list[str]

    async def open_store(self) -> BlobStore:
        raise NotImplementedError("write `async def open_store(self)` that answers with your store, not yet entered")

    def new_key(self, name: str = "") -> str:
        """A key that nobody else uses."""
        made = f"kit-{uuid4().hex[:16]}{name}"[:200]
        self.__dict__.setdefault("keys", []).append(made)
        return made

    def content(self, size_bytes: int) -> tuple[str, bytes]:
        """Random bytes and their sha256, as a content-addressed blob has for its key."""
        data = os.urandom(size_bytes)
        self.__dict__.setdefault("keys", []).append(_digest(data))
        return _digest(data), data

    # --- put and get -------------------------------------------------------------------------------------------------

    async def test_the_store_is_a_blob_store(self) -> None:
        assert isinstance(await self.open_store(), BlobStore)

    async def test_unknown_blob_is_not_found_at_the_call(self) -> None:
        async with await self.open_store() as store:
            assert await store.stat(self.new_key()) is None
            with pytest.raises(BlobNotFound):
                await store.get(self.new_key())
            with pytest.raises(BlobNotFound):
                await store.get(_digest(os.urandom(8)), start=5)

    @pytest.mark.parametrize("size_bytes", _SIZES)
    async def test_blob_comes_back_byte_for_byte(self, size_bytes: int) -> None:
        key, data = self.content(size_bytes)
        async with await self.open_store() as store:
            info = await store.put(key, chunked(data), expires_at=FAR, sha256=key)
            assert (info.key, info.size_bytes, info.sha256) == (key, len(data), key)
            assert _expires(info.expires_at, FAR)
            chunks = [chunk async for chunk in await store.get(key)]
            assert not differs_at(b"".join(chunks), data)
            assert all(0 < len(chunk) <= _MIB for chunk in chunks)

    async def test_stat_tells_size_and_expiry(self) -> None:
        key, data = self.content(5_000)
        async with await self.open_store() as store:
            await store.put(key, chunked(data), expires_at=FAR, sha256=key)
            info = await store.stat(key)
            assert info is not None
            assert (info.key, info.size_bytes) == (key, len(data))
            assert info.sha256 in (key, "")
            assert _expires(info.expires_at, FAR)

    async def test_chunk_boundaries_do_not_matter(self) -> None:
        _, data = self.content(100_000)
        async with await self.open_store() as store:
            for size_bytes in (1_000, 65_537, 100_000):
                key = self.new_key()
                await store.put(key, chunked(data, size_bytes), expires_at=FAR)
                assert not differs_at(await joined(await store.get(key)), data)

    async def test_empty_chunks_are_harmless(self) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for chunk in (b"", b"a", b"", b"b", b""):
                yield chunk

        async with await self.open_store() as store:
            key = self.new_key()
            await store.put(key, chunks(), expires_at=FAR)
            assert await joined(await store.get(key)) == b"ab"

    @pytest.mark.parametrize("name", ["", ".", "..", ".tmp", "-", "_", "A", "a.b-c_d", "." * 40, "x" * 200, ".html"])
    async def test_nasty_keys_are_kept_apart(self, name: str) -> None:
        async with await self.open_store() as store:
            key, other = self.new_key(name), self.new_key(name.swapcase() + "x")
            await store.put(key, chunked(b"one"), expires_at=FAR)
            await store.put(other, chunked(b"two"), expires_at=FAR)
            assert await joined(await store.get(key)) == b"one"
            assert await joined(await store.get(other)) == b"two"

    async def test_keys_that_differ_in_case_are_two(self) -> None:
        async with await self.open_store() as store:
            key = self.new_key("-case")
            await store.put(key, chunked(b"lower"), expires_at=FAR)
            assert await store.stat(key.upper()) is None

    @pytest.mark.parametrize(
        ("start", "stop"),
        [
            (0, 0),
            (0, 1),
            (1, None),
            (_MIB - 1, _MIB + 1),
            (_MIB, 2 * _MIB),
            (5, 5),
            (3 * _MIB, None),
            (3 * _MIB + 4, 99 * _MIB),
        ],
    )
    async def test_range_is_what_a_slice_is(self, start: int, stop: int | None) -> None:
        async with await self.open_store() as store:
            key, data = self.content(3 * _MIB + 5)
            await store.put(key, chunked(data), expires_at=FAR)
            found = [chunk async for chunk in await store.get(key, start=start, stop=stop)]
            got, wanted = b"".join(found), data[start:stop]
            assert got[:100] == wanted[:100]
            assert not differs_at(got, wanted)
            assert all(len(chunk) <= _MIB for chunk in found)

    async def test_range_behind_the_end_is_empty(self) -> None:
        async with await self.open_store() as store:
            key = self.new_key()
            await store.put(key, chunked(b"abc"), expires_at=FAR)
            assert await joined(await store.get(key, start=3)) == b""
            assert await joined(await store.get(key, start=100, stop=200)) == b""

    async def test_reader_who_stops_early_hurts_nobody(self) -> None:
        async with await self.open_store() as store:
            key, data = self.content(3 * _MIB)
            await store.put(key, chunked(data), expires_at=FAR)
            async for _ in await store.get(key):
                break
            await store.get(key)
            assert not differs_at(await joined(await store.get(key)), data)

    # --- all or nothing ----------------------------------------------------------------------------------------------

    async def test_wrong_bytes_for_a_hash_leave_nothing(self) -> None:
        async with await self.open_store() as store:
            key, data = self.content(10_000)
            for wrong in (b"", data[:-1], data + b"x", b"other"):
                with pytest.raises(HashMismatch):
                    await store.put(key, chunked(wrong), expires_at=FAR, sha256=key)
                assert await store.stat(key) is None
            await store.put(key, chunked(data), expires_at=FAR, sha256=key)
            with pytest.raises(HashMismatch):
                await store.put(key, chunked(b"other"), expires_at=FAR, sha256=key)
            assert not differs_at(await joined(await store.get(key)), data)

    async def test_blob_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(self) -> None:
        async with await self.open_store() as store:
            (key, data), large = self.content(2 * _MIB), self.new_key()
            await store.put(key, chunked(data), expires_at=FAR, max_bytes=2 * _MIB)
            with pytest.raises(LimitExceeded):
                await store.put(large, chunked(data + b"x"), expires_at=FAR, max_bytes=2 * _MIB)
            assert await store.stat(large) is None

    async def test_upload_above_the_limit_is_not_read_to_its_end(self) -> None:
        taken = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal taken
            while True:
                taken += 1
                yield b"x" * (64 << 10)

        async with await self.open_store() as store:
            with pytest.raises(LimitExceeded):
                await store.put(self.new_key(), endless(), expires_at=FAR, max_bytes=_MIB)
            assert taken <= 32

    @pytest.mark.parametrize("size_bytes", [0, 100, 3 * _MIB])
    async def test_upload_that_breaks_off_leaves_nothing(self, size_bytes: int) -> None:
        async with await self.open_store() as store:
            key, data = self.content(size_bytes)
            with pytest.raises(_ClientGone):
                await store.put(key, _broken(data), expires_at=FAR)
            assert await store.stat(key) is None
            with pytest.raises(BlobNotFound):
                await store.get(key)
            await store.put(key, chunked(data), expires_at=FAR, sha256=key)
            assert not differs_at(await joined(await store.get(key)), data)

    async def test_cancelled_upload_leaves_nothing(self) -> None:
        stuck = asyncio.Event()

        async def stalls() -> AsyncIterator[bytes]:
            yield b"x" * (2 * _MIB)
            stuck.set()
            await asyncio.Event().wait()

        async with await self.open_store() as store:
            key = self.new_key()
            upload = asyncio.create_task(store.put(key, stalls(), expires_at=FAR))
            await asyncio.wait_for(stuck.wait(), 10)
            assert await store.stat(key) is None, "an unfinished upload was visible"
            upload.cancel()
            with pytest.raises(asyncio.CancelledError):
                await upload
            assert await store.stat(key) is None
            await store.put(key, chunked(b"new"), expires_at=FAR)
            assert await joined(await store.get(key)) == b"new"

    # --- the same key again ------------------------------------------------------------------------------------------

    async def test_same_bytes_again_only_extend_the_time(self) -> None:
        async with await self.open_store() as store:
            key, data = self.content(70_000)
            await store.put(key, chunked(data), expires_at=FAR, sha256=key)
            earlier = await store.put(key, chunked(data), expires_at=FAR - 1_000, sha256=key)
            assert _expires(earlier.expires_at, FAR)
            later = await store.put(key, chunked(data), expires_at=FAR + 1_000, sha256=key)
            assert _expires(later.expires_at, FAR + 1_000)
            found = await store.stat(key)
            assert found is not None
            assert _expires(found.expires_at, FAR + 1_000)
            assert not differs_at(await joined(await store.get(key)), data)

    @pytest.mark.parametrize("other", [b"", b"shorter", b"same length!", b"longer than the first"])
    async def test_other_bytes_under_a_taken_key_conflict_and_change_nothing(self, other: bytes) -> None:
        async with await self.open_store() as store:
            key = self.new_key()
            await store.put(key, chunked(b"first bytes."), expires_at=FAR)
            with pytest.raises(Conflict):
                await store.put(key, chunked(other), expires_at=FAR + 5_000)
            assert await joined(await store.get(key)) == b"first bytes."
            found = await store.stat(key)
            assert found is not None
            assert _expires(found.expires_at, FAR)

    async def test_many_uploads_of_the_same_bytes_at_once_all_succeed(self) -> None:
        async with await self.open_store() as store:
            key, data = self.content(300_000)
            uploads = [store.put(key, chunked(data), expires_at=FAR + 10 * n, sha256=key) for n in range(8)]
            for info in await asyncio.gather(*uploads):
                assert (info.size_bytes, info.sha256) == (len(data), key)
            assert not differs_at(await joined(await store.get(key)), data)
            found = await store.stat(key)
            assert found is not None
            assert _expires(found.expires_at, FAR + 70)

    async def test_of_many_uploads_of_different_bytes_exactly_one_wins(self) -> None:
        async with await self.open_store() as store:
            key = self.new_key()
            bodies = [bytes([n]) * 100_000 for n in range(8)]
            uploads = [store.put(key, chunked(body), expires_at=FAR) for body in bodies]
            results = await asyncio.gather(*uploads, return_exceptions=True)
            assert sum(not isinstance(r, BaseException) for r in results) == 1
            assert all(isinstance(r, Conflict) for r in results if isinstance(r, BaseException))
            winner = next(n for n, r in enumerate(results) if not isinstance(r, BaseException))
            assert await joined(await store.get(key)) == bodies[winner]

    # --- time --------------------------------------------------------------------------------------------------------

    async def test_expiry_moves_later_and_never_earlier(self) -> None:
        async with await self.open_store() as store:
            key = self.new_key()
            await store.put(key, chunked(b"x"), expires_at=FAR)
            for moved, wanted in ((FAR + 50, FAR + 50), (FAR - 50, FAR + 50), (0.0, FAR + 50), (FAR + 90, FAR + 90)):
                await store.extend(key, moved)
                found = await store.stat(key)
                assert found is not None
                assert _expires(found.expires_at, wanted)
            assert await joined(await store.get(key)) == b"x"

    async def test_absent_blob_can_be_extended_and_deleted_without_an_error(self) -> None:
        async with await self.open_store() as store:
            await store.extend(self.new_key(), FAR)
            await store.delete(self.new_key())

    async def test_extending_many_times_at_once_ends_with_the_latest(self) -> None:
        async with await self.open_store() as store:
            key = self.new_key()
            await store.put(key, chunked(b"x"), expires_at=FAR)
            await asyncio.gather(*(store.extend(key, FAR + 100 * (n * 7 % 20)) for n in range(20)))
            found = await store.stat(key)
            assert found is not None
            assert _expires(found.expires_at, FAR + 1_900)

    async def test_deleted_blob_is_gone_and_its_key_is_free(self) -> None:
        async with await self.open_store() as store:
            key = self.new_key()
            await store.put(key, chunked(b"one"), expires_at=FAR)
            await store.delete(key)
            await store.delete(key)
            assert await store.stat(key) is None
            with pytest.raises(BlobNotFound):
                await store.get(key)
            await store.put(key, chunked(b"two"), expires_at=FAR)
            assert await joined(await store.get(key)) == b"two"

    async def test_prune_removes_what_has_expired_and_nothing_else(self) -> None:
        async with await self.open_store() as store:
            await self._pruned_to_the_end(store)
            old = [self.new_key() for _ in range(5)]
            for n, key in enumerate(old):
                await store.put(key, chunked(b"x"), expires_at=_LONG_AGO - 10 * n - 10)
            kept = {self.new_key(): _LONG_AGO + 10, self.new_key(): FAR}
            for key, expires_at in kept.items():
                await store.put(key, chunked(b"x"), expires_at=expires_at)
            assert await store.prune(_LONG_AGO) == 5
            assert await store.prune(_LONG_AGO) == 0
            assert [await store.stat(key) for key in old] == [None] * 5
            for key in kept:
                assert await store.stat(key) is not None

    async def test_prune_is_bounded_and_finishes_over_several_calls(self) -> None:
        async with await self.open_store() as store:
            await self._pruned_to_the_end(store)
            keys = [self.new_key() for _ in range(12)]
            for key in keys:
                await store.put(key, chunked(key.encode()), expires_at=_LONG_AGO - 100)
            counts = [await store.prune(_LONG_AGO, limit=5) for _ in range(4)]
            assert counts == [5, 5, 2, 0]
            assert [await store.stat(key) for key in keys] == [None] * 12

    async def test_extended_blob_is_not_pruned(self) -> None:
        async with await self.open_store() as store:
            await self._pruned_to_the_end(store)
            key = self.new_key()
            await store.put(key, chunked(b"x"), expires_at=_LONG_AGO - 100)
            await store.extend(key, FAR)
            assert await store.prune(_LONG_AGO) == 0
            assert await joined(await store.get(key)) == b"x"

    async def test_prune_finds_a_blob_that_was_stored_after_the_last_prune(self) -> None:
        async with await self.open_store() as store:
            await self._pruned_to_the_end(store)
            for _ in range(3):
                key = self.new_key()
                await store.put(key, chunked(key.encode()), expires_at=_LONG_AGO - 100)
                assert await store.prune(_LONG_AGO) == 1
                assert await store.stat(key) is None

    @staticmethod
    async def _pruned_to_the_end(store: BlobStore) -> None:
        while await store.prune(_LONG_AGO):
            pass

    # --- size and durability -----------------------------------------------------------------------------------------

    async def test_a_large_blob_passes_through_little_memory(self) -> None:
        if not self.streams:
            pytest.skip("this store keeps blobs in memory and does not claim to stream")
        total, piece = 5 * self.memory_bytes // 2, os.urandom(64 << 10)

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(total // len(piece)):
                yield bytes(piece)

        async with await self.open_store() as store:
            key = self.new_key()
            tracemalloc.start()
            try:
                info = await store.put(key, chunks(), expires_at=FAR)
                seen = 0
                async for chunk in await store.get(key):
                    seen += len(chunk)
                _, peak_bytes = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert info.size_bytes == seen == total
            assert peak_bytes < self.memory_bytes

    async def test_blob_is_there_after_close_and_open(self) -> None:
        self.needs_durable()
        key, data = self.content(2 * _MIB + 3)
        async with await self.open_store() as store:
            await store.put(key, chunked(data), expires_at=FAR, sha256=key)
            await store.extend(key, FAR + 100)
        async with await self.open_store() as store:
            found = await store.stat(key)
            assert found is not None
            assert _expires(found.expires_at, FAR + 100)
            assert not differs_at(await joined(await store.get(key)), data)

    async def test_what_one_opened_store_holds_the_other_sees(self) -> None:
        self.needs_shared()
        async with await self.open_store() as one, await self.open_store() as two:
            key, data = self.content(1_000)
            await one.put(key, chunked(data), expires_at=FAR, sha256=key)
            assert not differs_at(await joined(await two.get(key)), data)
            await two.delete(key)
            assert await one.stat(key) is None
