"""What an image is built from, brought here: a repository's commit, an archive, or nothing but a Dockerfile.

`resolve` says what exactly would be built, so that an image that is here already need not be built again; `pack` makes
the context that the engine takes. Both may be cancelled at any moment and leave nothing: no file, no process.

Where they may come from, `reach` decides. Credentials are the owner's: named in the context, handed out for one host by
``secret_for``, sent to that host over https only, and taken out of everything that is said here.

Files that are needed for a while have no name (they are gone with the process); only a packed context has one.

Source: contract, "Image build", "Context".
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import aiohttp

from asman.errors import AsmanError, LimitExceeded
from asman.units import show_bytes, show_duration
from asman_worker.archives import Archive, Caps, is_archive, open_archive, strip_wrapper
from asman_worker.git import Git
from asman_worker.packing import Layout, Packed, pack
from asman_worker.reach import Credential, Reach, Remote, SourceFailed
from asman_worker.recipe import ArchiveContext, GitContext, Recipe, parse_context, shown_url
from asman_worker.transfer import Transfer, hash_in_url

__all__ = ["PackedContext", "Resolved", "Sources"]

_FIRST_SIZE_SAID = 16 << 20

_Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Resolved:
    """What exactly a recipe is about to be built from.

    Shape:  ``identity`` is a commit id, the sha256 of an archive as 64 lowercase hex digits, or empty. It says
            nothing about where that came from: an image is the same if this *and* the recipe are.
    """

    kind: Literal["none", "git", "archive"]
    identity: str = ""
    folder: str = ""
    url: str = ""
    remote: Remote = field(default_factory=lambda: Remote(url=""))
    file: IO[bytes] | None = None

    def remove(self) -> None:
        """Let go of a downloaded archive. It goes with this object, too."""
        if self.file is not None:
            self.file.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedContext:
    """A build context. Shape: ``tar`` is an uncompressed tar file; ``dockerfile`` is a name in it."""

    tar: Path
    dockerfile: str
    size_bytes: int

    def remove(self) -> None:
        self.tar.unlink(missing_ok=True)


class Sources:
    """Gets build contexts.

    Shape:  ``secret_for(name, host)`` answers with ``user:password`` or a token, or raises AsmanError if there is no
            such secret for that host. ``max_bytes`` is for each of download, unpacked content and packed context.
            ``server_url`` is the queue's server: blobs come from there, whatever its address. ``ca_file`` is trusted
            instead of the system's certificates.
    """

    def __init__(
        self,
        *,
        private_addresses: bool,
        secret_for: Callable[[str, str], str],
        scratch: Path,
        max_bytes: int,
        max_files: int,
        session: aiohttp.ClientSession,
        server_url: str,
        ca_file: Path | None = None,
        limit_s: float = 600.0,
    ) -> None:
        self._secret_for = secret_for
        self._reach = Reach(private_addresses=private_addresses, server_url=server_url, ca_file=ca_file)
        self._scratch, self._max_bytes, self._max_files = scratch, max_bytes, max_files
        self._session, self._server = session, server_url.rstrip("/")
        self._limit_s = limit_s

    def clear(self) -> None:
        """Remove what an earlier process left in the scratch folder; at start, before anything else is asked."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    async def resolve(self, recipe: Recipe, say: _Say) -> Resolved:
        """Find out what a recipe would be built from.

        A repository is always asked with the credential that the recipe names, also where it names a whole commit id:
        who may not read it gets no image of it either. Archives are downloaded for this, but blobs of the server,
        whose name is their hash.

        Errors: BadDefinition, SourceFailed, LimitExceeded, Unavailable; what ``secret_for`` raises.
        """
        if not recipe.context:
            return Resolved(kind="none")
        context = parse_context(recipe.context)
        self._reach.check_scheme(context.url)
        credential = self._credential(context)
        async with self._within_limit("found out", credential):
            if isinstance(context, ArchiveContext):
                return await self._resolve_archive(context.url, credential, say)
            return await self._resolve_git(context, credential, say)

    async def pack(self, resolved: Resolved, recipe: Recipe, say: _Say) -> PackedContext:
        """Make the context of what was resolved; the caller removes it.

        Errors: as `resolve`.
        """
        async with self._within_limit("fetched", resolved.remote.credential):
            if resolved.kind == "git":
                return await self._pack_git(resolved, recipe, say)
            if resolved.kind == "archive":
                return await self._pack_archive(resolved, recipe, say)
            return await self._pack(None, _layout(recipe), say)

    # Repositories -----------------------------------------------------------------------------------------------

    async def _resolve_git(self, context: GitContext, credential: Credential, say: _Say) -> Resolved:
        say(f"looking at {_plain(context.url)}\n")
        remote = await self._reach.repository(context, credential)
        if remote is None:
            return await self._resolve_archive(context.url, credential, say)
        with self._folder() as folder:
            git = self._git(folder, remote)
            commit, ref, behind = await git.resolve(context.ref, has_folder=context.ref_has_folder)
        name = ref.removeprefix("refs/heads/").removeprefix("refs/tags/")
        say(f"{'the default branch' if name == 'HEAD' else name or 'the commit'} is {commit}\n")
        return Resolved(
            kind="git", identity=commit, folder=context.folder or behind, url=_plain(context.url), remote=remote
        )

    async def _pack_git(self, resolved: Resolved, recipe: Recipe, say: _Say) -> PackedContext:
        layout = _layout(recipe, resolved.folder)
        folder_path = _joined(layout.root, layout.folder)
        paths = [folder_path] if folder_path else []
        if paths and layout.filename and not layout.dockerfile:
            paths.append(_joined(layout.root, layout.filename))
        with self._folder() as folder, self._nameless() as file:
            git = self._git(folder, resolved.remote)
            say(f"fetching commit {resolved.identity} from {resolved.url}\n")
            await git.fetch(resolved.identity, on_size=_said_when_doubled(say))
            tree = await git.tree(resolved.identity, paths)
            say(f"it has {tree.files} files, {show_bytes(tree.size_bytes)}\n")
            if tree.submodules:
                say(f"submodules are not fetched, their folders stay empty: {', '.join(tree.submodules[:8])}\n")
            await git.archive(resolved.identity, tree, file)
            return await self._pack(lambda caps: open_archive(file, caps, self._nameless), layout, say)

    def _git(self, folder: Path, remote: Remote) -> Git:
        return Git(
            folder,
            remote,
            max_bytes=self._max_bytes,
            max_files=self._max_files,
            allow_http=self._reach.private_addresses,
            ca_file=self._reach.ca_file,
        )

    # Archives ---------------------------------------------------------------------------------------------------

    async def _resolve_archive(self, url: str, credential: Credential, say: _Say) -> Resolved:
        if (known := hash_in_url(url)) and self._reach.is_ours(url):
            return Resolved(kind="archive", identity=known, url=url)
        file, identity = await self._download(url, credential, say)
        return Resolved(kind="archive", identity=identity, url=_plain(url), file=file)

    async def _download(self, url: str, credential: Credential, say: _Say) -> tuple[IO[bytes], str]:
        """An archive in a file without a name, and its sha256. Errors: as `resolve`."""
        say(f"downloading {_plain(url)}\n")
        file = self._nameless()
        try:
            transfer = Transfer(
                self._session, self._server, private_addresses=self._reach.private_addresses, tls=self._reach.tls()
            )
            try:
                size = await transfer.download(_with(url, credential), file, limit_bytes=self._max_bytes)
            except LimitExceeded as error:
                raise LimitExceeded(
                    f"{shown_url(url)} is larger than the {show_bytes(self._max_bytes)} that this worker allows for a "
                    f"build's sources"
                ) from error
            if not is_archive(file):
                raise SourceFailed(f"{shown_url(url)} is neither a git repository nor an archive")
            identity = await _in_thread(lambda stop: _sha256(file, stop))
        except BaseException:
            file.close()
            raise
        say(f"downloaded {show_bytes(size)}\n")
        return file, identity

    async def _pack_archive(self, resolved: Resolved, recipe: Recipe, say: _Say) -> PackedContext:
        file = resolved.file
        if file is None:
            file = resolved.file = (await self._download(resolved.url, Credential(), say))[0]

        def opened(caps: Caps) -> Archive:
            archive = open_archive(file, caps, spool)
            archive.entries = strip_wrapper(archive.entries)
            return archive

        with contextlib.ExitStack() as opened_files:

            def spool() -> IO[bytes]:
                return opened_files.enter_context(self._nameless())

            return await self._pack(opened, _layout(recipe), say)

    # Both -------------------------------------------------------------------------------------------------------

    async def _pack(self, opened: Callable[[Caps], Archive] | None, layout: Layout, say: _Say) -> PackedContext:
        self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._scratch, prefix="context-", suffix=".tar", delete=False) as target:
            path = Path(target.name)

            def work(stop: threading.Event) -> Packed:
                caps = Caps(max_bytes=self._max_bytes, max_files=self._max_files, stop=stop)
                return pack(opened(caps) if opened else None, layout, target, caps)

            try:
                packed = await _in_thread(work)
                target.flush()
                size = target.tell()
            except BaseException:
                os.unlink(path)
                raise
        for note in packed.notes:
            say(f"{note}\n")
        return PackedContext(tar=path, dockerfile=packed.dockerfile, size_bytes=size)

    def _credential(self, context: GitContext | ArchiveContext) -> Credential:
        if not context.secret:
            return Credential()
        return Credential.read(self._secret_for(context.secret, urlsplit(context.url).hostname or ""))

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        self._scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self._scratch, prefix="git-"))
        try:
            yield folder
        finally:
            _remove(folder)

    def _nameless(self) -> IO[bytes]:
        self._scratch.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self._scratch)

    @contextlib.asynccontextmanager
    async def _within_limit(self, done: str, credential: Credential) -> AsyncIterator[None]:
        """The time for one step; and no error that leaves here shows the credential."""
        try:
            async with asyncio.timeout(self._limit_s):
                yield
        except TimeoutError as error:
            raise SourceFailed(
                f"the sources of the image could not be {done} within {show_duration(self._limit_s)}"
            ) from error
        except AsmanError as error:
            if credential.hide(error.message) != error.message:
                error.message = credential.hide(error.message)
                error.args = (error.message,)
            raise


