"""Peers that speak protocol 1 and nothing else, written from the published protocol, against the real app.

``Mirror`` is a worker as they are in the field: it registers every ten seconds, keeps a copy of the queue, asks for
one definition at a time, announces ``Running``, says ``Finished`` once, and pings. ``Page`` is a client as pages and
commands are: it reads every frame as JSON (and fails on any other), replaces or merges what it knows, and repeats its
submit every second until it sees the job. Time is skipped, not waited for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asman.identity import known_id
from asman.job import State
from asman.maintenance import sweep
from in_process import (
    ECHO,
    InProcess,
    Worker,
    finished_value,
    hello,
    in_process,
    skipping_time,
)

Q = "old-peers"


# --- the peers -------------------------------------------------------------------------------------------------------


class Mirror:
    """A worker in the field. Shape: ``ran`` are the jobs it reported, ``dropped`` those it had to let go."""

    def __init__(self, connection: Any, name: str, *, cpus: int = 1, run_s: float = 3.0) -> None:
        self.connection, self.name, self.cpus, self.run_s = connection, name, cpus, run_s
        self.jobs: dict[str, dict[str, Any]] = {}
        self.definitions: dict[str, Any] = {}
        self.asked: set[str] = set()
        self.held: dict[str, asyncio.Task[None]] = {}
        self.ran: list[str] = []
        self.dropped: list[str] = []
        self.pongs: list[str] = []
        self.statuses = 0
        self.cleared: list[dict[str, Any]] = []
        self._news = asyncio.Condition()

    async def live(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.every(10.0, self.register))
            tasks.create_task(self.every(5.0, self.ping))
            while True:
                message = await self.connection.receive()
                await (self.pong(message) if message.startswith("PONG") else self.hear(json.loads(message)))
                async with self._news:
                    self._news.notify_all()

    async def until(self, holds: Callable[[], object], within_s: float = 60.0) -> None:
        async with asyncio.timeout(within_s), self._news:
            await self._news.wait_for(lambda: bool(holds()))

    async def every(self, period_s: float, act: Callable[[], Any]) -> None:
        while True:
            await act()
            await asyncio.sleep(period_s)

    async def say(self, kind: str, payload: Mapping[str, Any]) -> None:
        await self.connection.send(json.dumps({"type": kind, "payload": payload}))

    async def register(self) -> None:
        known = {"time": 1, "version": "0.54.80", "id": self.name, "cpus": self.cpus, "gpus": 0}
        await self.say("WorkerRegistration", {**known, "maxJobDuration": "5m"})

    async def ping(self) -> None:
        await self.connection.send("PING")

    async def pong(self, message: str) -> None:
        self.pongs.append(message)
        if message != f"PONG {self.name}":
            await self.register()

    async def hear(self, frame: dict[str, Any]) -> None:
        payload = frame.get("payload")
        match frame["type"]:
            case "JobStates":
                assert payload["isSubset"] is False
                self.jobs = dict(payload["state"]["jobs"])
            case "JobStateUpdates":
                assert payload["isSubset"] is True
                self.jobs.update(payload["state"]["jobs"])
            case "BroadcastJobDefinitions":
                self.definitions.update(payload["definitions"])
            case "StatusRequest":
                assert payload is None
                self.statuses += 1
                queue = {
                    job: {"jobId": job, "finished": True, "definition": self.definitions[job]} for job in self.held
                }
                answer = {"time": 1, "id": self.name, "cpus": self.cpus, "gpus": 0, "queue": queue}
                await self.say("WorkerStatusResponse", answer)
            case "ClearJobCache":
                self.cleared.append(payload)
        await self.reconcile()

    async def reconcile(self) -> None:
        for job_id in list(self.held):
            record = self.jobs.get(job_id)
            is_mine = record is not None and record["state"] == "Running" and record["worker"] == self.name
            if record is not None and record["state"] == "Queued":
                await self.claim(job_id)
            elif record is None or record["state"] == "Finished" or (record["state"] == "Running" and not is_mine):
                self.held.pop(job_id).cancel()
                self.dropped.append(job_id)
        for job_id, record in sorted(self.jobs.items(), key=lambda entry: entry[1]["queuedTime"]):
            if job_id not in self.definitions and job_id not in self.asked:
                self.asked.add(job_id)
                await self.say("RequestJobDefinitions", {"jobIds": [job_id]})
            is_free = len(self.held) < self.cpus and job_id not in self.held
            if record["state"] == "Queued" and job_id in self.definitions and is_free:
                self.held[job_id] = asyncio.create_task(self.run(job_id))

    async def claim(self, job_id: str) -> None:
        value = {"type": "Running", "worker": self.name, "time": 1}
        await self.say("StateChange", {"job": job_id, "tag": self.name, "state": "Running", "value": value})

    async def run(self, job_id: str) -> None:
        await self.claim(job_id)
        await self.say("JobStatusLogs", {"jobId": job_id, "step": "Running", "logs": [["hi\n", 1]]})
        await asyncio.sleep(self.run_s)
        self.ran.append(job_id)
        self.held.pop(job_id, None)
        value = finished_value(self.name)
        await self.say("StateChange", {"job": job_id, "tag": self.name, "state": "Finished", "value": value})


@asynccontextmanager
async def mirror(served: InProcess, name: str = "wrk-1", **options: Any) -> AsyncIterator[Mirror]:
    async with served.client.websocket(f"/q/{Q}/worker") as connection:
        worker = Mirror(connection, name, **options)
        task = asyncio.create_task(worker.live())
        try:
            yield worker
        finally:
            tasks = [task, *worker.held.values()]
            for one in tasks:
                one.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        faults = [end for end in ended if isinstance(end, Exception)]
        assert not faults, faults


class Page:
    """A client in the field. Shape: ``seen`` are the states each job was shown in, repeats left out."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.jobs: dict[str, dict[str, Any]] = {}
        self.seen: dict[str, list[str]] = {}
        self.logs: list[dict[str, Any]] = []
        self.workers: list[dict[str, Any]] = []
        self.kinds: list[str] = []
        self._news = asyncio.Condition()

    async def live(self) -> None:
        while True:
            frame = json.loads(await self.connection.receive())
            assert frame["payload"], f"a page needs a payload in every frame: {frame}"
            self.kinds.append(frame["type"])
            match frame["type"]:
                case "JobStates" | "JobStateUpdates":
                    shown = frame["payload"]["state"]["jobs"]
                    self.jobs = shown if not frame["payload"].get("isSubset") else {**self.jobs, **shown}
                    for job_id, record in shown.items():
                        states = self.seen.setdefault(job_id, [])
                        if states[-1:] != [record["state"]]:
                            states.append(record["state"])
                case "JobStatusPayload":
                    self.logs.append(frame["payload"])
                case "Workers":
                    self.workers = frame["payload"]["workers"]
            async with self._news:
                self._news.notify_all()

    async def until(self, holds: Callable[[], object], within_s: float = 120.0) -> None:
        async with asyncio.timeout(within_s), self._news:
            await self._news.wait_for(lambda: bool(holds()))

    async def submit(self, definition: Mapping[str, Any] = ECHO, **control: Any) -> str:
        """Push a job and repeat it every second until it is shown."""
        job_id = known_id(definition)
        while job_id not in self.jobs:
            enqueued = {"id": job_id, "definition": definition, "debug": False, "control": control}
            value = {"type": "Queued", "time": 1, "enqueued": enqueued}
            change = {"state": "Queued", "job": job_id, "tag": "", "value": value}
            await self.connection.send(json.dumps({"type": "StateChange", "payload": change}))
            try:
                await self.until(lambda: job_id in self.jobs, within_s=1.0)
            except TimeoutError:
                continue
        return job_id

    async def end(self, job_id: str, reason: str, **value: Any) -> None:
        change = {"state": "Finished", "job": job_id, "tag": "", "value": {"reason": reason, "time": 1, **value}}
        await self.connection.send(json.dumps({"type": "StateChange", "payload": change}))


