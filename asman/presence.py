"""Who is connected here, and how one change reaches them all. For display and speed only: leases decide who holds
a job, and whoever missed a message reads the store again.

A ``Channel`` exists per queue while somebody is connected to it; an idle queue has none. It hears the queue's topic
once and hands the bytes of each event to every listener as they came. Each socket has a bounded ``Outbox``: a reader
that is too slow loses its backlog and gets one fresh snapshot instead, and slows nobody down.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from asman.abc import Notifier, TellsAlone, TellsGaps
from asman.completion import to_the_end
from asman.job import Requirements
from asman.matching import Capacity, fits
from asman.messages import decode_event, encode_event, frame
from asman.neighbours import Connected, Neighbours, announcement

__all__ = ["Channel", "Hub", "Outbox", "Watch", "WorkerSeat"]

_log = logging.getLogger(__name__)

_BACKLOG_FRAMES = 2_000
_BACKLOG_BYTES = 4 << 20
_LASTING = -1
"""In the place of a version: the frame is never dropped."""
_LOOK_EVERY_S = 10.0
_DEPARTURE_S = 3.0
"""How long a worker that closed stays on the list: older workers reconnect all the time."""


class Outbox:
    """Frames waiting for one socket. ``overflowed`` tells the writer to send a snapshot instead of what was lost.

    Shape:  a ``lasting`` frame is one that no snapshot replaces (an assignment, an acknowledgement): it is never
            dropped and does not count against the bounds. ``version`` is the channel's version of a change.
    """

    def __init__(self, *, max_frames: int = _BACKLOG_FRAMES, max_bytes: int = _BACKLOG_BYTES) -> None:
        self._frames: deque[tuple[str, int]] = deque()
        self._count = self._bytes = 0
        self._max_frames, self._max_bytes = max_frames, max_bytes
        self._ready = asyncio.Event()
        self.overflowed = False

    @property
    def waiting(self) -> tuple[int, int]:
        """(frames, bytes) that could be dropped."""
        return self._count, self._bytes

    def put(self, message: str, *, version: int = 0, lasting: bool = False) -> None:
        if not lasting:
            is_full = self._count >= self._max_frames or self._bytes + len(message) > self._max_bytes
            if is_full and self._count:
                self._keep(lambda kept: kept == _LASTING)
                self.overflowed = True
            self._count += 1
            self._bytes += len(message)
        self._frames.append((message, _LASTING if lasting else version))
        self._ready.set()

    def forget(self, version: int) -> None:
        """Drop the changes up to this version: a snapshot that shows them is about to be sent."""
        self._keep(lambda kept: kept <= 0 or kept > version)

    def _keep(self, stays: Callable[[int], bool]) -> None:
        self._frames = deque(entry for entry in self._frames if stays(entry[1]))
        droppable = [len(message) for message, version in self._frames if version != _LASTING]
        self._count, self._bytes = len(droppable), sum(droppable)

    def wake(self) -> None:
        self._ready.set()

    async def take(self, timeout_s: float) -> list[str]:
        """All waiting frames; an empty list after ``timeout_s`` or a wake without frames."""
        if not self._ready.is_set():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._ready.wait()
            except TimeoutError:
                return []
        self._ready.clear()
        taken = [message for message, _ in self._frames]
        self._frames.clear()
        self._count = self._bytes = 0
        return taken


@dataclass(slots=True, eq=False, kw_only=True)
class WorkerSeat:
    """One connected, registered worker.

    Shape:  ``registration`` is what it sent; ``held`` maps the jobs it holds to attempts.
            ``total`` and ``free`` are capacities, ``takes`` how many jobs it takes now (protocol 2);
            ``assigned`` what the jobs given over this connection need; ``log_next`` the next line number per job;
            ``revoked`` the attempts that ended before this connection heard of them, while a claim is under way;
            ``unseen`` the jobs of assignments that still wait to be sent, by their frame.
    """

    worker: str
    protocol: int
    registration: Mapping[str, Any]
    outbox: Outbox
    close: Callable[[], None]
    total: Capacity = field(default_factory=Capacity)
    free: Capacity = field(default_factory=Capacity)
    takes: int = 0
    held: dict[str, int] = field(default_factory=dict)
    assigned: dict[str, Requirements] = field(default_factory=dict)
    log_next: dict[str, int] = field(default_factory=dict)
    revoked: set[tuple[str, int]] = field(default_factory=set)
    unseen: dict[str, str] = field(default_factory=dict)
    work: asyncio.Event = field(default_factory=asyncio.Event)
    seated_at: float = 0.0
    is_doubtful: bool = False
    """Messages were missed: what it holds must be looked at again."""
    woken_for: str = ""
    status: asyncio.Future[Mapping[str, Any]] | None = None

    @property
    def connected(self) -> Connected:
        """What others need to know of it.

        A mirroring worker does not say what it has free: each job it holds is taken to use one core, and its GPUs to
        be in use while it holds any.
        """
        says, total = self.protocol >= 2, self.total
        guessed = replace(total, cores=total.cores - len(self.held), gpus=0 if self.held else total.gpus)
        return Connected(
            worker=self.worker,
            registration=self.registration,
            total=self.total,
            free=self.free if says else guessed,
            takes=self.takes if says else max(int(self.total.cores) - len(self.held), 0),
            held=self.held,
            seated_at=self.seated_at,
        )

    def take_unseen(self) -> dict[str, int]:
        """The connection is over: the attempts that the worker cannot have heard of. They are no longer its own."""
        jobs = {job_id: self.held[job_id] for job_id in self.unseen.values() if job_id in self.held}
        self.unseen.clear()
        for job_id in jobs:
            self.drop(job_id)
        return jobs

    def drop(self, job_id: str) -> None:
        """The job is no longer this worker's."""
        self.held.pop(job_id, None)
        self.assigned.pop(job_id, None)
        self.log_next.pop(job_id, None)


