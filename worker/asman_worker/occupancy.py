"""Which of the lent GPUs somebody else computes on: looked at before a device is handed out, and when it comes back.

A device that no job holds should have no process on it. Where it has one (the owner's own program, or what a job left
in spite of everything), a job that got the device would find its memory taken, or share it with a stranger. So such a
device is set aside, and the log says whose process it is; it is lent again when the process has ended.

What the driver's tool does not tell is not known: without it devices are taken at their word, as in ``gpu``.

Source: ``nvidia-smi --help-query-compute-apps``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from asman.errors import Unavailable
from asman.units import show_duration
from asman_worker.gpu import Gpu, processes

__all__ = ["Occupancy"]

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0
_PATIENCE_S = 300.0

_Ask = Callable[[], Awaitable[Mapping[str, tuple[int, ...]] | None]]


class Occupancy:
    """What is known of processes on devices that no job holds."""

    def __init__(self, ask: _Ask = processes) -> None:
        self._ask = ask
        self._found: dict[str, tuple[int, ...]] = {}

    @property
    def occupied(self) -> frozenset[str]:
        """Ids of devices that had a stranger's process when they were looked at last."""
        return frozenset(self._found)

    async def look(self, devices: Sequence[Gpu], why: str = "it is not lent to jobs until that has ended") -> bool:
        """Are these devices free of processes? What has changed is logged, with ``why``."""
        asked = [gpu.uuid for gpu in devices if gpu.uuid]
        found = await self._ask() if asked else None
        if found is not None:
            for uuid in asked:
                self._note(uuid, found.get(uuid, ()), why)
        return not any(uuid in self._found for uuid in asked)

    def _note(self, uuid: str, pids: tuple[int, ...], why: str) -> None:
        if pids and pids != self._found.get(uuid):
            told = ",".join(map(str, pids))
            _log.warning("a GPU is in use by a process that is no job's; " + why, extra={"gpu": uuid, "pids": told})
        if not pids and uuid in self._found:
            _log.info("a GPU is free again", extra={"gpu": uuid})
        if pids:
            self._found[uuid] = pids
        else:
            self._found.pop(uuid, None)

    async def pause(self, tries: int) -> None:
        """Wait before looking again. Errors: Unavailable, naming the devices, after ``tries`` enough."""
        if tries * _LOOK_EVERY_S >= _PATIENCE_S:
            told = ", ".join(f"{uuid} by process {pids[0]}" for uuid, pids in sorted(self._found.items()))
            raise Unavailable(
                f"the GPUs that this worker lends have been in use by others for {show_duration(_PATIENCE_S)}: {told}",
                hint="The owner can end these processes, or lend other devices with --gpus.",
            )
        await asyncio.sleep(_LOOK_EVERY_S)
