"""Jobs that try to take the whole disk or the worker's memory: each ends at its limit, and its neighbour goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asman_worker import quota
from asman_worker.executor import Executor
from worker_bench import GRANT, Bench, text_of
from worker_peers import until

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(
        bool(quota.what_is_missing()), reason=f"needs root and e2fsprogs, mount: {quota.what_is_missing()}"
    ),
]

MIB = 1 << 20
SMALL = replace(GRANT, max_output_bytes=16 * MIB, max_output_files=500, max_layer_bytes=16 * MIB)
SOON_S = 8.0
"""The limit is reached within moments; five seconds more is the bar, the rest is the machine's."""


@contextlib.asynccontextmanager
async def neighbour(bench: Bench, executor: Executor) -> AsyncIterator[None]:
    """A job that runs all the time beside the block, and does its work."""
    given = bench.assignment({"command": "echo here; while [ ! -e /outputs/end ]; do sleep 0.1; done; echo fine"})
    running = bench.begin(given, executor)
    await until(lambda: "here" in bench.live())
    yield
    assert not running.done()
    (folder,) = bench.data.glob(f"jobs/*/*/{given.job_id}/1/outputs")
    (folder / "end").touch()
    report = await asyncio.wait_for(running, 20)
    assert (report["outcome"], text_of(report)) == ("succeeded", "here\nfine\n")


async def bomb(bench: Bench, script: str, executor: Executor) -> dict[str, Any]:
    async with neighbour(bench, executor):
        return await bench.run(script, executor)


@pytest.mark.parametrize(
    "write",
    [
        "head -c 1000000 /dev/zero > /outputs/$n",
        "head -c 1000000 /dev/zero >> /outputs/$((n % 3))",
        "mkdir -p /outputs/$n; head -c 100000 /dev/zero > /outputs/$n/x",
        "for i in 1 2 3 4 5 6 7 8 9; do echo $n > /outputs/$n.$i; done; head -c 200000 /dev/zero >> /outputs/large",
    ],
)
async def test_a_disk_bomb_in_outputs_ends_at_the_limit(bench: Bench, write: str) -> None:
    report = await bomb(bench, f"n=0; while :; do n=$((n+1)); {write}; done", bench.another(SMALL))
    result = report["result"]
    assert (report["reason"], report["outcome"], result["errorCode"]) == ("Error", "error", "outputs_too_large")
    assert result["duration"] < SOON_S * 1000
    assert result["outputs"]
    assert sum(map(len, bench.blobs.blobs.values())) <= SMALL.max_output_bytes


@pytest.mark.parametrize("make", [": > /outputs/$n", "mkdir /outputs/$n", "ln -s x /outputs/$n"])
async def test_an_inode_bomb_in_outputs_ends_at_the_limit(bench: Bench, make: str) -> None:
    report = await bomb(bench, f"n=0; while :; do n=$((n+1)); {make}; done", bench.another(SMALL))
    result = report["result"]
    assert (report["outcome"], result["errorCode"]) == ("error", "outputs_too_large")
    assert "500 files" in result["error"]
    assert result["duration"] < SOON_S * 1000
    assert len(result["outputs"]) <= 500


async def test_a_job_that_meets_the_limit_and_ends_by_itself_keeps_its_word_and_its_outputs(bench: Bench) -> None:
    script = "head -c 4000000 /dev/zero > /outputs/a; dd if=/dev/zero of=/outputs/b bs=1M count=99 || exit 3"
    report = await bomb(bench, script, bench.another(replace(SMALL, profile="trusted")))
    result = report["result"]
    assert (report["outcome"], result["errorCode"], result["StatusCode"]) == ("error", "outputs_too_large", 3)
    assert "No space left" in text_of(report, stderr=True)
    assert "a" in result["outputs"]


async def test_a_job_that_makes_room_again_in_time_succeeds(bench: Bench) -> None:
    script = "while head -c 1000000 /dev/zero >> /outputs/x; do :; done; rm /outputs/x; echo y > /outputs/y"
    report = await bomb(bench, script, bench.another(replace(SMALL, profile="trusted")))
    assert report["outcome"] == "succeeded"
    assert list(report["result"]["outputs"]) == ["y"]


