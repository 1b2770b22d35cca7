"""The last hour of a queue over all servers: each one counts the steps that it took, and whoever is asked sums up.

A server that is asked tells the others, waits a moment for what they counted, and takes what came. Servers that have
answered lately are expected, so that nobody waits longer than the slowest of them; one that stays silent is expected
no more. Nothing is sent unless somebody looks at a queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from asman.abc import Notifier
from asman.messages import decode_event, encode_event
from asman.recent import Hour, Recent, merge, read_hour, write_hour

__all__ = ["ANSWER_S", "Gathered", "Hours"]

_log = logging.getLogger(__name__)

ANSWER_S = 0.3
"""So long is waited for servers that may be there."""

_TOPIC = "recent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """Shape: ``servers`` is how many servers' counts are in ``hour``."""

    hour: Hour
    servers: int


@dataclass(slots=True)
class _Question:
    expected: frozenset[str]
    answers: dict[str, Hour] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_answered(self) -> bool:
        return bool(self.expected) and self.expected <= self.answers.keys()


class Hours:
    """Shape: ``server`` names this one to the others, ``is_alone`` if there are none; ``clock`` answers seconds since
    the epoch.
    """

    def __init__(
        self, notifier: Notifier, recent: Recent, *, server: str, is_alone: bool, clock: Callable[[], float]
    ) -> None:
        self._notifier, self._recent, self._server, self._clock = notifier, recent, server, clock
        self._is_alone = is_alone
        self._known: frozenset[str] = frozenset()
        self._questions: dict[str, _Question] = {}
        self._asked = 0
        self._answering: set[asyncio.Future[None]] = set()

    async def open(self) -> None:
        """Hear what other servers ask."""
        if not self._is_alone:
            await self._notifier.subscribe(_TOPIC, self._hear)

    async def close(self) -> None:
        if not self._is_alone:
            await self._notifier.unsubscribe(_TOPIC, self._hear)

    async def gather(self, queue: str) -> Gathered:
        """The sum of what all servers counted; of those that do not answer in time nothing is in it."""
        own = self._recent.hour(queue, self._clock())
        if self._is_alone:
            return Gathered(hour=own, servers=1)
        self._asked += 1
        number = f"{self._server} {self._asked}"
        question = self._questions[number] = _Question(self._known)
        try:
            await self._notifier.publish(_TOPIC, encode_event({"ask": number, "queue": queue, "from": self._server}))
            async with asyncio.timeout(ANSWER_S):
                while not question.is_answered:
                    question.changed.clear()
                    await question.changed.wait()
            self._known |= question.answers.keys()
        except TimeoutError:
            self._known = frozenset(question.answers)
        finally:
            del self._questions[number]
        return Gathered(hour=merge([own, *question.answers.values()]), servers=1 + len(question.answers))

    def _hear(self, data: bytes) -> None:
        header, _ = decode_event(data)
        if header["from"] == self._server:
            return
        if "ask" in header:
            self._answer(header)
            return
        question = self._questions.get(header["answer"])
        if question is not None:
            question.answers[header["from"]] = read_hour(header["hour"])
            question.changed.set()
        elif header["answer"].startswith(f"{self._server} "):
            self._known |= {header["from"]}  # late, or new: waited for the next time

    def _answer(self, header: dict[str, Any]) -> None:
        hour = write_hour(self._recent.hour(header["queue"], self._clock()))
        told = encode_event({"answer": header["ask"], "from": self._server, "hour": hour})
        answering = asyncio.ensure_future(self._notifier.publish(_TOPIC, told))
        self._answering.add(answering)
        answering.add_done_callback(self._answered)

    def _answered(self, answering: asyncio.Future[None]) -> None:
        self._answering.discard(answering)
        if not answering.cancelled() and answering.exception() is not None:
            _log.warning("what was counted here could not be told", exc_info=answering.exception())
