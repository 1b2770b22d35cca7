"""What ``GET /metrics`` shows of the server itself, read back with the Prometheus parser, and its page."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import asman_metrics
from asman import operations as ops
from asman.errors import Unavailable
from asman.exposition import QUEUE_FAMILIES, SERVER_FAMILIES, Family
from asman.maintenance import sweep
from asman.memory import MemoryJobStore
from asman_metrics.families import FAMILIES
from asman_metrics.server import LOOP_LOOK_S, ServerMeter
from core import QUEUE, Core, core, definition

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@asynccontextmanager
async def metered(**settings: Any) -> AsyncIterator[Core]:
    """An app of its own with the plugin, as it is when it is installed."""
    plugins = asman_metrics.asman_app_plugins(None)  # type: ignore[arg-type]  # what it does not read
    async with core(plugins, **settings) as c:
        yield c


async def text_of(c: Core, path: str = "/metrics") -> str:
    status, body, headers = await c.call("GET", path)
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return str(body.decode())


def values(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f"[{k}={v}]" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_requests_are_counted_by_route_method_and_status() -> None:
    async with metered() as c:
        for name in ("a", "b"):
            await c.call("POST", f"/q/{QUEUE}", {"definition": definition(name)})
        await c.call("GET", f"/q/{QUEUE}")
        await c.call("GET", "/nowhere")
        shown = values(await text_of(c))
    counted = {name: value for name, value in shown.items() if name.startswith("asman_http_requests_total")}
    assert counted == {
        "asman_http_requests_total[method=POST][route=/q/{queue}][status=200]": 2,
        "asman_http_requests_total[method=GET][route=/q/{queue}][status=200]": 1,
        "asman_http_requests_total[method=GET][route=unmatched][status=404]": 1,
    }
    assert shown["asman_http_request_seconds_count[route=/q/{queue}]"] == 3
    assert 0 < shown["asman_http_request_seconds_sum[route=/q/{queue}]"] < 60
    assert shown["asman_http_request_seconds_bucket[le=+Inf][route=/q/{queue}]"] == 3


async def test_store_operations_are_timed_and_their_errors_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*args: object, **options: object) -> None:
        raise Unavailable("the store is away")

    monkeypatch.setattr(MemoryJobStore, "list", away)
    async with metered() as c:
        await c.submit()
        assert (await c.call("GET", f"/q/{QUEUE}"))[0] == 503
        shown = values(await text_of(c))
    assert shown["asman_store_seconds_count[operation=jobs.save]"] == 1
    assert shown["asman_store_seconds_count[operation=jobs.list]"] == 1
    assert shown["asman_store_errors_total[code=unavailable][operation=jobs.list]"] == 1
    assert shown["asman_store_errors_total[code=unavailable][operation=jobs.save]"] == 0, "there before the first"
    assert shown["asman_store_errors_total[code=storage_full][operation=jobs.save]"] == 0


async def test_sockets_are_told_apart_by_who_holds_them() -> None:
    async with metered() as c, c.socket(f"/q/{QUEUE}/client") as client, c.socket(f"/q/{QUEUE}/worker") as worker:
        await client.hear_until("JobStates")
        await worker.hear_until("JobStates")
        shown = values(await text_of(c))
        assert shown["asman_sockets[role=client]"] == 1
        assert shown["asman_sockets[role=worker]"] == 1
        assert (shown["asman_clients"], shown["asman_workers"]) == (1, 0), "it has not registered"


async def test_a_lapsed_lease_and_a_late_sweep_are_seen() -> None:
    async with metered() as c:
        job = await c.submit()
        await ops.announce(c.services, QUEUE, job.job_id, "w1")
        c.clock.tick(c.services.config.lease_s + 7)
        await sweep(c.services)
        shown = values(await text_of(c))
        assert shown["asman_lease_losses_total"] == 1
        assert shown["asman_expiry_lag_seconds"] == 7
        await sweep(c.services)
        assert values(await text_of(c))["asman_expiry_lag_seconds"] == 0


async def test_the_loop_is_looked_at_and_a_stall_is_seen() -> None:
    """The loop's own clock is moved: the timer's moment is long past when it is run."""
    loop, registry = asyncio.get_running_loop(), CollectorRegistry()
    real, skipped = loop.time, 0.0
    loop.time = lambda: real() + skipped  # type: ignore[method-assign]
    try:
        async with ServerMeter(registry):
            skipped = LOOP_LOOK_S + 3.0
            for _ in range(100):  # turns of the loop: the timer is due at the first that looks
                await asyncio.sleep(0)
    finally:
        del loop.time
    lag = registry.get_sample_value("asman_event_loop_lag_seconds_sum")
    assert lag is not None
    assert 2.9 < lag < 30
    within = registry.get_sample_value("asman_event_loop_lag_seconds_bucket", {"le": "2.5"})
    assert within == 0


async def test_nothing_is_looked_at_after_the_end() -> None:
    loop, registry = asyncio.get_running_loop(), CollectorRegistry()
    meter = ServerMeter(registry)
    async with meter:
        assert meter._timer is not None
    assert meter._timer.cancelled()
    assert loop.is_running()


@pytest.mark.skipif(sys.platform != "linux", reason="the client library reads /proc")
async def test_the_process_tells_its_memory_and_time() -> None:
    async with metered() as c:
        shown = values(await text_of(c))
    assert shown["process_resident_memory_bytes"] > 10 << 20
    assert shown["process_cpu_seconds_total"] > 0


async def test_a_server_with_a_name_puts_it_on_every_sample() -> None:
    async with metered(server_id='api "7"') as c:
        await c.call("GET", "/healthz")
        families = list(text_string_to_metric_families(await text_of(c)))
        assert {sample.labels.get("server") for f in families for sample in f.samples} == {'api "7"'}
        shown = await text_of(c, f"/q/{QUEUE}/metrics")
        assert "\nqueue_length 0\n" in shown, "what scalers read has no label"


async def test_no_label_carries_a_name_of_a_stranger() -> None:
    async with metered() as c:
        job = await c.submit(queue="the-name-is-the-key")
        await c.call("GET", f"/q/the-name-is-the-key/j/{job.job_id}")
        await c.call("GET", "/the-name-is-the-key/x/y/z")
        text = await text_of(c)
    assert "the-name-is-the-key" not in text
    assert job.job_id not in text


# --- the page ---------------------------------------------------------------------------------------------------------


def listed(heading: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """(type, labels) by name, as the page has them under a heading."""
    (section,) = re.findall(rf"^## [^\n]*`{re.escape(heading)}`\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| (\w[^|]*) \| (\w[^|]*) \|$", section, re.M)
    assert len(rows) == section.count("\n| `"), "a row of the page is not complete"
    return {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _, _ in rows}


def exposed(text: str, families: tuple[Family, ...]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """(type, labels) by name, as they are served; bucket bounds and creation times are parts of the format."""
    shown = {}
    for family in text_string_to_metric_families(text):
        if family.name.endswith("_created"):
            continue
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels if label != "le"}
        order = next((f.labels for f in families if f.name == name), ())
        shown[name] = (family.type, tuple(sorted(labels, key=lambda label: (*order, label).index(label))))
    return shown


@pytest.mark.skipif(sys.platform != "linux", reason="the client library reads /proc")
async def test_the_page_lists_what_the_server_shows_and_nothing_else() -> None:
    async with metered() as c:
        await c.run(await c.submit())
        await c.call("GET", f"/q/{QUEUE}")
        text = await text_of(c)
        assert exposed(text, SERVER_FAMILIES + FAMILIES) == listed("GET /metrics")
        for family in text_string_to_metric_families(text):
            if not family.name.endswith("_created") and not family.name.startswith("process_"):
                assert f"| {family.documentation}" in PAGE.read_text(), family.name


async def test_the_page_lists_what_a_queue_shows_and_nothing_else() -> None:
    async with metered() as c:
        assert exposed(await text_of(c, f"/q/{QUEUE}/metrics"), QUEUE_FAMILIES) == listed("GET /q/QUEUE/metrics")
