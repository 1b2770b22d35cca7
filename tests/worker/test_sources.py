"""Sources from the definition's text to the tar file, from a real forge; and what is left afterwards: nothing."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
import os
import ssl
import tarfile
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

import asman_worker.reach as reach_module
import asman_worker.transfer as transfer_module
from asman.errors import AsmanError, BadDefinition, HashMismatch, LimitExceeded
from asman_worker.reach import SourceFailed
from asman_worker.recipe import Recipe, read_recipe
from asman_worker.sources import PackedContext, Resolved, Sources
from git_server import GitServer, commit, git, make_certificate

TOKEN = "hunter2/+%"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach_module, "_PAUSES_S", ())
    monkeypatch.setattr(transfer_module, "_FIRST_PAUSE_S", 0.001)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def forge(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[GitServer]:
    with GitServer(tmp_path, certificate) as server:
        yield server


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Where sources are made; empty at the end of every test."""
    yield tmp_path / "scratch"
    assert list((tmp_path / "scratch").glob("*")) == []


@pytest.fixture
async def session(forge: GitServer) -> AsyncIterator[aiohttp.ClientSession]:
    """To the worker's own server, which the forge is where a test says so."""
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=forge.ca_file))
    async with aiohttp.ClientSession(connector=connector) as opened:
        yield opened


def secret_for(name: str, host: str) -> str:
    if (name, host) == ("forge", "localhost"):
        return f"me:{TOKEN}"
    raise AsmanError(f"this worker has no secret {name} for {host}")


Opened = Callable[..., Sources]


@pytest.fixture
def opened(forge: GitServer, scratch: Path, session: aiohttp.ClientSession) -> Opened:
    def open_sources(**others: Any) -> Sources:
        settings: dict[str, Any] = {"private_addresses": True, "max_bytes": 32 << 20, "max_files": 1000}
        settings |= {"secret_for": secret_for, "scratch": scratch, "session": session, "ca_file": forge.ca_file}
        return Sources(**(settings | {"server_url": "http://server.example"} | others))

    return open_sources


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "docker").mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=trunk")
    (folder / "Dockerfile").write_text("FROM root\n")
    (folder / "docker" / "Dockerfile").write_text("FROM folder\n")
    (folder / "docker" / "link").symlink_to("/etc/passwd")
    commit(folder)
    return folder


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str) -> None:
        self.lines.append(text)


def recipe_of(**build: Any) -> Recipe:
    recipe = read_recipe({"build": build})
    assert recipe is not None
    return recipe


def contents(packed: PackedContext) -> dict[str, str]:
    """Files, and links as where they lead; the context is removed."""
    assert packed.tar.stat().st_size == packed.size_bytes
    try:
        with tarfile.open(packed.tar, mode="r:") as tar:
            members = [member for member in tar.getmembers() if not member.isdir()]
            assert packed.dockerfile in {member.name for member in members}
            return {member.name: _text(tar, member) for member in members}
    finally:
        packed.remove()
        packed.remove()


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = tar.extractfile(member) if member.isreg() else None
    return content.read().decode() if content else f"-> {member.linkname}"


async def made(sources: Sources, recipe: Recipe, log: Log | None = None) -> tuple[Resolved, dict[str, str]]:
    say = log or Log()
    resolved = await sources.resolve(recipe, say)
    try:
        return resolved, contents(await sources.pack(resolved, recipe, say))
    finally:
        resolved.remove()


# Nothing but a Dockerfile -----------------------------------------------------------------------------------------


async def test_a_dockerfile_alone_needs_no_network(opened: Opened, forge: GitServer) -> None:
    resolved, found = await made(opened(), recipe_of(dockerfile="FROM a\n"))
    assert (resolved.kind, resolved.identity, found) == ("none", "", {"Dockerfile": "FROM a\n"})
    assert forge.asked == []


# Repositories -----------------------------------------------------------------------------------------------------


