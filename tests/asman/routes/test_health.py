from __future__ import annotations

import pytest

from asman.errors import Unavailable
from core import QUEUE, core


async def test_liveness_is_two_letters() -> None:
    async with core() as c:
        status, body, headers = await c.call("GET", "/healthz")
        assert (status, body, headers["Content-Type"]) == (200, b"OK", "text/plain; charset=UTF-8")


async def test_readiness_asks_the_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    async with core() as c:
        assert (await c.call("GET", "/readyz"))[1]["checks"] == {"jobs": "ok", "blobs": "ok"}

        async def away(*args: object) -> None:
            raise Unavailable("the store is away")

        monkeypatch.setattr(type(c.services.jobs), "counts", away)
        status, body, headers = await c.call("GET", "/readyz")
        assert (status, body["code"], headers["Retry-After"]) == (503, "unavailable", "5")


async def test_metrics_count_without_naming_a_queue() -> None:
    async with core() as c:
        await c.submit()
        async with c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            await worker.register("w1")
            _, body, headers = await c.call("GET", "/metrics")
        text = body.decode()
        assert 'asman_jobs{state="queued"} 1' in text
        assert "asman_workers 1" in text
        assert QUEUE not in text
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")


async def test_the_openapi_document_is_served() -> None:
    async with core() as c:
        _, body, _ = await c.call("GET", "/openapi.json")
        assert body["openapi"].startswith("3.1")
        assert "/q/{queue}" in body["paths"]
