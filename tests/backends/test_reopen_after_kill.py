"""What was acknowledged is there after SIGKILL, at whatever moment it came.

A child process writes as fast as it can and prints each name when its write was acknowledged. It is killed in the
middle, ten times over the same data; everything that it printed must be found, whole, by who opens the data next.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from asman.job import State
from asman.testing import joined
from asman_filesystem.blobs import FileBlobStore
from asman_sqlite.jobs import SqliteJobStore

KILLS = 10

SAVER = """
import asyncio, sys
from asman.testing.fixtures import fresh_id, make_job
from asman_sqlite.jobs import SqliteJobStore

async def save(store, writer):
    number = 0
    while True:
        job = make_job("q", fresh_id(), queued_at=float(number), namespaces=(("a", 1.0), ("b", 1.0)))
        await store.save(job, expected=0, documents={"definition": job.job_id.encode()})
        await store.append_log("q", job.job_id, attempt=1, half="run", lines=[job.job_id.encode()])
        sys.stdout.write(job.job_id + "\\n")
        sys.stdout.flush()
        number += 1

async def main(path):
    async with SqliteJobStore(path) as store:
        await asyncio.gather(*(save(store, n) for n in range(16)))

asyncio.run(main(sys.argv[1]))
"""

UPLOADER = """
import asyncio, hashlib, os, sys
from asman.testing.fixtures import chunked
from asman_filesystem.blobs import FileBlobStore

async def upload(store, writer):
    while True:
        data = os.urandom(200_000)
        key = hashlib.sha256(data).hexdigest()
        await store.put(key, chunked(data), expires_at=4e9, sha256=key)
        sys.stdout.write(key + "\\n")
        sys.stdout.flush()

async def main(path):
    async with FileBlobStore(path) as store:
        await asyncio.gather(*(upload(store, n) for n in range(4)))

asyncio.run(main(sys.argv[1]))
"""


def killed_in_the_middle(code: str, path: Path, after: int) -> list[str]:
    """Run it, kill it when it has acknowledged so many writes, and answer with all that it acknowledged."""
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(after)]
        os.kill(child.pid, signal.SIGKILL)
        lines += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL, "it did not live until it was killed"
    return [line.strip() for line in lines if line.endswith("\n")]


async def test_every_acknowledged_save_is_there_after_sigkill(tmp_path: Path) -> None:
    chance = random.Random(11)
    acknowledged: list[str] = []
    for _ in range(KILLS):
        acknowledged += killed_in_the_middle(SAVER, tmp_path / "jobs.db", chance.randrange(1, 300))
        async with SqliteJobStore(tmp_path / "jobs.db") as store:
            await _check_jobs(store, set(acknowledged))
    assert len(acknowledged) > KILLS


async def _check_jobs(store: SqliteJobStore, acknowledged: set[str]) -> None:
    listed = await store.list("q", states=[State.QUEUED], limit=1_000_000)
    assert acknowledged <= {job.job_id for job in listed}
    assert sum((await store.counts("q")).values()) == len(listed), "counters and rows disagree"
    assert len(await store.in_namespace("q", "b", limit=1_000_000)) == len(listed)
    for job in listed:
        assert await store.document("q", job.job_id, "definition") == job.job_id.encode()
        log = await store.read_log("q", job.job_id, half="run")
        assert log.total == 1 or job.job_id not in acknowledged


async def test_every_acknowledged_blob_is_there_after_sigkill(tmp_path: Path) -> None:
    chance = random.Random(12)
    acknowledged: list[str] = []
    for _ in range(KILLS):
        acknowledged += killed_in_the_middle(UPLOADER, tmp_path / "blobs", chance.randrange(1, 40))
    async with FileBlobStore(tmp_path / "blobs") as store:
        for key in acknowledged:
            info = await store.stat(key)
            assert info is not None
            assert info.size_bytes == 200_000
        for path in (tmp_path / "blobs").glob("[0-9a-f][0-9a-f]/*"):
            await _check_blob(store, path.name)


async def _check_blob(store: FileBlobStore, key: str) -> None:
    """What has a name is whole, acknowledged or not."""
    assert hashlib.sha256(await joined(await store.get(key))).hexdigest() == key
