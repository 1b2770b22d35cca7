"""Log chunks: small ones may be many, large appends are cut, and white space in a line cannot break a chunk."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import asman_sqlite.logs as logs
from asman.testing import make_job
from asman_sqlite.jobs import SqliteJobStore


async def test_line_with_a_line_feed_between_tokens_stays_one_line(tmp_path: Path) -> None:
    lines = [b'["a",\n1]', b'["b",2]']
    async with SqliteJobStore(tmp_path / "jobs.db") as store:
        job = make_job("q")
        await store.save(job, expected=0)
        assert await store.append_log("q", job.job_id, attempt=1, half="run", lines=lines) == 2
        found = await store.read_log("q", job.job_id, half="run")
        assert [json.loads(line) for line in found.lines] == [["a", 1], ["b", 2]]


async def test_large_append_is_cut_into_chunks_of_bounded_size(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteJobStore(path) as store:
        job = make_job("q")
        await store.save(job, expected=0)
        lines = [b'["%s",1]' % (b"x" * 990)] * 1_000
        await store.append_log("q", job.job_id, attempt=1, half="run", lines=lines)
        found = await store.read_log("q", job.job_id, half="run", max_bytes=10 << 20)
        assert found.lines == tuple(lines)
    with sqlite3.connect(path) as connection:
        sizes = [size for (size,) in connection.execute("SELECT size_bytes FROM log_chunks")]
    connection.close()
    assert len(sizes) > 10
    assert max(sizes) <= logs._CHUNK_BYTES


async def test_dropped_lines_leave_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteJobStore(path) as store:
        job = make_job("q")
        await store.save(job, expected=0)
        lines = [b'["%s",1]' % (b"x" * 50_000)] * 40
        for _ in range(8):
            await store.append_log("q", job.job_id, attempt=1, half="run", lines=lines)
        connection = sqlite3.connect(path)
        (kept_bytes,) = connection.execute("SELECT sum(length(lines)) FROM log_chunks").fetchone()
        assert kept_bytes <= 2 * logs._HALF_BYTES
        await store.append_log("q", job.job_id, attempt=2, half="build", lines=[b"[]"])
        assert connection.execute("SELECT count(*) FROM log_chunks").fetchone() == (1,)
        await store.delete("q", job.job_id, expected=1)
        for table in ("jobs", "documents", "memberships", "logs", "log_chunks", "counters"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
        connection.close()
