"""Single steps of a job, where nothing of the others is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from asman.errors import BadDefinition, LimitExceeded
from asman_worker.attempt import Assignment, Attempt
from asman_worker.docker import Engine
from asman_worker.grant import Grant
from asman_worker.logs import LogPump
from asman_worker.remains import Remains
from asman_worker.steps import Steps
from asman_worker.stock import Stock
from docker_engine import IMAGE

GRANT = Grant(cores=1, memory_bytes=1 << 30, max_duration_s=60, images=("alpine:*",))


def attempt(**definition: Any) -> Attempt:
    given = Assignment(
        queue="q", job_id="b" * 64, attempt=1, definition={"image": IMAGE, **definition}, server_url="http://s"
    )
    return Attempt(assignment=given, log=lambda step, lines: None, pump=LogPump(lambda lines: None))


@pytest.fixture
async def steps(tmp_path: Path) -> AsyncIterator[Steps]:
    async with Engine(f"unix://{tmp_path}/none.sock") as engine, aiohttp.ClientSession() as session:
        remains, stock = Remains(engine, "w", tmp_path), Stock(engine, tmp_path / "stock.json")
        yield Steps(
            grant=GRANT,
            worker_id="w",
            engine=engine,
            remains=remains,
            session=session,
            stock=stock,
            scratch=remains.scratch,
        )


async def test_reading_settles_image_and_time_limit_before_anything_is_done(steps: Steps) -> None:
    job = attempt(maxDuration="10s", requirements={"cpus": 0.5})
    assert steps.read(job).cores == 0.5
    assert (job.image, job.limit_s) == (IMAGE, 10.0)


async def test_a_build_wins_over_an_image(steps: Steps) -> None:
    job = attempt(image="not allowed", build={"dockerfile": "FROM alpine:3.19.1"})
    steps.read(job)
    assert job.image == ""
    assert job.recipe is not None


@pytest.mark.parametrize(
    ("definition", "error"),
    [
        ({"build": {"dockerfile": 1}}, BadDefinition),
        ({"image": "busybox"}, LimitExceeded),
        ({"requirements": {"cpus": "many"}}, BadDefinition),
        ({"maxDuration": "soon"}, BadDefinition),
    ],
)
async def test_what_cannot_run_is_refused_without_asking_the_engine(
    steps: Steps, definition: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        steps.read(attempt(**definition))
