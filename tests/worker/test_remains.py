"""Finding and removing what jobs left, also where this process is not allowed to."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from asman_worker import quota
from asman_worker.container import labels_of
from asman_worker.docker import Engine
from asman_worker.remains import Remains
from docker_engine import IMAGE, DockerEngine

pytestmark = pytest.mark.docker

KEY = ("queue", "d" * 64, 2)


@pytest.fixture
async def engine(docker_host: str) -> AsyncIterator[Engine]:
    async with Engine(docker_host) as opened:
        yield opened
        for label in ("asman.worker", "asman.helper"):
            for container in await opened.find({label: "remains-test"}):
                await opened.remove(container.id)


@pytest.fixture
def remains(engine: Engine, tmp_path: Path) -> Remains:
    return Remains(engine, "remains-test", tmp_path)


async def container(engine: Engine, worker: str = "remains-test", attempt: int = 2, *, start: bool = True) -> str:
    labels = labels_of(worker, KEY[0], KEY[1], attempt)
    made = await engine.create({"Image": IMAGE, "Cmd": ["sleep", "60"], "Labels": labels})
    if start:
        await engine.start(made)
    return made


async def test_a_container_is_known_by_worker_queue_job_and_attempt(engine: Engine, remains: Remains) -> None:
    mine = await container(engine)
    await container(engine, attempt=3)
    assert [c.id for c in await remains.containers(KEY)] == [mine]
    assert await remains.containers(("other", KEY[1], KEY[2])) == []
    assert {held.key for held in await remains.held()} == {KEY, (KEY[0], KEY[1], 3)}


async def test_what_was_never_started_is_not_held(engine: Engine, remains: Remains) -> None:
    await container(engine, start=False)
    assert await remains.started(KEY) is None
    assert await remains.held() == []
    assert len(await remains.containers(KEY)) == 1


async def test_cleaning_asks_before_each_removal_and_removes_ended_helpers(engine: Engine, remains: Remains) -> None:
    kept, gone = await container(engine), await container(engine, attempt=3)
    helper = await engine.create({"Image": IMAGE, "Labels": {"asman.helper": "remains-test"}})
    await remains.clean(lambda key: key == KEY, lambda guard: False)
    assert await engine.inspect(kept) is not None
    assert await engine.inspect(gone) is None
    assert await engine.inspect(helper) is None


async def test_folders_that_nobody_keeps_are_removed(remains: Remains, tmp_path: Path) -> None:
    other = Remains(remains._engine, "another-worker", tmp_path)
    for owner, key in ((remains, KEY), (remains, (KEY[0], KEY[1], 3)), (other, KEY)):
        owner.workspace(key).prepare()
    await remains.clean_folders(lambda: {KEY})
    assert remains.workspace(KEY).folder.exists()
    assert not remains.workspace((KEY[0], KEY[1], 3)).folder.exists()
    assert other.workspace(KEY).folder.exists()


@pytest.mark.skipif(bool(quota.what_is_missing()), reason=f"needs root and e2fsprogs, mount: {quota.what_is_missing()}")
async def test_a_mount_that_a_crash_left_goes_and_another_workers_stays(remains: Remains, tmp_path: Path) -> None:
    other = Remains(remains._engine, "another-worker", tmp_path)
    places = [owner.workspace(KEY) for owner in (remains, other)]
    try:
        for workspace in places:
            workspace.prepare()
            await quota.attach(workspace.outputs_image, workspace.outputs, quota.geometry(1 << 20, 10))
            (workspace.outputs / "folder").mkdir()
            (workspace.outputs / "folder" / "file").write_text("x")
        await remains.clean_folders(set)
        assert not places[0].folder.exists()
        assert quota.is_attached(places[1].outputs)
        assert (places[1].outputs / "folder" / "file").exists()
    finally:
        places[1].remove()
    assert not places[1].folder.exists()


@contextlib.contextmanager
def as_nobody(folder: Path, address: str) -> Iterator[None]:
    """Be a user without rights, who may reach a folder and talk to the engine, for the time of the block."""
    socket = Path(address.removeprefix("unix://"))
    wanted = dict.fromkeys((folder, *folder.parents, *socket.parents), 0o011) | {socket: 0o006}
    before = {path: stat.S_IMODE(path.stat().st_mode) for path in wanted}
    changed = {path: mode for path, mode in before.items() if mode & wanted[path] != wanted[path]}
    for path, mode in changed.items():
        path.chmod(mode | wanted[path])
    try:
        os.setegid(65534)
        os.seteuid(65534)
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        for path, mode in changed.items():
            path.chmod(mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user and become nobody")
async def test_a_worker_that_is_not_root_reads_and_removes_what_a_containers_root_left(
    engine: Engine, remains: Remains, tmp_path: Path
) -> None:
    workspace = remains.workspace(KEY)
    workspace.prepare()
    closed = workspace.outputs / "closed"
    closed.mkdir()
    (closed / "file").write_text("x")
    for path in list(tmp_path.rglob("*")):  # noqa: ASYNC240 - a few files
        os.chown(path, 65534, 65534)
    for path in (closed / "file", closed):
        os.chown(path, 0, 0)
        path.chmod(0o700)
    with as_nobody(tmp_path, engine.address):
        with pytest.raises(PermissionError):
            (closed / "file").read_text()
        scan = await remains.scan(KEY, IMAGE, max_files=10, max_bytes=1000)
        (closed / "file").read_text()
        await remains.remove_folder(workspace, IMAGE)
    assert [file.name for file in scan.files] == ["closed/file"]
    assert not workspace.folder.exists()


async def test_an_image_that_cannot_help_is_told(engine: Engine, docker_engine: DockerEngine, remains: Remains) -> None:
    made = await engine.create({"Image": IMAGE, "Cmd": ["rm", "/bin/chmod"], "HostConfig": {"NetworkMode": "none"}})
    await engine.start(made)
    assert await engine.wait(made) == 0
    assert docker_engine.request("POST", f"/commit?container={made}&repo=asman-test&tag=no-chmod", b"{}")[0] == 201
    await engine.remove(made)
    remains.workspace(KEY).prepare()
    with pytest.raises(PermissionError, match="chmod"):
        await remains._open_up(remains.workspace(KEY), "asman-test:no-chmod")
    assert await engine.find({"asman.helper": "remains-test"}) == []
