"""Tests of the blob store on R2 that run inside workerd, on a real bucket: what the kits do not ask.

Not collected here: ``tests/backends/test_cloudflare_blobs.py`` has them run there.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import js  # type: ignore[import-not-found]
import pyodide_js  # type: ignore[import-not-found]
import pytest
from pyodide.ffi import JsException, jsnull  # type: ignore[import-not-found]

from asman.errors import BlobNotFound, Conflict, HashMismatch, LimitExceeded, Unavailable
from asman_cloudflare import r2_bucket, r2_reading
from asman_cloudflare.blobs import R2BlobStore
from asman_cloudflare.r2_bucket import Bucket

FAR = 4_000_000_000.0
MIB = 1 << 20
PART = 5 * MIB


class Watched:
    """A bucket that notes what is asked of it, and fails where it is told to."""

    def __init__(self, bucket: Any) -> None:
        self.bucket = bucket
        self.asked: list[str] = []
        self.began: list[tuple[str, str]] = []
        self.fails: Callable[[str, int], str] = lambda what, nth: ""
        self.loses_answers = False

    def _note(self, what: str) -> str:
        self.asked.append(what)
        return self.fails(what, self.asked.count(what))

    async def _do(self, what: str, call: Callable[[], Any]) -> Any:
        """Failing with lost answers: it is done, and nobody hears of it."""
        said = self._note(what)
        if said and self.loses_answers:
            await call()
        if said:
            raise OSError(said)
        return await call()

    async def head(self, name: str) -> Any:
        return await self._do("head", lambda: self.bucket.head(name))

    async def get(self, name: str, options: Any) -> Any:
        found = await self._do("get", lambda: self.bucket.get(name, options))
        return found if found is None or found is jsnull else _WatchedObject(self, found)

    async def put(self, name: str, data: Any, options: Any) -> Any:
        what = f"put {name.split('/')[1]}"
        return await self._do(what, lambda: self.bucket.put(name, data, options))

    async def delete(self, names: Any) -> Any:
        return await self._do("delete", lambda: self.bucket.delete(names))

    async def list(self, options: Any) -> Any:
        return await self._do("list", lambda: self.bucket.list(options))

    async def createMultipartUpload(self, name: str) -> Any:
        made = await self._do("begin", lambda: self.bucket.createMultipartUpload(name))
        self.began.append((name, made.uploadId))
        return _WatchedUpload(self, made)

    async def open_uploads(self) -> int:
        """How many of the uploads that were begun would still take a part."""
        return sum([await self._is_open(name, number) for name, number in self.began])

    async def _is_open(self, name: str, number: str) -> bool:
        try:
            await self.bucket.resumeMultipartUpload(name, number).uploadPart(9_000, js.Uint8Array.new(1))
        except JsException as error:
            return "10024" not in str(error)
        return True


class _WatchedObject:
    """An opened object whose stream breaks where it is told to."""

    def __init__(self, watched: Watched, found: Any) -> None:
        self._watched, self._found = watched, found
        self._reader: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found, name)

    @property
    def body(self) -> Any:
        return self if getattr(self._found, "body", None) is not None else None

    def getReader(self, options: Any) -> Any:
        self._reader = self._found.body.getReader(options)
        return self

    async def read(self, view: Any, options: Any) -> Any:
        return await self._watched._do("read", lambda: self._reader.read(view, options))

    def cancel(self) -> Any:
        return self._reader.cancel()


class _WatchedUpload:
    def __init__(self, watched: Watched, upload: Any) -> None:
        self._watched, self._upload = watched, upload
        self.key = upload.key

    async def uploadPart(self, number: int, data: Any) -> Any:
        return await self._watched._do("part", lambda: self._upload.uploadPart(number, data))

    async def complete(self, parts: Any) -> Any:
        return await self._watched._do("complete", lambda: self._upload.complete(parts))

    async def abort(self) -> Any:
        return await self._watched._do("abort", lambda: self._upload.abort())


class _ClientGone(Exception):
    pass


class Here:
    """A store below a prefix of its own, and the bucket under it."""

    def __init__(self, env: Any) -> None:
        self.prefix = f"{uuid4().hex}/"
        self.watched = Watched(env.BLOBS)
        self.store = R2BlobStore(self.watched, self.prefix)
        self.other = R2BlobStore(self.watched, self.prefix)
        """As another isolate would have it."""

    async def names(self) -> list[str]:
        """What is in the bucket, without the random and the times."""
        names = await Bucket(self.watched.bucket).names(self.prefix)
        parts = [name.removeprefix(self.prefix).split("/") for name in names]
        return [f"{folder}/{'' if folder == 'large' else more[-1]}" for folder, *more in parts]

    def count(self) -> dict[str, int]:
        """How often each operation was asked for."""
        asked = self.watched.asked
        return {what: asked.count(what) for what in dict.fromkeys(asked)}


@pytest.fixture
def here(env: Any, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setattr(r2_bucket, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(r2_reading, "_FIRST_PAUSE_S", 0.001)
    return Here(env)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def chunked(data: bytes, *, breaks: bool = False) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 64 << 10):
        yield data[at : at + (64 << 10)]
    if breaks:
        raise _ClientGone


async def joined(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def heap_bytes() -> int:
    size: int = pyodide_js._module.HEAPU8.length
    return size


def only_at(what: str, *numbers: int) -> Callable[[str, int], str]:
    """Fail at these calls of one kind; without numbers at all of them."""
    return lambda asked, nth: "internal error (10001)" if asked == what and nth in (numbers or (nth,)) else ""


# --- large blobs ------------------------------------------------------------------------------------------------------


async def test_64_mib_pass_through_a_heap_that_does_not_grow(here: Here) -> None:
    total, piece = 64 * MIB, os.urandom(64 << 10)

    async def chunks(size_bytes: int) -> AsyncIterator[bytes]:
        for _ in range(size_bytes // len(piece)):
            yield piece

    await here.store.put("warm", chunks(8 * MIB), expires_at=FAR)
    assert len(await joined(await here.store.get("warm", stop=MIB))) == MIB
    before, here.watched.asked = heap_bytes(), []
    info = await here.store.put("large", chunks(total), expires_at=FAR)
    seen, whole = 0, hashlib.sha256()
    async for chunk in await here.store.get("large"):
        seen += len(chunk)
        whole.update(chunk)
    assert (seen, whole.hexdigest()) == (total, info.sha256)
    assert heap_bytes() == before
    counted = here.count()
    assert counted.pop("read") >= total // MIB
    assert counted == {"begin": 1, "part": 13, "put due": 2, "complete": 1, "put blobs": 1, "delete": 1, "get": 2}


async def test_a_large_blob_is_not_visible_before_it_is_whole(here: Here) -> None:
    data, seen = os.urandom(3 * PART), []

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(data), MIB):
            yield data[at : at + MIB]
            seen.append((await here.other.stat("k"), await here.names()))

    await here.store.put("k", chunks(), expires_at=FAR)
    assert seen == [(None, [])] * 15
    assert await here.names() == ["blobs/k", "due/k", "large/"]


@pytest.mark.parametrize("size_bytes", [PART - 1, PART, PART + 1, 2 * PART])
async def test_blobs_around_the_size_of_a_part_come_back(here: Here, size_bytes: int) -> None:
    data = os.urandom(size_bytes)
    await here.store.put(digest(data), chunked(data), expires_at=FAR)
    assert await joined(await here.other.get(digest(data))) == data
    found = await here.other.stat(digest(data))
    assert found is not None
    assert (found.size_bytes, found.sha256, found.expires_at) == (size_bytes, digest(data), FAR)
    assert ("large/" in await here.names()) == (size_bytes > PART)
    assert await here.watched.open_uploads() == 0


_RANGES = [
    (0, 1),
    (0, PART),
    (PART - 1, PART + 1),
    (PART, 2 * PART),
    (1, None),
    (2 * PART, None),
    (2 * PART + 6, None),
    (2 * PART + 6, 2 * PART + 7),
    (2 * PART + 7, None),
    (2 * PART + 8, 99 * PART),
    (5, 5),
    (7, 3),
    (0, 0),
]


async def test_ranges_of_a_large_blob_are_what_slices_are(here: Here) -> None:
    data = os.urandom(2 * PART + 7)
    await here.store.put("k", chunked(data), expires_at=FAR)
    for start, stop in _RANGES:
        assert await joined(await here.store.get("k", start=start, stop=stop)) == data[start:stop], (start, stop)


@pytest.mark.parametrize("size_bytes", [0, MIB, PART + 1, 3 * PART + 5])
async def test_an_upload_that_breaks_off_leaves_nothing(here: Here, size_bytes: int) -> None:
    with pytest.raises(_ClientGone):
        await here.store.put("k", chunked(os.urandom(size_bytes), breaks=True), expires_at=FAR)
    assert len(here.watched.began) == (size_bytes > PART)
    assert await here.watched.open_uploads() == 0
    assert await here.names() == []


async def test_an_upload_with_wrong_bytes_or_too_many_leaves_nothing(here: Here) -> None:
    data = os.urandom(2 * PART)
    with pytest.raises(HashMismatch):
        await here.store.put(digest(b"other"), chunked(data), expires_at=FAR)
    with pytest.raises(LimitExceeded):
        await here.store.put("k", chunked(data), expires_at=FAR, max_bytes=2 * PART - 1)
    assert len(here.watched.began) == 2
    assert await here.watched.open_uploads() == 0
    assert await here.names() == []


async def test_an_upload_that_is_cancelled_while_a_part_is_sent_leaves_nothing(here: Here) -> None:
    sending = asyncio.Event()

    def note(what: str, nth: int) -> str:
        if what == "part":
            sending.set()
        return ""

    here.watched.fails = note
    upload = asyncio.ensure_future(here.store.put("k", chunked(os.urandom(3 * PART)), expires_at=FAR))
    await sending.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert await here.watched.open_uploads() == 0
    assert await here.names() == []


async def test_a_deleted_large_blob_leaves_no_bytes(here: Here) -> None:
    await here.store.put("k", chunked(os.urandom(2 * PART)), expires_at=FAR)
    await here.store.delete("k")
    assert await here.names() == ["due/k"]
    with pytest.raises(BlobNotFound):
        await here.store.get("k")


async def test_prune_removes_a_large_blob_with_its_bytes(here: Here) -> None:
    await here.store.put("k", chunked(os.urandom(2 * PART)), expires_at=1_000.0)
    await here.store.extend("k", 2_000.0)
    assert await here.store.prune(1_500.0) == 0
    assert await here.names() == ["blobs/k", "due/k", "large/", "until/k"]
    assert await here.store.prune(2_500.0) == 1
    assert await here.names() == []


# --- many at once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [1_000, PART + 1_000])
async def test_of_different_bytes_for_one_key_one_wins_whoever_stores_them(here: Here, size_bytes: int) -> None:
    bodies = [bytes([n]) * size_bytes for n in range(4)]
    stores = [here.store, here.other] * 2
    puts = [store.put("k", chunked(body), expires_at=FAR) for store, body in zip(stores, bodies, strict=True)]
    results = await asyncio.gather(*puts, return_exceptions=True)
    winners = [n for n, result in enumerate(results) if not isinstance(result, BaseException)]
    assert [type(r) for r in results if isinstance(r, BaseException)] == [Conflict] * 3
    assert await joined(await here.store.get("k")) == bodies[winners[0]]
    assert await here.watched.open_uploads() == 0
    assert (await here.names()).count("large/") == (size_bytes > PART)


@pytest.mark.parametrize("size_bytes", [1_000, PART + 1_000])
async def test_the_same_bytes_for_one_key_are_stored_once_and_kept_longest(here: Here, size_bytes: int) -> None:
    data = os.urandom(size_bytes)
    stores = [here.store, here.other] * 2
    puts = [store.put("k", chunked(data), expires_at=FAR + n) for n, store in enumerate(stores)]
    assert [info.sha256 for info in await asyncio.gather(*puts)] == [digest(data)] * 4
    found = await here.store.stat("k")
    assert found is not None
    assert found.expires_at == FAR + 3
    assert (await here.names()).count("large/") == (size_bytes > PART)


async def test_expiries_moved_by_many_isolates_end_with_the_latest(here: Here) -> None:
    await here.store.put("k", chunked(b"x"), expires_at=FAR)
    stores = [R2BlobStore(here.watched, here.prefix) for _ in range(8)]
    await asyncio.gather(*(store.extend("k", FAR + 10 * (n * 3 % 8)) for n, store in enumerate(stores)))
    found = await here.other.stat("k")
    assert found is not None
    assert found.expires_at == FAR + 70


async def test_uploads_hold_a_bounded_memory_and_give_it_back(here: Here) -> None:
    go_on = asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        yield bytes(PART)
        await go_on.wait()

    held = [asyncio.ensure_future(here.store.put(f"k{n}", stalls(), expires_at=FAR)) for n in range(7)]
    done, waiting = await asyncio.wait(held, timeout=5.0, return_when=asyncio.FIRST_COMPLETED)
    assert [type(task.exception()) for task in done] == [Unavailable]
    go_on.set()
    await asyncio.gather(*waiting)
    await here.store.put("again", chunked(bytes(2 * PART)), expires_at=FAR)


# --- when R2 fails ----------------------------------------------------------------------------------------------------

WRITES = ["begin", "part", "complete", "put due", "put blobs"]


@pytest.mark.parametrize("loses_answers", [False, True])
@pytest.mark.parametrize("what", WRITES)
async def test_a_failure_that_passes_is_not_noticed(here: Here, what: str, loses_answers: bool) -> None:
    data = os.urandom(PART + 1)
    here.watched.loses_answers = loses_answers
    here.watched.fails = only_at(what, 1, 2)
    info = await here.store.put("k", chunked(data), expires_at=FAR)
    assert (info.size_bytes, info.sha256) == (len(data), digest(data))
    assert await here.names() == ["blobs/k", "due/k", "large/"]
    assert await joined(await here.store.get("k")) == data
    assert await here.watched.open_uploads() == 0


@pytest.mark.parametrize("loses_answers", [False, True])
async def test_a_failure_that_passes_is_not_noticed_with_a_small_blob(here: Here, loses_answers: bool) -> None:
    here.watched.loses_answers = loses_answers
    here.watched.fails = only_at("put blobs", 1)
    await here.store.put("k", chunked(b"small"), expires_at=FAR)
    here.watched.fails = only_at("put until", 1)
    await here.store.extend("k", FAR + 5)
    found = await here.store.stat("k")
    assert found is not None
    assert (found.size_bytes, found.expires_at) == (5, FAR + 5)


@pytest.mark.parametrize("what", WRITES)
async def test_a_failure_that_stays_is_told_and_leaves_no_blob(here: Here, what: str) -> None:
    here.watched.fails = only_at(what)
    with pytest.raises(Unavailable, match="10001"):
        await here.store.put("k", chunked(os.urandom(PART + 1)), expires_at=FAR)
    here.watched.fails = lambda what, nth: ""
    assert await here.store.stat("k") is None
    assert await here.watched.open_uploads() == 0
    assert {*await here.names()} <= {"due/k", "due/" + (await _orphans(here))[0]}


async def _orphans(here: Here) -> list[str]:
    names = await Bucket(here.watched.bucket).names(f"{here.prefix}due/")
    return [parts[-1] for name in names if len(parts := name.removeprefix(here.prefix).split("/")) == 4] or [""]


async def test_bytes_that_could_not_be_removed_are_found_by_prune(here: Here) -> None:
    failing = ("put blobs", "abort", "delete")
    here.watched.fails = lambda what, nth: "internal error (10001)" if what in failing else ""
    with pytest.raises(Unavailable):
        await here.store.put("k", chunked(os.urandom(PART + 1)), expires_at=FAR)
    here.watched.fails = lambda what, nth: ""
    assert "large/" in await here.names()
    await here.store.put("k", chunked(b"another"), expires_at=FAR)
    assert await here.store.prune(time.time() + 2 * 86_400) == 0
    assert await here.names() == ["blobs/k", "due/k"]
    assert await joined(await here.store.get("k")) == b"another"


async def test_a_stream_that_breaks_is_read_on_where_it_broke(here: Here) -> None:
    data = os.urandom(PART + 7)
    await here.store.put("k", chunked(data), expires_at=FAR)
    here.watched.fails = only_at("read", 2, 3, 5, 20)
    assert await joined(await here.store.get("k", start=3)) == data[3:]
    here.watched.fails = lambda what, nth: "broken" if what == "read" else ""
    with pytest.raises(Unavailable):
        await joined(await here.store.get("k"))


async def test_a_blob_that_is_replaced_while_it_is_read_is_not_mixed(here: Here) -> None:
    first, second = bytes(MIB), b"x" * MIB
    await here.store.put("k", chunked(first), expires_at=FAR)
    chunks = await here.store.get("k")
    assert await anext(chunks) == first[: 256 << 10]
    await here.store.delete("k")
    await here.store.put("k", chunked(second), expires_at=FAR)
    here.watched.fails = only_at("read", 2)
    with pytest.raises(Unavailable, match="removed while it was read"):
        await joined(chunks)


async def test_a_call_without_an_answer_ends(here: Here) -> None:
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    bucket = Bucket(here.watched)
    with pytest.raises(Unavailable, match="did not answer in time"):
        await bucket._ask("wait", lambda: asyncio.shield(never), 0.02)


async def test_calls_leave_no_timers_behind(here: Here) -> None:
    """workerd lets a Worker have 10,000 at once."""
    bucket = Bucket(here.watched)
    for _ in range(10_050):
        async with bucket._within(300.0):
            pass
    assert await bucket.head("nothing") is None


# --- what an operation costs ------------------------------------------------------------------------------------------


async def test_operations_per_call_are_counted(here: Here) -> None:
    costs: dict[str, dict[str, int]] = {}

    def told(name: str) -> None:
        costs[name], here.watched.asked = here.count(), []

    await here.store.put("k", chunked(b"bytes"), expires_at=FAR)
    told("put")
    await here.store.stat("k")
    told("stat")
    await joined(await here.store.get("k"))
    told("get")
    await joined(await here.store.get("k", start=2))
    told("range")
    await here.store.extend("k", FAR + 1)
    told("extend")
    await here.store.extend("k", FAR - 1)
    told("extend to an earlier time")
    await here.store.put("k", chunked(b"bytes"), expires_at=FAR)
    told("put the same again")
    await here.store.delete("k")
    told("delete")
    await here.store.put("old", chunked(b"bytes"), expires_at=1_000.0)
    here.watched.asked = []
    assert await here.store.prune(2_000.0) == 1
    told("prune of one")
    await here.store.prune(2_000.0)
    told("prune of none")
    assert costs == {
        "put": {"put due": 1, "put blobs": 1},
        "stat": {"head": 2},
        "get": {"get": 1, "read": 1},
        "range": {"head": 1, "get": 1, "read": 1},
        "extend": {"head": 2, "put until": 1},
        "extend to an earlier time": {"head": 2},
        "put the same again": {"put due": 1, "put blobs": 1, "head": 2},
        "delete": {"head": 1, "delete": 1},
        "prune of one": {"list": 2, "head": 2, "delete": 2},
        "prune of none": {"list": 1},
    }


# --- a bucket that others use too -------------------------------------------------------------------------------------


async def test_an_object_put_there_by_hand_is_a_blob_for_a_week(here: Here) -> None:
    await here.watched.bucket.put(f"{here.prefix}blobs/k", "by hand")
    found = await here.store.stat("k")
    assert found is not None
    assert (found.size_bytes, found.sha256) == (7, "")
    assert abs(found.expires_at - time.time() - 7 * 86_400) < 60
    assert (await here.store.put("k", chunked(b"by hand"), expires_at=FAR)).expires_at == FAR
    with pytest.raises(Conflict):
        await here.store.put("k", chunked(b"BY HAND"), expires_at=FAR)


async def test_stores_below_different_prefixes_do_not_see_each_other(env: Any, here: Here) -> None:
    beside = Here(env)
    await here.store.put("k", chunked(b"x"), expires_at=1_000.0)
    assert await beside.store.stat("k") is None
    assert await beside.store.prune(2_000.0) == 0
    assert await here.store.stat("k") is not None