def _remove(folder: Path) -> None:
    """Remove a folder into which a process that was just killed may have put one more file."""
    for _ in range(5):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return


def _plain(url: str) -> str:
    """For the log: `shown_url` without its quotes."""
    return shown_url(url)[1:-1]


def _with(url: str, credential: Credential) -> str:
    """The address with the credential in it, as the downloader takes it; it sends it to this origin only."""
    if not credential:
        return url
    parts = urlsplit(url)
    userinfo = f"{quote(credential.user, safe='')}:{quote(credential.password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{userinfo}@{parts.netloc}"))


def _joined(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _layout(recipe: Recipe, root: str = "") -> Layout:
    return Layout(root=root, folder=recipe.folder, filename=recipe.filename, dockerfile=recipe.dockerfile)


def _said_when_doubled(say: _Say) -> Callable[[int], None]:
    """A line at 16 MiB, and whenever it is twice as much: a few lines, however large it gets."""
    next_said = _FIRST_SIZE_SAID

    def on_size(size: int) -> None:
        nonlocal next_said
        if size >= next_said:
            say(f"fetched {show_bytes(size)} so far\n")
            next_said = 2 * size

    return on_size


def _sha256(file: IO[bytes], stop: threading.Event) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while not stop.is_set() and (chunk := file.read(1 << 20)):
        digest.update(chunk)
    return digest.hexdigest()


async def _in_thread(work: Callable[[threading.Event], T]) -> T:
    """Work that blocks, ended by its flag when the caller is cancelled; it has ended when the cancellation goes on."""
    stop = threading.Event()
    task = asyncio.create_task(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)
        raise
