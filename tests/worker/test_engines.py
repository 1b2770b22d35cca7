"""The same jobs on every kind of engine that this machine can start: Docker, Podman, Docker without root rights.

A short form of the worker's own suite, through the worker's program. What differs between engines is said here and in
``docs/engines.md``, not passed over.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_engine import IMAGE, DockerEngine, what_is_missing
from old_server import OldServer
from other_engines import ENGINES, why_not
from worker_peers import until
from worker_programs import Host

pytestmark = [pytest.mark.docker, pytest.mark.slow]

GRACE_S = 5.0
FLOOD_BYTES = 40_000_000
STORED_LOG_BYTES = 16 << 20
"""Ours are 5 MB, twice where the engine turns files over; it may be late by what one write holds."""


@pytest.fixture(scope="module", params=sorted(ENGINES))
def any_engine(request: pytest.FixtureRequest) -> Iterator[DockerEngine]:
    kind = str(request.param)
    missing = what_is_missing() if kind == "docker" else why_not(kind)
    if missing is not None:
        pytest.skip(missing)
    with ENGINES[kind].private() as engine:
        yield engine


@pytest.fixture
async def old() -> AsyncIterator[OldServer]:
    async with OldServer() as server:
        yield server


@pytest.fixture
async def host(any_engine: DockerEngine, old: OldServer, tmp_path: Path) -> AsyncIterator[Host]:
    with any_engine.folder(tmp_path) as folder:
        opened = Host(any_engine, old, folder)
        yield opened
        opened.remove_all()


def _job(script: str, **more: Any) -> dict[str, Any]:
    return {"image": IMAGE, "command": ["sh", "-c", script], "requirements": {"memory": "64m"}, **more}


def _text(value: dict[str, Any], *, stderr: bool = False) -> str:
    return "".join(line[0] for line in value["result"]["logs"] if (len(line) == 3) is stderr)


async def test_a_job_has_its_inputs_and_leaves_outputs_of_any_user(old: OldServer, host: Host) -> None:
    by_key, by_url = old.add(b"by key\n"), old.add(b"by url\n")
    script = (
        "cat /inputs/k /inputs/d/u /etc/app.conf; echo oops >&2; (echo x > /inputs/k) 2>/dev/null || echo read-only; "
        "mkdir -p -m 700 /outputs/closed; seq 1 1000 > /outputs/closed/big; chmod 600 /outputs/closed/big; "
        "echo hi > /outputs/small; chown -R 7:7 /outputs/closed; echo kept > /job-cache/x; exit 3"
    )
    inputs = {"k": {"type": "key", "value": by_key}, "d/u": {"type": "url", "value": f"{old.url}/f/{by_url}"}}
    async with host.worker():
        job = await old.submit(_job(script, inputs=inputs, configFiles={"/etc/app.conf": {"value": "config\n"}}))
        value = await old.finished(job)
        result = value["result"]
        assert (value["reason"], result["StatusCode"], result.get("error")) == ("Success", 3, None)
        assert _text(value) == "by key\nby url\nconfig\nread-only\n"
        assert _text(value, stderr=True).startswith("oops\n")
        assert base64.b64decode(result["outputs"]["small"]["value"]) == b"hi\n"
        big = result["outputs"]["closed/big"]["value"].rpartition("/")[2]
        assert old.store[big] == "".join(f"{n}\n" for n in range(1, 1001)).encode()
        again = await old.finished(await old.submit(_job("cat /job-cache/x")))
        assert _text(again) == "kept\n"
        await until(lambda: not host.containers(job) and not host.files())


async def test_a_job_is_fenced_in(old: OldServer, host: Host) -> None:
    script = (
        "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; find /inputs /outputs; "
        "ls /var/run/docker.sock /run/docker.sock 2>/dev/null; ulimit -c; cat /etc/resolv.conf; hostname"
    )
    async with host.worker():
        value = await old.finished(await old.submit(_job(script)))
        lines = _text(value).splitlines()
        stated = dict(line.split(":\t") for line in lines if ":\t" in line)
        assert stated == {"CapEff": "00000000000000fb", "CapBnd": "00000000000000fb", "NoNewPrivs": "1", "Seccomp": "2"}
        rest = [line for line in lines if ":\t" not in line]
        assert rest[:-1] == ["/inputs", "/outputs", "0", "nameserver 1.1.1.1", "nameserver 8.8.8.8"]
        assert rest[-1] != os.uname().nodename


async def test_two_jobs_cannot_reach_each_other(old: OldServer, host: Host) -> None:
    listens = (
        "(while :; do echo heard | nc -l -p 7000; done) & "
        "a=$(ip -4 -o addr show eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'); echo $a; "
        "until nc -w 2 $a 7000 < /dev/null; do sleep 0.1; done; sleep 300"
    )
    async with host.worker("m-worker", "--cpus", "2"):
        first = await old.submit(_job(listens))
        await old.until(lambda: "heard" in "".join(line[0] for line in old.relayed.get(first, ())))
        address = old.relayed[first][0][0].split()[0]
        assert address.count(".") == 3
        asks = f"nc -w 3 {address} 7000 < /dev/null && echo reached || echo blocked"
        assert _text(await old.finished(await old.submit(_job(asks)))) == "blocked\n"
        await old.delete(first)


async def test_limits_hold_or_the_worker_does_not_start_without_the_owners_word(
    any_engine: DockerEngine, old: OldServer, host: Host, tmp_path: Path
) -> None:
    if any_engine.lacks:
        refused = await asyncio.to_thread(_start_plainly, any_engine, old, host)
        assert refused.returncode == 1
        assert f"cannot limit {', '.join(any_engine.lacks)}" in refused.stderr
        assert f"--without-limits {','.join(any_engine.lacks)}" in refused.stderr
        return
    bomb = "head -c 300000000 /dev/zero | tail > /dev/null; exit $?"
    forks = "for n in $(seq 3000); do sleep 3 & done; wait; echo end"
    async with host.worker("m-worker", "--cpus", "2"):
        burst = await old.submit(_job(bomb, requirements={"memory": "32m"}))
        beside = await old.submit(_job("sleep 1; echo beside"))
        value = await old.finished(burst)
        assert value["result"]["StatusCode"] == 137
        if any_engine.kind != "podman" or _unified():
            assert value["outcome"] == "out_of_memory"
        assert _text(await old.finished(beside)) == "beside\n"
        many = await old.finished(await old.submit(_job(forks, maxDuration="20s", requirements={"memory": "512m"})))
        assert "fork" in _text(many, stderr=True)
        busy = (
            "n=0; while [ $n -lt 300000 ]; do n=$((n+1)); done; cat /sys/fs/cgroup/cpu.stat /sys/fs/cgroup/cpu/cpu.stat"
        )
        little = {"cpus": 0.2, "memory": "64m"}
        quota = await old.finished(await old.submit(_job(f"{busy} 2>/dev/null; true", requirements=little)))
        throttled = [line.split()[1] for line in _text(quota).splitlines() if line.startswith("nr_throttled")]
        assert throttled, "the job sees its own group"
        assert int(throttled[0]) > 0


def _unified() -> bool:
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def _start_plainly(engine: DockerEngine, old: OldServer, host: Host) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "asman_worker", "first", "--server", old.url, "-d", str(host.data("plain"))]
    return subprocess.run(
        engine.as_worker(command),
        env={**os.environ, "DOCKER_HOST": engine.host},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_a_job_over_its_time_is_ended_and_keeps_its_log(old: OldServer, host: Host) -> None:
    async with host.worker():
        value = await old.finished(await old.submit(_job("echo begun; sleep 60", maxDuration="1s")))
    assert (value["reason"], value["outcome"], value["result"]["isTimedOut"]) == ("TimedOut", "timed_out", True)
    assert _text(value) == "begun\n"
    assert 1000 <= value["result"]["duration"] < 15_000


async def test_a_deleted_job_is_gone_within_its_grace(old: OldServer, host: Host) -> None:
    async with host.worker():
        job = await old.submit(_job("trap '' TERM; echo up; while :; do sleep 0.1; done"))
        await old.until(lambda: old.relayed.get(job))
        begun = time.monotonic()
        await old.delete(job)
        await until(lambda: not host.containers(job))
        assert time.monotonic() - begun < GRACE_S + 5
        await until(lambda: not host.files())
    assert old.changes(job, "Finished") == []


async def test_a_flood_of_output_is_cut_and_costs_the_engine_little(
    any_engine: DockerEngine, old: OldServer, host: Host
) -> None:
    flood = f"echo first; yes $(seq 1 40) | head -c {FLOOD_BYTES}; touch /outputs/done"
    async with host.worker():
        job = await old.submit(_job(f"{flood}; until [ -e /outputs/go ]; do sleep 0.1; done; echo last >&2"))
        await old.until(lambda: host.has_output("done"), within_s=90)
        stored = _stored_log_bytes(any_engine, host.containers(job)[0]["Id"])
        assert 0 < stored < STORED_LOG_BYTES
        host.let_go()
        value = await old.finished(job)
    assert (value["outcome"], value["result"]["StatusCode"]) == ("succeeded", 0)
    assert _text(value).startswith("first\n")
    assert _text(value, stderr=True).endswith("last\n")
    assert value["result"]["logsDropped"] > FLOOD_BYTES // 2


def _stored_log_bytes(engine: DockerEngine, container: str) -> int:
    """What the engine's log of a container takes on disk."""
    home = Path(engine.host.removeprefix("unix://")).parent
    folders = [path for path in home.rglob(container) if path.is_dir() and "containers" in str(path.parent)]
    files = [path for folder in folders for path in folder.rglob("*log*") if path.is_file()]
    return sum(path.stat().st_size for path in files)


