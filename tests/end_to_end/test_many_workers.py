"""Ten workers and a thousand jobs on SQLite: each job is given out once per attempt and finished once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from quart import Quart

from asman.app import create_app
from asman.config import load_config
from asman.job import State

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

QUEUE = "a-queue-with-many-workers"
JOBS = 1_000
WORKERS = 10


class _Tally:
    """What all workers were given and what was accepted."""

    def __init__(self) -> None:
        self.given: list[tuple[str, int]] = []
        self.accepted: list[str] = []
        self.done = asyncio.Event()


async def _work(app: Quart, name: str, tally: _Tally) -> None:
    """A protocol-2 worker that takes four jobs at a time and finishes each at once."""
    async with app.test_client().websocket(f"/q/{QUEUE}/worker?protocol=2") as socket:

        async def say(kind: str, payload: dict[str, object]) -> None:
            await socket.send(json.dumps({"type": kind, "payload": payload}))

        capacity = {"cpus": 4, "gpus": []}
        await say("WorkerRegistration", {"id": name, "protocol": 2, "capacity": capacity, "maxJobDuration": "5m"})
        await say("Ready", {"cpus": 4, "gpus": 0, "jobs": 4})
        while True:
            message = json.loads(await socket.receive())
            payload = message["payload"]
            if message["type"] == "Assign":
                tally.given.append((payload["jobId"], payload["attempt"]))
                result = {"StatusCode": 0, "logs": [], "outputs": {}}
                value = {"type": "Finished", "reason": "Success", "worker": name, "result": result}
                change = {"job": payload["jobId"], "attempt": payload["attempt"], "state": "Finished", "value": value}
                await say("StateChange", change)
            elif message["type"] == "Ack":
                assert payload["accepted"], payload
                tally.accepted.append(payload["jobId"])
                if len(tally.accepted) == JOBS:
                    tally.done.set()
                await say("Ready", {"cpus": 4, "gpus": 0, "jobs": 1})


async def test_each_job_is_assigned_once_per_attempt(tmp_path: Path) -> None:
    app = create_app(load_config({"data": str(tmp_path)})[0])
    await app.startup()
    try:
        client, tally = app.test_client(), _Tally()

        async def submit(number: int) -> str:
            definition = {"image": "alpine:3.19.1", "command": f"echo {number}"}
            answer = await client.post(f"/q/{QUEUE}", json={"definition": definition})
            assert answer.status_code == 200
            return str((await answer.get_json())["jobId"])

        workers = [asyncio.create_task(_work(app, f"worker-{n}", tally)) for n in range(WORKERS)]
        ids = [job_id for n in range(0, JOBS, 50) for job_id in await asyncio.gather(*map(submit, range(n, n + 50)))]
        async with asyncio.timeout(200):
            await tally.done.wait()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        assert len(set(tally.given)) == len(tally.given), "one attempt was given out twice"
        assert sorted(tally.accepted) == sorted(ids)
        counts = await app.extensions["asman"].jobs.counts(QUEUE)
        assert {state: n for (state, _), n in counts.items()} == {State.FINISHED: JOBS}
    finally:
        await app.shutdown()
