"""The rows of a run and the table they make."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Row", "as_markdown", "spread"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. Shape: ``bar`` says what it should be; ``is_missed`` that it is not; None: no bar."""

    what: str
    figure: str
    bar: str = ""
    is_missed: bool = False


def spread(values: Sequence[float], digits: int = 0, unit: str = "") -> str:
    """``median [least-most]``."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} [{least:.{digits}f}-{most:.{digits}f}]{unit}"


def as_markdown(rows: Sequence[Row]) -> str:
    lines = ["| what | figure | bar | met |", "|---|---|---|---|"]
    for row in rows:
        met = "" if not row.bar else ("no" if row.is_missed else "yes")
        lines.append(f"| {row.what} | {row.figure} | {row.bar} | {met} |")
    return "\n".join(lines) + "\n"
