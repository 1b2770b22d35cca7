"""What only this store can do wrong: a full file, a folder of somebody else's, other processes, the plug pulled."""

import asyncio
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest

from asman.errors import ConfigError, StorageFull, Unavailable
from asman.testing import make_job
from asman_lmdb.jobs import LmdbJobStore


async def test_full_store_refuses_changes_nothing_and_goes_on(tmp_path: Path) -> None:
    async with LmdbJobStore(tmp_path, size_bytes=1 << 20) as store:
        job = make_job("q")
        await store.save(job, expected=0)
        large = store.save(replace(job, version=2), expected=1, documents={"result": b"x" * (2 << 20)})
        small = store.save(make_job("q"), expected=0)
        refused, saved = await asyncio.gather(large, small, return_exceptions=True)
        assert isinstance(refused, StorageFull)
        assert saved is None
        assert await store.load("q", job.job_id) == job
        assert await store.document("q", job.job_id, "result") is None
        assert sum((await store.counts("q")).values()) == 2


async def test_folder_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path)) as env, env.begin(write=True) as txn:
        txn.put(b"theirs", b"1")
    with pytest.raises(ConfigError, match="another program's data"):
        async with LmdbJobStore(tmp_path):
            pass
    with lmdb.open(str(tmp_path)) as env, env.begin() as txn:
        assert list(txn.cursor()) == [(b"theirs", b"1")]


async def test_file_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path)) as env, env.begin(write=True) as txn:
        txn.put(b"v", b"2")
    with pytest.raises(ConfigError, match="form 2 of a newer asman-lmdb"):
        async with LmdbJobStore(tmp_path):
            pass


async def test_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"text" * 10_000)
    with pytest.raises(ConfigError, match="cannot open"):
        async with LmdbJobStore(tmp_path):
            pass


async def test_closed_store_says_so(tmp_path: Path) -> None:
    async with LmdbJobStore(tmp_path) as store:
        pass
    with pytest.raises(Unavailable, match="closed"):
        await store.load("q", "x")
    with pytest.raises(Unavailable, match="closed"):
        await store.save(make_job("q"), expected=0)


WRITER = """
import asyncio, sys
from asman.testing import make_job
from asman_lmdb.jobs import LmdbJobStore

async def main():
    async with LmdbJobStore(sys.argv[1]) as store:
        while True:
            job = make_job("q")
            await store.save(job, expected=0, documents={"definition": b"d"})
            print(job.job_id, flush=True)

asyncio.run(main())
"""


def write_and_be_killed(folder: Path) -> list[str]:
    """The ids that the process was told are saved."""
    with subprocess.Popen([sys.executable, "-c", WRITER, folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        return [*told, *(line for line in process.stdout.read().split("\n")[:-1])]


async def test_what_a_killed_process_was_told_is_saved_is_there(tmp_path: Path) -> None:
    async with LmdbJobStore(tmp_path) as store:  # beside it: another process on the same folder
        for job_id in await asyncio.to_thread(write_and_be_killed, tmp_path):
            assert await store.load("q", job_id) is not None
            assert await store.document("q", job_id, "definition") == b"d"
