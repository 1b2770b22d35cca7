"""The worker as a program, on a real engine: run, be killed, come back, leave."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from docker_engine import IMAGE, DockerEngine
from worker_peers import Connected, ScriptedServer, job_id

pytestmark = pytest.mark.docker


@asynccontextmanager
async def _program(
    server: ScriptedServer, data: Path, docker_host: str, *flags: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asman_worker", "first", "--server", server.url, "--data-directory", str(data), *flags),
        env={**os.environ, "DOCKER_HOST": docker_host},
        stderr=(data.parent / f"{data.name}.log").open("ab"),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _assign(peer: Connected, number: int, command: str, attempt: int = 1) -> str:
    definition = {"image": IMAGE, "command": f"sh -c '{command}'", "requirements": {"memory": "64m"}}
    payload = {"jobId": job_id(number), "attempt": attempt, "definition": definition}
    await peer.say("Assign", payload | {"lease_until": 0, "queuedTime": 0})
    return job_id(number)


def _containers(engine: DockerEngine, job: str) -> list[Any]:
    wanted = json.dumps({"label": [f"asman.job={job}"]})
    status, answer = engine.request("GET", f"/containers/json?all=1&filters={quote(wanted)}")
    assert status == 200, answer
    return list(json.loads(answer))
