"""What a worker shows its owner's tools: alive, ready or why not, and numbers without a name in them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from asman import __version__
from asman.errors import ConfigError, Unavailable
from asman_worker.status import Vitals, status_server, why_not_ready
from asman_worker.telemetry import Telemetry
from worker_peers import LocalHost, ScriptedServer, running, until

WELL = Vitals(worker="w", version="1", queues=2, connected=2, jobs=1, draining=False)


@pytest.mark.parametrize(
    ("vitals", "engine", "reasons"),
    [
        (WELL, "", ()),
        (replace(WELL, connected=1), "", ("1 of 2 queues not connected",)),
        (replace(WELL, waits_for=("drained by its owner",)), "", ("drained by its owner",)),
        (WELL, "gone", ("the container engine does not answer: gone",)),
        (
            replace(WELL, connected=0, waits_for=("less than 10 GiB free",)),
            "gone",
            ("the container engine does not answer: gone", "2 of 2 queues not connected", "less than 10 GiB free"),
        ),
    ],
)
def test_every_reason_is_named(vitals: Vitals, engine: str, reasons: tuple[str, ...]) -> None:
    assert why_not_ready(vitals, engine) == reasons


class Owner:
    """What the status server asks, and what it answers."""

    def __init__(self) -> None:
        self.vitals = WELL
        self.telemetry = Telemetry()
        self.pings = 0
        self.engine: BaseException | None = None
        self.hangs = False
        self.url = ""

    async def ping(self) -> None:
        self.pings += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.engine is not None:
            raise self.engine

    async def get(self, path: str) -> tuple[int, Any]:
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}{path}") as answer:
            is_json = answer.content_type == "application/json"
            return answer.status, await (answer.json() if is_json else answer.text())


@asynccontextmanager
async def _served(address: str = "127.0.0.1:0") -> AsyncIterator[Owner]:
    owner = Owner()
    async with status_server(address, lambda: owner.vitals, owner.telemetry, owner.ping) as bound:
        owner.url = f"http://{bound}"
        yield owner


async def test_alive_says_who_and_how_many_but_not_which() -> None:
    async with _served() as owner:
        owner.engine = Unavailable("gone")
        assert await owner.get("/healthz") == (
            200,
            {
                "status": "ok",
                "worker": "w",
                "version": "1",
                "queues": 2,
                "connected": 2,
                "jobs": 1,
                "draining": False,
            },
        )
        assert owner.pings == 0, "a worker whose engine is gone is alive"


async def test_ready_follows_the_worker_and_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asman_worker.status._ENGINE_KNOWN_S", 0.0)
    monkeypatch.setattr("asman_worker.status._ENGINE_LIMIT_S", 0.1)
    async with _served() as owner:
        assert await owner.get("/readyz") == (200, {"ready": True, "reasons": []})
        owner.vitals = replace(WELL, connected=1)
        assert await owner.get("/readyz") == (503, {"ready": False, "reasons": ["1 of 2 queues not connected"]})
        owner.vitals, owner.engine = WELL, Unavailable("no engine at unix:///x")
        status, answer = await owner.get("/readyz")
        assert (status, answer["reasons"]) == (503, ["the container engine does not answer: no engine at unix:///x"])
        owner.hangs = True
        status, answer = await owner.get("/readyz")
        assert status == 503
        assert "no answer within" in answer["reasons"][0]
        owner.hangs, owner.engine = False, None
        assert (await owner.get("/readyz"))[0] == 200


async def test_the_engine_is_asked_once_a_second_however_many_ask() -> None:
    async with _served() as owner:
        answers = await asyncio.gather(*(owner.get("/readyz") for _ in range(20)))
        assert {status for status, _ in answers} == {200}
        assert owner.pings <= 2


async def test_metrics_are_text_for_prometheus_and_other_paths_are_not_there() -> None:
    async with _served() as owner:
        owner.telemetry.lease_lost()
        status, text = await owner.get("/metrics")
        assert status == 200
        assert "asman_worker_leases_lost_total 1.0" in text
        assert (await owner.get("/"))[0] == 404


async def test_an_address_that_is_taken_is_refused_with_the_flag_to_change() -> None:
    async with _served() as owner:
        with pytest.raises(ConfigError, match="cannot listen") as refused:
            async with _served(owner.url.removeprefix("http://")):
                pass
        assert "--status" in refused.value.hint


async def test_the_loopback_of_ipv6_may_be_named() -> None:
    async with _served("[::1]:0") as owner:
        assert owner.url.startswith("http://[::1]:")
        assert (await owner.get("/healthz"))[0] == 200


async def test_an_address_of_the_network_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    async with _served("127.0.0.1:0"):
        assert "whoever reaches it" not in caplog.text
    async with _served("0.0.0.0:0"):
        assert "whoever reaches it" in caplog.text


async def test_a_worker_is_not_ready_until_it_is_connected_and_shows_what_it_lends(
    server: ScriptedServer, host: LocalHost, tmp_path: Path, free_port: int
) -> None:
    owner = Owner()
    owner.url = f"http://127.0.0.1:{free_port}"
    secret_name = "a-queue-that-nobody-may-learn"
    settings = {"status_address": f"127.0.0.1:{free_port}", "cpus": 3.0, "queues": (secret_name,)}
    async with running(server.url, tmp_path, host, telemetry=owner.telemetry, ping=owner.ping, **settings) as worker:
        peer = await server.arrival(secret_name)
        assert (await owner.get("/readyz"))[1]["reasons"] == ["1 of 1 queues not connected"]
        await peer.register()
        await peer.hears("Ready")
        assert await owner.get("/readyz") == (200, {"ready": True, "reasons": []})
        await peer.assign(1, "sleep 60")
        await until(lambda: bool(host.processes))
        shown = await owner.get("/healthz")
        assert (shown[1]["worker"], shown[1]["version"], shown[1]["jobs"]) == (worker.worker_id, __version__, 1)
        _, text = await owner.get("/metrics")
        for line in (
            'asman_worker_cores{state="granted"} 3.0',
            'asman_worker_cores{state="free"} 2.0',
            'asman_worker_gpus{state="free"} 0.0',
            "asman_worker_queues_connected 1.0",
            "asman_worker_jobs_taken_total 1.0",
        ):
            assert line in text.splitlines()
        (free,) = (line for line in text.splitlines() if line.startswith('asman_worker_disk_free_bytes{place="data"}'))
        assert float(free.split()[1]) > 0
        for answer in (text, str(shown)):
            assert secret_name not in answer
            assert f"{1:064x}" not in answer
