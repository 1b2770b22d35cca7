"""Jobs that try to reach the machine they run on, on a real engine, with canaries outside of their folders.

The canaries are files on the host: a secret, the worker's own files, the folders of a neighbour's job. After each
attempt they must be as they were, byte for byte and with their times, and the secret's text must be in nothing that a
job gives away: not in its report, its log, its outputs or the blobs it uploaded. A script says GOT where something
succeeded that must not; what the job left must be gone from the disk in the end.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from asman.errors import AsmanError
from asman_worker.transfer import Transfer
from asman_worker.workspace import Workspace, collect_outputs, output_scan
from docker_engine import IMAGE, DockerEngine
from escapes import DEEP, DEFINITIONS, ESCAPES, IMAGES, LINKS, fill
from worker_bench import GRANT, Bench, text_of
from worker_peers import until

pytestmark = [pytest.mark.docker, pytest.mark.slow]

SECRET = "canary-3f1c9ad2-this-text-must-stay-on-the-host"


class Canaries:
    """Files outside of the job's folders, and what they were. Shape: ``secret`` is the one to be read."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        neighbour = Workspace.of(bench.data, "another-worker", "another-queue", "b" * 64, 1)
        neighbour.prepare()
        self.secret = folder / "secret"
        self.files = [
            self.secret,
            folder / "folder" / "inner",
            bench.data / "worker-id",
            neighbour.inputs / "data",
            neighbour.outputs / "result",
        ]
        for file in self.files:
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"{SECRET}\n" * 20)
        self.folders = sorted({file.parent for file in self.files} - {bench.data})
        self.before = self._look()

    def _look(self) -> dict[str, Any]:
        looks: dict[str, Any] = {}
        for path in [*self.files, *self.folders]:
            about = path.stat(follow_symlinks=False)
            content = path.read_bytes() if path.is_file() else sorted(os.listdir(path))
            looks[str(path)] = (content, about.st_mode, about.st_uid, about.st_nlink, about.st_mtime_ns)
        return looks

    def check(self) -> None:
        assert self._look() == self.before


