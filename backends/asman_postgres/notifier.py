"""Messages between servers by LISTEN and NOTIFY: what a server publishes reaches the listening connection of each.

A topic is a channel, named by its hash, because channel names are short; so a server hears only the topics it has
subscribers for. A payload may have 8000 bytes of text, so a message travels as base64, in as many pieces as it needs.
The pieces of a batch are sent in one transaction, whose notifications arrive together and in order.

Subscribers of this server are called at once, whether there is a database or not; its own messages that come back are
dropped. While the database is away nothing is heard from others: ``on_gap`` is called when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from asman.batches import Batches
from asman.errors import AsmanError
from asman_postgres.database import Database, within

__all__ = ["PostgresNotifier"]

_log = logging.getLogger(__name__)

_PIECE_BYTES = 5_900
_PIECE = re.compile(r"([0-9a-f]{8})[0-9a-f]+([,.])([A-Za-z0-9+/=]*)")
_PING_S = 10.0
_ANSWER_S = 5.0
_BACK_OFF_S = (0.05, 0.2, 0.5, 1.0, 2.0)

_Deliver = Callable[[bytes], None]


class PostgresNotifier:
    """Source: ``abc.Notifier``.

    Tells of gaps (``abc.TellsGaps``): a listening connection that is lost is made again, and hears all topics again.

    Errors: ConfigError and Unavailable when opening, as the job store; none after. What cannot be sent is logged.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url, at_most=2, synchronous_commit="off")  # nothing here outlives the moment
        self._messages: Batches[tuple[str, bytes], None] = Batches(self._publish_together, lanes=1, size=256)
        self._delivers: dict[str, list[_Deliver]] = {}
        self._listening: set[str] = set()
        self._parts: dict[tuple[str, int], list[str]] = {}
        self._gap: list[Callable[[], None]] = []
        self._mark = secrets.token_hex(4)
        self._sent = 0
        self._sending: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._connection: Any = None
        self._lost = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._database.open()
        try:
            await self._connect()
        except BaseException:
            await self._database.close()
            raise
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._connection is not None:
            self._connection.terminate()
        await asyncio.gather(*self._sending)
        await self._database.close()

    # --- publishing --------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, data: bytes) -> None:
        channel = self._channel(topic)
        self._deliver(channel, data)
        task = asyncio.create_task(self._send(channel, data))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, channel: str, data: bytes) -> None:
        try:
            await self._messages.ask((channel, data), key=object(), size_bytes=len(data))  # any two may go together
        except AsmanError as error:
            _log.warning("a message to the other servers is lost", extra={"reason": str(error)})

    async def _publish_together(self, messages: list[tuple[str, bytes]]) -> list[None]:
        pieces = [(channel, piece) for channel, data in messages for piece in self._pieces(data)]
        await self._database.value("publish", [channel for channel, _ in pieces], [piece for _, piece in pieces])
        return [None] * len(messages)

    def _pieces(self, data: bytes) -> Iterator[str]:
        """Shape: the sender's mark, a number, a comma if more follows or a dot for the last, base64.

        Of two equal payloads in one transaction the database would drop one; the number makes them differ.
        """
        for at in range(0, max(len(data), 1), _PIECE_BYTES):
            self._sent += 1
            mark = "," if at + _PIECE_BYTES < len(data) else "."
            yield f"{self._mark}{self._sent:x}{mark}{b64encode(data[at : at + _PIECE_BYTES]).decode()}"

    def _channel(self, topic: str) -> str:
        named = f"{self._database.schema}\0{topic}".encode("utf-8", "surrogatepass")
        return f"asman_{hashlib.sha256(named).hexdigest()[:40]}"

    # --- subscribing -------------------------------------------------------------------------------------------------

    def on_gap(self, again: Callable[[], None]) -> None:
        """Call ``again`` whenever messages of others may have been missed."""
        self._gap.append(again)

    async def subscribe(self, topic: str, deliver: _Deliver) -> None:
        self._delivers.setdefault(self._channel(topic), []).append(deliver)
        await self._agree(self._channel(topic))

    async def unsubscribe(self, topic: str, deliver: _Deliver) -> None:
        channel = self._channel(topic)
        delivers = self._delivers.get(channel, [])
        if deliver in delivers:
            delivers.remove(deliver)
        if not delivers:
            self._delivers.pop(channel, None)
            await self._agree(channel)

    async def _agree(self, channel: str) -> None:
        """Listen to a channel that has subscribers, and to no other. A connection that fails is the keeper's matter:
        it will listen to everything again."""
        async with self._turn:
            connection, is_wanted = self._connection, channel in self._delivers
            if connection is None or is_wanted == (channel in self._listening):
                return
            change = connection.add_listener if is_wanted else connection.remove_listener
            try:
                await within(_ANSWER_S, connection, lambda: change(channel, self._hear))
            except Exception as error:
                _log.warning("listening failed", extra={"reason": str(error)})
                connection.terminate()
                return
            (self._listening.add if is_wanted else self._listening.discard)(channel)

    def _hear(self, connection: Any, sender: int, channel: str, payload: str) -> None:
        piece = _PIECE.fullmatch(payload)
        if piece is None or piece[1] == self._mark:
            return  # no message at all, or our own
        parts = self._parts.setdefault((channel, sender), [])
        parts.append(piece[3])
        if piece[2] == ",":
            return
        del self._parts[channel, sender]
        self._deliver(channel, b"".join(map(b64decode, parts)))

    def _deliver(self, channel: str, data: bytes) -> None:
        for deliver in tuple(self._delivers.get(channel, ())):
            try:
                deliver(data)
            except Exception:
                _log.exception("a subscriber failed", extra={"channel": channel})

    # --- the listening connection ------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        """Make the connection and listen to everything that has subscribers."""
        connection = await self._database.connect()
        lost = self._lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        async with self._turn:
            self._listening.clear()
            self._parts.clear()
            self._connection = connection
        for channel in tuple(self._delivers):
            await self._agree(channel)

    async def _keep(self) -> None:
        """Notice that the connection is lost, also one that is silent, and make a new one."""
        tries = 0
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), _PING_S)
            if not self._lost.is_set():
                await self._ping()
                continue
            try:
                await self._connect()
            except Exception as error:
                if tries == 0:
                    _log.warning("the database cannot be listened to", extra={"reason": str(error)})
                await asyncio.sleep(_BACK_OFF_S[min(tries, len(_BACK_OFF_S) - 1)])
                tries += 1
            else:
                tries = 0
                for again in self._gap:
                    again()

    async def _ping(self) -> None:
        async with self._turn:
            try:
                await within(_ANSWER_S, self._connection, lambda: self._connection.execute("SELECT 1"))
            except Exception:
                self._connection.terminate()
                self._lost.set()
