"""Messages between servers by Redis publish and subscribe.

One subscription connection per server process, however many sockets it has. A message goes to the subscribers of this
process at once, and through Redis to those of the others; it carries its sender's mark, so that its own echo is
dropped. While Redis is away nothing is heard from the others: ``on_gap`` is called when it is back, so that those who
rely on messages read the store again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from redis.exceptions import RedisError

from asman.errors import Unavailable
from asman_redis import scripts
from asman_redis.address import reach, read_address
from asman_redis.batcher import Batcher
from asman_redis.keys import Keys

__all__ = ["RedisNotifier"]

_log = logging.getLogger(__name__)

_MARK_BYTES = 8
_CONFIRM_S = 2.0
"""How long a subscriber waits for Redis to say that it listens; without that it hears after the next reconnection."""
_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_PING_S = 5.0
_LAST_WORDS_S = 1.0
"""How long messages may still take when the server ends."""

_Deliver = Callable[[bytes], None]


class RedisNotifier:
    """Source: ``abc.Notifier``. Errors: ConfigError for a URL that cannot be read; publishing never fails or waits."""

    def __init__(self, url: str) -> None:
        self._address = read_address(url)
        self._keys = Keys(self._address.prefix)
        self._mark = secrets.token_bytes(_MARK_BYTES)
        self._subscribers: dict[str, list[_Deliver]] = {}
        self._confirmed: dict[str, asyncio.Event] = {}
        self._gap: list[Callable[[], None]] = []
        self._sending: set[asyncio.Future[Any]] = set()
        self._wanted = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self._pubsub: Any = None
        self._asking = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._way = reach(self._address)
        self._redis = Batcher(self._way)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sending:
            await asyncio.wait(self._sending, timeout=_LAST_WORDS_S)
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await self._redis.close()

    def on_gap(self, again: Callable[[], None]) -> None:
        """Call ``again`` whenever messages of others may have been missed."""
        self._gap.append(again)

    async def publish(self, topic: str, data: bytes) -> None:
        self._deliver(topic, data)
        name = self._keys.topic(topic)
        try:
            sending = self._redis.post(scripts.PUBLISH, [self._keys.layout], name, self._mark + data)
        except Unavailable as error:
            _lost(error)
            return
        self._sending.add(sending)
        sending.add_done_callback(self._sent)

    def _sent(self, sending: asyncio.Future[Any]) -> None:
        self._sending.discard(sending)
        if not sending.cancelled() and (error := sending.exception()) is not None:
            _lost(error)

    async def subscribe(self, topic: str, deliver: _Deliver) -> None:
        is_first = topic not in self._subscribers
        self._subscribers.setdefault(topic, []).append(deliver)
        confirmed = self._confirmed.setdefault(topic, asyncio.Event())
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        if is_first:
            await self._ask("subscribe", topic)
        self._wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CONFIRM_S):
                await confirmed.wait()

    async def unsubscribe(self, topic: str, deliver: _Deliver) -> None:
        present = self._subscribers.get(topic, [])
        if deliver in present:
            present.remove(deliver)
        if present or topic not in self._subscribers:
            return
        del self._subscribers[topic]
        self._confirmed.pop(topic).set()  # whoever still waits for it waits for nothing
        await self._ask("unsubscribe", topic)

    async def _ask(self, what: str, topic: str) -> None:
        """Change what the connection listens to. Without one there is nothing to do: the next starts with all topics.

        One at a time, and not while the connection is being closed: the library does not expect that.
        """
        async with self._asking:
            if self._pubsub is not None:
                with suppress(RedisError, OSError, AttributeError):  # the last when it broke in the middle of sending
                    await getattr(self._pubsub, what)(self._keys.topic(topic))

    # --- listening ---------------------------------------------------------------------------------------------------

    def _deliver(self, topic: str, data: bytes) -> None:
        for deliver in tuple(self._subscribers.get(topic, ())):
            try:
                deliver(data)
            except Exception:
                _log.exception("a subscriber failed", extra={"topic": topic})

    async def _listen(self) -> None:
        """Hear until the end. A connection that broke is made anew with all its topics, and the gap is told."""
        failures, is_again = 0, False
        while True:
            await self._wanted.wait()
            pubsub = self._way.pubsub()
            try:
                topics = list(self._subscribers)
                await pubsub.subscribe(*(self._keys.topic(topic) for topic in topics))
                self._pubsub = pubsub
                for topic in self._subscribers.keys() - set(topics):
                    await self._ask("subscribe", topic)
                if is_again:
                    self._tell_gap()
                failures, is_again = 0, True
                await self._hear(pubsub)
                is_again = False  # nobody listened, so nobody missed anything
            except (RedisError, OSError, TimeoutError) as error:
                if not failures:
                    _log.warning("messages of other servers do not come in", extra={"reason": type(error).__name__})
                failures += 1
            finally:
                async with self._asking:
                    self._pubsub = None
                    with suppress(RedisError, OSError):
                        await pubsub.aclose()
            await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S)) - 1] if failures else 0)

    async def _hear(self, pubsub: Any) -> None:
        """Until nobody is subscribed any more. Errors: when the connection breaks, or does not answer a ping."""
        is_quiet = False
        while self._subscribers:
            message = await pubsub.get_message(timeout=_PING_S)
            if message is None:
                if is_quiet:
                    raise TimeoutError("no answer to a ping")
                async with self._asking:
                    await pubsub.ping()
            is_quiet = message is None
            if message is not None:
                self._take(message)
        self._wanted.clear()

    def _take(self, message: dict[str, Any]) -> None:
        channel = message["channel"]
        topic = (channel.decode() if isinstance(channel, bytes) else str(channel)).removeprefix(self._keys.topic(""))
        if message["type"] == "subscribe":
            confirmed = self._confirmed.get(topic)
            if confirmed is not None:
                confirmed.set()
        elif message["type"] == "message":
            data: bytes = message["data"]
            if data[:_MARK_BYTES] != self._mark:
                self._deliver(topic, data[_MARK_BYTES:])

    def _tell_gap(self) -> None:
        for again in self._gap:
            again()


def _lost(error: BaseException) -> None:
    _log.warning("a message to the other servers is lost", extra={"reason": str(error)})
