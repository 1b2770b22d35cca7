"""The jobs that this process holds, over all its queues: started, followed, stopped, and reported to the outbox.

Queues come and go with their sockets; what runs here does not. An agent starts a job here and is told when something
is to be sent for it: log lines, a report, a change of what is free. A job that is stopped (revoked, lost, cancelled)
is *silenced* first: whatever its container still does, nothing is reported for it.

The order at the end of a job is what makes a crash harmless: report on disk, then the note about the running job
removed, then the capacity given back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from asman.messages import ms
from asman_worker.executor import Assignment
from asman_worker.grant import Grant
from asman_worker.intake import Intake
from asman_worker.ledger import Ledger, Need, Turns, read_need
from asman_worker.log_stream import LogStream, Progress
from asman_worker.outbox import Key, Outbox, Report
from asman_worker.shelf import Shelf, ShelvedJob
from asman_worker.telemetry import STOPPED, Telemetry

__all__ = ["HeldJob", "Holdings", "Listener", "LogSink", "Runs"]

_log = logging.getLogger(__name__)

_STOP_LIMIT_S = 60.0
_TURN_S = 0.25
_CANCELLED = "Cancelled"
"""The reason of a job that was stopped: never reported, the server knows."""

LogSink = Callable[[str, list[list[Any]]], None]


class Runs(Protocol):
    """What carries a job out: the container half of the worker (``executor.Executor``)."""

    async def run(self, assignment: Assignment, log: LogSink) -> dict[str, Any]: ...

    async def resume(self, assignment: Assignment, log: LogSink, skip_lines: int = 0) -> dict[str, Any] | None: ...

    async def stop(self, queue: str, job_id: str, attempt: int) -> None: ...


class Listener(Protocol):
    """The agent of a queue, as far as its jobs know it. The calls must not block."""

    @property
    def is_open(self) -> bool: ...

    def has_something_to_send(self) -> None: ...


@dataclass(slots=True, kw_only=True, eq=False)
class HeldJob:
    """One attempt that runs here. Units: ``since`` in seconds since the epoch, ``taken_at`` by the monotonic clock."""

    assignment: Assignment
    protocol: int
    log: LogStream
    since: float
    taken_at: float
    silenced: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> Key:
        return self.assignment.queue, self.assignment.job_id, self.assignment.attempt


class Holdings:
    """All held jobs of one process. ``spawn`` starts a task that the process owns."""

    def __init__(
        self,
        *,
        executor: Runs,
        grant: Grant,
        outbox: Outbox,
        shelf: Shelf,
        worker_id: str,
        most_jobs: int,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        intake: Intake | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._executor, self.spawn = executor, spawn
        self._telemetry = telemetry or Telemetry()
        self.intake = intake or Intake()
        self.intake.on_change(self._tell_all)
        self.grant, self.outbox, self.shelf, self.worker_id = grant, outbox, shelf, worker_id
        self.ledger = Ledger(grant, most_jobs=most_jobs)
        self.turns = Turns(lambda queue: queue in self._listeners and self._listeners[queue].is_open)
        self._jobs: dict[Key, HeldJob] = {}
        self._ended_logs: dict[Key, LogStream] = {}
        self._listeners: dict[str, Listener] = {}
        self.changed = asyncio.Event()
        """Set whenever a job ends or a report is answered; whoever waits clears it."""

    def listen(self, queue: str, listener: Listener) -> None:
        self._listeners[queue] = listener

    # -- questions ---------------------------------------------------------------------------------------------------

    def of(self, queue: str) -> dict[str, HeldJob]:
        """Jobs of the queue that run here and are still wanted, by job id; the newest attempt of each."""
        found = [held for key, held in self._jobs.items() if key[0] == queue and not held.silenced]
        return {held.assignment.job_id: held for held in sorted(found, key=lambda h: h.assignment.attempt)}

    def get(self, key: Key) -> HeldJob | None:
        return self._jobs.get(key)

    @property
    def keys(self) -> set[Key]:
        return set(self._jobs)

    @property
    def is_stopping_some(self) -> bool:
        """Will capacity become free in a moment?"""
        return any(held.silenced for held in self._jobs.values())

    def holding(self, queue: str) -> dict[str, int]:
        """What a server must know that this worker has: running jobs, and those whose report it has not answered."""
        reported = {r.job_id: r.attempt for r in self.outbox.pending(queue) if r.protocol >= 2}
        running = {job_id: h.assignment.attempt for job_id, h in self.of(queue).items() if h.protocol >= 2}
        return reported | running

    def logs(self, queue: str) -> dict[Key, LogStream]:
        """Streams of a queue's jobs: those that run, and those whose report waits for its last lines."""
        ended = {key: log for key, log in self._ended_logs.items() if key[0] == queue}
        return ended | {key: h.log for key, h in self._jobs.items() if key[0] == queue and not h.silenced}

    def unsent(self, queues: Iterable[str]) -> int:
        """How many reports of these queues the server has not answered."""
        return sum(len(self.outbox.pending(queue)) for queue in queues)

    def need_of(self, definition: Mapping[str, Any]) -> Need:
        return read_need(definition, self.grant)

    # -- starting ----------------------------------------------------------------------------------------------------

    def start(self, assignment: Assignment, *, protocol: int, need: Need) -> HeldJob:
        """Take a job and carry it out in a task of its own."""
        held = HeldJob(
            assignment=assignment,
            protocol=protocol,
            log=LogStream(),
            since=time.time(),
            taken_at=asyncio.get_running_loop().time(),
        )
        _log.info("job taken", extra=_fields(held))
        self._telemetry.job_taken()
        others = tuple(queue for queue in self._listeners if queue != assignment.queue)
        self.turns.took(assignment.queue, others)
        self._enter(held, need, self._begin(held))
        if self.ledger.free.jobs:
            self._pass_turn()
        return held

    def resume(self, shelved: ShelvedJob, *, server_url: str) -> HeldJob:
        """Follow a container that an earlier process of this worker has started."""
        progress = self.shelf.progress(shelved.key)
        held = HeldJob(
            assignment=Assignment(
                queue=shelved.queue,
                job_id=shelved.job_id,
                attempt=shelved.attempt,
                definition=shelved.definition,
                server_url=server_url,
            ),
            protocol=shelved.protocol,
            log=LogStream(start=progress),
            since=shelved.since,
            taken_at=asyncio.get_running_loop().time(),
        )
        _log.info("job taken up again", extra=_fields(held))
        self._enter(held, self.need_of(shelved.definition), self._take_up(held, progress))
        return held

    def _enter(self, held: HeldJob, need: Need, work: Coroutine[Any, Any, dict[str, Any]]) -> None:
        self._jobs[held.key] = held
        self.ledger.reserve(held.key, need)
        self.spawn(self._carry(held, work))
        self._tell_all()

    async def _begin(self, held: HeldJob) -> dict[str, Any]:
        queue, job_id, attempt = held.key
        definition = held.assignment.definition
        await self.shelf.put(
            ShelvedJob(
                queue=queue,
                job_id=job_id,
                attempt=attempt,
                protocol=held.protocol,
                since=held.since,
                definition=definition,
            )
        )
        return await self._executor.run(held.assignment, self._sink(held))

    async def _take_up(self, held: HeldJob, progress: Progress) -> dict[str, Any]:
        sink = self._sink(held)
        value = await self._executor.resume(held.assignment, sink, progress.container_lines)
        return value if value is not None else await self._executor.run(held.assignment, sink)

    def _sink(self, held: HeldJob) -> LogSink:
        def log(step: str, lines: list[list[Any]]) -> None:
            if not held.silenced:
                held.log.add(step, lines)
                self._tell(held.assignment.queue)

        return log

    async def _carry(self, held: HeldJob, work: Coroutine[Any, Any, dict[str, Any]]) -> None:
        """From start to report. A fault of ours is reported like a fault of the job: the submitter must hear of it."""
        try:
            value = await work
        except Exception as error:
            _log.exception("a job ended with a fault of the worker", extra=_fields(held))
            value = _fault(error)
        is_reported = not held.silenced and value.get("reason") != _CANCELLED
        if is_reported:
            await self._report(held, value)
        self._count_end(held, value if is_reported else {"outcome": STOPPED})
        self._leave(held)

    def _count_end(self, held: HeldJob, value: Mapping[str, Any]) -> None:
        self._telemetry.job_ended(str(value.get("outcome")), asyncio.get_running_loop().time() - held.taken_at)
        self._telemetry.log_dropped((value.get("result") or {}).get("logsDropped", 0))

    async def _report(self, held: HeldJob, value: Mapping[str, Any]) -> None:
        queue, job_id, attempt = held.key
        _log.info("job ended", extra={**_fields(held), "outcome": value.get("outcome", value.get("reason"))})
        full = {"type": "Finished", "worker": self.worker_id, "time": ms(time.time()), **value}
        self._ended_logs[held.key] = held.log
        await self.outbox.put(
            Report(
                queue=queue,
                job_id=job_id,
                attempt=attempt,
                protocol=held.protocol,
                worker=self.worker_id,
                value=full,
            )
        )

    def _leave(self, held: HeldJob) -> None:
        self.shelf.remove(held.key)
        self._jobs.pop(held.key, None)
        self.ledger.release(held.key)
        held.ended.set()
        self.changed.set()
        self._pass_turn()
        self._tell_all()

    # -- ending ------------------------------------------------------------------------------------------------------

    def stop(self, held: HeldJob, why: str, *, lease_lost: bool = False) -> None:
        """End a job and report nothing. Repeating it is harmless; ``held.ended`` is set when all is gone."""
        if held.silenced:
            return
        held.silenced = True
        if lease_lost:
            self._telemetry.lease_lost()
        _log.info("job stopped", extra={**_fields(held), "reason": why})
        self.spawn(self._end(held))

    async def _end(self, held: HeldJob) -> None:
        try:
            async with asyncio.timeout(_STOP_LIMIT_S):
                await self._executor.stop(*held.key)
                await held.ended.wait()
        except Exception as error:
            _log.error("a job could not be stopped in good order", extra={**_fields(held), "reason": repr(error)})

    async def answered(self, key: Key) -> None:
        """The server has taken or refused a report: nothing more is kept of the attempt."""
        self._ended_logs.pop(key, None)
        await self.outbox.remove(key)
        self.changed.set()

    # -- telling agents ----------------------------------------------------------------------------------------------

    def _tell(self, queue: str) -> None:
        if queue in self._listeners:
            self._listeners[queue].has_something_to_send()

    def _tell_all(self) -> None:
        for listener in self._listeners.values():
            listener.has_something_to_send()

    def _pass_turn(self) -> None:
        """Something became free: who missed a chance is offered it alone for a moment, then everybody is."""
        queue = self.turns.next()
        if queue is not None:
            asyncio.get_running_loop().call_later(_TURN_S, self._turn_over, queue)

    def _turn_over(self, queue: str) -> None:
        self.turns.lapse(queue)
        self._pass_turn()
        self._tell_all()


def _fault(error: Exception) -> dict[str, Any]:
    text = f"the worker failed: {type(error).__name__}: {error}"
    result = {"logs": [[f"{text}\n", ms(time.time()), True]], "error": text, "isTimedOut": False, "outputs": {}}
    return {"reason": "Error", "outcome": "error", "result": result}


def _fields(held: HeldJob) -> dict[str, Any]:
    queue, job_id, attempt = held.key
    return {"job": job_id, "queue": queue, "attempt": attempt}
