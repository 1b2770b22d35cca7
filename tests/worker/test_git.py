"""The git program against a real forge over https, and what it leaves behind: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import signal
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asman.errors import LimitExceeded
from asman_worker.git import Git
from asman_worker.reach import Credential, Remote, SourceFailed
from git_server import GitServer, commit, git, make_certificate

LIMIT = 64 << 20


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def forge(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[GitServer]:
    with GitServer(tmp_path, certificate) as server:
        yield server


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A working tree with one commit on ``trunk``."""
    folder = tmp_path / "tree"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=trunk")
    (folder / "Dockerfile").write_text("FROM scratch\n")
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text("a\n")
    commit(folder)
    return folder


Opened = Callable[..., Git]


@pytest.fixture
def opened(tmp_path: Path, forge: GitServer) -> Opened:
    def open_git(url: str, *, addresses: tuple[str, ...] = (), max_bytes: int = LIMIT, max_files: int = 1000) -> Git:
        folder = tmp_path / f"scratch-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        remote = Remote(url=url, addresses=addresses)
        return Git(folder, remote, max_bytes=max_bytes, max_files=max_files, ca_file=forge.ca_file)

    return open_git


async def packed(tool: Git, commit_id: str, *paths: str) -> dict[str, tarfile.TarInfo]:
    await tool.fetch(commit_id)
    file = (tool._folder / "out.tar").open("w+b")
    with file:
        await tool.archive(commit_id, await tool.tree(commit_id, paths), file)
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            return {member.name: member for member in tar.getmembers()}


async def test_the_default_branch_is_the_one_that_the_server_names(
    forge: GitServer, tree: Path, opened: Opened
) -> None:
    first = git(tree, "rev-parse", "HEAD")
    git(tree, "checkout", "--quiet", "-b", "main")
    (tree / "b").write_text("b")
    commit(tree)
    git(tree, "checkout", "--quiet", "trunk")
    assert await opened(forge.publish(tree, "r.git")).resolve("", has_folder=False) == (first, "HEAD", "")


async def test_branches_with_slashes_and_folders_behind_them_are_told_apart(
    forge: GitServer, tree: Path, opened: Opened
) -> None:
    git(tree, "checkout", "--quiet", "-b", "feature/x")
    (tree / "c").write_text("c")
    tip = commit(tree)
    tool = opened(forge.publish(tree, "r.git"))
    assert await tool.resolve("feature/x/sub/deep", has_folder=True) == (tip, "refs/heads/feature/x", "sub/deep")
    with pytest.raises(SourceFailed, match="feature/x/sub") as refused:
        await tool.resolve("feature/x/sub", has_folder=False)
    assert '"trunk"' in refused.value.hint


async def test_tags_mean_the_commit_that_they_are_on(forge: GitServer, tree: Path, opened: Opened) -> None:
    git(tree, "tag", "-a", "v1", "-m", "annotated")
    git(tree, "tag", "light")
    tip = git(tree, "rev-parse", "HEAD")
    assert git(tree, "rev-parse", "v1") != tip
    tool = opened(forge.publish(tree, "r.git"))
    assert (await tool.resolve("v1", has_folder=False))[0] == tip
    assert (await tool.resolve("light", has_folder=False))[0] == tip
    assert "Dockerfile" in await packed(tool, tip)


@pytest.mark.parametrize("length", [8, 12, 40])
async def test_a_commit_below_the_tips_is_found_by_its_id(
    forge: GitServer, tree: Path, opened: Opened, length: int
) -> None:
    wanted = git(tree, "rev-parse", "HEAD")
    (tree / "later").write_text("later")
    commit(tree)
    tool = opened(forge.publish(tree, "r.git"))
    assert await tool.resolve(wanted[:length], has_folder=True) == (wanted, "", "")
    assert "later" not in await packed(tool, wanted)


async def test_a_server_that_gives_tips_only_is_asked_for_all_branches(
    forge: GitServer, tree: Path, opened: Opened
) -> None:
    wanted = git(tree, "rev-parse", "HEAD")
    (tree / "later").write_text("later")
    commit(tree)
    url = forge.publish(tree, "r.git")
    forge.old = True
    assert "later" not in await packed(opened(url), wanted)


async def test_a_commit_that_is_not_there_is_said(forge: GitServer, tree: Path, opened: Opened) -> None:
    tool = opened(forge.publish(tree, "r.git"))
    with pytest.raises(SourceFailed):
        await tool.fetch("0" * 39 + "1")
    with pytest.raises(SourceFailed, match="no branch, tag or commit"):
        await tool.resolve("abcdef12", has_folder=False)


async def test_repositories_of_the_newer_hash_are_fetched_too(forge: GitServer, tmp_path: Path, opened: Opened) -> None:
    folder = tmp_path / "newer"
    folder.mkdir()
    git(folder, "init", "--quiet", "--object-format=sha256")
    (folder / "f").write_text("f")
    tip = commit(folder)
    tool = opened(forge.publish(folder, "n.git"))
    assert (await tool.resolve("", has_folder=False))[0] == tip
    assert len(tip) == 64
    assert "f" in await packed(tool, tip)


