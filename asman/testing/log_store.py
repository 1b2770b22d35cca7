"""What a log store must do. A job store is one too, so ``JobStoreKit`` includes this."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Protocol, Self

import pytest

from asman.abc import JobStore, LogHalf, LogSlice, LogStore
from asman.testing.fixtures import Exam, differs_at, fresh_id, make_job

__all__ = ["LogStoreKit", "Store", "line", "read_all"]

_HALF_BYTES = 4 << 20


class Store(JobStore, LogStore, Protocol):
    """Both contracts, as one object gives them."""

    async def __aenter__(self) -> Self: ...


def line(text: str, at_ms: int = 1_700_000_000_000) -> bytes:
    """One log line as it is stored."""
    return json.dumps([text, at_ms], separators=(",", ":"), ensure_ascii=False).encode()


async def read_all(store: LogStore, queue: str, job_id: str, half: LogHalf = "run") -> list[LogSlice]:
    """Follow the cursor to the end. Each slice must get on."""
    slices: list[LogSlice] = []
    since = 0
    while True:
        found = await store.read_log(queue, job_id, half=half, since=since)
        if not found.lines:
            return slices
        assert found.start >= since, "a slice began before its cursor"
        slices.append(found)
        since = found.start + len(found.lines)


class LogStoreKit(Exam):
    """Subclassed by ``JobStoreKit``."""

    pytestmark = pytest.mark.asyncio

    async def open_store(self) -> Store:
        raise NotImplementedError("write `async def open_store(self)` that answers with your store, not yet entered")

    async def _job(self, store: Store) -> str:
        job = make_job(self.queue)
        await store.save(job, expected=0)
        return job.job_id

    async def test_log_of_an_unknown_job_is_empty(self) -> None:
        """read_log of a job without a log answers with no lines and a total of 0."""
        async with await self.open_store() as store:
            found = await store.read_log(self.queue, fresh_id(), half="run")
            assert (found.lines, found.total, found.start) == ((), 0, 0)

    async def test_lines_for_a_job_without_a_record_are_ignored(self) -> None:
        """append_log for a job without a record answers 0 and keeps nothing."""
        async with await self.open_store() as store:
            job_id = fresh_id()
            assert await store.append_log(self.queue, job_id, attempt=1, half="run", lines=[line("x")]) == 0
            await store.save(make_job(self.queue, job_id), expected=0)
            assert (await store.read_log(self.queue, job_id, half="run")).total == 0

    async def test_appended_lines_are_read_in_order_with_their_total(self) -> None:
        """append_log adds lines once, in order, and answers with the total; read_log gives them back."""
        async with await self.open_store() as store:
            job_id = await self._job(store)
            assert await store.append_log(self.queue, job_id, attempt=1, half="run", lines=[line("a"), line("b")]) == 2
            assert await store.append_log(self.queue, job_id, attempt=1, half="run", lines=[line("c")]) == 3
            assert await store.append_log(self.queue, job_id, attempt=1, half="run", lines=[]) == 3
            found = await store.read_log(self.queue, job_id, half="run")
            assert found == LogSlice(attempt=1, start=0, lines=(line("a"), line("b"), line("c")), total=3)

    async def test_lines_come_back_byte_for_byte(self) -> None:
        """A line is bytes and comes back as it was."""
        nasty = ["", " ", "naïve", "名前", "🦀", '"\\', "a\u0000b", "x" * 100_000]
        lines = [line(text) for text in nasty] + [b'["e",1,true]', b'["\\n\\u0000\\ud800",2]']
        async with await self.open_store() as store:
            job_id = await self._job(store)
            await store.append_log(self.queue, job_id, attempt=1, half="run", lines=lines)
            found = await store.read_log(self.queue, job_id, half="run")
            assert found.lines == tuple(lines)

    async def test_cursor_reads_on_from_where_it_was(self) -> None:
        """read_log gives the lines from index ``since`` on; at the end it gives none."""
        lines = [line(str(number)) for number in range(50)]
        async with await self.open_store() as store:
            job_id = await self._job(store)
            for at in range(0, 50, 7):
                await store.append_log(self.queue, job_id, attempt=1, half="run", lines=lines[at : at + 7])
            for since in (0, 1, 6, 7, 8, 48, 49):
                found = await store.read_log(self.queue, job_id, half="run", since=since)
                assert (found.start, found.lines) == (since, tuple(lines[since:]))
            found = await store.read_log(self.queue, job_id, half="run", since=50)
            assert (found.start, found.lines, found.total) == (50, (), 50)

    async def test_a_read_is_bounded_but_always_gets_on(self) -> None:
        """read_log gives about ``max_bytes`` of lines, but one line at least if there is one."""
        lines = [line(f"{number:04d}" + "x" * 1000) for number in range(40)]
        async with await self.open_store() as store:
            job_id = await self._job(store)
            await store.append_log(self.queue, job_id, attempt=1, half="run", lines=lines)
            found = await store.read_log(self.queue, job_id, half="run", max_bytes=10_000)
            assert 1 < len(found.lines) <= 20
            assert found.lines == tuple(lines[: len(found.lines)])
            tiny = await store.read_log(self.queue, job_id, half="run", since=5, max_bytes=1)
            assert (tiny.start, tiny.lines) == (5, (lines[5],))

    async def test_halves_are_apart(self) -> None:
        """``build`` and ``run`` are two logs."""
        async with await self.open_store() as store:
            job_id = await self._job(store)
            await store.append_log(self.queue, job_id, attempt=1, half="build", lines=[line("built")])
            await store.append_log(self.queue, job_id, attempt=1, half="run", lines=[line("ran")])
            assert (await store.read_log(self.queue, job_id, half="build")).lines == (line("built"),)
            assert (await store.read_log(self.queue, job_id, half="run")).lines == (line("ran"),)

    async def test_same_job_in_another_queue_has_its_own_log(self) -> None:
        """A log belongs to (queue, job id)."""
        other = self.new_queue("other")
        async with await self.open_store() as store:
            job_id = await self._job(store)
            await store.save(make_job(other, job_id), expected=0)
            await store.append_log(self.queue, job_id, attempt=1, half="run", lines=[line("here")])
            assert (await store.read_log(other, job_id, half="run")).total == 0

    async def test_newer_attempt_drops_both_halves_of_the_older(self) -> None:
        """The first lines of a newer attempt drop what the older one had in both halves."""
        async with await self.open_store() as store:
            job_id = await self._job(store)
            await store.append_log(self.queue, job_id, attempt=1, half="build", lines=[line("old")])
            await store.append_log(self.queue, job_id, attempt=1, half="run", lines=[line("old"), line("old")])
            assert await store.append_log(self.queue, job_id, attempt=2, half="run", lines=[line("new")]) == 1
            found = await store.read_log(self.queue, job_id, half="run")
            assert found == LogSlice(attempt=2, start=0, lines=(line("new"),), total=1)
            built = await store.read_log(self.queue, job_id, half="build")
            assert (built.attempt, built.lines, built.total) == (2, (), 0)

    async def test_older_attempt_is_ignored(self) -> None:
        """append_log of an older attempt adds nothing and answers with the present total of that half."""
        async with await self.open_store() as store:
            job_id = await self._job(store)
            await store.append_log(self.queue, job_id, attempt=2, half="run", lines=[line("new")])
            assert await store.append_log(self.queue, job_id, attempt=1, half="run", lines=[line("late")]) == 1
            assert await store.append_log(self.queue, job_id, attempt=1, half="build", lines=[line("late")]) == 0
            assert (await store.read_log(self.queue, job_id, half="run")).lines == (line("new"),)
            assert (await store.read_log(self.queue, job_id, half="build")).lines == ()

    async def test_dropped_log_is_forgotten_and_can_begin_again(self) -> None:
        """drop_log forgets both halves, may be repeated, and a log may begin again after it."""
        async with await self.open_store() as store:
            job_id = await self._job(store)
            for half in ("build", "run"):
                await store.append_log(self.queue, job_id, attempt=1, half=half, lines=[line("x")])
            await store.drop_log(self.queue, job_id)
            await store.drop_log(self.queue, job_id)
            await store.drop_log(self.queue, fresh_id())
            for half in ("build", "run"):
                found = await store.read_log(self.queue, job_id, half=half)
                assert (found.lines, found.total) == ((), 0)
            assert await store.append_log(self.queue, job_id, attempt=2, half="run", lines=[line("y")]) == 1

    async def test_deleted_job_takes_its_log_along(self) -> None:
        """delete removes the log with the record."""
        async with await self.open_store() as store:
            job_id = await self._job(store)
            await store.append_log(self.queue, job_id, attempt=1, half="run", lines=[line("x")])
            await store.delete(self.queue, job_id, expected=1)
            await store.save(make_job(self.queue, job_id), expected=0)
            assert (await store.read_log(self.queue, job_id, half="run")).total == 0

    async def test_first_and_last_four_mebibytes_are_kept_and_the_middle_is_skipped(self) -> None:
        """Of a half the first and the last 4 MiB are kept; the total counts all lines, and no line changes its
        index."""
        lines = [line(f"{number:05d}" + "x" * 1000) for number in range(12_000)]
        async with await self.open_store() as store:
            job_id = await self._job(store)
            for at in range(0, len(lines), 500):
                total = await store.append_log(self.queue, job_id, attempt=1, half="run", lines=lines[at : at + 500])
            assert total == len(lines)
            slices = await read_all(store, self.queue, job_id)
        assert {found.total for found in slices} == {len(lines)}
        for found in slices:
            wanted = tuple(lines[found.start : found.start + len(found.lines)])
            assert not differs_at(found.lines, wanted), "a line moved"
        gaps = [b.start for a, b in pairwise(slices) if a.start + len(a.lines) != b.start]
        assert len(gaps) == 1, "exactly the middle is missing"
        head = sum(len(data) for found in slices if found.start < gaps[0] for data in found.lines)
        tail = sum(len(data) for found in slices if found.start >= gaps[0] for data in found.lines)
        assert slices[0].start == 0
        assert slices[-1].start + len(slices[-1].lines) == len(lines)
        assert _HALF_BYTES * 3 // 4 <= head <= _HALF_BYTES
        assert _HALF_BYTES * 3 // 4 <= tail <= _HALF_BYTES

    async def test_cursor_into_the_dropped_middle_skips_to_what_is_kept(self) -> None:
        """read_log from a dropped line on begins at the next line that is kept, and ``start`` says which."""
        lines = [line(f"{number:05d}" + "x" * 60_000) for number in range(250)]
        async with await self.open_store() as store:
            job_id = await self._job(store)
            for at in range(0, len(lines), 50):
                await store.append_log(self.queue, job_id, attempt=1, half="run", lines=lines[at : at + 50])
            found = await store.read_log(self.queue, job_id, half="run", since=100)
            assert found.start > 100
            assert found.lines[0] == lines[found.start]

    async def test_one_line_larger_than_a_half_is_counted_and_hurts_nothing(self) -> None:
        """A line of more than 4 MiB is counted, not kept, and the others stay readable."""
        async with await self.open_store() as store:
            job_id = await self._job(store)
            huge = line("x" * (_HALF_BYTES + 1))
            await store.append_log(self.queue, job_id, attempt=1, half="run", lines=[line("a"), huge])
            assert await store.append_log(self.queue, job_id, attempt=1, half="run", lines=[line("b")]) == 3
            slices = await read_all(store, self.queue, job_id)
            assert [data for found in slices for data in found.lines] == [line("a"), line("b")]

    async def test_concurrent_appends_lose_no_line(self) -> None:
        """Appends under way at once add all their lines; each answer is another total."""
        async with await self.open_store() as store:
            job_id = await self._job(store)
            appends = [
                store.append_log(self.queue, job_id, attempt=1, half="run", lines=[line(f"{n}-{m}") for m in range(5)])
                for n in range(40)
            ]
            totals = await asyncio.gather(*appends)
            assert sorted(totals) == [5 * (n + 1) for n in range(40)]
            found = await store.read_log(self.queue, job_id, half="run")
            assert sorted(found.lines) == sorted(line(f"{n}-{m}") for n in range(40) for m in range(5))

    async def test_log_is_there_after_close_and_open(self) -> None:
        """A log is there after close and open, and goes on counting where it was."""
        self.needs_durable()
        async with await self.open_store() as store:
            job_id = await self._job(store)
            await store.append_log(self.queue, job_id, attempt=3, half="run", lines=[line("a"), line("b")])
        async with await self.open_store() as store:
            found = await store.read_log(self.queue, job_id, half="run")
            assert found == LogSlice(attempt=3, start=0, lines=(line("a"), line("b")), total=2)
            assert await store.append_log(self.queue, job_id, attempt=3, half="run", lines=[line("c")]) == 3