async def test_a_repository_s_default_branch_is_a_context(opened: Opened, forge: GitServer, tree: Path) -> None:
    log = Log()
    resolved, found = await made(opened(), recipe_of(context=forge.publish(tree, "r.git")), log)
    assert (resolved.kind, resolved.identity) == ("git", git(tree, "rev-parse", "HEAD"))
    assert found == {
        "Dockerfile": "FROM root\n",
        "docker/Dockerfile": "FROM folder\n",
        "docker/link": "-> /etc/passwd",
    }
    assert any(resolved.identity in line for line in log.lines)
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in log.lines)


@pytest.mark.parametrize(
    ("suffix", "build", "dockerfile"),
    [
        ("#trunk:docker", {}, "FROM folder\n"),
        ("#:docker", {"filename": "Dockerfile"}, "FROM folder\n"),
        ("", {"buildContext": "docker"}, "FROM folder\n"),
        ("", {"buildContext": "docker", "filename": "docker/Dockerfile"}, "FROM folder\n"),
        ("", {"buildContext": "docker", "dockerfile": "FROM text\n"}, "FROM text\n"),
    ],
)
async def test_a_folder_of_a_repository_is_a_context(
    opened: Opened, forge: GitServer, tree: Path, suffix: str, build: dict[str, str], dockerfile: str
) -> None:
    _, found = await made(opened(), recipe_of(context=forge.publish(tree, "r.git") + suffix, **build))
    assert found == {"Dockerfile": dockerfile, "link": "-> /etc/passwd"}


async def test_a_dockerfile_at_the_top_serves_a_folder(opened: Opened, forge: GitServer, tree: Path) -> None:
    recipe = recipe_of(context=forge.publish(tree, "r.git"), buildContext="docker", filename="Dockerfile")
    sources = opened()
    resolved = await sources.resolve(recipe, Log())
    packed = await sources.pack(resolved, recipe, Log())
    name = packed.dockerfile
    assert contents(packed)[name] == "FROM root\n"


async def test_a_page_s_address_means_ref_and_folder(
    opened: Opened, forge: GitServer, tree: Path, tmp_path: Path
) -> None:
    git(tree, "checkout", "--quiet", "-b", "feature/x")
    (tree / "docker" / "Dockerfile").write_text("FROM feature\n")
    tip = commit(tree)
    forge.publish(tree, "r")
    forge.redirects["owner"] = forge.url  # so that a repository of two parts is served
    resolved, found = await made(opened(), recipe_of(context=f"{forge.url}/owner/r/tree/feature/x/docker"))
    assert (resolved.identity, found["Dockerfile"]) == (tip, "FROM feature\n")
    for shortened in (tip, tip[:9]):
        resolved, _ = await made(opened(), recipe_of(context=f"{forge.url}/owner/r/commit/{shortened}"))
        assert resolved.identity == tip


async def test_what_moved_on_is_another_identity(opened: Opened, forge: GitServer, tree: Path) -> None:
    recipe = recipe_of(context=forge.publish(tree, "r.git"))
    before = await opened().resolve(recipe, Log())
    (tree / "new").write_text("new")
    after = commit(tree)
    forge.publish(tree, "r.git")
    now = await opened().resolve(recipe, Log())
    assert before.identity != now.identity == after
    assert "new" not in contents(await opened().pack(before, recipe, Log()))


async def test_a_missing_folder_or_branch_is_said(opened: Opened, forge: GitServer, tree: Path) -> None:
    url = forge.publish(tree, "r.git")
    with pytest.raises(SourceFailed, match="no branch, tag or commit"):
        await opened().resolve(recipe_of(context=f"{url}#other"), Log())
    recipe = recipe_of(context=url, buildContext="nowhere")
    with pytest.raises(SourceFailed, match="nowhere"):
        await opened().pack(await opened().resolve(recipe, Log()), recipe, Log())


