"""Contexts as the engine gets them: the right folder, the right Dockerfile, and nothing unknown in a header."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman.errors import BadDefinition, LimitExceeded
from asman_worker.archives import Archive, Caps, Stopped, open_archive
from asman_worker.packing import OUTSIDE, Layout, Packed, pack

CAPS = Caps(max_bytes=1 << 20, max_files=100)


def archive_of(files: dict[str, bytes | str]) -> Archive:
    """Bytes are files, text is the target of a link, names with a slash at the end are folders."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            header = tarfile.TarInfo(name.rstrip("/"))
            header.uid, header.uname, header.mtime, header.mode = 1000, "me", 1_700_000_000, 0o640
            header.pax_headers = {"SCHILY.xattr.security.capability": "x"}
            if name.endswith("/"):
                header.type = tarfile.DIRTYPE
            if isinstance(content, str):
                header.type, header.linkname = tarfile.SYMTYPE, content
                tar.addfile(header)
            else:
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    return open_archive(made, CAPS, io.BytesIO)


def packed(
    files: dict[str, bytes | str] | None, layout: Layout, caps: Caps = CAPS
) -> tuple[Packed, dict[str, bytes | str | None]]:
    target = io.BytesIO()
    done = pack(archive_of(files) if files is not None else None, layout, target, caps)
    target.seek(0)
    found: dict[str, bytes | str | None] = {}
    with tarfile.open(fileobj=target, mode="r:") as tar:
        for member in tar.getmembers():
            assert (member.uid, member.gid, member.uname, member.pax_headers) == (0, 0, "", {})
            content = tar.extractfile(member) if member.isreg() else None
            found[member.name] = content.read() if content else member.linkname if member.issym() else None
    return done, found


def test_a_dockerfile_alone_is_a_context() -> None:
    done, found = packed(None, Layout(dockerfile="FROM a\n"))
    assert (done.dockerfile, found) == ("Dockerfile", {"Dockerfile": b"FROM a\n"})
    done, found = packed(None, Layout(dockerfile="FROM a\n", filename="x/y"))
    assert (done.dockerfile, found) == ("x/y", {"x": None, "x/y": b"FROM a\n"})


def test_everything_of_the_context_is_in_it() -> None:
    files = {"Dockerfile": b"FROM a", "d/": b"", "d/f": b"f", "link": "d/f", "abs": "/etc/passwd"}
    done, found = packed(files, Layout())
    assert done.dockerfile == "Dockerfile"
    assert found == {"Dockerfile": b"FROM a", "d": None, "d/f": b"f", "link": "d/f", "abs": "/etc/passwd"}


@pytest.mark.parametrize(
    ("files", "layout", "dockerfile", "content"),
    [
        (["Dockerfile", "dockerfile"], Layout(), "Dockerfile", b"Dockerfile"),
        (["dockerfile"], Layout(), "dockerfile", b"dockerfile"),
        (["Dockerfile", "x.df"], Layout(filename="x.df"), "x.df", b"x.df"),
        (["s/Dockerfile", "Dockerfile"], Layout(folder="s"), "Dockerfile", b"s/Dockerfile"),
        (["s/Dockerfile", "Dockerfile"], Layout(folder="s", filename="Dockerfile"), OUTSIDE, b"Dockerfile"),
        (["s/Dockerfile"], Layout(folder="s", filename="Dockerfile"), "Dockerfile", b"s/Dockerfile"),
        (["s/x.df", "y"], Layout(folder="s", filename="s/x.df"), "x.df", b"s/x.df"),
        (["s/y", "o/x.df"], Layout(folder="s", filename="o/x.df"), OUTSIDE, b"o/x.df"),
        (["r/s/y", "r/x.df", "x.df"], Layout(root="r", folder="s", filename="x.df"), OUTSIDE, b"r/x.df"),
        (["r/Dockerfile", "Dockerfile"], Layout(root="r"), "Dockerfile", b"r/Dockerfile"),
        (["Dockerfile"], Layout(dockerfile="mine"), "Dockerfile", b"mine"),
        (["s/y"], Layout(folder="s", dockerfile="mine", filename="z"), "z", b"mine"),
        (["z/y", "z/"], Layout(dockerfile="mine", filename="z"), "z", b"mine"),
    ],
)
def test_the_dockerfile_is_found_where_it_is_meant(
    files: list[str], layout: Layout, dockerfile: str, content: bytes
) -> None:
    done, found = packed({name: name.encode() if name[-1] != "/" else b"" for name in files}, layout)
    assert done.dockerfile == dockerfile
    assert found[dockerfile] == content


def test_a_given_dockerfile_takes_the_place_of_a_link() -> None:
    _, found = packed({"Dockerfile": "/etc/passwd", "x": b""}, Layout(dockerfile="FROM a"))
    assert found["Dockerfile"] == b"FROM a"


