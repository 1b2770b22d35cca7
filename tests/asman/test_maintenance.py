from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from asman import operations as ops
from asman.abc import Delivery
from asman.errors import Unprocessable
from asman.hookspecs import hookimpl
from asman.job import Job, State
from asman.maintenance import Sweeper, backoff_s, run
from asman.memory import MemoryJobStore
from asman.testing import make_job
from core import QUEUE, Core, core, definition


class Receiver:
    """An outside party that takes calls, or does not."""

    def __init__(self, *, answers: bool | Exception = True) -> None:
        self.answers, self.calls = answers, []  # type: ignore[var-annotated]
        self.release = asyncio.Event()
        self.release.set()

    async def deliver(self, delivery: Delivery) -> bool:
        self.calls.append(delivery)
        await self.release.wait()
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers

    @hookimpl
    def asman_deliverer(self, config: object) -> Receiver:
        return self


def _control(*events: str) -> dict[str, object]:
    return {"callbacks": {event: {"url": f"https://example.com/{event}", "payload": {"n": 1}} for event in events}}


async def test_callbacks_go_out_when_queued_and_when_finished() -> None:
    receiver = Receiver()
    async with core([receiver]) as c:
        job = await c.submit(control=_control("queued", "finished"))
        await c.sweep()
        await c.run(job, code=3)
        await c.sweep()
        await c.sweep()
        bodies = [json.loads(call.body) for call in receiver.calls]
        assert [(b["event"], b["state"]) for b in bodies] == [("queued", "Queued"), ("finished", "Finished")]
        assert (bodies[0]["jobId"], bodies[0]["queue"], bodies[0]["namespace"]) == (job.job_id, QUEUE, "_")
        assert (bodies[0]["config"], bodies[1]["outcome"], bodies[1]["exitCode"]) == ({"n": 1}, "failed", 3)


async def test_a_failing_callback_is_tried_again_later_with_the_same_event_id() -> None:
    receiver = Receiver(answers=False)
    async with core([receiver]) as c:
        await c.submit(control=_control("queued"))
        await c.sweep()
        await c.sweep()
        assert len(receiver.calls) == 1, "not before its time"
        c.clock.tick(3)
        await c.sweep()
        assert len({call.event_id for call in receiver.calls}) == 1
        assert len(receiver.calls) == 2


async def test_a_callback_is_given_up_after_a_day() -> None:
    receiver = Receiver(answers=False)
    async with core([receiver]) as c:
        job = await c.submit(control=_control("queued"))
        for _ in range(60):
            await c.sweep()
            c.clock.tick(3_600)
        given_up = await c.load(job)
        assert given_up is not None
        assert given_up.callbacks[0].done
        assert 20 <= len(receiver.calls) <= 45


async def test_a_refused_address_is_not_tried_again() -> None:
    receiver = Receiver(answers=Unprocessable("not a public address"))
    async with core([receiver]) as c:
        await c.submit(control=_control("queued"))
        for _ in range(3):
            await c.sweep()
            c.clock.tick(3_600)
        assert len(receiver.calls) == 1


async def test_a_receiver_that_hangs_delays_nobody() -> None:
    receiver = Receiver()
    receiver.release.clear()
    async with core([receiver]) as c:
        await c.submit(control=_control("queued"))
        other = await c.submit(definition("other"))
        await ops.announce(c.services, QUEUE, other.job_id, "w1")
        c.clock.tick(31)
        sweeper = Sweeper(services=c.services)
        async with asyncio.timeout(5):
            await sweeper.sweep()
        assert (await c.load(other)).state is State.QUEUED  # type: ignore[union-attr]
        await sweeper.stop()


async def test_a_server_that_was_stopped_gives_every_lease_a_new_term() -> None:
    async with core() as c:
        job = await c.submit()
        await ops.announce(c.services, QUEUE, job.job_id, "w1")
        sweeper = Sweeper(services=c.services)
        await sweeper.sweep()
        c.clock.tick(120)
        await sweeper.sweep()
        assert (await c.load(job)).state is State.RUNNING  # type: ignore[union-attr]
        for _ in range(31):
            c.clock.tick(1)
            await sweeper.sweep()
        assert (await c.load(job)).state is State.QUEUED  # type: ignore[union-attr]