async def test_a_worker_that_was_killed_follows_its_job_from_the_stored_log(old: OldServer, host: Host) -> None:
    async with host.worker():
        job = await old.submit(_job("echo one; until [ -e /outputs/go ]; do sleep 0.1; done; echo two; exit 4"))
        await old.until(lambda: old.relayed.get(job))
    (container,) = host.containers(job)
    async with host.worker():
        await old.until(lambda: old.state(job) == "Running")
        assert [c["Id"] for c in host.containers(job)] == [container["Id"]]
        host.let_go()
        value = await old.finished(job)
        assert (_text(value), value["result"]["StatusCode"]) == ("one\ntwo\n", 4)
        await until(lambda: not host.containers(job) and not host.files())


async def test_what_cannot_be_started_is_an_error_that_says_why(old: OldServer, host: Host) -> None:
    async with host.worker():
        missing = await old.finished(await old.submit(_job("true") | {"command": "no-such-program"}))
        assert missing["result"]["StatusCode"] in (1, 127), "of the small program that looks after the job's own"
        assert "no-such-program" in _text(missing, stderr=True) or "No such file" in _text(missing, stderr=True)
        folder = await old.finished(await old.submit(_job("true", configFiles={"/etc": {"value": "a file"}})))
        assert folder["reason"] == "Error"
        assert "engine answered" in folder["result"]["error"]
        unknown = await old.finished(await old.submit(_job("true") | {"image": "127.0.0.1:1/no/such:1"}))
        assert "could not be pulled" in unknown["result"]["error"]
        await until(lambda: not host.files())
        await until(lambda: host.all_containers() == [])


