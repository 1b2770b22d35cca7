"""Whole jobs for an older server: the worker's program, a real engine, and a server that knows no leases."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from docker_engine import IMAGE, DockerEngine
from old_server import OldServer
from worker_peers import until
from worker_programs import Host

pytestmark = [pytest.mark.docker, pytest.mark.slow]

DOUBT_S = 6.0
GRACE_S = 5.0
FOREVER = "sleep 300"


@pytest.fixture
async def old() -> AsyncIterator[OldServer]:
    async with OldServer() as server:
        yield server


@pytest.fixture
async def host(docker_engine: DockerEngine, old: OldServer, tmp_path: Path) -> AsyncIterator[Host]:
    opened = Host(docker_engine, old, tmp_path)
    yield opened
    opened.remove_all()


def _job(command: str, **more: Any) -> dict[str, Any]:
    return {"image": IMAGE, "command": f"sh -c '{command}'", "requirements": {"memory": "64m"}, **more}


def _bytes_of(server: OldServer, ref: dict[str, str]) -> bytes:
    if ref["type"] == "base64":
        return base64.b64decode(ref["value"])
    assert ref["type"] == "url"
    assert ref["value"].startswith(f"{server.url}/f/")
    return server.store[ref["value"].rpartition("/")[2]]


async def test_a_whole_job_with_inputs_of_every_kind_and_outputs_of_every_size(old: OldServer, host: Host) -> None:
    by_key, by_url = old.add(b"by key\n"), old.add(b"by url\n" * 1000)
    definition = _job(
        "cat /inputs/k /inputs/d/b /inputs/t /inputs/j /etc/app.conf; wc -c < /inputs/u; echo oops >&2; "
        "mkdir -p /outputs/sub; printf hi > /outputs/small; : > /outputs/empty; "
        "cp /inputs/u /outputs/again; seq 1 1000 > /outputs/sub/big",
        inputs={
            "k": {"type": "key", "value": by_key},
            "u": {"type": "url", "value": f"{old.url}/f/{by_url}", "hash": by_url},
            "d/b": {"type": "base64", "value": base64.b64encode(b"base64\n").decode()},
            "t": {"type": "utf8", "value": "text\n"},
            "j": {"type": "json", "value": {"a": 1}},
        },
        configFiles={"/etc/app.conf": {"type": "utf8", "value": "\nconfig\n"}},
    )
    numbers = "".join(f"{n}\n" for n in range(1, 1001)).encode()
    async with host.worker():
        job = await old.submit(definition)
        value = await old.finished(job)
        assert (value["type"], value["reason"], value["worker"]) == ("Finished", "Success", "m-worker")
        result = value["result"]
        assert (result["StatusCode"], result["isTimedOut"], result.get("error")) == (0, False, None)
        assert isinstance(result["duration"], int)
        assert abs(value["time"] / 1000 - time.time()) < 60
        out = "".join(line[0] for line in result["logs"] if len(line) == 2)
        assert out == 'by key\nbase64\ntext\n{"a":1}\nconfig\n7000\n'
        assert [line[0] for line in result["logs"] if len(line) == 3 and line[2] is True] == ["oops\n"]
        outputs = {name: _bytes_of(old, ref) for name, ref in result["outputs"].items()}
        assert outputs == {"small": b"hi", "empty": b"", "again": b"by url\n" * 1000, "sub/big": numbers}
        assert [result["outputs"][name]["type"] for name in ("small", "empty", "again", "sub/big")] == [
            *("base64", "base64", "url", "url")
        ]
        big = result["outputs"]["sub/big"]["value"].rpartition("/")[2]
        about_big = [asked for asked in old.asked if big in asked[1]]
        assert about_big[0] == ("GET", f"/f/{big}/exists")
        assert about_big[-1] == ("PUT", f"/bucket/{big}")
        assert old.put_to(by_url) == 0, "what the server has is not uploaded again"
        await until(lambda: not host.containers(job) and not host.files())
    assert old.relayed[job] == result["logs"], "clients have seen what the result holds, as it came"
    _check_order(old, job)


def _check_order(old: OldServer, job: str) -> None:
    """Register, ask for the definition, announce, log, finish; with the members that such a server knows."""
    (peer,) = old.peers
    kinds = [kind for _, kind, payload in peer.said if payload.get("job", payload.get("jobId", job)) == job]
    assert kinds[0] == "WorkerRegistration"
    asked, claimed = kinds.index("RequestJobDefinitions"), kinds.index("StateChange")
    logged = kinds.index("JobStatusLogs")
    assert asked < claimed < logged
    assert kinds[-1] in ("StateChange", "WorkerRegistration")
    (claim,) = old.changes(job, "Running")
    assert set(claim) == {"job", "tag", "state", "value"}
    assert claim["tag"] == claim["value"]["worker"] == "m-worker"
    assert (claim["value"]["type"], isinstance(claim["value"]["time"], int)) == ("Running", True)
    (finish,) = old.changes(job, "Finished")
    assert set(finish) == {"job", "tag", "state", "value"}
    registration = old.said("WorkerRegistration")[0]
    assert {"time", "version", "id", "cpus", "gpus", "maxJobDuration"} <= set(registration)
    assert all(set(logs) == {"jobId", "step", "logs"} for logs in old.said("JobStatusLogs"))


async def test_what_ends_otherwise_is_said_as_such_servers_know_it(old: OldServer, host: Host) -> None:
    async with host.worker():
        fails = await old.submit(_job("echo partial > /outputs/p; exit 3"))
        value = await old.finished(fails)
        assert (value["reason"], value["result"]["StatusCode"], list(value["result"]["outputs"])) == (
            "Success",
            3,
            ["p"],
        )
        late = await old.submit(_job(FOREVER, maxDuration="1s"))
        value = await old.finished(late)
        assert (value["reason"], value["result"]["isTimedOut"], value["result"]["outputs"]) == ("TimedOut", True, {})
        wrong = await old.submit(_job("true", inputs={"x": {"type": "key", "value": "0" * 64}}))
        value = await old.finished(wrong)
        assert (value["reason"], value["result"]["outputs"]) == ("Error", {})
        assert "404" in value["result"]["error"]
        unknown = await old.submit(_job("true") | {"image": "127.0.0.1:1/no/such:1"})
        assert "could not be pulled" in (await old.finished(unknown))["result"]["error"]


async def test_a_cancelled_job_is_ended_when_the_list_lacks_it_and_nothing_is_reported(
    old: OldServer, host: Host
) -> None:
    async with host.worker():
        job = await old.submit(_job(f"echo up; {FOREVER}"))
        await old.until(lambda: old.relayed.get(job))
        await old.cancel(job)
        await old.show()
        missing_since = time.monotonic()
        await asyncio.to_thread(_until_gone, host, job, DOUBT_S + GRACE_S + 5)
        assert time.monotonic() - missing_since >= DOUBT_S - 1, "a list that lacks a job may be out of step"
        after = await old.submit(_job("echo after"))
        assert (await old.finished(after))["reason"] == "Success"
        assert old.changes(job, "Finished") == []
        await old.until(lambda: host.files() == [])


def _until_gone(host: Host, job: str, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while host.containers(job):
        assert time.monotonic() < deadline, f"the container is still there after {within_s:.0f} s"
        time.sleep(0.1)


async def test_a_deleted_job_is_ended_at_once_and_runs_anew_when_it_is_submitted_again(
    old: OldServer, host: Host
) -> None:
    async with host.worker():
        definition = _job(
            "cat /proc/sys/kernel/random/uuid; [ -e /job-cache/once ] || { touch /job-cache/once; sleep 300; }"
        )
        job = await old.submit(definition)
        await old.until(lambda: old.relayed.get(job))
        (first,) = host.containers(job)
        await old.delete(job)
        await asyncio.to_thread(_until_gone, host, job, GRACE_S + 5)
        assert await old.submit(definition) == job
        value = await old.finished(job)
        assert first["Id"] not in {c["Id"] for c in host.containers(job)}
        assert (value["reason"], value["result"]["StatusCode"]) == ("Success", 0)
        assert [line[0] for line in value["result"]["logs"]] == [old.relayed[job][-1][0]]
        assert len(old.changes(job, "Finished")) == 1


async def test_of_two_workers_that_claim_one_job_the_preferred_one_finishes_it(old: OldServer, host: Host) -> None:
    async with host.worker("a-worker"), host.worker("z-worker"):
        old.holds_claims = True
        job = await old.submit(_job("echo up; sleep 12; echo end"))
        await old.until(lambda: all(old.changes(job, "Running", name) for name in ("a-worker", "z-worker")))
        await until(lambda: all(host.containers(job, name) for name in ("a-worker", "z-worker")))
        await old.let_claims_through()
        await old.until(lambda: old.jobs[job]["worker"] == "a-worker")
        told = time.monotonic()
        await until(lambda: not host.containers(job, "z-worker"))
        assert time.monotonic() - told < DOUBT_S + GRACE_S + 3
        assert host.containers(job, "a-worker"), "the preferred worker's container is left alone"
        value = await old.finished(job)
        assert (value["worker"], value["result"]["StatusCode"]) == ("a-worker", 0)
        assert old.changes(job, "Finished", "z-worker") == []
        assert old.ignored == []


async def test_a_lost_server_costs_neither_the_run_nor_its_result(old: OldServer, host: Host) -> None:
    async with host.worker():
        job = await old.submit(_job("echo one; until [ -e /outputs/go ]; do sleep 0.1; done; echo two"))
        await old.until(lambda: old.relayed.get(job))
        (container,) = host.containers(job)
        await old.shut()
        old.jobs[job] |= {"state": "Queued", "worker": ""}
        await old.open()
        await old.until(lambda: len(old.changes(job, "Running")) >= 2 and old.state(job) == "Running")
        assert [c["Id"] for c in host.containers(job)] == [container["Id"]], "announced again, not started again"
        host.let_go()
        value = await old.finished(job)
        assert "".join(line[0] for line in value["result"]["logs"]) == "one\ntwo\n"


async def test_a_result_waits_for_a_server_that_is_away(old: OldServer, host: Host) -> None:
    async with host.worker():
        job = await old.submit(_job("echo one; until [ -e /outputs/go ]; do sleep 0.1; done"))
        await old.until(lambda: old.relayed.get(job))
        await old.shut()
        host.let_go()
        await until(lambda: bool(host.reports()))
        await old.open()
        value = await old.finished(job)
        assert (value["reason"], list(value["result"]["outputs"])) == ("Success", ["go"])
        await until(lambda: not host.reports())


async def test_a_worker_that_was_killed_takes_its_job_up_again(old: OldServer, host: Host) -> None:
    async with host.worker():
        job = await old.submit(_job("echo one; until [ -e /outputs/go ]; do sleep 0.1; done; echo two"))
        await old.until(lambda: old.relayed.get(job))
    (container,) = host.containers(job)
    async with host.worker():
        await old.until(lambda: old.state(job) == "Running")
        assert [c["Id"] for c in host.containers(job)] == [container["Id"]]
        host.let_go()
        value = await old.finished(job)
    assert "".join(line[0] for line in value["result"]["logs"]) == "one\ntwo\n"


async def test_jobs_are_run_oldest_first_and_what_does_not_fit_is_left_alone(old: OldServer, host: Host) -> None:
    names = [_job(f"echo {n}") for n in range(4)]
    too_big = await old.submit(_job("echo big", requirements={"cpus": 64}))
    jobs = [await old.submit(definition) for definition in names]
    for queued_at, job in enumerate(jobs, 1):
        old.jobs[job]["queuedTime"] = queued_at
    async with host.worker():
        for job in jobs:
            await old.finished(job)
        await old.ask_status()
        await old.until(lambda: old.statuses)
    claimed = [change["job"] for change in old.said("StateChange") if change["state"] == "Running"]
    assert list(dict.fromkeys(claimed)) == jobs
    assert old.state(too_big) == "Queued"
    assert {"time", "id", "cpus", "gpus", "queue"} <= set(old.statuses[0])


async def test_a_worker_that_is_told_to_leave_ends_its_jobs_and_the_server_queues_them_again(
    old: OldServer, host: Host
) -> None:
    async with host.worker() as process:
        job = await old.submit(_job(f"echo up; {FOREVER}"))
        await old.until(lambda: old.relayed.get(job))
        process.terminate()
        await asyncio.wait_for(process.wait(), 30)
        assert process.returncode == 0
        assert host.containers(job) == []
        await old.until(lambda: old.state(job) == "Queued")
    assert old.changes(job, "Finished") == []
