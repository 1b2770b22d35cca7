"""The PostgreSQL job store takes the exam."""

from __future__ import annotations

import pytest

from asman.job import Requirements, State
from asman.testing import JobStoreKit, fresh_id, make_job
from asman_postgres.jobs import PostgresJobStore
from postgres_server import PostgresServer


class TestPostgresJobStore(JobStoreKit):
    durable = True
    shared = True

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server: PostgresServer) -> None:
        self.url = postgres_server.url

    async def open_store(self) -> PostgresJobStore:
        return PostgresJobStore(self.url)

    async def test_requirements_longer_than_an_index_entry_are_no_trouble(self) -> None:
        """An entry has 2,704 bytes at most, and hexadecimal digits do not become fewer by compression."""
        needs = [Requirements(tags=tuple(f"{fresh_id(n)}{last}" for n in range(200))) for last in "ab"]
        async with await self.open_store() as store:
            jobs = [make_job(self.queue, requirements=need) for need in needs]
            for job in jobs:
                await store.save(job, expected=0)
                assert await store.list(self.queue, states=[State.QUEUED], shape=job.requirements.shape) == [job]
            assert await store.counts(self.queue) == {(State.QUEUED, need.shape): 1 for need in needs}
