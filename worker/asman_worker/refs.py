"""Which commit is meant: a ref as people write it, against the refs that a repository has. Pure.

A path copied from a repository's page does not say where the ref ends and a folder begins, since both may hold
slashes; only the repository's own refs can tell. They come from a stranger's server, as many as it likes, so only those
are kept that the wanted text could name.

Source: git-ls-remote(1); gitrevisions(7).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from asman.errors import clip
from asman_worker.reach import SourceFailed

__all__ = ["Found", "RefLines", "choose_ref", "is_short_commit"]

_HEX = re.compile(r"[0-9a-f]{7,64}\Z")
_COMMIT = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
_NAMES_SHOWN = 8

Found = tuple[str, str, str]
"""Commit, full name of the ref (empty for a commit id), folder behind it."""


def choose_ref(wanted: str, refs: Mapping[str, str], *, has_folder: bool = False) -> Found | None:
    """The (commit, ref, folder) that is meant; the longest ref wins. None if there is no such ref.

    Branches come before tags, as on the pages where such addresses are copied from; other refs are named from
    ``refs/`` on or without it (``pull/7/head``). What looks like a whole commit id is one.

    Shape:  ``refs`` maps full names to commits, annotated tags under ``<name>^{}`` too; ``wanted`` is empty for the
            default branch.
    """
    if not wanted:
        return (refs["HEAD"], "HEAD", "") if "HEAD" in refs else None
    parts = wanted.split("/")
    for count in range(len(parts), 0, -1) if has_folder else (len(parts),):
        name, folder = "/".join(parts[:count]), "/".join(parts[count:])
        for full in _full_names(name):
            if full in refs:
                return refs.get(f"{full}^{{}}", refs[full]), full, folder
    first, _, folder = wanted.partition("/")
    if _COMMIT.match(first) and (has_folder or not folder):
        return first, "", folder
    return None


def _full_names(name: str) -> tuple[str, ...]:
    return (f"refs/heads/{name}", f"refs/tags/{name}", f"refs/{name}", name if name.startswith("refs/") else "HEAD/")


def _candidates(wanted: str, has_folder: bool) -> set[bytes]:
    """The lines of ls-remote that matter: a repository may have a million others."""
    parts = wanted.split("/")
    names = {"/".join(parts[:count]) for count in range(1, len(parts) + 1)} if has_folder else {wanted}
    full = {form for name in names if name for form in _full_names(name)} | {"HEAD"}
    return {form.encode() for name in full for form in (name, f"{name}^{{}}")}


def is_short_commit(wanted: str, *, has_folder: bool) -> bool:
    """Could this be (or begin with) the id of a commit, shortened perhaps?"""
    first, _, folder = wanted.partition("/")
    return bool(_HEX.match(first)) and (has_folder or not folder)


class RefLines:
    """The refs that matter, out of the lines of ``git ls-remote --symref``."""

    def __init__(self, wanted: str, has_folder: bool) -> None:
        self.refs: dict[str, str] = {}
        self.refs_seen = 0
        self._wanted = wanted
        self._candidates = _candidates(wanted, has_folder)
        first, _, self._folder = wanted.partition("/")
        self._prefix = first.encode() if is_short_commit(wanted, has_folder=has_folder) else b""
        self._tips: set[str] = set()
        self._names: list[str] = []

    def take(self, line: bytes) -> None:
        commit, tab, name = line.partition(b"\t")
        if not tab or commit.startswith(b"ref: ") or not _COMMIT.match(commit.decode("ascii", "replace")):
            return
        self.refs_seen += 1
        if name in self._candidates:
            self.refs[name.decode()] = commit.decode()
        if self._prefix and commit.startswith(self._prefix):
            self._tips.add(commit.decode())
        if name.startswith(b"refs/heads/") and len(self._names) < _NAMES_SHOWN:
            self._names.append(name.decode("utf-8", "replace").removeprefix("refs/heads/"))

    def by_prefix(self) -> Found | None:
        """The one head of a branch whose commit id starts so; a tag's own id is not one."""
        heads = [tip for tip in self._tips if len(self._tips) == 1]
        return (heads[0], "", self._folder) if heads else None

    def failure(self) -> SourceFailed:
        if not self.refs_seen:
            return SourceFailed("the repository is empty")
        if not self._wanted:
            return SourceFailed("the repository has no default branch", hint="Name a branch, tag or commit.")
        shown = ", ".join(clip(name, 60) for name in self._names)
        return SourceFailed(
            f"the repository has no branch, tag or commit {clip(self._wanted)}",
            hint=f"Its first branches are {shown}." if shown else "",
        )
