"""The real app in this process, on memory stores and a clock that tests move, and peers that a test leads by hand.

``InProcess`` is one running app. It carries a ``Witness``: a plugin that sees every step of every job, so that what
must hold of all jobs at all times is checked at the end of every test, whatever the test was about. A ``Peer`` is one
socket; all waiting is bounded. ``skipping_time`` lets a loop that has nothing to do jump to its next timer.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from quart import Quart
from quart.testing.connections import TestWebsocketConnection, WebsocketDisconnectError, WebsocketResponseError

from asman.app import create_app
from asman.config import load_config
from asman.hookspecs import hookimpl
from asman.identity import known_id
from asman.job import Job, Reason, State
from asman.memory import MemoryJobStore
from asman.presence import Channel, Hub
from asman.services import Services
from asman.testing.clock import FakeClock

__all__ = [
    "ECHO",
    "GatedSocket",
    "Held",
    "InProcess",
    "OldWorker",
    "Peer",
    "Witness",
    "Worker",
    "finished_value",
    "hello",
    "in_process",
    "skipping_time",
    "turns",
]

WAIT_S = 5.0
ECHO: Mapping[str, Any] = {"image": "alpine:3.19.1", "command": "echo hi"}


def hello(name: object = "", **members: Any) -> dict[str, Any]:
    """A definition of its own for each name."""
    return {"image": "alpine:3.19.1", "command": f"echo {name}", **members}


def finished_value(worker: str, code: int | None = 0, reason: str = "Success", **members: Any) -> dict[str, Any]:
    """What a worker says of a job that ended. ``members`` go into the result."""
    result: dict[str, Any] = {"logs": [["hi\n", 1]], "outputs": {}, "isTimedOut": reason == "TimedOut", "duration": 3}
    if code is not None:
        result["StatusCode"] = code
    return {"type": "Finished", "reason": reason, "worker": worker, "time": 1, "result": {**result, **members}}


# --- what holds at all times -----------------------------------------------------------------------------------------


@dataclass
class Witness:
    """Sees every accepted step, through the hook that plugins have for it."""

    steps: list[tuple[Job, Job]] = field(default_factory=list)

    @hookimpl
    def asman_job_changed(self, job: Job, before: Job) -> None:
        self.steps.append((before, job))

    def of(self, job_id: str, queue: str | None = None) -> list[Job]:
        """The records of a job, in the order of its steps."""
        return [after for _, after in self.steps if after.job_id == job_id and queue in (None, after.queue)]

    def states(self, job_id: str) -> list[str]:
        """The states a job went through, repeats left out."""
        seen: list[str] = []
        for after in self.of(job_id):
            if not seen or seen[-1] != after.state.value:
                seen.append(after.state.value)
        return seen

    def check(self) -> None:
        accepted: Counter[tuple[str, str, int]] = Counter()
        for before, after in self.steps:
            _check_record(after)
            _check_step(before, after)
            if after.has_result and (not before.has_result or after.generation != before.generation):
                accepted[after.queue, after.job_id, after.generation] += 1
        twice = [key for key, count in accepted.items() if count > 1]
        assert not twice, f"more than one result was accepted for {twice}"

    def last(self) -> dict[tuple[str, str], Job]:
        """The newest record of each job. Of two steps the later one may be told first: the version decides."""
        newest: dict[tuple[str, str], Job] = {}
        for before, after in self.steps:
            known = newest.get((after.queue, after.job_id))
            if known is None or before.state is State.ABSENT or known.version < after.version:
                newest[after.queue, after.job_id] = after
        return newest


def _check_record(job: Job) -> None:
    assert (job.state is State.RUNNING) == (job.lease_until is not None), f"a lease and Running go together: {job}"
    assert (job.state is State.RUNNING) <= bool(job.worker), f"a running job names its worker: {job}"
    assert job.is_active == (job.reason is None) or job.forgotten, f"a reason and an end go together: {job}"
    assert (job.reason is None) == (job.outcome is None), f"a reason has an outcome: {job}"
    assert not job.is_active or job.namespaces, f"an active job is wanted by somebody: {job}"
    assert list(job.namespaces) == sorted(job.namespaces)
    assert job.state is not State.ABSENT


def _check_step(before: Job, after: Job) -> None:
    assert after.version == before.version + 1, f"{before.version} -> {after.version}"
    assert after.attempt >= before.attempt, "an attempt number came again"
    assert after.generation >= before.generation
    if after.generation == before.generation and not before.is_active and before.state is not State.ABSENT:
        assert not after.is_active, f"an end is final: {before} -> {after}"
        assert after.reason in (before.reason, Reason.DELETED)
    if before.state is State.QUEUED and after.state is State.RUNNING:
        was_claimed = after.attempt == before.attempt + 1
        assert was_claimed or before.history[-1].worker == after.worker, "neither claimed nor taken up again"


# --- the app ---------------------------------------------------------------------------------------------------------


@dataclass
class InProcess:
    """One running app. Shape: ``clock`` is the app's clock; ``witness`` has seen every step."""

    app: Quart
    clock: FakeClock
    witness: Witness

    def __post_init__(self) -> None:
        self.client = self.app.test_client(use_cookies=False)

    @property
    def services(self) -> Services:
        services: Services = self.app.extensions["asman"]
        return services

    @property
    def hub(self) -> Hub:
        hub: Hub = self.app.extensions["asman_hub"]
        return hub

    # -- http --

    async def submit(self, queue: str, definition: Mapping[str, Any] = ECHO, **body: Any) -> str:
        """Push a job; answers with its id."""
        answer = await self.client.post(f"/q/{queue}", json={"definition": definition, **body})
        said = await answer.get_json()
        assert answer.status_code == 200, said
        job_id: str = said["jobId"]
        return job_id

    async def get(self, path: str, status: int = 200) -> Any:
        """The decoded JSON of a GET that answers with this status."""
        answer = await self.client.get(path)
        assert answer.status_code == status, (path, answer.status_code, await answer.get_data())
        return await answer.get_json()

    async def listing(self, queue: str) -> dict[str, Any]:
        listed: dict[str, Any] = (await self.get(f"/q/{queue}"))["data"]
        return listed

    # -- the store --

    async def job(self, queue: str, job_id: str) -> Job:
        job = await self.services.jobs.load(queue, job_id)
        assert job is not None, f"no record of {job_id[:8]} in {queue}"
        return job

    def contents(self) -> dict[str, Any]:
        """Everything the memory stores hold, for "nothing was changed". Looks inside: no protocol lists it all."""
        if not isinstance(self.services.jobs, MemoryJobStore):
            pytest.skip("this test looks inside the memory stores")
        jobs: Any = self.services.jobs
        blobs: Any = self.services.blobs
        return {
            "jobs": dict(jobs._jobs),
            "documents": {key: dict(kept) for key, kept in jobs._documents.items()},
            "logs": {
                key: (log.attempt, {half: kept.total for half, kept in log.halves.items()})
                for key, log in jobs._logs.items()
            },
            "blobs": {key: info for key, (info, _) in blobs._blobs.items()},
        }

    async def check(self) -> None:
        """What must hold of all jobs, now and at every step that led here."""
        for queue, job_id in self.witness.last():
            await self._told(queue, job_id)
        self.witness.check()
        if not isinstance(self.services.jobs, MemoryJobStore):
            return
        contents = self.contents()
        for job in contents["jobs"].values():
            _check_record(job)
            documents = contents["documents"].get((job.queue, job.job_id), {})
            if job.is_active:
                assert "definition" in documents, f"an active job without definition: {job}"
            if job.has_result:
                assert "result" in documents, f"a result that is not there: {job}"
            if job.forgotten or job.reason is Reason.DELETED:
                assert not documents, f"documents of a job that is gone: {job}"
                assert (job.queue, job.job_id) not in contents["logs"], f"logs of a job that is gone: {job}"
        orphans = {*contents["documents"], *contents["logs"]} - set(contents["jobs"])
        assert not orphans, f"documents or logs without a record: {orphans}"

    async def _told(self, queue: str, job_id: str) -> None:
        """The store keeps the record that the hook was told of last. A step under way is kept first and told then."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + WAIT_S
        while True:
            kept, told = await self.services.jobs.load(queue, job_id), self.witness.last()[queue, job_id]
            if kept in (told, None):
                return
            assert loop.time() < deadline, f"the store keeps\n  {kept}\nand the hook was told last of\n  {told}"
            await asyncio.sleep(0.01)

    # -- sockets --

    def channel(self, queue: str) -> Channel:
        channel = self.hub.present(queue)
        assert channel is not None, f"nobody is connected to {queue}"
        return channel

    @asynccontextmanager
    async def connect(self, path: str, **options: Any) -> AsyncIterator[Peer]:
        """A socket on this path, led by hand."""
        async with self.client.websocket(path, **options) as connection:
            yield Peer(connection)

    async def refused_socket(self, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
        """A socket that is not accepted: the status and the body of the answer."""
        async with self.connect(path, **options) as peer:
            try:
                said = await peer.text()
            except WebsocketResponseError as refused:
                return refused.response.status_code, await refused.response.get_json()
        raise AssertionError(f"the socket was accepted and said {said[:80]}")

    @asynccontextmanager
    async def watch(self, queue: str, path: str = "/q/{}/client") -> AsyncIterator[Peer]:
        """A client that has had its first two frames."""
        async with self.connect(path.format(queue)) as peer:
            await peer.hear("Workers")
            await peer.hear("JobStates")
            yield peer

    @asynccontextmanager
    async def worker(self, queue: str, name: str = "w1", *, jobs: int = 1, **options: Any) -> AsyncIterator[Worker]:
        """A worker of protocol 2, registered, with room for ``jobs`` jobs."""
        async with self.client.websocket(f"/q/{queue}/worker?protocol=2") as connection:
            worker = Worker(connection, name)
            worker.welcome = await worker.register(**options)
            if jobs:
                await worker.ready(jobs)
            yield worker

    @asynccontextmanager
    async def old_worker(self, queue: str, name: str = "w1", *, register: bool = True) -> AsyncIterator[OldWorker]:
        """A worker of protocol 1 that has had the list."""
        async with self.client.websocket(f"/q/{queue}/worker") as connection:
            worker = OldWorker(connection, name)
            await worker.hear("JobStates")
            if register:
                await worker.register()
            yield worker

    async def finish(self, queue: str, job_id: str, code: int = 0, **members: Any) -> None:
        """Let a passing worker run the job to its end."""
        async with self.worker(queue, f"passing-{job_id[:4]}", jobs=1, cpus=64) as worker:
            given = await worker.hear("Assign")
            assert given["jobId"] == job_id, "another job waits before this one"
            ack = await worker.report(given, finished_value(worker.name, code, **members))
            assert ack["accepted"], ack


@asynccontextmanager
async def in_process(
    *, plugins: Sequence[object] = (), discover: bool = False, limits: Mapping[str, Any] | None = None, **flags: Any
) -> AsyncIterator[InProcess]:
    """Start an app; at the end check what must hold of all jobs, and stop it. ``flags`` and ``limits`` are settings."""
    config, _ = load_config({"backend": "memory", **flags})
    config = replace(config, limits=replace(config.limits, **(limits or {})))
    clock, witness = FakeClock(), Witness()
    app = create_app(config, [witness, *plugins], discover=discover, clock=clock)
    await app.startup()
    served = InProcess(app=app, clock=clock, witness=witness)
    yield served
    await served.check()
    await app.shutdown()


# --- sockets ---------------------------------------------------------------------------------------------------------


class Peer:
    """One socket. Shape: ``heard`` are all frames that came, as text, in order."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.heard: list[str] = []

    async def text(self, within_s: float = WAIT_S) -> str:
        async with asyncio.timeout(within_s):
            message = await self.connection.receive()
        assert isinstance(message, str), f"a binary frame: {message!r}"
        self.heard.append(message)
        return message

    async def hear(
        self, kind: str, when: Callable[[dict[str, Any]], object] = lambda payload: True, within_s: float = WAIT_S
    ) -> dict[str, Any]:
        """The payload of the next frame of this kind; others that come before are passed over."""
        try:
            while True:
                message = await self.text(within_s)
                if not message.startswith("{"):
                    continue
                frame = json.loads(message)
                if frame["type"] == kind and when(frame.get("payload") or {}):
                    payload: dict[str, Any] = frame.get("payload") or {}
                    return payload
        except TimeoutError:
            tail = [shown[:160] for shown in self.heard[-5:]]
            raise AssertionError(f"no {kind} came; the last of {len(self.heard)} frames were {tail}") from None

    async def hear_job(self, job_id: str, state: str | None = None) -> dict[str, Any]:
        """The job's record in the next frame that shows it (in this state)."""

        def shows(payload: dict[str, Any]) -> bool:
            record = payload["state"]["jobs"].get(job_id)
            return record is not None and state in (None, record["state"])

        while True:
            message = await self.text()
            frame = json.loads(message) if message.startswith("{") else {"type": ""}
            if frame["type"] in ("JobStates", "JobStateUpdates") and shows(frame["payload"]):
                record: dict[str, Any] = frame["payload"]["state"]["jobs"][job_id]
                return record

    async def say(self, kind: str, payload: Mapping[str, Any] | None = None) -> None:
        message: dict[str, Any] = {"type": kind}
        if payload is not None:
            message["payload"] = payload
        await self.connection.send(json.dumps(message))

    async def raw(self, data: str | bytes) -> None:
        await self.connection.send(data)

    async def settle(self) -> list[dict[str, Any]]:
        """Everything said so far has been handled; the frames that came until then."""
        await self.raw("PING")
        frames: list[dict[str, Any]] = []
        while not (message := await self.text()).startswith("PONG"):
            frames.append(json.loads(message))
        return frames

    async def closed(self) -> int:
        """Wait for the server to close; answers with its code."""
        try:
            while True:
                await self.text()
        except WebsocketDisconnectError as error:
            return int(error.args[0])

    # -- what clients say --

    async def submit(self, definition: Mapping[str, Any] = ECHO, **control: Any) -> str:
        job_id = known_id(definition)
        enqueued: dict[str, Any] = {"id": job_id, "definition": definition, "debug": False, "control": control}
        value = {"type": "Queued", "time": 1, "enqueued": enqueued}
        await self.say("StateChange", {"state": "Queued", "job": job_id, "tag": "", "value": value})
        return job_id

    async def give_up(self, job_id: str, reason: str = "Cancelled", **value: Any) -> None:
        change = {"reason": reason, "time": 1, **value}
        await self.say("StateChange", {"state": "Finished", "job": job_id, "tag": "api", "value": change})