async def test_a_start_gives_every_lease_a_new_term() -> None:
    async with core() as c:
        job = await c.submit()
        await ops.announce(c.services, QUEUE, job.job_id, "w1")
        c.clock.tick(31)
        sweeper = Sweeper(services=c.services)
        sweeper.grant_new_terms()
        await sweeper.sweep()
        assert (await c.load(job)).state is State.RUNNING  # type: ignore[union-attr]


async def test_expired_data_is_gone_and_the_mark_goes_later() -> None:
    async with core() as c:
        job = await c.run(await c.submit(definition("x" * 20_000)))
        c.clock.tick(30 * 86_400 + 1)
        await c.sweep()
        assert await c.services.jobs.document(QUEUE, job.job_id, "definition") is None
        assert (await c.load(job)).forgotten  # type: ignore[union-attr]
        c.clock.tick(86_401)
        await c.sweep()
        assert await c.load(job) is None
        assert await c.services.jobs.counts(None) == {}


async def test_a_running_job_that_expires_is_revoked() -> None:
    class Soon:
        @hookimpl
        def asman_expires_at(self, job: Job, now: float, config: object) -> float:
            return now + 10

    async with core([Soon()]) as c:
        job = await c.submit()
        async with c.socket(f"/q/{QUEUE}/worker?protocol=2") as worker:
            await worker.register("w1")
            await worker.ready()
            await worker.hear_until("Assign")
            c.clock.tick(11)
            await c.sweep()
            assert (await worker.hear_until("Revoke"))[1]["jobId"] == job.job_id


async def test_run_survives_a_store_that_fails_and_stops_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with core(sweep_s=0.01) as c:
        calls = asyncio.Event()

        async def fail(*args: object, **kwargs: object) -> None:
            calls.set()
            raise RuntimeError("the store is away")

        monkeypatch.setattr(type(c.services.jobs), "due", fail)
        stop = asyncio.Event()
        running = asyncio.create_task(run(c.services, stop))
        async with asyncio.timeout(5):
            await calls.wait()
            stop.set()
            await running


def test_waits_double_to_an_hour_and_are_spread() -> None:
    assert backoff_s(0, 0.0) == 1.0
    assert backoff_s(3, 0.0) * 2 == backoff_s(4, 0.0)
    assert backoff_s(99, 1.0) == 3600.0


async def test_more_due_records_than_a_batch_are_all_looked_after() -> None:
    async with core() as c:
        await _many_leases(c, 450)
        c.clock.tick(31)
        assert await c.sweep() == 450


async def _many_leases(c: Core, count: int) -> None:
    for number in range(count):
        job = await c.submit(definition(str(number)))
        await ops.announce(c.services, QUEUE, job.job_id, "w1")


class Switchboard:
    """An outside party with many receivers: those named ``dead`` never answer, ``broken`` raises what is no error of
    ours, the others take every call."""

    def __init__(self) -> None:
        self.calls: list[Delivery] = []

    async def deliver(self, delivery: Delivery) -> bool:
        self.calls.append(delivery)
        if "broken" in delivery.url:
            raise RuntimeError("a fault of the deliverer")
        if "dead" in delivery.url:
            await asyncio.Event().wait()
        return True

    @hookimpl
    def asman_deliverer(self, config: object) -> Switchboard:
        return self


def _calls_back(host: str) -> dict[str, object]:
    return {"callbacks": {"queued": {"url": f"https://{host}.example/hook"}}}


async def test_many_calls_that_hang_do_not_keep_others_records_from_being_looked_after() -> None:
    """More records than one batch wait for a receiver; a lease behind them lapses all the same."""
    board = Switchboard()
    async with core([board]) as c:
        for n in range(450):
            await c.submit(definition(f"echo {n}"), control=_calls_back("dead"))
        late = await c.submit(definition("late"))
        await ops.announce(c.services, QUEUE, late.job_id, "w1")
        c.clock.tick(31)
        sweeper = Sweeper(services=c.services)
        await sweeper.sweep()
        assert (await c.load(late)).state is State.QUEUED  # type: ignore[union-attr]
        await sweeper.stop()


