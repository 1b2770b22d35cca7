"""What ``.dockerignore`` leaves out; the table follows Docker's documentation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman.errors import BadDefinition
from asman_worker.dockerignore import read_ignored


@pytest.mark.parametrize(
    ("text", "out", "kept"),
    [
        ("", [], ["a"]),
        ("# a\n#b\n\n", [], ["a", "b", "#b"]),
        ("a", ["a", "a/b", "a/b/c"], ["b/a", "ab"]),
        ("/a\n./b/\n", ["a", "b", "b/x"], ["c"]),
        ("  a  ", ["a"], []),
        ("*/temp*", ["x/temp", "x/temporary.txt", "x/tempo/y"], ["temp", "x/y/temp"]),
        ("temp?", ["tempa", "tempb/x"], ["temp", "tempab"]),
        ("*.md\n!README.md", ["a.md"], ["README.md", "d/a.md"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["a.md", "README-secret.md"], ["README.md", "README-x.md"]),
        ("*.md\nREADME-secret.md\n!README*.md", ["a.md"], ["README-secret.md"]),
        ("**/*.go", ["a.go", "x/a.go", "x/y/a.go"], ["a.gox"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "b"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["a", "a/b", "z"]),
        ("**", ["a", "a/b"], []),
        ("**\n!keep/me", ["a", "keep", "keep/other"], ["keep/me", "keep/me/too"]),
        ("[a-c]x", ["ax", "cx"], ["dx"]),
        ("[^a]x", ["bx"], ["ax"]),
        ("a\\*b", ["a*b"], ["axb"]),
        ("a/../b", ["b"], ["a"]),
        ("../a", ["a"], []),
        (".", [], ["a"]),
        ("A", [], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_patterns_leave_out_what_docker_would(text: str, out: list[str], kept: list[str]) -> None:
    ignored = read_ignored(text)
    assert [name for name in out if name not in ignored] == []
    assert [name for name in kept if name in ignored] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [("a\n" * 501, "501 patterns"), ("x" * 70_000, "70000 characters"), ("a*" * 17, "line 1"), ("a/" * 65, "line 1")],
)
def test_more_than_a_file_has_reason_for_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadDefinition, match=said):
        read_ignored(text)


def test_many_stars_against_a_long_name_end() -> None:
    ignored = read_ignored("\n".join(["**/" * 7 + "*a*b*z"] * 500))
    assert "/".join(["ab" * 60] * 60) not in ignored


@given(
    st.lists(st.sampled_from([*"ab/*?![]\\#-.", "**", "\n"]), max_size=20).map("".join),
    st.from_regex(r"[ab]{1,3}(/[ab]{1,3}){0,4}\Z"),
)
def test_any_file_is_read_or_refused(text: str, name: str) -> None:
    try:
        ignored = read_ignored(text)
    except BadDefinition:
        return
    if name.rpartition("/")[0] in ignored and "!" not in text:
        assert name in ignored
