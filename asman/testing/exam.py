"""The kits as pytest classes over the URL that ``check_backend`` hands in; collected by it and by nobody else.

What a URL claims is not known, so every backend but ``memory:`` is taken to be durable and shared. What a test
stored is deleted after it, through a store opened for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import cast

import pytest

from asman.abc import BlobStore, Notifier
from asman.config import Config
from asman.job import State
from asman.plugins import open_blob_store, open_job_store, open_notifier
from asman.testing import BlobStoreKit, JobStoreKit, NotifierKit
from asman.testing.check import EXAM
from asman.testing.fixtures import Exam
from asman.testing.log_store import Store
from asman.testing.watching import watch

__all__ = ["TestBlobStore", "TestJobStore", "TestNotifier"]


class _AtUrl(Exam):
    """Shape: ``url`` is what is examined; each opening asks the plugins anew, as a server does."""

    url: str

    @pytest.fixture(autouse=True)
    def _at_url(self, request: pytest.FixtureRequest, _prepared: None) -> Iterator[None]:
        self.exam = request.config.stash[EXAM]
        self.url = self.exam.url
        self.durable = self.shared = self.streams = self.url != "memory:"
        self.plugins = self.exam.load_plugins()
        yield
        if self.durable:
            asyncio.run(self.sweep())

    async def sweep(self) -> None:
        """Remove what the test has stored."""


class TestJobStore(_AtUrl, JobStoreKit):
    shrinks = False

    async def open_store(self) -> Store:
        return cast(Store, watch(open_job_store(self.plugins, self.url, Config()), self.exam.calls))

    async def sweep(self) -> None:
        async with await self.open_store() as store:
            for queue in self.queues:
                gone: set[str] = set()
                while jobs := await store.list(queue, states=[s for s in State if s is not State.ABSENT]):
                    for job in jobs:
                        assert job.job_id not in gone, "a job is listed still after it was deleted"
                        await store.delete(queue, job.job_id, expected=job.version)
                        gone.add(job.job_id)


class TestBlobStore(_AtUrl, BlobStoreKit):
    memory_bytes = 24 << 20  # room for two parts of 8 MiB, as stores of objects are sent

    async def open_store(self) -> BlobStore:
        return cast(BlobStore, watch(open_blob_store(self.plugins, self.url, Config()), self.exam.calls))

    async def sweep(self) -> None:
        async with await self.open_store() as store:
            for key in self.__dict__.get("keys", []):
                await store.delete(key)


class TestNotifier(_AtUrl, NotifierKit):
    async def open_notifier(self) -> Notifier:
        return cast(Notifier, watch(open_notifier(self.plugins, self.url, Config()), self.exam.calls))
