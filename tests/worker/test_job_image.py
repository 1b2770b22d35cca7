"""Whole jobs whose image is built: the image, the log apart from the run's, and what is left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import tarfile
from dataclasses import replace
from typing import Any

import pytest

from asman_worker.builder import BUILD_STEP, CLONE_STEP
from asman_worker.docker import Engine
from docker_engine import IMAGE
from worker_bench import GRANT, Bench, text_of
from worker_peers import until

pytestmark = pytest.mark.docker

FROM = f"FROM {IMAGE}\n"


async def test_a_job_runs_in_the_image_that_it_describes(bench: Bench) -> None:
    build = {"dockerfile": FROM + "ARG WHO\nRUN echo built for $WHO > /made\n", "buildArgs": ["WHO=a job"]}
    report = await bench.run("cat /made", build=build)
    assert (report["outcome"], text_of(report)) == ("succeeded", "built for a job\n")
    assert "RUN echo built for" in bench.live(BUILD_STEP)
    (kept,) = [item for item in bench.executor.stock.items() if item.name.startswith("asman-build:")]
    assert kept.size_bytes > 0
    assert bench.live() == "built for a job\n"
    await bench.settle()
    assert [file for file in bench.files() if "builds" in file.parts] == []
    assert await bench.containers() == []


async def test_an_archive_from_a_blob_is_a_context(bench: Bench) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in {"top/Dockerfile": f"{FROM}COPY word /word\n", "top/word": "from the archive\n"}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    url = f"{bench.blobs.url}/f/{bench.blobs.add(packed.getvalue())}"
    report = await bench.run("cat /word", build={"context": url})
    assert (report["outcome"], text_of(report)) == ("succeeded", "from the archive\n"), report
    assert bench.live(CLONE_STEP)
    await bench.settle()
    assert bench.files() == []


async def test_a_failed_build_ends_the_job_and_its_last_lines_are_in_the_result(bench: Bench) -> None:
    report = await bench.run("true", build={"dockerfile": FROM + "RUN echo the reason; exit 9\n"})
    assert (report["reason"], report["outcome"]) == ("Error", "error")
    assert report["result"]["error"].startswith("[asman] step build failed: ")
    assert report["result"]["errorCode"] == "build_failed"
    assert "code: 9" in report["result"]["error"]
    assert "the reason" in text_of(report, stderr=True)


@pytest.mark.parametrize(("changes", "allowed"), [({}, False), ({"build": True}, True)])
async def test_strict_builds_only_if_its_owner_says_so(bench: Bench, changes: dict[str, Any], allowed: bool) -> None:
    executor = bench.another(replace(GRANT, profile="strict", **changes))
    report = await bench.run("cat /f", executor, build={"dockerfile": FROM + "RUN echo x > /f\n"})
    assert (report["outcome"] == "succeeded") is allowed, report
    if not allowed:
        assert "does not allow" in report["result"]["error"]


async def test_a_build_takes_no_more_memory_than_the_job(bench: Bench) -> None:
    build = {"dockerfile": FROM + "RUN dd if=/dev/zero of=/dev/null bs=100M count=1\n"}
    report = await bench.run("true", build=build, requirements={"memory": "32m"})
    assert "137" in report["result"]["error"]
    assert "32.0 MiB" in report["result"]["error"]


async def test_a_job_in_a_built_image_is_taken_up_again(bench: Bench, docker_host: str) -> None:
    """Its files belong to root, and its image is asked to open them up: known from the container alone."""
    build = {"dockerfile": FROM + "RUN echo taken up > /w\n"}
    command = ["sh", "-c", "cat /w; sleep 3; (umask 077; cp /w /outputs/o); echo end"]
    assignment = bench.assignment({"command": command, "build": build})
    first = asyncio.create_task(bench.executor.run(assignment, bench.log))
    await until(lambda: "taken up" in bench.live())
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    async with Engine(docker_host):
        report = await bench.another().resume(assignment, bench.log)
    assert report is not None
    assert (report["outcome"], text_of(report)) == ("succeeded", "taken up\nend\n")
    assert set(report["result"]["outputs"]) == {"o"}


async def test_sources_that_a_crash_left_are_removed(bench: Bench) -> None:
    await bench.run("true", build={"dockerfile": FROM + "RUN true\n"})
    (folder,) = (bench.data / "builds").iterdir()
    left = folder / "of-an-earlier-process"
    left.mkdir()
    (left / "context.tar").write_bytes(b"x")
    await bench.executor.clean(set())
    assert not left.exists()
    assert len(list(folder.iterdir())) == 1


async def test_the_steps_of_a_build_are_fenced_in_as_its_job_is(bench: Bench) -> None:
    """Their one way out is the gate of a guard, which is the build's own and gone afterwards."""
    build = {"dockerfile": FROM + "RUN ip route > /routes\n"}
    report = await bench.run("cat /routes", build=build)
    assert report["outcome"] == "succeeded", report
    assert text_of(report).split() == ["default", "via", "192.0.0.8", "dev", "eth0", "onlink"]
    await bench.settle()
    filters = json.dumps({"label": ["asman.guard", f"asman.helper={bench.worker_id}"]})
    guards = await bench.engine.call("GET", "containers/json", {"all": "1", "filters": filters})
    assert [guard["Names"] for guard in guards] == []
