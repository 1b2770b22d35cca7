"""What is looked at when a Redis is opened or comes back: does it answer, whose is it, what does it keep.

The clock is here too: all servers of a deployment go by the time of their Redis.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from asman.errors import ConfigError, Unavailable, clip
from asman_redis import scripts
from asman_redis.address import Address, Reach, reach
from asman_redis.batcher import Batcher, said
from asman_redis.keys import LAYOUT, PARTITIONS, Keys

__all__ = ["ServerClock", "durability_of", "opened"]

_log = logging.getLogger(__name__)

_START_S = 10.0
"""How long a Redis that does not answer yet is waited for: it may be starting beside this server."""
_AGAIN_S = 0.25


async def opened(
    address: Address, keys: Keys, clock: ServerClock, found_again: Callable[[str], None]
) -> tuple[Batcher, str]:
    """A way to a Redis that can be used, and what it keeps (``durability_of``).

    Errors: ConfigError when nothing answers, the password is wrong, or another layout is stored.
    """
    way = reach(address)
    try:
        await _answering(way)
        batcher = Batcher(way)
        await _check_layout(batcher, keys)
        await clock.look(batcher)
    except BaseException:
        await way.close()
        raise
    durability = await _durability(way, keys.prefix)

    async def look_again() -> None:
        found_again(await _durability(way, keys.prefix))

    batcher.on_return = look_again
    return batcher, durability


async def _answering(way: Reach) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            (reply,) = await way.run([("EVAL", scripts.TIME.source, 1, "asman:{0}:")])
            if isinstance(reply, ResponseError):
                raise reply
            return
        except (AuthenticationError, NoPermissionError) as error:
            raise ConfigError(f"Redis refuses the login: {error}", hint="Correct the user or password.") from error
        except (RedisError, OSError, TimeoutError) as error:
            text = said(error)
            if text.startswith(("NOAUTH", "WRONGPASS", "NOPERM", "ERR")):
                raise ConfigError(f"Redis refuses to work with us: {text[:200]}") from error
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"no Redis answers: {text[:200] or type(error).__name__}",
                    hint="Start it, or correct its address (--redis).",
                ) from error
        await asyncio.sleep(_AGAIN_S)


async def _check_layout(batcher: Batcher, keys: Keys) -> None:
    try:
        await batcher.ask("SET", keys.layout, f"{LAYOUT}/{PARTITIONS}", "NX")
        stored: bytes = await batcher.ask("GET", keys.layout)
    except Unavailable as error:
        raise ConfigError(error.message, hint=error.hint) from error
    if stored != f"{LAYOUT}/{PARTITIONS}".encode():
        raise ConfigError(
            f"the keys below {clip(keys.prefix)} have the layout {clip(stored.decode(errors='replace'))}, "
            f"this release writes {LAYOUT}/{PARTITIONS}",
            hint="Use the release that wrote them, or another ?prefix= in the Redis URL.",
        )


async def _durability(way: Reach, prefix: str) -> str:
    try:
        found = await way.settings()
    except (RedisError, OSError, TimeoutError) as error:
        _log.warning(
            "Redis does not tell its settings; acknowledged jobs may not survive a crash of it",
            extra={"reason": said(error)[:200]},
        )
        return "memory"
    durability, weakness = durability_of(found)
    if weakness:
        _log.warning(weakness, extra={"durability": durability, "prefix": prefix})
    return durability


def durability_of(settings: Iterable[Mapping[str, str]]) -> tuple[str, str]:
    """The class of the weakest primary, and what makes it weak (empty for ``disk``).

    Source: promises, P1: appended with ``always`` is on disk before the answer; ``everysec`` loses a second.
    """
    ranked = ["memory", "everysec", "disk"]
    worst, why = "disk", ""
    for one in settings:
        found, reason = _class_of(one)
        if ranked.index(found) < ranked.index(worst):
            worst, why = found, reason
        elif reason and not why:
            why = reason
    return worst, why


def _class_of(settings: Mapping[str, str]) -> tuple[str, str]:
    policy = settings.get("maxmemory-policy", "noeviction")
    if policy != "noeviction" and settings.get("maxmemory", "0") != "0":
        return "memory", f"Redis drops data when its memory is full (maxmemory-policy {policy}); set it to noeviction"
    if settings.get("appendonly") != "yes":
        return (
            "memory",
            "Redis keeps no append-only file: what is acknowledged is lost when it ends; set appendonly yes",
        )
    fsync = settings.get("appendfsync", "everysec")
    if fsync == "always":
        return "disk", ""
    if fsync == "everysec":
        return "everysec", "Redis writes to disk once a second: a crash loses the last one; set appendfsync always"
    return "memory", "Redis leaves writing to disk to the system (appendfsync no); set appendfsync always"


class ServerClock:
    """Redis TIME, carried on by the steady clock of this machine. Units: seconds since the epoch."""

    _AGAIN_S = 10.0
    _FORGET_S = 60.0

    def __init__(self, key: str) -> None:
        self._key = key
        self._ahead = 0.0
        self._round_trip_s = float("inf")
        self._at = self._tried = float("-inf")
        self._last = 0.0
        self._looking: asyncio.Task[None] | None = None

    def now(self, batcher: Batcher) -> float:
        steady = time.monotonic()
        if steady - self._tried > self._AGAIN_S and self._looking is None:
            self._tried = steady
            self._looking = asyncio.ensure_future(self._look_quietly(batcher))
        self._last = max(self._last, steady + self._ahead)
        return self._last

    async def look(self, batcher: Batcher) -> None:
        """Ask once. The quickest answer of the last minute counts: it was the least delayed."""
        began = time.monotonic()
        seconds, micros = await batcher.call(scripts.TIME, [self._key])
        ended = time.monotonic()
        if ended - began <= self._round_trip_s or ended - self._at > self._FORGET_S:
            self._round_trip_s, self._at = ended - began, ended
            ahead = int(seconds) + int(micros) / 1e6 - (began + ended) / 2
            if abs(ahead - self._ahead) > 1.0:
                self._last = 0.0  # it was set anew, or another Redis took over: follow it
            self._ahead = ahead

    async def _look_quietly(self, batcher: Batcher) -> None:
        try:
            await self.look(batcher)
        except Unavailable:
            return  # the steady clock goes on
        finally:
            self._looking = None

    def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
