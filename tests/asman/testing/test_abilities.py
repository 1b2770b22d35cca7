"""The exam finds what is wrong with a clock, a role or a word."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from asman.memory import MemoryJobStore
from asman.testing import JobStoreKit


class Good(MemoryJobStore):
    """A store with every ability."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, tuple[str, float]] = {}

    def clock(self) -> float:
        return time.time()

    async def lead(self, role: str, holder: str, for_s: float) -> float | None:
        now = time.monotonic()
        present, at = self.kept.get(role, (holder, -1e9))
        if present != holder and now - at < for_s:
            return None
        self.kept[role] = (holder, now)
        return now - at


class Backwards(Good):
    _at = 2e9

    def clock(self) -> float:
        self._at -= 1
        return self._at


class Milliseconds(Good):
    def clock(self) -> float:
        return time.time() * 1000


class ForEverybody(Good):
    async def lead(self, role: str, holder: str, for_s: float) -> float | None:
        return 1e9


class OneRole(Good):
    async def lead(self, role: str, holder: str, for_s: float) -> float | None:
        return await super().lead("the only one", holder, for_s)


class ForEver(Good):
    async def lead(self, role: str, holder: str, for_s: float) -> float | None:
        return await super().lead(role, holder, 1e9)


class Boasts(Good):
    durability = "disk"  # type: ignore[assignment]


class Mumbles(Good):
    durability = "quite safe"  # type: ignore[assignment]


AbilitiesKit = JobStoreKit.__mro__[1]
TESTS = [name for name in vars(AbilitiesKit) if name.startswith("test_")]


async def failures(make: Callable[[], Any]) -> set[str]:
    """The tests of the kit that a store fails."""

    class Kit(AbilitiesKit):  # type: ignore[misc,valid-type]
        async def open_store(self) -> Any:
            return make()

    failed = set()
    for name in TESTS:
        try:
            await getattr(Kit(), name)()
        except AssertionError:
            failed.add(name)
    return failed


async def test_a_good_store_passes() -> None:
    assert await failures(Good) == set()


@pytest.mark.parametrize(
    ("store", "test"),
    [
        (Backwards, "test_the_clock_tells_the_time_and_does_not_run_backwards"),
        (Milliseconds, "test_the_clock_tells_the_time_and_does_not_run_backwards"),
        (ForEverybody, "test_of_many_that_ask_for_a_role_at_once_one_gets_it"),
        (OneRole, "test_a_role_is_one_holder_s_until_it_has_been_silent"),
        (ForEver, "test_a_role_is_one_holder_s_until_it_has_been_silent"),
        (Boasts, "test_the_durability_is_one_of_three_words"),
        (Mumbles, "test_the_durability_is_one_of_three_words"),
    ],
)
async def test_each_fault_is_found(store: Callable[[], Any], test: str) -> None:
    assert test in await failures(store)


@pytest.mark.parametrize("name", [name for name in TESTS if "durability" not in name])
async def test_a_store_without_an_ability_is_not_asked_for_it(name: str) -> None:
    class Kit(AbilitiesKit):  # type: ignore[misc,valid-type]
        async def open_store(self) -> Any:
            return MemoryJobStore()

    with pytest.raises(pytest.skip.Exception, match="this store"):
        await getattr(Kit(), name)()