async def test_many_calls_to_one_dead_receiver_leave_room_for_the_others() -> None:
    board = Switchboard()
    async with core([board]) as c:
        for n in range(300):
            await c.submit(definition(f"echo {n}"), control=_calls_back("dead"))
        c.clock.tick(1)
        await c.submit(definition("good"), control=_calls_back("good"))
        sweeper = Sweeper(services=c.services)
        await sweeper.sweep()
        for _ in range(3):
            await asyncio.sleep(0)
        assert [call for call in board.calls if "good" in call.url]
        await sweeper.stop()


async def test_a_deliverer_with_a_fault_is_not_called_again_at_every_sweep(caplog: pytest.LogCaptureFixture) -> None:
    board = Switchboard()
    async with core([board]) as c:
        job = await c.submit(control=_calls_back("broken"))
        for _ in range(3):
            await c.sweep()
        assert len(board.calls) == 1
        assert "fault of the deliverer" in caplog.text
        owed = (await c.load(job)).callbacks[0]  # type: ignore[union-attr]
        assert (owed.tries, owed.done) == (1, False)
        c.clock.tick(86_400 * 2)
        await c.sweep()
        assert (await c.load(job)).callbacks[0].done, "and given up after a day"  # type: ignore[union-attr]


async def test_leases_in_a_new_term_do_not_keep_others_records_from_being_looked_after() -> None:
    async with core() as c:
        for n in range(450):
            job = await c.submit(definition(f"echo {n}"))
            await ops.announce(c.services, QUEUE, job.job_id, f"w{n}")
        finished = await c.submit(definition("done"))
        await c.run(finished)
        c.clock.tick(61)
        sweeper = Sweeper(services=c.services)
        sweeper.grant_new_terms()
        await sweeper.sweep()
        assert (await c.load(finished)).state is State.REMOVED  # type: ignore[union-attr]
        c.clock.tick(31)
        sweeper.last_at = c.clock()
        await sweeper.sweep()
        assert await c.services.jobs.list(QUEUE, states=(State.RUNNING,)) == []


class _Led(MemoryJobStore):
    """A store in which one server of many can lead. Shape: ``kept`` maps roles to (holder, when)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.kept: dict[str, tuple[str, float]] = {}
        self._clock = clock

    async def lead(self, role: str, holder: str, for_s: float) -> float | None:
        now = self._clock()
        present, at = self.kept.get(role, (holder, 0.0))
        if present != holder and now - at < for_s:
            return None
        self.kept[role] = (holder, now)
        return now - at


async def test_of_many_servers_one_does_maintenance_and_another_takes_over() -> None:
    async with core() as c:
        services = replace(c.services, jobs=_Led(c.clock))
        job = make_job(QUEUE, queued_at=c.clock(), expires_at=c.clock() + 1)
        await services.jobs.save(job, expected=0)
        one, two = Sweeper(services=services), Sweeper(services=services)
        assert await one.sweep() == 0
        c.clock.now += 2
        assert await two.sweep() == 0, "the other one leads"
        assert await one.sweep() == 1
        await services.jobs.save(make_job(QUEUE, expires_at=c.clock()), expected=0)
        c.clock.now += 5.5
        assert await two.sweep() == 1, "the other one has been silent"
        assert await one.sweep() == 0


async def test_when_nobody_led_for_long_every_lease_gets_a_new_term() -> None:
    async with core() as c:
        services = replace(c.services, jobs=_Led(c.clock))
        one, two = Sweeper(services=services), Sweeper(services=services)
        await one.sweep()
        assert one.not_before > c.clock(), "the first of all"
        c.clock.now += 2
        await one.sweep()
        c.clock.now += 5.5
        await two.sweep()
        assert two.not_before == 0.0
        c.clock.now += 60
        await one.sweep()
        assert one.not_before == c.clock() + services.config.lease_s
