"""What servers tell each other of who is connected to them, per queue. For display and speed only.

Each server announces its workers and the number of its clients when they change, when another server asks, and every
few seconds while it has any; what has not been heard for a while is forgotten. A worker that shows up elsewhere later
than here has moved: its older connection is given up.

Owns the announcements and what is known by them. Refuses to decide anything: who holds a job is decided by leases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from asman.matching import Capacity

__all__ = ["SILENT_S", "Connected", "Neighbour", "Neighbours", "announcement"]

SILENT_S = 30.0
"""A server that has not been heard for as long counts as gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """One worker of a queue, on whichever server.

    Shape:  ``registration`` as it was sent; ``held`` maps the jobs it holds to attempts; ``takes`` is how many more it
            takes now. Units: ``seated_at`` in seconds since the epoch, when it registered.
    """

    worker: str
    registration: Mapping[str, Any]
    total: Capacity
    free: Capacity
    takes: int
    held: Mapping[str, int]
    seated_at: float


@dataclass(slots=True, kw_only=True)
class Neighbour:
    """Another server, as it told of itself. Units: ``heard_at`` by the loop's clock."""

    server: str
    heard_at: float
    clients: int = 0
    workers: Mapping[str, Connected] = field(default_factory=dict)


@dataclass(slots=True)
class Neighbours:
    """The other servers of one queue."""

    servers: dict[str, Neighbour] = field(default_factory=dict)

    @property
    def workers(self) -> dict[str, Connected]:
        """All their workers; one that two servers name is where it registered last."""
        known: dict[str, Connected] = {}
        for server in self.servers.values():
            for name, worker in server.workers.items():
                if name not in known or known[name].seated_at < worker.seated_at:
                    known[name] = worker
        return known

    def hear(self, header: Mapping[str, Any], now: float) -> bool:
        """Take an announcement in; True if watchers would see a difference."""
        before = self._shown()
        server = str(header["server"])
        workers = {worker.worker: worker for worker in map(_read, header["workers"])}
        self.servers[server] = Neighbour(server=server, heard_at=now, clients=int(header["clients"]), workers=workers)
        if not workers and not header["clients"]:
            del self.servers[server]
        return self._shown() != before

    def forget_silent(self, now: float) -> bool:
        """Drop who has been silent too long; True if watchers would see a difference."""
        silent = [name for name, server in self.servers.items() if now - server.heard_at > SILENT_S]
        before = self._shown() if silent else {}
        for name in silent:
            del self.servers[name]
        return bool(silent) and self._shown() != before

    def _shown(self) -> dict[str, Mapping[str, Any]]:
        return {name: {k: v for k, v in w.registration.items() if k != "time"} for name, w in self.workers.items()}


def announcement(server: str, workers: Iterable[Connected], clients: int, *, asks: bool) -> dict[str, Any]:
    """What a server says of itself, as JSON can carry it; ``asks`` wants the others to answer."""
    return {
        "kind": "presence",
        "server": server,
        "asks": asks,
        "clients": clients,
        "workers": [
            {
                "worker": worker.worker,
                "registration": dict(worker.registration),
                "total": _write_capacity(worker.total),
                "free": _write_capacity(worker.free),
                "takes": worker.takes,
                "held": dict(worker.held),
                "seated_at": worker.seated_at,
            }
            for worker in workers
        ],
    }


def _write_capacity(capacity: Capacity) -> list[Any]:
    limits = (capacity.memory_bytes, capacity.gpus, capacity.max_duration_s)
    return [capacity.cores, *limits, *sorted(capacity.tags)]


def _read(raw: Mapping[str, Any]) -> Connected:
    return Connected(
        worker=raw["worker"],
        registration=raw["registration"],
        total=_read_capacity(raw["total"]),
        free=_read_capacity(raw["free"]),
        takes=raw["takes"],
        held=raw["held"],
        seated_at=raw["seated_at"],
    )


def _read_capacity(raw: list[Any]) -> Capacity:
    cores, memory_bytes, gpus, max_duration_s, *tags = raw
    return Capacity(
        cores=cores, memory_bytes=memory_bytes, gpus=gpus, max_duration_s=max_duration_s, tags=frozenset(tags)
    )
