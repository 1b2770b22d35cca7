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
from in_process import Held

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


async def test_a_wake_up_that_came_during_a_claim_goes_to_another_worker_when_the_claim_filled_this_one() -> None:
    channel, one, two = Channel("q"), _seat("one"), _seat("two")
    channel.waiting.extend([one, two])
    channel.wake_for(SHAPE)
    assert (one.woken_for, two.woken_for) == (SHAPE, "")
    assert one.work.is_set()


# --- several servers -------------------------------------------------------------------------------------------------


class _Shared(MemoryNotifier):
    """A notifier that several servers use; ``again`` is what they want to be called for after a gap."""

    def __init__(self) -> None:
        super().__init__()
        self.again: list[Callable[[], None]] = []

    def on_gap(self, again: Callable[[], None]) -> None:
        self.again.append(again)


class _Servers:
    def __init__(self) -> None:
        self.notifier, self.now = _Shared(), 100.0
        self.one, self.two = (Hub(self.notifier, server=name, clock=lambda: self.now) for name in ("one", "two"))
        for hub in (self.one, self.two):
            hub.is_alone = False

    async def settle(self) -> None:
        while self.one._telling or self.two._telling:
            await asyncio.gather(*self.one._telling, *self.two._telling)
            await asyncio.sleep(0)


async def test_a_server_that_comes_later_is_told_who_is_there() -> None:
    servers = _Servers()
    async with servers.one.join("q", "t") as first:
        first.seat(_seat("w1"))
        async with servers.two.join("q", "t") as second:
            await servers.settle()
            assert list(second.connected) == ["w1"]
            assert "w1" in second.workers_frame()
            assert second.connected["w1"].total == Capacity(cores=2)
        await servers.settle()
        assert first.neighbours.servers == {}


async def test_watchers_here_are_shown_the_workers_there_as_they_come_and_go() -> None:
    servers, watcher = _Servers(), Outbox()
    async with servers.one.join("q", "t") as first, servers.two.join("q", "t") as second:
        second.clients[watcher] = True
        first.seat(_seat("w1"))
        first.announce_workers()
        await servers.settle()
        assert ['"w1"' in shown for shown in await watcher.take(1)] == [True]
        first.announce_workers()
        await servers.settle()
        assert await watcher.take(0.01) == [], "nothing new"
        servers.one.close_all()
        await servers.settle()
        assert ['"w1"' in shown for shown in await watcher.take(1)] == [False]


async def test_a_worker_that_moves_to_another_server_is_given_up_here_without_losing_its_jobs() -> None:
    servers, closed = _Servers(), asyncio.Event()
    async with servers.one.join("q", "t") as first, servers.two.join("q", "t") as second:
        old = _seat("w1")
        old.close = closed.set
        first.seat(old)
        first.waiting.append(old)
        servers.now += 5
        second.seat(_seat("w1"))
        second.announce_workers()
        await servers.settle()
        assert closed.is_set()
        assert not first.unseat(old), "it is not treated as a worker that left"
        assert not first.waiting
        assert first.connected["w1"].seated_at == 105.0


async def test_after_a_gap_everybody_gets_the_queue_as_it_is_and_looks_again() -> None:
    servers, watcher, mirror = _Servers(), Outbox(), Outbox()
    async with servers.one.join("q", "t") as channel, servers.one.watch("q", "t", "j") as watch:
        seat = _seat("w1")
        channel.clients[watcher] = True
        channel.mirrors.add(mirror)
        channel.seat(seat)
        before = channel.version
        servers.notifier.again[0]()
        assert channel.version > before
        assert watcher.overflowed
        assert mirror.overflowed
        assert seat.is_doubtful
        assert seat.work.is_set()
        assert await watch.wait(1)
        await servers.settle()


async def test_a_change_that_nobody_told_is_found_by_the_counters() -> None:
    servers, watcher = _Servers(), Outbox()
    counts = {"queued": 1}

    async def count() -> dict[str, int]:
        return dict(counts)

    async def look(channel: Channel) -> bool:
        channel._looked_at = float("-inf")
        await channel.look_around(count)
        found, watcher.overflowed = watcher.overflowed, False
        return found

    async with servers.one.join("q", "t") as channel:
        channel.clients[watcher] = True
        assert not await look(channel)
        assert not await look(channel)
        counts["queued"] = 2
        assert await look(channel)
        assert not await look(channel)
        counts["queued"] = 3
        channel.deliver(_job_event())
        assert not await look(channel), "an event came: nothing was missed"
        assert not await look(channel)


async def test_a_server_alone_tells_nobody_and_does_not_count() -> None:
    async def count() -> dict[str, int]:
        raise AssertionError("nobody else changes the queue")

    hub = Hub(MemoryNotifier(), server="one")
    async with hub.join("q", "t") as channel:
        channel.announce_workers()
        await channel.look_around(count)
        assert not hub._telling


@pytest.mark.parametrize("method", ["subscribe", "unsubscribe"])
async def test_a_caller_that_is_cancelled_while_it_joins_or_leaves_stays_in_no_channel(method: str) -> None:
    notifier = MemoryNotifier()
    hub = Hub(notifier)
    held = Held(notifier, method, answered=method == "subscribe")

    async def join() -> None:
        async with hub.join("q", "queue:q"):
            pass

    caller = asyncio.create_task(join())
    await held.cancel(caller)
    assert hub.channels == ()
    assert not notifier.is_heard("queue:q")