class Worker(Peer):
    """A worker of protocol 2 that does what a test tells it."""

    def __init__(self, connection: Any, name: str) -> None:
        super().__init__(connection)
        self.name = name
        self.welcome: dict[str, Any] = {}
        self._given: deque[dict[str, Any]] = deque()

    async def hear(
        self, kind: str, when: Callable[[dict[str, Any]], object] = lambda payload: True, within_s: float = WAIT_S
    ) -> dict[str, Any]:
        """As of every peer, but no assignment is passed over for good: the next ``hear("Assign")`` gives it."""
        if kind == "Assign" and self._given:
            return self._given.popleft()
        first = len(self.heard)
        payload = await super().hear(kind, when, within_s)
        if kind != "Assign":
            frames = [json.loads(text) for text in self.heard[first:] if text.startswith("{")]
            self._given.extend(frame["payload"] for frame in frames if frame["type"] == "Assign")
        return payload

    async def register(
        self, *, cpus: float = 2, memory_bytes: int = 8 << 30, holding: Mapping[str, int] | None = None, **more: Any
    ) -> dict[str, Any]:
        capacity = {"cpus": cpus, "memory_bytes": memory_bytes, "gpus": [], "tags": [], "max_duration_s": 86_400}
        registration = {"time": 1, "version": "1", "id": self.name, "cpus": cpus, "gpus": 0, "maxJobDuration": "1d"}
        known = {"protocol": 2, "capacity": {**capacity, **more}, "holding": dict(holding or {})}
        await self.say("WorkerRegistration", {**registration, **known})
        return await self.hear("Registered")

    async def ready(self, jobs: int = 1, **free: Any) -> None:
        await self.say("Ready", {"jobs": jobs, **free})

    async def finish(self, given: Mapping[str, Any], code: int = 0, **members: Any) -> dict[str, Any]:
        """Report the end of an assigned job; answers with the acknowledgement."""
        return await self.report(given, finished_value(self.name, code, **members))

    async def report(self, given: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
        job_id, attempt = given["jobId"], given["attempt"]
        change = {"job": job_id, "tag": self.name, "state": "Finished", "attempt": attempt, "value": value}
        await self.say("StateChange", change)
        return await self.hear("Ack", lambda payload: payload["jobId"] == job_id)

    async def log(self, given: Mapping[str, Any], *lines: str, seq: int, step: str = "Running") -> None:
        logs = [[line, 1] for line in lines]
        known = {"jobId": given["jobId"], "attempt": given["attempt"], "step": step, "seq": seq}
        await self.say("JobStatusLogs", {**known, "logs": logs})


class OldWorker(Peer):
    """A worker of protocol 1 that does what a test tells it."""

    def __init__(self, connection: Any, name: str) -> None:
        super().__init__(connection)
        self.name = name

    async def register(self, **more: Any) -> None:
        known = {"time": 1, "version": "0.54.80", "id": self.name, "cpus": 2, "gpus": 0, "maxJobDuration": "5m"}
        await self.say("WorkerRegistration", {**known, **more})

    async def claim(self, job_id: str) -> None:
        value = {"type": "Running", "worker": self.name, "time": 1}
        await self.say("StateChange", {"job": job_id, "tag": self.name, "state": "Running", "value": value})

    async def finish(self, job_id: str, code: int = 0, reason: str = "Success", **members: Any) -> None:
        value = finished_value(self.name, code, reason, **members)
        await self.say("StateChange", {"job": job_id, "tag": self.name, "state": "Finished", "value": value})

    async def log(self, job_id: str, *lines: str, step: str = "Running") -> None:
        await self.say("JobStatusLogs", {"jobId": job_id, "step": step, "logs": [[line, 1] for line in lines]})


class GatedSocket(TestWebsocketConnection):
    """A peer that does not read while its gate is shut: the server's sends wait, as on a full connection."""

    def __init__(self, app: Quart, scope: Any) -> None:
        super().__init__(app, scope)
        self.gate = asyncio.Event()
        self.gate.set()

    async def _asgi_send(self, message: Any) -> None:
        if message["type"] in ("websocket.send", "websocket.close"):
            await self.gate.wait()
        await super()._asgi_send(message)


class Held:
    """Lets calls of one method of an opened service wait until they are let go; ``came`` is set when one does.

    With ``answered`` the call itself is made at once and its answer waits: what was asked for has happened, and who
    asked does not know.
    """

    def __init__(self, service: Any, method: str, *, answered: bool = False) -> None:
        self.service, self.method, self.call = service, method, getattr(service, method)
        self.answered = answered
        self.came, self.go = asyncio.Event(), asyncio.Event()
        setattr(service, method, self._wait)

    async def _wait(self, *args: Any, **options: Any) -> Any:
        answer = await self.call(*args, **options) if self.answered else None
        self.came.set()
        await self.go.wait()
        return answer if self.answered else await self.call(*args, **options)

    def let_go(self) -> None:
        delattr(self.service, self.method)
        self.go.set()

    async def reached(self) -> None:
        """Wait until a call waits here."""
        await asyncio.wait_for(self.came.wait(), WAIT_S)

    async def cancel(self, caller: asyncio.Task[Any]) -> None:
        """Cancel the caller while its call waits here, then let that go: the caller must end as one cancelled."""
        await self.reached()
        caller.cancel()
        await asyncio.sleep(0)
        self.let_go()
        with pytest.raises(asyncio.CancelledError):
            await caller


async def turns(count: int = 50) -> None:
    """Let everything in this loop that waits for nothing outside of it happen: a closed connection ends its tasks."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- time ------------------------------------------------------------------------------------------------------------


@contextmanager
def skipping_time(clock: FakeClock | None = None) -> Iterator[Callable[[], float]]:
    """While inside, the running loop jumps to its next timer when it has nothing else to do; ``clock`` goes along.

    Works where everything happens in this loop: with threads or real sockets a jump would come too early. Answers
    with a function that says how many seconds were skipped.
    """
    loop: Any = asyncio.get_running_loop()
    selector, real_time = loop._selector, loop.time
    real_select = selector.select
    skipped = 0.0

    def select(timeout: float | None = None) -> Any:
        nonlocal skipped
        events = real_select(0 if timeout else timeout)
        if not events and timeout:
            skipped += timeout
            if clock is not None:
                clock.advance(timeout)
        return events

    loop.time = lambda: real_time() + skipped
    selector.select = select
    try:
        yield lambda: skipped
    finally:
        del loop.time, selector.select