@pytest.mark.parametrize("kind", sorted(ENGINES))
def test_an_engine_for_tests_leaves_nothing_behind(kind: str) -> None:
    missing = what_is_missing() if kind == "docker" else why_not(kind)
    if missing is not None:
        pytest.skip(missing)
    with ENGINES[kind].private() as engine:
        tmp = Path(tempfile.gettempdir())
        home = next(path for path in Path(engine.host.removeprefix("unix://")).parents if path.parent == tmp)
        body = {"Image": IMAGE, "Cmd": ["sleep", "300"], "HostConfig": {"NetworkMode": "none"}}
        made = json.loads(engine.request("POST", "/containers/create", json.dumps(body).encode())[1])["Id"]
        assert engine.request("POST", f"/containers/{made}/start")[0] == 204
        assert _processes_of(home), "the engine itself, for one"
    deadline = time.monotonic() + 10
    while (left := _processes_of(home)) and time.monotonic() < deadline:
        os.sched_yield()
    assert left == []
    assert not home.exists()
    assert str(home) not in Path("/proc/self/mountinfo").read_text()
    assert not [group for group in Path("/sys/fs/cgroup").rglob(f"*{made}*") if group.is_dir()]


def _processes_of(home: Path) -> list[str]:
    """Command lines that name the engine's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(home) in command:
                found.append(command)
    return found
