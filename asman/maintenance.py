"""What time does to jobs: leases lapse, replacements fall due, listings end, data expires, callbacks go out.

One index answers "what is due"; each due record gets the one step that its clock asks for. Nothing here is needed
for a read to be right (expiry and listing are decided again on access), so a host without background tasks may
call ``sweep`` whenever it likes.

A server that was asleep does not punish workers for it: after a start, or when it notices that it was stopped for
longer than a few seconds, every lease gets a full new term before it counts as lapsed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from asman.abc import Delivery, SupportsLeading
from asman.errors import AsmanError, Conflict, Unavailable, Unprocessable
from asman.job import Callback, Job, Reason, State
from asman.messages import encode
from asman.operations import replace_now, rescue, step
from asman.services import Services
from asman.state import CallbackTried, Expired, Unlisted

__all__ = ["Sweeper", "backoff_s", "run", "sweep"]

_log = logging.getLogger(__name__)

_BATCH = 200
_PAUSE_NOTICED_S = 5.0
_MARK_KEPT_S = 86_400.0
"""How long an expired job is still answered with "expired" instead of "not found"."""
_DELIVER_FOR_S = 86_400.0
_DELIVERIES_AT_ONCE = 64
_DELIVERIES_TO_ONE = 16
"""So that a receiver that never answers leaves room for the others."""


def backoff_s(tries: int, chance: float) -> float:
    """Wait before the next try of a callback: doubling from 2 s to an hour, spread by ``chance`` in [0, 1)."""
    return min(2.0 * 2.0**tries, 3600.0) * (0.5 + chance / 2)


@dataclass(slots=True)
class Sweeper:
    """Keeps what a sweep must remember between calls. Shape: ``not_before`` is the earliest lapse of any lease."""

    services: Services
    not_before: float = 0.0
    holder: str = ""
    asks: bool = True
    """Only sweep while no other server does."""
    prunes: bool = True
    """Blobs too: False where somebody else removes those that have expired."""
    last_at: float | None = None
    _blobs_at: float = 0.0
    _delivering: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    _busy: Counter[str] = field(default_factory=Counter)

    def grant_new_terms(self) -> None:
        """Every live lease gets a full term from now."""
        self.not_before = self.services.clock() + self.services.config.lease_s

    def notice_pause(self, now: float) -> None:
        gap_s = now - self.last_at if self.last_at is not None else 0.0
        if gap_s > self.services.config.sweep_s + _PAUSE_NOTICED_S:
            _log.warning("the server was stopped for a while; leases are extended", extra={"pause_s": gap_s})
            self.grant_new_terms()
        self.last_at = now

    async def sweep(self) -> int:
        """Do everything that is due, in batches, and answer how many steps that took."""
        now, steps = self.services.clock(), 0
        if not await self._leads():
            self.last_at = None
            return 0
        self.notice_pause(now)
        limit, is_first = _BATCH, True
        while True:
            due = await self.services.jobs.due(now, limit=limit)
            if is_first and self.services.meters is not None:
                self.services.meters.swept(max(now - due[0].due_at, 0.0) if due else 0.0)
            is_first = False
            acted = [await self._look_after(job, now) for job in due]
            steps += sum(acted)
            if len(due) < limit:
                break
            if sum(acted) * 2 < len(due):  # most wait for a delivery or a new term: look behind them
                limit *= 4
        await self._prune_blobs(now)
        return steps

    async def _leads(self) -> bool:
        """Of many servers one does maintenance, so that nothing is delivered twice. It is whoever asks when the last
        one has been silent for a while; if that was long, nobody could renew a lease either, and all get a new term.
        """
        jobs, sweep_s = self.services.jobs, self.services.config.sweep_s
        if not self.asks or not isinstance(jobs, SupportsLeading):
            return True
        self.holder = self.holder or self.services.random_id()
        silent_s = await jobs.lead("maintenance", self.holder, 2 * sweep_s + 1.0)
        if silent_s is not None and silent_s > sweep_s + _PAUSE_NOTICED_S:
            self.grant_new_terms()
        return silent_s is not None

    async def _look_after(self, job: Job, now: float) -> bool:
        """The one step that is due for this record; False if none can be taken now."""
        services = self.services
        try:
            if job.expires_at <= now:
                return await _expire(services, job, now)
            if job.state is State.RUNNING and job.lease_until is not None and job.lease_until <= now:
                if now < self.not_before:
                    return False
                await rescue(services, job)
                return True
            if any(at <= now for _, at in job.replacements):
                await _replace_due(services, job, now)
                return True
            if job.state is State.FINISHED and job.listed_until is not None and job.listed_until <= now:
                await step(services, job.queue, job.job_id, Unlisted(at=now))
                return True
            return self._deliver_due(job, now)
        except Conflict:
            return True  # somebody else took a step; the next look decides anew

    def _deliver_due(self, job: Job, now: float) -> bool:
        """Start what is owed, beside the sweep: a receiver that hangs delays nobody else."""
        owed = [c for c in job.callbacks if c.due_at is not None and c.due_at <= now]
        for callback in owed:
            receiver = callback.url.split("/", 3)[2]
            is_free = self._busy[receiver] < _DELIVERIES_TO_ONE and len(self._delivering) < _DELIVERIES_AT_ONCE
            if is_free and callback.event_id not in self._delivering:
                task = asyncio.ensure_future(_deliver(self.services, job, callback))
                self._delivering[callback.event_id] = task
                self._busy[receiver] += 1
                task.add_done_callback(partial(self._delivered, callback.event_id, receiver))
        return False

    def _delivered(self, event_id: str, receiver: str, _: asyncio.Future[None]) -> None:
        self._delivering.pop(event_id, None)
        self._busy[receiver] -= 1
        if not self._busy[receiver]:
            del self._busy[receiver]

    async def settle(self) -> None:
        """Wait until the deliveries that have been started are over (each is bounded by its deliverer)."""
        while self._delivering:
            await asyncio.gather(*self._delivering.values(), return_exceptions=True)

    async def stop(self) -> None:
        """Give up the deliveries under way; they are owed still and are made after the next start."""
        for task in list(self._delivering.values()):
            task.cancel()
        await self.settle()

    async def _prune_blobs(self, now: float) -> None:
        if not self.prunes or now - self._blobs_at < 60.0:
            return
        self._blobs_at = now
        await self.services.blobs.prune(now - 60.0)


async def _expire(services: Services, job: Job, now: float) -> bool:
    if job.forgotten or job.reason is Reason.DELETED:
        await services.jobs.delete(job.queue, job.job_id, expected=job.version)
    else:
        await step(services, job.queue, job.job_id, Expired(at=now, forget_at=now + _MARK_KEPT_S))
    return True


async def _replace_due(services: Services, job: Job, now: float) -> None:
    """A replacement that was put off: take it if a newer job of the namespace is still there."""
    for namespace, at in job.replacements:
        if at > now:
            continue
        mine = dict(job.namespaces).get(namespace, job.queued_at)
        rivals = await services.jobs.in_namespace(job.queue, namespace)
        newer = any(r.job_id != job.job_id and dict(r.namespaces).get(namespace, 0.0) > mine for r in rivals)
        await replace_now(services, job, namespace, now, still_superseded=newer)


async def _deliver(services: Services, job: Job, callback: Callback) -> None:
    now = services.clock()
    due_at = None if await _try(services, job, callback, now) else now + backoff_s(callback.tries, random.random())
    began = _callback_began(job, callback)
    if due_at is not None and due_at - began > _DELIVER_FOR_S:
        _log.warning("a callback is given up", extra={"job": job.job_id, "event": callback.event})
        due_at = None
    try:
        await step(services, job.queue, job.job_id, CallbackTried(at=now, event_id=callback.event_id, due_at=due_at))
    except Conflict:
        return


def _callback_began(job: Job, callback: Callback) -> float:
    """When the callback first fell due."""
    if callback.event == "finished" and job.finished_at is not None:
        return job.finished_at
    return dict(job.namespaces).get(callback.namespace, job.queued_at)


async def _try(services: Services, job: Job, callback: Callback, now: float) -> bool:
    """One attempt. True when it is settled: taken, or never to work."""
    if services.deliverer is None:
        return True
    delivery = Delivery(event_id=callback.event_id, url=callback.url, body=_body(job, callback), sent_at=now)
    try:
        return await services.deliverer.deliver(delivery)
    except Unprocessable as error:
        _log.warning("a callback address is refused", extra={"job": job.job_id, "reason": error.message})
        return True
    except AsmanError as error:
        _log.info("a callback failed", extra={"job": job.job_id, "reason": error.message})
        return False
    except Exception:
        _log.exception("the deliverer has a fault; the callback is tried again later", extra={"job": job.job_id})
        return False


def _body(job: Job, callback: Callback) -> bytes:
    body = {
        "jobId": job.job_id,
        "queue": job.queue,
        "namespace": callback.namespace,
        "config": json.loads(callback.payload),
        "event": callback.event,
        "eventId": callback.event_id,
        "sequence": job.generation,
        "state": "Finished" if callback.event == "finished" else "Queued",
    }
    if callback.event == "finished":
        body["finishedReason"] = job.reason.value if job.reason else None
        body["outcome"] = job.outcome.value if job.outcome else None
        body["exitCode"] = job.exit_code
    return encode(body)


async def sweep(services: Services) -> int:
    """One sweep for hosts that call when they like, its deliveries included; leases count as they stand."""
    sweeper = Sweeper(services=services, asks=False)
    steps = await sweeper.sweep()
    await sweeper.settle()
    return steps


async def run(services: Services, stop: asyncio.Event) -> None:
    """Sweep every ``sweep_s`` until ``stop`` is set. What fails is logged and tried again with the next sweep."""
    sweeper = Sweeper(services=services)
    if not isinstance(services.jobs, SupportsLeading):
        sweeper.grant_new_terms()
    while not stop.is_set():
        try:
            await sweeper.sweep()
        except Unavailable as error:
            _log.warning("a sweep is put off", extra={"reason": error.message})
        except Exception:
            _log.exception("a sweep failed; it is repeated")
        try:
            await asyncio.wait_for(stop.wait(), services.config.sweep_s)
        except TimeoutError:
            continue
    await sweeper.stop()
