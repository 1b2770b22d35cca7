"""Serving an older server: the queue is mirrored here, and this worker decides what to run.

Such a server shows every worker its whole queue and lets each announce what it runs; nobody is assigned anything and
there are no leases. So the rules are here: oldest first among what fits and is free; of two workers with one job the
id that sorts first keeps it; a job that has left the queue is stopped, after a while in which the server may still
change its mind. A report counts as taken when the server shows the job as finished, or no longer at all.

Source: published worker protocol, "Picking jobs", "Reconciling held jobs" and "Collisions between workers".
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from asman.matching import is_preferred
from asman.messages import ms
from asman_worker.holdings import HeldJob
from asman_worker.ledger import can_ever_run
from asman_worker.link import Disconnected
from asman_worker.outbox import Report

if TYPE_CHECKING:
    from asman_worker.agent import Agent

__all__ = ["Mirror"]

_log = logging.getLogger(__name__)

_TICK_S = 1.0
_REGISTER_EVERY_S = 10.0
_DOUBT_S = 6.0
"""How long a job that seems lost to us is kept, because lists arrive late and out of step."""
_JITTER_S = 0.25
_DEFINITIONS_KEPT = 1000
_ASK_AGAIN_S = 11.0
_LOOK_AHEAD = 16
"""How many of the longest waiting jobs are looked at, so that a long queue costs no more than a short one."""


class Mirror:
    """One connection's view of the queue. ``active`` once it is known that the server is an older one."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.active = False
        self._states: dict[str, Mapping[str, Any]] = {}
        self._has_list = False
        self._definitions: dict[str, Mapping[str, Any]] = {}
        self._asked_at: dict[str, float] = {}
        self._doubted_since: dict[str, float] = {}
        self._changed = asyncio.Event()

    # -- what the server says ------------------------------------------------------------------------------------------

    async def take_states(self, jobs: Mapping[str, Mapping[str, Any]], *, is_subset: bool) -> None:
        """A whole list replaces the mirror, a part is merged into it."""
        if is_subset:
            self._states.update(jobs)
        else:
            self._states, self._has_list = dict(jobs), True
        self._changed.set()
        self._agent.has_something_to_send()

    def take_definitions(self, definitions: Mapping[str, Mapping[str, Any]]) -> None:
        self._definitions.update(definitions)
        while len(self._definitions) > _DEFINITIONS_KEPT:
            del self._definitions[next(iter(self._definitions))]
        self._changed.set()

    def wants(self, report: Report) -> bool:
        """May the report still count? Not once the job has finished, has left, or is another worker's by the rule."""
        if not self._has_list:
            return True
        record = self._states.get(report.job_id)
        if record is None or record.get("state") not in ("Queued", "Running"):
            return False
        return not self._is_lost_to_another(record)

    # -- what this worker does -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Mirror until the connection ends. Errors: Disconnected."""
        self.active = True
        loop = asyncio.get_running_loop()
        register_at = loop.time() + _REGISTER_EVERY_S
        for held in self._held().values():
            await self._announce(held)
        while True:
            self._changed.clear()
            if loop.time() >= register_at:
                register_at = loop.time() + _REGISTER_EVERY_S
                await self._agent.register()
            await self._look_after_held(loop.time())
            await self._take_more(loop.time())
            try:
                async with asyncio.timeout(_TICK_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _held(self) -> dict[str, HeldJob]:
        return self._agent.holdings.of(self._agent.queue)

    def _is_lost_to_another(self, record: Mapping[str, Any]) -> bool:
        other = str(record.get("worker") or "")
        running_elsewhere = record.get("state") == "Running" and other not in ("", self._agent.worker_id)
        return running_elsewhere and is_preferred(other, self._agent.worker_id)

    async def _announce(self, held: HeldJob) -> None:
        worker = self._agent.worker_id
        await self._agent.send(
            "StateChange",
            {
                "job": held.assignment.job_id,
                "tag": worker,
                "state": "Running",
                "value": {"type": "Running", "worker": worker, "time": ms(held.since)},
            },
        )

    async def _look_after_held(self, now: float) -> None:
        """Say again what the server does not know, and give up what is not ours any more."""
        held = self._held()
        for job_id in set(self._doubted_since) - set(held):
            del self._doubted_since[job_id]
        for job_id, job in held.items():
            record = self._states.get(job_id)
            gone = self._has_list and (record is None or record.get("state") not in ("Queued", "Running"))
            if gone or (record is not None and self._is_lost_to_another(record)):
                since = self._doubted_since.setdefault(job_id, now)
                if now - since >= _DOUBT_S:
                    self._agent.holdings.stop(job, "the server's queue no longer shows it as ours")
                continue
            self._doubted_since.pop(job_id, None)
            if record is not None and record.get("state") == "Queued":
                await self._announce(job)

    async def _take_more(self, now: float) -> None:
        """Start what waits, oldest first, as far as there is room; and what the server thinks we run already."""
        if self._agent.is_draining or not self._has_list or self._agent.offer().jobs <= 0:
            return
        for job_id, record in self._candidates()[:_LOOK_AHEAD]:
            definition = self._definitions.get(job_id)
            if definition is None:
                await self._ask_for(job_id, now)
                continue
            if not self._has_room_for(definition):
                continue
            if record["state"] == "Queued":
                await asyncio.sleep(random.uniform(0.0, _JITTER_S))
                if not self._is_still_free(job_id) or not self._has_room_for(definition):
                    continue
            await self._start(job_id, definition)

    def _candidates(self) -> list[tuple[str, Mapping[str, Any]]]:
        held, worker = self._held(), self._agent.worker_id
        waiting = [
            (job_id, record)
            for job_id, record in self._states.items()
            if job_id not in held
            and can_ever_run(record, self._agent.holdings.grant)
            and self._agent.holdings.outbox.find(self._agent.queue, job_id) is None
            and (
                record.get("state") == "Queued" or (record.get("state") == "Running" and record.get("worker") == worker)
            )
        ]
        return sorted(waiting, key=lambda entry: (entry[1].get("queuedTime") or 0, entry[0]))

    def _is_still_free(self, job_id: str) -> bool:
        record = self._states.get(job_id)
        return record is not None and record.get("state") == "Queued" and job_id not in self._held()

    def _has_room_for(self, definition: Mapping[str, Any]) -> bool:
        holdings = self._agent.holdings
        if not can_ever_run(definition, holdings.grant):
            return False
        return holdings.ledger.has_room(holdings.need_of(definition))

    async def _ask_for(self, job_id: str, now: float) -> None:
        if now - self._asked_at.get(job_id, -_ASK_AGAIN_S) >= _ASK_AGAIN_S:
            self._asked_at[job_id] = now
            await self._agent.send("RequestJobDefinitions", {"jobIds": [job_id]})

    async def _start(self, job_id: str, definition: Mapping[str, Any]) -> None:
        """Hold it first, then say so: a failing send costs the announcement, which is repeated, not the job."""
        holdings = self._agent.holdings
        given = self._agent.assignment(job_id, ms(time.time()), definition)
        held = holdings.start(given, protocol=1, need=holdings.need_of(definition))
        try:
            await self._announce(held)
        except Disconnected:
            _log.info("the connection ended before a job could be announced", extra={"job": job_id})
            raise
