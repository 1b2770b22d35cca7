from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asman.abc import BlobStore, JobStore, LogStore, SupportsSignedUrls
from asman.errors import Conflict
from asman.job import Job
from asman.maintenance import sweep
from asman.memory import MemoryBlobStore, MemoryJobStore
from asman.metering import Meters, measured
from core import QUEUE, core, definition
from noting import Noting


class Failing(Noting):
    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        raise RuntimeError("out of order")

    def stored(self, operation: str, seconds: float, code: str) -> None:
        raise RuntimeError("out of order")

    def swept(self, lag_s: float) -> None:
        raise RuntimeError("out of order")


# --- a measured store -------------------------------------------------------------------------------------------------


class Shelf(MemoryBlobStore):
    """A blob store with an optional ability, a property and a way to be slow."""

    reads = 0

    async def signed_get_url(self, key: str, *, valid_s: int, content_type: str, disposition: str) -> str:
        return f"https://shelf.example/{key}"

    async def signed_put_url(self, key: str, *, valid_s: int, size_bytes: int | None) -> str:
        raise OSError("the shelf is on fire")

    async def stat(self, key: str) -> Any:
        await asyncio.Event().wait()

    @property
    def costly(self) -> int:
        self.reads += 1
        return self.reads


async def some_bytes() -> AsyncIterator[bytes]:
    yield b"x"


async def test_a_measured_store_answers_as_the_store_and_tells_each_operation() -> None:
    noting = Noting()
    store = measured(MemoryJobStore(), "jobs", Meters([noting]))
    job = Job(queue="q", job_id="a" * 64, version=1)
    await store.save(job, expected=0, documents={"definition": b"{}"})
    assert await store.load("q", job.job_id) == job
    with pytest.raises(Conflict):
        await store.save(job, expected=7)
    assert noting.operations == [("jobs.save", ""), ("jobs.load", ""), ("jobs.save", "conflict")]
    assert all(0 <= seconds < 60 for seconds in noting.seconds)


async def test_a_measured_store_passes_for_the_store_with_all_its_abilities() -> None:
    noting = Noting()
    meters = Meters([noting])
    jobs, plain = measured(MemoryJobStore(), "jobs", meters), measured(MemoryBlobStore(), "blobs", meters)
    shelf = Shelf()
    signing = measured(shelf, "blobs", meters)
    assert isinstance(jobs, JobStore)
    assert isinstance(jobs, LogStore)
    assert isinstance(jobs, MemoryJobStore)
    assert isinstance(plain, BlobStore)
    assert not isinstance(plain, SupportsSignedUrls)
    assert isinstance(signing, SupportsSignedUrls)
    assert await signing.signed_get_url("k", valid_s=1, content_type="", disposition="") == "https://shelf.example/k"
    assert noting.operations == [("blobs.signed_get_url", "")]
    assert shelf.reads == 0, "a property was read before anybody asked for it"
    assert (signing.costly, signing.costly) == (1, 2)
    assert jobs._jobs == {}
    with pytest.raises(AttributeError):
        jobs.no_such_thing  # type: ignore[attr-defined]  # noqa: B018


async def test_an_error_that_is_not_ours_is_an_internal_one_and_goes_on_as_it_was() -> None:
    noting = Noting()
    signing = measured(Shelf(), "blobs", Meters([noting]))
    with pytest.raises(OSError, match="on fire"):
        await signing.signed_put_url("k", valid_s=1, size_bytes=None)
    assert noting.operations == [("blobs.signed_put_url", "internal_error")]


async def test_what_is_given_up_is_not_told_and_what_a_store_calls_of_itself_neither() -> None:
    noting = Noting()
    store = measured(Shelf(), "blobs", Meters([noting]))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await store.stat("k")
    await store.put("k", some_bytes(), expires_at=1)
    await store.put("k", some_bytes(), expires_at=2)
    assert noting.operations == [("blobs.put", ""), ("blobs.put", "")]


def test_a_meter_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    noting = Noting()
    meters = Meters([Failing(), noting])
    with caplog.at_level(logging.ERROR, logger="asman.metering"):
        meters.request("/q/{queue}", "GET", 200, 0.1)
        meters.stored("jobs.load", 0.1, "")
        meters.swept(3.0)
    assert (noting.requests, noting.operations) == ([("/q/{queue}", "GET", 200)], [("jobs.load", "")])
    assert noting.lags == [3.0]
    assert [record.getMessage() for record in caplog.records] == ["a meter failed"] * 3


# --- in an app --------------------------------------------------------------------------------------------------------


async def test_every_meter_is_opened_told_and_closed_with_the_app() -> None:
    one, other = Noting(), Noting()
    async with core([one, other]) as c:
        assert (await c.call("GET", "/healthz"))[0] == 200
        assert (one.opened, other.opened) == ([True], [True])
        await c.submit()
    assert one.opened == [True, False]
    assert one.requests == other.requests == [("/healthz", "GET", 200)]
    assert ("jobs.save", "") in one.operations


async def test_without_a_meter_stores_are_what_was_opened() -> None:
    async with core() as c:
        assert c.services.meters is None
        assert type(c.services.jobs) is MemoryJobStore
        assert type(c.services.blobs) is MemoryBlobStore
        assert type(c.app.asgi_app).__name__ == "Front"


async def test_a_request_costs_one_call_of_a_meter_and_one_for_each_operation_it_needs() -> None:
    """What measuring costs is counted, not timed: so it is the same on every machine."""
    noting = Noting()
    async with core([noting]) as c:
        for number in range(3):
            noting.requests.clear()
            noting.operations.clear()
            answer = await c.call("POST", f"/q/{QUEUE}", {"definition": definition(str(number))})
            assert answer[0] == 200
            assert noting.requests == [("/q/{queue}", "POST", 200)]
            assert noting.operations == [("jobs.save", "")]


async def test_a_sweep_tells_how_late_it_was() -> None:
    noting = Noting()
    async with core([noting]) as c:
        await sweep(c.services)
        job = await c.submit()
        await c.run(job)
        c.clock.tick(60 + 12.5)
        await sweep(c.services)
        await sweep(c.services)
    assert noting.lags == [0.0, 12.5, 0.0]