async def test_only_the_asked_paths_are_written(forge: GitServer, tree: Path, opened: Opened) -> None:
    tip = git(tree, "rev-parse", "HEAD")
    names = await packed(opened(forge.publish(tree, "r.git")), tip, "sub", "no such")
    assert {name for name in names if not names[name].isdir()} == {"sub/a.txt"}
    with pytest.raises(SourceFailed, match="no such"):
        await packed(opened(forge.publish(tree, "r.git")), tip, "no such")


async def test_a_repository_changes_neither_its_tree_nor_this_host(
    forge: GitServer, tree: Path, opened: Opened, tmp_path: Path
) -> None:
    """Attributes, hooks, links, a submodule from this host's files: taken as what they are, or not at all."""
    inner = tmp_path / "inner"
    inner.mkdir()
    git(inner, "init", "--quiet")
    (inner / "secret").write_text("secret")
    commit(inner)
    (tree / ".gitattributes").write_text("hidden export-ignore\nsubst export-subst\n* filter=evil\n")
    (tree / "hidden").write_text("hidden")
    (tree / "subst").write_text("$Format:%H$")
    (tree / "passwd").symlink_to("/etc/passwd")
    git(tree, "submodule", "--quiet", "add", f"file://{inner}", "module")
    tip = commit(tree)
    url = forge.publish(tree, "r.git")
    marker = tmp_path / "ran"
    for hook in ("post-checkout", "reference-transaction", "post-merge", "pre-auto-gc"):
        path = forge.folder / "r.git" / "hooks" / hook
        path.write_text(f"#!/bin/sh\ntouch {marker}\n")
        path.chmod(0o755)
    tool = opened(url)
    names = await packed(tool, tip)
    assert {"hidden", "subst", "passwd", "Dockerfile"} <= set(names)
    assert (names["passwd"].type, names["passwd"].linkname) == (tarfile.SYMTYPE, "/etc/passwd")
    assert names["subst"].size == len("$Format:%H$")
    assert "module/secret" not in names
    assert (await tool.tree(tip)).submodules == ("module",)
    assert not marker.exists()


async def test_the_checked_addresses_are_the_ones_connected_to(forge: GitServer, tree: Path, opened: Opened) -> None:
    """No name service knows git.test: git got there by the address it was given."""
    forge.publish(tree, "r.git")
    url = f"https://git.test:{forge.port}/r.git"
    tip = git(tree, "rev-parse", "HEAD")
    assert (await opened(url, addresses=("127.0.0.1",)).resolve("", has_folder=False))[0] == tip
    assert Remote(url="https://h/r", addresses=("1.2.3.4", "::1")).pin == "h:443:1.2.3.4,[::1]"


async def test_git_itself_follows_no_redirect(forge: GitServer, tree: Path, opened: Opened) -> None:
    forge.publish(tree, "r.git")
    forge.redirects["moved"] = f"{forge.url}/r.git"
    with pytest.raises(SourceFailed, match="302"):
        await opened(f"{forge.url}/moved").resolve("", has_folder=False)
    assert not any(path.startswith("/r.git") for _, path, _ in forge.asked)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/r", "file:///etc", "ext::sh -c touch% /tmp/x", "ssh://h/r"])
async def test_other_transports_are_refused_by_git_too(opened: Opened, url: str) -> None:
    with pytest.raises(SourceFailed, match="not allowed"):
        await opened(url).resolve("", has_folder=False)


async def test_a_repository_above_the_limit_is_stopped_while_it_comes(
    forge: GitServer, tree: Path, opened: Opened
) -> None:
    (tree / "noise").write_bytes(os.urandom(8 << 20))
    tip = commit(tree)
    tool = opened(forge.publish(tree, "r.git"), max_bytes=1 << 20, max_files=10)
    with pytest.raises(LimitExceeded, match=r"1\.0 MiB"):
        await tool.fetch(tip)
    assert sum(path.stat().st_size for path in tool._folder.rglob("*") if path.is_file()) < 4 << 20


async def test_a_tree_that_unfolds_to_too_much_is_refused_while_small(
    forge: GitServer, tree: Path, opened: Opened
) -> None:
    """Ten folders in each of ten, eight deep: a few kilobytes that name a hundred million files."""
    made, kind = git(tree, "hash-object", "-w", "Dockerfile"), "100644 blob"
    for _ in range(8):
        lines = "".join(f"{kind} {made}\tf{number}\n" for number in range(10))
        made, kind = git(tree, "mktree", stdin=lines), "040000 tree"
    tip = git(tree, "commit-tree", made, "-m", "bomb")
    git(tree, "branch", "bomb", tip)
    tool = opened(forge.publish(tree, "r.git"))
    await tool.fetch(tip)
    with pytest.raises(LimitExceeded, match="1000 files"):
        await tool.tree(tip)


