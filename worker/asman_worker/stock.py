"""What this worker leaves on the engine between jobs, and what of it goes first when the disk is short.

Images that it pulled or built itself, and the cache volumes of its queues: each with its size and its last use, in one
small file that survives restarts. Nothing else on the engine is ever removed, so an owner's own images are safe, also
those that jobs use. An image that a container has, and what a job in progress needs, stay; the engine itself refuses
the former.

A cache volume is shared by all workers of a host that serve its queue. It may be removed here while another of them is
between two jobs, which costs that queue its cache and nothing else.

Sizes are the engine's; layers that images share are counted in each, so a budget is kept rather too well.

Source: contract, "Housekeeping"; promises, "Limits that hold"; this project's choice of what is whose.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asman_worker.docker import Engine, EngineError

__all__ = ["IMAGE", "VOLUME", "Item", "Stock", "to_remove"]

_log = logging.getLogger(__name__)

IMAGE = "image"
VOLUME = "volume"
_USED_AGAIN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that may go. Shape: ``name`` is the engine's name for it; ``id`` is an image's. Units: bytes; seconds
    since the epoch."""

    kind: str
    name: str
    id: str = ""
    size_bytes: int = 0
    used_at: float = 0.0


def to_remove(items: list[Item], budget_bytes: int | None) -> list[Item]:
    """Images over the budget, the least recently used first. Pure."""
    images = sorted((item for item in items if item.kind == IMAGE), key=lambda item: item.used_at)
    over = sum(item.size_bytes for item in images) - (budget_bytes or 0)
    going: list[Item] = []
    for item in images if budget_bytes is not None else ():
        if over <= 0:
            break
        going.append(item)
        over -= item.size_bytes
    return going


class Stock:
    """The items of one worker on one engine.

    Shape:  ``wanted`` answers with the names that jobs in progress need.
    """

    def __init__(
        self,
        engine: Engine,
        file: Path,
        *,
        budget_bytes: int | None = None,
        wanted: Callable[[], set[str]] = lambda: set(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine, self._file, self._budget_bytes = engine, file, budget_bytes
        self._wanted, self._clock = wanted, clock
        self._items = _load(file)
        self._lock = asyncio.Lock()

    def items(self) -> list[Item]:
        return list(self._items.values())

    def has_image(self, name: str) -> bool:
        """Was this image brought here by this worker?"""
        return _key(IMAGE, name) in self._items

    async def add_image(self, name: str, image_id: str, size_bytes: int) -> None:
        """This worker has pulled or built it. What had the name before, and was ours, stays known by its id."""
        before = self._items.get(_key(IMAGE, name))
        if before is not None and before.id != image_id:
            self._put(replace(before, name=before.id))
        self._put(Item(kind=IMAGE, name=name, id=image_id, size_bytes=size_bytes, used_at=self._clock()))
        await self._save()

    async def remove_image(self, name: str) -> None:
        """It was not worth keeping. Errors: Unavailable."""
        item = self._items.get(_key(IMAGE, name))
        if item is not None:
            await self._remove(item)

    async def use_image(self, name: str) -> None:
        """A job runs in it. An image that is not ours is none of our business."""
        await self._use(IMAGE, name)

    async def use_volume(self, name: str) -> None:
        self._items.setdefault(_key(VOLUME, name), Item(kind=VOLUME, name=name))
        await self._use(VOLUME, name)

    async def _use(self, kind: str, name: str) -> None:
        item, now = self._items.get(_key(kind, name)), self._clock()
        if item is not None and now - item.used_at >= _USED_AGAIN_S:
            self._put(replace(item, used_at=now))
            await self._save()

    async def trim(self) -> None:
        """Remove images until they are within the budget. Errors: Unavailable."""
        wanted = self._wanted()
        for item in to_remove(self.items(), self._budget_bytes):
            if item.name not in wanted:
                await self._remove(item)

    async def free_one(self) -> bool:
        """Remove what was not used for the longest time; False if there is nothing left. Errors: Unavailable."""
        for item in sorted(self.items(), key=lambda item: item.used_at):
            if item.name not in self._wanted() and await self._remove(item):
                return True
        return False

    async def _remove(self, item: Item) -> bool:
        """True if it has gone. One that is in use stays known, and is tried again another time."""
        if item.kind == IMAGE and not await self._is_still_ours(item):
            return False
        path = f"images/{item.name}" if item.kind == IMAGE else f"volumes/{item.name}"
        try:
            await self._engine.ask("DELETE", path)
        except EngineError as error:
            if error.status != 404:
                _log.debug("still in use", extra={"kind": item.kind, "item": item.name, "reason": error.message})
                return False
        self._items.pop(_key(item.kind, item.name), None)
        await self._save()
        _log.info("removed to make room", extra={"kind": item.kind, "item": item.name, "bytes": item.size_bytes})
        return True

    async def _is_still_ours(self, item: Item) -> bool:
        """Somebody else may have removed it, or given the name to another image: then it is forgotten."""
        found = await self._engine.image(item.name)
        if found is not None and found.id == item.id:
            return True
        self._items.pop(_key(item.kind, item.name), None)
        await self._save()
        return False

    def _put(self, item: Item) -> None:
        self._items[_key(item.kind, item.name)] = item

    async def _save(self) -> None:
        """A whole file or the one before, whatever happens; a full disk costs the notes, not the job."""
        async with self._lock:
            try:
                await asyncio.to_thread(_write, self._file, [_record(item) for item in self.items()])
            except OSError as error:
                _log.warning("what is kept on the engine cannot be noted", extra={"reason": str(error)})


def _key(kind: str, name: str) -> str:
    return f"{kind} {name}"


def _record(item: Item) -> dict[str, Any]:
    return {field: getattr(item, field) for field in Item.__slots__}


def _load(file: Path) -> dict[str, Item]:
    """An unreadable file is an empty one: what it named is then kept for good, which is the safe side."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        items = [Item(**record) for record in json.loads(file.read_text())]
        return {_key(item.kind, item.name): item for item in items}
    return {}


def _write(file: Path, records: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    with fresh.open("w") as opened:
        json.dump(records, opened, indent=1)
        opened.flush()
        os.fsync(opened.fileno())
    fresh.replace(file)
