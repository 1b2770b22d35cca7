"""Jobs that try to take the machine with them: each meets its own limit, and the neighbour does not notice.

Every bomb runs beside a small job on the same worker, which must go on to its end; afterwards the same worker takes
another job. A bomb ends within its time limit, the grace and five seconds. Bombs of disk, inodes and logs are tested
with the limits of ``/outputs`` and of the log.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from typing import Any

import pytest

from asman_worker.executor import Executor
from worker_bench import GRANT, Bench, text_of
from worker_peers import until

pytestmark = [pytest.mark.docker, pytest.mark.slow]

WIDE = replace(GRANT, cores=2, memory_bytes=1 << 30, network="none")
LIMIT_S = 3
LATE_S = 5.0
FORKS = "bomb() { bomb | bomb & }; bomb; exec tail -f /dev/null"
PROFILE_NAMES = ("standard", "strict")


async def beside(
    bench: Bench,
    command: str,
    profile: str = "standard",
    *,
    memory: str = "64m",
    cpus: float = 1,
    ticks: int = 8,
    **definition: Any,
) -> tuple[dict[str, Any], float]:
    """The report of a bomb, and how many seconds after its limit it came; its neighbour must have run to its end."""
    executor = bench.another(replace(WIDE, profile=profile))
    script = f"for n in $(seq {ticks}); do echo tick $n; sleep 0.2; done"
    neighbour = asyncio.create_task(
        bench.run(script, executor, requirements={"cpus": 0.5, "memory": "32m"}, maxDuration="40s")
    )
    await until(lambda: "tick 1\n" in bench.live())
    begun = time.monotonic()
    report = await bench.run(
        ["sh", "-c", command],
        executor,
        requirements={"cpus": cpus, "memory": memory},
        **{"maxDuration": f"{LIMIT_S}s", **definition},
    )
    late_s = time.monotonic() - begun - LIMIT_S - GRANT.stop_grace_s
    told = await neighbour
    assert told["outcome"] == "succeeded"
    assert text_of(told).count("tick") == ticks
    await takes_another_job(bench, executor)
    return report, late_s


async def takes_another_job(bench: Bench, executor: Executor) -> None:
    report = await bench.run("echo still here", executor)
    assert text_of(report) == "still here\n"
    await bench.settle()
    assert await bench.containers() == []


@pytest.mark.parametrize("profile", PROFILE_NAMES)
async def test_a_fork_bomb_fills_its_own_table_only(bench: Bench, profile: str) -> None:
    report, late_s = await beside(bench, FORKS, profile, memory="768m", ticks=25)
    assert (report["reason"], report["outcome"]) == ("TimedOut", "timed_out")
    assert late_s < LATE_S


async def test_a_fork_bomb_meets_the_owners_number_of_processes(bench: Bench) -> None:
    tight = bench.another(replace(WIDE, pids=16))
    script = "n=0; while [ $n -lt 64 ]; do n=$((n+1)); sleep 9 & done; wait"
    report = await bench.run(script, tight, maxDuration="20s")
    assert report["outcome"] == "failed"
    assert "fork" in text_of(report, stderr=True)


@pytest.mark.parametrize("profile", PROFILE_NAMES)
async def test_a_memory_bomb_ends_as_out_of_memory(bench: Bench, profile: str) -> None:
    report, late_s = await beside(bench, "exec tail /dev/zero", profile, maxDuration="30s")
    assert (report["reason"], report["outcome"]) == ("Success", "out_of_memory")
    assert (report["result"]["StatusCode"], report["result"]["oomKilled"]) == (137, True)
    assert "64.0 MiB" in text_of(report, stderr=True)
    assert late_s < LATE_S


async def test_a_shell_outlives_its_child_that_took_too_much_and_the_report_says_so(bench: Bench) -> None:
    report, _ = await beside(bench, "tail /dev/zero; echo child: $?; exit 3", maxDuration="30s")
    assert text_of(report) == "child: 137\n"
    assert (report["outcome"], report["result"]["StatusCode"], report["result"]["oomKilled"]) == ("failed", 3, True)
    assert "out of memory" in text_of(report, stderr=True)


async def test_a_job_that_gets_over_a_killed_child_has_succeeded(bench: Bench) -> None:
    report, _ = await beside(bench, "tail /dev/zero || echo went on", maxDuration="30s")
    assert (report["outcome"], report["result"]["oomKilled"]) == ("succeeded", True)
    assert text_of(report) == "went on\n"


CPU_SCRIPT = """
used() { cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2> /dev/null \
  || awk '$1 == "usage_usec" { print $2 * 1000 }' /sys/fs/cgroup/cpu.stat; }
stat() { cat /sys/fs/cgroup/cpu/cpu.stat 2> /dev/null || cat /sys/fs/cgroup/cpu.stat; }
periods() { stat | awk '$1 == "nr_periods" { print $2 }'; }
(while :; do :; done) & (while :; do :; done) &
a=$(used); p=$(periods)
while [ $(($(periods) - p)) -lt 20 ]; do :; done
b=$(used); q=$(periods)
echo "used $((b - a)) ns in $((q - p)) periods, throttled $(stat | awk '$1 == "nr_throttled" { print $2 }')"
kill %1 %2
"""


async def test_a_busy_loop_gets_the_cores_it_asked_for_by_the_kernels_own_count(bench: Bench) -> None:
    report, _ = await beside(bench, CPU_SCRIPT, cpus=0.5, maxDuration="40s")
    found = re.fullmatch(r"used (\d+) ns in (\d+) periods, throttled (\d+)\n", text_of(report))
    assert found, report
    used_ns, periods, throttled = map(int, found.groups())
    assert used_ns / (periods * 100e6) < 0.6, "cores, over periods of 100 ms; half a core was asked for"
    assert throttled > 0


async def test_files_are_opened_up_to_the_limit(bench: Bench) -> None:
    script = 'awk \'BEGIN { for (n = 0; n < 99999; n++) { f = "/tmp/" n; printf "" > f } }\'; ls /tmp | wc -l'
    report, _ = await beside(bench, script, "strict", memory="256m", maxDuration="30s")
    assert "open files" in text_of(report, stderr=True)
    assert 4000 < int(text_of(report)) < 4097


@pytest.mark.parametrize("profile", PROFILE_NAMES)
async def test_shared_memory_is_full_at_half_of_the_memory(bench: Bench, profile: str) -> None:
    script = "dd if=/dev/zero of=/dev/shm/x bs=1M; wc -c < /dev/shm/x"
    report, _ = await beside(bench, script, profile, shmSize="900m", maxDuration="30s")
    assert int(text_of(report)) == 32 << 20
    assert "error" in text_of(report, stderr=True)


async def test_all_memory_disks_together_meet_the_jobs_memory(bench: Bench) -> None:
    places = "/tmp /var/tmp /run /home /job-cache /dev/shm"
    script = f"for place in {places}; do dd if=/dev/zero of=$place/x bs=1M; done; du -sk {places}"
    report, late_s = await beside(bench, script, "strict", maxDuration="30s")
    assert report["result"]["oomKilled"] is True
    assert late_s < LATE_S


async def test_a_job_that_ignores_being_told_to_stop_is_killed_after_its_grace(bench: Bench) -> None:
    report, late_s = await beside(bench, "trap '' TERM INT HUP QUIT; while :; do sleep 1; done")
    assert (report["outcome"], report["result"]["StatusCode"]) == ("timed_out", 137)
    assert late_s < LATE_S