class Watch:
    """Somebody who waits for news of one job. ``news`` is set by every event that names it."""

    def __init__(self) -> None:
        self._news = asyncio.Event()

    def set(self) -> None:
        self._news.set()

    async def wait(self, timeout_s: float) -> bool:
        """True if something happened since the last call; at the latest after ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True


class Channel:
    """The listeners of one queue in this process.

    Shape:  ``server`` names this server to the others; ``tell`` hands an event to them, None if there are none;
            ``clock`` answers seconds since the epoch.
    """

    def __init__(
        self,
        queue: str,
        *,
        server: str = "",
        tell: Callable[[bytes], None] | None = None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.queue = queue
        self.neighbours = Neighbours()
        self._server, self._tell, self._clock = server, tell, clock
        self._looked_at = self._told_at = float("-inf")
        self._counted: tuple[int, Mapping[Any, int]] | None = None
        self.users = 0
        self.clients: dict[Outbox, bool] = {}
        """Client sockets; True: wants the periodic whole list."""
        self.mirrors: set[Outbox] = set()
        """Sockets of workers that mirror the queue, registered or not."""
        self.workers: dict[str, WorkerSeat] = {}
        self.departed: dict[str, Mapping[str, Any]] = {}
        self.watches: dict[str, set[Watch]] = {}
        self.waiting: deque[WorkerSeat] = deque()
        self.version = 0
        """Rises with every event: a snapshot made at the same version is still good."""
        self._snapshot: tuple[int, str] | None = None
        self._making: asyncio.Lock = asyncio.Lock()
        self.reserved: set[str] = set()
        """Jobs that a claim of this server is busy with: workers here do not race each other for them."""

    # -- events of the queue -----------------------------------------------------------------------------------------

    def deliver(self, data: bytes) -> None:
        """Hand one event on: the frame as it is, to whom it concerns."""
        header, encoded = decode_event(data)
        if header["kind"] == "presence":
            self._hear(header)
            return
        message = encoded.decode()
        if header["kind"] == "logs":
            self._to_clients(message)
        else:
            self.version += 1
            if message:
                self._to_clients(message, self.version)
                self._to_mirrors(message, self.version)
            self._to_workers(header)
        for watch in self.watches.get(header["job_id"], ()):
            watch.set()

    def _to_clients(self, message: str, version: int = 0) -> None:
        for outbox in self.clients:
            outbox.put(message, version=version)

    def _to_mirrors(self, message: str, version: int = 0) -> None:
        for outbox in self.mirrors:
            outbox.put(message, version=version)

    def _to_workers(self, header: dict[str, Any]) -> None:
        revoke = header.get("revoke")
        if revoke is not None:
            self._revoke(header["job_id"], revoke)
        if "clear" in header:
            clear = frame("ClearJobCache", {"jobId": header["job_id"], "namespace": header["clear"]}).decode()
            for seat in self.workers.values():
                seat.outbox.put(clear, lasting=True)
        if "shape" in header:
            self.wake_for(header["shape"])

    def _revoke(self, job_id: str, revoke: dict[str, Any]) -> None:
        seat, attempt = self.workers.get(revoke["worker"]), revoke["attempt"]
        if seat is None:
            return
        if seat.held.get(job_id) == attempt:
            seat.drop(job_id)
        elif job_id not in seat.held:
            seat.revoked.add((job_id, attempt))
        if seat.protocol >= 2:
            payload = {"jobId": job_id, "attempt": attempt, "reason": revoke["reason"]}
            seat.outbox.put(frame("Revoke", payload).decode(), lasting=True)

    def wake_for(self, shape: str) -> None:
        """Wake one waiting worker that the new job fits; the others sleep on."""
        need = Requirements.from_shape(shape)
        for seat in list(self.waiting):
            if seat.takes > 0 and fits(need, seat.free):
                self.waiting.remove(seat)
                seat.woken_for = shape
                seat.work.set()
                return

    # -- other servers -----------------------------------------------------------------------------------------------

    @property
    def connected(self) -> dict[str, Connected]:
        """The workers of this server and of the others; here wins."""
        return self.neighbours.workers | {name: seat.connected for name, seat in self.workers.items()}

    def _hear(self, header: dict[str, Any]) -> None:
        if header["server"] == self._server:
            return
        if header["asks"]:
            self.tell_presence()
        is_new = self.neighbours.hear(header, asyncio.get_running_loop().time())
        for name, worker in self.neighbours.workers.items():
            seat = self.workers.get(name)
            if seat is not None and seat.seated_at < worker.seated_at:
                del self.workers[name]  # it has moved there: its jobs are its own still
                self._forget_waiting(seat)
                seat.close()
        if is_new:
            self._show_workers()

    def tell_presence(self, *, asks: bool = False, leaves: bool = False) -> None:
        """Tell the other servers who is connected here."""
        if self._tell is None:
            return
        self._told_at = asyncio.get_running_loop().time()
        seats = [] if leaves else [seat.connected for seat in self.workers.values()]
        clients = 0 if leaves else len(self.clients)
        self._tell(encode_event(announcement(self._server, seats, clients, asks=asks)))

    async def look_around(self, count: Callable[[], Awaitable[Mapping[Any, int]]]) -> None:
        """Called by every socket every few seconds; the first of each round tells the others that we are still here,
        and finds out whether the queue has changed without a word: then all are shown it as it is."""
        now = asyncio.get_running_loop().time()
        if self._tell is None or now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        if self.neighbours.forget_silent(now):
            self._show_workers()
        if now - self._told_at >= _LOOK_EVERY_S:
            self.tell_presence()
        version = self.version
        counted = await count()
        if self._counted is not None and self._counted[0] == version and self._counted[1] != counted:
            self.catch_up()
        self._counted = (self.version, counted)

    def catch_up(self) -> None:
        """Messages were missed: everybody gets the queue as it is, and looks at the store again."""
        self.version += 1
        for outbox in [*self.clients, *self.mirrors]:
            outbox.overflowed = True
            outbox.wake()
        for seat in self.workers.values():
            seat.is_doubtful = True
            seat.work.set()
        for watch in [watch for watching in self.watches.values() for watch in watching]:
            watch.set()

    # -- workers -----------------------------------------------------------------------------------------------------

    def seat(self, seat: WorkerSeat) -> None:
        """List a worker; the newest connection of an id wins and takes over what the older one knew."""
        old = self.workers.get(seat.worker)
        self.departed.pop(seat.worker, None)
        self.workers[seat.worker] = seat
        if old is not seat:
            seat.seated_at = self._clock()
        if old is not None and old is not seat:
            seat.held = {**old.held, **seat.held}
            seat.log_next = {**old.log_next, **seat.log_next}
            self._forget_waiting(old)
            old.close()

    def shown(self, worker: str) -> Mapping[str, Any] | None:
        """What watchers see of a worker, without the time that changes with every registration."""
        seat = self.workers.get(worker) or self.neighbours.workers.get(worker)
        registration = seat.registration if seat is not None else self.departed.get(worker)
        return None if registration is None else {k: v for k, v in registration.items() if k != "time"}

    def unseat(self, seat: WorkerSeat) -> bool:
        """Take a closed connection's worker off, unless a newer connection has its place."""
        self._forget_waiting(seat)
        if self.workers.get(seat.worker) is not seat:
            return False
        del self.workers[seat.worker]
        self.departed[seat.worker] = seat.registration
        loop = asyncio.get_running_loop()
        loop.call_later(_DEPARTURE_S, self._depart, seat.worker)
        return True

    def _depart(self, worker: str) -> None:
        if self.departed.pop(worker, None) is not None:
            self.announce_workers()

    def _forget_waiting(self, seat: WorkerSeat) -> None:
        if seat in self.waiting:
            self.waiting.remove(seat)

    def workers_frame(self) -> str:
        connected = self.connected
        listed = [dict(worker.registration) for worker in connected.values()]
        listed += [dict(registration) for name, registration in self.departed.items() if name not in connected]
        return frame("Workers", {"workers": listed}).decode()

    def announce_workers(self) -> None:
        """Show the workers to everybody here, and tell the other servers."""
        self.tell_presence()
        self._show_workers()

    def _show_workers(self) -> None:
        message = self.workers_frame()
        self._to_clients(message)
        self._to_mirrors(message)

    # -- snapshots ---------------------------------------------------------------------------------------------------

    async def snapshot(self, make: Callable[[], Awaitable[bytes]]) -> tuple[int, str]:
        """The whole list as one frame and the version it shows, made once for all who ask at that version."""
        async with self._making:
            if self._snapshot is None or self._snapshot[0] != self.version:
                version = self.version
                self._snapshot = (version, (await make()).decode())
            return self._snapshot


