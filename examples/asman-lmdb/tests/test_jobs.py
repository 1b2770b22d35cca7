"""The exam: what asman promises of a job store, asked of ours."""

from asman.testing import JobStoreKit
from asman_lmdb.jobs import LmdbJobStore


class TestLmdbJobStore(JobStoreKit):
    durable = True
    shared = True

    async def open_store(self) -> LmdbJobStore:
        return LmdbJobStore(self.folder / "jobs", size_bytes=1 << 30)
