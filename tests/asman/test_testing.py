"""The kits have teeth: a store that breaks one sentence of its contract fails. And the exam of a URL tells."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from asman.abc import BlobInfo, LogSlice
from asman.errors import ConfigError, Conflict
from asman.job import Job, State, decode_job, encode_job
from asman.memory import MemoryBlobStore, MemoryJobStore, MemoryNotifier
from asman.testing import FakeClock, check_backend, chunked, fresh_id, joined, make_job, rich_job
from asman.testing.blob_store import BlobStoreKit
from asman.testing.fixtures import Exam, differs_at
from asman.testing.job_store import JobStoreKit
from asman.testing.log_store import LogStoreKit, read_all
from asman.testing.notifier import NotifierKit
from asman.testing.stateful import job_store_machine
from asman_sqlite.jobs import SqliteJobStore


class LastWriterWins(MemoryJobStore):
    async def save(self, job: Job, *, expected: int, documents: Mapping[str, bytes | None] | None = None) -> None:
        stored = await self.load(job.queue, job.job_id)
        await super().save(job, expected=stored.version if stored else 0, documents=documents)


class DocumentsFirst(MemoryJobStore):
    """Writes documents before it compares."""

    async def save(self, job: Job, *, expected: int, documents: Mapping[str, bytes | None] | None = None) -> None:
        self._documents.setdefault((job.queue, job.job_id), {}).update(
            {name: data for name, data in (documents or {}).items() if data is not None}
        )
        await super().save(job, expected=expected, documents=documents)


class KeepsRemovedDocuments(MemoryJobStore):
    async def save(self, job: Job, *, expected: int, documents: Mapping[str, bytes | None] | None = None) -> None:
        kept = {name: data for name, data in (documents or {}).items() if data is not None}
        await super().save(job, expected=expected, documents=kept)


class DueIsExclusive(MemoryJobStore):
    async def due(self, before: float, *, limit: int = 100) -> list[Job]:
        return [job for job in await super().due(before, limit=limit) if job.due_at < before]


class CursorIsInclusive(MemoryJobStore):
    async def list(
        self,
        queue: str,
        *,
        states: Collection[State],
        shape: str | None = None,
        limit: int = 1000,
        after: tuple[float, str] | None = None,
    ) -> Any:
        if after is not None:
            after = (after[0], after[1][:-1])
        return await super().list(queue, states=states, shape=shape, limit=limit, after=after)


class ScansByPosition(MemoryJobStore):
    """A delete moves the records behind it to the front, over the cursor."""

    async def scan(self, *, cursor: str = "", limit: int = 1000) -> tuple[Any, str]:
        start = int(cursor or 0)
        found = list(self._jobs.values())[start : start + limit]
        return found, str(start + limit) if len(found) == limit else ""


class ScansOneQueue(MemoryJobStore):
    async def scan(self, *, cursor: str = "", limit: int = 1000) -> tuple[Any, str]:
        jobs, cursor = await super().scan(cursor=cursor, limit=limit)
        return [job for job in jobs if not job.queue.endswith("other")], cursor


class ForgetsToUncount(MemoryJobStore):
    async def delete(self, queue: str, job_id: str, *, expected: int) -> None:
        job = await self.load(queue, job_id)
        await super().delete(queue, job_id, expected=expected)
        if job is not None:
            self._count(job, +1)


class LeavesTheLog(MemoryJobStore):
    async def delete(self, queue: str, job_id: str, *, expected: int) -> None:
        log = self._logs.get((queue, job_id))
        await super().delete(queue, job_id, expected=expected)
        if log is not None:
            self._logs[queue, job_id] = log


class TakesOldAttempts(MemoryJobStore):
    async def append_log(self, queue: str, job_id: str, *, attempt: int, half: str, lines: list[bytes]) -> int:
        return await super().append_log(queue, job_id, attempt=max(attempt, 2), half=half, lines=lines)


class HidesTheGap(MemoryJobStore):
    async def read_log(
        self, queue: str, job_id: str, *, half: str, since: int = 0, max_bytes: int = 1 << 20
    ) -> LogSlice:
        found = await super().read_log(queue, job_id, half=half, since=since, max_bytes=max_bytes)
        return LogSlice(attempt=found.attempt, start=min(since, found.total), lines=found.lines, total=found.total)


class Halfway(MemoryBlobStore):
    """Shows a blob before it is complete."""

    async def put(self, key: str, chunks: AsyncIterable[bytes], **options: Any) -> BlobInfo:
        data = b""
        async for chunk in chunks:
            data += chunk
            await self.delete(key)
            await super().put(key, chunked(data), expires_at=options["expires_at"])
        return await super().put(key, chunked(data), **options)


class Overwrites(MemoryBlobStore):
    async def put(self, key: str, chunks: AsyncIterable[bytes], **options: Any) -> BlobInfo:
        data = await joined(chunks)
        present = await self.stat(key)
        try:
            return await super().put(key, chunked(data), **options)
        except Conflict:
            assert present is not None
            await self.delete(key)
            return await super().put(key, chunked(data), **options)


class LateNotFound(MemoryBlobStore):
    async def get(self, key: str, *, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in await MemoryBlobStore.get(self, key, start=start, stop=stop):
                yield chunk

        return chunks()


class PrunesTooMuch(MemoryBlobStore):
    async def prune(self, before: float, *, limit: int = 1000) -> int:
        return await super().prune(before + 60, limit=limit)


class Fragile(MemoryNotifier):
    async def publish(self, topic: str, data: bytes) -> None:
        for deliver in tuple(self._subscribers.get(topic, ())):
            deliver(data)


class Shouts(MemoryNotifier):
    """Every topic is one."""

    async def subscribe(self, topic: str, deliver: Callable[[bytes], None]) -> None:
        await super().subscribe("", deliver)

    async def publish(self, topic: str, data: bytes) -> None:
        await super().publish("", data)


FAULTS = [
    (JobStoreKit, LastWriterWins, "test_save_over_another_version_conflicts_and_changes_nothing", (1,)),
    (JobStoreKit, LastWriterWins, "test_of_many_writers_that_saw_the_same_version_exactly_one_wins", ()),
    (JobStoreKit, DocumentsFirst, "test_save_over_another_version_conflicts_and_changes_nothing", (1,)),
    (JobStoreKit, KeepsRemovedDocuments, "test_documents_are_written_replaced_and_removed_with_the_record", ()),
    (JobStoreKit, DueIsExclusive, "test_due_is_what_is_due_at_that_moment_most_overdue_first", ()),
    (JobStoreKit, CursorIsInclusive, "test_cursor_meets_every_job_once", ()),
    (JobStoreKit, ScansOneQueue, "test_scan_meets_every_record_of_every_queue_and_state", ()),
    (
        JobStoreKit,
        ScansByPosition,
        "test_scan_misses_no_record_that_is_there_throughout_while_others_come_change_and_go",
        (),
    ),
    (JobStoreKit, ForgetsToUncount, "test_counts_agree_with_a_model_through_saves_and_deletes", ()),
    (LogStoreKit, LeavesTheLog, "test_deleted_job_takes_its_log_along", ()),
    (LogStoreKit, TakesOldAttempts, "test_older_attempt_is_ignored", ()),
    (LogStoreKit, HidesTheGap, "test_first_and_last_four_mebibytes_are_kept_and_the_middle_is_skipped", ()),
    (BlobStoreKit, Halfway, "test_cancelled_upload_leaves_nothing", ()),
    (BlobStoreKit, Overwrites, "test_other_bytes_under_a_taken_key_conflict_and_change_nothing", (b"shorter",)),
    (BlobStoreKit, LateNotFound, "test_unknown_blob_is_not_found_at_the_call", ()),
    (BlobStoreKit, PrunesTooMuch, "test_prune_removes_what_has_expired_and_nothing_else", ()),
    (NotifierKit, Fragile, "test_subscriber_that_raises_does_not_hurt_the_others_or_the_publisher", ()),
    (NotifierKit, Shouts, "test_topics_are_kept_apart", ("a",)),
]


def prepared(kit: type[Exam], make: Callable[[], Any], folder: Path) -> Any:
    """A kit over this store, as pytest would have made it."""

    async def opens(self: Exam) -> Any:
        return made

    made = make()
    exam = type("Kit", (kit,), {"open_store": opens, "open_notifier": opens})()
    exam.folder, exam.queues = folder, []
    exam.queue = exam.new_queue()
    return exam


@pytest.mark.parametrize(("kit", "store", "test", "values"), FAULTS, ids=lambda v: getattr(v, "__name__", None))
async def test_store_that_breaks_its_contract_fails(
    kit: type[Exam], store: type, test: str, values: tuple[Any, ...], tmp_path: Path
) -> None:
    sound = next(base for base in (MemoryJobStore, MemoryBlobStore, MemoryNotifier) if issubclass(store, base))
    await getattr(prepared(kit, sound, tmp_path), test)(*values)
    with pytest.raises((AssertionError, pytest.fail.Exception, RuntimeError)):
        await getattr(prepared(kit, store, tmp_path), test)(*values)


@pytest.mark.parametrize(
    "store", [LastWriterWins, ForgetsToUncount, DueIsExclusive, KeepsRemovedDocuments, LeavesTheLog]
)
def test_random_steps_find_the_fault(store: type, tmp_path: Path) -> None:
    machine = job_store_machine(prepared(JobStoreKit, store, tmp_path))
    found = settings(max_examples=300, database=None, derandomize=True, phases=[Phase.generate])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=found)


def test_the_machine_belongs_to_its_kit(tmp_path: Path) -> None:
    one, two = (job_store_machine(prepared(JobStoreKit, MemoryJobStore, tmp_path)) for _ in range(2))
    assert one is not two


# --- fixtures and clock ---------------------------------------------------------------------------------------------


def test_rich_record_leaves_no_member_at_its_default() -> None:
    plain, rich = Job(queue="q", job_id="x"), rich_job("r")
    same = [name for name in Job.__dataclass_fields__ if getattr(plain, name) == getattr(rich, name)]
    assert same == []
    assert decode_job(encode_job(rich)) == rich


def test_ids_are_job_ids_and_repeat_only_with_their_seed() -> None:
    assert fresh_id() != fresh_id()
    assert fresh_id("a") == fresh_id("a") != fresh_id("b")
    assert len(make_job("q").job_id) == 64


async def test_chunks_join_to_what_they_were() -> None:
    assert [chunk async for chunk in chunked(b"abcde", 2)] == [b"ab", b"cd", b"e"]
    assert await joined(chunked(b"abcde", 2)) == b"abcde"


async def test_log_reader_follows_the_cursor_to_the_end() -> None:
    store = MemoryJobStore()
    job = make_job("q")
    await store.save(job, expected=0)
    lines = [b'["%d",1]' % n + b" " * 200_000 for n in range(12)]
    await store.append_log("q", job.job_id, attempt=1, half="run", lines=lines)
    slices = await read_all(store, "q", job.job_id)
    assert len(slices) > 1
    assert [line for found in slices for line in found.lines] == lines


def test_clock_goes_forward_only() -> None:
    clock = FakeClock(100.0)
    assert clock() == 100.0
    assert clock.advance(2.5) == clock() == 102.5
    with pytest.raises(ValueError, match="back by 1"):
        clock.advance(-1)
    assert clock() == 102.5


def test_kits_bring_pytest_and_hypothesis_and_no_backend() -> None:
    code = (
        "import sys, asman.testing;"
        "sys.exit(any(m in sys.modules for m in ('quart', 'sqlite3', 'asman_sqlite', 'asman_filesystem')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the exam of a URL ------------------------------------------------------------------------------------------------


def summary(outcomes: list[tuple[str, str]]) -> dict[str, int]:
    kinds = [outcome.partition(":")[0] for _, outcome in outcomes]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


async def test_exam_of_the_memory_url_covers_all_three_contracts() -> None:
    outcomes = await check_backend("memory:")
    assert summary(outcomes).keys() == {"passed", "skipped"}, outcomes
    classes = {name.partition("::")[0] for name, _ in outcomes}
    assert classes == {"TestJobStore", "TestBlobStore", "TestNotifier"}
    why = {outcome for _, outcome in outcomes if outcome.startswith("skipped")}
    assert "skipped: this store does not claim to keep anything after it is closed" in why


async def test_a_store_that_cannot_be_read_through_skips_with_a_sentence(tmp_path: Path) -> None:
    class Plain(MemoryJobStore):
        scan = None  # type: ignore[assignment]

    with pytest.raises(pytest.skip.Exception, match="does not offer scan"):
        await prepared(JobStoreKit, Plain, tmp_path).test_scan_of_nothing_ends()


async def test_exam_of_a_durable_url_skips_only_what_is_not_offered_and_leaves_nothing(tmp_path: Path) -> None:
    """Source of the classes: ``asman.testing.exam``."""
    outcomes = await check_backend(f"sqlite:///{tmp_path / 'jobs.db'}")
    assert summary(outcomes).keys() == {"passed", "skipped"}, outcomes
    assert summary(outcomes)["skipped"] == 3, "a clock, and two of roles: SQLite is one server's"
    async with SqliteJobStore(tmp_path / "jobs.db") as store:
        assert await store.counts(None) == {}
        assert await store.due(1e12) == []


async def test_exam_of_a_blob_url_leaves_nothing(tmp_path: Path) -> None:
    outcomes = await check_backend(f"file:///{tmp_path / 'blobs'}")
    assert summary(outcomes).keys() == {"passed"}, outcomes
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


async def test_exam_that_cannot_open_its_store_fails_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"not a database at all, but some text that is long enough" * 20)
    outcomes = await check_backend(f"sqlite:///{tmp_path / 'jobs.db'}")
    counted = summary(outcomes)
    assert counted["failed"] > 50
    failed = [outcome for _, outcome in outcomes if outcome.startswith("failed")]
    assert any("is not a database" in outcome for outcome in failed)


async def test_exam_of_a_url_that_nobody_opens_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'no .* opens "nothing://x"'):
        await check_backend("nothing://x")


@pytest.mark.parametrize(
    ("found", "expected", "said"),
    [
        (b"abc", b"abc", ""),
        (b"abd", b"abc", "item 2 of 3 (expected 3): b'd' instead of b'c'"),
        (b"ab", b"abc", "item 2 of 2 (expected 3): b'' instead of b'c'"),
        ((1, 2, 3), (1, 2), "item 2 of 3 (expected 2): (3,) instead of ()"),
    ],
)
def test_long_values_that_differ_are_told_from_where(found: bytes, expected: bytes, said: str) -> None:
    assert differs_at(found, expected) == said
