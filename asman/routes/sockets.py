"""The two socket endpoints: clients that watch a queue, workers that serve it.

This file speaks the frames; what they mean is decided by the operations. A socket has a reader and a writer. The
writer empties a bounded outbox and sends the whole list at the intervals that older peers rely on; a worker of
protocol 2 has a third task that claims jobs for it as soon as it has room.

Source: published socket protocol; protocol 2 is this project's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from quart import websocket

from asman import operations as ops
from asman.completion import to_the_end
from asman.errors import (
    AsmanError,
    BadMessage,
    Conflict,
    Expired,
    JobNotFound,
    LimitExceeded,
    StorageFull,
    Unavailable,
    clip,
)
from asman.identity import check_namespace, check_queue_name
from asman.job import DEFAULT_NAMESPACE, Job, Requirements, State
from asman.matching import Capacity
from asman.messages import PROTOCOL, encode, frame, is_shown, jobs_frame, ms
from asman.presence import Channel, Hub, Outbox, WorkerSeat
from asman.rates import source_of
from asman.services import Services
from asman.strict_json import decode_json
from asman.units import parse_duration_s

__all__ = ["parse_socket_path", "serve_client", "serve_worker"]

_log = logging.getLogger(__name__)

_LIST_EVERY_S = 10.0
_RECHECK_S = 15.0
_STORE_AGAIN_S = 1.0
_ERRORS_PER_S = 5
_REGISTRATION_BYTES = 16 << 10


def parse_socket_path(path: str) -> tuple[str, str] | None:
    """(queue, role) of a socket path, None if it is no socket endpoint.

    Shape:  ``/q/QUEUE/client`` and its aliases; empty pieces are dropped, what follows the role is ignored.
    """
    pieces = [unquote(piece) for piece in path.split("/") if piece]
    if pieces[:1] == ["q"]:
        pieces = pieces[1:]
    if len(pieces) < 2:
        return None
    role = {"client": "client", "browser": "client", "worker": "worker"}.get(pieces[1])
    if role is None or (role == "client" and pieces[0] in ("undefined", "null")):
        return None
    return pieces[0], role


class _Peer:
    """What both kinds of socket share: one channel, one outbox, error frames in moderation."""

    def __init__(self, services: Services, hub: Hub, queue: str, channel: Channel) -> None:
        self.services, self.hub, self.queue, self.channel = services, hub, queue, channel
        self.outbox = Outbox()
        self.listed_version = -1
        self.wants_list = True
        self._errors_left, self._errors_at = _ERRORS_PER_S, 0.0

    async def listing(self) -> str:
        """The whole queue as one frame, shared by all who need it now."""

        async def make() -> bytes:
            return jobs_frame(await ops.list_jobs(self.services, self.queue), subset=False)

        self.listed_version, message = await self.channel.snapshot(make)
        return message

    def error(self, error: AsmanError, ref: str = "") -> None:
        now = self.services.clock()
        if now - self._errors_at >= 1.0:
            self._errors_left, self._errors_at = _ERRORS_PER_S, now
        if self._errors_left > 0:
            self._errors_left -= 1
            payload = {"code": error.code, "error": error.message, "hint": error.hint, "ref": ref}
            self.outbox.put(frame("Error", payload).decode())

    async def write(self, send_list_when_unchanged: Callable[[], bool]) -> None:
        """Send what is waiting; the whole list after an overflow and, to those who want it, every few seconds."""
        clock = asyncio.get_running_loop().time
        every_s = min(_LIST_EVERY_S, self.services.config.lease_s / 3)  # ticks renew the leases of older workers
        next_list = clock() + every_s
        while not self.hub.closing:
            for message in await self.outbox.take(max(next_list - clock(), 0.01)):
                if self.lets_out(message):
                    await websocket.send(message)
            is_due = clock() >= next_list
            next_list = clock() + every_s if is_due else next_list
            try:
                if self.outbox.overflowed:
                    await self._send_list_after_overflow()
                if is_due:
                    await self.channel.look_around(lambda: self.services.jobs.counts(self.queue))
                    await self.tick()
                    if self.wants_list and (send_list_when_unchanged() or self.listed_version != self.channel.version):
                        await self._send_list()
            except Unavailable:
                next_list = min(next_list, clock() + _STORE_AGAIN_S)  # the store is away: the socket waits for it
        await websocket.close(1012, "the server restarts")

    async def _send_list_after_overflow(self) -> None:
        self.outbox.overflowed = False
        try:
            await self._send_list()
        except Unavailable:
            self.outbox.overflowed = True
            raise

    async def _send_list(self) -> None:
        """The whole list, in place of the changes that wait and are in it: nobody sees a job go backwards."""
        message = await self.listing()
        self.outbox.forget(self.listed_version)
        await websocket.send(message)

    def lets_out(self, message: str) -> bool:
        """Asked before a frame is sent: from then on the peer may see it."""
        return True

    async def tick(self) -> None:
        """Called every few seconds by the writer."""

    async def messages(self, limit_bytes: int) -> AsyncIterator[tuple[str, Any]]:
        """(type, payload) of each usable frame; what is not usable is answered with an error and skipped."""
        while True:
            raw = await websocket.receive()
            try:
                message = self._read(raw, limit_bytes)
            except AsmanError as error:
                self.error(error)
                continue
            if message is not None:
                yield message

    def _read(self, raw: str | bytes, limit_bytes: int) -> tuple[str, Any] | None:
        if isinstance(raw, bytes):
            raise BadMessage("a binary frame came; frames are text")
        if len(raw) > limit_bytes:
            raise LimitExceeded(f"a frame has {len(raw)} characters; at most {limit_bytes} are allowed")
        if raw == "PING":
            self.outbox.put(self.pong())
            return None
        if not raw.startswith("{"):
            return None  # older browsers send an empty or meaningless first frame
        message = decode_json(raw, self.services.config.limits)
        kind, payload = message.get("type"), message.get("payload")
        if not isinstance(kind, str) or not (payload is None or isinstance(payload, dict)):
            raise BadMessage("a frame needs a type (text) and a payload (object)")
        return kind, payload or {}

    def pong(self) -> str:
        return "PONG"

    async def send_job(self, job_id: str) -> None:
        """The present record of one job to this peer only; empty if there is nothing to show."""
        job = await self.services.jobs.load(self.queue, job_id)
        if job is not None and job.state is State.REMOVED and job.has_result:
            job = replace(job, state=State.FINISHED)
        shown = [job] if job is not None and is_shown(job) else []
        self.outbox.put(jobs_frame(shown, subset=True).decode())


@asynccontextmanager
async def _joined(services: Services, hub: Hub, queue: str) -> AsyncIterator[Channel]:
    """Take a place at the queue's channel, within the limits on sockets."""
    limits = services.config.limits
    if limits.sockets_total and hub.sockets >= limits.sockets_total:
        raise Unavailable(f"the server holds {hub.sockets} sockets, as many as it takes")
    present = hub.present(queue)
    if limits.sockets_per_queue and present is not None and present.users >= limits.sockets_per_queue:
        raise Unavailable(f"the queue has {present.users} sockets, as many as it takes")
    hub.sockets += 1
    try:
        async with hub.join(queue, ops.topic(queue)) as channel:
            yield channel
    finally:
        hub.sockets -= 1