@pytest.fixture
def canaries(bench: Bench, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Canaries:
    monkeypatch.setenv("CANARY", SECRET)
    return Canaries(bench, tmp_path_factory.mktemp("host"))


def given_away(bench: Bench, report: dict[str, Any]) -> str:
    """Everything that left the machine because of a job, with its inline outputs decoded."""
    outputs = report["result"].get("outputs", {}).values()
    inline = [base64.b64decode(o["value"]) for o in outputs if o["type"] == "base64"]
    blobs = [*bench.blobs.blobs.values(), *inline]
    text = json.dumps([report, bench.lines])
    return text + b"\n".join(blobs).decode(errors="replace")


async def attempt(
    bench: Bench,
    canaries: Canaries,
    profile: str,
    definition: dict[str, Any],
    *,
    network: str = "none",
    max_files: int = 2000,
) -> dict[str, Any]:
    """Run it, then check the canaries, what was given away, and that nothing is left."""
    grant = replace(GRANT, profile=profile, network=network, max_output_bytes=64 << 20, max_output_files=max_files)
    executor = bench.another(grant)
    report = await bench.run(definition.pop("command"), executor, maxDuration="20s", **definition)
    assert SECRET not in given_away(bench, report)
    assert [line for line in text_of(report).splitlines() if line.startswith("GOT")] == []
    canaries.check()
    await bench.settle()
    assert await bench.containers() == []
    jobs = Workspace.root(bench.data, bench.worker_id)
    assert not jobs.exists() or os.listdir(jobs) == []
    return report


@pytest.mark.parametrize("name", LINKS)
async def test_links_are_left_out_and_never_followed(
    bench: Bench, canaries: Canaries, docker_engine: DockerEngine, name: str
) -> None:
    script = fill(LINKS[name], places(canaries, docker_engine))
    report = await attempt(bench, canaries, "standard", {"command": ["sh", "-c", f"{script}; touch /outputs/plain"]})
    assert list(report["result"]["outputs"]) == ["plain"]
    assert {skipped["reason"] for skipped in report["result"]["outputsSkipped"]} == {"a symbolic link"}


def places(canaries: Canaries, engine: DockerEngine) -> dict[str, Any]:
    disk = canaries.secret.stat().st_dev
    return {
        "secret": canaries.secret,
        "folder": canaries.secret.parent,
        "major": os.major(disk),
        "minor": os.minor(disk),
        "socket": engine.host.removeprefix("unix://"),
        "pid": os.getpid(),
    }


KERNEL = ("device nodes", "mounts of its own", "another root", "the kernel's settings", "control groups", "the machine")
WITH_NETWORK = ("the engine's socket", "the machine")
WAYS = [("standard", n) for n in ESCAPES] + [(p, n) for p in ("strict", "trusted") for n in KERNEL]


@pytest.mark.parametrize(("profile", "name"), WAYS)
async def test_a_job_does_not_get_out(
    bench: Bench, canaries: Canaries, docker_engine: DockerEngine, profile: str, name: str
) -> None:
    script = fill(ESCAPES[name], places(canaries, docker_engine))
    definition = {"command": ["sh", "-c", script], "inputs": {"i": {"value": "input"}}}
    report = await attempt(bench, canaries, profile, definition, network="" if name in WITH_NETWORK else "none")
    assert report["outcome"] in ("succeeded", "failed", "error"), report


@pytest.mark.parametrize("name", DEFINITIONS)
async def test_a_definition_does_not_get_out(
    bench: Bench, canaries: Canaries, docker_engine: DockerEngine, name: str
) -> None:
    filled = json.loads(fill(json.dumps(DEFINITIONS[name]), places(canaries, docker_engine)))
    await attempt(bench, canaries, "standard", {"command": "true", **filled})


@pytest.mark.parametrize("number", range(3, 12))
async def test_no_file_that_the_runtime_has_open_is_a_way_out(bench: Bench, canaries: Canaries, number: int) -> None:
    command = f"cat ../../../..{canaries.secret}; cat ../..{canaries.secret}; cat {canaries.secret}"
    await attempt(bench, canaries, "standard", {"command": command, "workdir": f"/proc/self/fd/{number}"})


# Images that strangers made ---------------------------------------------------------------------------------------


@asynccontextmanager
async def crafted(bench: Bench, engine: DockerEngine, script: str, *changes: str) -> AsyncIterator[str]:
    """An image with what a script left in it, and with these lines of a Dockerfile."""
    container = await bench.engine.create({"Image": IMAGE, "Cmd": ["sh", "-c", script]})
    await bench.engine.start(container)
    assert await bench.engine.wait(container) == 0
    lines = "".join(f"&changes={quote(line)}" for line in changes)
    assert engine.request("POST", f"/commit?container={container}&repo=asman-test&tag=crafted{lines}")[0] == 201
    await bench.engine.remove(container)
    try:
        yield "asman-test:crafted"
    finally:
        engine.request("DELETE", "/images/asman-test:crafted?force=true")


@pytest.mark.parametrize("name", IMAGES)
async def test_an_image_does_not_get_out(
    bench: Bench, canaries: Canaries, docker_engine: DockerEngine, name: str
) -> None:
    script, changes = IMAGES[name]
    known = _volumes(docker_engine)
    async with crafted(bench, docker_engine, fill(script, places(canaries, docker_engine)), *changes) as image:
        command = f"echo x > /outputs/x; cat /outputs/secret {canaries.secret} ../../../..{canaries.secret}; true"
        await attempt(bench, canaries, "standard", {"command": command, "image": image})
    assert {name for name in _volumes(docker_engine) - known if "asman-cache" not in name} == set()


def _volumes(engine: DockerEngine) -> set[str]:
    return {volume["Name"] for volume in json.loads(engine.request("GET", "/volumes")[1])["Volumes"] or ()}


async def test_a_config_file_does_not_follow_an_images_link_out_of_it(
    bench: Bench, canaries: Canaries, docker_engine: DockerEngine
) -> None:
    links = f"ln -s /proc /p; ln -s / /r; ln -s ../../../../../../..{canaries.secret.parent} /f; ln -s /sys /s"
    async with crafted(bench, docker_engine, links) as image:
        for target in ("/p/sys/kernel/core_pattern", "/r/proc/1/attr", "/f/secret", "/s/kernel/x", "/r/r/r/etc/x"):
            files = {target: {"value": "mine"}}
            await attempt(bench, canaries, "standard", {"command": "true", "image": image, "configFiles": files})


# Trees and races --------------------------------------------------------------------------------------------------


async def test_a_tree_deeper_than_any_path_is_left_out_and_removed(bench: Bench, canaries: Canaries) -> None:
    report = await attempt(bench, canaries, "standard", {"command": ["sh", "-c", DEEP]}, max_files=10_000)
    assert report["outcome"] == "succeeded", report
    assert report["result"]["outputs"] == {}
    assert [skipped["reason"] for skipped in report["result"]["outputsSkipped"]] == ["a folder more than 32 deep"]


async def test_a_job_that_swaps_its_files_while_it_is_watched_gets_nothing(bench: Bench, canaries: Canaries) -> None:
    script = f"""
        mkdir /outputs/d; echo x > /outputs/d/f; echo y > /outputs/g; n=0
        while [ $n -lt 1500 ]; do n=$((n+1))
          mv /outputs/d /outputs/e; ln -s {canaries.secret.parent} /outputs/d; rm /outputs/d; mv /outputs/e /outputs/d
          rm /outputs/g; ln -s {canaries.secret} /outputs/g; rm /outputs/g; echo y > /outputs/g
        done"""
    await attempt(bench, canaries, "standard", {"command": ["sh", "-c", script]})


@contextmanager
def swapping(root: Path, canaries: Canaries) -> Iterator[None]:
    """While inside, a folder and a file below ``root`` turn into links to the canaries and back, without a pause."""
    enough = threading.Event()

    def swap() -> None:
        while not enough.is_set():
            os.rename(root / "d", root / "aside")
            os.symlink(canaries.secret.parent, root / "d")
            os.unlink(root / "d")
            os.rename(root / "aside", root / "d")
            os.symlink(canaries.secret, root / "new")
            os.rename(root / "new", root / "secret")
            (root / "new").write_bytes(b"y" * 500)
            os.rename(root / "new", root / "secret")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


async def test_what_turns_into_a_link_while_it_is_collected_is_not_read(
    bench: Bench, canaries: Canaries, tmp_path: Path
) -> None:
    root = tmp_path / "racing"
    (root / "d").mkdir(parents=True)
    for file in (root / "d" / "inner", root / "d" / "secret", root / "secret"):
        file.write_bytes(b"x" * 500)
    transfer = Transfer(bench.session, bench.blobs.url, private_addresses=False)
    refused = 0
    with swapping(root, canaries):
        for _ in range(100):
            try:
                await collect_outputs(await asyncio.to_thread(_scan, root), root, transfer)
            except (OSError, AsmanError, ExceptionGroup):
                refused += 1
    assert refused > 0, "the race was never met"
    assert {content[:1] for content in bench.blobs.blobs.values()} <= {b"x", b"y"}
    canaries.check()


def _scan(root: Path) -> Any:
    return output_scan(root, max_files=100, max_bytes=1 << 20)


async def test_what_turns_into_a_link_while_it_is_removed_is_not_followed(canaries: Canaries, tmp_path: Path) -> None:
    for turn in range(20):
        workspace = Workspace.of(tmp_path, "w", "q", "j", turn)
        workspace.prepare()
        root = workspace.outputs
        for number in range(50):
            (root / f"d{number}").mkdir()
        thread = threading.Thread(target=_plant_links, args=(root, canaries.secret.parent))
        thread.start()
        with contextlib.suppress(OSError):  # the folder was filled again while it was emptied
            workspace.remove()
        thread.join()
        workspace.remove()
        assert not workspace.folder.exists()
    canaries.check()


def _plant_links(root: Path, target: Path) -> None:
    for number in range(50):
        try:
            os.rmdir(root / f"d{number}")
            os.symlink(target, root / f"d{number}")
        except OSError:
            continue


# The host's own users ---------------------------------------------------------------------------------------------


async def test_other_users_of_the_host_cannot_reach_what_a_job_left(bench: Bench, canaries: Canaries) -> None:
    command = ["sh", "-c", "cp /bin/busybox /outputs/su; chmod 6777 /outputs/su; echo ready; sleep 30"]
    assignment = bench.assignment({"command": command})
    running = asyncio.create_task(bench.executor.run(assignment, bench.log))
    await until(lambda: "ready" in bench.live())
    outputs = Workspace.of(bench.data, bench.worker_id, *assignment.key).outputs
    seen = [
        stat.S_IMODE(folder.stat().st_mode) & 0o077 for folder in outputs.parents if folder.is_relative_to(bench.data)
    ]
    assert 0 in seen, "no folder on the way keeps other users out"
    await bench.executor.stop(*assignment.key)
    await running
    canaries.check()