async def test_a_call_whose_output_is_left_unread_ends(forge: GitServer, tree: Path, opened: Opened) -> None:
    for number in range(4000):
        (tree / f"{number:0200}").touch()
    tip = commit(tree)
    tool = opened(forge.publish(tree, "r.git"))
    await tool.fetch(tip)
    async with asyncio.timeout(60):
        async with tool._process(("ls-tree", "-r", "-z", tip), stdout=asyncio.subprocess.PIPE) as process:
            assert process.stdout is not None
            while not process.stdout._paused:  # type: ignore[attr-defined]  # the pipe and the buffer are full
                await asyncio.wait_for(asyncio.to_thread(os.sched_yield), 10)
    assert process.returncode == -signal.SIGKILL


async def test_large_zeros_count_by_their_real_size(forge: GitServer, tree: Path, opened: Opened) -> None:
    (tree / "zeros").write_bytes(bytes(20 << 20))
    tip = commit(tree)
    tool = opened(forge.publish(tree, "r.git"), max_bytes=2 << 20)
    await tool.fetch(tip)
    with pytest.raises(LimitExceeded, match=r"2\.0 MiB"):
        await tool.tree(tip)


async def test_a_cancelled_fetch_has_ended_its_processes(forge: GitServer, tree: Path, opened: Opened) -> None:
    (tree / "noise").write_bytes(os.urandom(2 << 20))
    tip = commit(tree)
    forge.hold = True
    tool = opened(forge.publish(tree, "r.git"))
    task = asyncio.create_task(tool.fetch(tip))
    assert await asyncio.to_thread(forge.held.wait, 30)
    assert any("fetch" in line for line in command_lines(tool._folder))
    assert {limit[0] for limit in limits(tool._folder, resource.RLIMIT_FSIZE)} == {LIMIT + 2048 * 1000 + (1 << 20)}
    assert {limit[0] for limit in limits(tool._folder, resource.RLIMIT_AS)} == {4 << 30}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert command_lines(tool._folder) == []


FETCHES = """
import asyncio, pathlib, sys
from asman_worker.git import Git
from asman_worker.reach import Remote
folder, url, tip, ca = sys.argv[1:]
tool = Git(pathlib.Path(folder), Remote(url=url), max_bytes=1 << 30, max_files=10, ca_file=pathlib.Path(ca))
asyncio.run(tool.fetch(tip))
"""


async def test_git_does_not_outlive_a_worker_that_is_killed(forge: GitServer, tree: Path, tmp_path: Path) -> None:
    (tree / "noise").write_bytes(os.urandom(2 << 20))
    tip, url = commit(tree), forge.publish(tree, "r.git")
    forge.hold = True
    folder = tmp_path / "scratch"
    folder.mkdir()
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", FETCHES, folder, url, tip, forge.ca_file)
    try:
        assert await asyncio.to_thread(forge.held.wait, 30)
        fetching = [
            entry for entry in processes(folder) if (entry / "cmdline").read_bytes().startswith(b"git\0fetch\0")
        ]
        watched = os.pidfd_open(int(fetching[0].name))
    finally:
        worker.kill()
        await worker.wait()
    try:
        assert select.select([watched], [], [], 30)[0]
    finally:
        os.close(watched)


def processes(folder: Path) -> list[Path]:
    """Those that work in a folder; what has ended and waits to be seen works nowhere."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                found.append(entry)
    return found


def command_lines(folder: Path) -> list[str]:
    return [(entry / "cmdline").read_bytes().replace(b"\0", b" ").decode() for entry in processes(folder)]


def limits(folder: Path, what: int) -> list[tuple[int, int]]:
    return [resource.prlimit(int(entry.name), what) for entry in processes(folder)]


async def test_the_worker_s_own_configuration_is_not_seen(
    forge: GitServer, tree: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / ".gitconfig"
    config.write_text(f'[url "{forge.url}/elsewhere"]\n\tinsteadOf = {forge.url}/r.git\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("GIT_SSL_NO_VERIFY", "1")
    tool = opened(forge.publish(tree, "r.git"))
    assert (await tool.resolve("", has_folder=False))[0] == git(tree, "rev-parse", "HEAD")
    environment = tool._environment()
    assert not any("proxy" in name.lower() for name in environment)
    assert "GIT_SSL_NO_VERIFY" not in environment


async def test_a_missing_git_is_said(opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = opened("https://localhost/r")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceFailed, match="has no git"):
        await tool.resolve("", has_folder=False)


@pytest.mark.parametrize("version", ["git version 2.36.9", "git version 1.9", "something else"])
async def test_a_git_that_would_not_keep_to_the_checked_addresses_is_refused(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text(f"#!/bin/sh\necho '{version}'\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    tool = opened("https://localhost/r")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(SourceFailed, match=r"2\.37 or newer"):
        await tool.resolve("", has_folder=False)


def test_a_credential_shows_itself_nowhere() -> None:
    credential = Credential.read("user:s3cr et\n")
    for text in ("s3cr et", "s3cr%20et", credential.header, f"url https://user:{'s3cr%20et'}@h"):
        assert "s3cr" not in credential.hide(text)
        assert credential.header.removeprefix("Basic ") not in credential.hide(text)
    assert "s3cr" not in repr(Remote(url="https://h/r", credential=credential))
    assert Credential.read("token").password == "token"
    assert not Credential()
