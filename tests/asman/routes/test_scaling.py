from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from asman import operations as ops
from asman.errors import BadRequest, Unprocessable
from asman.exposition import QUEUE_FAMILIES
from asman.routes.scaling import connected_workers, read_scale_query
from core import QUEUE, Core, core, definition
from in_process import InProcess, in_process

GPU = {"cpus": 2, "gpus": 1}


async def metrics_of(c: Core, queue: str = QUEUE) -> dict[str, float]:
    _, body, _ = await c.call("GET", f"/q/{queue}/metrics")
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sample.labels.items())
            found[sample.name + (f"[{labels}]" if labels else "")] = sample.value
    return found


# --- Prometheus ------------------------------------------------------------------------------------------------------


async def test_metrics_keep_the_one_sample_that_scalers_read() -> None:
    async with core() as c:
        await c.submit(definition("a"))
        job = await c.submit(definition("b"))
        await ops.announce(c.services, QUEUE, job.job_id, "w1")
        for path in (f"/q/{QUEUE}/metrics", f"/{QUEUE}/metrics"):
            _, body, headers = await c.call("GET", path)
            assert body.startswith(
                b"# HELP queue_length The number of outstanding jobs in the queue\n"
                b"# TYPE queue_length gauge\nqueue_length 2\n"
            )
            assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_metrics_of_an_empty_queue_are_all_there_and_zero() -> None:
    async with core() as c:
        found = await metrics_of(c, "nobody")
        assert {name.split("[")[0] for name in found} == {family.name for family in QUEUE_FAMILIES}
        assert set(found.values()) == {0}
        assert c.hub.channels == ()


async def test_metrics_split_the_backlog_by_what_jobs_need() -> None:
    async with core() as c:
        for number in range(3):
            await c.submit(definition(f"c{number}", requirements={"cpus": 1.5}))
        c.clock.tick(7)
        job = await c.submit(definition("g", requirements=GPU))
        await c.submit(definition("g2", requirements=GPU))
        await ops.announce(c.services, QUEUE, job.job_id, "w1")
        c.clock.tick(3)
        found = await metrics_of(c)
        assert found["queue_length"] == 5
        assert found["queue_jobs[state=queued]"] == 4
        assert found["queue_jobs[state=running]"] == 1
        assert (found["queue_backlog[needs=cpu]"], found["queue_backlog[needs=gpu]"]) == (3, 1)
        assert found["queue_oldest_wait_seconds[needs=cpu]"] == 10
        assert found["queue_oldest_wait_seconds[needs=gpu]"] == 3
        assert (found["queue_requested_cpus"], found["queue_requested_gpus"]) == (8.5, 2)


async def test_metrics_tell_what_workers_offer_and_what_of_it_is_free() -> None:
    async with core() as c, c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
        await worker.register("w1", cpus=4)
        found = await metrics_of(c)
        assert (found["queue_workers"], found["queue_worker_cpus"], found["queue_worker_free_cpus"]) == (1, 4, 0)
        await worker.ready(jobs=3, cpus=4)
        job = await c.submit(definition(requirements={"cpus": 1}))
        await worker.hear_until("Assign")
        found = await metrics_of(c)
        assert (found["queue_worker_cpus"], found["queue_worker_free_cpus"]) == (4, 3)
        await worker.ready(jobs=0, cpus=3)
        await worker.say_text("PING")
        while (await worker.hear_text()) != "PONG w1":
            pass
        assert (await metrics_of(c))["queue_worker_free_cpus"] == 0, "it takes nothing now"
        assert (await c.load(job)) is not None


# --- the scale signal ------------------------------------------------------------------------------------------------


async def test_the_signal_of_an_unknown_queue_is_that_of_an_empty_one() -> None:
    async with core() as c:
        status, body, headers = await c.call("GET", "/q/nobody/scale")
        assert status == 200
        assert headers["Cache-Control"] == "no-store"
        assert body == {
            "queue": "nobody",
            "backlog": 0,
            "running": 0,
            "length": 0,
            "oldestWaitSeconds": 0,
            "requested": {"cpus": 0, "gpus": 0},
            "workers": 0,
            "free": {"cpus": 0, "gpus": 0},
            "tooLarge": 0,
            "desiredWorkers": 0,
        }
        assert c.hub.channels == ()


