"""Following a job over server-sent events: as it happens, after a break, over a new attempt, and when nothing comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asman.identity import known_id
from asman.maintenance import sweep
from in_process import InProcess, hello, skipping_time
from server_sent import Event, read_event

Q = "follow"
NOBODY = "f" * 64


class Reader:
    """Reads a stream as the known readers do: an empty line ends a frame; comments and unknown members are passed."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.buffer = b""
        self.comments = 0
        self.is_over = False

    async def next(self, within_s: float = 5.0) -> Event:
        while True:
            while b"\n\n" not in self.buffer:
                async with asyncio.timeout(within_s):
                    self.buffer += await self.connection.receive()
            block, self.buffer = self.buffer.split(b"\n\n", 1)
            assert b"\r" not in block
            if (event := read_event(block)) is not None:
                return event
            self.comments += 1

    async def until(self, kind: str, within_s: float = 5.0) -> Event:
        while (event := await self.next(within_s)).kind != kind:
            pass
        return event

    async def rest(self) -> list[Event]:
        events = [await self.next()]
        while events[-1].kind != "final":
            events.append(await self.next())
        return events


@asynccontextmanager
async def follow(served: InProcess, job_id: str, *, last: str = "", query: str = "") -> AsyncIterator[Reader]:
    headers = {"Last-Event-ID": last} if last else {}
    async with served.client.request(f"/q/{Q}/j/{job_id}/stream{query}", headers=headers) as connection:
        await connection.send_complete()
        yield Reader(connection)
        await connection.disconnect()


def _texts(event: Event) -> list[str]:
    return [line[0] for line in event.data["lines"]]


