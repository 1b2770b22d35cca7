"""An older server, as far as a worker can see one: its sockets, its blobs, its rules about claims and finishes.

Written from the published protocol. It knows no ``Registered``, no ``Assign``, no ``Ack``: a worker gets the whole
queue, announces what it runs, and learns what became of it from the next list. What such servers do badly stays as it
is, because workers have to live with it: a cancelled job is only missing from the next whole list, a second connection
of one worker gets no broadcasts while the first is open, lines of a worker that does not hold the job are dropped.

Blobs live with a second server on another port, as they do with a bucket: ``/f/KEY`` redirects there without reading
a body and without looking whether the blob exists.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import WSMsgType, web

__all__ = ["OldServer", "Peer"]

_UNSENDABLE = ("WorkerLost", "JobReplacedByClient", "Cancelled", "Deleted")
_RESULTS = ("Success", "Error", "TimedOut")
_WAIT_S = 30.0


def _now() -> int:
    return int(time.time() * 1000)


@dataclass(eq=False)
class Peer:
    """One worker's socket. Shape: ``said`` are all its messages, PINGs left out, in order, with the time they came."""

    socket: web.WebSocketResponse
    id: str = ""
    said: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)

    async def say(self, kind: str, payload: Mapping[str, Any] | None = None) -> None:
        with suppress(ConnectionError, RuntimeError):
            await self.socket.send_str(json.dumps({"type": kind} | ({} if payload is None else {"payload": payload})))

    def cut(self) -> None:
        """End the connection as a broken network does."""
        transport = self.socket._req.transport if self.socket._req is not None else None
        if transport is not None:
            transport.abort()


