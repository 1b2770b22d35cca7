"""How long a blob is kept, where objects cannot be changed and nothing can be locked.

An object carries the expiry it was stored with. Whoever moves it later adds an empty object, and so never rewrites
the bytes nor races with another server::

    until/KEY/STAMP    KEY is kept until STAMP at least; the latest one counts
    due/STAMP/KEY      look at KEY when STAMP has passed

STAMP is seconds since the epoch with a fixed number of digits, so that a listing is in order of time: pruning reads
the first page of ``due/`` and nothing else, however many blobs there are. A ``due`` entry is written before what it
is for; one too many does no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from asman_s3.faults import told
from asman_s3.place import Place

__all__ = ["LAST_S", "Due", "Expiries", "stamp"]

LAST_S = 9_999_999_999.0
"""No expiry is later than this, in the year 2286: more digits would not be in order."""

_PAGE = 1000
_MARKS_KEPT = 4
"""Older marks of a key are removed when there are more than so many."""


def stamp(at: float) -> str:
    """Units: seconds since the epoch, to the microsecond."""
    return f"{min(max(at, 0.0), LAST_S):017.6f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """One ``due`` entry. Shape: ``name`` is its object key."""

    name: str
    at: float
    key: str


class Expiries:
    """The marks of one place."""

    def __init__(self, client: Any, place: Place) -> None:
        self._client, self._bucket = client, place.bucket
        self._due, self._until = f"{place.prefix}due/", f"{place.prefix}until/"

    async def plan(self, key: str, at: float) -> None:
        """Have the key looked at when this moment has passed."""
        await self._mark(f"{self._due}{stamp(at)}/{key}")

    async def latest(self, key: str) -> float | None:
        """The latest mark of the key."""
        names = [name async for name in self._names(self._marks_of(key))]
        return max((float(name.rpartition("/")[2]) for name in names), default=None)

    async def move(self, key: str, at: float) -> None:
        """Keep the key until then at least."""
        await self.plan(key, at)
        await self._mark(f"{self._marks_of(key)}{stamp(at)}")
        older = [n async for n in self._names(self._marks_of(key)) if float(n.rpartition("/")[2]) < at]
        if len(older) > _MARKS_KEPT:
            await self._remove(older)

    async def forget(self, key: str) -> None:
        """Remove all marks of the key."""
        await self._remove([name async for name in self._names(self._marks_of(key))])

    async def due(self, before: float) -> list[Due]:
        """The first entries whose moment is before this one, in order of time; at most one page."""
        found = []
        with told("list expiries"):
            page = await self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._due, MaxKeys=_PAGE)
        for entry in page.get("Contents", ()):
            at, _, key = entry["Key"].removeprefix(self._due).partition("/")
            if float(at) >= before:
                break
            found.append(Due(name=entry["Key"], at=float(at), key=key))
        return found

    async def done(self, due: Due) -> None:
        await self._remove([due.name])

    def _marks_of(self, key: str) -> str:
        return f"{self._until}{key}/"

    async def _mark(self, name: str) -> None:
        with told("write an expiry"):
            await self._client.put_object(Bucket=self._bucket, Key=name, Body=b"")

    async def _names(self, prefix: str) -> AsyncIterator[str]:
        more: dict[str, str] = {}
        while True:
            with told("read an expiry"):
                page = await self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, **more)
            for entry in page.get("Contents", ()):
                yield entry["Key"]
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    async def _remove(self, names: Iterable[str]) -> None:
        """One by one: removing many in one request is not offered by every store, and mostly there is one."""
        with told("remove an expiry"):
            await asyncio.gather(*(self._client.delete_object(Bucket=self._bucket, Key=name) for name in names))
