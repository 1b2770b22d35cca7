"""Runs inside Pyodide, in a Durable Object: the app on D1 as a queue's object has it, and what that costs D1.

``exam`` is asked for one of ``QUESTIONS`` by name and answers with JSON.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import js
from pyodide import ffi

import asman_ttl
from asman import operations as ops
from asman.app import create_app
from asman.config import Config
from asman.errors import AsmanError
from asman.hookspecs import hookimpl
from asman.job import Attempt, Job, State
from asman.maintenance import sweep
from asman.matching import Capacity
from asman.services import Services
from asman_cloudflare.d1 import D1JobStore
from asman_cloudflare.d1_database import Trip
from asman_cloudflare.owned import OwnedJobStore

ROOMY = Capacity(cores=1e6, memory_bytes=None, gpus=0)
JOBS = 20


@dataclass
class Room:
    """One object's store on the binding. Shape: ``trips`` are the statements so far; ``now`` is the app's time."""

    env: Any
    queue: str
    trips: list[Trip] = field(default_factory=list)
    now: float = 1_800_000_000.0
    plain: bool = False

    @hookimpl
    def asman_job_store(self, url: str, config: Config) -> Any:
        if not url.startswith("d1:"):
            return None
        store = D1JobStore(self.env.JOBS, due_of=self.queue, trace=self.trips.append)
        return store if self.plain else OwnedJobStore(store, self.queue)

    @asynccontextmanager
    async def services(self) -> AsyncIterator[Services]:
        config = Config(backend="d1://JOBS", blobs="memory:")
        app = create_app(config, [asman_ttl, self], discover=False, clock=lambda: self.now)
        await app.startup()
        try:
            yield app.extensions["asman"]
        finally:
            await app.shutdown()

    async def cost(self, work: Awaitable[Any]) -> tuple[Any, dict[str, int]]:
        """What the work answers, and what it cost D1."""
        self.trips.clear()
        answer = await work
        return answer, {
            "statements": len(self.trips),
            "read": sum(trip.rows_read for trip in self.trips),
            "written": sum(trip.rows_written for trip in self.trips),
        }


async def submit(services: Services, queue: str, text: str) -> Job:
    body = {"definition": {"image": "alpine:3.19.1", "command": text}}
    return (await ops.submit(services, queue, ops.read_submission(services, body))).job


async def report(services: Services, job: Job) -> None:
    result = {"StatusCode": 0, "logs": [], "isTimedOut": False, "outputs": {}}
    value = {"type": "Finished", "reason": "Success", "worker": "w", "time": 1, "result": result}
    await ops.report(services, job.queue, job.job_id, "w", job.attempt, value)


# --- questions --------------------------------------------------------------------------------------------------------


async def schema(env: Any) -> Any:
    """Several open a database without tables at once; then one that is newer, and one that is another's."""

    async def opened(what: str = "") -> str:
        for sql in filter(None, what.split(";")):
            await env.JOBS.prepare(sql).run()
        try:
            async with D1JobStore(env.JOBS) as store:
                return json.dumps([[state, n] for (state, _), n in (await store.counts(None)).items()])
        except AsmanError as error:
            return f"{type(error).__name__}: {error.message}"

    return {
        "at once": await asyncio.gather(*(opened() for _ in range(5))),
        "again": await opened(),
        "newer": await opened("INSERT INTO asman_schema (version) VALUES (99)"),
        "foreign": await opened("DROP TABLE asman_schema"),
        "back": await opened(
            "CREATE TABLE asman_schema (version INTEGER PRIMARY KEY);INSERT INTO asman_schema VALUES (1)"
        ),
    }


