"""One queue's side of the worker: its socket, its registration, its frames.

An agent connects, says who it is and what it still holds, and is then assigned jobs (protocol 2). It renews the
leases of what runs, sends log lines and reports, and stops what the server takes back. A server that does not answer
the registration but shows its queue is an older one: then a ``Mirror`` decides what to run, over the same socket.

Nothing here waits on a job: jobs live in ``Holdings`` and survive the socket. Everything that is to be sent for them
is fetched by one task (the pump) that is woken and looks at what there is, so an order is kept: log lines of a job
before its report, and after a reconnect first what the server may not have.

Source: this project's protocol 2 (claims are leases); published worker protocol; promises P4 to P7, P9.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from asman import __version__
from asman.messages import PROTOCOL, encode, ms
from asman_worker.config import WorkerConfig
from asman_worker.executor import Assignment
from asman_worker.holdings import Holdings
from asman_worker.ledger import Free, Need
from asman_worker.link import Backoff, Connection, Disconnected, connections, socket_url
from asman_worker.mirror import Mirror
from asman_worker.outbox import Key, Report, fit_report

__all__ = ["Agent"]

_log = logging.getLogger(__name__)

_REGISTERED_WITHIN_S = 3.0
_RESEND_AFTER_S = 30.0
_TRY_LATER_S = 5.0
_RELEASED_WITHIN_S = 2.0
_STOPPED_WITHIN_S = 30.0
_ROOM_SOON_S = 10.0
_FENCE_CHECK_S = 1.0
_LEAST_REPORT_BYTES = 64 << 10
_PUBLIC_FRAME_BYTES = 1 << 20
_UNDECIDED = frozenset({"conflict", "internal_error", "rate_limited", "storage_full", "unavailable"})
"""Refusals that are about the server's moment, not about the report: it is offered again."""


@dataclass(slots=True)
class _Session:
    """What lasts as long as one connection."""

    connection: Connection
    registered: asyncio.Event = field(default_factory=asyncio.Event)
    states_seen: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    registered_at: float = 0.0
    renew_s: float = 10.0
    renewals: deque[tuple[float, dict[str, int]]] = field(default_factory=deque)
    offered: Free | None = None
    sent_reports: dict[Key, tuple[float, int]] = field(default_factory=dict)
    """When (monotonic) and as which send."""
    mirror: Mirror | None = None

    @property
    def is_ready(self) -> bool:
        """May anything but the registration be sent?"""
        return self.registered.is_set() or self.is_mirroring

    @property
    def is_mirroring(self) -> bool:
        return self.mirror is not None and self.mirror.active


