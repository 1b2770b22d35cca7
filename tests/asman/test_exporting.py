"""A store read out: all of it, as it is at one moment per job, whatever happens meanwhile and after a cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asman.archive import BLOB, JOB
from asman.errors import BadArchive, BlobNotFound, ConfigError, Unavailable
from asman.exporting import read_partial
from asman.job import State
from asman.memory import MemoryBlobStore, MemoryJobStore
from asman.testing import fresh_id, make_job
from moved import NOW, Stores, bring, everything, fill, reader_of, resume, stores, take_out


def refers_to(*keys: str) -> dict[str, Any]:
    return {"image": "a", "inputs": {str(n): {"type": "key", "value": key} for n, key in enumerate(keys)}}


def in_memory() -> Stores:
    return Stores(jobs=MemoryJobStore(), blobs=MemoryBlobStore())


async def kinds(data: bytes) -> list[tuple[str, str]]:
    """(kind, what it is about) of each item."""
    reader = reader_of(data)
    await reader.start()
    return [(i.kind, i.members.get("key") or i.members["job_id"]) async for i in reader.items()]


async def test_blobs_stand_before_the_first_job_that_refers_to_them_and_once() -> None:
    of = in_memory()
    key, other, by_url = [await of.put(data) for data in (b"one", b"two", b"three")]
    first, second = (make_job("q", fresh_id(n)) for n in range(2))
    first, second = sorted((first, second), key=lambda job: job.job_id)
    result = {"result": {"outputs": {"o": {"type": "url", "value": f"http://x/f/{by_url}"}}}}
    await fill(of, first, {"definition": refers_to(key, other, key)}, {})
    await fill(of, second, {"definition": refers_to(other), "result": result}, {"run": [b'["x",1]']})
    await of.put(b"nobody refers to this")
    data, done = await take_out(of)
    order = [(BLOB, key), (BLOB, other), (JOB, first.job_id), (BLOB, by_url), (JOB, second.job_id)]
    assert await kinds(data) == [*order, ("log", second.job_id)]
    assert (done.jobs, done.logs, done.blobs, done.missing, done.size_bytes) == (2, 1, 3, 0, len(data))


async def test_build_contexts_and_large_definitions_bring_their_blobs() -> None:
    of = in_memory()
    key, context = [await of.put(data) for data in (b"one", b"two")]
    definition = refers_to(key) | {"build": {"context": f"https://h/f/{context}"}, "x-note": "n" * 100_000}
    await fill(of, make_job("q"), {"definition": definition}, {})
    data, _ = await take_out(of)
    assert [about for kind, about in await kinds(data) if kind == BLOB] == [key, context]


@pytest.mark.parametrize(
    "definition", [None, 7, [], "x", {"inputs": 7}, {"inputs": {"a": {"type": "key", "value": 7}}}]
)
async def test_a_definition_that_is_none_refers_to_nothing(definition: Any) -> None:
    of = in_memory()
    await fill(of, make_job("q"), {"definition": definition, "result": definition}, {})
    assert (await take_out(of))[1].jobs == 1


async def test_only_the_queues_that_are_asked_for_come_out() -> None:
    of = in_memory()
    for queue in ("a", "b", "c"):
        for n in range(3):
            await fill(of, make_job(queue, state=list(State)[n + 1], queued_at=NOW + n), {}, {})
    data, done = await take_out(of, ["a", "c"])
    assert done.jobs == 6
    into = in_memory()
    await bring(into, data)
    assert {key.split("/")[0] for key in await everything(into)} == {"a", "c", "counts"}


async def test_a_store_that_cannot_be_read_through_gives_its_queues_only() -> None:
    class Plain(MemoryJobStore):
        scan = None  # type: ignore[assignment]

    of = Stores(jobs=Plain(), blobs=MemoryBlobStore())
    await fill(of, make_job("q"), {}, {})
    with pytest.raises(ConfigError, match="lacks scan"):
        await take_out(of)
    assert (await take_out(of, ["q"]))[1].jobs == 1


async def test_blobs_that_are_gone_or_not_what_they_are_called_are_told() -> None:
    of = in_memory()
    gone, false, expired = fresh_id(1), fresh_id(2), fresh_id(3)
    await of.put(b"these are other bytes", false)
    await of.blobs.put(expired, _pieces(b"x"), expires_at=NOW - 1)
    for n in range(2):
        await fill(of, make_job("q", fresh_id(n)), {"definition": refers_to(gone, false, expired)}, {})
    data, done = await take_out(of)
    assert (done.missing, done.blobs, done.damaged) == (2, 1, [false])
    imported = await bring(in_memory(), data)
    assert [key for key, _ in imported.refused] == [false]


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


# --- while others write ----------------------------------------------------------------------------------------------


class Busy(MemoryJobStore):
    """Somebody takes a step whenever a document is read, ``steps`` times."""

    steps = 3

    async def document(self, queue: str, job_id: str, name: str) -> bytes | None:
        kept = await super().document(queue, job_id, name)
        if self.steps:
            self.steps -= 1
            job = await self.load(queue, job_id)
            assert job is not None
            text = f'"{job.version + 1}"'.encode()
            after = replace(job, version=job.version + 1)
            await self.save(after, expected=job.version, documents={"definition": text, "result": text})
        return kept


async def test_record_and_documents_are_of_one_version_though_somebody_writes() -> None:
    of = Stores(jobs=Busy(), blobs=MemoryBlobStore())
    await fill(of, make_job("q"), {"definition": "1", "result": "1"}, {})
    data, _ = await take_out(of)
    into = in_memory()
    await bring(into, data)
    (job, documents, _) = next(v for k, v in (await everything(into)).items() if k != "counts")
    assert documents == {"definition": str(job.version), "result": str(job.version)}
    assert job.version > 1


async def test_a_job_that_never_holds_still_is_not_exported_half() -> None:
    busy = Busy()
    busy.steps = 1_000_000
    of = Stores(jobs=busy, blobs=MemoryBlobStore())
    await fill(of, make_job("q"), {}, {})
    with pytest.raises(Unavailable, match="changes faster"):
        await take_out(of)


async def test_a_job_that_is_deleted_meanwhile_is_left_out() -> None:
    class Vanishing(MemoryJobStore):
        async def read_log(self, queue: str, job_id: str, **more: Any) -> Any:
            job = await self.load(queue, job_id)
            await self.delete(queue, job_id, expected=job.version if job else 0)
            return await super().read_log(queue, job_id, **more)

    of = Stores(jobs=Vanishing(), blobs=MemoryBlobStore())
    await fill(of, make_job("q"), {}, {})
    assert (await take_out(of))[1].jobs == 0


class Flaky(MemoryBlobStore):
    """Breaks off after the first piece, ``times`` times."""

    times = 2

    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        chunks = await super().get(key, start=start, stop=stop)
        return self._broken(chunks) if self.times else chunks

    async def _broken(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self.times -= 1
        async for chunk in chunks:
            yield chunk[: 1 << 19]
            raise Unavailable("the line is down")


@pytest.mark.parametrize("times", [2, 9])
async def test_a_blob_store_that_breaks_off_is_asked_for_the_rest_a_few_times(times: int) -> None:
    blobs = Flaky()
    blobs.times = times
    of = Stores(jobs=MemoryJobStore(), blobs=blobs)
    body = bytes(range(256)) * 10_000
    key = await of.put(body)
    await fill(of, make_job("q"), {"definition": refers_to(key)}, {})
    if times > 4:
        with pytest.raises(Unavailable, match="line is down"):
            await take_out(of)
        return
    data, done = await take_out(of)
    into = in_memory()
    await bring(into, data)
    assert (await everything(into, [key]))[key][1] == body
    assert done.damaged == []


async def test_a_blob_that_goes_while_it_is_read_ends_the_export() -> None:
    class Pruned(MemoryBlobStore):
        async def get(self, key: str, **more: Any) -> AsyncIterator[bytes]:
            raise BlobNotFound("no blob")

    of = Stores(jobs=MemoryJobStore(), blobs=Pruned())
    await fill(of, make_job("q"), {"definition": refers_to(await of.put(b"x"))}, {})
    with pytest.raises(Unavailable, match="went while it was read"):
        await take_out(of)


async def test_memory_is_bounded_by_jobs_read_together_and_not_by_the_queue() -> None:
    reading, most = 0, 0

    class Counting(MemoryJobStore):
        async def document(self, queue: str, job_id: str, name: str) -> bytes | None:
            nonlocal reading, most
            reading += 1
            most = max(most, reading)
            await asyncio.sleep(0)
            reading -= 1
            return await super().document(queue, job_id, name)

    of = Stores(jobs=Counting(), blobs=MemoryBlobStore())
    for _ in range(100):
        await fill(of, make_job("q"), {}, {})
    await take_out(of)
    assert most <= 16


# --- after a cut -----------------------------------------------------------------------------------------------------


async def _source() -> tuple[Stores, list[str]]:
    of = in_memory()
    keys = [await of.put(bytes([n]) * 2_000) for n in range(4)]
    for n in range(12):
        lines = {"run": [f'["line {m}",{n}]'.encode() for m in range(n)]}
        await fill(of, make_job("q", fresh_id(n), attempt=1), {"definition": refers_to(keys[n % 4])}, lines)
    return of, keys


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 1 << 20), st.integers(0, 1 << 20))
async def test_an_export_cut_anywhere_goes_on_and_is_cut_again_and_goes_on(first: int, second: int) -> None:
    of, keys = await _source()
    whole, _ = await take_out(of)
    again, _ = await resume(of, whole[: first % len(whole)])
    data, done = await resume(of, again[: second % len(again)])
    assert (await read_partial(reader_of(data))).is_whole
    into = in_memory()
    imported = await bring(into, data)
    assert await everything(into, keys) == await everything(of, keys)
    assert (imported.kept, imported.refused, imported.written) == (0, [], 12)
    assert done.jobs <= 12 + 2, "the last job of each part may come twice, no other"


async def test_what_changed_since_the_cut_is_exported_as_it_is_now() -> None:
    of, _ = await _source()
    whole, _ = await take_out(of)
    job = await of.jobs.load("q", fresh_id(3))
    assert job is not None
    later = replace(job, version=2, message="later")
    await of.jobs.save(later, expected=1)
    data, done = await resume(of, whole[: len(whole) - 80])
    into = in_memory()
    await bring(into, data)
    assert await into.jobs.load("q", later.job_id) == later
    assert done.present >= 10


async def test_a_whole_export_is_known_as_such_and_a_damaged_one_is_not_gone_on_with() -> None:
    of, _ = await _source()
    whole, _ = await take_out(of, ["q"])
    known = await read_partial(reader_of(whole))
    assert (known.is_whole, known.queues, len(known.jobs), len(known.blobs)) == (True, ["q"], 12, 4)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    with pytest.raises(BadArchive):
        await read_partial(reader_of(bytes(damaged)))


async def test_the_same_bytes_come_from_stores_of_different_kinds(tmp_path: Path) -> None:
    async with stores("sqlite", tmp_path) as of:
        await of.jobs.save(make_job("q", fresh_id(1)), expected=0, documents={"definition": b"{}"})
        from_sqlite, _ = await take_out(of)
    one = in_memory()
    await one.jobs.save(make_job("q", fresh_id(1)), expected=0, documents={"definition": b"{}"})
    assert (await take_out(one))[0] == from_sqlite
