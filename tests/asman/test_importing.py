"""A store read in: everything arrives, nothing is made worse, and the same import again changes nothing."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asman import operations as ops
from asman.abc import LogStore
from asman.errors import BadArchive, Conflict, StorageFull
from asman.importing import Verdict, decide
from asman.job import Attempt, Job, Outcome, Reason, State
from asman.memory import MemoryBlobStore, MemoryJobStore
from asman.messages import encode
from asman.testing import fresh_id, make_job
from asman.testing.fixtures import NAMESPACES
from asman.testing.log_store import line, read_all
from asman.testing.strategies import definitions, jobs
from core import core, definition, finished
from moved import KINDS, NOW, Stores, bring, everything, fill, stores, take_out


def in_memory() -> Stores:
    return Stores(jobs=MemoryJobStore(), blobs=MemoryBlobStore())


PAIRS = list(itertools.product(KINDS, KINDS))

# --- everything arrives ----------------------------------------------------------------------------------------------

BLOBS = st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=3, unique=True)
LINES = st.lists(st.text(max_size=20).map(lambda text: encode([text, 1])), max_size=5)


@st.composite
def _entries(draw: st.DrawFn) -> tuple[Job, dict[str, Any], dict[str, list[bytes]], int]:
    """A record as a store may hold it, its documents, its lines, and the blob (by number) that it refers to."""
    state = st.sampled_from([State.QUEUED, State.RUNNING, State.FINISHED, State.REMOVED])
    names = draw(st.lists(st.sampled_from(NAMESPACES), unique=True, max_size=3))
    members = {"version": draw(st.integers(1, 1000)), "lost": 0, "namespaces": tuple((n, 1.0) for n in sorted(names))}
    job = replace(draw(jobs()), state=draw(state), **members)
    padding = "x" * draw(st.sampled_from([0, 0, 0, 20_000]))
    documents = draw(
        st.fixed_dictionaries(
            {}, optional={"definition": definitions().map(lambda d: d | {"x-pad": padding}), "result": st.just({})}
        )
    )
    lines = draw(st.fixed_dictionaries({}, optional={"build": LINES, "run": LINES}))
    return job, documents, lines, draw(st.integers(0, 100))


@pytest.mark.parametrize(("source", "target"), PAIRS)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(entries=st.lists(_entries(), max_size=6, unique_by=lambda entry: (entry[0].queue, entry[0].job_id)), blobs=BLOBS)
async def test_everything_that_can_be_seen_of_a_store_is_seen_of_the_other(
    source: str, target: str, entries: list[Any], blobs: list[bytes]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        one, two = [stores(k, Path(folder) / n, with_files=False) for k, n in ((source, "a"), (target, "b"))]
        async with one as of, two as into:
            keys = [await of.put(data) for data in blobs]
            for job, documents, lines, number in entries:
                outputs = {"o": {"type": "key", "value": keys[number % len(keys)]}}
                result = {"reason": "Success", "result": {"outputs": outputs}}
                given_ = documents | ({"result": result} if "result" in documents else {})
                await fill(of, job, given_, lines)
            used = [keys[entry[3] % len(keys)] for entry in entries if "result" in entry[1]]
            data, _ = await take_out(of)
            done = await bring(into, data)
            before = await everything(of, used)
            assert await everything(into, used) == before
            assert (done.written, done.present, done.kept, done.refused) == (len(entries), 0, 0, [])
            again = await bring(into, data)
            assert (again.written, again.present, again.kept, again.log_lines) == (0, len(entries), 0, 0)
            assert again.blobs == 0
            assert await everything(into, used) == before


async def test_a_free_blob_name_is_moved_and_other_bytes_under_it_are_kept_and_told() -> None:
    of, into, other = in_memory(), in_memory(), in_memory()
    await of.put(b"data", "my-file.bin")
    await other.put(b"other data", "my-file.bin")
    wants = {"image": "a", "inputs": {"a": {"type": "key", "value": "my-file.bin"}}}
    await fill(of, make_job("q"), {"definition": wants}, {})
    data, _ = await take_out(of)
    for _ in range(2):
        assert (await bring(into, data)).refused == []
    assert (await everything(into, ["my-file.bin"]))["my-file.bin"][1] == b"data"
    done = await bring(other, data)
    assert [key for key, _ in done.refused] == ["my-file.bin"]
    assert (await everything(other, ["my-file.bin"]))["my-file.bin"][1] == b"other data"
    assert done.written == 1


@pytest.mark.parametrize(("source", "target"), PAIRS)
async def test_a_log_whose_middle_was_dropped_keeps_its_cursors(tmp_path: Path, source: str, target: str) -> None:
    lines = [line(f"{number:05d}" + "x" * 1000) for number in range(10_000)]
    async with stores(source, tmp_path / "a") as of, stores(target, tmp_path / "b") as into:
        job = make_job("q", attempt=2)
        await fill(of, job, {}, {"run": lines, "build": lines[:3]})
        data, _ = await take_out(of)
        for _ in range(2):
            await bring(into, data)
            was, now = [await _indexed(s.jobs, job) for s in (of, into)]
            assert now.keys() <= was.keys() | set(range(10_000))
            assert all(lines[index] == text for index, text in now.items()), "no line moved, no filler is left"
            assert len(now) > len(was) * 0.95
            found = await into.jobs.read_log("q", job.job_id, half="run", since=9_999)
            assert (found.total, found.lines) == (10_000, (lines[-1],))
        assert await into.jobs.append_log("q", job.job_id, attempt=2, half="run", lines=[line("more")]) == 10_001


async def _indexed(store: LogStore, job: Job) -> dict[int, bytes]:
    slices = await read_all(store, job.queue, job.job_id)
    return {s.start + n: text for s in slices for n, text in enumerate(s.lines)}


@pytest.mark.parametrize("gap", [1, 2, 3])
async def test_a_line_too_large_to_be_kept_is_counted_in_the_other_store_too(gap: int) -> None:
    of, into = in_memory(), in_memory()
    job = make_job("q", attempt=1)
    huge = line("x" * (5 << 20))
    await fill(of, job, {}, {"run": [line("a"), *[huge] * gap]})
    await bring(into, (await take_out(of))[0])
    found = await into.jobs.read_log("q", job.job_id, half="run")
    assert (found.total, found.lines) == (gap + 1, (line("a"),))


# --- a second time, and over what is there ---------------------------------------------------------------------------


async def test_a_later_export_brings_what_happened_since() -> None:
    of, into = in_memory(), in_memory()
    job, gone = make_job("q", state=State.RUNNING, attempt=1), make_job("q")
    await fill(of, job, {"definition": {"a": "x" * 20_000}}, {"run": [line("1")]})
    await fill(of, gone, {}, {})
    await bring(into, (await take_out(of))[0])
    ended = replace(
        job, state=State.FINISHED, version=2, reason=Reason.SUCCESS, outcome=Outcome.SUCCEEDED, result_worker="w"
    )
    await of.jobs.save(ended, expected=1, documents={"result": b'{"r":1}'})
    await of.jobs.append_log("q", job.job_id, attempt=1, half="run", lines=[line("2")])
    await fill(of, make_job("q"), {}, {})
    done = await bring(into, (await take_out(of))[0])
    assert (done.written, done.present, done.kept) == (2, 1, 0)
    assert await everything(into) == await everything(of)
    assert len(into.blobs._blobs) == 1, "the blob of the older definition has gone"  # type: ignore[attr-defined]


async def test_lines_that_came_since_are_added_though_the_record_is_the_same() -> None:
    of, into = in_memory(), in_memory()
    job = make_job("q", state=State.RUNNING, attempt=1)
    await fill(of, job, {}, {"run": [line("1")]})
    await bring(into, (await take_out(of))[0])
    await of.jobs.append_log("q", job.job_id, attempt=1, half="run", lines=[line("2"), line("3")])
    done = await bring(into, (await take_out(of))[0])
    assert (done.present, done.log_lines) == (1, 2)
    assert await everything(into) == await everything(of)


def _ended(job: Job, **members: Any) -> Job:
    how: dict[str, Any] = {"state": State.FINISHED, "reason": Reason.SUCCESS, "outcome": Outcome.SUCCEEDED}
    return replace(job, **{**how, **members})


HERE = make_job("q", fresh_id("here"), version=5, generation=2, attempt=3)
EARLIER = {"version": 4, "expires_at": NOW - 1}


@pytest.mark.parametrize(
    ("present", "coming", "verdict"),
    [
        (None, HERE, Verdict.WRITTEN),
        (HERE, HERE, Verdict.PRESENT),
        (HERE, replace(HERE, message="another story"), Verdict.KEPT),
        (HERE, replace(HERE, version=6), Verdict.WRITTEN),
        (HERE, replace(HERE, version=4), Verdict.KEPT),
        (HERE, _ended(HERE, version=4), Verdict.WRITTEN),
        (replace(HERE, state=State.RUNNING), _ended(HERE, version=4), Verdict.WRITTEN),
        (HERE, _ended(HERE, version=4, generation=1), Verdict.KEPT),
        (_ended(HERE, reason=Reason.WORKER_LOST), _ended(HERE, version=5), Verdict.WRITTEN),
        (_ended(HERE, reason=Reason.DELETED), _ended(HERE, version=4), Verdict.KEPT),
        (_ended(HERE, reason=Reason.CANCELLED), _ended(HERE, version=4), Verdict.KEPT),
        (_ended(HERE), replace(HERE, version=9), Verdict.KEPT),
        (_ended(HERE), _ended(HERE, version=9, reason=Reason.DELETED), Verdict.KEPT),
        (_ended(HERE), _ended(HERE, version=9, exit_code=1), Verdict.WRITTEN),
        (_ended(HERE), _ended(HERE, version=4, exit_code=1), Verdict.KEPT),
        (_ended(HERE, expires_at=NOW - 1), replace(HERE, version=9), Verdict.WRITTEN),
        (HERE, _ended(HERE, **EARLIER), Verdict.KEPT),
    ],
)
def test_which_of_two_records_stands(present: Job | None, coming: Job, verdict: Verdict) -> None:
    assert decide(present, coming, NOW)[0] is verdict


@given(jobs(), jobs(), st.floats(0, 4e9))
def test_no_import_lowers_a_version_or_an_attempt_or_loses_a_result(present: Job, coming: Job, now: float) -> None:
    coming = replace(coming, queue=present.queue, job_id=present.job_id)
    verdict, job = decide(present, coming, now)
    if verdict is not Verdict.WRITTEN:
        assert job == present
        return
    assert job.version > present.version
    assert (job.attempt >= present.attempt, job.generation >= present.generation) == (True, True)
    if present.has_result and not present.is_expired(now):
        assert job.has_result
        assert not job.is_expired(now)
    again, same = decide(job, coming, now)
    assert (again is Verdict.WRITTEN) is False
    assert same == job


async def test_a_record_that_somebody_changes_meanwhile_is_decided_again() -> None:
    class Contended(MemoryJobStore):
        raced = False

        async def save(self, job: Job, *, expected: int, documents: Any = None) -> None:
            if not self.raced:
                self.raced = True
                await super().save(_ended(job, version=40, message="theirs"), expected=expected)
            await super().save(job, expected=expected, documents=documents)

    of, into = in_memory(), Stores(jobs=Contended(), blobs=MemoryBlobStore())
    job = make_job("q")
    await fill(of, job, {"definition": {"a": "x" * 20_000}}, {"run": [line("1")]})
    done = await bring(into, (await take_out(of))[0])
    found = await into.jobs.load("q", job.job_id)
    assert (done.kept, found and found.message) == (1, "theirs")
    assert into.blobs._blobs == {}, "what was put for it has gone"  # type: ignore[attr-defined]
    assert (await into.jobs.read_log("q", job.job_id, half="run")).total == 0


# --- running jobs ----------------------------------------------------------------------------------------------------


async def test_a_running_job_goes_on_with_its_worker_in_the_other_store() -> None:
    async with core() as here, core() as there:
        of = Stores(jobs=here.services.jobs, blobs=here.services.blobs)  # type: ignore[arg-type]
        into = Stores(jobs=there.services.jobs, blobs=there.services.blobs)  # type: ignore[arg-type]
        job = await here.submit()
        claimed = await ops.announce(here.services, job.queue, job.job_id, "w1")
        assert claimed is not None
        await bring(into, (await take_out(of))[0])
        moved = await there.load(job)
        assert moved is not None
        assert (moved.state, moved.attempt, moved.lease_until) == (State.RUNNING, 1, NOW + 30.0)
        done = await ops.report(there.services, job.queue, job.job_id, "w1", 1, finished("w1"))
        assert done.after.has_result


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_a_running_job_whose_worker_does_not_come_is_queued_again_whatever_it_has_lost(lost: int) -> None:
    of = in_memory()
    history = tuple(Attempt(number=n + 1, worker="w", started_at=1.0, ended_at=2.0, end="lost") for n in range(lost))
    job = make_job("q", state=State.RUNNING, attempt=lost + 1, worker="w", lost=lost, lease_until=NOW - 1e6)
    await fill(of, replace(job, history=history), {"definition": definition()}, {})
    async with core() as there:
        into = Stores(jobs=there.services.jobs, blobs=there.services.blobs)  # type: ignore[arg-type]
        await bring(into, (await take_out(of))[0])
        there.clock.now = NOW + 29.0
        await there.sweep()
        assert (await there.load(job) or job).state is State.RUNNING
        there.clock.tick(2.0)
        await there.sweep()
        moved = await there.load(job)
        assert moved is not None
        assert (moved.state, moved.attempt) == (State.QUEUED, lost + 1)


# --- what goes wrong -------------------------------------------------------------------------------------------------


async def _archive(count: int = 10) -> tuple[Stores, bytes, list[str]]:
    of = in_memory()
    keys = [await of.put(bytes([n]) * 3_000) for n in range(3)]
    for n in range(count):
        wants = {"image": "a", "inputs": {"a": {"type": "key", "value": keys[n % 3]}}, "x": "x" * (n % 2 * 20_000)}
        await fill(of, make_job("q", fresh_id(n), attempt=1), {"definition": wants}, {"run": [line(str(n))] * n})
    return of, (await take_out(of))[0], keys


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 30), st.booleans())
async def test_a_cut_or_damaged_archive_leaves_whole_jobs_and_the_whole_one_the_rest(at: int, is_cut: bool) -> None:
    of, data, keys = await _archive()
    into, at = in_memory(), at % len(data)
    bad = data[:at] if is_cut else data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    with pytest.raises(BadArchive):
        await bring(into, bad)
    whole = await everything(of, keys)
    for place, seen in (await everything(into)).items():
        if place != "counts":
            assert seen[:2] == whole[place][:2]
            for ref in seen[1]["definition"]["inputs"].values():
                assert await into.blobs.stat(ref["value"]) is not None, "a job without its file"
    await bring(into, data)
    assert await everything(into, keys) == whole


async def test_an_import_that_is_ended_anywhere_goes_on_when_it_is_started_again(tmp_path: Path) -> None:
    of, data, keys = await _archive(30)
    for rounds in range(1, 100):
        async with stores("sqlite", tmp_path) as into:
            task = asyncio.create_task(bring(into, data))
            for _ in range(rounds * 4):
                await asyncio.sleep(0)
            task.cancel()
            (ended,) = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(ended, asyncio.CancelledError):
            break
    async with stores("sqlite", tmp_path) as into:
        await bring(into, data)
        assert await everything(into, keys) == await everything(of, keys)


async def test_a_full_disk_is_told_as_such() -> None:
    class Full(MemoryJobStore):
        async def save(self, job: Job, *, expected: int, documents: Any = None) -> None:
            raise StorageFull("full")

    _, data, _ = await _archive()
    with pytest.raises(StorageFull):
        await bring(Stores(jobs=Full(), blobs=MemoryBlobStore()), data)


async def test_a_record_that_always_changes_is_given_up() -> None:
    class Wild(MemoryJobStore):
        async def save(self, job: Job, *, expected: int, documents: Any = None) -> None:
            raise Conflict("again")

    _, data, _ = await _archive()
    with pytest.raises(Conflict):
        await bring(Stores(jobs=Wild(), blobs=MemoryBlobStore()), data)
