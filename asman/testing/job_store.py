"""What a job store must do. Subclass ``JobStoreKit`` and write ``open_store``; see ``asman.testing``."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from asman.abc import JobStore, LogStore, SupportsScan
from asman.errors import Conflict
from asman.job import Job, Requirements, State, decode_job, encode_job
from asman.testing.abilities import AbilitiesKit
from asman.testing.fixtures import FAR, NAMESPACES, NOW, QUEUE_NAMES, fresh_id, make_job, rich_job
from asman.testing.log_store import LogStoreKit, Store
from asman.testing.stateful import job_store_machine

__all__ = ["JobStoreKit"]

_ALL = (State.QUEUED, State.RUNNING, State.FINISHED, State.REMOVED)
_LONG_AGO = 1_000.0
"""Due times of these tests: no live record is due as early, so they also work beside real data."""


async def _save_all(store: JobStore, jobs: Iterable[Job]) -> None:
    await asyncio.gather(*(store.save(job, expected=0) for job in jobs))


def _by_age(jobs: Iterable[Job]) -> list[Job]:
    return sorted(jobs, key=lambda job: (job.queued_at, job.job_id))


def _by_place(jobs: Iterable[Job]) -> list[Job]:
    return sorted(jobs, key=lambda job: (job.queue, job.job_id))


def _scanning(store: object) -> SupportsScan:
    if not isinstance(store, SupportsScan):
        pytest.skip("this store does not offer scan, so it cannot be exported as a whole")
    return store


async def _few(store: JobStore) -> int:
    """How many to scan at a time, so that it takes several calls, but not for ever beside real data."""
    return max(5, sum((await store.counts(None)).values()) // 100)


async def _attempt(store: JobStore, job: Job, expected: int, documents: dict[str, bytes | None]) -> bool:
    try:
        await store.save(job, expected=expected, documents=documents)
    except Conflict:
        return False
    return True


class JobStoreKit(AbilitiesKit, LogStoreKit):
    """The exam of a job store, its logs and its further abilities included.

    Shape:  ``shrinks`` says that random steps which disagree are told in their shortest form: that takes minutes.
    """

    shrinks = True

    # --- load and save -----------------------------------------------------------------------------------------------

    async def test_the_store_is_a_job_store_and_a_log_store(self) -> None:
        """The object has every method of JobStore and LogStore."""
        store = await self.open_store()
        assert isinstance(store, JobStore)
        assert isinstance(store, LogStore)

    async def test_unknown_job_is_none(self) -> None:
        """load and document answer None for a job that is not there, and raise nothing."""
        async with await self.open_store() as store:
            assert await store.load(self.queue, fresh_id()) is None
            assert await store.document(self.queue, fresh_id(), "definition") is None

    @pytest.mark.parametrize("make", [make_job, rich_job])
    async def test_saved_record_comes_back_equal_in_every_member(self, make: type[Job]) -> None:
        """load gives back what save was given, to the last member and digit; encode_job and decode_job do that."""
        job = make(self.queue)  # type: ignore[call-arg]
        async with await self.open_store() as store:
            await store.save(job, expected=0)
            assert await store.load(job.queue, job.job_id) == job

    async def test_large_record_comes_back_equal(self) -> None:
        """A record may have 300 kB and a thousand namespaces."""
        names = tuple((f"namespace-{number:04d}" + "n" * 200, NOW) for number in range(1_000))
        job = make_job(self.queue, namespaces=names, message="x" * 100_000)
        async with await self.open_store() as store:
            await store.save(job, expected=0)
            assert await store.load(job.queue, job.job_id) == job
            found = await store.in_namespace(self.queue, names[-1][0])
            assert found == [job]

    @pytest.mark.parametrize("name", QUEUE_NAMES)
    async def test_nasty_queue_names_are_kept_apart(self, name: str) -> None:
        """Queue names are compared byte for byte: no case folding, no wildcards, no cutting."""
        queue = self.new_queue(name)
        async with await self.open_store() as store:
            job = make_job(queue)
            await store.save(job, expected=0)
            assert await store.list(queue, states=_ALL) == [job]
            for other in (queue[:-1], queue.swapcase(), queue[:-1] + "?", queue[:-1] + "%", queue[:-1] + "*", ""):
                if other != queue:
                    assert await store.load(other, job.job_id) is None
                    assert await store.list(other, states=_ALL) == []

    async def test_job_is_kept_per_queue(self) -> None:
        """A record belongs to (queue, job id): the same id in two queues is two jobs."""
        other = self.new_queue("other")
        job_id = fresh_id()
        async with await self.open_store() as store:
            await store.save(make_job(self.queue, job_id), expected=0, documents={"definition": b"here"})
            assert await store.load(other, job_id) is None
            assert await store.document(other, job_id, "definition") is None
            await store.save(make_job(other, job_id, version=9), expected=0, documents={"definition": b"there"})
            assert await store.document(self.queue, job_id, "definition") == b"here"
            assert await store.document(other, job_id, "definition") == b"there"

    async def test_save_replaces_the_record(self) -> None:
        """save over the stored version replaces the record as a whole."""
        async with await self.open_store() as store:
            job = make_job(self.queue)
            await store.save(job, expected=0)
            after = rich_job(self.queue, job.job_id, version=2)
            await store.save(after, expected=1)
            assert await store.load(self.queue, job.job_id) == after

    @pytest.mark.parametrize("expected", [0, 1, 3])
    async def test_save_over_another_version_conflicts_and_changes_nothing(self, expected: int) -> None:
        """save compares ``expected`` with the stored version and raises Conflict if they differ; record, documents,
        indexes and counters stay as they were."""
        async with await self.open_store() as store:
            job = make_job(self.queue, version=2, expires_at=_LONG_AGO)
            await store.save(job, expected=0, documents={"definition": b"d", "result": b"r"})
            counted = await store.counts(self.queue)
            other = rich_job(self.queue, job.job_id, version=expected + 1)
            with pytest.raises(Conflict):
                await store.save(other, expected=expected, documents={"definition": None, "result": b"x", "new": b"n"})
            assert await store.load(self.queue, job.job_id) == job
            assert [await store.document(self.queue, job.job_id, n) for n in ("definition", "result", "new")] == [
                b"d",
                b"r",
                None,
            ]
            assert await store.counts(self.queue) == counted
            assert await store.list(self.queue, states=_ALL) == [job]
            assert await store.in_namespace(self.queue, "_") == [job]
            assert await store.in_namespace(self.queue, "名前") == []
            assert job in await store.due(_LONG_AGO)

    async def test_save_of_a_record_that_is_not_there_conflicts_unless_it_is_the_first(self) -> None:
        """Without a record the stored version is 0: save with another ``expected`` raises Conflict and writes
        nothing."""
        async with await self.open_store() as store:
            job = make_job(self.queue, version=2)
            with pytest.raises(Conflict):
                await store.save(job, expected=1, documents={"definition": b"d"})
            assert await store.load(self.queue, job.job_id) is None
            assert await store.document(self.queue, job.job_id, "definition") is None
            assert await store.counts(self.queue) == {}

    # --- documents ---------------------------------------------------------------------------------------------------

    async def test_documents_are_written_replaced_and_removed_with_the_record(self) -> None:
        """save writes the documents it is given, removes those given as None, and leaves the others alone."""
        async with await self.open_store() as store:
            job = make_job(self.queue)
            read = [("definition", b"1"), ("result", b"2"), ("untouched", b"3")]
            await store.save(job, expected=0, documents=dict(read))
            for name, data in read:
                assert await store.document(self.queue, job.job_id, name) == data
            documents = {"definition": b"new", "result": None, "never": None}
            await store.save(replace(job, version=2), expected=1, documents=documents)
            assert await store.document(self.queue, job.job_id, "definition") == b"new"
            assert await store.document(self.queue, job.job_id, "result") is None
            assert await store.document(self.queue, job.job_id, "untouched") == b"3"
            assert await store.document(self.queue, job.job_id, "never") is None

    @pytest.mark.parametrize(
        "data",
        [b"", b"\x00", bytes(range(256)) * 256, "名前🦀".encode(), b"x" * (64 << 10)],
        ids=["empty", "nul", "64 KiB of all bytes", "unicode", "64 KiB"],
    )
    async def test_document_comes_back_byte_for_byte(self, data: bytes) -> None:
        """A document is bytes, up to 64 KiB, empty ones included."""
        async with await self.open_store() as store:
            job = make_job(self.queue)
            await store.save(job, expected=0, documents={"definition": data})
            assert await store.document(self.queue, job.job_id, "definition") == data

    # --- two writers -------------------------------------------------------------------------------------------------

    async def test_of_many_writers_that_saw_the_same_version_exactly_one_wins(self) -> None:
        """Comparing and writing are one step: of many saves with the same ``expected`` one is done, its documents with
        it, and the others raise Conflict."""
        async with await self.open_store() as store:
            await self._race(store, store)

    async def test_writers_of_two_opened_stores_are_no_different(self) -> None:
        """Comparing and writing are one step between processes too: two opened stores on the same data stand for two
        servers."""
        self.needs_shared()
        async with await self.open_store() as one, await self.open_store() as two:
            await self._race(one, two)

    async def _race(self, one: Store, two: Store) -> None:
        job_id = fresh_id()
        for version in range(5):
            jobs = [make_job(self.queue, job_id, version=version + 1, worker=f"w{n}") for n in range(16)]
            writes: list[dict[str, bytes | None]] = [{"result": job.worker.encode()} for job in jobs]
            stores = [one, two] * 8
            saves = [_attempt(s, j, version, d) for s, j, d in zip(stores, jobs, writes, strict=True)]
            won = await asyncio.gather(*saves)
            assert won.count(True) == 1, "exactly one of them saves"
            winner = jobs[won.index(True)]
            for store in (one, two):
                assert await store.load(self.queue, job_id) == winner
                assert await store.document(self.queue, job_id, "result") == winner.worker.encode()
        assert sum((await one.counts(self.queue)).values()) == 1

    async def test_what_one_opened_store_saved_the_other_sees(self) -> None:
        """What save returned from is seen by every other opened store at once; nothing is cached."""
        self.needs_shared()
        async with await self.open_store() as one, await self.open_store() as two:
            job = make_job(self.queue)
            await one.save(job, expected=0, documents={"definition": b"d"})
            assert await two.load(self.queue, job.job_id) == job
            assert await two.document(self.queue, job.job_id, "definition") == b"d"
            assert await two.list(self.queue, states=[State.QUEUED]) == [job]
            await two.delete(self.queue, job.job_id, expected=1)
            assert await one.load(self.queue, job.job_id) is None

    async def test_many_saves_at_once_are_all_kept(self) -> None:
        """Hundreds of saves may be under way at once; each that returned is kept."""
        async with await self.open_store() as store:
            jobs = [make_job(self.queue, queued_at=NOW + n % 10) for n in range(300)]
            await _save_all(store, jobs)
            assert await store.list(self.queue, states=_ALL) == _by_age(jobs)

    async def test_save_whose_caller_has_gone_is_whole_or_not_at_all(self) -> None:
        """A cancelled save is done with its documents or not at all, and hurts none that runs beside it."""
        async with await self.open_store() as store:
            jobs = [make_job(self.queue) for _ in range(20)]
            tasks = [asyncio.create_task(store.save(j, expected=0, documents={"definition": b"d"})) for j in jobs]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await store.save(make_job(self.queue), expected=0)
            for index, job in enumerate(jobs):
                found = await store.load(self.queue, job.job_id)
                document = await store.document(self.queue, job.job_id, "definition")
                assert (found, document) in ((job, b"d"), (None, None))
                if index % 2:
                    assert found == job, "a neighbour's leaving hurt this one"

    # --- delete ------------------------------------------------------------------------------------------------------

    async def test_deleted_job_is_gone_from_everywhere(self) -> None:
        """delete removes record and documents, and takes the job out of list, find, due, in_namespace and counts."""
        async with await self.open_store() as store:
            names = (("_", NOW), ("second", NOW))
            job = make_job(self.queue, version=3, namespaces=names, expires_at=_LONG_AGO)
            await store.save(job, expected=0, documents={"definition": b"d"})
            await store.delete(self.queue, job.job_id, expected=3)
            assert await store.load(self.queue, job.job_id) is None
            assert await store.document(self.queue, job.job_id, "definition") is None
            assert await store.list(self.queue, states=_ALL) == []
            assert await store.in_namespace(self.queue, "_") == []
            assert await store.in_namespace(self.queue, "second") == []
            assert await store.find(job.job_id) == []
            assert job not in await store.due(_LONG_AGO)
            assert await store.counts(self.queue) == {}

    async def test_deleted_job_can_be_saved_anew_without_its_past(self) -> None:
        """After delete the job may be saved again as new; no document of the old one comes back."""
        async with await self.open_store() as store:
            job = make_job(self.queue)
            await store.save(job, expected=0, documents={"definition": b"old"})
            await store.delete(self.queue, job.job_id, expected=1)
            await store.save(job, expected=0)
            assert await store.document(self.queue, job.job_id, "definition") is None
            assert await store.list(self.queue, states=_ALL) == [job]

    async def test_delete_of_an_absent_job_does_nothing(self) -> None:
        """delete of a job that is not there is no error, whatever ``expected`` is."""
        async with await self.open_store() as store:
            await store.delete(self.queue, fresh_id(), expected=0)
            await store.delete(self.queue, fresh_id(), expected=5)

    async def test_delete_of_another_version_conflicts_and_changes_nothing(self) -> None:
        """delete compares ``expected`` with the stored version and raises Conflict if they differ; nothing is changed
        then."""
        async with await self.open_store() as store:
            job = make_job(self.queue, version=2)
            await store.save(job, expected=0, documents={"definition": b"d"})
            for expected in (0, 1, 3):
                with pytest.raises(Conflict):
                    await store.delete(self.queue, job.job_id, expected=expected)
            assert await store.load(self.queue, job.job_id) == job
            assert await store.document(self.queue, job.job_id, "definition") == b"d"
            assert await store.counts(self.queue) == {(State.QUEUED, job.requirements.shape): 1}

    # --- lists -------------------------------------------------------------------------------------------------------

    async def test_list_is_by_queued_time_then_by_id(self) -> None:
        """list is in order of (queued_at, job_id), as numbers and as text; times have fractions."""
        async with await self.open_store() as store:
            times = [NOW + 2, NOW, NOW + 0.001, NOW, NOW - 1e6, NOW, NOW + 1e9, 0.0]
            jobs = [make_job(self.queue, queued_at=at) for at in times]
            await _save_all(store, jobs)
            assert await store.list(self.queue, states=[State.QUEUED]) == _by_age(jobs)

    async def test_list_shows_the_asked_states_only_in_one_order(self) -> None:
        """list shows the records in ``states`` and no others, in one order over all of them, at most ``limit``."""
        async with await self.open_store() as store:
            jobs = [make_job(self.queue, state=_ALL[n % 4], queued_at=NOW + n) for n in range(20)]
            await _save_all(store, jobs)
            for states in ([], [State.QUEUED], [State.RUNNING, State.FINISHED], {State.REMOVED}, _ALL):
                wanted = [job for job in jobs if job.state in states]
                assert await store.list(self.queue, states=states) == wanted
                assert await store.list(self.queue, states=states, limit=3) == wanted[:3]

    async def test_cursor_meets_every_job_once(self) -> None:
        """list goes on behind ``after``, which it leaves out: reading on from each last record meets every job once."""
        async with await self.open_store() as store:
            jobs = [make_job(self.queue, state=_ALL[n % 3], queued_at=NOW + n // 5) for n in range(43)]
            await _save_all(store, jobs)
            seen: list[Job] = []
            after: tuple[float, str] | None = None
            while found := await store.list(self.queue, states=_ALL, limit=7, after=after):
                assert len(found) <= 7
                seen += found
                assert len(seen) <= len(jobs), "the cursor met a job again"
                after = (found[-1].queued_at, found[-1].job_id)
            assert seen == _by_age(jobs)

    async def test_cursor_need_not_be_a_job_that_is_there(self) -> None:
        """``after`` is a place, not a job: list goes on from there if its job is gone or never was."""
        async with await self.open_store() as store:
            jobs = [make_job(self.queue, queued_at=NOW + n) for n in range(4)]
            await _save_all(store, jobs)
            assert await store.list(self.queue, states=_ALL, after=(NOW + 1.5, "")) == jobs[2:]
            assert await store.list(self.queue, states=_ALL, after=(NOW + 1, "g")) == jobs[2:]
            assert await store.list(self.queue, states=_ALL, after=(NOW + 1, "")) == jobs[1:]
            assert await store.list(self.queue, states=_ALL, after=(FAR, "")) == []

    async def test_shape_narrows_the_list(self) -> None:
        """list with ``shape`` shows the records whose requirements have it, with cursor and limit as without."""
        wanted = Requirements(cores=2, tags=("a",))
        needs = [wanted, Requirements(), Requirements(cores=2), Requirements(cores=2, tags=("a", "b"))]
        async with await self.open_store() as store:
            jobs = [
                make_job(self.queue, requirements=needs[n % 4], state=_ALL[n % 3], queued_at=NOW + n) for n in range(48)
            ]
            await _save_all(store, jobs)
            for states in ([State.QUEUED], _ALL):
                fitting = [j for j in jobs if j.requirements == wanted and j.state in states]
                assert await store.list(self.queue, states=states, shape=wanted.shape) == fitting
                after = (fitting[0].queued_at, fitting[0].job_id)
                found = await store.list(self.queue, states=states, shape=wanted.shape, after=after, limit=2)
                assert found == fitting[1:3]
            assert await store.list(self.queue, states=_ALL, shape=Requirements(gpus=8).shape) == []

    async def test_list_follows_what_a_save_changes(self) -> None:
        """A save that changes state, time or requirements moves the record in every list."""
        async with await self.open_store() as store:
            first, second = (make_job(self.queue, queued_at=NOW + n) for n in range(2))
            await _save_all(store, [first, second])
            again = replace(first, version=2, queued_at=NOW + 5, requirements=Requirements(cores=7))
            await store.save(again, expected=1)
            assert await store.list(self.queue, states=_ALL) == [second, again]
            assert await store.list(self.queue, states=_ALL, shape=again.requirements.shape) == [again]
            assert await store.list(self.queue, states=_ALL, shape=first.requirements.shape) == [second]
            runs = replace(again, version=3, state=State.RUNNING)
            await store.save(runs, expected=2)
            assert await store.list(self.queue, states=[State.QUEUED]) == [second]
            assert await store.list(self.queue, states=[State.RUNNING]) == [runs]

    # --- namespaces, find, due ---------------------------------------------------------------------------------------

    async def test_namespace_finds_its_queued_and_running_jobs_in_order(self) -> None:
        """in_namespace finds Queued and Running records by any of their namespaces, by (queued_at, job_id), at most
        ``limit``."""
        other = self.new_queue("other")
        async with await self.open_store() as store:
            jobs = [
                make_job(self.queue, state=_ALL[n % 4], queued_at=NOW - n, namespaces=(("a", NOW), ("b", NOW)))
                for n in range(12)
            ]
            lone = make_job(self.queue, namespaces=(("b", NOW),))
            none = make_job(self.queue, namespaces=())
            elsewhere = make_job(other, namespaces=(("a", NOW),))
            await _save_all(store, [*jobs, lone, none, elsewhere])
            active = [job for job in jobs if job.is_active]
            assert await store.in_namespace(self.queue, "a") == _by_age(active)
            assert await store.in_namespace(self.queue, "b") == _by_age([*active, lone])
            assert await store.in_namespace(self.queue, "b", limit=3) == _by_age([*active, lone])[:3]
            assert await store.in_namespace(self.queue, "c") == []

    @pytest.mark.parametrize("name", NAMESPACES)
    async def test_nasty_namespaces_are_kept_apart(self, name: str) -> None:
        """Namespaces are compared as they are: any text up to 256 characters."""
        async with await self.open_store() as store:
            job = make_job(self.queue, namespaces=((name, NOW),))
            second = make_job(self.queue, namespaces=(("0", NOW), (name, NOW)))
            rest = make_job(self.queue, namespaces=(("0", NOW), (name + "x", NOW)))
            await _save_all(store, [job, second, rest])
            assert await store.in_namespace(self.queue, name) == _by_age([job, second])

    async def test_namespace_follows_what_a_save_changes(self) -> None:
        """A save that changes namespaces, time or state moves the record in in_namespace."""
        async with await self.open_store() as store:
            job = make_job(self.queue, namespaces=(("a", NOW), ("b", NOW)))
            await store.save(job, expected=0)
            after = replace(job, version=2, queued_at=NOW + 1, namespaces=(("b", NOW), ("c", NOW)))
            await store.save(after, expected=1)
            assert [await store.in_namespace(self.queue, n) for n in "abc"] == [[], [after], [after]]
            ended = replace(after, version=3, state=State.FINISHED)
            await store.save(ended, expected=2)
            assert [await store.in_namespace(self.queue, n) for n in "abc"] == [[], [], []]
            anew = replace(ended, version=4, state=State.QUEUED)
            await store.save(anew, expected=3)
            assert [await store.in_namespace(self.queue, n) for n in "abc"] == [[], [anew], [anew]]

    async def test_find_meets_the_job_in_every_queue_oldest_first(self) -> None:
        """find meets the records of one job in every queue, oldest queued_at first, at most ``limit``."""
        job_id = fresh_id()
        async with await self.open_store() as store:
            jobs = [
                make_job(self.new_queue(str(n)), job_id, queued_at=NOW + (n * 7) % 5, state=_ALL[n % 4])
                for n in range(5)
            ]
            await _save_all(store, [*jobs, make_job(self.queue)])
            wanted = sorted(jobs, key=lambda job: job.queued_at)
            assert await store.find(job_id) == wanted
            assert await store.find(job_id, limit=2) == wanted[:2]
            assert await store.find(fresh_id()) == []
            later = replace(wanted[0], version=2, queued_at=NOW + 100)
            await store.save(later, expected=1)
            assert await store.find(job_id) == [*wanted[1:], later]

    async def test_due_is_what_is_due_at_that_moment_most_overdue_first(self) -> None:
        """due gives records with due_at <= ``before`` (the moment itself included), most overdue first, at most
        ``limit``."""
        async with await self.open_store() as store:
            at = [_LONG_AGO + 2, _LONG_AGO - 1, _LONG_AGO, _LONG_AGO + 0.001, _LONG_AGO - 0.001, _LONG_AGO - 500]
            jobs = [make_job(self.queue, expires_at=moment) for moment in at]
            await _save_all(store, [*jobs, make_job(self.queue)])
            mine = {job.job_id for job in jobs}
            found = [job for job in await store.due(_LONG_AGO) if job.job_id in mine]
            assert found == [jobs[5], jobs[1], jobs[4], jobs[2]], "the moment itself is included"
            assert len(await store.due(_LONG_AGO, limit=2)) == 2

    async def test_due_follows_what_a_save_changes(self) -> None:
        """A save that changes due_at moves the record in due."""
        async with await self.open_store() as store:
            job = make_job(self.queue, state=State.RUNNING, lease_until=_LONG_AGO)
            await store.save(job, expected=0)
            assert job in await store.due(_LONG_AGO)
            renewed = replace(job, version=2, lease_until=_LONG_AGO + 30)
            await store.save(renewed, expected=1)
            assert job.job_id not in {j.job_id for j in await store.due(_LONG_AGO)}
            assert renewed in await store.due(_LONG_AGO + 30)
            ended = replace(renewed, version=3, state=State.REMOVED, lease_until=None)
            await store.save(ended, expected=2)
            assert job.job_id not in {j.job_id for j in await store.due(_LONG_AGO + 30)}

    # --- scan --------------------------------------------------------------------------------------------------------

    async def _scanned(self, store: Store, limit: int = 1000) -> list[Job]:
        """What a scan meets in the queues of this test, in its order."""
        scanning = _scanning(store)
        jobs, cursor = await scanning.scan(limit=limit)
        seen = jobs
        while cursor:
            jobs, cursor = await scanning.scan(cursor=cursor, limit=limit)
            assert len(jobs) <= limit
            seen = seen + jobs
        return [job for job in seen if job.queue in self.queues]

    async def test_scan_meets_every_record_of_every_queue_and_state(self) -> None:
        """scan gives every record of the store once if nothing is written meanwhile, at most ``limit`` at a time."""
        other = self.new_queue("other")
        async with await self.open_store() as store:
            job_id = fresh_id()
            jobs = [
                rich_job(queue, job_id if n == 0 else "", state=_ALL[n % 4], queued_at=NOW - n)
                for queue in (self.queue, other)
                for n in range(13)
            ]
            await _save_all(store, jobs)
            for limit in (1000, await _few(store)):
                seen = await self._scanned(store, limit)
                assert _by_place(seen) == _by_place(jobs), "each record once, as nothing was written meanwhile"

    async def test_scan_of_nothing_ends(self) -> None:
        """scan answers with an empty cursor at the end."""
        async with await self.open_store() as store:
            assert await self._scanned(store) == []

    async def test_scan_misses_no_record_that_is_there_throughout_while_others_come_change_and_go(self) -> None:
        """scan meets each record that is there throughout, also one that changes: no change moves it in the order."""
        async with await self.open_store() as store:
            jobs = [make_job(self.queue, queued_at=NOW + n) for n in range(40)]
            await _save_all(store, jobs)
            stay, go, change = jobs[::3], jobs[1::3], jobs[2::3]
            scanning, limit, seen, cursor = _scanning(store), await _few(store), set[str](), ""
            for n in range(100_000):
                found, cursor = await scanning.scan(cursor=cursor, limit=limit)
                seen.update(job.job_id for job in found)
                if not cursor:
                    break
                if n < len(go):
                    await store.delete(self.queue, go[n].job_id, expected=1)
                if n < len(change):
                    later = replace(change[n], version=2, queued_at=NOW + 1_000, state=State.FINISHED)
                    await store.save(later, expected=1)
                await store.save(make_job(self.queue), expected=0)
            assert {job.job_id for job in stay + change} <= seen

    # --- counts ------------------------------------------------------------------------------------------------------

    async def test_counts_of_an_unknown_queue_are_empty(self) -> None:
        """counts of a queue that nobody used are {}."""
        async with await self.open_store() as store:
            assert await store.counts(self.new_queue("unknown")) == {}

    async def test_counts_agree_with_a_model_through_saves_and_deletes(self) -> None:
        """counts tells how many records there are per (state, shape), zero left out, Removed not counted; for None
        those of the whole store."""
        chance = random.Random(7)
        needs = [Requirements(), Requirements(cores=2), Requirements(tags=("ü", '"'))]
        other = self.new_queue("other")
        async with await self.open_store() as store:
            whole_before = Counter(await store.counts(None))
            model: dict[tuple[str, str], Job] = {}
            for number in range(200):
                queue, job_id = chance.choice([self.queue, other]), fresh_id((self.queue, number % 25))
                before = model.get((queue, job_id))
                if before is not None and chance.random() < 0.3:
                    await store.delete(queue, job_id, expected=before.version)
                    del model[queue, job_id]
                    continue
                version = before.version if before else 0
                state, need = chance.choice(_ALL), chance.choice(needs)
                job = make_job(queue, job_id, version=version + 1, state=state, requirements=need)
                await store.save(job, expected=version)
                model[queue, job_id] = job
            for queue in (self.queue, other):
                assert await store.counts(queue) == self._counted(j for j in model.values() if j.queue == queue)
            whole_after = Counter(await store.counts(None))
            assert not whole_before - whole_after
            assert dict(whole_after - whole_before) == self._counted(model.values())
            for job in model.values():
                await store.delete(job.queue, job.job_id, expected=job.version)
            assert await store.counts(self.queue) == {}
            assert Counter(await store.counts(None)) == whole_before

    @staticmethod
    def _counted(jobs: Iterable[Job]) -> dict[tuple[State, str], int]:
        counted: Counter[tuple[State, str]] = Counter()
        counted.update((j.state, j.requirements.shape) for j in jobs if j.state is not State.REMOVED)
        return dict(counted)

    async def test_counts_stay_true_when_many_write_at_once(self) -> None:
        """A counter changes in the same step as its record; a refused save changes none."""
        async with await self.open_store() as store:
            jobs = [make_job(self.queue) for _ in range(100)]
            await _save_all(store, jobs)
            shape = jobs[0].requirements.shape
            steps = [store.save(replace(j, version=2, state=State.RUNNING), expected=1) for j in jobs[:60]]
            stale = [_attempt(store, replace(j, version=2, state=State.FINISHED), 5, {}) for j in jobs[60:80]]
            gone = [store.delete(self.queue, j.job_id, expected=1) for j in jobs[80:]]
            await asyncio.gather(*steps, *stale, *gone)
            assert await store.counts(self.queue) == {(State.QUEUED, shape): 20, (State.RUNNING, shape): 60}

    # --- durability --------------------------------------------------------------------------------------------------

    async def test_everything_is_there_after_close_and_open(self) -> None:
        """What was saved is there after close and open: records, documents, indexes, counters."""
        self.needs_durable()
        async with await self.open_store() as store:
            jobs = [rich_job(self.queue, state=_ALL[n % 4], queued_at=NOW + n) for n in range(8)]
            jobs.append(make_job(self.queue, queued_at=NOW + 8, expires_at=_LONG_AGO))
            for job in jobs:
                await store.save(job, expected=0, documents={"definition": job.job_id.encode()})
            counted = await store.counts(self.queue)
        async with await self.open_store() as store:
            assert await store.list(self.queue, states=_ALL) == jobs
            assert await store.counts(self.queue) == counted
            for job in jobs:
                assert await store.load(self.queue, job.job_id) == job
                assert await store.document(self.queue, job.job_id, "definition") == job.job_id.encode()
            assert jobs[-1] in await store.due(_LONG_AGO)
            assert await store.in_namespace(self.queue, "名前") == [jobs[0], jobs[1], jobs[4], jobs[5]]
            with pytest.raises(Conflict):
                await store.save(jobs[0], expected=0)

    async def test_what_is_saved_last_before_the_close_is_there(self) -> None:
        """save returns once the record is on stable storage; closing loses nothing."""
        self.needs_durable()
        jobs = [make_job(self.queue) for _ in range(50)]
        async with await self.open_store() as store:
            await _save_all(store, jobs)
        async with await self.open_store() as store:
            assert await store.list(self.queue, states=_ALL) == _by_age(jobs)

    # --- everything at random ----------------------------------------------------------------------------------------

    async def test_random_steps_agree_with_a_plain_model(self) -> None:
        """Any sequence of calls agrees with the contract kept in a dictionary; the steps that did not are listed."""
        chosen = settings(
            max_examples=25,
            stateful_step_count=40,
            phases=[Phase.generate, *([Phase.shrink] if self.shrinks else [])],
            report_multiple_bugs=False,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        await asyncio.to_thread(run_state_machine_as_test, job_store_machine(self), settings=chosen)

    async def test_the_kit_itself_uses_records_that_survive_encoding(self) -> None:
        """A record that the kit saves equals itself after encode_job and decode_job."""
        for job in (make_job(self.queue), rich_job(self.queue)):
            assert decode_job(encode_job(job)) == job
