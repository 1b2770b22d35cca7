"""What the engine and its host let this worker do, found once by trying and never assumed.

Two things are tried, with an empty image made on the spot (no registry is asked) and a container that is never
started. Does a file system which this process mounts below its data directory reach containers? It does not where the
worker runs in a container, or the engine in a namespace of its own. And does the engine bound a container's own layer
by itself? Only on a few file systems. ``quota`` needs the first, and where either is missing ``meter`` watches instead.

Source: promises, "Limits that hold"; Docker Engine API v1.41, ``POST /images/create`` with ``fromSrc``, container
create with ``StorageOpt``, container archive.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import secrets
import shutil
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asman.errors import AsmanError
from asman_worker import quota
from asman_worker.docker import Engine, EngineError

__all__ = ["Abilities", "probe"]

_log = logging.getLogger(__name__)

_TINY = quota.geometry(64 << 10, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """Shape: ``no_mounts`` says why outputs have no file system of their own; empty if they have."""

    no_mounts: str = ""
    bounds_layers: bool = False

    @property
    def mounts(self) -> bool:
        return not self.no_mounts

    @property
    def outputs_method(self) -> str:
        """How the size of outputs is held, in a word for logs."""
        return "file system" if self.mounts else "watching"


async def probe(engine: Engine, folder: Path, helper: str) -> Abilities:
    """Try both, and leave nothing behind.

    Shape:  ``folder`` is this worker's own, and where jobs' folders are; ``helper`` labels the containers.
    Errors: Unavailable if the engine does not answer. What it refuses is an answer.
    """
    missing = quota.what_is_missing()
    await asyncio.to_thread(_remove_left, folder)
    try:
        async with _empty_image(engine) as image:
            reason = missing or await _try_mount(engine, image, folder, helper)
            abilities = Abilities(no_mounts=reason, bounds_layers=await _try_layer(engine, image, helper))
    except EngineError as error:
        abilities = Abilities(no_mounts=missing or f"the engine cannot make an image to try it: {error.message}")
    _log.info(
        "limits on disk",
        extra={
            "outputs_by": abilities.outputs_method,
            **({"because": abilities.no_mounts} if abilities.no_mounts else {}),
            "layers_by": "engine" if abilities.bounds_layers else "watching",
        },
    )
    return abilities


@contextlib.asynccontextmanager
async def _empty_image(engine: Engine) -> AsyncIterator[str]:
    name = f"asman-probe-{secrets.token_hex(4)}"
    content = io.BytesIO()
    tarfile.open(fileobj=content, mode="w").close()
    query = {"fromSrc": "-", "repo": name, "tag": "1"}
    await engine.ask("POST", "images/create", query=query, body=content.getvalue())
    try:
        yield f"{name}:1"
    finally:
        with contextlib.suppress(EngineError):
            await engine.ask("DELETE", f"images/{name}:1")


def _body(image: str, helper: str, **host_config: Any) -> dict[str, Any]:
    host = {"NetworkMode": "none", **host_config}
    return {"Image": image, "Cmd": ["-"], "Labels": {"asman.helper": helper}, "HostConfig": host}


async def _try_mount(engine: Engine, image: str, folder: Path, helper: str) -> str:
    """Why a mount of ours does not reach a container; empty if it does."""
    here = folder / f"probe-{secrets.token_hex(4)}"
    point, word = here / "mounted", secrets.token_bytes(16)
    try:
        await asyncio.to_thread(point.mkdir, parents=True)
        await quota.attach(here / "image", point, _TINY)
        await asyncio.to_thread((point / "word").write_bytes, word)
        seen = await _read_word(engine, image, point, helper)
        return "" if seen == word else "the engine does not see what this process mounts"
    except (OSError, AsmanError, EngineError) as error:
        return f"a mount was tried: {error}"
    finally:
        await asyncio.to_thread(_remove, here, point)


async def _read_word(engine: Engine, image: str, point: Path, helper: str) -> bytes:
    """What a container would read there."""
    mount = {"Type": "bind", "Source": str(point), "Target": "/probe", "ReadOnly": True}
    container = await engine.create(_body(image, helper, Mounts=[mount]))
    try:
        with await engine.archive(container, "/probe/word") as tar:
            member = tar.next()
            file = tar.extractfile(member) if member is not None else None
            return file.read() if file is not None else b""
    except EngineError:
        return b""
    finally:
        await engine.remove(container)


def _remove(here: Path, point: Path) -> None:
    with contextlib.suppress(OSError):
        quota.detach(point)
        shutil.rmtree(here)


def _remove_left(folder: Path) -> None:
    """What a probe left whose process was killed."""
    for here in folder.glob("probe-*"):
        _remove(here, here / "mounted")


async def _try_layer(engine: Engine, image: str, helper: str) -> bool:
    try:
        container = await engine.create(_body(image, helper, StorageOpt={"size": "64m"}))
    except EngineError:
        return False
    await engine.remove(container)
    return True