@pytest.mark.parametrize(
    ("files", "layout", "said"),
    [
        ({"a": b""}, Layout(), "has no .Dockerfile"),
        ({"a": b""}, Layout(filename="x"), "has no .x"),
        ({"Dockerfile/": b"", "a": b""}, Layout(), "has no .Dockerfile"),
        ({"Dockerfile": b""}, Layout(folder="s"), "buildContext: .s. is not in the sources"),
        ({"s": b"", "Dockerfile": b""}, Layout(folder="s"), "is a file in the sources"),
        ({"s": "/etc", "Dockerfile": b""}, Layout(folder="s"), "is a link in the sources"),
        ({"Dockerfile": b""}, Layout(root="s"), "behind the ref"),
        ({"s": "/etc"}, Layout(dockerfile="x", filename="s/D"), "is no folder"),
        ({"s/a": b"", "D": "/etc/passwd"}, Layout(folder="s", filename="D"), "is a link, and lies outside"),
        ({"Dockerfile": b"", ".dockerignore": b"a*" * 20}, Layout(), "dockerignore, line 1"),
    ],
)
def test_what_is_not_there_is_said(files: dict[str, bytes | str], layout: Layout, said: str) -> None:
    with pytest.raises(BadDefinition, match=said):
        packed(files, layout)


def test_what_is_there_instead_is_in_the_hint() -> None:
    with pytest.raises(BadDefinition) as refused:
        packed({"docker/Dockerfile": b"", "src/x": b""}, Layout())
    assert '"docker", "src"' in refused.value.hint


def test_ignored_files_stay_away_but_not_the_dockerfile() -> None:
    files: dict[str, bytes | str] = {
        "Dockerfile": b"FROM a",
        ".dockerignore": b"*\n!src\nsrc/secret",
        "src/a": b"a",
        "src/secret": b"s",
        "other": b"o",
    }
    done, found = packed(files, Layout())
    assert set(found) == {"Dockerfile", ".dockerignore", "src", "src/a"}
    assert "leaves out 2 of 5" in done.notes[0]


def test_a_dockerfile_s_own_ignore_file_goes_first() -> None:
    files: dict[str, bytes | str] = {"x.df": b"", "x.df.dockerignore": b"a", ".dockerignore": b"b", "a": b"", "b": b""}
    _, found = packed(files, Layout(filename="x.df"))
    assert "b" in found
    assert "a" not in found


def test_a_link_is_no_ignore_file() -> None:
    _, found = packed({"Dockerfile": b"", ".dockerignore": "/etc/passwd", "a": b""}, Layout())
    assert "a" in found


def test_the_same_context_makes_the_same_bytes() -> None:
    files: dict[str, bytes | str] = {"Dockerfile": b"F", "b": b"b", "a/c": b"c", "a/": b""}
    made = []
    for names in (list(files), list(reversed(files))):
        target = io.BytesIO()
        pack(archive_of({name: files[name] for name in names}), Layout(), target, CAPS)
        made.append(target.getvalue())
    assert made[0] == made[1]


def test_limits_hold_for_what_is_written_too() -> None:
    files: dict[str, bytes | str] = {"Dockerfile": b"", "a": b"x" * 1000}
    with pytest.raises(LimitExceeded):
        packed(files, Layout(), Caps(max_bytes=999, max_files=100))
    with pytest.raises(LimitExceeded):
        packed(None, Layout(dockerfile="x", filename="a/b/c"), Caps(max_bytes=999, max_files=2))


def test_packing_ends_when_it_is_told_to() -> None:
    caps = Caps(max_bytes=1 << 20, max_files=100)
    caps.stop.set()
    with pytest.raises(Stopped):
        packed({"Dockerfile": b""}, Layout(), caps)


def test_an_archive_that_ends_early_is_the_job_s_fault() -> None:
    made = io.BytesIO()
    header = tarfile.TarInfo("Dockerfile")
    header.size = 5000
    made.write(header.tobuf() + b"x" * 100)
    with pytest.raises(BadDefinition):
        pack(open_archive(made, CAPS, io.BytesIO), Layout(), io.BytesIO(), CAPS)


_PART = st.sampled_from(["a", "b", "é", ".x"])
_NAME = st.lists(_PART, min_size=1, max_size=3).map("/".join)


@given(st.dictionaries(_NAME, st.binary(max_size=3) | st.sampled_from(["/etc", "../..", "a"]), min_size=1, max_size=5))
def test_no_entry_lies_below_another_that_is_not_a_folder(files: dict[str, bytes | str]) -> None:
    _, found = packed(files, Layout(dockerfile="FROM a"))
    for name in found:
        for other, content in found.items():
            assert not (name.startswith(f"{other}/") and content is not None)
