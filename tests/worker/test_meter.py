"""What a running job uses, and its end at a limit that only looking holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from asman_worker import quota
from asman_worker.container import cache_volume
from asman_worker.meter import filled_up, peak_file, peak_of
from docker_engine import DockerEngine
from worker_bench import GRANT, QUEUE, Bench, text_of
from worker_peers import until

MIB = 1 << 20
docker = pytest.mark.docker


def test_the_peak_is_the_kernels_where_it_keeps_one() -> None:
    assert peak_of({"memory_stats": {"usage": 5, "max_usage": 9}}) == 9
    assert peak_of({"memory_stats": {"usage": 5}}) == 5
    assert peak_of({"memory_stats": {}}) == peak_of({"memory_stats": None}) == peak_of({}) == 0


def test_the_file_of_the_peak_is_found_by_the_containers_group() -> None:
    expected = Path("/sys/fs/cgroup/system.slice/docker-abc123.scope/memory.peak")
    assert peak_file("0::/system.slice/docker-abc123.scope\n", "abc123") == expected
    assert peak_file("0::/system.slice/docker-other.scope\n", "abc123") is None
    assert peak_file("9:memory:/docker/abc123\n", "abc123") is None
    assert peak_file("", "abc123") is None


def test_full_outputs_say_what_is_allowed() -> None:
    error = filled_up(replace(GRANT, max_output_bytes=MIB, max_output_files=7))
    assert (error.code, error.scan) == ("outputs_too_large", None)
    assert "1.0 MiB" in error.message
    assert "7 files" in error.message


@docker
async def test_the_peak_of_memory_is_reported(bench: Bench) -> None:
    script = "sh -c 'x=$(head -c 40000000 /dev/zero | tr \"\\\\0\" y); sleep 4'"
    report = await bench.run(script, requirements={"memory": "200m"})
    assert report["outcome"] == "succeeded"
    assert 40_000_000 < report["result"]["peakMemoryBytes"] <= 200 * MIB


@docker
async def test_a_job_that_ran_out_of_memory_had_all_of_it(bench: Bench) -> None:
    report = await bench.run("tail /dev/zero", requirements={"memory": "16m"})
    assert report["outcome"] == "out_of_memory"
    assert report["result"]["peakMemoryBytes"] == 16 * MIB


@docker
async def test_a_container_that_writes_too_much_elsewhere_is_ended(bench: Bench) -> None:
    small = bench.another(replace(GRANT, max_layer_bytes=8 * MIB))
    script = "echo kept > /outputs/k; while :; do head -c 1000000 /dev/zero >> /big; sleep 0.05; done"
    report = await bench.run(script, small)
    result = report["result"]
    assert (report["outcome"], result["errorCode"]) == ("error", "disk_limit")
    assert "8.0 MiB" in result["error"]
    assert result["duration"] < 20_000
    assert list(result["outputs"]) == ["k"]


@docker
async def test_outputs_without_a_file_system_of_their_own_are_watched(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(quota, "_TOOLS_PATH", str(tmp_path / "no-tools"))
    small = bench.another(replace(GRANT, max_output_bytes=MIB))
    assert not (await small.abilities()).mounts
    script = "n=0; while :; do n=$((n+1)); head -c 500000 /dev/zero > /outputs/$n; sleep 0.2; done"
    report = await bench.run(script, small)
    result = report["result"]
    assert (report["outcome"], result["errorCode"]) == ("error", "outputs_too_large")
    assert "more than 1.0 MiB in /outputs" in result["error"]
    assert len(result["outputs"]) == 2


@docker
async def test_what_a_job_has_on_disk_is_counted_with_its_queues_cache(
    bench: Bench, docker_engine: DockerEngine
) -> None:
    script = (
        "head -c 3000000 /dev/zero > /outputs/o; head -c 5000000 /dev/zero > /layer; "
        "head -c 7000000 /dev/zero > /job-cache/c; sync; echo up; sleep 60"
    )
    assignment = bench.assignment({"command": script})
    running = bench.begin(assignment)
    await until(lambda: "up" in bench.live())
    use = await bench.executor.disk_use()
    assert list(use) == [assignment.key]
    assert 15_000_000 <= use[assignment.key] < 20_000_000
    await bench.executor.stop(*assignment.key)
    await running
    await bench.settle()
    assert docker_engine.request("DELETE", f"/volumes/{cache_volume(QUEUE)}")[0] == 204


@docker
async def test_short_jobs_are_not_measured_and_say_nothing(bench: Bench) -> None:
    report = await bench.run("echo quick")
    assert text_of(report) == "quick\n"
    assert report["result"].get("peakMemoryBytes", 1) > 0
