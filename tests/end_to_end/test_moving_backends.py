"""A store moves from backend to backend, and comes back as it was: files between commands, each on real stores."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from asman.job import State
from asman.testing import fresh_id, make_job
from asman.testing.log_store import line
from moved import Stores, everything, fill, stores
from postgres_server import PostgresServer
from redis_server import RedisServer
from s3_server import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def filled(of: Stores) -> list[str]:
    """Jobs in every state, small and large documents, logs of both halves; the keys of its blobs."""
    chance = random.Random(4)
    keys = [await of.put(chance.randbytes(size)) for size in (0, 10, 3_000_000)]
    for n in range(24):
        wants = {"image": "a", "inputs": {"a": {"type": "key", "value": keys[n % 3]}}, "x": "x" * (n % 5 * 9_000)}
        state = (State.QUEUED, State.FINISHED, State.REMOVED)[n % 3]
        job = make_job(f"q{n % 2}", fresh_id(n), attempt=1, version=n + 1, queued_at=1e9 + n, state=state)
        logs = {half: [line(f"{half} {m}") for m in range(n % 7)] for half in ("build", "run")}
        await fill(of, job, {"definition": wants}, logs)
    return keys


@pytest.fixture
def places(
    tmp_path: Path, redis: RedisServer, postgres_server: PostgresServer, aws: S3Server
) -> dict[str, dict[str, str]]:
    """Environment of a command on each kind of backend."""
    url, name = postgres_server.url, f"s{uuid.uuid4().hex[:12]}"
    ours = {
        "ASMAN_REDIS": f"{redis.url}?prefix=p{uuid.uuid4().hex[:12]}",
        "ASMAN_POSTGRES": f"{url}{'&' if '?' in url else '?'}schema={name}",
    }
    kinds = ("sqlite", "redis+s3", "postgres+s3", "redis+filesystem", "sqlite+s3")
    chain = {kind: {**ours, "ASMAN_BACKEND": kind, "ASMAN_DATA": str(tmp_path / kind)} for kind in kinds}
    chain["redis+filesystem"]["ASMAN_REDIS"] += "x"
    for place in chain.values():
        place["ASMAN_S3"] = aws.url(aws.bucket())
    return chain


def run(place: dict[str, str], *arguments: str, stdin: bytes = b"") -> bytes:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ASMAN_")}
    ended = subprocess.run(
        [sys.executable, "-m", "asman", *arguments],
        env={**kept, **place},
        input=stdin,
        capture_output=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout


async def test_a_store_moves_through_every_backend_and_comes_back_as_it_was(
    tmp_path: Path, places: dict[str, dict[str, str]]
) -> None:
    async with stores("sqlite", tmp_path / "sqlite") as of:
        keys = await filled(of)
        before: dict[str, Any] = await everything(of, keys)
    kinds = list(places)
    for source, target in itertools.pairwise(kinds):
        archive = run(places[source], "export", "-o", "-")
        for written in (24, 0):
            told = json.loads(run(places[target], "import", "--json", "-", stdin=archive))
            assert (told["written"], told["refused"]) == (written, []), (source, target)
    back = {"ASMAN_BACKEND": "sqlite", "ASMAN_DATA": str(tmp_path / "back")}
    run(back, "import", "-", stdin=run(places["sqlite+s3"], "export", "-o", "-"))
    async with stores("sqlite", tmp_path / "back") as of:
        assert await everything(of, keys) == before