class OldServer:
    """One queue of such a server. Use as an async context manager.

    Shape:  ``peers`` are all connections that ever were; ``workers`` those that are registered, by id; ``jobs`` the
            queue's records, with ``finished`` in those that ended; ``relayed`` the log lines that clients would have
            seen; ``asked`` are (method, path) of all requests for blobs; ``store`` the blobs.
    """

    def __init__(self, *, lists_every_s: float = 10.0, lost_every_s: float = 5.0) -> None:
        self.peers: list[Peer] = []
        self.workers: dict[str, Peer] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.definitions: dict[str, dict[str, Any]] = {}
        self.relayed: dict[str, list[list[Any]]] = {}
        self.ignored: list[dict[str, Any]] = []
        """Finishes that lost against what the record said already."""
        self.statuses: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str]] = []
        self.store: dict[str, bytes] = {}
        self.holds_claims = False
        """While it is set, claims are heard but not looked at, as if they were still on their way."""
        self.url = ""
        self._held_claims: list[dict[str, Any]] = []
        self._timers = ((lists_every_s, self.show), (lost_every_s, self._requeue_lost))
        self._runners: list[web.AppRunner] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Condition()
        self._store_url = ""
        self._port = 0

    async def __aenter__(self) -> Self:
        store = web.Application(client_max_size=1 << 30)
        store.router.add_get("/bucket/{key}", self._stored)
        store.router.add_put("/bucket/{key}", self._put)
        self._store_url = await self._listen(store, 0)
        await self.open()
        return self

    async def open(self) -> None:
        """Listen, on the same port after a ``shut``."""
        app = web.Application()
        app.router.add_get("/q/{queue}/worker", self._accept)
        app.router.add_get("/f/{key}/exists", self._exists)
        app.router.add_route("GET", "/f/{key}", self._redirect)
        app.router.add_route("PUT", "/f/{key}", self._redirect)
        self.url = await self._listen(app, self._port)
        self._port = int(self.url.rpartition(":")[2])
        self._tasks = [asyncio.create_task(self._every(*timer)) for timer in self._timers]

    async def shut(self) -> None:
        """Close the sockets and stop listening, as a server does that is restarted; its records stay."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in list(self.peers):
            peer.cut()
        await self._runners.pop().cleanup()

    async def __aexit__(self, *_: object) -> None:
        while self._runners:
            await self.shut()

    async def _listen(self, app: web.Application, port: int) -> str:
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        self._runners.append(runner)
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    # -- what a test does and asks -------------------------------------------------------------------------------------

    async def until(self, is_so: Callable[[], Any], within_s: float = _WAIT_S) -> Any:
        """Wait until something holds; looked at after every message and every change of a record."""
        async with asyncio.timeout(within_s), self._news:
            await self._news.wait_for(is_so)
        return is_so()

    def said(self, kind: str, worker: str = "") -> list[dict[str, Any]]:
        """All messages of this kind, of one worker or of all, in the order they came."""
        found = [said for peer in self.peers if worker in ("", peer.id) for said in peer.said]
        return [payload for _, said, payload in sorted(found, key=lambda entry: entry[0]) if said == kind]

    def changes(self, job: str, state: str, worker: str = "") -> list[dict[str, Any]]:
        return [c for c in self.said("StateChange", worker) if (c["job"], c["state"]) == (job, state)]

    def state(self, job: str) -> str:
        """``Queued``, ``Running``, the reason of a job that has ended, or empty for none."""
        record = self.jobs.get(job, {})
        return str(record.get("finishedReason") or record.get("state") or "")

    async def submit(self, definition: Mapping[str, Any], **more: Any) -> str:
        """Queue a job, and show the list as after every submit. A job that is there already stays as it is."""
        text = json.dumps(definition, sort_keys=True, separators=(",", ":"))
        job = hashlib.sha256(text.encode()).hexdigest()
        if self.state(job) in ("", *_UNSENDABLE):
            now = _now()
            self.definitions[job] = dict(definition)
            shown = {key: definition[key] for key in ("requirements", "tags") if key in definition}
            self.jobs[job] = {"state": "Queued", "queuedTime": now, "time": now, "worker": "", **shown, **more}
        await self.show()
        return job

    async def finished(self, job: str) -> dict[str, Any]:
        """The finished value of a job, once it has a result."""
        await self.until(lambda: self.state(job) in _RESULTS)
        value: dict[str, Any] = self.jobs[job]["finished"]
        return value

    async def cancel(self, job: str) -> None:
        """Its record ends; what is sent is an update without a job in it, because a cancelled one is not sent."""
        self.jobs[job] |= {"state": "Finished", "finishedReason": "Cancelled", "time": _now()}
        await self._tell("JobStateUpdates", [job])

    async def delete(self, job: str) -> None:
        """As a client does that wants a job to be run again."""
        self.jobs[job] |= {"state": "Finished", "finishedReason": "Deleted", "time": _now()}
        for peer in list(self.workers.values()):
            await peer.say("ClearJobCache", {"jobId": job, "namespace": "_"})
        await self._tell("JobStateUpdates", [job])

    async def show(self) -> None:
        """The whole list, to all registered workers."""
        await self._tell("JobStates", list(self.jobs))

    async def ask_status(self) -> None:
        for peer in list(self.workers.values()):
            await peer.say("StatusRequest")

    async def let_claims_through(self) -> None:
        self.holds_claims = False
        for change in self._held_claims:
            await self._claim(change)
        self._held_claims.clear()

    # -- sockets -------------------------------------------------------------------------------------------------------

    async def _accept(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False, max_msg_size=0)
        await socket.prepare(request)
        peer = Peer(socket)
        self.peers.append(peer)
        await peer.say("JobStates", self._shown(list(self.jobs), whole=True))
        try:
            async for received in socket:
                if received.type is WSMsgType.TEXT:
                    await self._hear(peer, received.data)
        finally:
            if self.workers.get(peer.id) is peer:
                del self.workers[peer.id]
            await self._notify()
        return socket

    async def _hear(self, peer: Peer, text: str) -> None:
        if text == "PING":
            await peer.socket.send_str(f"PONG {peer.id or 'unknown'}")
            return
        message = json.loads(text)
        kind, payload = message["type"], message.get("payload") or {}
        peer.said.append((time.monotonic(), kind, payload))
        match kind:
            case "WorkerRegistration":
                peer.id = payload["id"]
                self.workers.setdefault(peer.id, peer)
                await self.show()
            case "StateChange" if payload["state"] == "Running":
                await self._claim(payload)
            case "StateChange" if payload["state"] == "Finished":
                await self._finish(payload)
            case "RequestJobDefinitions":
                found = {job: self.definitions[job] for job in payload["jobIds"] if job in self.definitions}
                for worker in list(self.workers.values()) if found else ():
                    await worker.say("BroadcastJobDefinitions", {"definitions": found})
            case "JobStatusLogs":
                record = self.jobs.get(payload["jobId"], {})
                if record.get("state") == "Running" and record["worker"] == peer.id:
                    self.relayed.setdefault(payload["jobId"], []).extend(payload["logs"])
            case "WorkerStatusResponse":
                self.statuses.append(payload)
        await self._notify()

    async def _claim(self, change: dict[str, Any]) -> None:
        """Of two workers the one whose id sorts first has the job."""
        if self.holds_claims:
            self._held_claims.append(change)
            return
        job, worker, record = change["job"], change["value"]["worker"], self.jobs.get(change["job"])
        wins = record is not None and (
            record["state"] == "Queued" or (record["state"] == "Running" and worker < record["worker"])
        )
        if record is not None and wins:
            record |= {"state": "Running", "worker": worker, "time": change["value"]["time"]}
            await self._tell("JobStateUpdates", [job])

    async def _finish(self, change: dict[str, Any]) -> None:
        """The first success counts; it takes the place of an error, and an error that of a time limit."""
        job, value, record = change["job"], change["value"], self.jobs.get(change["job"])
        reason, rank = value["reason"], ("TimedOut", "Error", "Success")
        before = self.state(job)
        if (
            record is None
            or before in ("Cancelled", "Deleted")
            or (before in rank and rank.index(before) >= rank.index(reason))
        ):
            self.ignored.append(change)
            return
        record |= {"state": "Finished", "finishedReason": reason, "time": value["time"], "finished": value}
        record["worker"] = value["worker"]
        await self._tell("JobStateUpdates", [job])

    async def _requeue_lost(self) -> None:
        for job, record in self.jobs.items():
            if record["state"] == "Running" and record["worker"] not in self.workers:
                record |= {"state": "Queued", "worker": "", "time": _now()}
                await self._tell("JobStateUpdates", [job])

    def _shown(self, jobs: list[str], *, whole: bool) -> dict[str, Any]:
        shown = {
            job: {name: value for name, value in self.jobs[job].items() if name != "finished"}
            for job in jobs
            if self.state(job) not in _UNSENDABLE
        }
        return {"state": {"jobs": shown}, "isSubset": not whole}

    async def _tell(self, kind: str, jobs: list[str]) -> None:
        for peer in list(self.workers.values()):
            await peer.say(kind, self._shown(jobs, whole=kind == "JobStates"))
        await self._notify()

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _every(self, period_s: float, what: Callable[[], Any]) -> None:
        while True:
            await asyncio.sleep(period_s)
            await what()

    # -- blobs ---------------------------------------------------------------------------------------------------------

    def add(self, content: bytes) -> str:
        """Hold a blob; its key."""
        key = hashlib.sha256(content).hexdigest()
        self.store[key] = content
        return key

    def put_to(self, key: str) -> int:
        """How often a blob was uploaded."""
        return self.asked.count(("PUT", f"/bucket/{key}"))

    async def _exists(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path))
        there = request.match_info["key"] in self.store
        return web.json_response({"exists": there}, status=200 if there else 404)

    async def _redirect(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path))
        where = f"{self._store_url}/bucket/{request.match_info['key']}?X-Amz-Signature=abc"
        return web.Response(status=302, headers={"Location": where})

    async def _stored(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path))
        content = self.store.get(request.match_info["key"])
        return web.Response(status=404, text="NoSuchKey") if content is None else web.Response(body=content)

    async def _put(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path))
        self.store[request.match_info["key"]] = await request.read()
        return web.Response()
