"""What a notifier must do. Subclass ``NotifierKit`` and write ``open_notifier``; see ``asman.testing``."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from asman.abc import Notifier
from asman.testing.fixtures import Exam

__all__ = ["NotifierKit"]

_WAIT_S = 10.0
_END = b"\x00the end"


class _Listener:
    """Collects what is delivered; ``until_end`` waits for a message that says so."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self, data: bytes) -> None:
        assert asyncio.get_running_loop() is self._loop, "delivered outside the event loop"
        if data == _END:
            self._ended.set()
        else:
            self.heard.append(data)

    async def until_end(self) -> list[bytes]:
        try:
            await asyncio.wait_for(self._ended.wait(), _WAIT_S)
        except TimeoutError as error:
            raise AssertionError(f"a message was published and not delivered within {_WAIT_S:g} s") from error
        return self.heard


def _raises(data: bytes) -> None:
    raise RuntimeError("a subscriber that is broken on purpose")


class NotifierKit(Exam):
    """The exam of a notifier."""

    pytestmark = pytest.mark.asyncio

    async def open_notifier(self) -> Notifier:
        raise NotImplementedError("write `async def open_notifier(self)` that answers with yours, not yet entered")

    def new_topic(self, name: str = "") -> str:
        return f"kit:{uuid4().hex}:{name}"

    async def test_publishing_to_nobody_is_no_error(self) -> None:
        async with await self.open_notifier() as notifier:
            await notifier.publish(self.new_topic(), b"x")

    async def test_messages_arrive_in_the_order_of_their_publisher(self) -> None:
        async with await self.open_notifier() as notifier:
            topic, listener = self.new_topic(), _Listener()
            await notifier.subscribe(topic, listener)
            messages = [b"%d" % number for number in range(500)]
            for message in [*messages, _END]:
                await notifier.publish(topic, message)
            assert await listener.until_end() == messages

    @pytest.mark.parametrize("data", [b"", b"\n", b"\x00\xff", bytes(range(256)), b"x" * (1 << 20)], ids=repr)
    async def test_bytes_arrive_as_they_are(self, data: bytes) -> None:
        async with await self.open_notifier() as notifier:
            topic, listener = self.new_topic(), _Listener()
            await notifier.subscribe(topic, listener)
            await notifier.publish(topic, data)
            await notifier.publish(topic, _END)
            assert await listener.until_end() == [data]

    async def test_every_subscriber_of_the_topic_gets_every_message(self) -> None:
        async with await self.open_notifier() as notifier:
            topic, listeners = self.new_topic(), [_Listener() for _ in range(5)]
            for listener in listeners:
                await notifier.subscribe(topic, listener)
            for message in (b"a", b"b", _END):
                await notifier.publish(topic, message)
            for listener in listeners:
                assert await listener.until_end() == [b"a", b"b"]

    @pytest.mark.parametrize("name", ["", "a", "A", "*", "a*", "?", "[a]", " ", "名前", "queue:x", "q" * 300])
    async def test_topics_are_kept_apart(self, name: str) -> None:
        async with await self.open_notifier() as notifier:
            topic = self.new_topic(name)
            others = [topic + "x", topic[:-1], topic[:-1] + "?", topic[:-1] + "*"]
            listener = _Listener()
            await notifier.subscribe(topic, listener)
            for other in others:
                if other != topic:
                    await notifier.publish(other, b"for others")
            await notifier.publish(topic, _END)
            assert await listener.until_end() == []

    async def test_messages_from_before_the_subscription_are_not_delivered(self) -> None:
        async with await self.open_notifier() as notifier:
            topic, listener = self.new_topic(), _Listener()
            await notifier.publish(topic, b"too early")
            await notifier.subscribe(topic, listener)
            await notifier.publish(topic, _END)
            assert await listener.until_end() == []

    async def test_after_unsubscribing_nothing_arrives(self) -> None:
        async with await self.open_notifier() as notifier:
            topic, leaves, stays = self.new_topic(), _Listener(), _Listener()
            await notifier.subscribe(topic, leaves)
            await notifier.subscribe(topic, stays)
            await notifier.unsubscribe(topic, leaves)
            for message in (b"a", _END):
                await notifier.publish(topic, message)
            assert await stays.until_end() == [b"a"]
            assert leaves.heard == []

    async def test_unsubscribing_what_is_not_subscribed_is_no_error(self) -> None:
        async with await self.open_notifier() as notifier:
            topic, listener = self.new_topic(), _Listener()
            await notifier.unsubscribe(topic, listener)
            await notifier.subscribe(topic, listener)
            await notifier.unsubscribe(topic, listener)
            await notifier.unsubscribe(topic, listener)

    async def test_one_can_subscribe_again(self) -> None:
        async with await self.open_notifier() as notifier:
            topic, listener = self.new_topic(), _Listener()
            await notifier.subscribe(topic, listener)
            await notifier.unsubscribe(topic, listener)
            await notifier.publish(topic, b"between")
            await notifier.subscribe(topic, listener)
            for message in (b"after", _END):
                await notifier.publish(topic, message)
            assert await listener.until_end() == [b"after"]

    async def test_subscriber_that_raises_does_not_hurt_the_others_or_the_publisher(self) -> None:
        async with await self.open_notifier() as notifier:
            topic, before, after = self.new_topic(), _Listener(), _Listener()
            for deliver in (before, _raises, after):
                await notifier.subscribe(topic, deliver)
            for message in (b"a", b"b", _END):
                await notifier.publish(topic, message)
            assert await before.until_end() == [b"a", b"b"]
            assert await after.until_end() == [b"a", b"b"]

    async def test_what_one_opened_notifier_publishes_the_other_delivers(self) -> None:
        self.needs_shared()
        async with await self.open_notifier() as one, await self.open_notifier() as two:
            topic, listener = self.new_topic(), _Listener()
            await two.subscribe(topic, listener)
            for message in (b"a", b"b", _END):
                await one.publish(topic, message)
            assert await listener.until_end() == [b"a", b"b"]