async def test_a_repository_above_the_limits_is_refused(opened: Opened, forge: GitServer, tree: Path) -> None:
    (tree / "noise").write_bytes(os.urandom(4 << 20))
    commit(tree)
    recipe = recipe_of(context=forge.publish(tree, "r.git"))
    for sources in (opened(max_bytes=1 << 20), opened(max_files=2)):
        with pytest.raises(LimitExceeded):
            await sources.pack(await sources.resolve(recipe, Log()), recipe, Log())


async def test_time_is_limited(opened: Opened, forge: GitServer, tree: Path) -> None:
    (tree / "noise").write_bytes(os.urandom(1 << 20))
    commit(tree)
    recipe = recipe_of(context=forge.publish(tree, "r.git"))
    resolved = await opened().resolve(recipe, Log())
    forge.hold = True
    with pytest.raises(SourceFailed, match="within"):
        await opened(limit_s=1.0).pack(resolved, recipe, Log())
    assert running() == []


# Credentials ------------------------------------------------------------------------------------------------------


async def test_a_private_repository_is_read_by_the_name_of_a_secret_that_shows_nowhere(
    opened: Opened, forge: GitServer, tree: Path, scratch: Path
) -> None:
    (tree / "noise").write_bytes(os.urandom(1 << 20))
    tip = commit(tree)
    forge.publish(tree, "r.git")
    forge.passwords["r.git"] = f"me:{TOKEN}"
    recipe = recipe_of(context=f"https://secret:forge@localhost:{forge.port}/r.git")
    log, sources = Log(), opened()
    resolved = await sources.resolve(recipe, log)
    assert resolved.identity == tip
    forge.hold = True
    task = asyncio.create_task(sources.pack(resolved, recipe, log))
    assert await asyncio.to_thread(forge.held.wait, 30)
    lines = running()
    assert any("fetch" in line for line in lines)
    hidden = seen_forms()
    assert [line for line in lines for form in hidden if form in line] == []
    assert files_below(scratch)
    assert [path for path in files_below(scratch) for form in hidden if form.encode() in path.read_bytes()] == []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    forge.hold = False
    assert "noise" in await noise_of(sources, resolved, recipe, log)
    assert [line for line in log.lines for form in hidden if form in line] == []
    assert not any(form in repr(resolved) for form in hidden)


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def noise_of(sources: Sources, resolved: Resolved, recipe: Recipe, log: Log) -> list[str]:
    packed = await sources.pack(resolved, recipe, log)
    try:
        with tarfile.open(packed.tar) as tar:
            return tar.getnames()
    finally:
        packed.remove()


def seen_forms() -> list[str]:
    return [TOKEN, quote(TOKEN, safe=""), base64.b64encode(f"me:{TOKEN}".encode()).decode()]


async def test_errors_do_not_show_a_credential(
    opened: Opened, forge: GitServer, tree: Path, session: aiohttp.ClientSession
) -> None:
    forge.publish(tree, "r.git")
    forge.passwords |= {"r.git": "me:other", "a.zip": "me:other"}
    host = f"secret:forge@localhost:{forge.port}"
    forge.redirects["reflected.git"] = f"{forge.url}/{TOKEN}"
    for context in (
        f"https://{host}/r.git",
        f"https://{host}/a.zip",
        f"https://{host}/reflected.git",
        f"https://{host}/x",
    ):
        log = Log()
        with pytest.raises(AsmanError) as refused:
            await opened().resolve(recipe_of(context=context), log)
        chain: BaseException | None = refused.value
        while chain is not None:
            shown = f"{chain} {chain!r} {getattr(chain, 'hint', '')} {''.join(log.lines)}"
            assert [form for form in seen_forms() if form in shown] == []
            chain = chain.__cause__


async def test_a_secret_that_the_worker_does_not_have_is_said_before_anything_is_asked(
    opened: Opened, forge: GitServer
) -> None:
    with pytest.raises(AsmanError, match="no secret other for localhost"):
        await opened().resolve(recipe_of(context=f"https://secret:other@localhost:{forge.port}/r.git"), Log())
    assert forge.asked == []


