"""What a job store must do if it offers more than it must: a clock, a role to take, a word for what it keeps.

Each test skips with a sentence where the store does not offer the ability.
"""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import pytest

from asman.abc import KeepsTime, SupportsLeading, TellsDurability
from asman.testing.fixtures import Exam
from asman.testing.log_store import Store

__all__ = ["AbilitiesKit"]

_DAY_S = 86_400.0


class AbilitiesKit(Exam):
    """The exam of the optional abilities of a job store."""

    pytestmark = pytest.mark.asyncio

    async def open_store(self) -> Store:
        raise NotImplementedError("write `async def open_store(self)` that answers with yours, not yet entered")

    async def test_the_clock_tells_the_time_and_does_not_run_backwards(self) -> None:
        """clock() answers seconds since the epoch, and never less than before."""
        async with await self.open_store() as store:
            if not isinstance(store, KeepsTime):
                pytest.skip("this store has no clock of its own: servers go by their machine's")
            assert abs(store.clock() - time.time()) < _DAY_S
            seen = []
            for _ in range(50):
                seen.append(store.clock())
                await asyncio.sleep(0)
            assert seen == sorted(seen)

    async def test_a_role_is_one_holder_s_until_it_has_been_silent(self) -> None:
        """lead() gives a role to one holder, keeps it while it asks again, and passes it on after ``for_s``."""
        async with await self.open_store() as store:
            if not isinstance(store, SupportsLeading):
                pytest.skip("this store gives no roles: every server does maintenance")
            role = f"kit-{uuid4().hex}"
            first = await store.lead(role, "one", 600.0)
            assert first is not None, "a role that nobody ever held is free"
            assert first > 600.0, "and has been free for very long"
            assert await store.lead(role, "two", 600.0) is None, "it is held"
            assert await store.lead(f"{role}-other", "two", 600.0) is not None, "other roles are others"
            again = await store.lead(role, "one", 600.0)
            assert again is not None, "its holder keeps it"
            assert 0 <= again < 60.0
            assert await store.lead(role, "two", 0.0) is not None, "silent for long enough"
            assert await store.lead(role, "one", 600.0) is None, "it has passed on"

    async def test_of_many_that_ask_for_a_role_at_once_one_gets_it(self) -> None:
        """lead() is decided in one step."""
        async with await self.open_store() as store:
            if not isinstance(store, SupportsLeading):
                pytest.skip("this store gives no roles: every server does maintenance")
            role = f"kit-{uuid4().hex}"
            answers = await asyncio.gather(*(store.lead(role, f"holder-{n}", 600.0) for n in range(16)))
            assert sum(answer is not None for answer in answers) == 1

    async def test_the_durability_is_one_of_three_words(self) -> None:
        """durability is disk, everysec or memory once the store is open."""
        async with await self.open_store() as store:
            if not isinstance(store, TellsDurability):
                pytest.skip("this store does not say what an acknowledged job survives")
            assert store.durability in ("disk", "everysec", "memory")
            if not self.durable:
                assert store.durability == "memory"