async def test_the_signal_counts_jobs_and_workers_of_the_kind_asked_for() -> None:
    async with in_process() as served:
        for number in range(5):
            await served.submit(QUEUE, definition(f"c{number}", requirements={"cpus": 2}))
        await served.submit(QUEUE, definition("wide", requirements={"cpus": 16}))
        await served.submit(QUEUE, definition("g", requirements=GPU))
        served.clock.advance(4)
        async with served.old_worker(QUEUE, "old") as old, served.worker(QUEUE, jobs=0, gpus=["GPU-1"]):
            await old.settle()
            cpu = await served.get(f"/q/{QUEUE}/scale?needs=cpu&cpus_per_worker=4")
            gpu = await served.get(f"/q/{QUEUE}/scale?needs=gpu&cpus_per_worker=8&gpus_per_worker=2")
            both = await served.get(f"/q/{QUEUE}/scale")
        assert (cpu["backlog"], cpu["length"], cpu["desiredWorkers"], cpu["tooLarge"]) == (6, 6, 3, 1)
        assert (cpu["workers"], cpu["requested"], cpu["oldestWaitSeconds"]) == (1, {"cpus": 26, "gpus": 0}, 4)
        assert (gpu["backlog"], gpu["desiredWorkers"], gpu["workers"]) == (1, 1, 1)
        assert gpu["requested"] == {"cpus": 2, "gpus": 1}
        assert (both["backlog"], both["desiredWorkers"], both["workers"]) == (7, 7, 2)
        assert cpu["free"] == {"cpus": 2, "gpus": 0}


async def test_workers_that_run_something_are_wanted_until_it_ends(served: InProcess) -> None:
    """Two workers with one small job each: one would hold both, but taking one away would end a job."""
    path = f"/q/{QUEUE}/scale?cpus_per_worker=8"
    async with served.worker(QUEUE, "one") as one, served.worker(QUEUE, "two") as two:
        for worker in (one, two):
            await worker.settle()
        await served.submit(QUEUE, definition("a"))
        await served.submit(QUEUE, definition("b"))
        given = [(worker, await worker.hear("Assign")) for worker in (one, two)]
        signal = await served.get(path)
        assert (signal["running"], signal["workers"], signal["desiredWorkers"]) == (2, 2, 2)
        for worker, assignment in given:
            await worker.finish(assignment)
        assert (await served.get(path))["desiredWorkers"] == 0


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("needs=tpu", 400, 'needs is "tpu"; it is cpu or gpu'),
        ("need=cpu", 400, 'no parameter "need"; there are: needs, cpus_per_worker, gpus_per_worker'),
        ("needs=cpu&needs=gpu", 400, "needs is given 2 times"),
        ("cpus_per_worker=four", 400, 'cpus_per_worker is "four", not a number of cores'),
        ("cpus_per_worker=0", 422, "a worker has more than 0"),
        ("cpus_per_worker=-1", 422, "a worker has more than 0"),
        ("cpus_per_worker=nan", 422, "a worker has more than 0"),
        ("cpus_per_worker=inf", 422, "at most 1000000 cores"),
        ("gpus_per_worker=1.5", 422, "a whole number of GPUs from 0 to 1000000"),
        ("gpus_per_worker=-1", 422, "a whole number of GPUs"),
        ("gpus_per_worker=nan", 422, "a whole number of GPUs"),
        ("gpus_per_worker=x", 400, "not a whole number of GPUs"),
    ],
)
async def test_a_wrong_parameter_is_refused_in_words(query: str, status: int, said: str) -> None:
    async with core() as c:
        answer, body, _ = await c.call("GET", f"/q/{QUEUE}/scale?{query}")
        assert (answer, body["code"]) == (status, "bad_request" if status == 400 else "unprocessable")
        assert said in body["error"]
        assert body["hint"]


async def test_a_wrong_queue_name_is_refused() -> None:
    async with core() as c:
        assert (await c.call("GET", "/q/a%20b/scale"))[0] == 400


def test_the_query_is_read_once_and_for_all() -> None:
    assert read_scale_query({})[0] is None
    needs, size = read_scale_query({"needs": ["gpu"], "cpus_per_worker": [" 2.5 "], "gpus_per_worker": ["4"]})
    assert (needs, size.cores, size.gpus) == ("gpu", 2.5, 4)
    for query, error in (({"x": ["1"]}, BadRequest), ({"gpus_per_worker": ["1e9"]}, Unprocessable)):
        with pytest.raises(error):
            read_scale_query(query)


async def test_a_worker_that_mirrors_is_taken_to_use_a_core_per_job(served: InProcess) -> None:
    job_id = await served.submit(QUEUE)
    async with served.old_worker(QUEUE, "old") as old:
        await old.settle()
        (idle,) = connected_workers(served.channel(QUEUE))
        await old.claim(job_id)
        await old.settle()
        (busy,) = connected_workers(served.channel(QUEUE))
    assert (idle.cores, idle.free_cores, idle.is_busy) == (2, 2, False)
    assert (busy.cores, busy.free_cores, busy.is_busy) == (2, 1, True)
    assert connected_workers(None) == []
