"""Takes secret values out of text before anybody sees it: log lines, live and kept, and words of errors. Pure.

A value is looked for as it is and in base64, at each of the three ways in which its bytes may fall into the groups of
that code, in both alphabets, and wrapped as ``base64`` wraps it. Lines of a value of several lines count by
themselves. What is found is replaced by ``[secret NAME]``.

A stream arrives in pieces that may cut a value anywhere. So a piece that ends with what may be the beginning of a
value waits until the next one tells; every other piece is given out at once. The text that comes out does not depend
on where the stream was cut, which is what lets a second reading of a log count lines (``logs``).

This keeps secrets out of logs by accident. A program that means to show what it was given can always encode it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Redactor", "RedactedStream"]

_LEAST_LINE = 12
"""Shorter lines of a longer value are ordinary text: brackets, key words."""

_OTHER_ALPHABET = str.maketrans("+/", "-_")


class Redactor:
    """Knows some values by their names.

    Shape:  ``secrets`` are (name, value); of two names for one value the first is shown.
    """

    def __init__(self, secrets: Iterable[tuple[str, str]]) -> None:
        self._names: dict[str, str] = {}
        for name, value in secrets:
            for form in _forms(value):
                self._names.setdefault(form, name)
        self._forms = sorted(self._names, key=lambda form: (-len(form), form))
        self._least = [form for form in self._forms if not any(o in form for o in self._forms if o != form)]
        """Without one of these there is none of the others: a form that holds another need not be looked for."""
        self._pattern = re.compile("|".join(map(re.escape, self._forms)) or r"(?!)")
        self._inner = frozenset("".join(form[:-1] for form in self._forms))

    def text(self, text: str) -> str:
        """The whole text, without the values; where two could be meant the longer one is."""
        if not self._has_one(text):
            return text
        return self._pattern.sub(lambda found: _label(self._names[found[0]]), text)

    def stream(self) -> RedactedStream:
        """For a text that arrives in pieces."""
        return RedactedStream(self)

    def _has_one(self, text: str) -> bool:
        """A plain search is many times faster than the pattern, and most text has no secret in it."""
        return any(form in text for form in self._least)

    def find(self, text: str, start: int) -> tuple[int, int, str] | None:
        """The first value from ``start`` on: where it is, and its name."""
        found = self._pattern.search(text, start)
        return (found.start(), found.end(), self._names[found[0]]) if found else None

    def may_begin(self, text: str, start: int) -> int:
        """Where, from ``start`` on, a value may begin whose rest has not come yet; the text's length if nowhere."""
        end = len(text)
        if not text or text[-1] not in self._inner:
            return end
        first = end
        for form in self._forms:
            at = text.find(form[0], max(start, end - len(form) + 1), first)
            while at >= 0:
                if form.startswith(text[at:]):
                    first = at
                    break
                at = text.find(form[0], at + 1, first)
        return first

    def is_clean(self, text: str) -> bool:
        """Can the text be given out as it is, whatever follows?"""
        return self.may_begin(text, 0) == len(text) and not self._has_one(text)


def _label(name: str) -> str:
    return f"[secret {name}]"


@dataclass(slots=True)
class RedactedStream:
    """One stream. ``feed`` and ``close`` answer with the pieces that are settled, each with what came along with it.

    A piece of which nothing is left is not given out.
    """

    _redactor: Redactor
    _pending: list[tuple[str, Any]] = field(default_factory=list)
    _settled: int = 0
    """How far the pending text has been looked through."""
    _found: list[tuple[int, int, str]] = field(default_factory=list)
    """Values in the pending text; one may have begun in a piece that is gone, at a negative place."""

    def feed(self, text: str, along: Any = None) -> list[tuple[str, Any]]:
        """Take a piece."""
        if not self._pending and self._redactor.is_clean(text):
            return [(text, along)]
        self._pending.append((text, along))
        return list(self._give(is_last=False))

    def close(self) -> list[tuple[str, Any]]:
        """What still waits: nothing follows that could complete a value."""
        return list(self._give(is_last=True))

    def _give(self, *, is_last: bool) -> Iterator[tuple[str, Any]]:
        whole = "".join(text for text, _ in self._pending)
        self._look(whole, is_last=is_last)
        start = 0
        while self._pending and start + len(self._pending[0][0]) <= self._settled:
            text, along = self._pending.pop(0)
            end = start + len(text)
            if shown := self._shown(whole, start, end):
                yield shown, along
            start = end
        self._settled -= start
        self._found = [(a - start, b - start, name) for a, b, name in self._found if b > start]

    def _look(self, whole: str, *, is_last: bool) -> None:
        """Find values as far as what has come decides it."""
        while True:
            found = self._redactor.find(whole, self._settled)
            limit = len(whole) if is_last else self._redactor.may_begin(whole, self._settled)
            if found is None or found[0] >= limit:
                self._settled = max(limit, self._settled)
                return
            self._found.append(found)
            self._settled = found[1]

    def _shown(self, whole: str, start: int, end: int) -> str:
        parts, at = [], start
        for begin, stop, name in self._found:
            if stop <= start or begin >= end:
                continue
            if begin >= start:
                parts += [whole[at:begin], _label(name)]
            at = min(stop, end)
        return "".join([*parts, whole[at:end]])


def _forms(value: str) -> set[str]:
    """Every way in which the value is looked for."""
    lines = [line.strip() for line in value.splitlines()] if "\n" in value.strip() else []
    forms = {value, value.strip(), *(line for line in lines if len(line) >= _LEAST_LINE)}
    encoded = {form for data in (value, f"{value}\n") for form in _base64_forms(data.encode())}
    encoded |= _inner_base64(value.encode())
    return {form for form in forms | encoded | {form.translate(_OTHER_ALPHABET) for form in encoded} if form}


def _base64_forms(data: bytes) -> set[str]:
    whole = base64.b64encode(data).decode()
    wrapped = base64.encodebytes(data).decode().rstrip("\n")
    return {whole, whole.rstrip("="), wrapped}


def _inner_base64(data: bytes) -> set[str]:
    """The characters that depend on the value alone, wherever it stands in what is encoded."""
    forms = set()
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + data).decode()
        forms.add(encoded[(shift * 8 + 5) // 6 : (shift + len(data)) * 8 // 6])
    return forms
