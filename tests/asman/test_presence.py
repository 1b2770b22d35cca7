from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from asman.errors import Unavailable
from asman.job import Requirements
from asman.matching import Capacity
from asman.memory import MemoryNotifier
from asman.messages import encode_event, frame
from asman.presence import Channel, Hub, Outbox, WorkerSeat

SHAPE = Requirements().shape


def _seat(worker: str = "w1", protocol: int = 2, takes: int = 1) -> WorkerSeat:
    free = Capacity(cores=2)
    registration = {"id": worker, "time": 1}
    return WorkerSeat(
        worker=worker,
        protocol=protocol,
        registration=registration,
        outbox=Outbox(),
        close=asyncio.Event().set,
        total=free,
        free=free,
        takes=takes,
    )


def _job_event(job_id: str = "j", **header: object) -> bytes:
    return encode_event({"kind": "job", "job_id": job_id, **header}, frame("JobStateUpdates", {"jobs": job_id}))


async def test_an_outbox_gives_all_that_waits_and_then_waits() -> None:
    outbox = Outbox()
    outbox.put("a")
    outbox.put("b")
    assert await outbox.take(1) == ["a", "b"]
    assert await outbox.take(0.01) == []


async def test_a_slow_reader_loses_its_backlog_and_is_told() -> None:
    outbox = Outbox(max_frames=10, max_bytes=1000)
    for number in range(25):
        outbox.put(str(number))
    assert outbox.overflowed
    taken = await outbox.take(1)
    assert len(taken) <= 10
    assert taken[-1] == "24"


async def test_an_outbox_is_bounded_in_bytes_too() -> None:
    outbox = Outbox(max_frames=1000, max_bytes=100)
    for _ in range(50):
        outbox.put("x" * 60)
    assert len(await outbox.take(1)) == 1


async def test_one_event_reaches_every_client_as_the_same_text() -> None:
    channel = Channel("q")
    outboxes = [Outbox() for _ in range(3)]
    channel.clients = dict.fromkeys(outboxes, True)
    channel.deliver(_job_event())
    taken = [(await outbox.take(1))[0] for outbox in outboxes]
    assert taken[0] is taken[1] is taken[2]


async def test_log_lines_go_to_clients_only() -> None:
    channel = Channel("q")
    client, mirror = Outbox(), Outbox()
    channel.clients[client] = True
    channel.mirrors.add(mirror)
    channel.deliver(encode_event({"kind": "logs", "job_id": "j"}, frame("JobStatusPayload", {})))
    assert len(await client.take(1)) == 1
    assert await mirror.take(0.01) == []


async def test_a_new_job_wakes_one_waiting_worker_that_it_fits() -> None:
    channel = Channel("q")
    small, first, second = _seat("small"), _seat("first"), _seat("second")
    small.free = Capacity(cores=0.5)
    channel.waiting.extend([small, first, second])
    channel.deliver(_job_event(shape=SHAPE))
    assert [seat.work.is_set() for seat in (small, first, second)] == [False, True, False]
    channel.deliver(_job_event(shape=SHAPE))
    assert second.work.is_set()


async def test_a_revoke_goes_to_the_worker_that_held_the_job() -> None:
    channel = Channel("q")
    holder, other = _seat("w1"), _seat("w2")
    holder.held["j"] = 2
    channel.seat(holder)
    channel.seat(other)
    channel.deliver(_job_event(revoke={"worker": "w1", "attempt": 2, "reason": "Cancelled"}))
    assert '"attempt":2' in (await holder.outbox.take(1))[0]
    assert holder.held == {}
    assert await other.outbox.take(0.01) == []


async def test_the_newest_connection_of_a_worker_wins_and_the_old_close_removes_nothing() -> None:
    channel, closed = Channel("q"), asyncio.Event()
    old, new = _seat(), _seat()
    old.close, old.held = closed.set, {"j": 1}
    channel.seat(old)
    channel.seat(new)
    assert closed.is_set()
    assert new.held == {"j": 1}
    assert not channel.unseat(old)
    assert channel.workers["w1"] is new