@asynccontextmanager
async def page(served: InProcess, path: str = f"/q/{Q}/client") -> AsyncIterator[Page]:
    async with served.client.websocket(path) as connection:
        client = Page(connection)
        task = asyncio.create_task(client.live())
        try:
            yield client
        finally:
            task.cancel()
            (ended,) = await asyncio.gather(task, return_exceptions=True)
        assert not isinstance(ended, Exception), ended


# --- a life ----------------------------------------------------------------------------------------------------------


async def test_a_page_sees_queued_running_finished_and_nothing_else_and_the_result_is_there(served: InProcess) -> None:
    with skipping_time(served.clock):
        async with page(served) as client, mirror(served) as worker:
            job_id = await client.submit()
            await client.until(lambda: client.jobs.get(job_id, {}).get("state") == "Finished")
            result = (await served.get(f"/j/{job_id}/result.json"))["data"]
            await asyncio.sleep(25.0)
    assert client.seen[job_id] == ["Queued", "Running", "Finished"]
    assert worker.ran == [job_id]
    assert result["finished"]["result"]["StatusCode"] == 0
    assert result["finishedReason"] == "Success"
    assert client.logs == [{"jobId": job_id, "step": "Running", "logs": [["hi\n", 1]]}]


async def test_a_mirroring_worker_keeps_a_long_job_while_its_socket_is_open(served: InProcess) -> None:
    """Ten minutes: its lease is renewed many times over, with a sweep every two seconds."""
    with skipping_time(served.clock):
        async with page(served) as client, mirror(served, run_s=600.0) as worker:
            job_id = await client.submit()
            for _ in range(310):
                await asyncio.sleep(2.0)
                await sweep(served.services)
            assert worker.ran == [job_id]
    assert client.seen[job_id] == ["Queued", "Running", "Finished"]
    assert (await served.job(Q, job_id)).attempt == 1


async def test_a_lease_shorter_than_the_lists_interval_is_renewed_in_time() -> None:
    async with in_process(lease_s=4) as served:
        with skipping_time(served.clock):
            async with mirror(served, run_s=60.0) as worker:
                job_id = await served.submit(Q)
                for _ in range(40):
                    await asyncio.sleep(2.0)
                    await sweep(served.services)
                assert worker.ran == [job_id]
        assert served.witness.states(job_id) == ["Queued", "Running", "Finished"]


