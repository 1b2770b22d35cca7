"""The ``git`` program, asked for one commit of a stranger's repository. Nothing is ever checked out.

Each call has a fixed argument vector and an environment that holds what is listed here and nothing of the worker's
own: no user or system configuration, no credential helper, no prompt, no transport but https (and http where the
owner allows it), no redirect. What is configured, the credential included, travels in the environment
(``GIT_CONFIG_COUNT``), so it is in no argument vector and in no file. The connection goes to the addresses that were
checked before (``http.curloptResolve``), not to what a second look-up would give.

A commit is fetched into a bare repository without hooks and its tree is taken with ``git archive``; the repository's
own attributes can neither leave files out nor put text in. The tree is counted before it is written, so one that
unfolds to more than is allowed is refused while it is small. Submodules and large-file storage (LFS) are other
repositories and are not fetched: an empty folder and a pointer are what comes.

Each call is a process group of its own. Whoever is cancelled while waiting has killed it before the cancellation goes
on, and git does not outlive this process. Size of files and address space are capped by the kernel, the folder that
is written to by watching it.

Source: git-config(1), git-ls-remote(1), git-fetch(1), git-archive(1), gitattributes(5).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from asman.errors import LimitExceeded, Unavailable, clip
from asman.units import show_bytes
from asman_worker.reach import Remote, SourceFailed
from asman_worker.refs import Found, RefLines, choose_ref, is_short_commit

__all__ = ["Git", "Tree"]

_NO_SUCH_WANT = re.compile(
    r"not our ref|unadvertised object|couldn't find remote ref|no such remote ref", re.IGNORECASE
)
_NETWORK = re.compile(
    r"could not resolve|failed to connect|timed out|connection|early EOF|hung up|too slow|\b5\d\d\b", re.I
)
_TOO_LARGE = re.compile(r"file too large|out of memory|malloc|mmap failed", re.IGNORECASE)

_LEAST_VERSION = (2, 37)  # the first with http.curloptResolve
_MOST_REFS_BYTES = 256 << 20
_ERROR_BYTES = 8192
_ADDRESS_SPACE_BYTES = 4 << 30
_WATCH_S = 0.2
_STALL_S = 60
_SUBMODULE = b"160000"


_LAUNCH = """
import ctypes, os, resource, signal, sys
size, space, parent = map(int, sys.argv[1:4])
for what, most in ((resource.RLIMIT_FSIZE, size), (resource.RLIMIT_AS, space), (resource.RLIMIT_CORE, 0)):
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == parent:
    os.execvp(sys.argv[4], sys.argv[4:])
"""
"""Runs a program within limits that its own children have too, and that is killed when this process dies.

A program of its own, because what runs between fork and exec must not be Python in a process that has threads.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """What of a commit will be packed. Shape: ``paths`` are the asked ones that exist; empty if all was asked."""

    paths: tuple[str, ...]
    files: int
    size_bytes: int
    submodules: tuple[str, ...]


