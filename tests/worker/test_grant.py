"""What an owner may lend, and what is refused before anything is started."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from asman.errors import BadRequest
from asman_worker.grant import PROFILES, Grant, check_grant, default_memory_bytes

GIB = 1 << 30
GRANT = Grant(cores=4, memory_bytes=16 * GIB)


@pytest.mark.parametrize(
    "change", [{"profile": "loose"}, {"network": "host"}, {"cores": 0}, {"cores": float("nan")}, {"memory_bytes": 1024}]
)
def test_a_grant_that_cannot_be_kept_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        check_grant(replace(GRANT, **change))


def test_every_profile_makes_a_grant() -> None:
    for profile in PROFILES:
        check_grant(replace(GRANT, profile=profile))


def test_an_owner_who_does_not_say_keeps_two_gibibytes_or_half() -> None:
    assert default_memory_bytes(16 * GIB) == 14 * GIB
    assert default_memory_bytes(3 * GIB) == 3 * GIB // 2
