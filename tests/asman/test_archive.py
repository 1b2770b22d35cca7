"""The form of an archive: what is written is read, and what is not as it should be is told with its place."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman.archive import BLOB, JOB, LOG, ArchiveReader, ArchiveWriter, join_job, split_job
from asman.errors import BadArchive, Unavailable
from asman.job import Job, State
from asman.testing import fresh_id, make_job, rich_job
from asman.testing.strategies import jobs
from moved import reader_of

KEY = hashlib.sha256(b"blob").hexdigest()
JOB_ID = fresh_id("a job")


async def written(*items: tuple[str, dict[str, Any], bytes], end: bool = True) -> bytes:
    data = bytearray()

    async def write(piece: bytes) -> None:
        data.extend(piece)

    writer = ArchiveWriter(write=write)
    await writer.start(at=1.0, by="the tests", queues=["q"])
    for kind, members, body in items:
        await writer.put(kind, members, body)
    if end:
        await writer.end()
    assert writer.position == len(data)
    return bytes(data)


async def read_all(reader: ArchiveReader) -> list[tuple[str, dict[str, Any], bytes]]:
    await reader.start()
    return [(item.kind, dict(item.members), await item.read()) async for item in reader.items()]


def blob(data: bytes, **members: Any) -> tuple[str, dict[str, Any], bytes]:
    return BLOB, {"key": KEY, "expires_at": 4e9, **members}, data


def log(data: bytes, **members: Any) -> tuple[str, dict[str, Any], bytes]:
    given = {"queue": "q", "job_id": JOB_ID, "attempt": 1, "half": "run", "start": 0, "lines": 1, "total": 1}
    return LOG, {**given, **members}, data


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 200))
async def test_what_is_written_is_read_whatever_the_pieces(bodies: list[bytes], piece_bytes: int) -> None:
    items = [blob(body) for body in bodies]
    data = await written(*items)
    reader = reader_of(data, piece_bytes)
    assert await read_all(reader) == items
    assert (reader.is_whole, reader.position, reader.counts.blobs) == (True, len(data), len(items))


async def test_a_body_that_nobody_reads_is_passed_over() -> None:
    reader = reader_of(await written(blob(b"x" * 3_000_000), log(b"line")), 1000)
    await reader.start()
    assert [item.kind async for item in reader.items()] == [BLOB, LOG]


@given(st.integers(0, 10_000), st.integers(1, 500))
async def test_a_cut_stream_is_known_as_such_and_shows_its_last_whole_item(at: int, piece_bytes: int) -> None:
    items = [blob(b"a" * 100), log(b"b" * 100), blob(b"")]
    data = await written(*items)
    cut = data[: at % len(data)]
    reader = reader_of(cut, piece_bytes)
    with pytest.raises(BadArchive) as caught:
        await read_all(reader)
    assert (reader.is_cut, reader.is_whole) == (True, False)
    if cut:
        assert f"ends at byte {len(cut)}" in str(caught.value)
    reader = reader_of(cut[: reader.position], piece_bytes)
    with pytest.raises(BadArchive):
        await read_all(reader)
    assert reader.position == len(cut[: reader.position])


@given(st.integers(0, 10_000), st.integers(1, 255))
async def test_no_changed_byte_goes_unnoticed(at: int, change: int) -> None:
    data = bytearray(await written(blob(b"a" * 50), log(b"b" * 50)))
    data[at % len(data)] ^= change
    with pytest.raises(BadArchive):
        await read_all(reader_of(bytes(data)))


async def test_an_item_that_is_left_out_is_missed_at_the_end() -> None:
    whole, first = await written(blob(b"a"), blob(b"b")), await written(blob(b"a"), end=False)
    second = await written(blob(b"a"), blob(b"b"), end=False)
    start = await written(end=False)
    shortened = start + whole[len(first) :]
    assert second.startswith(first)
    with pytest.raises(BadArchive, match=r"counts 0 jobs, 0 logs and 2 blobs .* there were 0 jobs, 0 logs and 1 blobs"):
        await read_all(reader_of(shortened))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 not ours", "no export of asman"),
        (gzip.compress(b'{"item":"asman-export"}'), "compressed"),
        (b'{"item":"asman-export",' + b" " * 70_000 + b"}\n", "longer than 65536 bytes"),
        (b'{"item":"asman-export",' + b"x" * 70_000, "longer than 65536 bytes"),
        (b'{"item":"asman-export",nonsense\n', "cannot be read"),
        (b'{"item":"asman-export","size":0,"format":2,"new":1}\n', 'format "2"; this release reads format 1'),
        (b'{"item":"asman-export","size":9,"format":1}\n', "at most 0 bytes"),
        (b'{"item":"asman-export","size":0,"format":1}\n', 'member "at" is missing'),
    ],
)
async def test_what_is_no_export_of_this_format_is_refused_with_the_reason(data: bytes, told: str) -> None:
    with pytest.raises(BadArchive, match=told) as caught:
        await reader_of(data).start()
    assert caught.value.code == "bad_archive"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (blob(b"x", key="../../etc/passwd"), "blob key"),
        (blob(b"x", key="_definition-1"), "blob key"),
        (blob(b"x", key=7), "key is"),
        (blob(b"x", expires_at="soon"), "expires_at is"),
        (blob(b"x", more=1), 'member "more"'),
        (log(b"x", queue="a/b"), "queue name"),
        (log(b"x", queue=".."), "queue name"),
        (log(b"x", job_id="../x"), "job id"),
        (log(b"x", half="middle"), 'half is "middle"'),
        (log(b"x", total=-1), "total is"),
        (log(b"x", start=True), "start is"),
        (("parcel", {}, b"x"), 'is "parcel"'),
        (("asman-export", {"format": 1, "at": 1.0, "by": "", "queues": []}, b""), "has no place here"),
        (
            (JOB, {"queue": "q", "job_id": JOB_ID, "version": 1, "record": 1, "documents": {"../a": 1}}, b""),
            "documents",
        ),
    ],
)
async def test_a_head_that_is_not_as_it_should_be_is_told_with_its_place(item: Any, told: str) -> None:
    start = len(await written(end=False))
    with pytest.raises(BadArchive, match=told) as caught:
        await read_all(reader_of(await written(item, end=False)))
    assert f"byte {start} of the export" in str(caught.value)


async def test_a_size_beyond_all_measure_is_refused_before_anything_is_read() -> None:
    head = {"item": "log", "size": 1 << 40, **log(b"")[1]}
    data = await written(end=False) + json.dumps(head).encode() + b"\n"
    with pytest.raises(BadArchive, match="at most 16777216 bytes"):
        await read_all(reader_of(data))


async def test_bytes_behind_the_end_mark_are_refused() -> None:
    data = await written(blob(b"x"))
    for more in (b"\n", data):
        with pytest.raises(BadArchive, match="behind the end mark"):
            await read_all(reader_of(data + more))


async def test_a_body_in_pieces_must_have_the_size_that_was_said() -> None:
    async def pieces(*given: bytes) -> AsyncIterator[bytes]:
        for piece in given:
            yield piece

    async def write(piece: bytes) -> None:
        return None

    writer = ArchiveWriter(write=write)
    await writer.stream(BLOB, {"key": KEY, "expires_at": 1.0}, 4, pieces(b"ab", b"cd"))
    for given_ in ((b"ab",), (b"ab", b"cde")):
        with pytest.raises(Unavailable, match="should have 4"):
            await writer.stream(BLOB, {"key": KEY, "expires_at": 1.0}, 4, pieces(*given_))


# --- a job's item ----------------------------------------------------------------------------------------------------


def _as_accepted(job: Job) -> Job:
    """Namespaces are checked at every submit."""
    return replace(job, namespaces=tuple((f"n-{n}", at) for n, (_, at) in enumerate(job.namespaces)))


KEPT = jobs().filter(lambda job: job.state is not State.ABSENT and job.version > 0).map(_as_accepted)


@given(KEPT, st.binary(max_size=50))
def test_a_job_is_split_as_it_was_joined(job: Job, document: bytes) -> None:
    documents = {"definition": document, "result": b""}
    members, parts = join_job(job, documents)
    assert split_job(members, b"".join(parts)) == (job, documents)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("queued_at", "then"),
        ("version", 1.5),
        ("exit_code", 1 << 70),
        ("worker", None),
        ("namespaces", [["a", "b"]]),
        ("namespaces", [["a"]]),
        ("namespaces", [["\ud800", 1.0]]),
        ("namespaces", [["*", 1.0]]),
        ("callbacks", [{"event": "finished"}]),
        ("callbacks", [{"event": "finished", "namespace": "a", "url": 7}]),
        ("requirements", {"cores": "many"}),
        ("state", "Absent"),
        ("state", "Sleeping"),
        ("version", 0),
        ("expires_at", 1e999),
        ("advertised", []),
        ("history", 7),
    ],
)
def test_a_record_that_no_server_could_use_is_refused(name: str, value: object) -> None:
    job = rich_job("q", JOB_ID)
    members, parts = join_job(job, {})
    record = json.dumps({**json.loads(parts[0]), name: value}).encode()
    with pytest.raises(BadArchive, match=JOB_ID[:20]):
        split_job({**members, "record": len(record)}, record)


def test_a_record_must_be_the_one_that_its_head_names() -> None:
    job = make_job("q", JOB_ID)
    members, parts = join_job(job, {"definition": b"d"})
    for other in (replace(job, queue="r"), replace(job, version=2), replace(job, job_id=fresh_id())):
        with pytest.raises(BadArchive, match="another job or version"):
            split_job(join_job(other, {})[0] | {"documents": members["documents"]}, b"".join(parts))
    with pytest.raises(BadArchive, match="sizes"):
        split_job(members, b"".join(parts) + b"x")
