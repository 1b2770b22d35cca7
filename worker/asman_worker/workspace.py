"""The folders of one job on the host: inputs written before it, outputs read after it.

Names come from strangers, and what lies in ``/outputs`` afterwards was put there by a stranger's program that may
have been root in its container. So names are checked again here, files are created relative to an open folder and
never through a link, and of the outputs only regular files are read; links, pipes and devices are named in the
report and left alone.

Inputs are copies, mounted read-only; ``/outputs`` starts empty and is writable for any user id.

The engine mounts these paths, so they must mean the same on the engine's host: a worker that itself runs in a
container needs its data folder mounted at the same path as outside.

Source: contract, "Inputs", "Outputs" and "Data directory".
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from asman.errors import BadDefinition, LimitExceeded, clip
from asman.units import show_bytes
from asman_worker import quota
from asman_worker.container import JobFolders
from asman_worker.transfer import Transfer

__all__ = [
    "INLINE_BYTES",
    "OutputFile",
    "OutputsTooLarge",
    "Scan",
    "Workspace",
    "collect_outputs",
    "materialise",
    "output_scan",
    "split_name",
]

INLINE_BYTES = 200
"""Outputs up to this size travel inside the report."""

_NAME_BYTES = 1024
_DEPTH = 32
_PARALLEL = 4
_HASH_CHUNK = 1 << 20
_SAFE = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_RESERVED = ("/proc", "/sys", "/dev", "/outputs", "/job-cache")
_INPUTS = "/inputs/"
_EMPTY_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Where the files of one attempt lie: ``<data>/jobs/<worker hash>/<queue hash>/<job>/<attempt>``.

    The worker is part of the path, so that clearing up can never reach another worker's job. Queue names are secrets
    and may hold any character; they appear as a hash.
    """

    folder: Path

    @classmethod
    def of(cls, data_directory: Path, worker_id: str, queue: str, job_id: str, attempt: int) -> Workspace:
        job = job_id if _SAFE.match(job_id) else hashlib.sha256(job_id.encode()).hexdigest()
        return cls(folder=cls.root(data_directory, worker_id) / _short_hash(queue) / job / str(int(attempt)))

    @staticmethod
    def root(data_directory: Path, worker_id: str) -> Path:
        return data_directory.absolute() / "jobs" / _short_hash(worker_id)

    @property
    def inputs(self) -> Path:
        return self.folder / "inputs"

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    @property
    def outputs_image(self) -> Path:
        """The file system of the outputs, where they have one of their own (``quota``)."""
        return self.folder / "outputs.ext4"

    @property
    def config_files(self) -> Path:
        return self.folder / "configFiles"

    @property
    def log_breaks(self) -> Path:
        """Where the log was cut in the middle of a line; needed to read it again the same way."""
        return self.folder / "log-breaks"

    def prepare(self) -> None:
        """Make the folders, empty. Other users of the host are kept out: a job may leave programs that gain rights."""
        self.remove()
        above = self.folder.parents[2]
        above.mkdir(parents=True, exist_ok=True)
        above.chmod(0o700)
        for folder, mode in ((self.inputs, 0o755), (self.config_files, 0o755), (self.outputs, 0o777)):
            folder.mkdir(parents=True)
            folder.chmod(mode)

    def remove(self) -> None:
        """Remove everything, and the folders above that are empty then.

        Errors: PermissionError for files that a container's root left and this process may not remove.
        """
        quota.discard(self.outputs_image, self.outputs)
        for folder in (self.inputs, self.outputs, self.config_files, self.folder):
            _remove_tree(folder)
        for above in (self.folder.parent, self.folder.parent.parent):
            with contextlib.suppress(OSError):
                above.rmdir()


def _remove_tree(folder: Path) -> None:
    """Remove a folder, never through a link, however deep it is. Not there is fine.

    The standard library's way calls itself once for each level, and a job can make more levels than that can take.
    """
    try:
        top = os.open(folder, _FOLDER)
    except FileNotFoundError:
        return
    try:
        while not _empty(top, top, 0):
            pass
    finally:
        os.close(top)
    folder.rmdir()