class Hub:
    """The channels of one app. ``closing`` is set when the server stops in good order."""

    def __init__(self, notifier: Notifier, *, server: str = "", clock: Callable[[], float] = lambda: 0.0) -> None:
        self._notifier, self._clock, self.server = notifier, clock, server
        self.is_alone = isinstance(notifier, TellsAlone) and notifier.is_alone
        self._telling: set[asyncio.Future[None]] = set()
        if isinstance(notifier, TellsGaps):
            notifier.on_gap(self.catch_up)
        self._channels: dict[str, Channel] = {}
        self._opening = asyncio.Lock()
        self.sockets = 0
        self.closing = False

    def present(self, queue: str) -> Channel | None:
        """The channel if anybody is connected; reads create nothing."""
        return self._channels.get(queue)

    @property
    def channels(self) -> tuple[Channel, ...]:
        return tuple(self._channels.values())

    @asynccontextmanager
    async def join(self, queue: str, topic: str) -> AsyncIterator[Channel]:
        """Use the queue's channel; the first user opens it, the last one closes it."""
        channel = await to_the_end(self._enter(queue, topic), lambda channel: self._leave(channel, topic))
        try:
            yield channel
        finally:
            await to_the_end(self._leave(channel, topic))

    async def _enter(self, queue: str, topic: str) -> Channel:
        async with self._opening:
            channel = self._channels.get(queue)
            if channel is None:
                tell = None if self.is_alone else partial(self._publish, topic)
                channel = Channel(queue, server=self.server, tell=tell, clock=self._clock)
                await self._notifier.subscribe(topic, channel.deliver)
                self._channels[queue] = channel
                channel.tell_presence(asks=True)
            channel.users += 1
        return channel

    def _publish(self, topic: str, data: bytes) -> None:
        telling = asyncio.ensure_future(self._notifier.publish(topic, data))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    def catch_up(self) -> None:
        """Messages of other servers were missed."""
        for channel in self._channels.values():
            channel.neighbours.servers.clear()
            channel.tell_presence(asks=True)
            channel.catch_up()

    async def _leave(self, channel: Channel, topic: str) -> None:
        channel.users -= 1
        if channel.users:
            return
        async with self._opening:
            if channel.users == 0 and self._channels.get(channel.queue) is channel:
                del self._channels[channel.queue]
                channel.tell_presence(leaves=True)
                await self._notifier.unsubscribe(topic, channel.deliver)

    @asynccontextmanager
    async def watch(self, queue: str, topic: str, job_id: str) -> AsyncIterator[Watch]:
        """Hear of one job."""
        async with self.join(queue, topic) as channel:
            watch = Watch()
            channel.watches.setdefault(job_id, set()).add(watch)
            try:
                yield watch
            finally:
                watching = channel.watches[job_id]
                watching.discard(watch)
                if not watching:
                    del channel.watches[job_id]

    def close_all(self) -> None:
        """The server stops: wake every socket and stream so that it can say goodbye."""
        self.closing = True
        for channel in self._channels.values():
            channel.tell_presence(leaves=True)
            for outbox in [*channel.clients, *channel.mirrors]:
                outbox.wake()
            for seat in channel.workers.values():
                seat.outbox.wake()
                seat.work.set()
            for watch in [watch for watching in channel.watches.values() for watch in watching]:
                watch.set()
