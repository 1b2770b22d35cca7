"""Messages within a Durable Object: the kit, and what is told to the object of another queue."""

from __future__ import annotations

import logging

import pytest

from asman.abc import Notifier, TellsAlone
from asman.config import Config
from asman.errors import Unavailable
from asman.testing import NotifierKit
from asman_cloudflare import Platform
from asman_cloudflare.notifier import ObjectNotifier


class TestObjectNotifier(NotifierKit):
    """Two that are opened in one object are one for its subscribers."""

    shared = True

    async def open_notifier(self) -> Notifier:
        platform = self.__dict__.setdefault("platform", Platform(None, queue="ours"))
        notifier = platform.asman_notifier("d1://JOBS", Config())
        assert isinstance(notifier, ObjectNotifier)
        return notifier


class TestObjectOfNoQueue(NotifierKit):
    """Its messages go to other objects too, and fail there."""

    async def open_notifier(self) -> Notifier:
        async def tell(queue: str, topic: str, data: bytes) -> None:
            raise Unavailable("it is away")

        return ObjectNotifier("", tell)


class Others:
    def __init__(self) -> None:
        self.told: list[tuple[str, str, bytes]] = []

    async def tell(self, queue: str, topic: str, data: bytes) -> None:
        self.told.append((queue, topic, data))


async def test_what_happened_in_another_queue_is_told_to_its_object() -> None:
    others, heard = Others(), list[bytes]()
    async with ObjectNotifier("ours", others.tell) as notifier:
        await notifier.subscribe("queue:ours", heard.append)
        for topic in ("queue:ours", "queue:theirs", "recent"):
            await notifier.publish(topic, topic.encode())
    assert others.told == [("theirs", "queue:theirs", b"queue:theirs")]
    assert heard == [b"queue:ours"]


def test_who_is_told_is_taken_for_a_listener() -> None:
    notifier = ObjectNotifier("ours", Others().tell)
    assert [notifier.is_heard(topic) for topic in ("queue:ours", "queue:theirs", "recent")] == [False, True, False]
    assert not ObjectNotifier("ours").is_heard("queue:theirs")


async def test_an_object_that_does_not_listen_is_logged_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    async def tell(queue: str, topic: str, data: bytes) -> None:
        raise Unavailable("it is away")

    with caplog.at_level(logging.WARNING):
        await ObjectNotifier("ours", tell).publish("queue:theirs", b"x")
    assert "was not told" in caplog.text


@pytest.mark.parametrize(("url", "is_taken"), [("d1://JOBS", True), ("durable://", True), ("memory:", False)])
def test_it_is_chosen_with_the_job_store(url: str, is_taken: bool) -> None:
    chosen = Platform(None, None, "ours").asman_notifier(url, Config())
    assert (chosen is not None) == is_taken
    assert chosen is None or (isinstance(chosen, TellsAlone) and chosen.is_alone)
