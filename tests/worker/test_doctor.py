"""Each fault of a set-up is provoked once: it is found, and the next step is said."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from asman_worker.doctor import Finding, examine, judge_engine, judge_gpus, judge_guard, judge_socket, judge_space
from asman_worker.gpu import Gpu
from docker_engine import DockerEngine

NOW = 1_767_323_045.0
VERSION = {"Version": "20.10.24", "ApiVersion": "1.41", "Components": [{"Name": "Engine"}]}
INFO: dict[str, Any] = {
    "SystemTime": "2026-01-02T03:04:05.1Z",
    "MemoryLimit": True,
    "SwapLimit": True,
    "CpuCfsQuota": True,
    "PidsLimit": True,
    "CgroupVersion": "2",
    "SecurityOptions": ["name=seccomp,profile=default", "name=rootless"],
    "Runtimes": {"runc": {}},
}
CARD = (Gpu(index=0, uuid="GPU-1", model="H100"),)


def _judged(
    info: dict[str, Any] | None = None, version: dict[str, Any] | None = None, **more: Any
) -> dict[str, Finding]:
    found = judge_engine("unix:///x", VERSION | (version or {}), INFO | (info or {}), now=NOW, **more)
    return {finding.name: finding for finding in found}


def test_an_engine_without_a_fault_is_ok_throughout() -> None:
    found = _judged()
    assert {finding.result for finding in found.values()} == {"ok"}
    assert {finding.next_step for finding in found.values()} == {""}
    assert "rootless" in found["root in jobs"].found


def test_an_engine_that_is_too_old_is_named_with_the_least_version() -> None:
    found = _judged(version={"ApiVersion": "1.39", "Version": "18.09"})["docker"]
    assert (found.result, found.found) == ("fail", "Docker 18.09 speaks API 1.39, 1.41 is needed")
    assert "20.10" in found.next_step
    assert _judged(version={"ApiVersion": "1.100"})["docker"].result == "ok"
    assert "Podman" in _judged(version={"Components": [{"Name": "Podman Engine"}]})["docker"].found


@pytest.mark.parametrize(("moment", "told"), [("03:03:05Z", "60 s behind"), ("03:05:05Z", "60 s ahead of")])
def test_a_clock_of_the_engine_that_is_off_is_warned_about(moment: str, told: str) -> None:
    found = _judged({"SystemTime": f"2026-01-02T{moment}"})["engine clock"]
    assert found.result == "warn"
    assert told in found.found
    assert "NTP" in found.next_step
    assert "engine clock" not in _judged({"SystemTime": "soon"})


@pytest.mark.parametrize(
    ("member", "result", "what"),
    [
        ("MemoryLimit", "fail", "memory"),
        ("CpuCfsQuota", "fail", "cores"),
        ("PidsLimit", "fail", "processes"),
        ("SwapLimit", "warn", "swap"),
    ],
)
def test_a_limit_that_does_not_hold_is_named(member: str, result: str, what: str) -> None:
    found = _judged({member: False})["limits"]
    assert (found.result, found.found) == (result, f"the engine does not enforce: {what} (cgroup v2)")
    assert "cgroup" in found.next_step


def test_an_engine_without_a_system_call_filter_fails() -> None:
    found = _judged({"SecurityOptions": ["name=apparmor"]})["seccomp"]
    assert (found.result, bool(found.next_step)) == ("fail", True)


def test_who_root_in_a_job_is_is_said_and_matters_for_strangers() -> None:
    plain = {"SecurityOptions": ["name=seccomp,profile=default"]}
    assert _judged(plain)["root in jobs"].result == "ok"
    assert "root of this machine" in _judged(plain)["root in jobs"].found
    strict = _judged(plain, strict=True)["root in jobs"]
    assert (strict.result, "rootless" in strict.next_step) == ("warn", True)
    remapped = _judged({"SecurityOptions": ["name=seccomp", "name=userns"]}, strict=True)["root in jobs"]
    assert (remapped.result, "userns-remap" in remapped.found) == ("ok", True)


@pytest.mark.parametrize(
    ("cards", "info", "tools", "wanted", "results"),
    [
        ((), {}, False, "0", []),
        ((), {}, False, "1", ["fail"]),
        (CARD, {}, False, "0", ["warn"]),
        (CARD, {}, False, "all", ["fail"]),
        (CARD, {"Runtimes": {"runc": {}, "nvidia": {}}}, False, "all", ["ok"]),
        (CARD, {"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}, False, "1", ["ok"]),
        (CARD, {}, True, "1", ["ok"]),
    ],
)
def test_cards_that_the_engine_cannot_give_to_jobs_are_found(
    cards: tuple[Gpu, ...], info: dict[str, Any], tools: bool, wanted: str, results: list[str]
) -> None:
    found = list(judge_gpus(cards, info, has_tools=tools, wanted=wanted))
    assert [finding.result for finding in found] == results
    assert all(bool(finding.next_step) == (finding.result != "ok") for finding in found)


@pytest.mark.parametrize(
    ("is_here", "can_be_made", "result"), [(True, False, "ok"), (False, True, "ok"), (False, False, "warn")]
)
def test_a_missing_image_of_guards_is_warned_about(is_here: bool, can_be_made: bool, result: str) -> None:
    found = judge_guard("busybox:1.36", is_here=is_here, can_be_made=can_be_made)
    assert (found.name, found.result) == ("guard image", result)
    assert bool(found.next_step) is (result == "warn")


def test_little_space_is_warned_about_with_what_frees_some() -> None:
    little = judge_space("engine's data", Path("/var/lib/docker"), 9 << 30)
    assert (little.result, "docker system prune" in little.next_step) == ("warn", True)
    assert judge_space("data directory", Path("/x"), 9 << 30).next_step.endswith("--data-directory")
    assert judge_space("data directory", Path("/x"), 11 << 30).result == "ok"


# --- the socket ------------------------------------------------------------------------------------------------------


def test_a_socket_that_is_not_there_and_one_that_is_none_are_told_apart(tmp_path: Path) -> None:
    missing = judge_socket(f"unix://{tmp_path}/none.sock")
    assert missing is not None
    assert (missing.result, "systemctl start docker" in missing.next_step) == ("warn", True)
    (tmp_path / "file").touch()
    other = judge_socket(f"unix://{tmp_path}/file")
    assert other is not None
    assert (other.result, "is no socket" in other.found) == ("fail", True)
    assert judge_socket("tcp://127.0.0.1:2375") is None


@contextmanager
def _as_nobody() -> Iterator[None]:
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_socket_that_this_user_may_not_use_names_the_group_that_may(tmp_path: Path) -> None:
    folder = Path("/run") / f"asman-doctor-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(folder / "s"))
            (folder / "s").chmod(0o660)
            with _as_nobody():
                denied = judge_socket(f"unix://{folder}/s")
            assert judge_socket(f"unix://{folder}/s") is None
            (folder / "s").chmod(0o600)
            with _as_nobody():
                private = judge_socket(f"unix://{folder}/s")
            folder.chmod(0o700)
            with _as_nobody():
                hidden = judge_socket(f"unix://{folder}/s")
    finally:
        shutil.rmtree(folder)
    for found in (denied, private, hidden):
        assert found is not None
        assert (found.result, found.found) == ("fail", f"{folder}/s: permission denied")
        assert "rootless" in found.next_step
        assert ("usermod -aG root" in found.next_step) is (found is denied)


# --- an engine that says what a test wants ---------------------------------------------------------------------------


@asynccontextmanager
async def _engine(folder: Path, *, create: tuple[int, str] = (404, "No such image"), **info: Any) -> AsyncIterator[str]:
    """A socket that answers as an engine without an image does."""

    async def answer(request: web.Request) -> web.Response:
        if request.path.endswith("/version"):
            return web.json_response(VERSION)
        if request.path.endswith("/info"):
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            return web.json_response({**INFO, "SystemTime": now, "DockerRootDir": "/nonexistent/docker", **info})
        if request.path.endswith("/containers/create"):
            return web.json_response({"message": create[1]}, status=create[0])
        if "/images/" in request.path and request.path.endswith("/json") and "/images/json" not in request.path:
            return web.json_response({"message": "No such image"}, status=404)
        return web.json_response([])

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(folder / "engine.sock")).start()
    try:
        yield f"unix://{folder}/engine.sock"
    finally:
        await runner.cleanup()


async def _found(host: str, data: Path, **environ: str) -> dict[str, dict[str, str]]:
    settings = {"DOCKER_HOST": host, "ASMAN_WORKER_DATA": str(data), **environ}
    found = await examine(settings)
    assert all(bool(check["next_step"]) == (check["result"] != "ok") for check in found), found
    return {check["name"]: check for check in found}


async def test_without_any_image_the_engine_is_still_asked_for_the_path(tmp_path: Path) -> None:
    async with _engine(tmp_path) as host:
        found = await _found(host, tmp_path / "new" / "data")
        assert found["same path"]["result"] == "ok"
        assert found["disk of the engine's data"]["found"].endswith("cannot be seen from here")
        assert not (tmp_path / "new").exists(), "what was made for looking is gone"
    refusal = (400, 'invalid mount config for type "bind": bind source path does not exist: /x')
    async with _engine(tmp_path, create=refusal) as host:
        found = await _found(host, tmp_path)
        assert found["same path"]["result"] == "fail"
        assert f"-v {tmp_path}:{tmp_path}" in found["same path"]["next_step"]
    async with _engine(tmp_path, create=(500, "out of order")) as host:
        assert (await _found(host, tmp_path))["same path"]["result"] == "warn"


async def test_a_data_directory_that_cannot_be_written_is_a_fault_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with _engine(tmp_path) as host:
        found = await _found(host, tmp_path / "file" / "data")
    assert (found["same path"]["result"], "not writable" in found["same path"]["found"]) == ("fail", True)


async def test_an_engine_that_does_not_answer_is_the_only_thing_said_of_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
        found = await _found(f"unix://{tmp_path}/dead.sock", tmp_path)
    assert (found["docker"]["result"], "DOCKER_HOST" in found["docker"]["next_step"]) == ("warn", True)
    assert "limits" not in found


async def test_an_engine_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asman_worker.doctor._ENGINE_LIMIT_S", 0.1)
    silent = await asyncio.start_unix_server(lambda reader, writer: None, tmp_path / "silent.sock")
    async with silent:
        found = await _found(f"unix://{tmp_path}/silent.sock", tmp_path)
    assert (found["docker"]["result"], "no answer within" in found["docker"]["found"]) == ("fail", True)


async def test_settings_and_secrets_that_cannot_be_used_are_found(tmp_path: Path) -> None:
    host = f"unix://{tmp_path}/none.sock"
    wrong = await _found(host, tmp_path, ASMAN_WORKER_CPUS="many")
    assert list(wrong) == ["worker settings"]
    assert "cpus" in wrong["worker settings"]["found"]
    file = tmp_path / "secrets.toml"
    file.write_text('[A]\nvalue = "hunter2-hunter2"\n')
    file.chmod(0o644)
    found = await _found(host, tmp_path, ASMAN_WORKER_SECRETS=str(file))
    assert (found["secrets"]["result"], found["secrets"]["next_step"]) == ("fail", f"chmod 600 {file}")
    file.chmod(0o600)
    found = await _found(host, tmp_path, ASMAN_WORKER_SECRETS=str(file))
    assert found["secrets"]["found"] == f"1 in {file}"


async def test_a_missing_git_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = await _found(f"unix://{tmp_path}/none.sock", tmp_path)
    assert (found["git"]["result"], found["git"]["next_step"][-19:]) == ("warn", "apt-get install git")
    (tmp_path / "git").touch(mode=0o755)
    assert (await _found(f"unix://{tmp_path}/none.sock", tmp_path))["git"]["result"] == "ok"


# --- the real engine -------------------------------------------------------------------------------------------------


@pytest.mark.docker
async def test_a_real_engine_is_looked_at_and_nothing_is_left(docker_engine: DockerEngine, tmp_path: Path) -> None:
    before = docker_engine.request("GET", "/containers/json?all=1")[1]
    found = await _found(docker_engine.host, tmp_path / "data")
    assert docker_engine.request("GET", "/containers/json?all=1")[1] == before
    assert (found["docker"]["result"], found["same path"]["result"]) == ("ok", "ok")
    assert found["engine clock"]["result"] == "ok"
    assert {"limits", "seccomp", "root in jobs", "disk of the engine's data"} <= set(found)
    assert found["guard image"]["found"] == "busybox:1.36 is here"
    assert os.listdir(tmp_path) == []


@pytest.mark.docker
def test_a_data_directory_that_the_engine_sees_otherwise_is_found(docker_host: str, tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare to give the worker another view of its data directory")
    data = tmp_path / "data"
    data.mkdir()
    script = f'mount -t tmpfs none {data} && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "asman", "doctor", "--json"]
    environ = {**os.environ, "DOCKER_HOST": docker_host, "ASMAN_WORKER_DATA": str(data)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path, timeout=120, check=False)
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 1
    assert found["same path"]["result"] == "fail", found["same path"]
    assert f"-v {data}:{data}" in found["same path"]["next_step"]
