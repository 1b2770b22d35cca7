"""Which commit a text means, given a repository's refs."""

from __future__ import annotations

import pytest

from asman_worker.refs import RefLines, choose_ref, is_short_commit

A, B, C, D = ("a" * 40, "b" * 40, "c" * 40, "d" * 40)
REFS = {
    "HEAD": A,
    "refs/heads/main": A,
    "refs/heads/x": B,
    "refs/heads/x/y": C,
    "refs/tags/x": D,
    "refs/tags/v1": B,
    "refs/tags/v1^{}": C,
    "refs/pull/7/head": D,
}


@pytest.mark.parametrize(
    ("wanted", "has_folder", "found"),
    [
        ("", False, (A, "HEAD", "")),
        ("", True, (A, "HEAD", "")),
        ("main", False, (A, "refs/heads/main", "")),
        ("x", False, (B, "refs/heads/x", "")),
        ("tags/x", False, (D, "refs/tags/x", "")),
        ("refs/tags/x", False, (D, "refs/tags/x", "")),
        ("v1", False, (C, "refs/tags/v1", "")),
        ("pull/7/head", False, (D, "refs/pull/7/head", "")),
        ("x/y", False, (C, "refs/heads/x/y", "")),
        ("x/y/z", True, (C, "refs/heads/x/y", "z")),
        ("x/z/y", True, (B, "refs/heads/x", "z/y")),
        ("x/z", False, None),
        ("nothing", True, None),
        ("HEAD", False, None),
        (A, False, (A, "", "")),
        (f"{A}/sub", True, (A, "", "sub")),
        (f"{A}/sub", False, None),
        (A[:12], True, None),
        ("f" * 64, False, ("f" * 64, "", "")),
    ],
)
def test_the_longest_ref_wins(wanted: str, has_folder: bool, found: tuple[str, str, str] | None) -> None:
    assert choose_ref(wanted, REFS, has_folder=has_folder) == found


def test_a_branch_that_looks_like_a_commit_is_a_branch() -> None:
    assert choose_ref(A, {f"refs/heads/{A}": B}) == (B, f"refs/heads/{A}", "")


def test_only_refs_that_matter_are_kept() -> None:
    lines = RefLines("x/y", True)
    lines.take(b"ref: refs/heads/main\tHEAD")
    for name, commit in REFS.items():
        lines.take(f"{commit}\t{name}".encode())
    for number in range(10_000):
        lines.take(f"{A}\trefs/heads/other-{number}".encode())
    lines.take(b"not a line of refs")
    lines.take(b"zz\trefs/heads/x")
    lines.take(b"\xff\xfe\trefs/heads/x")
    assert set(lines.refs) == {"HEAD", "refs/heads/x", "refs/heads/x/y", "refs/tags/x"}
    assert lines.refs["refs/heads/x"] == B
    assert lines.refs_seen == len(REFS) + 10_000
    assert len(lines.failure().hint) < 600


def test_a_short_id_is_the_one_tip_that_begins_so() -> None:
    lines = RefLines("ccccccc/sub", True)
    for name, commit in REFS.items():
        lines.take(f"{commit}\t{name}".encode())
    assert lines.by_prefix() == (C, "", "sub")
    lines.take(f"{'c' * 8}{'0' * 32}\trefs/heads/too".encode())
    assert lines.by_prefix() is None


def test_what_is_missing_is_said() -> None:
    assert "empty" in RefLines("x", False).failure().message
    lines = RefLines("", False)
    lines.take(f"{A}\trefs/heads/x".encode())
    assert "default branch" in lines.failure().message


@pytest.mark.parametrize(
    ("text", "has_folder", "is_one"),
    [
        ("0123abc", False, True),
        ("0123ab", False, False),
        ("0123abc/x", True, True),
        ("0123abc/x", False, False),
        ("xyz0123", True, False),
    ],
)
def test_short_ids_have_seven_digits_at_least(text: str, has_folder: bool, is_one: bool) -> None:
    assert is_short_commit(text, has_folder=has_folder) is is_one
