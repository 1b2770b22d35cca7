"""Several server processes on one port, with their real parent."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from asman.config import Config, load_config
from asman.errors import ConfigError
from asman.prefork import environment, inherited, run_many
from processes import call, eventually
from redis_server import RedisServer
from served import Served, run_asman, served


@pytest.fixture
def many(redis: RedisServer, tmp_path: Path) -> Iterator[Served]:
    with served("--workers", "2", "--backend", "redis", "--redis", redis.url, cwd=tmp_path) as server:
        yield server


def children(parent: int) -> set[int]:
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return {int(pid) for pid in found}


def ids(url: str, tries: int = 40) -> set[str]:
    """The servers that answer; each connection may be taken by another."""
    return {call("GET", f"{url}/q/some-queue/status")[1]["queueInfo"]["serverId"] for _ in range(tries)}


def test_the_processes_share_the_port(many: Served) -> None:
    assert "2 processes" in many.hear("asman serves ")
    assert len(children(many.process.pid)) == 2
    assert len(eventually("both answer", lambda: (found := ids(many.url)) and len(found) == 2 and found)) == 2


def test_a_process_that_dies_is_started_again_and_nothing_is_lost(many: Served) -> None:
    body = {"definition": {"image": "alpine:3.19.1", "command": "echo kept"}}
    assert call("POST", f"{many.url}/q/a-queue-of-many", body)[0] == 200
    before = children(many.process.pid)
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    eventually("another is there", lambda: len(children(many.process.pid) - {victim}) == 2)
    many.hear("server process ")
    assert len(call("GET", f"{many.url}/q/a-queue-of-many")[1]["data"]) == 1


def test_hangup_replaces_all_processes_while_requests_are_answered(many: Served) -> None:
    before = children(many.process.pid)
    many.process.send_signal(signal.SIGHUP)

    def is_replaced() -> bool:
        assert call("GET", f"{many.url}/healthz") == (200, b"OK")
        now = children(many.process.pid)
        return len(now) == 2 and not now & before

    eventually("all are new", is_replaced)


def test_the_processes_end_in_good_order_with_their_parent(many: Served) -> None:
    running = children(many.process.pid)
    assert many.stop() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in running)


def test_the_processes_end_when_their_parent_is_killed(many: Served) -> None:
    running = children(many.process.pid)
    many.process.kill()
    eventually("they are gone", lambda: not any(_is_alive(pid) for pid in running))


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_settings_that_cannot_work_are_said_once(redis: RedisServer, tmp_path: Path) -> None:
    options = ("--workers", "3", "--backend", "redis", "--redis", f"redis://:x@127.0.0.1:{redis.port}", "--port", "0")
    ended = await run_asman("serve", *options, cwd=tmp_path, timeout_s=60)
    assert ended.returncode not in (0, None)
    assert ended.stderr.count("Redis refuses") == 1


@pytest.mark.parametrize("backend", ["sqlite", "memory"])
def test_a_backend_that_processes_do_not_share_is_refused(backend: str, tmp_path: Path) -> None:
    config, _ = load_config({"backend": backend, "workers": 2, "data": str(tmp_path), "port": 0})
    with pytest.raises(ConfigError, match="do not hear of each other"):
        run_many(config, server="hypercorn", announce=print)


def test_every_process_has_all_settings_and_a_name_of_its_own() -> None:
    config = Config(workers=3, server_id="here", allow_origin=("https://a", "https://b"), lease_s=2.5, port=1)
    read, _ = load_config({}, environment(config, 2))
    assert (read.workers, read.server_id, read.port) == (1, "here-2", 1)
    assert (read.allow_origin, read.lease_s) == (config.allow_origin, config.lease_s)
    assert environment(Config(), 1)["ASMAN_SERVER_ID"] == ""


def test_a_process_of_its_own_inherits_nothing() -> None:
    assert inherited({}) is None
    assert inherited({"ASMAN_LISTEN_FD": "3"}) is None
    with pytest.raises(ConfigError, match="no open socket"):
        inherited({"ASMAN_LISTEN_FD": "9999", "ASMAN_READY_FD": "9998", "ASMAN_LIFE_FD": "9997"})


async def test_up_serves_with_one_process(tmp_path: Path) -> None:
    ended = await run_asman("up", "--workers", "2", cwd=tmp_path)
    assert ended.returncode != 0
    assert "one process" in ended.stderr