class Git:
    """Calls of git for one build, with one bare repository.

    Shape:  ``folder`` is made and removed by the caller; everything lies in it. ``max_bytes`` is for what is fetched,
            and again for the tree; ``ca_file`` is trusted instead of the system's certificates.
    """

    def __init__(
        self,
        folder: Path,
        remote: Remote,
        *,
        max_bytes: int,
        max_files: int,
        allow_http: bool = False,
        ca_file: Path | None = None,
    ) -> None:
        self._folder, self._remote = folder, remote
        self._repository, self._home = folder / "sha1", folder / "home"
        self._max_bytes, self._max_files = max_bytes, max_files
        self._allow_http, self._ca_file = allow_http, ca_file

    # The questions ----------------------------------------------------------------------------------------------

    async def resolve(self, wanted: str, *, has_folder: bool) -> Found:
        """The (commit, ref, folder) that is meant. The repository is always asked, also for a whole commit id: so
        whoever gets an answer was allowed to read it.

        Errors: SourceFailed, Unavailable, LimitExceeded.
        """
        await self.prepare(object_format="sha1")
        lines = RefLines(wanted, has_folder)
        arguments = ("ls-remote", "--quiet", "--symref", "--", self._remote.url)
        await self._each(arguments, b"\n", lines.take, most_bytes=_MOST_REFS_BYTES)
        found = choose_ref(wanted, lines.refs, has_folder=has_folder) or lines.by_prefix()
        if found is None and lines.refs_seen and is_short_commit(wanted, has_folder=has_folder):
            found = await self._abbreviated(wanted)
        if found is None:
            raise lines.failure()
        return found

    async def fetch(self, commit: str, *, on_size: Callable[[int], None] = lambda size: None) -> None:
        """Have this commit, without its history where the server can give it so. Errors: as `resolve`."""
        await self.prepare(object_format="sha256" if len(commit) == 64 else "sha1")
        try:
            await self._fetch("--depth=1", refspecs=(commit,), on_size=on_size)
        except SourceFailed as error:
            if not _NO_SUCH_WANT.search(error.message):
                raise
            await self._fetch(refspecs=("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"), on_size=on_size)
        try:
            await self._output("cat-file", "-e", f"{commit}^{{commit}}")
        except SourceFailed as error:
            raise SourceFailed(f"the repository has no commit {commit}") from error

    async def tree(self, commit: str, paths: Iterable[str] = ()) -> Tree:
        """Count what the paths (all, if none is given) hold, before any of it is written.

        Errors: LimitExceeded; SourceFailed if none of the paths exists.
        """
        wanted = tuple(path for path in paths if path)
        count = _Count(self._max_files, self._max_bytes, wanted)
        await self._each(("ls-tree", "-r", "-l", "-z", "--full-tree", commit, "--", *wanted), b"\0", count.take)
        return count.tree()

    async def archive(self, commit: str, tree: Tree, target: IO[bytes]) -> None:
        """Write the counted part of the commit's tree as a tar file. Errors: as `resolve`."""
        self._neutralise()
        arguments = ("-c", "tar.umask=0022", "archive", "--format=tar", commit, "--", *tree.paths)
        async with self._process(arguments, stdout=target) as process:
            await self._ended(process)

    async def prepare(self, *, object_format: str) -> None:
        """Make the bare repository, once for each kind of commit id."""
        self._home.mkdir(exist_ok=True)
        self._repository = self._folder / object_format
        if not self._repository.exists():
            await self._check_version()
            await self._output("init", "--quiet", "--bare", "--template=", f"--object-format={object_format}")

    async def _check_version(self) -> None:
        """An older git ignores the checked addresses without a word. Errors: SourceFailed."""
        said = (await self._output("version")).decode("utf-8", "replace").strip()
        found = re.match(r"git version (\d+)\.(\d+)", said)
        if found is None or (int(found[1]), int(found[2])) < _LEAST_VERSION:
            raise SourceFailed(
                f"this worker has {clip(said)}; building from a repository needs git 2.37 or newer",
                hint="The worker's owner can install a newer one; archives (.tar.gz, .zip) need none.",
            )

    def _neutralise(self) -> None:
        """Take away from the repository's attributes what changes a tree. Source: git-archive(1), "ATTRIBUTES"."""
        information = self._repository / "info"
        information.mkdir(exist_ok=True)
        (information / "attributes").write_text("* -export-ignore -export-subst\n")

    async def _abbreviated(self, wanted: str) -> Found | None:
        """Look for a shortened commit id among all commits: fetched without their trees where the server can."""
        short, _, folder = wanted.partition("/")
        refspecs = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        await self._fetch("--filter=tree:0", refspecs=refspecs)
        try:
            output = await self._output("rev-parse", "--verify", "--quiet", "--end-of-options", f"{short}^{{commit}}")
        except SourceFailed:
            return None
        return output.decode().strip(), "", folder

    async def _fetch(
        self, *options: str, refspecs: tuple[str, ...], on_size: Callable[[int], None] = lambda size: None
    ) -> None:
        fixed = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-auto-gc", "--no-write-fetch-head")
        async with self._process((*fixed, *options, "--", self._remote.url, *refspecs)) as process:
            watch = asyncio.create_task(self._watch(on_size))
            end = asyncio.create_task(self._ended(process))
            try:
                await asyncio.wait({watch, end}, return_when=asyncio.FIRST_COMPLETED)
                if watch.done():
                    watch.result()
                await end
            except SourceFailed as error:
                if await asyncio.to_thread(_folder_bytes, self._folder) >= self._max_bytes:
                    raise self._too_large() from error  # the kernel was faster than the watch
                raise
            finally:
                watch.cancel()
                end.cancel()
                await asyncio.gather(watch, end, return_exceptions=True)

    async def _watch(self, on_size: Callable[[int], None]) -> None:
        """Until the folder is larger than allowed. Errors: LimitExceeded."""
        while True:
            size = await asyncio.to_thread(_folder_bytes, self._folder)
            on_size(size)
            if size > self._max_bytes:
                raise self._too_large()
            await asyncio.sleep(_WATCH_S)

    def _too_large(self) -> LimitExceeded:
        return LimitExceeded(
            f"the repository is larger than the {show_bytes(self._max_bytes)} that this worker allows for a build's "
            f"sources",
            hint="Build from a smaller repository, or push the image to a registry and name it in image.",
        )

    # The process ------------------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        """All that git sees of this machine. Source: git(1), "Environment Variables"; git-config(1)."""
        origin = urlsplit(self._remote.url)
        settings = {
            "http.followRedirects": "false",
            "http.lowSpeedLimit": "1",
            "http.lowSpeedTime": str(_STALL_S),
            "http.proxy": "",
            "credential.helper": "",
            "core.hooksPath": os.devnull,
            "core.fsmonitor": "false",
            "core.bigFileThreshold": "16m",
            "core.packedGitLimit": "512m",
            "fetch.unpackLimit": "1",
            "gc.auto": "0",
            "maintenance.auto": "false",
            "pack.threads": "1",
            "submodule.recurse": "false",
        }
        if pin := self._remote.pin:
            settings["http.curloptResolve"] = pin
        if self._ca_file is not None:
            settings["http.sslCAInfo"] = str(self._ca_file)
        if self._remote.credential:
            scope = f"http.{origin.scheme}://{origin.netloc}/.extraHeader"
            settings[scope] = f"Authorization: {self._remote.credential.header}"
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._home),
            "XDG_CONFIG_HOME": str(self._home),
            "LANG": "C",
            "LC_ALL": "C",
            "GIT_DIR": str(self._repository),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "false",
            "GIT_ALLOW_PROTOCOL": "https:http" if self._allow_http else "https",
            "GIT_PROTOCOL_FROM_USER": "0",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_CONFIG_COUNT": str(len(settings)),
        }
        for index, (name, value) in enumerate(settings.items()):
            environment |= {f"GIT_CONFIG_KEY_{index}": name, f"GIT_CONFIG_VALUE_{index}": value}
        return environment

    @contextlib.asynccontextmanager
    async def _process(
        self, arguments: tuple[str, ...], stdout: int | IO[bytes] = asyncio.subprocess.DEVNULL
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A call of git; when the block is left, however that is, nothing of it runs any more."""
        environment = self._environment()
        if shutil.which("git", path=environment["PATH"]) is None:
            raise SourceFailed(
                "this worker has no git, which building from a repository needs",
                hint="The worker's owner can install it; archives (.tar.gz, .zip) need none.",
            )
        most_bytes = self._max_bytes + 2048 * self._max_files + (1 << 20)
        limits = (str(most_bytes), str(_ADDRESS_SPACE_BYTES), str(os.getpid()))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _LAUNCH, *limits, "git", *arguments),
            cwd=self._folder,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            for stream in (process.stdout, process.stderr):  # what is unread there would keep the wait from ending
                while stream is not None and await stream.read(1 << 16):
                    pass
            await process.wait()

    async def _each(
        self, arguments: tuple[str, ...], separator: bytes, take: Callable[[bytes], None], *, most_bytes: int = 1 << 40
    ) -> None:
        """Hand over each record of the output as it comes; ``take`` may raise to end it."""
        async with self._process(arguments, stdout=asyncio.subprocess.PIPE) as process:
            end = asyncio.create_task(self._ended(process))
            try:
                assert process.stdout is not None
                rest, seen = b"", 0
                while chunk := await process.stdout.read(1 << 16):
                    seen += len(chunk)
                    *records, rest = (rest + chunk).split(separator)
                    for record in records:
                        take(record)
                    if seen > most_bytes or len(rest) > _ERROR_BYTES:
                        raise LimitExceeded(f"the repository's list of refs or files is larger than {show_bytes(seen)}")
                await end
            finally:
                end.cancel()
                await asyncio.gather(end, return_exceptions=True)

    async def _output(self, *arguments: str) -> bytes:
        records: list[bytes] = []
        await self._each(arguments, b"\n", records.append, most_bytes=_ERROR_BYTES)
        return b"\n".join(records)

    async def _ended(self, process: asyncio.subprocess.Process) -> None:
        """Wait for the end and read why it failed. Errors: SourceFailed, Unavailable, LimitExceeded."""
        assert process.stderr is not None
        said = b""
        while chunk := await process.stderr.read(1 << 16):
            said = (said + chunk)[-_ERROR_BYTES:]
        status = await process.wait()
        if status == 0:
            return
        text = self._remote.credential.hide(said.decode("utf-8", "replace"))
        lines = [line.removeprefix("fatal: ").strip() for line in text.splitlines() if line.strip()]
        reason = clip("; ".join(lines[-3:]), 300) if lines else f"it ended with status {status}"
        if status == -signal.SIGXFSZ or _TOO_LARGE.search(text):
            raise self._too_large()
        message = f"git could not read the repository: {reason}"
        raise Unavailable(message) if _NETWORK.search(text) else SourceFailed(message)


class _Count:
    """Files and bytes of a listing of ``git ls-tree -l``, counted up to what is allowed."""

    def __init__(self, max_files: int, max_bytes: int, wanted: tuple[str, ...]) -> None:
        self._max_files, self._max_bytes = max_files, max_bytes
        self._wanted = {path.encode(): path for path in wanted}
        self._found: set[str] = set()
        self._submodules: list[str] = []
        self._files = self._size = 0

    def take(self, record: bytes) -> None:
        what, _, name = record.partition(b"\t")
        mode, _, _, size = what.split()
        for path, text in self._wanted.items():
            if name == path or name.startswith(path + b"/"):
                self._found.add(text)
        if mode == _SUBMODULE:
            self._submodules.append(name.decode("utf-8", "replace"))
        self._files += 1
        self._size += int(size) if size.isdigit() else 0
        if self._files > self._max_files or self._size > self._max_bytes:
            raise LimitExceeded(
                f"the build context holds more than {self._max_files} files or {show_bytes(self._max_bytes)}, which is "
                f"what this worker allows",
                hint="Choose a sub-folder with build.buildContext.",
            )

    def tree(self) -> Tree:
        paths = tuple(text for text in self._wanted.values() if text in self._found)
        if self._wanted and not paths:
            missing = " or ".join(clip(path) for path in self._wanted.values())
            raise SourceFailed(f"the repository has no {missing} at this commit")
        return Tree(paths=paths, files=self._files, size_bytes=self._size, submodules=tuple(self._submodules))


def _folder_bytes(folder: Path) -> int:
    """What lies in a folder; files may come and go meanwhile."""
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(above, name)).st_size
    return total
