"""JSON as it may come from a stranger: one decoder for every body and frame.

Python's own decoder takes more than JSON has (``NaN``, numbers beyond a double) and fails in more ways than it says
(recursion, very long integers). This module owns what is accepted instead: one document, UTF-8, finite numbers, no
deeper, no more members and no longer strings than the limits say. The limits are looked at before anything is built,
with counts at C speed that a small document always passes, because this is on the path of every submit.

It refuses to know what a document means. Of equal keys in one object the last counts, because the ids that existing
clients compute expect it; unpaired surrogates are text like any other.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn, Protocol

from asman.errors import BadJson, LimitExceeded, clip

__all__ = ["JsonLimits", "decode_json"]


class JsonLimits(Protocol):
    """The part of ``config.Limits`` that matters here; 0 means no limit."""

    @property
    def json_depth(self) -> int: ...

    @property
    def json_keys(self) -> int: ...

    @property
    def json_string_bytes(self) -> int: ...


_DEPTH_UNLESS_TOLD = 64
_DIGITS_OF_A_DOUBLE = 308
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKETS = re.compile(r"[\[{]+|[\]}]+")


def decode_json(data: bytes | str, limits: JsonLimits | None = None) -> Any:
    """Read one JSON document.

    Shape:  ``data`` as bytes is UTF-8 without a byte order mark. Without ``limits`` only depth is held, to 64.
    Errors: BadJson for what is not JSON and for numbers no double can hold; LimitExceeded naming what is too deep,
            too many or too long.
    Source: RFC 8259; promises, "Error shape and default limits".
    """
    text = data if isinstance(data, str) else _as_text(data)
    if not text or text.isspace():
        raise BadJson("the body is empty; a JSON document was expected")
    if text[0] == "\ufeff":
        raise BadJson("not JSON: the body starts with a byte order mark; send it without")
    _check_structure(text, limits)
    if limits is not None and 0 < limits.json_string_bytes < _at_most_bytes(text):
        _check_strings(text, limits.json_string_bytes)
    decoder = _SHORT if len(text) <= _DIGITS_OF_A_DOUBLE else _LONG  # a short text has no room for a huge integer
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise BadJson(f"not JSON: {error.msg} at {where}") from error
    except RecursionError as error:
        raise LimitExceeded("the document is nested too deep to be read", hint="Nest less deeply.") from error


def _as_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadJson(f"not UTF-8: {error.reason} at byte {error.start}") from error


def _check_structure(text: str, limits: JsonLimits | None) -> None:
    """Hold depth and number of members; the exact count is made only where a rough one is over."""
    depth = _DEPTH_UNLESS_TOLD if limits is None else limits.json_depth
    keys = 0 if limits is None else limits.json_keys
    perhaps_deep = 0 < depth < text.count("[") + text.count("{")
    perhaps_many = 0 < keys < text.count(":")
    if not perhaps_deep and not perhaps_many:
        return
    bare = _STRING.sub("", text)
    if perhaps_many and bare.count(":") > keys:
        raise LimitExceeded(
            f"the document has {bare.count(':')} members; at most {keys} are allowed",
            hint="Put large data into blobs (PUT /f/<sha256>) and refer to them.",
        )
    if perhaps_deep:
        _check_depth(bare, depth)


def _check_depth(bare: str, limit: int) -> None:
    depth = 0
    for run in _BRACKETS.finditer(bare):
        size = run.end() - run.start()
        depth += size if bare[run.start()] in "[{" else -size
        if depth > limit:
            raise LimitExceeded(
                f"the document is nested {depth} levels deep; at most {limit} are allowed", hint="Nest less deeply."
            )


def _check_strings(text: str, limit: int) -> None:
    for found in _STRING.finditer(text):
        literal = found[0]
        if _at_most_bytes(literal) > limit and (size := _text_bytes(literal)) > limit:
            raise LimitExceeded(
                f"a string of {size} bytes starts with {clip(literal[1:41])}; at most {limit} are allowed"
            )


def _at_most_bytes(text: str) -> int:
    return len(text) * (1 if text.isascii() else 4)


def _text_bytes(literal: str) -> int:
    """The UTF-8 size of what a string literal stands for; of a broken literal, its own."""
    try:
        text = json.loads(literal)
    except ValueError:
        text = literal
    return len(text.encode("utf-8", "surrogatepass"))


def _no_constant(name: str) -> NoReturn:
    raise BadJson(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _too_large(digits)
    return number


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS_OF_A_DOUBLE:
        _finite(digits)
    return int(digits)


def _too_large(digits: str) -> BadJson:
    return BadJson(
        f"the number {clip(digits, 24)} ({len(digits)} characters) is larger than a double can hold",
        hint="Send numbers of this size as text.",
    )


_SHORT = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
_LONG = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, parse_int=_whole)
