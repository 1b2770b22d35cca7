"""What ordinary jobs do has to work in spite of the hardening: real programs, in a Debian image made on the spot.

Each row of ``PROGRAMS`` is one thing that people do in containers, run under ``standard`` and, where it can, under
``strict``; what cannot work there says why. Left out: ``conda``, which Debian does not have and which needs a network
(it unpacks archives as root, as ``apt`` and ``pip`` do here), and a GPU, which has tests of its own.
"""

from __future__ import annotations

import asyncio
import base64
import re
from dataclasses import replace
from typing import Any

import pytest

from asman_worker.executor import Executor
from container_programs import PROGRAMS, Program
from docker_engine import DockerEngine
from worker_bench import GRANT, Bench, text_of

pytestmark = [pytest.mark.docker, pytest.mark.slow]

IMAGE_S = pytest.mark.timeout(1500)
"""The first test that needs it waits for the Debian image."""


async def run(bench: Bench, profile: str, image: str, program: Program) -> dict[str, Any]:
    executor = bench.another(replace(GRANT, profile=profile, network="none"))
    return await bench.run(
        ["bash", "-c", program.script],
        executor,
        image=image,
        inputs={name: {"value": text} for name, text in program.files.items()},
        requirements={"cpus": 2, "memory": program.memory},
        maxDuration="50s",
    )


@IMAGE_S
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
async def test_it_works_under_the_standard_profile(bench: Bench, debian_image: str, program: Program) -> None:
    report = await run(bench, "standard", debian_image, program)
    assert report["outcome"] == "succeeded", report
    assert re.search(program.shows, text_of(report), re.MULTILINE), report


@IMAGE_S
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
async def test_it_works_under_the_strict_profile_or_says_why_not(
    bench: Bench, debian_image: str, program: Program
) -> None:
    report = await run(bench, "strict", debian_image, program)
    if program.not_strict:
        assert report["outcome"] == "failed", f"it works now, so that it does not because {program.not_strict} is wrong"
    else:
        assert report["outcome"] == "succeeded", report
        assert re.search(program.shows, text_of(report), re.MULTILINE), report


@IMAGE_S
@pytest.mark.parametrize("profile", ["standard", "strict"])
async def test_an_image_with_a_user_of_its_own_works(
    bench: Bench, docker_engine: DockerEngine, debian_image: str, profile: str
) -> None:
    container = await bench.engine.create({"Image": debian_image})
    changes = "repo=asman-test-debian&tag=user&changes=USER%201000:1000&changes=WORKDIR%20/tmp"
    assert docker_engine.request("POST", f"/commit?container={container}&{changes}")[0] == 201
    await bench.engine.remove(container)
    program = Program(name="", script="id -u; pwd; cat /inputs/i; echo o > /outputs/o", shows="", files={"i": "in\n"})
    report = await run(bench, profile, "asman-test-debian:user", program)
    assert text_of(report) == "1000\n/tmp\nin\n"
    assert list(report["result"]["outputs"]) == ["o"]


@IMAGE_S
@pytest.mark.parametrize("profile", ["standard", "strict"])
async def test_a_bomb_of_threads_meets_the_number_of_processes(bench: Bench, debian_image: str, profile: str) -> None:
    program = Program(
        name="",
        script="""python3 -c '
import threading
started, enough = 0, threading.Event()
try:
    while started < 9999:
        threading.Thread(target=enough.wait, daemon=True).start()
        started += 1
except RuntimeError as error:
    print(started, error, flush=True)
'""",
        shows="",
    )
    report = await run(bench, profile, debian_image, program)
    most = {"standard": 1024, "strict": 256}[profile]
    count, _, said = text_of(report).partition(" ")
    assert most - 10 < int(count) < most
    assert "can't start new thread" in said


# What needs no more than a shell ----------------------------------------------------------------------------------


@pytest.fixture(params=["standard", "strict"])
async def executor(bench: Bench, request: pytest.FixtureRequest) -> Executor:
    return bench.another(replace(GRANT, profile=request.param, network="none"))


async def test_much_output_does_not_stop_a_job(bench: Bench, executor: Executor) -> None:
    report = await bench.run("yes 0123456789 | head -c 50000000; echo end >&2", executor)
    assert report["outcome"] == "succeeded"
    assert text_of(report, stderr=True).endswith("end\n")
    kept = len(text_of(report))
    assert kept + report["result"]["logsDropped"] >= 50_000_000 > kept


async def test_output_that_is_no_text_does_no_harm(bench: Bench, executor: Executor) -> None:
    report = await bench.run(
        ["sh", "-c", r"printf 'a\377\376\000b\n'; head -c 3000 /dev/urandom; printf '\nend\n'"], executor
    )
    assert report["outcome"] == "succeeded"
    assert text_of(report).startswith("a\ufffd\ufffd\0b\n")
    assert text_of(report).endswith("\nend\n")


async def codes_of(bench: Bench, executor: Executor, scripts: dict[int, str]) -> dict[int, tuple[int, str]]:
    """The code and the outcome of each script, run side by side."""
    small = {"cpus": 0.2, "memory": "16m"}
    reports = await asyncio.gather(
        *(bench.run(["sh", "-c", script], executor, requirements=small) for script in scripts.values())
    )
    found = [(report["result"]["StatusCode"], report["outcome"]) for report in reports]
    return dict(zip(scripts, found, strict=True))


async def test_every_exit_code_comes_back(bench: Bench, executor: Executor) -> None:
    codes = [0, 1, 2, 3, 64, 100, 125, 126, 127, 128, 129, 137, 143, 200, 254, 255]
    found = await codes_of(bench, executor, {code: f"exit {code}" for code in codes})
    assert found == {code: (code, "failed" if code else "succeeded") for code in codes}


async def test_a_signal_comes_back_as_128_and_its_number(bench: Bench, executor: Executor) -> None:
    signals = [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 31]
    found = await codes_of(bench, executor, {number: f"kill -{number} $$; sleep 9" for number in signals})
    assert found == {number: (128 + number, "failed") for number in signals}


async def test_ten_thousand_small_outputs_come_back(bench: Bench, executor: Executor) -> None:
    script = "cd /outputs; n=0; while [ $n -lt 10000 ]; do echo $n > f$n; n=$((n+1)); done"
    report = await bench.run(script, executor)
    outputs = report["result"]["outputs"]
    assert len(outputs) == 10_000
    assert base64.b64decode(outputs["f9999"]["value"]) == b"9999\n"


async def test_names_of_every_script_come_back(bench: Bench, executor: Executor) -> None:
    names = ["ünï cödé.txt", "数据/结果.csv", "ملف", "emoji 🎉", "e\u0301 and é", "Ω≈ç√"]
    quoted = " ".join(f"'/outputs/{name}'" for name in names)
    report = await bench.run(
        ["sh", "-c", f"mkdir /outputs/数据; for f in {quoted}; do cat '/inputs/вход' > \"$f\"; done"],
        executor,
        inputs={"вход": {"value": "привет"}},
    )
    assert {*report["result"]["outputs"]} == {*names}
    assert {base64.b64decode(o["value"]).decode() for o in report["result"]["outputs"].values()} == {"привет"}
