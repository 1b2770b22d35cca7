"""Text with a unit, turned into a number once, at the edge.

Durations keep the published grammar (``1h30``, ``1.5h``, a bare first number is milliseconds) because existing
definitions rely on it. Sizes take Docker's spellings (``64m``, ``1g``) and the longer ones (``64MB``, ``1.5GiB``),
always with 1024 to the step. What cannot be read is an error here, never a zero further down.

Source: published worker behaviour, "Duration strings" and "shmSize"; Docker's own ``--shm-size`` grammar.
"""

from __future__ import annotations

import math
import re

from asman.errors import BadRequest, clip

__all__ = ["parse_duration_s", "parse_size_bytes", "show_bytes", "show_duration"]

_STEPS: tuple[tuple[float, tuple[str, ...]], ...] = (
    (1e-9, ("ns", "nanosecond", "nanoseconds")),
    (1e-6, ("us", "µs", "microsecond", "microseconds")),
    (1e-3, ("ms", "millisecond", "milliseconds")),
    (1.0, ("s", "sec", "secs", "second", "seconds")),
    (60.0, ("m", "min", "mins", "minute", "minutes")),
    (3600.0, ("h", "hr", "hrs", "hour", "hours")),
    (86400.0, ("d", "day", "days")),
    (604800.0, ("w", "wk", "week", "weeks")),
    (2629800.0, ("month", "months", "mo", "mth")),
    (31557600.0, ("y", "yr", "year", "years")),
)
_SECONDS = {name: seconds for seconds, names in _STEPS for name in names}
_NEXT_SMALLER = {seconds: _STEPS[max(i - 1, 0)][0] for i, (seconds, _) in enumerate(_STEPS)}
_GROUP = re.compile(r"\s*((?:\d+(?:\.\d+)?|(?<!\d)\.\d+)(?:e[+-]?\d+)?)\s*([a-zµ]*)", re.IGNORECASE | re.ASCII)
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b)?\s*\Z", re.IGNORECASE | re.ASCII)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def parse_duration_s(text: str | int | float) -> float:
    """Read ``20m``, ``1h30``, ``1.5h``, ``10s``; a bare number is milliseconds.

    Units:  seconds.
    Errors: BadRequest for text that is no duration, or one that is not above zero.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise _no_duration(text)
    source = re.sub(r"(?<=\d)[,_ ](?=\d)", "", str(text)).strip()
    total, position, smaller = 0.0, 0, 1e-3
    while position < len(source):
        found = _GROUP.match(source, position)
        if found is None or found.end() == position:
            raise _no_duration(text)
        unit = found[2].lower()
        step = smaller if not unit else _SECONDS.get(unit)
        if step is None:
            raise _no_duration(text)
        total += float(found[1]) * step
        smaller = _NEXT_SMALLER[step] if unit else smaller
        position = found.end()
    if not total > 0 or math.isinf(total):
        raise _no_duration(text)
    return total


def _no_duration(text: object) -> BadRequest:
    return BadRequest(f"{clip(text)} is not a duration above zero", hint='Write durations like "90s", "20m" or "1h30".')


def parse_size_bytes(text: str | int | float) -> int:
    """Read ``64m``, ``1g``, ``1.5GiB``, ``512`` (bytes); 1024 to the step.

    Errors: BadRequest for text that is no size.
    """
    found = None if isinstance(text, bool) else _SIZE.match(str(text))
    size = math.inf if found is None else float(found[1]) * 1024 ** _POWER[found[2].lower()]
    if math.isinf(size):
        raise BadRequest(f"{clip(text)} is not a size", hint='Write sizes like "512m", "2g" or a number of bytes.')
    return int(size)


def show_bytes(count: float) -> str:
    """Write a size for a person: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def show_duration(seconds: float) -> str:
    """Write a duration for a person, in at most two units: ``1h30m``, ``12.3s``."""
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s" if rest else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if minutes else f"{hours}h"
