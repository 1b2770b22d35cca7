"""A file system of its own for each job's ``/outputs``, so that its bytes and files end where the owner says.

The file system is an ext4 image in a sparse file, as large as the owner's limit and with as many inodes, mounted on
the job's folder before its container is made. What a job meets a little above the limit is the usual "no space left on
device", whatever it does and however fast. There is no journal, nothing is reserved and nothing is zeroed
ahead, so that making one costs a few milliseconds and a few hundred kilobytes.

Why not the host's project quotas: a container's root is in the host's first user namespace here, and the owner of a
file may change its project id there, so a job could step out of its quota. They also exist only on some file systems.

Whether this process may mount where the engine sees it is found by trying (``probe``); elsewhere ``meter`` watches.
What the host's disk cannot hold is no matter of this module: an image is sparse, so ``disk`` keeps a floor free.

Source: promises, "Limits that hold"; ext4(5), mke2fs(8), mount(8).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Geometry",
    "attach",
    "detach",
    "discard",
    "geometry",
    "is_attached",
    "is_full",
    "reattach",
    "what_is_missing",
]

_SMALL_BYTES = 512 << 20
_INODE_BYTES = 256
_DESCRIPTOR_BYTES = 64
_KERNELS_OWN_BLOCKS = 4096
_FULL_BLOCKS = 2048
_SPARE_BLOCKS = _FULL_BLOCKS + 32
_NAME_BYTES = 40
_TOOLS_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin:/usr/bin:/bin"
_TOOLS = ("mkfs.ext4", "mount", "e2fsck")
_TOOL_LIMIT_S = 60.0
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """What an image is made with. Units: bytes."""

    size_bytes: int
    block_bytes: int
    inodes: int


def geometry(limit_bytes: int, limit_files: int) -> Geometry:
    """An image in which ``limit_bytes`` of data fit, and 2048 blocks more.

    Those blocks tell a job that left exactly what it may from one that met the end: the kernel refuses a large write as
    a whole, so such a job can leave up to so many blocks unused.

    What the file system needs for itself comes on top: tables, bitmaps, copies of the descriptors, the blocks that the
    kernel keeps back, names. Small limits get small blocks, because a file takes whole ones.

    Shape:  a few inodes more than ``limit_files`` for folders; the tool rounds up to whole table blocks.
    Units:  blocks of 1 KiB below 512 MiB, else of 4 KiB.
    Source: ext4 disk layout (block groups, sparse super blocks); the kernel keeps 2 % or 4096 blocks back.
    """
    block = 1024 if limit_bytes < _SMALL_BYTES else 4096
    inodes = limit_files + max(limit_files // 8, 64)
    data = math.ceil(limit_bytes / block) + math.ceil(limit_files * _NAME_BYTES / block) + _SPARE_BLOCKS
    blocks = data
    for _ in range(3):
        groups = math.ceil(blocks / (8 * block))
        tables = groups * math.ceil(inodes / groups * _INODE_BYTES / block)
        descriptors = 1 + math.ceil(groups * _DESCRIPTOR_BYTES / block)
        kept_back = min(math.ceil(blocks / 50), _KERNELS_OWN_BLOCKS)
        blocks = data + tables + 2 * groups + _super_blocks(groups) * descriptors + kept_back + 32
    return Geometry(size_bytes=blocks * block, block_bytes=block, inodes=inodes)


def _super_blocks(groups: int) -> int:
    """How many groups have a copy of the super block: the first two and powers of 3, 5 and 7."""
    powers = {base**n for base in (3, 5, 7) for n in range(1, 24) if base**n < groups}
    return min(groups, 2) + len(powers)


def what_is_missing() -> str:
    """Why this process cannot even try, in a few words; empty if it can."""
    if os.geteuid() != 0:
        return "the worker is not root"
    tools = [tool for tool in _TOOLS if shutil.which(tool, path=_TOOLS_PATH) is None]
    return f"not installed: {', '.join(tools)}" if tools else ""


async def attach(image: Path, folder: Path, shape: Geometry, *, may_execute: bool = True) -> None:
    """Make an image and mount it on an empty folder; any user may write there.

    If the caller is cancelled the work is done to its end first, so that whoever removes the folder then finds it
    either mounted or not, and nothing comes after.

    Errors: OSError, with the tool's words.
    """

    def work() -> None:
        with image.open("xb") as file:
            file.truncate(shape.size_bytes)
        image.chmod(0o600)
        _run(
            *("mkfs.ext4", "-q", "-F", "-b", str(shape.block_bytes), "-I", str(_INODE_BYTES)),
            *("-N", str(shape.inodes), "-m", "0", "-O", "^has_journal,^resize_inode"),
            *("-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", str(image)),
        )
        _mount(image, folder, may_execute)
        with contextlib.suppress(FileNotFoundError):
            (folder / "lost+found").rmdir()
        folder.chmod(0o777)

    await _to_the_end(work)


async def reattach(image: Path, folder: Path, *, may_execute: bool = True) -> None:
    """Mount an image that is not mounted any more, because the machine was restarted since. Errors: OSError."""

    def work() -> None:
        _run("e2fsck", "-p", "-f", str(image), accept=(0, 1))
        _mount(image, folder, may_execute)

    await _to_the_end(work)


async def _to_the_end(work: Callable[[], None]) -> None:
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _mount(image: Path, folder: Path, may_execute: bool) -> None:
    options = "loop,nodev,nosuid,noatime,noinit_itable,errors=remount-ro"
    _run("mount", "-t", "ext4", "-o", options + ("" if may_execute else ",noexec"), str(image), str(folder))


def _run(tool: str, *arguments: str, accept: tuple[int, ...] = (0,)) -> None:
    program = shutil.which(tool, path=_TOOLS_PATH)
    if program is None:
        raise FileNotFoundError(f"{tool} is not installed")
    environment = {"PATH": _TOOLS_PATH, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [program, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TOOL_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{tool} took longer than {_TOOL_LIMIT_S:.0f} s") from error
    if done.returncode not in accept:
        raise OSError(f"{tool} ended with {done.returncode}: {done.stderr.decode(errors='replace').strip()}")


def is_attached(folder: Path) -> bool:
    """Is something mounted on this folder?"""
    return os.path.ismount(folder)


def detach(folder: Path) -> None:
    """Unmount what is mounted on a folder; nothing is fine. The loop device goes by itself.

    A file system that is still in use (a container that is being removed) leaves the folder at once and ends later.

    Errors: OSError if this process may not.
    """
    while os.path.ismount(folder):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(folder), _UMOUNT_NOFOLLOW) == 0:
            continue
        if libc.umount2(os.fsencode(folder), _UMOUNT_NOFOLLOW | _MNT_DETACH) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot unmount: {os.strerror(number)}", str(folder))


def discard(image: Path, folder: Path) -> None:
    """Unmount, and give up what is in the image. Nothing is fine.

    It is emptied first, as far as that is easily done: what has not reached the disk yet then need not. The image is
    cut to nothing, because a mount namespace that was made meanwhile may keep its mount for as long as it lives.

    Errors: OSError if this process may not unmount.
    """
    if not is_attached(folder):
        return
    for path in folder.iterdir():
        with contextlib.suppress(OSError, RecursionError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    detach(folder)
    with contextlib.suppress(FileNotFoundError):
        os.truncate(image, 0)


def is_full(folder: Path) -> bool:
    """Is the file system mounted here beyond its limit of bytes, or has it no room for another file?"""
    about = os.statvfs(folder)
    return about.f_bavail < _FULL_BLOCKS or about.f_favail == 0