async def test_a_sparse_file_counts_with_its_whole_size_because_that_is_what_is_sent(bench: Bench) -> None:
    report = await bomb(bench, "truncate -s 1G /outputs/x", bench.another(replace(SMALL, profile="trusted")))
    result = report["result"]
    assert (report["outcome"], result["errorCode"], result["outputs"]) == ("error", "outputs_too_large", {})


@pytest.mark.parametrize("write", ["truncate -s 1G /outputs/x", "head -c 99000000 /dev/zero > /outputs/x"])
async def test_one_file_of_an_ordinary_job_ends_at_the_limit_by_a_signal(bench: Bench, write: str) -> None:
    report = await bomb(bench, write, bench.another(SMALL))
    assert (report["outcome"], report["result"]["StatusCode"]) == ("failed", 128 + signal.SIGXFSZ)


@pytest.mark.parametrize("write", ["head -c 1000000 /dev/zero > /tmp/$n", "head -c 1000000 /dev/zero >> /x"])
async def test_a_disk_bomb_in_the_root_file_system_ends_near_the_limit(bench: Bench, write: str) -> None:
    roomy = replace(SMALL, max_output_bytes=1 << 30)
    script = f"n=0; while :; do n=$((n+1)); {write}; sleep 0.02; done"
    report = await bomb(bench, script, bench.another(roomy))
    result = report["result"]
    assert (report["outcome"], result["errorCode"]) == ("error", "disk_limit")
    assert result["duration"] < SOON_S * 1000


async def test_a_small_write_a_thousand_times_is_no_bomb(bench: Bench) -> None:
    script = "n=0; while [ $n -lt 3000 ]; do n=$((n+1)); echo $n >> /outputs/x; done; sync"
    report = await bomb(bench, script, bench.another(SMALL))
    assert report["outcome"] == "succeeded"


async def test_nothing_is_left_of_a_bomb(bench: Bench) -> None:
    await bomb(bench, "head -c 99000000 /dev/zero > /outputs/x", bench.another(SMALL))
    await bench.settle()
    assert bench.files() == []
    assert str(bench.data) not in Path("/proc/self/mountinfo").read_text()  # noqa: ASYNC240 - no disk is asked


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _log_bytes(data_root: Path) -> int:
    """What containers' logs have on the engine's disk."""
    total = 0
    for file in data_root.glob("containers/*/local-logs/*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "least_dropped"),
    [
        ("yes", 0),  # so many lines that a slow engine may take ten seconds for fewer than are kept
        ("yes $(head -c 2000 /dev/zero | tr '\\0' x)", 10 * MIB),
    ],
)
async def test_a_flood_of_log_lines_costs_bounded_memory_and_disk_and_is_marked(
    bench: Bench, words: str, least_dropped: int
) -> None:
    data_root = Path((await bench.engine.ask("GET", "info"))["DockerRootDir"])
    before = _resident_bytes()
    most_memory, most_disk, longest_gap = 0, 0, 0.0
    flood = asyncio.create_task(bomb(bench, f"timeout 10 {words}; echo over", bench.executor))
    looked_at = time.monotonic()
    while not flood.done():
        most_memory = max(most_memory, _resident_bytes() - before)
        most_disk = max(most_disk, _log_bytes(data_root))
        await asyncio.wait([flood], timeout=0.05)
        longest_gap = max(longest_gap, time.monotonic() - looked_at)
        looked_at = time.monotonic()
    report = await flood
    result = report["result"]
    assert report["outcome"] == "succeeded"
    assert 10_000 <= result["duration"] < 20_000, "the job had to wait for its log to be read"
    assert most_memory < 200 * MIB
    assert most_disk < 12 * MIB
    assert os.access(data_root, os.R_OK)
    dropped = result.get("logsDropped", 0)
    assert dropped >= least_dropped
    assert ("bytes of output were dropped here" in text_of(report, stderr=True)) is (dropped > 0)
    assert ("the job writes faster than logs are sent" in bench.live()) or not dropped
    assert text_of(report).endswith("over\n")
    assert sum(len(line[0]) for line in result["logs"]) < 9 * MIB
    assert longest_gap < 5.0, "everything else in the worker stood still"
