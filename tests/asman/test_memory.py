"""The backend in memory takes the whole exam, and its cost does not grow with the queue."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from asman import memory
from asman.config import Config
from asman.errors import ConfigError
from asman.job import Requirements, State
from asman.memory import MemoryBlobStore, MemoryJobStore, MemoryNotifier
from asman.plugins import load_plugins, open_blob_store, open_job_store, open_notifier
from asman.testing import BlobStoreKit, JobStoreKit, NotifierKit, make_job


class TestMemoryJobStore(JobStoreKit):
    async def open_store(self) -> MemoryJobStore:
        return MemoryJobStore()


class TestMemoryBlobStore(BlobStoreKit):
    streams = False

    async def open_store(self) -> MemoryBlobStore:
        return MemoryBlobStore()


class TestMemoryNotifier(NotifierKit):
    async def open_notifier(self) -> MemoryNotifier:
        return MemoryNotifier()


def test_the_module_is_a_plugin_for_its_scheme() -> None:
    plugins = load_plugins([memory], discover=False)
    assert isinstance(open_job_store(plugins, "memory:", Config()), MemoryJobStore)
    assert isinstance(open_blob_store(plugins, "memory:", Config()), MemoryBlobStore)
    assert isinstance(open_notifier(plugins, "memory:", Config()), MemoryNotifier)


def test_listings_show_the_scheme_with_a_line_of_help() -> None:
    plugins = load_plugins([memory], discover=False)
    (schemes,) = plugins.hook.asman_schemes()
    assert list(schemes) == ["memory"]
    assert schemes["memory"]


def test_another_scheme_is_refused_and_this_one_named() -> None:
    plugins = load_plugins([memory], discover=False)
    for opener in (open_job_store, open_blob_store, open_notifier):
        with pytest.raises(ConfigError, match="installed schemes: memory"):
            opener(plugins, "memories:", Config())


def test_sorted_keys_agree_with_a_sorted_list() -> None:
    chance = random.Random(3)
    keys: memory._Ordered = memory._Ordered()
    model: list[tuple[int, str]] = []
    for number in range(6_000):
        if model and chance.random() < 0.35:
            gone = model.pop(chance.randrange(len(model)))
            keys.remove(gone)
        else:
            key = (chance.randrange(500), str(number))
            keys.add(key)
            model.append(key)
    model.sort()
    assert list(keys.behind(())) == model
    for key in [*chance.sample(model, 50), (-1, ""), (250, ""), (999, "")]:
        assert list(keys.behind(key)) == [k for k in model if k > key]
    for key in model:
        keys.remove(key)
    assert not keys
    assert list(keys.behind(())) == []


async def lines_run(work: Any) -> int:
    """How many lines of the module run while this is awaited: a cost that no other process disturbs."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != memory.__file__:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        await work
    finally:
        sys.settrace(before)
    return count


async def cost_of_one_job(queued: int) -> int:
    store = MemoryJobStore()
    for number in range(queued):
        await store.save(make_job("q", f"{number:064x}", queued_at=float(number)), expected=0)
    job = make_job("q", "f" * 64, queued_at=queued / 2)
    cost = await lines_run(store.save(job, expected=0))
    shape = Requirements().shape
    cost += await lines_run(store.list("q", states=[State.QUEUED], shape=shape, limit=1))
    cost += await lines_run(store.save(replace(job, version=2, state=State.RUNNING, lease_until=5.0), expected=1))
    cost += await lines_run(store.due(6.0))
    cost += await lines_run(store.counts("q"))
    cost += await lines_run(store.in_namespace("q", "_", limit=10))
    cost += await lines_run(store.find(job.job_id))
    return cost + await lines_run(store.delete("q", job.job_id, expected=2))


async def test_an_event_costs_the_same_at_ten_and_at_ten_thousand_queued_jobs() -> None:
    small, large = await cost_of_one_job(10), await cost_of_one_job(10_000)
    assert small > 50, "nothing was measured"
    assert large <= small * 1.2


async def test_what_is_deleted_leaves_no_index_behind() -> None:
    store = MemoryJobStore()
    for number in range(50):
        job = make_job(f"q{number}", namespaces=(("a", 1.0), ("b", 1.0)))
        await store.save(job, expected=0, documents={"definition": b"d"})
        await store.append_log(job.queue, job.job_id, attempt=1, half="run", lines=[b'["x",1]'])
        await store.delete(job.queue, job.job_id, expected=1)
    assert not store._jobs
    assert not store._documents
    assert not store._logs
    assert not store._indexes
    assert {queue: dict(c) for queue, c in store._counts.items()} == {None: {}}
