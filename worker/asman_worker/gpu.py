"""Which GPUs the owner lends, and which of them are free for a job. Pure, but for two questions to ``nvidia-smi``.

A device is named by its uuid where the driver tells one: indices change when a card is added or removed between two
starts, uuids do not. Without the driver's tool a count or a list of indices is taken at its word, so that a host with
another way to its devices can still be used. The listing shows whole cards, so a part of one (``MIG-...``) is believed
as well.

Source: published worker flags, "GPU spec"; ``nvidia-smi --help-query-gpu``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from asman.errors import ConfigError, LimitExceeded, clip

__all__ = [
    "Gpu",
    "GpuChoice",
    "allocate",
    "choose",
    "detect",
    "parse_gpus",
    "processes",
    "read_listing",
    "read_processes",
]

_TOOL = "nvidia-smi"
_DEVICES = ("--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")
_PROCESSES = ("--query-compute-apps=gpu_uuid,pid", "--format=csv,noheader")
_DETECT_LIMIT_S = 20.0
_PROCESSES_LIMIT_S = 10.0
_UUID = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z/-]+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One device of this host.

    Shape:  ``uuid`` is empty where the driver's tool did not tell one.
    """

    index: int
    uuid: str = ""
    model: str = ""
    memory_bytes: int = 0

    @property
    def device_id(self) -> str:
        """How the engine is told about it: the uuid, else the host index as text."""
        return self.uuid or str(self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuChoice:
    """What ``--gpus`` said: a count, all of them, or names (indices or uuids as text, in the owner's order)."""

    count: int = 0
    everything: bool = False
    names: tuple[str, ...] = ()


def parse_gpus(spec: str) -> GpuChoice:
    """Read ``2``, ``device=1,3``, ``all`` or ``GPU-<uuid>,...``, with or without quote characters around.

    Errors: ConfigError for anything else.
    """
    text = spec.strip().strip("'\"").strip()
    if text.isdecimal() and text.isascii():
        return GpuChoice(count=int(text))
    if text == "all":
        return GpuChoice(everything=True)
    names = tuple(name.strip() for name in text.removeprefix("device=").split(","))
    if all(_UUID.match(name) or (text.startswith("device=") and name.isdecimal()) for name in names):
        if len(set(names)) == len(names):
            return GpuChoice(names=names)
        raise ConfigError(f"--gpus names a device twice: {clip(spec)}")
    raise ConfigError(
        f"--gpus is {clip(spec)}, which names no devices",
        hint='Write a count ("2"), "device=0,1", "all", or uuids as nvidia-smi -L shows them.',
    )


def choose(choice: GpuChoice, detected: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Turn the owner's words into devices.

    Shape:  without any detected device a count or indices are believed, uuids too; ``all`` is then none.
    Errors: ConfigError if more is lent than the host has, or one device twice (by its index and by its uuid).
    """
    if choice.everything:
        return tuple(detected)
    if choice.names:
        named = tuple(_named(name, detected) for name in choice.names)
        if len({gpu.device_id for gpu in named}) < len(named):
            raise ConfigError(f"--gpus names a device twice: {clip(', '.join(choice.names))}")
        return named
    if detected and choice.count > len(detected):
        raise ConfigError(
            f"--gpus is {choice.count}, but this host has {len(detected)}", hint="nvidia-smi -L lists them."
        )
    return tuple(detected[: choice.count]) or tuple(Gpu(index=i) for i in range(choice.count))


def _named(name: str, detected: Sequence[Gpu]) -> Gpu:
    for gpu in detected:
        if name in (gpu.uuid, str(gpu.index)):
            return gpu
    if detected and not name.startswith("MIG-"):
        raise ConfigError(f"--gpus names {clip(name)}, which this host does not have", hint="nvidia-smi -L lists them.")
    return Gpu(index=int(name)) if name.isdecimal() else Gpu(index=-1, uuid=name)


def allocate(
    lent: Sequence[Gpu], used: Iterable[str], count: int, *, last: Collection[str] = frozenset()
) -> tuple[Gpu, ...]:
    """The first ``count`` devices in the owner's order that no job holds.

    Shape:  devices named in ``last`` are taken only when there are no others.
    Errors: LimitExceeded if fewer are free; nothing is taken then.
    """
    held = set(used)
    free = sorted((gpu for gpu in lent if gpu.device_id not in held), key=lambda gpu: gpu.device_id in last)
    if count > len(free):
        raise LimitExceeded(f"the job asks for {count} GPUs, {len(free)} of {len(lent)} are free", status=422)
    return tuple(free[:count])


def read_listing(text: str) -> tuple[Gpu, ...]:
    """Read the tool's answer; a line that does not look like a device is left out.

    Units:  the tool's MiB become bytes; a device that does not tell its memory ("[N/A]") has 0.
    """
    found = []
    for line in text.splitlines():
        fields = [part.strip() for part in line.split(",")]
        if len(fields) >= 4 and fields[0].isdecimal() and _UUID.match(fields[1]):
            mebibytes = int(fields[-1]) if fields[-1].isdecimal() else 0
            found.append(
                Gpu(
                    index=int(fields[0]),
                    uuid=fields[1],
                    model=", ".join(fields[2:-1]),
                    memory_bytes=mebibytes << 20,
                )
            )
    return tuple(found)


def read_processes(text: str) -> dict[str, tuple[int, ...]]:
    """Read which processes compute on which device, by uuid; a process whose number is not told is 0."""
    found: dict[str, tuple[int, ...]] = {}
    for line in text.splitlines():
        uuid, comma, pid = (part.strip() for part in line.partition(","))
        if comma and _UUID.match(uuid):
            found[uuid] = (*found.get(uuid, ()), int(pid) if pid.isdecimal() else 0)
    return found


async def detect() -> tuple[Gpu, ...]:
    """Ask ``nvidia-smi``; a host without the tool, or with one that fails or hangs, has no detected device."""
    return read_listing(await _ask(_DEVICES, _DETECT_LIMIT_S) or "")


async def processes() -> Mapping[str, tuple[int, ...]] | None:
    """Which processes compute on the devices of this host; None where the tool does not tell."""
    text = await _ask(_PROCESSES, _PROCESSES_LIMIT_S)
    return None if text is None else read_processes(text)


async def _ask(query: tuple[str, ...], limit_s: float) -> str | None:
    """The tool's answer; None if there is no tool, or it fails, or takes too long."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(_TOOL, *query),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(limit_s):
            output, _ = await process.communicate()
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode(errors="replace") if process.returncode == 0 else None