async def test_an_idle_worker_gets_the_list_at_least_every_twenty_seconds(served: InProcess) -> None:
    with skipping_time():
        async with served.old_worker(Q) as worker:
            for _ in range(4):
                payload = await worker.hear("JobStates", within_s=20.0)
                assert payload == {"state": {"jobs": {}}, "isSubset": False}


async def test_a_worker_is_pinged_back_by_its_name_and_registers_over_and_over_without_noise(served: InProcess) -> None:
    with skipping_time(served.clock):
        async with page(served) as client, mirror(served) as worker:
            await asyncio.sleep(61.0)
            assert set(worker.pongs[1:]) == {"PONG wrk-1"}
            assert [w["id"] for w in client.workers] == ["wrk-1"]
        assert client.kinds.count("Workers") == 2, "one on connecting, one when the worker came; none for repeats"


async def test_two_jobs_on_one_worker_run_one_after_the_other_in_order(served: InProcess) -> None:
    with skipping_time(served.clock):
        async with page(served) as client:
            ids = []
            for n in range(3):
                ids.append(await client.submit(hello(n)))
                served.clock.advance(1)
            async with mirror(served) as worker:
                await client.until(lambda: all(client.jobs[i]["state"] == "Finished" for i in ids))
                assert worker.ran == ids


async def _run_what_comes(worker: Worker, ran: list[str]) -> None:
    while True:
        given = await worker.hear("Assign", within_s=1000.0)
        await asyncio.sleep(1.5)
        assert (await worker.finish(given))["accepted"]
        ran.append(given["jobId"])
        await worker.ready(1)


async def test_old_and_new_workers_share_one_queue_and_every_job_has_one_result(served: InProcess) -> None:
    with skipping_time(served.clock):
        async with page(served) as client, mirror(served, "old", run_s=1.0) as old:
            async with served.worker(Q, "new", jobs=1) as new:
                by_new: list[str] = []
                task = asyncio.create_task(_run_what_comes(new, by_new))
                ids = [await client.submit(hello(n)) for n in range(8)]
                await client.until(lambda: all(client.jobs[i]["state"] == "Finished" for i in ids))
                task.cancel()
    accepted = {i: (await served.job(Q, i)).result_worker for i in ids}
    assert {i for i, worker in accepted.items() if worker == "new"} == set(by_new)
    assert {i for i, worker in accepted.items() if worker == "old"} <= set(old.ran)
    assert by_new, "the new worker got nothing"
    assert old.ran, "the old worker got nothing"
    assert all(client.seen[i] == ["Queued", "Running", "Finished"] for i in ids)


# --- two claims, and lost connections --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preferred", "other"),
    [("w1", "w2"), ("w-1", "w1"), ("W1", "w2"), ("w1", "w10"), ("w10", "w9"), ("_w", "-w"), ("aB", "Ab"), ("1", "a")],
)
@pytest.mark.parametrize("preferred_first", [True, False])
async def test_of_two_claims_the_preferred_id_wins_whoever_came_first(
    served: InProcess, preferred: str, other: str, preferred_first: bool
) -> None:
    job_id = await served.submit(Q)
    names = [preferred, other] if preferred_first else [other, preferred]
    async with served.old_worker(Q, names[0]) as first, served.old_worker(Q, names[1]) as second:
        await first.claim(job_id)
        await first.settle()
        await second.claim(job_id)
        await second.settle()
        assert (await served.job(Q, job_id)).worker == preferred
        loser = second if preferred_first else first
        await loser.settle()
        frames = [json.loads(text) for text in loser.heard if text.startswith("{")]
        shown = [f["payload"]["state"]["jobs"].get(job_id) for f in frames if f["type"].startswith("JobState")]
        assert shown[-1]["worker"] == preferred, "the loser was told who has it"
        await loser.finish(job_id, code=9)
        await loser.settle()
        assert (await served.job(Q, job_id)).state is State.RUNNING
        winner = first if preferred_first else second
        await winner.finish(job_id)
        await winner.settle()
    job = await served.job(Q, job_id)
    assert (job.state, job.result_worker, job.exit_code) == (State.FINISHED, preferred, 0)


async def test_lines_of_the_worker_that_lost_the_claim_are_shown_to_nobody(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.watch(Q) as client, served.old_worker(Q, "w2") as loser, served.old_worker(Q, "w1") as winner:
        await loser.claim(job_id)
        await loser.settle()
        await winner.claim(job_id)
        await winner.settle()
        await loser.log(job_id, "from the loser\n")
        await loser.settle()
        await winner.log(job_id, "from the winner\n")
        told = await client.hear("JobStatusPayload")
        assert told["logs"] == [["from the winner\n", 1]]
    logs = await served.get(f"/q/{Q}/j/{job_id}/run-logs.json")
    assert logs["data"] == [["from the winner\n", 1]]


async def test_a_claim_of_a_job_that_a_new_worker_was_given_is_refused_and_answered_with_the_record(
    served: InProcess,
) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q, "zz") as new, served.old_worker(Q, "aa") as old:
        given = await new.hear("Assign")
        await old.claim(job_id)
        record = await old.hear_job(job_id, "Running")
        assert record["worker"] == "zz"
        assert (await new.finish(given))["accepted"]


