"""The app of one Durable Object: its stores are the object's own, and its clock is the object's alarm.

Nothing runs here while nobody asks: an object that is not needed is put away, and is woken by its alarm. The alarm is
set to the moment at which the first of the queue's records is due, whenever a step makes that earlier. Where the jobs
are in the object itself, the record and the alarm are stored in one piece. With D1 it may be lost with the object
between a step and the alarm; whoever wakes the object next sets it, and the Worker's own schedule wakes those that are
overdue.

An object that begins has lost the sockets of its workers: every lease gets a full new term from then.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from asman.errors import Unavailable, clip
from asman.hookspecs import hookimpl
from asman.job import Job
from asman.maintenance import Sweeper
from asman.services import Services
from asman_cloudflare import Platform
from asman_edge.bridge import from_host
from asman_edge.host import Host

__all__ = ["Alarm", "ObjectHost", "begin", "count_hosts"]

_EVER = 1e15
"""Behind every record's time."""
_OVERDUE_S = 60.0
"""So late is only what no alarm looked after."""
_PRUNED_AFTER_S = 60.0


@runtime_checkable
class _KnowsOverdue(Protocol):
    async def overdue(self, before: float, *, limit: int = 100) -> list[str]: ...


def begin(told: str, env: Any, state: Any, queue: str, looks_after: bool, peers: Any) -> ObjectHost:
    """The host of an object, not yet started.

    Shape:  ``told`` as ``host.begin``; ``queue`` is "" for an object that is for none; ``looks_after``: its jobs are
            swept by it alone; ``peers`` are the other objects, each method a promise.
    Errors: ConfigError.
    """
    from pyodide.ffi import JsException, to_js

    async def ask(of: str, question: str) -> bytes | None:
        try:
            answer = await peers.ask(of, question)
        except JsException as error:
            raise Unavailable(f"the object of queue {clip(of)} does not answer: {error}") from error
        return None if answer is None else bytes(answer.to_bytes())

    async def tell(of: str, topic: str, data: bytes) -> None:
        try:
            await peers.hear(of, topic, to_js(data))
        except JsException as error:
            raise Unavailable(f"the object of queue {clip(of)} does not listen: {error}") from error

    alarm = Alarm(state.storage) if looks_after else None
    platform = Platform(env, state, queue, peer=ask, tell=tell, wake=alarm.due if alarm else None)
    return ObjectHost(told, to_js, alarm, platform)


def count_hosts() -> int:
    """How many hosts there are in this Python, after those that nobody needs have gone."""
    gc.collect()
    return sum(isinstance(found, ObjectHost) for found in gc.get_objects())


class ObjectHost(Host):
    """Shape: ``alarm`` wakes the object, None for one whose jobs are looked after by others."""

    def __init__(
        self,
        told: str,
        to_host: Callable[[bytes], Any],
        alarm: Alarm | None,
        *plugins: object,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._alarm = alarm
        super().__init__(told, to_host, [*plugins, *([] if alarm is None else [alarm])], clock=clock)
        self._sweeper: Sweeper | None = None

    @property
    def _services(self) -> Services:
        services: Services = self._app.extensions["asman"]
        return services

    async def _open(self) -> None:
        await super()._open()
        if self._alarm is not None:
            self._sweeper = Sweeper(services=self._services, asks=False, prunes=False)
            self._sweeper.grant_new_terms()
            await self._set_alarm()

    async def _set_alarm(self) -> None:
        """To when the first record is due. One that is due already was looked at and must wait: it is soon again."""
        assert self._alarm is not None
        for first in await self._services.jobs.due(_EVER, limit=1):
            now = self._services.clock()
            self._alarm.due(first.due_at if first.due_at > now else now + self._config.sweep_s)

    async def sweep(self) -> None:
        """Do what is due; what cannot be done yet is looked at again soon."""
        await self.start()
        if self._alarm is None or self._sweeper is None:
            return
        self._alarm.forget()
        self._sweeper.last_at = None  # it is asked when something is due, however long ago the last time was
        await self._sweeper.sweep()
        await self._sweeper.settle()
        await self._set_alarm()

    async def prune(self) -> None:
        """Remove blobs whose time is over: of all objects, as they share them."""
        await self.start()
        await self._services.blobs.prune(self._services.clock() - _PRUNED_AFTER_S)

    async def overdue(self) -> str:
        """Queues with a record that is long due. Shape: JSON text, a list."""
        await self.start()
        jobs, before = self._services.jobs, self._services.clock() - _OVERDUE_S
        return json.dumps(await jobs.overdue(before) if isinstance(jobs, _KnowsOverdue) else [])

    async def ask(self, question: str) -> Any:
        """What another object asks of a job that is kept here."""
        from asman_cloudflare.listed import answer_peer

        await self.start()
        answer = await answer_peer(self._services.jobs, question)
        return None if answer is None else self._to_host(answer)

    async def hear(self, topic: str, data: Any) -> None:
        """A message of another object, for who listens here."""
        await self.start()
        await self._services.notifier.publish(topic, from_host(data))


class Alarm:
    """When the object is woken. Shape: ``storage`` is the object's; times are in seconds since the epoch."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self._at = math.inf

    def forget(self) -> None:
        """It has gone off."""
        self._at = math.inf

    def due(self, at: float) -> None:
        """Wake the object at this time, if it is not woken sooner."""
        if at < self._at:
            self._at = at
            self._storage.setAlarm(math.ceil(at * 1000.0))

    @hookimpl
    def asman_job_changed(self, job: Job, before: Job) -> None:
        self.due(job.due_at)
