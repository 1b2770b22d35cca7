"""A floor of free disk: below it no jobs are taken and caches go, far below it the job that eats the disk is ended.

Looked at are the file systems of the worker's data directory and of the engine's data, where that path is on this
machine. Three levels: *enough* is a tenth above the floor, there jobs are taken again; the *floor*; and *emergency*,
half of it, where waiting would cost every job on the machine its disk.

The job that is ended is the one that grew most since the floor was reached: its inputs, outputs, its container's own
layer and its queue's cache. If none grew by a tenth of what is gone, somebody else eats the disk, and no job is ended
for it. Where one look finds enough and the next an emergency, a job has grown by all it has. Other jobs may meet a
full disk for the moment until the right one is ended.

Source: promises, "Limits that hold" (10 GiB or 10 % free); half of it and the tenth are this project's choice.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from asman.errors import AsmanError, LimitExceeded
from asman.units import show_bytes
from asman_worker.docker import EngineError
from asman_worker.intake import Intake
from asman_worker.remains import Key
from asman_worker.stock import Stock

__all__ = ["Disk", "DiskShort", "Jobs", "NO_ROOM", "Space", "fastest", "floor_bytes", "spaces"]

_log = logging.getLogger(__name__)

NO_ROOM = "the disk is nearly full"
"""The reason given to ``Intake``."""

_LOOK_EVERY_S = 1.0
_NEXT_VICTIM_S = 5.0
_DEFAULT_FLOOR_BYTES = 10 << 30
_LEAST_GROWTH_BYTES = 1 << 20


class DiskShort(LimitExceeded):
    """A job was ended because the machine's disk ran out."""

    code = "disk_limit"
    hint = "Write less, or send the job to a worker with more disk."


class Jobs(Protocol):
    """The jobs in progress, as far as the disk knows them (``executor.Executor``)."""

    async def disk_use(self) -> Mapping[Key, int]:
        """Bytes on disk that each job has now."""

    async def break_off(self, key: Key, error: AsmanError) -> None:
        """End a job; its report gives this error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """One file system. Units: bytes, as far as ordinary users may have them."""

    path: Path
    total_bytes: int
    free_bytes: int


def spaces(paths: Iterable[Path]) -> tuple[Space, ...]:
    """The file systems of these paths, each once; a path that is not here is left out."""
    found: dict[int, Space] = {}
    for path in paths:
        try:
            device, about = path.stat().st_dev, os.statvfs(path)
        except OSError:
            continue
        total, free = about.f_blocks * about.f_frsize, about.f_bavail * about.f_frsize
        found.setdefault(device, Space(path=path, total_bytes=total, free_bytes=free))
    return tuple(found.values())


def floor_bytes(setting: int | None, total_bytes: int) -> int:
    """How much must stay free: what the owner says, else 10 GiB or a tenth, whichever is smaller."""
    return min(_DEFAULT_FLOOR_BYTES, total_bytes // 10) if setting is None else setting


def fastest(before: Mapping[Key, int], now: Mapping[Key, int], lost_bytes: int = 0) -> Key | None:
    """The job that grew most; None if none grew by a tenth of what the disk lost. A new one grew by all it has."""
    growth = {key: size - before.get(key, 0) for key, size in now.items()}
    key = max(growth, key=lambda k: growth[k], default=None)
    return key if key is not None and growth[key] >= max(_LEAST_GROWTH_BYTES, lost_bytes // 10) else None


class Disk:
    """Watches the floor for one worker.

    Shape:  ``floor`` is the owner's setting: bytes, 0 for no floor, None for the default of each file system.
    """

    def __init__(self, *, paths: Iterable[Path], floor: int | None, stock: Stock, jobs: Jobs, intake: Intake) -> None:
        self._paths, self._floor = tuple(paths), floor
        self._stock, self._jobs, self._intake = stock, jobs, intake
        self._before: Mapping[Key, int] = {}
        self._free_before = self._free_seen = 0
        self._is_short = False
        self._next_victim_at = 0.0

    async def run(self) -> None:
        """Look every second, for as long as the worker runs."""
        while True:
            try:
                await self.look()
            except (AsmanError, EngineError, OSError) as error:
                _log.warning("the disk could not be looked after", extra={"reason": str(error)})
            await asyncio.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """One look, and what follows from it. Errors: Unavailable; EngineError."""
        await self._stock.trim()
        if self._margin(1.1) >= 0:
            self._recovered()
            self._free_seen = self._margin(0.0)
            return
        if self._margin(1.0) < 0 and not self._is_short:
            await self._begin_short()
        if not self._is_short:
            return
        while self._margin(1.1) < 0 and self._margin(0.5) >= 0 and await self._stock.free_one():
            continue
        if self._margin(1.1) >= 0:
            self._recovered()
        elif self._margin(0.5) < 0:
            await self._emergency()

    def _margin(self, share: float) -> int:
        """Bytes above this share of the floor, on the file system where it is tightest."""
        margins = [s.free_bytes - int(share * floor_bytes(self._floor, s.total_bytes)) for s in spaces(self._paths)]
        return min(margins, default=0)

    async def _begin_short(self) -> None:
        self._is_short = True
        for space in spaces(self._paths):
            floor = floor_bytes(self._floor, space.total_bytes)
            if space.free_bytes < floor:
                _log.warning(
                    "the disk is nearly full: no more jobs are taken until there is room; free some, "
                    "lower --disk-floor, or bound what is kept with --max-images",
                    extra={"path": space.path, "free": show_bytes(space.free_bytes), "floor": show_bytes(floor)},
                )
        self._intake.hold(NO_ROOM)
        if self._margin(0.5) < 0:
            self._before, self._free_before = {}, self._free_seen
        else:
            self._before, self._free_before = await self._jobs.disk_use(), self._margin(0.0)

    def _recovered(self) -> None:
        if self._is_short:
            self._is_short = False
            self._intake.release(NO_ROOM)

    async def _emergency(self) -> None:
        """End the job that grew most, then free what there is; one job at a time, to see whether that was enough."""
        now = asyncio.get_running_loop().time()
        if now < self._next_victim_at:
            return
        use, left = await self._jobs.disk_use(), self._margin(0.0)
        victim = fastest(self._before, use, self._free_before - left)
        self._next_victim_at = now + _NEXT_VICTIM_S
        if victim is None:
            _log.error("the disk is full, and no job of this worker is to blame", extra={"free": show_bytes(left)})
            await self._stock.free_one()
            return
        self._before, self._free_before = use, left
        _log.error("a job is ended because the disk is full", extra={"job": victim[1], "free": show_bytes(left)})
        message = f"the disk of this worker was nearly full ({show_bytes(left)} left) and this job grew most"
        await self._jobs.break_off(victim, DiskShort(message))