async def test_a_worker_that_left_is_listed_a_moment_longer() -> None:
    channel = Channel("q")
    seat = _seat()
    channel.seat(seat)
    before = channel.shown("w1")
    assert channel.unseat(seat)
    assert channel.shown("w1") == before
    channel._depart("w1")
    assert channel.shown("w1") is None


async def test_a_snapshot_is_made_once_per_version() -> None:
    channel, made = Channel("q"), []

    async def make() -> bytes:
        made.append(1)
        await asyncio.sleep(0)
        return b"list"

    await asyncio.gather(*(channel.snapshot(make) for _ in range(10)))
    assert len(made) == 1
    channel.deliver(_job_event())
    await channel.snapshot(make)
    assert len(made) == 2


async def test_a_channel_lives_as_long_as_somebody_uses_it() -> None:
    notifier = MemoryNotifier()
    hub = Hub(notifier)
    async with hub.join("q", "t"), hub.join("q", "t") as channel:
        assert hub.present("q") is channel
        assert notifier.is_heard("t")
    assert hub.present("q") is None
    assert not notifier.is_heard("t")


async def test_a_watch_hears_of_its_job_only() -> None:
    notifier = MemoryNotifier()
    hub = Hub(notifier)
    async with hub.watch("q", "t", "mine") as watch:
        await notifier.publish("t", _job_event("other"))
        assert not await watch.wait(0.01)
        await notifier.publish("t", _job_event("mine"))
        assert await watch.wait(1)
    assert hub.present("q") is None


@pytest.mark.parametrize("watchers", [1, 50])
async def test_the_bytes_of_an_event_do_not_depend_on_who_watches(watchers: int) -> None:
    channel = Channel("q")
    outboxes = [Outbox() for _ in range(watchers)]
    channel.clients = dict.fromkeys(outboxes, True)
    channel.deliver(_job_event())
    assert {len((await outbox.take(1))[0]) for outbox in outboxes} == {len(frame("JobStateUpdates", {"jobs": "j"}))}


async def test_what_cannot_be_replaced_is_never_dropped_from_a_backlog() -> None:
    outbox = Outbox(max_frames=10, max_bytes=1000)
    for number in range(50):
        outbox.put(f"change {number}")
        outbox.put(f"assign {number}" + "x" * 100, lasting=True)
    taken = await outbox.take(1)
    assert [text for text in taken if text.startswith("assign")] == [f"assign {n}" + "x" * 100 for n in range(50)]
    assert len(taken) <= 60
    assert taken[-2] == "change 49", "the order is kept"


async def test_a_snapshot_takes_the_place_of_the_changes_that_are_in_it() -> None:
    outbox = Outbox()
    outbox.put("PONG")
    for version in (1, 2, 3):
        outbox.put(f"change {version}", version=version)
    outbox.put("assign", lasting=True)
    outbox.forget(2)
    assert outbox.waiting == (2, len("PONG") + len("change 3"))
    assert await outbox.take(1) == ["PONG", "change 3", "assign"]
    assert outbox.waiting == (0, 0)


async def test_a_channel_whose_subscription_failed_is_not_kept_deaf() -> None:
    class Flaky(MemoryNotifier):
        fails = True

        async def subscribe(self, topic: str, deliver: Callable[[bytes], None]) -> None:
            if self.fails:
                raise Unavailable("the notifier does not answer")
            await super().subscribe(topic, deliver)

    notifier = Flaky()
    hub = Hub(notifier)
    with pytest.raises(Unavailable):
        async with hub.join("q", "t"):
            pass
    notifier.fails = False
    async with hub.watch("q", "t", "j") as watch:
        await notifier.publish("t", _job_event())
        assert await watch.wait(1)
    assert hub.channels == ()
