"""Which files of a build context its author left out. Pure.

The engine expects whoever sends a context to have applied ``.dockerignore`` already. The rules are Docker's: one
pattern a line, ``#`` for remarks, ``!`` for exceptions, the last match wins, and a match of a folder counts for all
below it. ``*``, ``?`` and ``[...]`` match inside one part of a path, ``**`` as a part of its own matches any number of
parts; inside a part it is the same as ``*``.

Parts are matched one by one rather than by one expression for the whole path: patterns come from strangers, and one
expression with many ``**`` can take forever.

Source: Docker, "Build context", ".dockerignore files".
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from asman.errors import BadDefinition

__all__ = ["Ignored", "MOST_BYTES", "read_ignored"]

MOST_BYTES = 64 << 10
"""Of one ``.dockerignore``."""

_MOST_PATTERNS = 500
_MOST_PARTS = 64
_MOST_STARS = 16

_Part = re.Pattern[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pattern:
    """Shape: ``parts`` has None for ``**``."""

    parts: tuple[_Part, ...]
    is_exception: bool


class Ignored:
    """The patterns of one file."""

    def __init__(self, patterns: Sequence[_Pattern]) -> None:
        self._patterns = patterns

    def __contains__(self, name: str) -> bool:
        """Is this file or folder (a relative name) left out?"""
        parts = name.split("/")
        out = False
        for pattern in self._patterns:
            if out == pattern.is_exception and _matches(pattern.parts, parts):
                out = not out
        return out


def read_ignored(text: str) -> Ignored:
    """Errors: BadDefinition for more than the limits, or a pattern that cannot be read."""
    if len(text) > MOST_BYTES:
        raise BadDefinition(f".dockerignore has {len(text)} characters; at most {MOST_BYTES} are allowed")
    patterns = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        pattern = line.strip()
        if not pattern or line.startswith("#"):
            continue
        is_exception = pattern.startswith("!")
        parts = [part for part in pattern.removeprefix("!").strip().split("/") if part not in ("", ".")]
        while ".." in parts:  # as a path in its shortest form: a/../b is b
            at = parts.index("..")
            del parts[max(at - 1, 0) : at + 1]
        if not parts:
            continue
        if len(parts) > _MOST_PARTS or any(part.count("*") > _MOST_STARS for part in parts):
            raise BadDefinition(
                f".dockerignore, line {number}: at most {_MOST_PARTS} parts, and {_MOST_STARS} * in a part, are allowed"
            )
        patterns.append(_Pattern(parts=tuple(map(_part, parts)), is_exception=is_exception))
    if len(patterns) > _MOST_PATTERNS:
        raise BadDefinition(f".dockerignore has {len(patterns)} patterns; at most {_MOST_PATTERNS} are allowed")
    return Ignored(patterns)


def _part(text: str) -> _Part:
    if text == "**":
        return None
    unescaped = re.sub(r"\\(.)", lambda found: f"[{found[1]}]", text).replace("[^", "[!")
    return re.compile(fnmatch.translate(re.sub(r"\*+", "*", unescaped)))


def _matches(pattern: Sequence[_Part], parts: Sequence[str]) -> bool:
    """Does the pattern match the path, or a folder above it?

    ``reached`` are the places in the pattern at which the parts so far can stand.
    """
    reached = _past_stars(pattern, {0})
    for number, part in enumerate(parts):
        if number and len(pattern) in reached:
            return True
        onward = set()
        for place in reached:
            if place == len(pattern):
                continue
            expected = pattern[place]
            if expected is None:
                onward |= {place, place + 1} if place == len(pattern) - 1 else {place}
            elif expected.match(part):
                onward.add(place + 1)
        if not onward:
            return False
        reached = _past_stars(pattern, onward)
    return len(pattern) in reached


def _past_stars(pattern: Sequence[_Part], places: set[int]) -> set[int]:
    """``**`` may stand for nothing at all, unless it is the end: ``a/**`` is what lies below ``a``."""
    reached = set(places)
    for place in sorted(places):
        at = place
        while at < len(pattern) - 1 and pattern[at] is None:
            at += 1
            reached.add(at)
    return reached
