"""Contexts: the Dockerfile in them, the one that replaces it, and archives that would unpack inside the engine."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import threading
from pathlib import Path

import pytest

from asman.errors import BadDefinition, LimitExceeded
from asman_worker.build_context import check_archives, read_context, stream

MIB = 1 << 20


def packed(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return path


def inner(files: dict[str, int]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, size in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = size
            tar.addfile(entry, io.BytesIO(bytes(size)))
    return content.getvalue()


def sparse(claimed: int) -> bytes:
    """A tar of a few blocks with one sparse file (GNU 1.0) that unpacks to ``claimed`` zeros."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo("GNUSparseFile.0/hole")
        entry.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "hole",
            "GNU.sparse.realsize": str(claimed),
        }
        entry.size = 512
        tar.addfile(entry, io.BytesIO(b"0\n".ljust(512, b"\0")))
    return content.getvalue()


async def test_the_dockerfile_is_read_and_replaced(tmp_path: Path) -> None:
    tar = packed(tmp_path / "c.tar", {"sub/Dockerfile": b"FROM a\n", "data": b"x" * 100_000})
    read = read_context(tar, "sub/Dockerfile")
    assert read.text == "FROM a\n"
    data = b"".join([piece async for piece in stream(tar, read.end, "sub/Dockerfile", "FROM b é\n")])
    with tarfile.open(fileobj=io.BytesIO(data)) as result:
        assert result.getnames() == ["sub/Dockerfile", "data", "sub/Dockerfile"]
        last = result.extractfile(result.getmembers()[-1])
        assert last is not None
        assert last.read().decode() == "FROM b é\n"


def test_a_link_inside_the_context_is_followed(tmp_path: Path) -> None:
    tar = packed(tmp_path / "c.tar", {"real": b"FROM a\n"}, {"Dockerfile": "real", "away": "/etc/passwd"})
    assert read_context(tar, "Dockerfile").text == "FROM a\n"
    with pytest.raises(BadDefinition, match="away"):
        read_context(tar, "away")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff", "UTF-8"), (b"#" * (MIB + 1), "larger"), (None, "no file")],
    ids=["bytes", "size", "no"],
)
def test_a_dockerfile_that_is_none_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    tar = packed(tmp_path / "c.tar", {} if content is None else {"Dockerfile": content})
    with pytest.raises(BadDefinition, match=words):
        read_context(tar, "Dockerfile")


def check(tmp_path: Path, *contents: bytes, times: int = 1, limit: int = MIB) -> None:
    tar = packed(tmp_path / "c.tar", {f"f{number}": content for number, content in enumerate(contents)})
    check_archives(tar, times=times, limit_bytes=limit, stop=threading.Event())


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_archives_within_the_limit_pass_and_others_do_not(tmp_path: Path, pack: type[bytes]) -> None:
    content = pack(inner({"a": 400_000, "b": 400_000}))
    check(tmp_path, content)
    with pytest.raises(LimitExceeded, match="f1"):
        check(tmp_path, content, content)
    with pytest.raises(LimitExceeded, match="f0"):
        check(tmp_path, content, times=2)


def test_several_streams_in_one_file_all_count(tmp_path: Path) -> None:
    one = gzip.compress(inner({"a": 600_000})[:600_576])
    with pytest.raises(LimitExceeded):
        check(tmp_path, one + gzip.compress(inner({"b": 600_000})))


def test_a_hole_counts_as_what_it_is_written_out_to(tmp_path: Path) -> None:
    check(tmp_path, sparse(1000))
    with pytest.raises(LimitExceeded):
        check(tmp_path, sparse(1 << 40))
    with pytest.raises(LimitExceeded):
        check(tmp_path, gzip.compress(sparse(1 << 40)))


def test_files_that_are_no_archives_are_only_copied(tmp_path: Path) -> None:
    check(tmp_path, b"", b"text", b"\0" * 2048, gzip.compress(b"a table"), bytes(5 * MIB))


@pytest.mark.parametrize(
    "content", [b"\x28\xb5\x2f\xfd....", b"\x50\x2a\x4d\x18....", gzip.compress(inner({"a": 9000}))[:60]]
)
def test_what_cannot_be_counted_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadDefinition, match="f0"):
        check(tmp_path, content)


def test_counting_can_be_stopped(tmp_path: Path) -> None:
    tar = packed(tmp_path / "c.tar", {"f": gzip.compress(inner({"a": 1000}))})
    stop = threading.Event()
    stop.set()
    with pytest.raises(BadDefinition, match="stopped"):
        check_archives(tar, times=1, limit_bytes=MIB, stop=stop)
