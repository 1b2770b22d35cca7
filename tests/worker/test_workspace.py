"""Inputs are written safely, outputs are read safely."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asman_worker.transfer as transfer_module
from asman.errors import AsmanError, BadDefinition, HashMismatch, LimitExceeded
from asman_worker.container import JobFolders
from asman_worker.report import first_cause
from asman_worker.transfer import Transfer
from asman_worker.workspace import Workspace, collect_outputs, materialise, output_scan, split_name
from worker_blobs import BlobServer

JOB = "b" * 64


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_module, "_FIRST_PAUSE_S", 0.01)


@pytest.fixture
async def blobs() -> AsyncIterator[BlobServer]:
    async with BlobServer() as server:
        yield server


@pytest.fixture
async def transfer(blobs: BlobServer) -> AsyncIterator[Transfer]:
    async with aiohttp.ClientSession() as session:
        yield Transfer(session, blobs.url, private_addresses=False)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.of(tmp_path, "worker", "queue", JOB, 1)


@pytest.fixture
def tight_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


async def write(workspace: Workspace, transfer: Transfer, limit_bytes: int = 1 << 30, **files: Any) -> JobFolders:
    return await materialise(workspace, files, transfer, limit_bytes=limit_bytes)


async def refusal(workspace: Workspace, transfer: Transfer, limit_bytes: int = 1 << 30, **files: Any) -> AsmanError:
    with pytest.raises((AsmanError, ExceptionGroup)) as refused:
        await write(workspace, transfer, limit_bytes, **files)
    cause = first_cause(refused.value)
    assert isinstance(cause, AsmanError)
    return cause


async def test_every_type_of_reference_is_written(workspace: Workspace, transfer: Transfer, blobs: BlobServer) -> None:
    key = blobs.add(b"from a blob")
    await write(
        workspace,
        transfer,
        inputs={
            "text.txt": {"type": "utf8", "value": "héllo"},
            "typeless": {"value": "plain"},
            "null-type": {"type": None, "value": "plain too"},
            "bytes.bin": {"type": "base64", "value": base64.b64encode(b"\x00\xff").decode()},
            "loose.bin": {"type": "base64", "value": "AP8\n"},
            "data.json": {"type": "json", "value": {"b": [1, "ü"], "a": None}},
            "deep/er/file": {"type": "url", "value": transfer.blob_url(key), "hash": key},
            "keyed": {"type": "key", "value": key},
            "empty": {"type": "utf8", "value": ""},
            "half": {"type": "utf8", "value": "\ud83d!"},
        },
    )
    content = {str(p.relative_to(workspace.inputs)): p.read_bytes() for p in workspace.inputs.rglob("*") if p.is_file()}
    assert content == {
        "text.txt": "héllo".encode(),
        "typeless": b"plain",
        "null-type": b"plain too",
        "bytes.bin": b"\x00\xff",
        "loose.bin": b"\x00\xff",
        "data.json": '{"b":[1,"ü"],"a":null}'.encode(),
        "deep/er/file": b"from a blob",
        "keyed": b"from a blob",
        "empty": b"",
        "half": "\ufffd!".encode(),
    }


@pytest.mark.usefixtures("tight_umask")
async def test_any_user_may_read_inputs_and_write_outputs_whatever_the_umask(
    workspace: Workspace, transfer: Transfer
) -> None:
    await write(workspace, transfer, inputs={"a/b.txt": {"value": "x"}})
    modes = {p: stat.S_IMODE(p.stat().st_mode) for p in (workspace.inputs, workspace.inputs / "a", workspace.outputs)}
    assert list(modes.values()) == [0o755, 0o755, 0o777]
    assert stat.S_IMODE((workspace.inputs / "a/b.txt").stat().st_mode) == 0o644


async def test_outputs_start_empty(workspace: Workspace, transfer: Transfer) -> None:
    await write(workspace, transfer)
    (workspace.outputs / "old").write_text("left by an earlier start")
    await write(workspace, transfer)
    assert list(workspace.outputs.iterdir()) == []


async def test_config_files_lie_among_the_inputs_and_win_or_are_mounted(
    workspace: Workspace, transfer: Transfer
) -> None:
    folders = await write(
        workspace,
        transfer,
        inputs={"same": {"value": "input"}},
        configFiles={"same": {"value": "config"}, "/etc/app/x.conf": {"value": "y"}, "/inputs/z": {"value": "z"}},
    )
    assert (workspace.inputs / "same").read_text() == "config"
    assert (workspace.inputs / "z").read_text() == "z"
    ((target, path),) = folders.config_files
    assert target == "/etc/app/x.conf"
    assert path == str(workspace.config_files / "etc/app/x.conf")
    assert (workspace.config_files / "etc/app/x.conf").read_text() == "y"


NAMES = ["", "/abs", "../x", "a/../b", "a//b", "./a", "a/.", "a/", "a\0b", "..", ".", "x" * 256, "/".join("a" * 40)]


@pytest.mark.parametrize("name", [*NAMES, "\ud800"])
async def test_a_name_that_leads_elsewhere_is_refused_and_nothing_is_written(
    workspace: Workspace, transfer: Transfer, tmp_path: Path, name: str
) -> None:
    error = await refusal(workspace, transfer, inputs={"good": {"value": "x"}, name: {"value": "x"}})
    assert isinstance(error, BadDefinition)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        "/",
        "/proc/x",
        "/sys",
        "/dev/null",
        "/outputs/x",
        "/job-cache",
        "/inputs",
        "/etc/../x",
        "//x",
        "/a:ro",
        "/inputs/../x",
    ],
)
async def test_a_config_file_cannot_be_mounted_where_it_would_harm(
    workspace: Workspace, transfer: Transfer, name: str
) -> None:
    assert isinstance(await refusal(workspace, transfer, configFiles={name: {"value": "x"}}), BadDefinition)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ({"type": "magnet", "value": "x"}, "type"),
        ({"type": "utf8", "value": 3}, "expected text"),
        ({"type": "base64", "value": "a"}, "base64"),
        ({"type": "base64", "value": "!!!!"}, "base64"),
        ({"type": "key", "value": ""}, "empty"),
        ({"type": "url", "value": "file:///etc/shadow"}, "http"),
        ({"type": "utf8"}, "expected"),
        ("bare", "expected"),
        (None, "expected"),
    ],
)
async def test_a_reference_that_cannot_be_read_is_refused_by_name(
    workspace: Workspace, transfer: Transfer, reference: Any, words: str
) -> None:
    error = await refusal(workspace, transfer, inputs={"the-file": reference})
    assert isinstance(error, BadDefinition)
    assert words in error.message


async def test_a_file_cannot_also_be_a_folder(workspace: Workspace, transfer: Transfer) -> None:
    error = await refusal(workspace, transfer, inputs={"a": {"value": "x"}, "a/b": {"value": "y"}})
    assert "both a file and the folder" in error.message


async def test_inputs_that_are_no_object_are_refused(workspace: Workspace, transfer: Transfer) -> None:
    assert "definition.inputs" in (await refusal(workspace, transfer, inputs=["a"])).message


async def test_all_inputs_together_have_a_limit(workspace: Workspace, transfer: Transfer, blobs: BlobServer) -> None:
    key = blobs.add(b"x" * 600)
    small = {"value": "y" * 600}
    assert isinstance(await refusal(workspace, transfer, 1000, inputs={"a": small, "b": small}), LimitExceeded)
    assert isinstance(
        await refusal(workspace, transfer, 500, inputs={"k": {"type": "key", "value": key}}), LimitExceeded
    )


async def test_a_blob_that_does_not_match_its_key_is_refused(
    workspace: Workspace, transfer: Transfer, blobs: BlobServer
) -> None:
    blobs.blobs["c" * 64] = b"other"
    error = await refusal(workspace, transfer, inputs={"k": {"type": "key", "value": "c" * 64}})
    assert isinstance(error, HashMismatch)


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    from asman_worker.workspace import _create

    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside)
    (root / "file").symlink_to(outside / "target")
    for parts in (("link", "x"), ("file",)):
        with pytest.raises(OSError, match=r"symbolic|exists|directory"):
            _create(root, parts, 0o644)
    assert list(outside.iterdir()) == []


@given(st.text(max_size=30))
def test_a_name_that_passes_stays_inside(name: str) -> None:
    try:
        parts = split_name(name)
    except BadDefinition:
        return
    root = Path("/root-of-the-job")
    assert Path(os.path.normpath(root.joinpath(*parts))).is_relative_to(root)
    assert "/".join(parts) == name


# Outputs


def scan(root: Path, max_files: int = 1000, max_bytes: int = 1 << 30) -> Any:
    return output_scan(root, max_files=max_files, max_bytes=max_bytes)


async def collected(root: Path, transfer: Transfer) -> dict[str, dict[str, str]]:
    return await collect_outputs(scan(root), root, transfer)


async def test_small_outputs_travel_inline_and_large_ones_as_blobs(
    transfer: Transfer, blobs: BlobServer, tmp_path: Path
) -> None:
    (tmp_path / "sub" / "dir").mkdir(parents=True)
    (tmp_path / "empty-folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "two-hundred").write_bytes(b"x" * 200)
    (tmp_path / "sub/dir/ünï.txt").write_bytes(b"y" * 201)
    big = os.urandom(3 << 20)
    (tmp_path / "big").write_bytes(big)
    key, sub_key = hashlib.sha256(big).hexdigest(), hashlib.sha256(b"y" * 201).hexdigest()
    assert await collected(tmp_path, transfer) == {
        "big": {"value": f"{blobs.url}/f/{key}", "type": "url", "hash": key},
        "empty": {"value": "", "type": "base64"},
        "sub/dir/ünï.txt": {"value": f"{blobs.url}/f/{sub_key}", "type": "url", "hash": sub_key},
        "two-hundred": {"value": base64.b64encode(b"x" * 200).decode(), "type": "base64"},
    }
    assert blobs.blobs == {key: big, sub_key: b"y" * 201}


async def test_an_output_that_the_server_has_is_not_sent(transfer: Transfer, blobs: BlobServer, tmp_path: Path) -> None:
    blobs.add(b"z" * 500)
    (tmp_path / "known").write_bytes(b"z" * 500)
    await collected(tmp_path, transfer)
    assert blobs.count("PUT") == 0


def test_links_pipes_sockets_and_devices_are_left_out_with_the_reason(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host data")
    root = tmp_path / "outputs"
    root.mkdir()
    (root / "link").symlink_to(secret)
    (root / "folder-link").symlink_to(tmp_path)
    (root / "dangling").symlink_to("/nowhere")
    os.mkfifo(root / "pipe")
    (root / "good").write_text("x")
    (root / os.fsdecode(b"bad\xff")).write_text("x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        found = scan(root)
    assert [f.name for f in found.files] == ["good"]
    reasons = dict(found.skipped)
    assert reasons.pop("bad?") == "a name that cannot be sent"
    assert reasons == {
        "link": "a symbolic link",
        "folder-link": "a symbolic link",
        "dangling": "a symbolic link",
        "pipe": "a pipe",
        "socket": "a socket",
    }


async def test_a_file_that_turns_into_a_link_after_the_scan_is_not_followed(
    transfer: Transfer, blobs: BlobServer, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 500)
    root = tmp_path / "outputs"
    root.mkdir()
    (root / "file").write_bytes(b"x" * 500)
    found = scan(root)
    (root / "file").unlink()
    (root / "file").symlink_to(secret)
    with pytest.raises(ExceptionGroup):
        await collect_outputs(found, root, transfer)
    assert blobs.blobs == {}


def test_more_files_or_bytes_than_allowed_are_refused(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / str(number)).write_bytes(b"x" * 100)
    with pytest.raises(LimitExceeded, match="3 files"):
        scan(tmp_path, max_files=3)
    with pytest.raises(LimitExceeded, match="399 B"):
        scan(tmp_path, max_bytes=399)
    assert len(scan(tmp_path, max_files=4, max_bytes=400).files) == 4


def test_a_very_deep_tree_is_cut_off_without_exhausting_anything(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(40):
        deep = deep / "d"
        deep.mkdir()
    (deep / "f").write_text("x")
    found = scan(tmp_path)
    assert found.files == ()
    assert [reason for _, reason in found.skipped] == ["a folder more than 32 deep"]


async def test_ten_thousand_small_outputs_are_collected(transfer: Transfer, tmp_path: Path) -> None:
    for number in range(10_000):
        (tmp_path / f"{number:05}").touch()
    found = scan(tmp_path, max_files=10_000)
    async with asyncio.timeout(60):
        assert len(await collect_outputs(found, tmp_path, transfer)) == 10_000


# Places


def test_jobs_of_other_workers_queues_and_attempts_lie_elsewhere(tmp_path: Path) -> None:
    places = {
        Workspace.of(tmp_path, worker, queue, JOB, attempt).folder
        for worker in ("w1", "w2")
        for queue in ("q1", "q2")
        for attempt in (1, 2)
    }
    assert len(places) == 8
    assert all("q1" not in str(place.relative_to(tmp_path)) for place in places)


@pytest.mark.parametrize("job_id", ["../../etc", "a/b", "", ".", "x" * 300])
def test_a_job_id_cannot_lead_elsewhere(tmp_path: Path, job_id: str) -> None:
    folder = Workspace.of(tmp_path, "w", "q", job_id, 1).folder
    assert Path(os.path.normpath(folder)).parents[2] == Workspace.root(tmp_path, "w")


def test_removing_takes_empty_folders_above_along_and_leaves_others(tmp_path: Path) -> None:
    first, second = (Workspace.of(tmp_path, "w", "q", JOB, attempt) for attempt in (1, 2))
    first.prepare()
    second.prepare()
    first.remove()
    assert not first.folder.exists()
    assert second.outputs.exists()
    second.remove()
    second.remove()
    assert list(Workspace.root(tmp_path, "w").iterdir()) == []


def test_a_tree_deeper_than_calls_can_go_is_removed(tmp_path: Path) -> None:
    workspace = Workspace.of(tmp_path, "w", "q", JOB, 1)
    workspace.prepare()
    bottom = os.open(workspace.outputs, os.O_RDONLY)
    for level in range(3000):
        os.mkdir("d", dir_fd=bottom)
        if level % 100 == 0:
            os.symlink(tmp_path, "link", dir_fd=bottom)
        inner = os.open("d", os.O_RDONLY, dir_fd=bottom)
        os.close(bottom)
        bottom = inner
    os.close(bottom)
    workspace.remove()
    assert list(Workspace.root(tmp_path, "w").iterdir()) == []


def test_the_jobs_folders_are_closed_to_other_users(tmp_path: Path) -> None:
    Workspace.of(tmp_path, "w", "q", JOB, 1).prepare()
    assert stat.S_IMODE(Workspace.root(tmp_path, "w").stat().st_mode) == 0o700