async def test_a_finish_that_is_flushed_before_the_registration_is_accepted(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.old_worker(Q, "w1") as worker:
        await worker.claim(job_id)
        await worker.settle()
    async with served.old_worker(Q, "w1", register=False) as again:
        await again.finish(job_id, code=7)
        assert (await again.settle())[-1]["payload"]["state"]["jobs"][job_id]["state"] == "Finished"
    assert (await served.job(Q, job_id)).exit_code == 7


async def test_a_finish_that_comes_after_the_job_was_put_back_is_accepted_while_nobody_else_has_it(
    served: InProcess,
) -> None:
    job_id = await served.submit(Q)
    async with served.old_worker(Q, "w1") as worker:
        await worker.claim(job_id)
        await worker.settle()
    served.clock.advance(16)
    await sweep(served.services)
    assert (await served.job(Q, job_id)).state is State.QUEUED
    async with served.old_worker(Q, "w1", register=False) as again:
        await again.finish(job_id)
        await again.settle()
    assert served.witness.states(job_id) == ["Queued", "Running", "Queued", "Finished"]


async def test_a_closed_workers_job_waits_out_the_grace_and_is_then_queued_with_its_place_kept(
    served: InProcess,
) -> None:
    job_id = await served.submit(Q)
    queued_at = (await served.job(Q, job_id)).queued_at
    async with served.watch(Q) as client:
        async with served.old_worker(Q, "w1") as worker:
            await worker.claim(job_id)
            await worker.settle()
        served.clock.advance(14)
        await sweep(served.services)
        assert (await served.job(Q, job_id)).state is State.RUNNING
        served.clock.advance(2)
        await sweep(served.services)
        record = await client.hear_job(job_id, "Queued")
    assert record["worker"] == ""
    assert record["queuedTime"] == round(queued_at * 1000)


async def test_a_worker_that_comes_back_within_the_grace_keeps_its_job(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.old_worker(Q, "w1") as worker:
        await worker.claim(job_id)
        await worker.settle()
    served.clock.advance(10)
    async with served.old_worker(Q, "w1") as again:
        await again.settle()
        served.clock.advance(10)
        await sweep(served.services)
        await again.claim(job_id)
        await again.settle()
        await again.finish(job_id)
        await again.settle()
    assert served.witness.states(job_id) == ["Queued", "Running", "Finished"]
    assert (await served.job(Q, job_id)).attempt == 1


async def test_a_worker_that_comes_back_after_its_job_was_put_back_takes_it_up_again(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.old_worker(Q, "w1") as worker:
        await worker.claim(job_id)
        await worker.settle()
    served.clock.advance(20)
    await sweep(served.services)
    async with served.old_worker(Q, "w1") as again:
        await again.claim(job_id)
        await again.settle()
    job = await served.job(Q, job_id)
    assert (job.state, job.worker, job.attempt) == (State.RUNNING, "w1", 1)


async def test_the_newest_socket_of_a_worker_wins_and_the_close_of_the_old_one_takes_nothing(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.watch(Q) as client:
        async with served.old_worker(Q, "w1") as old:
            await old.claim(job_id)
            await old.settle()
            async with served.old_worker(Q, "w1") as new:
                await new.hear("JobStates")
                assert await old.closed() == 4409
                await new.raw("PING")
                while (pong := await new.text()).startswith("{"):
                    pass
                assert pong == "PONG w1"
                assert (await client.hear("Workers"))["workers"][0]["id"] == "w1"
                await new.log(job_id, "still mine\n")
                assert (await client.hear("JobStatusPayload"))["logs"] == [["still mine\n", 1]]
                assert set(served.channel(Q).workers) == {"w1"}
                job = await served.job(Q, job_id)
                assert (job.lease_until or 0) - served.clock() > 20, "the close did not shorten the lease"
                await new.finish(job_id)
                await new.settle()
    assert served.witness.states(job_id) == ["Queued", "Running", "Finished"]


async def test_a_worker_that_reconnects_all_the_time_does_not_flicker_on_the_list(served: InProcess) -> None:
    async with served.watch(Q) as client:
        for _ in range(5):
            async with served.old_worker(Q, "w1") as worker:
                await worker.settle()
        shown = [f["payload"]["workers"] for f in await client.settle() if f["type"] == "Workers"]
    assert [[w["id"] for w in workers] for workers in shown] == [["w1"]]


async def test_a_worker_that_stays_away_leaves_the_list(served: InProcess) -> None:
    with skipping_time():
        async with served.watch(Q) as client:
            async with served.old_worker(Q, "w1"):
                await client.hear("Workers", lambda payload: payload["workers"])
            await client.hear("Workers", lambda payload: not payload["workers"])


async def test_after_three_lost_workers_the_job_is_given_up(served: InProcess) -> None:
    job_id = await served.submit(Q)
    for n in range(3):
        async with served.old_worker(Q, f"w{n}") as worker:
            await worker.claim(job_id)
            await worker.settle()
        served.clock.advance(16)
        await sweep(served.services)
    job = await served.job(Q, job_id)
    assert (job.state, job.reason) == (State.FINISHED, "WorkerLost")
    assert job_id in await served.listing(Q), "people should see it"


# --- the client's side -----------------------------------------------------------------------------------------------


async def test_a_new_client_gets_the_workers_and_then_the_whole_queue(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.connect(f"/q/{Q}/client") as peer:
        first, second = json.loads(await peer.text()), json.loads(await peer.text())
    assert first == {"type": "Workers", "payload": {"workers": []}}
    assert second["type"] == "JobStates"
    assert second["payload"]["isSubset"] is False
    record = second["payload"]["state"]["jobs"][job_id]
    assert (record["state"], record["worker"], record["namespaces"]) == ("Queued", "", ["_"])
    assert record["queuedTime"] == record["time"] == round(served.clock() * 1000)
    assert None not in record.values()


async def test_a_new_worker_gets_the_whole_queue_and_nothing_else(served: InProcess) -> None:
    async with served.connect(f"/q/{Q}/worker") as peer:
        assert json.loads(await peer.text())["type"] == "JobStates"
        assert await peer.settle() == []


async def test_a_registration_is_shown_verbatim_to_clients_and_then_to_workers(served: InProcess) -> None:
    async with served.watch(Q) as client, served.old_worker(Q, "w1", register=False) as worker:
        await worker.register(extra={"kept": True})
        (listed,) = (await client.hear("Workers"))["workers"]
        known = {"time": 1, "version": "0.54.80", "id": "w1", "cpus": 2, "gpus": 0, "maxJobDuration": "5m"}
        assert listed == {**known, "extra": {"kept": True}}
        assert (await worker.hear("Workers"))["workers"] == [listed]


@pytest.mark.parametrize(
    "path", ["/q/{}/client", "/q/{}/browser", "/{}/client", "/{}/browser", "/q//{}//client", "/q/{}/client/extra"]
)
async def test_every_alias_of_the_client_socket_reaches_the_same_queue(served: InProcess, path: str) -> None:
    job_id = await served.submit(Q)
    async with served.watch(Q, path) as client:
        await client.submit(hello("alias"))
        await client.hear_job(known_id(hello("alias")), "Queued")
    assert set(await served.listing(Q)) == {job_id, known_id(hello("alias"))}


@pytest.mark.parametrize("path", ["/q/{}/worker", "/{}/worker", "/q/{}/worker/x/y", "//q//{}/worker"])
async def test_every_alias_of_the_worker_socket_reaches_the_same_queue(served: InProcess, path: str) -> None:
    job_id = await served.submit(Q)
    async with served.connect(path.format(Q)) as peer:
        assert (await peer.hear_job(job_id))["state"] == "Queued"


async def test_a_percent_encoded_queue_is_the_same_on_sockets_and_over_http(served: InProcess) -> None:
    job_id = await served.submit("a%7Eb")
    async with served.connect("/q/a%7Eb/client") as encoded, served.connect("/q/a~b/client") as plain:
        assert await encoded.hear_job(job_id) == await plain.hear_job(job_id)
    assert list(await served.listing("a~b")) == [job_id]


@pytest.mark.parametrize("frame", ["", "undefined", "null", "[]", '"text"', "12", "  {}", "hello"])
async def test_frames_that_are_no_messages_are_passed_over(served: InProcess, frame: str) -> None:
    async with served.watch(Q) as client, served.old_worker(Q) as worker:
        for peer in (client, worker):
            await peer.raw(frame)
            assert all(f["type"] in ("Workers", "JobStates") for f in await peer.settle())


@pytest.mark.parametrize(
    "frame",
    [
        b"\x00\x01",
        "{",
        '{"type": 5, "payload": {}}',
        '{"payload": {}}',
        '{"type": "Nonsense", "payload": {}}',
        '{"type": "StateChange"}',
        '{"type": "StateChange", "payload": []}',
        '{"type": "StateChange", "payload": {"state": "Removed", "job": "x", "value": {}}}',
        '{"type": "StateChange", "payload": {"state": "Queued", "job": "x", "value": {"type": "Queued"}}}',
        '{"type": "x", "payload": {}, "n": NaN}',
        '{"type": "x", "payload": {"n": 1e999}}',
        '{"type": "x", "payload": ' + "[" * 100_000 + "}",
        '{"type": "x", "n": ' + "9" * 5000 + "}",
    ],
)
async def test_an_unusable_frame_is_answered_with_an_error_and_the_socket_stays(
    served: InProcess, frame: str | bytes
) -> None:
    before = served.contents()
    async with served.watch(Q) as client, served.old_worker(Q) as worker:
        for peer in (client, worker):
            await peer.raw(frame)
            error = await peer.hear("Error")
            assert error["code"] in ("bad_message", "bad_json", "limit_exceeded", "bad_request")
            assert error["error"]
            await peer.settle()
    assert served.contents() == before


async def test_a_ping_before_anything_else_is_answered(served: InProcess) -> None:
    async with served.connect(f"/q/{Q}/client") as client, served.connect(f"/q/{Q}/worker") as worker:
        await client.raw("PING")
        await worker.raw("PING")
        assert "PONG" in [await client.text() for _ in range(3)]
        assert "PONG unknown" in [await worker.text() for _ in range(2)]


async def test_a_client_that_never_pings_gets_json_only(served: InProcess) -> None:
    with skipping_time(served.clock):
        async with page(served) as client, mirror(served):
            job_id = await client.submit()
            await client.until(lambda: client.jobs[job_id]["state"] == "Finished")
            await asyncio.sleep(30)
            for _ in range(4):
                served.clock.advance(30)
                await sweep(served.services)
            await client.until(lambda: job_id not in client.jobs)


@pytest.mark.parametrize("path", ["/q/undefined/client", "/q/null/client", "/client", "/q/x/other", "/q/client", "/"])
async def test_a_socket_on_no_queue_or_no_role_is_refused(served: InProcess, path: str) -> None:
    status, error = await served.refused_socket(path)
    assert (status, error["code"]) == (404, "route_not_found")
    assert served.hub.channels == ()


async def test_a_query_for_one_job_is_answered_to_the_asker_only(served: InProcess) -> None:
    job_id = await served.submit(Q)
    await served.finish(Q, job_id)
    served.clock.advance(100)
    await sweep(served.services)
    async with served.watch(Q) as asker, served.watch(Q) as other:
        await asker.say("QueryJob", {"jobId": job_id})
        assert (await asker.hear_job(job_id))["state"] == "Finished", "also long after it left the queue"
        await asker.say("QueryJob", {"jobId": "f" * 64})
        assert (await asker.hear("JobStateUpdates"))["state"]["jobs"] == {}
        await asker.say("QueryJob", {})
        assert await asker.settle() == []
        await asker.say("QueryJobStates")
        assert (await asker.hear("JobStates"))["isSubset"] is False
        assert await other.settle() == []


async def test_definitions_are_answered_to_the_asker_even_before_it_registers(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.old_worker(Q, "w1", register=False) as asker, served.old_worker(Q, "w2") as other:
        await asker.say("RequestJobDefinitions", {"jobIds": [job_id, "missing", "e" * 64]})
        assert (await asker.hear("BroadcastJobDefinitions"))["definitions"] == {job_id: ECHO}
        assert "BroadcastJobDefinitions" not in [f["type"] for f in await other.settle()]
        await asker.say("RequestJobDefinitions", {"jobIds": ["missing"]})
        assert "BroadcastJobDefinitions" not in [f["type"] for f in await asker.settle()]


async def test_one_expired_job_does_not_hide_the_definitions_of_the_others(served: InProcess) -> None:
    expired = await served.submit(Q, hello("expired"))
    served.clock.advance(31 * 86_400)
    job_id = await served.submit(Q)
    async with served.old_worker(Q, "w1") as worker:
        await worker.say("RequestJobDefinitions", {"jobIds": [expired, job_id]})
        assert (await worker.hear("BroadcastJobDefinitions"))["definitions"] == {job_id: ECHO}


async def test_status_asks_the_workers_and_shows_no_definitions(served: InProcess) -> None:
    with skipping_time(served.clock):
        async with page(served) as client, mirror(served, run_s=100.0) as worker:
            job_id = await client.submit()
            await client.until(lambda: client.jobs[job_id]["state"] == "Running")
            for path in (f"/q/{Q}/status", f"/{Q}/status"):
                status = await served.get(path)
                assert status["localWorkers"]["wrk-1"]["queue"] == {job_id: {"jobId": job_id, "finished": True}}
                assert status["jobs"][job_id]["state"] == "Running"
                assert status["clientCount"] == 1
                assert status["queueInfo"]["jobStates"] == [{"id": job_id[:6], "state": "Running", "worker": "wrk-1"}]
    assert worker.statuses == 2


async def test_a_status_request_has_no_payload_and_a_silent_worker_delays_it_two_seconds_at_most(
    served: InProcess,
) -> None:
    with skipping_time() as skipped:
        async with served.old_worker(Q, "silent") as worker:
            await worker.settle()
            before = skipped()
            status = await served.get(f"/q/{Q}/status")
            assert 1.9 <= skipped() - before <= 2.5
            await worker.settle()
            assert '{"type":"StatusRequest"}' in worker.heard
    assert status["localWorkers"]["silent"]["queue"] == {}


# --- cancel, delete, namespaces --------------------------------------------------------------------------------------


async def test_cancelling_one_namespace_keeps_the_job_for_the_others_without_a_gap(served: InProcess) -> None:
    async with served.watch(Q) as client:
        for namespace in ("n1", "n2", "n3"):
            job_id = await client.submit(namespace=namespace)
        await client.settle()
        assert (await served.listing(Q))[job_id]["namespaces"] == ["n1", "n2", "n3"]
        await client.give_up(job_id, namespace="n2")
        await client.settle()
        record = (await served.listing(Q))[job_id]
        assert (record["state"], record["namespaces"]) == ("Queued", ["n1", "n3"])
        await client.give_up(job_id, namespace="*")
        await client.settle()
    assert await served.listing(Q) == {}


async def test_a_running_job_that_is_cancelled_is_dropped_by_its_worker_at_once(served: InProcess) -> None:
    with skipping_time(served.clock):
        async with page(served) as client, mirror(served, run_s=1000.0) as worker:
            job_id = await client.submit()
            await client.until(lambda: client.jobs[job_id]["state"] == "Running")
            await client.end(job_id, "Cancelled", namespace="_", message="enough")
            await worker.until(lambda: worker.dropped, within_s=15)
    assert worker.dropped == [job_id]
    assert await served.listing(Q) == {}


async def test_a_cancelled_job_leaves_the_page_with_the_next_list_and_runs_again_when_submitted(
    served: InProcess,
) -> None:
    with skipping_time(served.clock):
        async with page(served) as client:
            job_id = await client.submit()
            await client.end(job_id, "Cancelled")
            await client.until(lambda: job_id not in client.jobs, within_s=15.0)
            await client.submit()
            assert client.jobs[job_id]["state"] == "Queued"
    assert (await served.job(Q, job_id)).generation == 2


async def test_after_a_success_no_cancel_is_ever_seen_on_a_socket(served: InProcess) -> None:
    job_id = await served.submit(Q)
    await served.finish(Q, job_id)
    async with served.watch(Q) as client:
        for namespace in ("_", "*", "other"):
            await client.give_up(job_id, namespace=namespace)
        await client.say("QueryJob", {"jobId": job_id})
        await client.settle()
        assert not [text for text in client.heard if "Cancelled" in text and "JobState" in text]
    assert (await served.listing(Q))[job_id]["finishedReason"] == "Success"


async def test_a_deleted_job_is_cleared_from_workers_and_runs_again_when_submitted(served: InProcess) -> None:
    """What "run again" does: delete the cached result, and a second later submit."""
    with skipping_time(served.clock):
        async with page(served) as client, mirror(served) as worker:
            job_id = await client.submit()
            await client.until(lambda: client.jobs[job_id]["state"] == "Finished")
            await client.end(job_id, "Deleted", namespace="_")
            await asyncio.sleep(1.0)
            assert worker.cleared == [{"jobId": job_id, "namespace": "_"}]
            assert (await served.get(f"/j/{job_id}/result.json"))["data"] is None
            client.jobs.pop(job_id, None)
            client.seen.clear()
            await client.submit()
            await client.until(lambda: client.jobs[job_id]["state"] == "Finished")
            assert client.seen[job_id] == ["Queued", "Running", "Finished"]
    assert worker.ran == [job_id, job_id]


async def test_deleting_for_a_namespace_that_does_not_hold_the_job_changes_nothing(served: InProcess) -> None:
    job_id = await served.submit(Q, control={"namespace": "mine"})
    await served.finish(Q, job_id)
    before = served.contents()
    async with served.watch(Q) as client:
        await client.give_up(job_id, "Deleted")
        assert (await client.hear("Error"))["code"] == "transition_refused"
    assert served.contents() == before


async def test_deleting_a_queued_job_takes_it_away_at_once(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.watch(Q) as client, served.old_worker(Q) as worker:
        await client.give_up(job_id, "Deleted", namespace="_")
        assert (await worker.hear("ClearJobCache"))["jobId"] == job_id
        await worker.claim(job_id)
        await worker.settle()
    assert await served.listing(Q) == {}


@pytest.mark.parametrize(
    "reason", ["Success", "Error", "TimedOut", "WorkerLost", "JobReplacedByClient", "Nonsense", None]
)
async def test_a_client_cannot_end_a_job_for_reasons_that_are_not_its_own(served: InProcess, reason: Any) -> None:
    job_id = await served.submit(Q)
    before = served.contents()
    async with served.watch(Q) as client:
        await client.give_up(job_id, reason)
        assert (await client.hear("Error"))["code"] == "bad_message"
        running = {"state": "Running", "job": job_id, "tag": "w", "value": {"worker": "w", "time": 1}}
        await client.say("StateChange", running)
        assert (await client.hear("Error"))["code"] == "bad_message"
    assert served.contents() == before


@pytest.mark.parametrize("reason", ["Cancelled", "Deleted", "WorkerLost", "JobReplacedByClient", "Nonsense", None])
async def test_a_worker_cannot_end_a_job_for_reasons_that_are_not_its_own(served: InProcess, reason: Any) -> None:
    job_id = await served.submit(Q)
    async with served.old_worker(Q) as worker:
        await worker.claim(job_id)
        await worker.settle()
        before = served.contents()
        await worker.finish(job_id, reason=reason)
        await worker.settle()
        assert served.contents() == before


async def test_a_worker_may_not_speak_in_anothers_name(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.old_worker(Q, "w1") as worker, served.old_worker(Q, "w2") as thief:
        await worker.claim(job_id)
        await worker.settle()
        before = served.contents()
        change = {"job": job_id, "tag": "w1", "state": "Finished", "value": finished_value("w1", 9)}
        await thief.say("StateChange", change)
        assert (await thief.hear("Error"))["code"] == "bad_message"
        assert served.contents() == before


@pytest.mark.parametrize("worker", ["", None, 5, {"a": 1}, "n" * 129])
async def test_a_claim_that_names_no_usable_worker_is_refused(served: InProcess, worker: Any) -> None:
    job_id = await served.submit(Q)
    before = served.contents()
    async with served.connect(f"/q/{Q}/worker") as peer:
        value = {"type": "Running", "time": 1, "worker": worker}
        await peer.say("StateChange", {"job": job_id, "tag": worker, "state": "Running", "value": value})
        assert (await peer.hear("Error"))["code"] == "bad_message"
    assert served.contents() == before


async def test_jobs_submitted_shortly_after_one_another_in_a_namespace_leave_only_the_last(served: InProcess) -> None:
    ids = []
    async with served.watch(Q) as client:
        for n in range(5):
            ids.append(await client.submit(hello(n), namespace="doc-1"))
            await client.settle()
            served.clock.advance(0.3)
    listed = await served.listing(Q)
    assert list(listed) == ids[-1:]
    assert {(await served.job(Q, i)).reason for i in ids[:-1]} == {"JobReplacedByClient"}


@pytest.mark.parametrize(("age_s", "wait_s"), [(0, 0), (19.9, 0), (20, 0), (20.1, 4), (60, 4), (60.1, 8), (3000, 8)])
async def test_an_older_job_of_the_namespace_is_replaced_after_a_time_that_depends_on_its_age(
    served: InProcess, age_s: float, wait_s: float
) -> None:
    older = await served.submit(Q, hello("older"), control={"namespace": "doc"})
    served.clock.advance(age_s)
    newer = await served.submit(Q, hello("newer"), control={"namespace": "doc"})
    if wait_s:
        served.clock.advance(wait_s - 0.1)
        await sweep(served.services)
        assert set(await served.listing(Q)) == {older, newer}
        served.clock.advance(0.2)
        await sweep(served.services)
    assert set(await served.listing(Q)) == {newer}
    assert (await served.job(Q, older)).reason == "JobReplacedByClient"


async def test_a_put_off_replacement_is_dropped_when_the_newer_job_is_gone(served: InProcess) -> None:
    older = await served.submit(Q, hello("older"), control={"namespace": "doc"})
    served.clock.advance(30)
    newer = await served.submit(Q, hello("newer"), control={"namespace": "doc"})
    await served.client.post(f"/q/{Q}/j/{newer}/cancel?namespace=doc")
    served.clock.advance(10)
    await sweep(served.services)
    assert set(await served.listing(Q)) == {older}
    assert (await served.job(Q, older)).replacements == ()


async def test_switching_between_two_jobs_of_a_namespace_runs_each_again(served: InProcess) -> None:
    for name in ("a", "b", "a", "b"):
        job_id = await served.submit(Q, hello(name), control={"namespace": "doc"})
        assert list(await served.listing(Q)) == [job_id]
        served.clock.advance(1)


async def test_the_default_namespace_and_other_queues_replace_nothing(served: InProcess) -> None:
    for n in range(3):
        await served.submit(Q, hello(n))
    await served.submit(Q, hello("a"), control={"namespace": "doc"})
    await served.submit("elsewhere", hello("b"), control={"namespace": "doc"})
    assert len(await served.listing(Q)) == 4


async def test_replacing_for_one_namespace_keeps_the_job_for_another(served: InProcess) -> None:
    shared = await served.submit(Q, hello("shared"), control={"namespace": "one"})
    await served.submit(Q, hello("shared"), control={"namespace": "two"})
    await served.submit(Q, hello("next"), control={"namespace": "one"})
    record = (await served.listing(Q))[shared]
    assert (record["state"], record["namespaces"]) == ("Queued", ["two"])


async def test_a_mirroring_worker_stops_a_job_that_was_replaced(served: InProcess) -> None:
    with skipping_time(served.clock):
        async with mirror(served, run_s=500.0) as worker:
            older = await served.submit(Q, hello("older"), control={"namespace": "doc"})
            await worker.until(lambda: older in worker.held)
            newer = await served.submit(Q, hello("newer"), control={"namespace": "doc"})
            await worker.until(lambda: newer in worker.held)
            assert worker.dropped == [older]


async def test_a_submit_over_a_socket_needs_an_id_that_is_the_definitions(served: InProcess) -> None:
    async with served.watch(Q) as client:
        for stated, code in (
            (None, "bad_message"),
            ("", "bad_message"),
            ("x", "id_mismatch"),
            ("a" * 64, "id_mismatch"),
        ):
            enqueued = {"id": stated, "definition": ECHO}
            value = {"type": "Queued", "time": 1, "enqueued": enqueued}
            await client.say("StateChange", {"state": "Queued", "job": "x", "tag": "", "value": value})
            assert (await client.hear("Error"))["code"] == code
    assert served.contents()["jobs"] == {}


async def test_logs_pass_through_as_they_came_and_only_while_the_worker_holds_the_job(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.watch(Q) as client, served.old_worker(Q, "w1") as worker:
        await worker.log(job_id, "too early\n")
        await worker.claim(job_id)
        payload = {"jobId": job_id, "step": "of my own", "logs": [["out", 1], ["err", 2, True]], "more": {"x": 1}}
        await worker.say("JobStatusLogs", payload)
        assert await client.hear("JobStatusPayload") == payload
        await worker.finish(job_id)
        await worker.settle()
        await worker.log(job_id, "too late\n")
        await worker.settle()
        assert "JobStatusPayload" not in [f["type"] for f in await client.settle()]


async def test_an_unregistered_worker_gets_updates_too(served: InProcess) -> None:
    async with served.old_worker(Q, register=False) as worker:
        job_id = await served.submit(Q)
        assert (await worker.hear("JobStateUpdates"))["state"]["jobs"][job_id]["state"] == "Queued"


async def test_removals_reach_pages_and_workers_with_a_whole_list(served: InProcess) -> None:
    job_id = await served.submit(Q)
    await served.finish(Q, job_id)
    with skipping_time():
        async with served.watch(Q) as client, served.old_worker(Q) as worker:
            served.clock.advance(61)
            await sweep(served.services)
            for peer in (client, worker):
                await peer.hear("JobStates", lambda payload: not payload["state"]["jobs"], within_s=15.0)