async def test_a_life_is_told_as_it_happens(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with follow(served, job_id) as reader:
        first = await reader.next()
        assert (first.kind, first.data["state"]) == ("state", "Queued")
        async with served.worker(Q) as worker:
            given = await worker.hear("Assign")
            state = await reader.next()
            assert (state.kind, state.data["state"], state.data["worker"]) == ("state", "Running", "w1")
            await worker.log(given, "pulling\n", seq=0, step="docker image pull")
            event = await reader.next()
            assert (event.kind, event.data, event.event_id) == (
                "build-log",
                {"lines": [["pulling\n", 1]], "cursor": 1},
                "1-1-0",
            )
            await worker.log(given, "a\n", "b\n", seq=1)
            event = await reader.next()
            assert (event.kind, _texts(event), event.data["cursor"], event.event_id) == (
                "run-log",
                ["a\n", "b\n"],
                2,
                "1-1-2",
            )
            await worker.finish(given, code=3)
        state, final = await reader.next(), await reader.next()
    assert (state.kind, final.kind) == ("state", "final")
    assert final.data == state.data
    assert (final.data["state"], final.data["reason"]) == ("Finished", "Success")
    assert (final.data["outcome"], final.data["exitCode"]) == ("failed", 3)


async def test_a_finished_job_is_told_in_one_go_and_the_stream_ends(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q) as worker:
        given = await worker.hear("Assign")
        await worker.log(given, "a", seq=0)
        await worker.finish(given)
    served.clock.advance(100)
    await sweep(served.services)
    answer = await served.client.get(f"/q/{Q}/j/{job_id}/stream")
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-cache"
    kinds = [line for line in (await answer.get_data()).decode().split("\n") if line.startswith("event")]
    assert kinds == ["event: state", "event: run-log", "event: final"], "also when it has left the listing"


@pytest.mark.parametrize(("how", "reason"), [("cancel", "Cancelled"), ("replace", "JobReplacedByClient")])
async def test_a_job_that_is_given_up_ends_the_stream_with_its_reason(served: InProcess, how: str, reason: str) -> None:
    job_id = await served.submit(Q, hello("a"), control={"namespace": "doc"})
    async with follow(served, job_id) as reader:
        await reader.next()
        if how == "cancel":
            await served.client.post(f"/q/{Q}/j/{job_id}/cancel?namespace=doc&message=enough")
        else:
            await served.submit(Q, hello("b"), control={"namespace": "doc"})
        final = await reader.until("final")
    assert (final.data["reason"], bool(final.data["message"])) == (reason, True)


async def test_a_reader_that_lost_its_line_goes_on_where_it_was_and_misses_nothing(served: InProcess) -> None:
    job_id = await served.submit(Q)
    got: list[str] = []
    last = ""
    async with served.worker(Q) as worker:
        given = await worker.hear("Assign")
        for n in range(10):
            await worker.log(given, f"{n}-a", f"{n}-b", seq=2 * n)
            await worker.settle()
            async with follow(served, job_id, last=last) as reader:
                event = await reader.until("run-log")
                got += _texts(event)
                last = event.event_id
        await worker.finish(given)
    assert got == [f"{n}-{half}" for n in range(10) for half in "ab"]
    async with follow(served, job_id, last=last) as reader:
        assert [event.kind for event in await reader.rest()] == ["state", "final"]


async def test_the_cursor_of_an_event_is_that_of_the_slices(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q) as worker:
        given = await worker.hear("Assign")
        await worker.log(given, "a", "b", "c", seq=0)
        await worker.settle()
        async with follow(served, job_id, query="?run_since=2") as reader:
            event = await reader.until("run-log")
        assert (_texts(event), event.data["cursor"]) == (["c"], 3)
        page = await served.get(f"/q/{Q}/j/{job_id}/run-logs.json?since={event.data['cursor']}")
        assert page["data"] == []


async def test_a_new_attempt_is_told_from_its_start(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with follow(served, job_id) as reader:
        async with served.worker(Q, "w1") as worker:
            await worker.log(await worker.hear("Assign"), "old 1", "old 2", "old 3", seq=0)
            assert len(_texts(await reader.until("run-log"))) == 3
        served.clock.advance(16)
        await sweep(served.services)
        state = await reader.until("state")
        assert state.data["state"] == "Queued"
        async with served.worker(Q, "w2") as worker:
            given = await worker.hear("Assign")
            await worker.log(given, "new 1", seq=0)
            event = await reader.until("run-log")
            assert (_texts(event), event.data["cursor"], event.event_id) == (["new 1"], 1, "2-0-1")
            async with follow(served, job_id, last="1-0-3") as other:
                event = await other.until("run-log")
                assert (_texts(event), event.event_id) == (["new 1"], "2-0-1"), "an id of the old attempt"
            await worker.log(given, "new 2", seq=1)
            assert _texts(await reader.until("run-log")) == ["new 2"]


async def test_a_reader_that_comes_back_between_two_attempts_gets_all_of_the_new_one(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with served.worker(Q, "w1") as worker:
        await worker.log(await worker.hear("Assign"), *"abcde", seq=0)
        await worker.settle()
    served.clock.advance(16)
    await sweep(served.services)
    async with follow(served, job_id, last="1-0-5") as reader:
        await reader.until("state")
        async with served.worker(Q, "w2") as worker:
            given = await worker.hear("Assign")
            await worker.log(given, "1", seq=0)
            await worker.log(given, *"23456789", seq=1)
            got: list[str] = []
            while len(got) < 9:
                got += _texts(await reader.until("run-log"))
    assert got == list("123456789")


async def test_a_silent_job_is_kept_alive_by_comments(served: InProcess) -> None:
    job_id = await served.submit(Q)
    with skipping_time() as skipped:
        async with follow(served, job_id) as reader:
            await reader.next()
            waiting = asyncio.create_task(reader.next(within_s=1000))
            await asyncio.sleep(61)
            await served.client.post(f"/q/{Q}/j/{job_id}/cancel")
            await waiting
            assert 60 <= skipped() < 70
    assert reader.comments == 4, "one every fifteen seconds"


async def test_a_stream_ends_after_half_an_hour_and_says_so(served: InProcess) -> None:
    job_id = await served.submit(Q)
    with skipping_time() as skipped:
        async with follow(served, job_id) as reader:
            final = await reader.until("final", within_s=3000)
        assert skipped() == pytest.approx(1800, abs=20)
    assert final.data == {"state": "Timeout", "reason": "Stream max duration exceeded"}


async def test_an_unknown_job_ends_the_stream_after_five_seconds(served: InProcess) -> None:
    with skipping_time() as skipped:
        async with follow(served, NOBODY) as reader:
            final = await reader.until("final", within_s=100)
        assert skipped() == pytest.approx(5, abs=0.5)
    assert final.data == {"state": "Unknown", "reason": "job not found"}
    assert served.hub.channels == ()


async def test_a_job_that_comes_within_the_grace_is_followed(served: InProcess) -> None:
    """Who submits over one connection and follows over another may be a moment too early."""
    definition = hello("late")
    with skipping_time():
        async with follow(served, known_id(definition)) as reader:
            waiting = asyncio.create_task(reader.next(within_s=100))
            await asyncio.sleep(3)
            await served.submit(Q, definition)
            assert (await waiting).data["state"] == "Queued"


async def test_a_reader_that_goes_away_leaves_nothing_behind(served: InProcess) -> None:
    job_id = await served.submit(Q)
    for _ in range(3):
        async with follow(served, job_id) as reader:
            await reader.next()
            assert len(served.channel(Q).watches[job_id]) == 1
    assert served.hub.channels == ()


async def test_a_server_that_stops_ends_its_streams(served: InProcess) -> None:
    job_id = await served.submit(Q)
    async with asyncio.timeout(5):
        async with served.client.request(f"/q/{Q}/j/{job_id}/stream") as connection:
            await connection.send_complete()
            await Reader(connection).next()
            served.hub.close_all()
    assert served.hub.channels == (), "it ended without the reader going away"
