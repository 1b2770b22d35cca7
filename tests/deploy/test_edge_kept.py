"""The blob store of hosts without threads takes the whole exam, on this Python, where it is the same code.

The job store beside it is ``asman_sqlite``'s own, and is tested there.
"""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

from asman.config import Config
from asman.job import Job, State
from asman.testing import BlobStoreKit, chunked, joined
from asman_edge.kept import Kept, KeptBlobStore

FAR = 4_000_000_000.0


class TestKeptBlobStore(BlobStoreKit):
    durable = True

    async def open_store(self) -> KeptBlobStore:
        return KeptBlobStore(str(self.folder / "blobs.db"))


async def test_what_was_left_of_an_upload_is_removed_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "blobs.db"
    data = b"whole" * 100_000
    key = hashlib.sha256(data).hexdigest()
    async with KeptBlobStore(str(path)) as store:
        await store.put(key, chunked(data), expires_at=FAR)
    with sqlite3.connect(path) as broken:
        broken.execute("INSERT INTO blob (number) VALUES (77)")
        broken.execute("INSERT INTO piece VALUES (77, 0, zeroblob(1000000))")
    async with KeptBlobStore(str(path)) as store:
        assert await joined(await store.get(key)) == data
    with sqlite3.connect(path) as looked:
        assert looked.execute("SELECT count(*) FROM piece WHERE blob = 77").fetchone() == (0,)
        assert looked.execute("SELECT key FROM blob").fetchall() == [(key,)]


async def test_the_file_shrinks_when_blobs_go(tmp_path: Path) -> None:
    path = tmp_path / "blobs.db"
    async with KeptBlobStore(str(path)) as store:
        for n in range(4):
            await store.put(f"b{n}", chunked(bytes([n]) * 1_000_000), expires_at=FAR)
    full = path.stat().st_size
    assert full > 4_000_000
    async with KeptBlobStore(str(path)) as store:
        assert await store.prune(FAR + 1) == 4
    assert path.stat().st_size < full / 4


async def test_nobody_hears_of_a_stored_job_before_it_was_brought_to_the_disk(tmp_path: Path) -> None:
    flushed = []
    hooks = Kept(lambda: flushed.append(1))
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    store = hooks.asman_job_store(url, Config())
    assert store is not None
    async with store:
        before = len(flushed)
        await store.save(Job(queue="q", job_id="0" * 64, version=1, state=State.QUEUED), expected=0)
        assert len(flushed) > before
    assert store.durability == "disk"
    assert hooks.asman_job_store("memory:", Config()) is None
    assert isinstance(hooks.asman_blob_store(url, Config()), KeptBlobStore)
    assert hooks.asman_blob_store("memory:", Config()) is None
