"""Does this job fit that worker, and which of two mirroring workers keeps a job. Pure.

Source: published resource rules (cpus, memory, gpus, tags, duration) and the published collation for two claims.
"""

from __future__ import annotations

from dataclasses import dataclass

from asman.job import Requirements

__all__ = ["Capacity", "Rule", "fits", "is_preferred", "rules"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a worker has (or has free).

    Shape:  ``gpus`` is a count; ``tags`` what the owner lends the worker for.
    Units:  cores; bytes, None for "did not say"; seconds, None for "no limit stated".
    """

    cores: float = 1.0
    memory_bytes: int | None = None
    gpus: int = 0
    max_duration_s: float | None = None
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One answer to "why does it wait"."""

    rule: str
    passed: bool
    asked: str
    has: str


def rules(need: Requirements, capacity: Capacity) -> tuple[Rule, ...]:
    """Hold a job's requirements against a capacity, rule by rule; all must pass."""
    memory, limit = capacity.memory_bytes, capacity.max_duration_s
    missing = sorted(set(need.tags) - capacity.tags)
    return (
        _rule("cpus", need.cores <= capacity.cores, need.cores, capacity.cores),
        _rule("memory", memory is None or need.memory_bytes <= memory, need.memory_bytes, memory),
        _rule("gpus", need.gpus <= capacity.gpus, need.gpus, capacity.gpus),
        _rule(
            "duration",
            need.max_duration_s is None or limit is None or need.max_duration_s <= limit,
            need.max_duration_s,
            limit,
        ),
        _rule("tags", not missing, ",".join(need.tags) or None, ",".join(sorted(capacity.tags)) or None),
    )


def _rule(name: str, passed: bool, asked: object, has: object) -> Rule:
    return Rule(
        rule=name,
        passed=passed,
        asked="-" if asked is None else str(asked),
        has="-" if has is None else str(has),
    )


def fits(need: Requirements, capacity: Capacity) -> bool:
    return (
        need.cores <= capacity.cores
        and (capacity.memory_bytes is None or need.memory_bytes <= capacity.memory_bytes)
        and need.gpus <= capacity.gpus
        and (
            need.max_duration_s is None
            or capacity.max_duration_s is None
            or need.max_duration_s <= capacity.max_duration_s
        )
        and capacity.tags.issuperset(need.tags)
    )


# Root collation order of ASCII below the digits and letters.
_PUNCTUATION = " _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$"
_RANK = {c: i for i, c in enumerate(_PUNCTUATION)}
_RANK |= {c: 100 + i for i, c in enumerate("0123456789")}
_RANK |= {c: 200 + i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz")}


def _collation_key(text: str) -> tuple[list[int], list[bool]]:
    first = [_RANK[c.lower()] if c.lower() in _RANK and c.isascii() else 1000 + ord(c) for c in text]
    return first, [c.isupper() for c in text]


def is_preferred(candidate: str, present: str) -> bool:
    """Of two mirroring workers the id that sorts first keeps the job; both sides apply this rule.

    Source: published tie-break (JavaScript ``localeCompare``, root collation), exact for ASCII ids; for others an
            order that is total and the same on every server.
    """
    return _collation_key(candidate) < _collation_key(present)