async def _together(*parts: Awaitable[None]) -> None:
    """Run the tasks of a socket until the first one ends; then the others end too."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --- clients ---------------------------------------------------------------------------------------------------------


class _Client(_Peer):
    async def run(self, *, wants_list: bool) -> None:
        self.wants_list = wants_list
        self.channel.clients[self.outbox] = wants_list
        try:
            await websocket.send(self.channel.workers_frame())
            await websocket.send(await self.listing())
            await _together(self.read(), self.write(lambda: False))
        finally:
            self.channel.clients.pop(self.outbox, None)

    async def read(self) -> None:
        async for kind, payload in self.messages(self.services.config.limits.client_frame_bytes):
            try:
                await self.handle(kind, payload)
            except AsmanError as error:
                self.error(error, str(payload.get("job") or payload.get("jobId") or kind)[:80])

    async def handle(self, kind: str, payload: dict[str, Any]) -> None:
        match kind:
            case "StateChange":
                await self.change(payload)
            case "QueryJob":
                if isinstance(payload.get("jobId"), str):
                    await self.send_job(payload["jobId"])
            case "QueryJobStates":
                self.outbox.put(await self.listing())
            case _:
                raise BadMessage(f"{clip(kind)} is not a message that clients send")

    async def change(self, payload: dict[str, Any]) -> None:
        value = payload.get("value")
        if not isinstance(value, dict):
            raise BadMessage("a StateChange needs a value (object)")
        match payload.get("state"), value.get("reason"):
            case "Queued", _:
                await self.submit(value)
            case "Finished", "Cancelled":
                await self.give_up(payload, value)
            case "Finished", "Deleted":
                namespace = _namespace(value)
                await ops.delete(self.services, self.queue, _job_of(payload), namespace)
            case state, reason:
                raise BadMessage(f"clients cannot set a job to {clip(state)} {clip(reason)}")

    async def submit(self, value: dict[str, Any]) -> None:
        enqueued = value.get("enqueued")
        if not isinstance(enqueued, dict) or not enqueued.get("id"):
            raise BadMessage("a submit needs value.enqueued with id and definition")
        submission = ops.read_submission(self.services, enqueued)
        address = websocket.remote_addr or ""
        source = source_of(address, websocket.headers.get("X-Forwarded-For", ""), self.services.config.proxies)
        await ops.submit(self.services, self.queue, submission, source=source)

    async def give_up(self, payload: dict[str, Any], value: dict[str, Any]) -> None:
        message = value.get("message")
        text = message if isinstance(message, str) else ""
        await ops.cancel(self.services, self.queue, _job_of(payload), _namespace(value), text)


def _job_of(payload: dict[str, Any]) -> str:
    job_id = payload.get("job")
    if not isinstance(job_id, str) or not job_id:
        raise BadMessage("a StateChange needs the job's id")
    return job_id


def _namespace(value: dict[str, Any]) -> str:
    namespace = value.get("namespace") or DEFAULT_NAMESPACE
    return namespace if namespace == "*" else check_namespace(namespace)


async def serve_client(services: Services, hub: Hub, queue: str) -> None:
    """One client socket, from accept to close."""
    check_queue_name(queue)
    async with _joined(services, hub, queue) as channel:
        await websocket.accept()
        wants_list = websocket.args.get("lists", "1") != "0"
        await _Client(services, hub, queue, channel).run(wants_list=wants_list)


# --- workers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Registration:
    worker: str
    protocol: int
    total: Capacity
    holding: dict[str, int]
    raw: dict[str, Any]


def _read_registration(payload: dict[str, Any]) -> _Registration:
    """Check what a worker says of itself; members that are not known are passed on to watchers as they are."""
    worker = _worker_name(payload.get("id"))
    protocol = payload.get("protocol", 1)
    if protocol not in (1, 2):
        raise BadMessage(f"protocol is {clip(protocol)}; this server speaks 1 and 2")
    holding = payload.get("holding") or {}
    if not isinstance(holding, dict) or not all(isinstance(a, int) for a in holding.values()):
        raise BadMessage("holding maps job ids to attempt numbers")
    shown = {k: v for k, v in payload.items() if k != "holding"}
    size = len(encode(shown))
    if size > _REGISTRATION_BYTES:
        raise LimitExceeded(f"the registration has {size} bytes; at most {_REGISTRATION_BYTES} are shown to watchers")
    return _Registration(worker=worker, protocol=protocol, total=_read_total(payload), holding=dict(holding), raw=shown)


def _worker_name(name: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= 128:
        raise BadMessage(f"the worker id {clip(name)} is not text of 1 to 128 characters")
    return name


def _number(raw: dict[str, Any], name: str, default: float) -> float:
    value = raw.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e18:
        raise BadMessage(f"{name} is {clip(value)}, not a number from 0 up")
    return float(value)


def _read_total(payload: dict[str, Any]) -> Capacity:
    capacity = payload.get("capacity")
    raw = capacity if isinstance(capacity, dict) else payload
    gpus = raw.get("gpus", 0)
    limit = raw.get("max_duration_s")
    if limit is None and isinstance(payload.get("maxJobDuration"), str):
        limit = parse_duration_s(payload["maxJobDuration"])
    memory = raw.get("memory_bytes")
    return Capacity(
        cores=_number(raw, "cpus", 1.0),
        memory_bytes=None if memory is None else int(_number(raw, "memory_bytes", 0)),
        gpus=len(gpus) if isinstance(gpus, list) else int(_number({"gpus": gpus}, "gpus", 0)),
        max_duration_s=None if limit is None else _number({"max_duration_s": limit}, "max_duration_s", 0),
        tags=_read_tags(raw),
    )


def _read_tags(raw: dict[str, Any]) -> frozenset[str]:
    tags = raw.get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise BadMessage(f"tags is {clip(tags)}, not a list of text")
    return frozenset(tags)


class _Worker(_Peer):
    """A worker socket. Until it registers it mirrors the queue like an old one, but is not listed."""

    seat: WorkerSeat | None = None

    async def run(self, *, wants_list: bool) -> None:
        self.wants_list = wants_list
        self.gone, self.registered = asyncio.Event(), asyncio.Event()
        if wants_list:
            self.channel.mirrors.add(self.outbox)
            await websocket.send(await self.listing())
        try:
            await _together(self.read(), self.write(lambda: True), self.assign(), self._until_gone())
        finally:
            self.channel.mirrors.discard(self.outbox)
            if self.seat is not None:
                is_last = self.channel.unseat(self.seat)
                await to_the_end(self._leave(self.seat, shortens=is_last and not self.hub.closing))

    async def _leave(self, seat: WorkerSeat, *, shortens: bool) -> None:
        """What was never sent cannot have begun and waits again at once; for the rest the worker may come back."""
        with suppress(Unavailable, StorageFull):  # without a store the leases simply end as they would have
            if unseen := seat.take_unseen():
                await ops.release(self.services, self.queue, seat.worker, unseen)
            if shortens:
                await ops.shorten_lease(self.services, self.queue, seat.worker, seat.held)

    def lets_out(self, message: str) -> bool:
        """Nothing more where a newer connection took over: what was not sent by then has been handed back."""
        if self.gone.is_set():
            return False
        if self.seat is not None and self.seat.unseen:
            self.seat.unseen.pop(message, None)
        return True

    async def _until_gone(self) -> None:
        """A newer connection of the same worker has taken this one's place."""
        await self.gone.wait()
        await websocket.close(4409, "superseded by a newer connection")

    def pong(self) -> str:
        listed = self.seat is not None and self.channel.workers.get(self.seat.worker) is self.seat
        return f"PONG {self.seat.worker}" if self.seat is not None and listed else "PONG unknown"

    async def read(self) -> None:
        async for kind, payload in self.messages(self.services.config.limits.worker_frame_bytes):
            try:
                await self.handle(kind, payload)
            except AsmanError as error:
                self.error(error, str(payload.get("job") or payload.get("jobId") or kind)[:80])

    async def handle(self, kind: str, payload: dict[str, Any]) -> None:
        handlers: dict[str, Callable[[dict[str, Any]], Awaitable[None]]] = {
            "StateChange": self.change,
            "WorkerRegistration": self.register,
            "WorkerStatusResponse": self.status_response,
            "JobStatusLogs": self.logs,
            "RequestJobDefinitions": self.definitions,
            "Ready": self.ready,
            "Renew": self.renew,
            "Goodbye": self.goodbye,
        }
        if kind not in handlers:
            raise BadMessage(f"{clip(kind)} is not a message that workers send")
        await handlers[kind](payload)

    # -- presence ----------------------------------------------------------------------------------------------------

    async def register(self, payload: dict[str, Any]) -> None:
        registration = _read_registration(payload)
        seat = self.seat
        if seat is None or seat.worker != registration.worker:
            seat = WorkerSeat(
                worker=registration.worker,
                protocol=registration.protocol,
                registration=registration.raw,
                outbox=self.outbox,
                close=self.gone.set,
            )
            if self.seat is not None:
                self.channel.unseat(self.seat)
        older = self.channel.workers.get(seat.worker)
        unseen = older.take_unseen() if older is not None and older is not seat else {}
        shown_before = self.channel.shown(seat.worker)
        seat.registration, seat.total = registration.raw, registration.total
        first, self.seat = self.seat is not seat, seat
        self.channel.seat(seat)
        if self.channel.shown(seat.worker) != shown_before:
            self.channel.announce_workers()
        if unseen:
            await ops.release(self.services, self.queue, seat.worker, unseen)
        if registration.protocol >= 2:
            await self._welcome(seat, registration)
            self.registered.set()
        elif first:
            await self._adopt_mirror(seat)
            self.outbox.put(await self.listing())

    async def _welcome(self, seat: WorkerSeat, registration: _Registration) -> None:
        """Agree on what the worker still holds, then treat it as one that is assigned its work."""
        self.wants_list = False
        self.channel.mirrors.discard(self.outbox)
        kept, lost = await ops.renew(self.services, self.queue, seat.worker, registration.holding)
        for job in await ops.running_on(self.services, self.queue, seat.worker):
            if job.job_id not in kept and job.job_id not in seat.assigned:
                await ops.give_back(self.services, self.queue, job.job_id)
        seat.held = {**kept, **{k: v for k, v in seat.held.items() if k in seat.assigned}}
        for job_id in kept:
            seat.assigned.setdefault(job_id, await self._needs(job_id))
        config = self.services.config
        self.tell(
            "Registered",
            {
                "protocol": PROTOCOL,
                "lease_s": config.lease_s,
                "renew_s": config.renew_s,
                "max_frame_bytes": config.limits.worker_frame_bytes,
                "adopted": kept,
                "lost": lost,
            },
        )

    async def _needs(self, job_id: str) -> Requirements:
        job = await self.services.jobs.load(self.queue, job_id)
        return job.requirements if job is not None else Requirements()

    async def _adopt_mirror(self, seat: WorkerSeat) -> None:
        """A mirroring worker is back: what the records say it runs is its own again."""
        held = {job.job_id: job.attempt for job in await ops.running_on(self.services, self.queue, seat.worker)}
        kept, _ = await ops.renew(self.services, self.queue, seat.worker, held)
        seat.held.update(kept)

    async def tick(self) -> None:
        """The open socket of a mirroring worker is its lease."""
        seat = self.seat
        if seat is None or seat.protocol >= 2 or not seat.held:
            return
        _, lost = await ops.renew(self.services, self.queue, seat.worker, seat.held)
        for job_id in lost:
            seat.drop(job_id)

    async def status_response(self, payload: dict[str, Any]) -> None:
        if self.seat is not None and self.seat.status is not None and not self.seat.status.done():
            self.seat.status.set_result(payload)

    # -- protocol 2 --------------------------------------------------------------------------------------------------

    def tell(self, kind: str, payload: dict[str, Any]) -> None:
        """Send what nothing else can replace: it waits for the worker however slow that is."""
        self.outbox.put(frame(kind, payload).decode(), lasting=True)

    def _registered(self) -> WorkerSeat:
        if self.seat is None:
            raise BadMessage("register first: send a WorkerRegistration")
        return self.seat

    async def ready(self, payload: dict[str, Any]) -> None:
        """The worker has room. What was given out but not yet seen by it is counted here, so it is never overdrawn."""
        seat = self._registered()
        given = list(seat.assigned.values())
        memory = seat.total.memory_bytes
        free_memory = payload.get("memory_bytes")
        if memory is not None:
            left = max(memory - sum(need.memory_bytes for need in given), 0)
            memory = left if free_memory is None else min(left, int(_number(payload, "memory_bytes", 0)))
        cores_left = seat.total.cores - sum(need.cores for need in given)
        gpus_left = seat.total.gpus - sum(need.gpus for need in given)
        seat.free = Capacity(
            cores=max(min(_number(payload, "cpus", cores_left), cores_left), 0.0),
            memory_bytes=memory,
            gpus=max(min(int(_number(payload, "gpus", gpus_left)), gpus_left), 0),
            max_duration_s=seat.total.max_duration_s,
            tags=seat.total.tags,
        )
        seat.takes = int(_number(payload, "jobs", 0))
        seat.work.set()

    async def assign(self) -> None:
        """Claim for this worker while it has room; else sleep until a job comes that fits, or look again."""
        await self.registered.wait()
        while True:
            seat = self._registered()
            try:
                if seat.is_doubtful:
                    await self._look_at_held(seat)
                    seat.is_doubtful = False
                if seat.takes > 0 and not self.hub.closing and await self._claim_for(seat):
                    continue
            except Unavailable:
                await asyncio.sleep(_STORE_AGAIN_S)  # whatever wakes it: what was handed back would do so at once
                continue
            try:
                async with asyncio.timeout(_RECHECK_S):
                    await seat.work.wait()
            except TimeoutError:
                pass
            seat.work.clear()

    async def _look_at_held(self, seat: WorkerSeat) -> None:
        """A word that a job is no longer this worker's may have been missed: say so now, not at the next renewal."""
        _, lost = await ops.renew(self.services, self.queue, seat.worker, dict(seat.held))
        for job_id in lost:
            seat.drop(job_id)
        if lost:
            self.tell("Renewed", {"lost": lost})

    async def _claim_for(self, seat: WorkerSeat) -> bool:
        """One claim; the worker stands in the waiting line from before the look, so no job slips between.

        What can no longer be said to the worker goes to another: a claim that is cancelled hands back what it took,
        and the word of a job that came for this worker is passed on.
        """
        waiting = self.channel.waiting
        if seat not in waiting:
            waiting.append(seat)
        if self.channel.workers.get(seat.worker) is not seat:
            return False
        reserved = self.channel.reserved
        seat.revoked.clear()
        woken_for, seat.woken_for = seat.woken_for, ""
        try:
            taken = await ops.claim(self.services, self.queue, seat.worker, seat.free, seat.takes, reserved)
        except asyncio.CancelledError:
            self._pass_on(seat, woken_for, seat.woken_for)
            raise
        if self.hub.closing or self.channel.workers.get(seat.worker) is not seat:
            self._pass_on(seat, woken_for, seat.woken_for)
            held = {job.job_id: job.attempt for job, _ in taken}
            await to_the_end(ops.release(self.services, self.queue, seat.worker, held))
            return False
        for job, definition in taken:
            if (job.job_id, job.attempt) not in seat.revoked:
                self._give(seat, job, definition)
        if taken and seat in waiting:
            waiting.remove(seat)
        if seat.woken_for and seat.takes <= 0:
            self.channel.wake_for(seat.woken_for)  # it came while this claim filled the worker: somebody else's
        return bool(taken) and seat.takes > 0

    def _pass_on(self, seat: WorkerSeat, *shapes: str) -> None:
        """This worker takes no more jobs: those it was woken for are somebody else's."""
        if seat in self.channel.waiting:
            self.channel.waiting.remove(seat)
        for shape in filter(None, shapes):
            self.channel.wake_for(shape)

    def _give(self, seat: WorkerSeat, job: Job, definition: Any) -> None:
        need = job.requirements
        seat.held[job.job_id] = job.attempt
        seat.assigned[job.job_id] = need
        seat.log_next[job.job_id] = 0
        seat.takes -= 1
        memory = seat.free.memory_bytes
        seat.free = Capacity(
            cores=seat.free.cores - need.cores,
            memory_bytes=None if memory is None else memory - need.memory_bytes,
            gpus=seat.free.gpus - need.gpus,
            max_duration_s=seat.free.max_duration_s,
            tags=seat.free.tags,
        )
        payload = {
            "jobId": job.job_id,
            "attempt": job.attempt,
            "definition": definition,
            "lease_until": ms(job.lease_until or 0.0),
            "queuedTime": ms(job.queued_at),
        }
        message = frame("Assign", payload).decode()
        seat.unseen[message] = job.job_id
        self.outbox.put(message, lasting=True)

    async def renew(self, payload: dict[str, Any]) -> None:
        seat = self._registered()
        jobs = payload.get("jobs")
        if not isinstance(jobs, dict) or not all(isinstance(a, int) for a in jobs.values()):
            raise BadMessage("Renew needs jobs: an object of job ids and attempts")
        kept, lost = await ops.renew(self.services, self.queue, seat.worker, jobs)
        seat.held.update(kept)
        for job_id in lost:
            seat.drop(job_id)
        self.tell("Renewed", {"lost": lost})

    async def goodbye(self, payload: dict[str, Any]) -> None:
        seat = self._registered()
        jobs = payload.get("jobs") or {}
        if not isinstance(jobs, dict):
            raise BadMessage("Goodbye needs jobs: an object of job ids and attempts")
        seat.takes = 0
        released = await ops.release(self.services, self.queue, seat.worker, jobs)
        for job_id in jobs:
            seat.drop(job_id)
        self.tell("Released", {"jobs": released})

    # -- jobs --------------------------------------------------------------------------------------------------------

    async def change(self, payload: dict[str, Any]) -> None:
        value = payload.get("value")
        if not isinstance(value, dict):
            raise BadMessage("a StateChange needs a value (object)")
        stated = value.get("worker") or payload.get("tag") or ""
        worker = self.seat.worker if self.seat is not None else _worker_name(stated)
        if stated and stated != worker:
            raise BadMessage(f"the connection is registered as {clip(worker)}, the message speaks for {clip(stated)}")
        job_id = _job_of(payload)
        match payload.get("state"):
            case "Running":
                await self.running(job_id, worker)
            case "Finished":
                await self.finished(job_id, worker, payload.get("attempt"), value)
            case state:
                raise BadMessage(f"workers cannot set a job to {clip(state)}")

    async def running(self, job_id: str, worker: str) -> None:
        job = await ops.announce(self.services, self.queue, job_id, worker)
        if job is None:
            await self.send_job(job_id)
        elif self.seat is not None:
            self.seat.held[job_id] = job.attempt

    async def finished(self, job_id: str, worker: str, attempt: Any, value: dict[str, Any]) -> None:
        if attempt is not None and not isinstance(attempt, int):
            raise BadMessage("attempt is a whole number")
        answer: dict[str, Any] = {"jobId": job_id, "attempt": attempt, "accepted": True}
        try:
            await ops.report(self.services, self.queue, job_id, worker, attempt, value)
        except AsmanError as error:
            if isinstance(error, (Unavailable, StorageFull)) or type(error) is Conflict:
                if attempt is None and self.seat is not None:
                    self.seat.drop(job_id)  # an older worker says it once: the lease ends and the job runs again
                raise  # not decided: a newer worker keeps it and says it again
            answer |= {"accepted": False, "code": error.code, "error": error.message}
        if self.seat is not None:
            self.seat.drop(job_id)
        if attempt is not None:
            self.tell("Ack", answer)
        elif not answer["accepted"]:
            _log.info("a result was refused", extra={"job": job_id, "reason": answer["error"]})

    async def logs(self, payload: dict[str, Any]) -> None:
        """Keep lines of a job that this worker holds; lines that came before are dropped by their number.

        Without lines it says that a step begins, which is told and not kept.
        """
        job_id, step, lines = payload.get("jobId"), payload.get("step"), payload.get("logs")
        if not isinstance(job_id, str) or not isinstance(step, str) or not isinstance(lines, list):
            raise BadMessage("JobStatusLogs needs jobId, step and logs")
        seat = self.seat
        attempt = seat.held.get(job_id) if seat is not None else None
        if seat is None or attempt is None or payload.get("attempt", attempt) != attempt:
            return
        job = Job(queue=self.queue, job_id=job_id, attempt=attempt)
        fresh = await self._fresh_lines(seat, job, payload.get("seq"), lines)
        if fresh or not lines:
            as_sent = payload if len(fresh) == len(lines) else None
            await ops.keep_lines(self.services, job, step, fresh, as_sent)

    async def _fresh_lines(self, seat: WorkerSeat, job: Job, seq: Any, lines: list[Any]) -> list[Any]:
        if not isinstance(seq, int):
            return lines
        if job.job_id not in seat.log_next:
            kept = [
                await self.services.logs.read_log(job.queue, job.job_id, half=half, max_bytes=0)
                for half in ("build", "run")
            ]
            seat.log_next[job.job_id] = sum(k.total for k in kept if k.attempt == job.attempt)
        fresh = lines[max(seat.log_next[job.job_id] - seq, 0) :]
        seat.log_next[job.job_id] = max(seat.log_next[job.job_id], seq + len(lines))
        return fresh

    async def definitions(self, payload: dict[str, Any]) -> None:
        found: dict[str, Any] = {}
        asked = payload.get("jobIds") or []
        if not isinstance(asked, list):
            raise BadMessage("RequestJobDefinitions needs jobIds: a list of job ids")
        for job_id in asked[:1000]:
            if not isinstance(job_id, str):
                continue
            try:
                job = await ops.find_job(self.services, job_id)
            except (JobNotFound, Expired):
                continue
            definition = await ops.read_definition_of(self.services, job)
            if definition is not None:
                found[job_id] = definition
        if found:
            self.outbox.put(frame("BroadcastJobDefinitions", {"definitions": found}).decode())


async def serve_worker(services: Services, hub: Hub, queue: str) -> None:
    """One worker socket, from accept to close."""
    check_queue_name(queue)
    async with _joined(services, hub, queue) as channel:
        await websocket.accept()
        wants_list = websocket.args.get("protocol", "1") == "1"
        await _Worker(services, hub, queue, channel).run(wants_list=wants_list)
