"""Messages within one Durable Object. All sockets of a queue end in the queue's object, which is the only one that
writes its jobs, so nobody else need be told: there are no other servers.

What is done elsewhere for a queue after all is told to that queue's object. Nothing is told for anything but a queue.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from asman.errors import AsmanError

__all__ = ["ObjectNotifier", "Subscribers", "Tell"]

_log = logging.getLogger(__name__)

_OF_QUEUE = "queue:"

Tell = Callable[[str, str, bytes], Awaitable[None]]
"""Hand the object of a queue (first) a message of a topic (second)."""

Subscribers = dict[str, list[Callable[[bytes], None]]]


class ObjectNotifier:
    """Delivers before ``publish`` returns. Source: ``abc.Notifier``.

    Shape:  ``queue`` is the one that the object is for, "" if it is for none; without ``tell`` there are no others.
            ``subscribers`` by topic are what all notifiers of the object have in common.
    """

    is_alone = True

    def __init__(self, queue: str = "", tell: Tell | None = None, subscribers: Subscribers | None = None) -> None:
        self._queue, self._tell = queue, tell
        self._subscribers: Subscribers = {} if subscribers is None else subscribers
        self._own: list[tuple[str, Callable[[bytes], None]]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for topic, deliver in tuple(self._own):
            await self.unsubscribe(topic, deliver)

    def is_heard(self, topic: str) -> bool:
        return topic in self._subscribers or (self._tell is not None and self._is_elsewhere(topic))

    def _is_elsewhere(self, topic: str) -> bool:
        return topic.startswith(_OF_QUEUE) and topic != _OF_QUEUE + self._queue

    async def publish(self, topic: str, data: bytes) -> None:
        for deliver in tuple(self._subscribers.get(topic, ())):
            try:
                deliver(data)
            except Exception:
                _log.exception("a subscriber failed", extra={"topic": topic})
        if self._tell is not None and self._is_elsewhere(topic):
            try:
                await self._tell(topic.removeprefix(_OF_QUEUE), topic, data)
            except AsmanError as error:
                _log.warning("the object of a queue was not told", extra={"reason": error.message})

    async def subscribe(self, topic: str, deliver: Callable[[bytes], None]) -> None:
        self._subscribers.setdefault(topic, []).append(deliver)
        self._own.append((topic, deliver))

    async def unsubscribe(self, topic: str, deliver: Callable[[bytes], None]) -> None:
        if (topic, deliver) not in self._own:
            return
        self._own.remove((topic, deliver))
        present = self._subscribers[topic]
        present.remove(deliver)
        if not present:
            del self._subscribers[topic]