async def test_who_may_not_read_a_repository_gets_no_identity_of_it(
    opened: Opened, forge: GitServer, tree: Path
) -> None:
    url = forge.publish(tree, "r.git")
    forge.passwords["r.git"] = f"me:{TOKEN}"
    with pytest.raises(SourceFailed, match="private"):
        await opened().resolve(recipe_of(context=f"{url}#{git(tree, 'rev-parse', 'HEAD')}"), Log())


async def test_a_private_archive_is_read_by_the_name_of_a_secret(opened: Opened, forge: GitServer) -> None:
    forge.files["/a.tar"] = tar_of({"Dockerfile": b"FROM a"})
    forge.passwords["a.tar"] = f"me:{TOKEN}"
    _, found = await made(opened(), recipe_of(context=f"https://secret:forge@localhost:{forge.port}/a.tar"))
    assert found == {"Dockerfile": "FROM a"}


async def test_an_archive_s_credential_does_not_follow_a_redirect(
    opened: Opened, forge: GitServer, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with GitServer(tmp_path / "other", certificate) as other:
        other.files["/a.tar"] = tar_of({"Dockerfile": b"FROM a"})
        forge.redirects["a.tar"] = f"{other.url}/a.tar"
        forge.passwords["a.tar"] = f"me:{TOKEN}"
        context = f"https://secret:forge@localhost:{forge.port}/a.tar"
        resolved = await opened().resolve(recipe_of(context=context), Log())
        resolved.remove()
        assert forge.asked[-1][2] == f"me:{TOKEN}"
        assert [login for _, _, login in other.asked] == [""]


# Archives ---------------------------------------------------------------------------------------------------------


def tar_of(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return data.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


WRAPPED = {"r-main/Dockerfile": b"FROM a", "r-main/d/x": b"x"}


@pytest.mark.parametrize("path", ["/a.tar.gz", "/a.zip", "/get/tarball/x", "/any/thing", "/get?file=1"])
@pytest.mark.parametrize(
    "data", [gzip.compress(tar_of(WRAPPED)), zip_of(WRAPPED), tar_of(WRAPPED)], ids=["tgz", "zip", "tar"]
)
async def test_an_archive_is_what_its_bytes_are_whatever_its_name(
    opened: Opened, forge: GitServer, path: str, data: bytes
) -> None:
    forge.files[path.partition("?")[0]] = data
    resolved, found = await made(opened(), recipe_of(context=forge.url + path))
    assert (resolved.kind, resolved.identity) == ("archive", hashlib.sha256(data).hexdigest())
    assert found == {"Dockerfile": "FROM a", "d/x": "x"}


async def test_blobs_of_the_server_are_known_without_a_download(opened: Opened, forge: GitServer) -> None:
    data = zip_of({"Dockerfile": b"FROM a"})
    key = hashlib.sha256(data).hexdigest()
    forge.files[f"/f/{key}"] = data
    sources = opened(server_url=forge.url, private_addresses=False)
    recipe = recipe_of(context=f"{forge.url}/f/{key}")
    resolved = await sources.resolve(recipe, Log())
    assert (resolved.identity, forge.asked) == (key, [])
    assert contents(await sources.pack(resolved, recipe, Log())) == {"Dockerfile": "FROM a"}
    forge.files[f"/f/{key}"] = zip_of({"Dockerfile": b"FROM other"})
    with pytest.raises(HashMismatch):
        await made(sources, recipe)


async def test_a_folder_of_an_archive_and_a_given_dockerfile(opened: Opened, forge: GitServer) -> None:
    forge.files["/a.zip"] = zip_of(WRAPPED)
    _, found = await made(opened(), recipe_of(context=f"{forge.url}/a.zip", buildContext="d", dockerfile="FROM b"))
    assert found == {"Dockerfile": "FROM b", "x": "x"}


async def test_what_was_left_out_is_said(opened: Opened, forge: GitServer) -> None:
    forge.files["/a.tar"] = tar_of({"Dockerfile": b"", "../x": b""})
    log = Log()
    await made(opened(), recipe_of(context=f"{forge.url}/a.tar"), log)
    assert any("left out" in line for line in log.lines)


async def test_a_page_is_neither_repository_nor_archive(opened: Opened, forge: GitServer) -> None:
    forge.files["/page"] = b"<html>hello</html>"
    with pytest.raises(SourceFailed, match="neither a git repository nor an archive"):
        await opened().resolve(recipe_of(context=f"{forge.url}/page"), Log())


async def test_archives_have_their_limits(opened: Opened, forge: GitServer) -> None:
    forge.files["/large.tar"] = tar_of({"Dockerfile": b"", "x": bytes(2 << 20)})
    forge.files["/bomb.tgz"] = gzip.compress(forge.files["/large.tar"])
    with pytest.raises(LimitExceeded, match="build's sources"):
        await opened(max_bytes=1 << 20).resolve(recipe_of(context=f"{forge.url}/large.tar"), Log())
    sources, recipe = opened(max_bytes=1 << 20), recipe_of(context=f"{forge.url}/bomb.tgz")
    with pytest.raises(LimitExceeded):
        await made(sources, recipe)


async def test_this_network_is_closed_to_archives_and_repositories_by_default(
    opened: Opened, forge: GitServer, tree: Path
) -> None:
    forge.files["/a.tar"] = tar_of({"Dockerfile": b""})
    forge.publish(tree, "r.git")
    closed = opened(private_addresses=False)
    for context in (f"{forge.url}/a.tar", f"{forge.url}/r.git", f"{forge.url}/x"):
        with pytest.raises(BadDefinition, match="not at a public address"):
            await closed.resolve(recipe_of(context=context), Log())
    assert forge.asked == []
    with pytest.raises(BadDefinition, match="https"):
        await closed.resolve(recipe_of(context="http://h.example/a.tar"), Log())


# Stopping ---------------------------------------------------------------------------------------------------------


def running() -> list[str]:
    """Command lines of git that work for this worker, not for the forge."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and "/scratch/git-" in os.readlink(entry / "cwd"):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [line for line in found if line]


async def test_a_cancelled_fetch_leaves_no_process_and_no_file(
    opened: Opened, forge: GitServer, tree: Path, scratch: Path
) -> None:
    (tree / "noise").write_bytes(os.urandom(2 << 20))
    commit(tree)
    recipe = recipe_of(context=forge.publish(tree, "r.git"))
    resolved = await opened().resolve(recipe, Log())
    forge.hold = True
    task = asyncio.create_task(opened().pack(resolved, recipe, Log()))
    assert await asyncio.to_thread(forge.held.wait, 30)
    assert running()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running() == []
    assert os.listdir(scratch) == []


@pytest.mark.parametrize("turns", [1, 2, 4, 8, 16, 64])
async def test_cancelled_packing_leaves_no_file(opened: Opened, forge: GitServer, scratch: Path, turns: int) -> None:
    """Cancelled after so many turns of the loop: before the thread has begun, and in the middle of it."""
    files = {"Dockerfile": b"", **{f"f{number}": os.urandom(20_000) for number in range(900)}}
    forge.files["/a.tgz"] = gzip.compress(tar_of(files), compresslevel=1)
    recipe, sources = recipe_of(context=f"{forge.url}/a.tgz"), opened()
    resolved = await sources.resolve(recipe, Log())
    task = asyncio.create_task(sources.pack(resolved, recipe, Log()))
    for _ in range(turns):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(scratch) == []
    resolved.remove()


async def test_what_an_earlier_process_left_is_cleared(opened: Opened, scratch: Path) -> None:
    (scratch / "git-old").mkdir(parents=True)
    (scratch / "git-old" / "pack").write_text("x")
    opened().clear()
    assert scratch.name not in os.listdir(scratch.parent)
