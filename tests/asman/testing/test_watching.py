"""The exam looks over a backend's shoulder without changing what it does."""

from __future__ import annotations

import asyncio

import pytest

from asman.abc import JobStore, LogStore
from asman.memory import MemoryJobStore
from asman.testing import make_job, watching
from asman.testing.watching import Calls, watch


async def test_watched_store_is_what_it_was_and_its_calls_are_noted() -> None:
    calls = Calls()
    store = watch(MemoryJobStore(), calls)
    assert isinstance(store, MemoryJobStore)
    assert isinstance(store, JobStore)
    assert isinstance(store, LogStore)
    job = make_job("q")
    await store.save(job, expected=0)
    assert await store.load("q", job.job_id) == job
    assert [(call.method, call.answer) for call in calls.latest] == [("save", None), ("load", job)]
    calls.begin()
    assert list(calls.latest) == []


async def test_what_a_backend_calls_of_itself_is_not_noted() -> None:
    class Looks(MemoryJobStore):
        async def delete(self, queue: str, job_id: str, *, expected: int) -> None:
            await self.load(queue, job_id)

    calls = Calls()
    store = watch(Looks(), calls)
    await store.delete("q", "x", expected=0)
    assert [call.method for call in calls.latest] == ["delete"]


async def test_what_a_method_raises_is_raised_and_noted() -> None:
    class Fails(MemoryJobStore):
        async def load(self, queue: str, job_id: str) -> None:
            raise TimeoutError("its own")

    calls = Calls()
    with pytest.raises(TimeoutError, match="its own"):
        await watch(Fails(), calls).load("q", "x")
    assert isinstance(calls.latest[-1].raised, TimeoutError)


async def test_call_that_does_not_return_is_given_up_and_the_next_one_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hangs(MemoryJobStore):
        async def load(self, queue: str, job_id: str) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(watching, "_CALL_LIMIT_S", 0.2)
    monkeypatch.setattr(watching, "_NEXT_LIMIT_S", 0.1)
    calls = Calls()
    for limit in ("0.2", "0.1"):
        with pytest.raises(AssertionError, match=rf"load\(\) did not return within {limit} s"):
            await watch(Hangs(), calls).load("q", "x")


async def test_backend_with_slots_is_examined_unwatched() -> None:
    class Slotted:
        __slots__ = ()

        async def load(self, queue: str, job_id: str) -> None:
            return None

    calls = Calls()
    assert await watch(Slotted(), calls).load("q", "x") is None
    assert list(calls.latest) == []