def _empty(folder: int, top: int, depth: int) -> bool:
    """Remove what is in a folder; what lies too deep is moved up to the top, and then the answer is False."""
    is_all = True
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
        elif depth < _DEPTH:
            inner = os.open(name, _FOLDER, dir_fd=folder)
            try:
                is_all &= _empty(inner, top, depth + 1)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=folder)
        else:
            os.rename(name, f"deep-{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=top)
            is_all = False
    return is_all


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def split_name(name: str, what: str = "file") -> tuple[str, ...]:
    """The parts of a relative name.

    Errors: BadDefinition for a name that is empty, absolute, too long or deep, or has ``.``, ``..``, an empty part or
            a NUL in it.
    """
    parts = tuple(name.split("/"))
    if not name or any(part in ("", ".", "..") for part in parts) or "\0" in name:
        raise BadDefinition(f"{what} is named {clip(name)}; expected a relative name such as data/a.txt")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise BadDefinition(f"{what} is named {clip(name)}, which is not Unicode text") from error
    if size > _NAME_BYTES or len(parts) > _DEPTH or any(len(part.encode()) > 255 for part in parts):
        raise BadDefinition(
            f"{what} {clip(name)} has a name of {size} bytes in {len(parts)} parts; "
            f"at most {_NAME_BYTES} bytes, {_DEPTH} parts and 255 bytes in a part are allowed"
        )
    return parts


# Inputs ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Budget:
    """Bytes left for the inputs of one job, all together."""

    left: int

    def take(self, size: int, name: str) -> None:
        self.left -= size
        if self.left < 0:
            raise LimitExceeded(f"the inputs are larger than this worker allows; the limit was reached at {clip(name)}")


async def materialise(
    workspace: Workspace, definition: Mapping[str, Any], transfer: Transfer, *, limit_bytes: int
) -> JobFolders:
    """Write inputs and config files, and answer with what is to be mounted.

    Shape:  a config file with a relative name lies among the inputs and wins over an input of that name; one with an
            absolute name is mounted there.
    Errors: BadDefinition, LimitExceeded, HashMismatch, Unavailable; each names the file.
    """
    inputs, mounted = _plan(definition)
    budget = _Budget(limit_bytes)
    workspace.prepare()
    async with asyncio.TaskGroup() as group:
        gate = asyncio.Semaphore(_PARALLEL)
        for parts, reference in inputs.items():
            group.create_task(_write(workspace.inputs, parts, reference, transfer, budget, gate))
        for parts, reference in mounted.items():
            group.create_task(_write(workspace.config_files, parts, reference, transfer, budget, gate))
    return JobFolders(
        inputs=str(workspace.inputs),
        outputs=str(workspace.outputs),
        config_files=tuple(
            ("/" + "/".join(parts), str(workspace.config_files.joinpath(*parts))) for parts in sorted(mounted)
        ),
    )


_Plan = dict[tuple[str, ...], Any]


def _plan(definition: Mapping[str, Any]) -> tuple[_Plan, _Plan]:
    """Sort all files by where they go. Nothing is written before every name has been checked."""
    inputs: _Plan = {
        split_name(name, "an input"): reference for name, reference in _references(definition, "inputs").items()
    }
    mounted: _Plan = {}
    for name, reference in _references(definition, "configFiles").items():
        if not name.startswith("/") or name.startswith(_INPUTS):
            inputs[split_name(name.removeprefix(_INPUTS), "a config file")] = reference
        else:
            mounted[_mount_point(name)] = reference
    for plan in (inputs, mounted):
        _check_tree(plan)
    return inputs, mounted


def _references(definition: Mapping[str, Any], member: str) -> Mapping[str, Any]:
    value = definition.get(member)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadDefinition(f"definition.{member} is {clip(value)}; expected an object of files")
    return value


def _mount_point(name: str) -> tuple[str, ...]:
    parts = split_name(name[1:], "a config file")
    path = "/" + "/".join(parts)
    if ":" in path:
        raise BadDefinition(f"a config file is named {clip(name)}; a colon is not allowed in an absolute name")
    if path == "/inputs" or any(path == place or path.startswith(f"{place}/") for place in _RESERVED):
        raise BadDefinition(
            f"a config file is named {clip(name)}; nothing can be mounted there",
            hint=f"Choose a place outside of {', '.join(_RESERVED)}.",
        )
    return parts


def _check_tree(plan: _Plan) -> None:
    for parts in plan:
        for depth in range(1, len(parts)):
            if parts[:depth] in plan:
                shown = "/".join(parts[:depth])
                raise BadDefinition(f"{clip(shown)} is both a file and the folder of {clip('/'.join(parts))}")


async def _write(
    root: Path, parts: tuple[str, ...], reference: Any, transfer: Transfer, budget: _Budget, gate: asyncio.Semaphore
) -> None:
    name = "/".join(parts)
    async with gate:
        kind, value, sha256 = _read_reference(name, reference)
        with await asyncio.to_thread(_create, root, parts, 0o755 if kind == "key" else 0o644) as file:
            if kind in ("url", "key"):
                url = value if kind == "url" else transfer.blob_url(value)
                try:
                    size = await transfer.download(url, file, limit_bytes=max(budget.left, 0), sha256=sha256)
                except LimitExceeded as error:
                    raise LimitExceeded(f"input {clip(name)}: {error.message}") from error
                budget.take(size, name)
                return
            data = _inline(name, kind, value)
            budget.take(len(data), name)
            await asyncio.to_thread(file.write, data)


def _read_reference(name: str, reference: Any) -> tuple[str, Any, str | None]:
    """Shape: type (``utf8`` if it does not say), value, and the sha256 it promises, if any."""
    if not isinstance(reference, Mapping) or "value" not in reference:
        raise BadDefinition(f'file {clip(name)} is {clip(reference)}; expected {{"type": ..., "value": ...}}')
    kind, value, stated = reference.get("type") or "utf8", reference["value"], reference.get("hash")
    if kind not in ("utf8", "base64", "json", "url", "key"):
        raise BadDefinition(
            f"file {clip(name)} has the type {clip(kind)}", hint="Known types are utf8, base64, json, url and key."
        )
    if kind != "json" and not isinstance(value, str):
        raise BadDefinition(f"file {clip(name)} has the type {kind}, but its value is {clip(value)}; expected text")
    if kind == "key" and not value:
        raise BadDefinition(f"file {clip(name)} names an empty blob key")
    sha256 = stated if isinstance(stated, str) and _SHA256.match(stated) else None
    if sha256 is None and kind == "key" and _SHA256.match(value):
        sha256 = value
    return kind, value, sha256


def _inline(name: str, kind: str, value: Any) -> bytes:
    if kind == "json":
        value = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    if kind != "base64":
        return _utf8(value)
    text = re.sub(r"\s", "", value).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadDefinition(f"file {clip(name)} is not valid base64: {error}") from error


def _utf8(text: str) -> bytes:
    """Half a surrogate pair becomes U+FFFD, as in browsers."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _create(root: Path, parts: tuple[str, ...], mode: int) -> IO[bytes]:
    """Create a file that is not there yet, never through a link."""
    with _open_folder(root, parts[:-1], create=True) as folder:
        descriptor = os.open(parts[-1], _EMPTY_FILE, mode, dir_fd=folder)
    os.fchmod(descriptor, mode)
    return os.fdopen(descriptor, "wb")


@contextlib.contextmanager
def _open_folder(root: Path, parts: tuple[str, ...], *, create: bool = False) -> Iterator[int]:
    """Walk down from ``root`` one part at a time; a link anywhere on the way is an error."""
    folder = os.open(root, _FOLDER)
    try:
        for part in parts:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
            inner = os.open(part, _FOLDER, dir_fd=folder)
            if create:
                os.fchmod(inner, 0o755)  # whatever the umask: the job may run as any user
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)


# Outputs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """One regular file below ``/outputs``."""

    parts: tuple[str, ...]
    size: int

    @property
    def name(self) -> str:
        return "/".join(self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What lies in ``/outputs``: files to take, and what is left out with the reason. Both sorted by name."""

    files: tuple[OutputFile, ...]
    skipped: tuple[tuple[str, str], ...]


class OutputsTooLarge(LimitExceeded):
    """A job left more than the owner allows. Shape: ``scan`` has the files up to the limit, by name; None: unknown."""

    code = "outputs_too_large"
    hint = "Write less, compress it, or send the job to a worker that allows more."

    def __init__(self, message: str, *, scan: Scan | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.scan = scan


@dataclass(slots=True)
class _Finding:
    files: list[OutputFile] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    bytes: int = 0

    def scan(self) -> Scan:
        files = tuple(sorted(self.files, key=lambda f: f.parts))
        return Scan(files=files, skipped=tuple(sorted(self.skipped)))


def output_scan(root: Path, *, max_files: int, max_bytes: int) -> Scan:
    """Walk the outputs without following any link. Empty folders are nothing.

    A file counts with its full size, holes included: that is what would be sent.

    Errors: OutputsTooLarge if there are more files or more bytes than allowed; PermissionError for a folder that this
            process may not read.
    """
    finding = _Finding()
    folder = os.open(root, _FOLDER)
    try:
        _scan_folder(folder, (), finding, max_files, max_bytes)
    finally:
        os.close(folder)
    return finding.scan()


def _scan_folder(folder: int, above: tuple[str, ...], finding: _Finding, max_files: int, max_bytes: int) -> None:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        parts = (*above, entry.name)
        about = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(about.st_mode) and len(parts) < _DEPTH:
            inner = os.open(entry.name, _FOLDER, dir_fd=folder)
            try:
                _scan_folder(inner, parts, finding, max_files, max_bytes)
            finally:
                os.close(inner)
            continue
        reason = _why_not(parts, about.st_mode)
        if reason:
            if len(finding.skipped) < max_files:
                finding.skipped.append((_shown_name(parts), reason))
            continue
        if len(finding.files) >= max_files:
            raise OutputsTooLarge(
                f"the job left more than {max_files} files in /outputs",
                scan=finding.scan(),
                hint="Pack them into one archive.",
            )
        if finding.bytes + about.st_size > max_bytes:
            raise OutputsTooLarge(f"the job left more than {show_bytes(max_bytes)} in /outputs", scan=finding.scan())
        finding.files.append(OutputFile(parts=parts, size=about.st_size))
        finding.bytes += about.st_size


_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


def _why_not(parts: tuple[str, ...], mode: int) -> str:
    """Why this entry is not an output; empty if it is."""
    if stat.S_ISDIR(mode):
        return f"a folder more than {_DEPTH} deep"
    for is_kind, text in _KINDS:
        if is_kind(mode):
            return text
    try:
        split_name("/".join(parts), "an output")
    except BadDefinition:
        return "a name that cannot be sent"
    return "" if stat.S_ISREG(mode) else "not a regular file"


def _shown_name(parts: tuple[str, ...]) -> str:
    return "/".join(parts).encode("utf-8", "replace").decode()


async def collect_outputs(scan: Scan, root: Path, transfer: Transfer) -> dict[str, dict[str, str]]:
    """Turn files into references: small ones inline, others uploaded unless the server has them, several at once.

    Shape:  name -> ``{"value": base64, "type": "base64"}`` or ``{"value": address, "type": "url", "hash": sha256}``.
    Errors: AsmanError if the server refuses one; OSError if a file cannot be read.
    """
    gate = asyncio.Semaphore(_PARALLEL)

    async def reference(file: OutputFile) -> dict[str, str]:
        async with gate:
            return await _reference(file, root, transfer)

    async with asyncio.TaskGroup() as group:
        tasks = {file.name: group.create_task(reference(file)) for file in scan.files}
    return {name: task.result() for name, task in tasks.items()}


async def _reference(file: OutputFile, root: Path, transfer: Transfer) -> dict[str, str]:
    if file.size <= INLINE_BYTES:
        data = await asyncio.to_thread(_read_small, root, file)
        return {"value": base64.b64encode(data).decode(), "type": "base64"}
    key = await asyncio.to_thread(_hash, root, file)
    await transfer.upload(key, lambda: _open_output(root, file), file.size)
    return {"value": transfer.blob_url(key), "type": "url", "hash": key}


def _open_output(root: Path, file: OutputFile) -> IO[bytes]:
    with _open_folder(root, file.parts[:-1]) as folder:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(file.parts[-1], flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"output {clip(file.name)} is not a regular file any more")
    return os.fdopen(descriptor, "rb")


def _read_small(root: Path, file: OutputFile) -> bytes:
    with _open_output(root, file) as opened:
        return opened.read(INLINE_BYTES + 1)


def _hash(root: Path, file: OutputFile) -> str:
    digest = hashlib.sha256()
    with _open_output(root, file) as opened:
        while chunk := opened.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
