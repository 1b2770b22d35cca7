"""Archives as strangers make them: of every kind, with every trick, and none of it takes more than it may."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import IO

import pytest

from asman.errors import BadDefinition, LimitExceeded
from asman_worker.archives import Archive, Caps, Entry, Stopped, is_archive, open_archive, strip_wrapper

CAPS = Caps(max_bytes=64 << 20, max_files=1000)


def tar_of(*members: tarfile.TarInfo | tuple[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                header = tarfile.TarInfo(member[0])
                header.size = len(member[1])
                tar.addfile(header, io.BytesIO(member[1]))
    return made.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", packing) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return made.getvalue()


def opened(data: bytes, caps: Caps = CAPS) -> Archive:
    return open_archive(io.BytesIO(data), caps, io.BytesIO)


def contents(archive: Archive) -> dict[str, bytes]:
    return {name: archive.read(entry, 1 << 20) for name, entry in archive.entries.items() if entry.kind == "file"}


FILES = (("a.txt", b"a" * 5000), ("d/b.txt", b"b"), ("empty", b""))


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, bz2.compress, lzma.compress], ids=["plain", "gzip", "bzip2", "xz"]
)
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_archives_of_all_kinds_are_read(pack: Callable[[bytes], bytes], format: int) -> None:
    data = pack(tar_of(*FILES, format=format))
    assert is_archive(io.BytesIO(data))
    assert contents(opened(data)) == dict(FILES)


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_archives_are_read(packing: int) -> None:
    data = zip_of(*FILES, packing=packing)
    assert is_archive(io.BytesIO(data))
    assert contents(opened(data)) == dict(FILES)


def test_archives_in_several_pieces_are_read_to_the_end() -> None:
    data = tar_of(*FILES)
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        assert contents(opened(pack(data[:3000]) + pack(data[3000:]))) == dict(FILES)


def test_long_names_and_names_beyond_ascii_are_kept() -> None:
    name = "/".join(["ä" * 100] * 4)
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        assert set(opened(tar_of((name, b"x"), format=format)).entries) == {name}
    assert set(opened(zip_of((name, b"x"))).entries) == {name}


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a/..", "x" * 300, "d/" * 70 + "x"])
def test_names_that_lead_outside_or_nowhere_are_left_out_with_a_line(name: str) -> None:
    for data in (tar_of((name, b"x"), ("ok", b"y")), zip_of((name, b"x"), ("ok", b"y"))):
        archive = opened(data)
        assert set(archive.entries) == {"ok"}
        assert len(archive.notes) == 1
        assert "does not stay inside" in archive.notes[0]


def test_devices_pipes_and_what_is_not_known_are_left_out_with_a_line() -> None:
    kinds = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    archive = opened(tar_of(*(special(f"x{number}", kind) for number, kind in enumerate(kinds)), ("ok", b"")))
    assert set(archive.entries) == {"ok"}
    assert len(archive.notes) == 3
    info = zipfile.ZipInfo("device")
    info.external_attr = 0o020666 << 16
    assert opened(zip_of((info, b""))).entries == {}


def test_hard_links_are_the_file_and_only_one_inside() -> None:
    archive = opened(
        tar_of(
            ("d/a", b"data"),
            special("b", tarfile.LNKTYPE, "d/a"),
            special("c", tarfile.LNKTYPE, "./b"),
            special("shadow", tarfile.LNKTYPE, "/etc/shadow"),
            special("up", tarfile.LNKTYPE, "../x"),
            special("later", tarfile.LNKTYPE, "z"),
            ("z", b""),
        )
    )
    assert contents(archive) == {"d/a": b"data", "b": b"data", "c": b"data", "z": b""}
    assert len(archive.notes) == 3


def test_symbolic_links_are_handed_on_and_nothing_is_below_one() -> None:
    info = zipfile.ZipInfo("etc")
    info.external_attr = 0o120777 << 16
    for data in (
        tar_of(special("etc", tarfile.SYMTYPE, "/etc"), ("etc/passwd", b"mine"), ("ok", b"")),
        zip_of((info, b"/etc"), ("etc/passwd", b"mine"), ("ok", b"")),
    ):
        archive = opened(data)
        assert archive.entries["etc"].kind == "link"
        assert archive.entries["etc"].target == "/etc"
        assert "etc/passwd" not in archive.entries
        assert "not a folder" in archive.notes[0]


def test_the_last_of_a_name_counts() -> None:
    archive = opened(tar_of(("a", b"1"), ("./a", b"2"), special("d", tarfile.SYMTYPE, "/"), ("d", b"f")))
    assert contents(archive) == {"a": b"2", "d": b"f"}


@pytest.mark.parametrize("count", [1000, 1001])
def test_entries_are_counted(count: int) -> None:
    members = [(f"f{number}", b"") for number in range(count)]
    for data in (tar_of(*members), gzip.compress(tar_of(*members)), zip_of(*members)):
        if count == 1000:
            assert len(opened(data).entries) == 1000
        else:
            with pytest.raises(LimitExceeded, match="1000 files"):
                opened(data)


def test_bytes_are_counted_before_they_are_written() -> None:
    caps = Caps(max_bytes=1 << 20, max_files=10)
    for data in (tar_of(("a", bytes(1 << 20)), ("b", b"x")), zip_of(("a", bytes(1 << 20)), ("b", b"x"))):
        with pytest.raises(LimitExceeded, match=r"1\.0 MiB"):
            opened(data, caps)


class _Bounded(io.BytesIO):
    """A file that shows how much was written to it."""

    most = 0

    def write(self, data: object) -> int:
        size = super().write(data)  # type: ignore[arg-type]
        self.most = max(self.most, self.tell())
        return size


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_a_compressed_bomb_is_stopped_early(pack: Callable[[bytes], bytes]) -> None:
    data = pack(tar_of(("zeros", bytes(60 << 20))))
    spool = _Bounded()
    with pytest.raises(LimitExceeded, match="200 times"):
        open_archive(io.BytesIO(data), CAPS, lambda: spool)
    assert spool.most <= 34 << 20
    small = _Bounded()
    with pytest.raises(LimitExceeded, match=r"unpacks to more than"):
        open_archive(io.BytesIO(data), Caps(max_bytes=1 << 20, max_files=10), lambda: small)
    assert small.most <= 4 << 20


def test_a_zip_bomb_is_refused_by_what_it_says_of_itself() -> None:
    with pytest.raises(LimitExceeded, match="200 times"):
        opened(zip_of(*((f"z{number}", bytes(10 << 20)) for number in range(5))))


def test_a_zip_that_lies_about_a_size_gives_no_more_than_it_said() -> None:
    data = zip_of(("a", b"x" * 100_000))
    true = struct.pack("<L", 100_000)
    assert data.count(true) == 2
    archive = opened(data.replace(true, struct.pack("<L", 10)))
    with pytest.raises(BadDefinition, match="damaged"):
        archive.read(archive.entries["a"], 1 << 20)


def test_a_zip_with_a_huge_directory_takes_little_memory() -> None:
    data = zip_of(*((f"f{number}", b"") for number in range(50_000)), packing=zipfile.ZIP_STORED)
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded):
            opened(data)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_headers_larger_than_a_header_are_refused_unread() -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 40 << 20
    data = header.tobuf(tarfile.GNU_FORMAT) + b"a" * (40 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(BadDefinition, match="headers are too large"):
            opened(data)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_headers_in_a_long_chain_are_refused() -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 4
    chain = (header.tobuf(tarfile.GNU_FORMAT) + b"abc\0".ljust(512, b"\0")) * 5000
    with pytest.raises(BadDefinition, match="damaged"):
        opened(chain + tar_of(("a", b"")))


def test_xz_may_not_ask_for_much_memory() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    data = lzma.compress(tar_of(("a", b"")), filters=filters)
    with pytest.raises(BadDefinition, match=r"[Mm]emory"):
        opened(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not an archive"),
        (b"<html>", "not an archive"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 600, "kind zstd"),
        (b"7z\xbc\xaf\x27\x1c", "kind 7z"),
        (gzip.compress(b"text" * 1000), "not a tar"),
        (gzip.compress(b""), "not a tar"),
        (gzip.compress(tar_of(("a", b"a" * 90_000)))[:150], "damaged"),
        (bz2.compress(tar_of(("a", b"a" * 90_000)))[:80], "damaged"),
        (lzma.compress(tar_of(("a", b"a" * 90_000)))[:80], "damaged"),
        (b"\x1f\x8b" + b"\0" * 20, "damaged"),
        (b"PK\x03\x04" + b"x" * 100, "damaged"),
        (zip_of(("a", b"x" * 1000))[:-30], "damaged"),
        (tar_of(("a", b""), ("b", b""))[:512] + b"garbage!" * 64, "broken"),
    ],
)
def test_what_is_no_archive_or_a_broken_one_is_the_job_s_fault(data: bytes, said: str) -> None:
    with pytest.raises(BadDefinition, match=said):
        opened(data)


def test_an_encrypted_zip_is_refused() -> None:
    data = bytearray(zip_of(("a", b"x")))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(BadDefinition, match="encrypted"):
        opened(bytes(data))


def test_the_work_ends_when_it_is_told_to() -> None:
    caps = Caps(max_bytes=1 << 30, max_files=1000)
    caps.stop.set()
    for data in (tar_of(*FILES), gzip.compress(tar_of(*FILES)), zip_of(*FILES)):
        with pytest.raises(Stopped):
            opened(data, caps)


def test_times_and_modes_are_ones_that_any_header_can_hold() -> None:
    header = tarfile.TarInfo("x")
    header.mtime, header.mode = -5, 0o104755
    entry = opened(tar_of(header)).entries["x"]
    assert (entry.mtime_s, entry.mode) == (0, 0o4755)
    info = zipfile.ZipInfo("y", date_time=(2024, 1, 2, 3, 4, 6))
    entry = opened(zip_of((info, b""))).entries["y"]
    assert (entry.mtime_s, entry.mode) == (1704164646, 0o600)


def names(*given: str) -> dict[str, Entry]:
    return {name.rstrip("/"): Entry(name=name, kind="folder" if name.endswith("/") else "file") for name in given}


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (("r/", "r/a", "r/b/c"), {"a", "b/c"}),
        (("r/a",), {"a"}),
        (("r/a", "b"), {"r/a", "b"}),
        (("r/", "s/", "r/a"), {"r", "s", "r/a"}),
        (("Dockerfile",), {"Dockerfile"}),
        (("r/",), set()),
        (("r/s/a",), {"s/a"}),
        (("r/a", "__MACOSX/", "__MACOSX/r/._a"), {"a"}),
        ((), set()),
    ],
)
def test_a_wrapper_goes_only_if_it_is_all_there_is(given: tuple[str, ...], left: set[str]) -> None:
    stripped = strip_wrapper(names(*given))
    assert set(stripped) == left
    assert all(entry.name.rstrip("/") in stripped for name, entry in stripped.items())


def test_a_file_that_is_read_whole_has_a_limit() -> None:
    archive = opened(tar_of(("a", b"x" * 100)))
    with pytest.raises(LimitExceeded, match="100 B"):
        archive.read(archive.entries["a"], 99)


def test_the_spool_is_what_the_caller_opened() -> None:
    spools: list[IO[bytes]] = []

    def spool() -> IO[bytes]:
        spools.append(io.BytesIO())
        return spools[-1]

    open_archive(io.BytesIO(gzip.compress(tar_of(*FILES))), CAPS, spool)
    open_archive(io.BytesIO(zip_of(*FILES)), CAPS, spool)
    assert len(spools) == 1