class Agent:
    """Serves one queue until it is drained. ``run`` never ends by itself."""

    def __init__(
        self,
        *,
        config: WorkerConfig,
        queue: str,
        worker_id: str,
        holdings: Holdings,
        session: aiohttp.ClientSession,
        arch: str = "",
    ) -> None:
        self.queue, self.worker_id, self.holdings = queue, worker_id, holdings
        self.server = config.server
        self._config, self._http, self._arch = config, session, arch
        self._session: _Session | None = None
        self._wake = asyncio.Event()
        self._draining = False
        self._lease_s = 30.0
        self._lease_from = _now()
        self._most_report_bytes = 0
        holdings.listen(queue, self)

    # -- what holdings and the mirror see ----------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._session is not None and self._session.is_ready

    @property
    def is_draining(self) -> bool:
        """Takes no jobs: for good, or as long as there is a reason."""
        return self._draining or not self.holdings.intake.is_open

    def has_something_to_send(self) -> None:
        self._wake.set()

    async def send(self, kind: str, payload: dict[str, Any]) -> None:
        """Send over the present connection. Errors: Disconnected."""
        if self._session is None:
            raise Disconnected("not connected")
        await self._session.connection.send(kind, payload)

    def assignment(self, job_id: str, attempt: int, definition: Mapping[str, Any]) -> Assignment:
        return Assignment(
            queue=self.queue, job_id=job_id, attempt=attempt, definition=definition, server_url=self.server
        )

    # -- the connection ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Stay connected and serve; a fault while serving costs the connection, never the jobs."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._fence())
            backoff = Backoff()
            async for connection in connections(self._http, socket_url(self.server, self.queue), backoff=backoff):
                try:
                    await self._serve(connection)
                except Exception:
                    _log.exception("a fault in serving the queue; connecting again", extra={"queue": self.queue})
                    backoff.calm_down()

    async def _serve(self, connection: Connection) -> None:
        self._session = session = _Session(connection)
        session.mirror = mirror = Mirror(self)
        try:
            await self.register()
            async with asyncio.TaskGroup() as tasks:
                for part in (
                    self._read(session),
                    connection.keep_alive(),
                    self._pump(session),
                    self._renew(session),
                    self._fall_back(session, mirror),
                ):
                    tasks.create_task(part)
        except* Disconnected:
            pass
        finally:
            self._session = None
            for log in self.holdings.logs(self.queue).values():
                log.rewind(repeat=not session.is_mirroring)
            await connection.close()
            if connection.close_code == 1009:
                self._send_shorter()

    async def register(self) -> None:
        """Say who this is. Repeating it is harmless. Errors: Disconnected."""
        session = self._session
        if session is None:
            raise Disconnected("not connected")
        session.registered_at = _now()
        await session.connection.send("WorkerRegistration", self._registration(session))

    def _registration(self, session: _Session) -> dict[str, Any]:
        grant = self.holdings.grant
        cores = _whole_if_it_is(grant.cores)
        registration: dict[str, Any] = {
            "time": ms(time.time()),
            "version": __version__,
            "id": self.worker_id,
            "cpus": cores,
            "gpus": len(grant.gpus),
            "maxJobDuration": self._config.max_job_duration,
            "protocol": PROTOCOL,
            "capacity": {
                "cpus": cores,
                "memory_bytes": grant.memory_bytes,
                "gpus": [{"uuid": g.device_id, "model": g.model, "memory_bytes": g.memory_bytes} for g in grant.gpus],
                "tags": sorted(grant.tags),
                "max_duration_s": grant.max_duration_s,
                "arch": self._arch,
            },
        }
        if self._config.name:
            registration["name"] = self._config.name
        return registration if session.is_mirroring else registration | {"holding": self.holdings.holding(self.queue)}

    async def _read(self, session: _Session) -> None:
        async for kind, payload in session.connection.messages():
            try:
                await self._handle(session, kind, payload)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                _log.warning("a message cannot be understood", extra={"type": kind, "reason": repr(error)})
        raise Disconnected("closed")

    async def _handle(self, session: _Session, kind: str, payload: dict[str, Any]) -> None:
        match kind:
            case "PONG":
                await self._on_pong(session, payload["id"])
            case "Registered":
                await self._on_registered(session, payload)
            case "Assign":
                self._on_assign(payload)
            case "Renewed":
                self._on_renewed(session, payload)
            case "Revoke":
                self._on_revoke(payload)
            case "Ack":
                await self._on_ack(session, payload)
            case "Released":
                session.released.set()
            case "JobStates" | "JobStateUpdates" | "BroadcastJobDefinitions":
                await self._on_mirrored(session, kind, payload)
            case "StatusRequest":
                await session.connection.send("WorkerStatusResponse", self._status())
            case "ClearJobCache":
                self._on_clear(session, payload)
            case "Error":
                self._on_error(session, payload)

    # -- registration ------------------------------------------------------------------------------------------------

    async def _on_pong(self, session: _Session, known_as: str) -> None:
        for key, log in self.holdings.logs(self.queue).items():
            if log.confirm(session.connection.confirmed) and self.holdings.get(key) is not None:
                self.holdings.shelf.note_progress(key, log.progress)
        if session.registered.is_set():
            await self._settle_unnumbered(session)
        self._wake.set()
        if known_as and known_as != self.worker_id:
            await self.register()

    async def _settle_unnumbered(self, session: _Session) -> None:
        """Reports of jobs that were taken from an older server carry no attempt, so no Ack comes for them: that they
        have arrived is all there is to know."""
        for report in self.holdings.outbox.pending(self.queue):
            _, number = session.sent_reports.get(report.key, (0.0, sys.maxsize))
            if report.protocol < 2 and number <= session.connection.confirmed:
                await self.holdings.answered(report.key)

    async def _on_registered(self, session: _Session, payload: dict[str, Any]) -> None:
        if session.is_mirroring:
            _log.info("the server assigns work after all; connecting again", extra={"queue": self.queue})
            await session.connection.close()
            return
        self._lease_s = float(payload.get("lease_s", self._lease_s))
        session.renew_s = float(payload.get("renew_s", session.renew_s))
        self._lease_from = session.registered_at
        for job_id in payload.get("lost") or ():
            held = self.holdings.of(self.queue).get(job_id)
            if held is not None:
                self.holdings.stop(held, "the server has given the job to somebody else", lease_lost=True)
        if not session.registered.is_set():
            _log.info("registered", extra={"queue": self.queue, "adopted": len(payload.get("adopted") or ())})
        session.offered = None
        session.registered.set()
        self._wake.set()

    async def _fall_back(self, session: _Session, mirror: Mirror) -> None:
        """Wait for ``Registered``; without it, but with the queue's states, act as an older worker."""
        try:
            async with asyncio.timeout(_REGISTERED_WITHIN_S):
                await session.registered.wait()
            return
        except TimeoutError:
            await _first_of(session.registered, session.states_seen)
        if not session.registered.is_set():
            _log.info("the server is an older one: mirroring the queue", extra={"queue": self.queue})
            self._wake.set()
            await mirror.run()

    async def _on_mirrored(self, session: _Session, kind: str, payload: dict[str, Any]) -> None:
        if session.mirror is None or session.registered.is_set():
            return
        if kind == "BroadcastJobDefinitions":
            session.mirror.take_definitions(payload["definitions"])
            return
        await session.mirror.take_states(payload["state"]["jobs"], is_subset=kind == "JobStateUpdates")
        if kind == "JobStates":
            session.states_seen.set()

    # -- assigned work -----------------------------------------------------------------------------------------------

    def _on_assign(self, payload: dict[str, Any]) -> None:
        definition = payload["definition"]
        given = self.assignment(payload["jobId"], int(payload["attempt"]), definition if definition else {})
        key = (given.queue, given.job_id, given.attempt)
        if self.holdings.get(key) is not None or key in self.holdings.outbox:
            return
        older = self.holdings.of(self.queue).get(given.job_id)
        if older is not None:
            self.holdings.stop(older, "the job was assigned anew")
        need = self.holdings.need_of(given.definition)
        if self.holdings.ledger.has_room(need) and not self.is_draining:
            self.holdings.start(given, protocol=2, need=need)
        else:
            self.holdings.spawn(self._start_soon_or_hand_back(given, need))

    async def _start_soon_or_hand_back(self, given: Assignment, need: Need) -> None:
        """Two queues were offered the same room, or the room is still being cleared."""
        deadline = _now() + _ROOM_SOON_S
        while self.holdings.is_stopping_some and not self.is_draining:
            if self.holdings.ledger.has_room(need):
                break
            self.holdings.changed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self.holdings.changed.wait()
            except TimeoutError:
                break
        if self.holdings.ledger.has_room(need) and not self.is_draining:
            self.holdings.start(given, protocol=2, need=need)
            return
        _log.info("job handed back: no room", extra={"job": given.job_id, "queue": self.queue})
        self.holdings.turns.missed(self.queue)
        await self._send_if_open("Goodbye", {"jobs": {given.job_id: given.attempt}})
        if self._session is not None:
            self._session.offered = None
        self._wake.set()

    async def _send_if_open(self, kind: str, payload: dict[str, Any]) -> bool:
        try:
            await self.send(kind, payload)
        except Disconnected:
            return False
        return True

    def _on_revoke(self, payload: dict[str, Any]) -> None:
        held = self.holdings.get((self.queue, payload["jobId"], int(payload["attempt"])))
        if held is not None:
            self.holdings.stop(held, str(payload.get("reason", "revoked")))

    def _on_clear(self, session: _Session, payload: dict[str, Any]) -> None:
        """An older server says it instead of a Revoke; a newer one sends both, and the Revoke names the attempt."""
        held = self.holdings.of(self.queue).get(payload["jobId"])
        if held is not None and session.is_mirroring:
            self.holdings.stop(held, "the job was deleted")

    async def _on_ack(self, session: _Session, payload: dict[str, Any]) -> None:
        report = self.holdings.outbox.find(self.queue, payload["jobId"])
        if report is None or (report.protocol >= 2 and payload.get("attempt") != report.attempt):
            return
        if not payload.get("accepted") and payload.get("code") in _UNDECIDED:
            _log.warning("the server cannot take a report now", extra=_reasons(report, payload))
            session.sent_reports[report.key] = (_now() - _RESEND_AFTER_S + _TRY_LATER_S, 0)
            return
        if not payload.get("accepted"):
            _log.warning("the server refused a report", extra=_reasons(report, payload))
        await self.holdings.answered(report.key)

    def _on_error(self, session: _Session, payload: dict[str, Any]) -> None:
        _log.warning(
            "the server objects",
            extra={"code": payload.get("code"), "reason": payload.get("error"), "ref": payload.get("ref")},
        )
        if payload.get("code") == "limit_exceeded" and session.sent_reports:
            self._send_shorter()
            session.sent_reports.clear()
            self._wake.set()

    def _send_shorter(self) -> None:
        """A frame was too long for the server, and only reports can be: cut their logs, further each time."""
        most = self._most_report_bytes
        self._most_report_bytes = max(most // 2, _LEAST_REPORT_BYTES) if most else _PUBLIC_FRAME_BYTES * 9 // 10
        _log.warning("reports are cut to what the server takes", extra={"max_bytes": self._most_report_bytes})

    # -- leases ------------------------------------------------------------------------------------------------------

    async def _renew(self, session: _Session) -> None:
        await session.registered.wait()
        while True:
            await asyncio.sleep(session.renew_s)
            jobs = self.holdings.holding(self.queue)
            if jobs:
                session.renewals.append((_now(), jobs))
                await session.connection.send("Renew", {"jobs": jobs})

    def _on_renewed(self, session: _Session, payload: dict[str, Any]) -> None:
        if not session.renewals:
            return
        self._lease_from, asked = session.renewals.popleft()
        for job_id in payload.get("lost") or ():
            held = self.holdings.of(self.queue).get(job_id)
            if held is not None and asked.get(job_id) == held.assignment.attempt:
                self.holdings.stop(held, "the lease is lost", lease_lost=True)

    async def _fence(self) -> None:
        """Under ``--on-lease-lost kill``: end jobs when their lease is over by our own clock.

        Counted from when the last acknowledged renewal was *sent*, so that it is never later than the server's end.
        """
        while self._config.on_lease_lost == "kill":
            await asyncio.sleep(_FENCE_CHECK_S)
            now = _now()
            for held in self.holdings.of(self.queue).values():
                if held.protocol >= 2 and now > max(self._lease_from, held.taken_at) + self._lease_s:
                    self.holdings.stop(held, "the lease is over and the server is out of reach", lease_lost=True)

    # -- sending -----------------------------------------------------------------------------------------------------

    async def _pump(self, session: _Session) -> None:
        """Send what there is whenever somebody says that there is something, and look again now and then."""
        while True:
            self._wake.clear()
            if session.is_ready:
                await self._send_logs(session)
                await self._send_reports(session)
                await self._send_offer(session)
            try:
                async with asyncio.timeout(_FENCE_CHECK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _send_logs(self, session: _Session) -> None:
        for key, log in self.holdings.logs(self.queue).items():
            while (batch := log.take()) is not None:
                payload: dict[str, Any] = {"jobId": key[1], "step": batch.step, "logs": batch.lines}
                if session.registered.is_set():
                    payload |= {"attempt": key[2], "seq": batch.seq}
                    if batch.began is not None:
                        payload["began"] = batch.began
                elif not batch.lines:  # servers of the published protocol hear of lines only
                    batch.number = 0
                    continue
                batch.number = await session.connection.send("JobStatusLogs", payload)
                if log.is_held_up:
                    await session.connection.ping()

    async def _send_reports(self, session: _Session) -> None:
        """Reports that this connection has not carried, or not lately; each after the last line of its log."""
        logs = self.holdings.logs(self.queue)
        for report in self.holdings.outbox.pending(self.queue):
            waits = report.key in logs and not logs[report.key].is_empty
            if session.is_mirroring and session.mirror is not None and not session.mirror.wants(report):
                await self.holdings.answered(report.key)
                continue
            sent = session.sent_reports.get(report.key)
            if waits or (sent is not None and _now() - sent[0] < _RESEND_AFTER_S):
                continue
            session.sent_reports[report.key] = (_now(), sys.maxsize)
            number = await session.connection.send("StateChange", self._fitted(report))
            session.sent_reports[report.key] = (_now(), number)

    def _fitted(self, report: Report) -> dict[str, Any]:
        payload = report.payload()
        if not self._most_report_bytes:
            return payload
        fitted = fit_report(payload, self._most_report_bytes)
        if len(encode(fitted)) > self._most_report_bytes:
            _log.error("a report is longer than the server takes", extra={"job": report.job_id})
        return fitted

    async def _send_offer(self, session: _Session) -> None:
        """Say what is free, if that has changed since it was said last."""
        if not session.registered.is_set():
            return
        free = self.offer()
        if free != session.offered:
            session.offered = free
            payload = {
                "cpus": _whole_if_it_is(free.cores),
                "memory_bytes": free.memory_bytes,
                "gpus": free.gpus,
                "jobs": free.jobs,
            }
            await session.connection.send("Ready", payload)

    def offer(self) -> Free:
        """What this queue may have now; no jobs while draining or while another queue has its turn alone."""
        free = self.holdings.ledger.free
        welcome = not self.is_draining and self.holdings.turns.may_offer(self.queue)
        return free if welcome else Free(cores=free.cores, memory_bytes=free.memory_bytes, gpus=free.gpus, jobs=0)

    def _status(self) -> dict[str, Any]:
        running = {
            job_id: {"jobId": job_id, "attempt": held.assignment.attempt, "finished": False}
            for job_id, held in self.holdings.of(self.queue).items()
        }
        grant = self.holdings.grant
        return {
            "time": ms(time.time()),
            "id": self.worker_id,
            "cpus": _whole_if_it_is(grant.cores),
            "gpus": len(grant.gpus),
            "maxJobDuration": self._config.max_job_duration,
            "queue": running,
        }

    # -- leaving -----------------------------------------------------------------------------------------------------

    def stop_taking(self) -> None:
        """Take no more work; what runs goes on."""
        self._draining = True
        self._wake.set()

    async def hand_back(self) -> None:
        """Give running jobs back to the server, then end them here; an unreachable server finds out by their leases."""
        running = list(self.holdings.of(self.queue).values())
        jobs = {held.assignment.job_id: held.assignment.attempt for held in running if held.protocol >= 2}
        session = self._session
        if jobs and session is not None and session.registered.is_set():
            session.released.clear()
            if await self._send_if_open("Goodbye", {"jobs": jobs}):
                await _within(_RELEASED_WITHIN_S, session.released)
        for held in running:
            self.holdings.stop(held, "handed back: the worker stops")
        try:
            async with asyncio.timeout(_STOPPED_WITHIN_S):
                await asyncio.gather(*(held.ended.wait() for held in running))
        except TimeoutError:
            _log.error("containers could not be ended in time; the next start removes them")


def _now() -> float:
    return asyncio.get_running_loop().time()


def _whole_if_it_is(number: float) -> float | int:
    """Older peers know whole numbers of cores only; show them as such where they are."""
    return int(number) if float(number).is_integer() else number


def _reasons(report: Report, payload: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "job": report.job_id,
        "attempt": report.attempt,
        "code": payload.get("code"),
        "reason": payload.get("error"),
    }


async def _within(limit_s: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(limit_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def _first_of(*events: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
