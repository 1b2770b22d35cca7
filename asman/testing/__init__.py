"""The exam every backend takes: ours, and yours. Needs the extra ``testing``.

Subclass a kit in a test module of your own and write its factory, nothing else::

    from asman.testing import JobStoreKit
    from asman_mine import MyJobStore

    class TestMine(JobStoreKit):
        durable = True    # what was saved is there after close and open
        shared = True     # two opened at once see the same data, as two servers would

        async def open_store(self) -> MyJobStore:
            return MyJobStore(self.folder / "jobs.db")

Run it with pytest; the kits are asynchronous and bring their own marks for ``pytest-asyncio``.

The factory answers with a store that has not been entered yet. Within one test it may be called several times and
must reach the same data each time; ``self.folder`` is an empty folder of that test's own. A test of an ability that
your backend does not claim is skipped with a sentence. ``BlobStoreKit`` and ``NotifierKit`` work the same way.

Each sentence about a method in ``asman.abc`` has a test here. The kits use names of their own (a random queue,
random ids), so they can be run against a store that holds data: ``asman backend check URL`` does that.
"""

import pytest

pytest.register_assert_rewrite(
    "asman.testing.blob_store",
    "asman.testing.job_store",
    "asman.testing.log_store",
    "asman.testing.notifier",
    "asman.testing.stateful",
)

from asman.testing.blob_store import BlobStoreKit  # noqa: E402 - after the rewrite, so that failures show values
from asman.testing.check import check_backend  # noqa: E402
from asman.testing.clock import FakeClock  # noqa: E402
from asman.testing.fixtures import chunked, fresh_id, joined, make_job, rich_job  # noqa: E402
from asman.testing.job_store import JobStoreKit  # noqa: E402
from asman.testing.notifier import NotifierKit  # noqa: E402

__all__ = [
    "BlobStoreKit",
    "FakeClock",
    "JobStoreKit",
    "NotifierKit",
    "check_backend",
    "chunked",
    "fresh_id",
    "joined",
    "make_job",
    "rich_job",
]
