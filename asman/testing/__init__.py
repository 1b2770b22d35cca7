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
must reach the same data each time, and two that it gave may be open at once in this process, as two servers would be;
``self.folder`` is an empty folder of that test's own. A test of an ability that
your backend does not claim is skipped with a sentence. ``BlobStoreKit`` and ``NotifierKit`` work the same way.

Each sentence about a method in ``asman.abc`` has a test here. The kits use names of their own (a random queue,
random ids), so they can be run against a store that holds data: ``asman backend check URL`` does that, and tells of
each failure what was promised, called, expected and what happened. ``await check_backend(url, plugins=[module])``
does the same for a module that is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from asman.testing.blob_store import BlobStoreKit
    from asman.testing.check import check_backend
    from asman.testing.clock import FakeClock
    from asman.testing.fixtures import chunked, fresh_id, joined, make_job, rich_job
    from asman.testing.job_store import JobStoreKit
    from asman.testing.notifier import NotifierKit

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

_KITS = ("abilities", "blob_store", "job_store", "log_store", "notifier", "stateful")
_HOMES = {
    "BlobStoreKit": "blob_store",
    "FakeClock": "clock",
    "JobStoreKit": "job_store",
    "NotifierKit": "notifier",
    "check_backend": "check",
    **dict.fromkeys(("chunked", "fresh_id", "joined", "make_job", "rich_job"), "fixtures"),
}


def __getattr__(name: str) -> Any:
    """Load what is asked for. A kit that is loaded before pytest has started could not show the values it compared."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    pytest.register_assert_rewrite(*(f"{__name__}.{kit}" for kit in _KITS))
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