async def costs(env: Any) -> Any:
    """Each step of many jobs' lives, in statements and rows of D1: per job, and the most of any job."""
    room = Room(env, "costs")
    told: dict[str, list[dict[str, int]]] = {}
    async with room.services() as services:

        async def one(step: str, work: Awaitable[Any]) -> Any:
            answer, cost = await room.cost(work)
            told.setdefault(step, []).append(cost)
            return answer

        for number in range(-1, JOBS):  # the first brings what the object does not know yet
            prefix = "first " if number < 0 else ""
            job = await one(f"{prefix}submit", submit(services, "costs", f"echo {number}"))
            ((job, _),) = await one(f"{prefix}claim", ops.claim(services, "costs", "w", ROOMY, 1))
            room.now += 1.0
            renewed = ops.renew(services, "costs", "w", {job.job_id: job.attempt})
            await one(f"{prefix}renewal", renewed)
            lines = [[f"line {n}", 1_800_000_000_000 + n] for n in range(20)]
            await one(f"{prefix}log of 20 lines", ops.keep_lines(services, job, "docker run", lines))
            await one(f"{prefix}finish", report(services, job))
            room.now += 1.0
        await one("resubmit", submit(services, "costs", "echo 0"))
        room.now += services.config.listed_s + 1.0
        _, cost = await room.cost(sweep(services))
        told["sweep: off the listing"] = [{name: n / (JOBS + 1) for name, n in cost.items()}]
        room.now += 40 * 86_400.0
        _, cost = await room.cost(sweep(services))
        told["sweep: expire"] = [{name: n / (JOBS + 1) for name, n in cost.items()}]
        room.now += 2 * 86_400.0
        _, cost = await room.cost(sweep(services))
        told["sweep: delete"] = [{name: n / (JOBS + 1) for name, n in cost.items()}]
        left = await services.jobs.scan()
    mean = {
        step: {name: round(sum(c[name] for c in each) / len(each), 2) for name in each[0]}
        for step, each in told.items()
    }
    most = {step: max(cost["statements"] for cost in each) for step, each in told.items()}
    return {"mean": mean, "most": most, "left": sum(job.queue == "costs" for job in left[0])}


async def backlog(env: Any) -> Any:
    """What claims cost an object that has just begun, with a queue that was there before it."""
    before, room = Room(env, "backlog"), Room(env, "backlog")
    async with before.services() as services:
        await asyncio.gather(*(submit(services, "backlog", f"echo {n}") for n in range(200)))
    async with room.services() as services:
        claimed: list[str] = []

        async def claims() -> None:
            for _ in range(100):
                ((job, definition),) = await ops.claim(services, "backlog", "w", ROOMY, 1)
                assert definition is not None
                claimed.append(job.job_id)

        _, cost = await room.cost(claims())
    return {"claims": len(set(claimed)), **cost}


async def claims_here(env: Any) -> Any:
    """Fifty claims at once in one object, without and with its memory."""
    told = {}
    for name, plain in (("plain", True), ("owned", False)):
        room = Room(env, f"claims-{name}", plain=plain)
        async with room.services() as services:
            await asyncio.gather(*(submit(services, room.queue, f"echo {n}") for n in range(50)))
            reserved: set[str] = set()
            claiming = (ops.claim(services, room.queue, f"w{n}", ROOMY, 1, reserved) for n in range(50))
            given, cost = await room.cost(asyncio.gather(*claiming))
            ids = [job.job_id for each in given for job, _ in each]
            counted = await services.jobs.counts(room.queue)
        told[name] = {"given": len(ids), "distinct": len(set(ids)), **cost, "counts": sorted(counted.values())}
    return told


async def claims_of(env: Any, queue: str) -> list[str]:
    """As one of several objects: claim until nothing is left."""
    room = Room(env, queue)
    async with room.services() as services:
        found: list[str] = []
        idle = 0
        while idle < 2:
            reserved: set[str] = set()
            claiming = (ops.claim(services, queue, f"w{n}", ROOMY, 1, reserved) for n in range(4))
            answers = await asyncio.gather(*claiming)
            ids = [job.job_id for each in answers for job, _ in each]
            idle = 0 if ids else idle + 1
            found += ids
    return found


async def claims_of_several(env: Any) -> Any:
    """Five objects claim of one queue at once, though only one should: still every job is given out once."""
    queue = "claims-several"
    async with Room(env, queue).services() as services:
        await asyncio.gather(*(submit(services, queue, f"echo {n}") for n in range(50)))

    async def other(n: int) -> list[str]:
        body = json.dumps([f"claims_of {queue}", ""])
        request = js.Request.new(
            f"http://other-{n}/", ffi.to_js({"method": "POST", "body": body}, dict_converter=js.Object.fromEntries)
        )
        answer = await env.ROOM.get(env.ROOM.idFromName(f"other-{n}")).fetch(request)
        return list(json.loads(await answer.text()))

    given = await asyncio.gather(*(other(n) for n in range(5)))
    ids = [job_id for each in given for job_id in each]
    return {"given": len(ids), "distinct": len(set(ids)), "objects": sum(bool(each) for each in given)}


async def errors(env: Any) -> Any:
    """What D1 refuses hurts nobody who went along with it."""
    told: dict[str, Any] = {}
    store = D1JobStore(env.JOBS)
    try:
        await store.load("q", "j")
    except AsmanError as error:
        told["closed"] = type(error).__name__
    async with store:
        jobs = [
            Job(queue="errors", job_id=f"{n:064x}", state=State.QUEUED, version=1, expires_at=4e9) for n in range(20)
        ]
        jobs[7] = replace(jobs[7], message="x" * 3_000_000)
        saves = (store.save(job, expected=0, documents={"definition": b"d"}) for job in jobs)
        results = await asyncio.gather(*saves, return_exceptions=True)
        told["together"] = [type(result).__name__ for result in results]
        told["kept"] = len(await store.list("errors", states=[State.QUEUED]))
        stale = [store.save(replace(job, version=6), expected=5) for job in jobs[:3]]
        right = [store.save(replace(job, version=2), expected=1) for job in jobs[3:6]]
        results = await asyncio.gather(*stale, *right, return_exceptions=True)
        told["conflicts"] = [type(result).__name__ for result in results]
        await env.JOBS.prepare("ALTER TABLE counters RENAME TO gone").run()
        try:
            await store.counts("errors")
        except AsmanError as error:
            told["broken"] = f"{type(error).__name__}: {error.message}"
        await env.JOBS.prepare("ALTER TABLE gone RENAME TO counters").run()
    return told


class Losing:
    """The binding, on a line that breaks. Shape: so many answers are lost, of trips that D1 has carried out."""

    def __init__(self, binding: Any) -> None:
        self._binding = binding
        self.lost = 0

    def prepare(self, sql: str) -> Any:
        return self._binding.prepare(sql)

    async def batch(self, statements: Any) -> Any:
        answer = await self._binding.batch(statements)
        if self.lost:
            self.lost -= 1
            raise OSError("Network connection lost.")
        return answer


async def lost_answers(env: Any) -> Any:
    """A save whose answer is lost was done; if the next answers are lost too, the caller is told to repeat it."""
    told: dict[str, Any] = {}
    line = Losing(env.JOBS)
    job = Job(queue="lost", job_id="b" * 64, state=State.QUEUED, version=1, expires_at=4e9)
    async with D1JobStore(line) as store:
        for name, lost, version in (("new", 1, 1), ("known", 1, 2), ("silent", 2, 3)):
            line.lost = lost
            try:
                await store.save(replace(job, version=version), expected=version - 1)
                told[name] = "saved"
            except AsmanError as error:
                told[name] = type(error).__name__
        line.lost = 1
        try:
            await store.save(replace(job, version=9, worker="other"), expected=8)
        except AsmanError as error:
            told["stale"] = type(error).__name__
        kept = await store.load("lost", job.job_id)
    return {**told, "kept": kept.version if kept else 0}


async def time(env: Any) -> Any:
    """What is due, and of whom."""
    told: dict[str, Any] = {}
    async with D1JobStore(env.JOBS) as store, D1JobStore(env.JOBS, due_of="time-1") as owner:
        for n in range(30):
            job = Job(queue=f"time-{n % 3}", job_id=f"{n:064x}", state=State.QUEUED, version=1, expires_at=float(n))
            await store.save(job, expected=0)
        told["all"] = [job.expires_at for job in await store.due(9.0)]
        told["first"] = [job.expires_at for job in await store.due(9.0, limit=4)]
        told["own"] = [job.expires_at for job in await owner.due(9.0)]
        told["overdue"] = await store.overdue(1.0)
        told["next"] = [await store.next_due("time-2"), await store.next_due("time-none")]
    return told


async def guards(env: Any) -> Any:
    """A record that others deleted and made anew up to the very same version is not written over by halves."""
    job = Job(queue="guards", job_id="a" * 64, state=State.QUEUED, version=1, queued_at=1.0, expires_at=4e9)
    history = (Attempt(number=1, worker="w", started_at=1.0, ended_at=2.0, end="lost"),)
    async with D1JobStore(env.JOBS) as one, D1JobStore(env.JOBS) as two:
        await one.save(job, expected=0)
        await two.delete("guards", job.job_id, expected=1)
        await two.save(replace(job, state=State.FINISHED, queued_at=7.0), expected=0)
        after = replace(job, version=2, state=State.RUNNING, history=history)
        await one.save(after, expected=1)
        listed = await two.list("guards", states=[State.RUNNING])
        counted = await two.counts("guards")
    return {"listed": listed == [after], "counts": [[state, n] for (state, _), n in counted.items()]}


QUESTIONS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    each.__name__: each
    for each in (schema, costs, backlog, claims_here, claims_of_several, errors, lost_answers, time, guards)
}


async def exam(question: str, only: str, env: Any, state: Any, queue: str) -> str:
    name, _, rest = question.partition(" ")
    return json.dumps(await (claims_of(env, rest) if rest else QUESTIONS[name](env)))
