"""What a Redis URL means, and how its Redis is reached: one server, behind sentinels, or as a cluster.

Everything goes through a ``Reach``: it takes a list of commands and answers with as many replies, an error in the place
of a command that failed. Against one server (or the primary that the sentinels name) that is one write and one read
on a connection that is kept; in a cluster the library finds each command's node and follows its redirections.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlencode

import redis.asyncio as aioredis
from hiredis import pack_command
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from asman.errors import ConfigError, clip

__all__ = ["CONNECT_S", "REPLY_S", "Address", "Command", "Reach", "reach", "read_address"]

CONNECT_S = 2.0
REPLY_S = 5.0
"""How long a batch may take, its reply read whole."""

_REPLICAS_MS = 1_000

Command = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Shape: ``kind`` is single, sentinel or cluster; ``hosts`` are (host, port) pairs of the latter two; ``url`` is
    what the library takes for a single server, without our own parameters. ``prefix`` starts every key;
    ``replicas`` is how many must have a change before it is acknowledged.
    """

    kind: str
    prefix: str
    replicas: int = 0
    url: str = ""
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    options: Mapping[str, Any]


def read_address(url: str) -> Address:
    """Errors: ConfigError, naming the part that cannot be read; the password never appears."""
    scheme, _, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    rest = rest.partition("#")[0]
    whole, _, asked = rest.partition("?")
    netloc, _, path = whole.partition("/")  # not urlsplit: newer ones refuse brackets that are not the only host
    query = dict(parse_qsl(asked, keep_blank_values=True))
    prefix = query.pop("prefix", "asman")
    if not prefix or any(c in "{}" or not c.isprintable() for c in prefix):
        raise ConfigError(f"the prefix {clip(prefix)} of the Redis URL is empty or holds braces", hint="Use letters.")
    replicas = _whole("number of replicas", query.pop("replicas", "0"))
    if not kind:
        plain = f"{base}://{whole}" + (f"?{urlencode(query)}" if query else "")
        return Address(kind="single", prefix=prefix, replicas=replicas, url=plain, options={})
    if kind not in ("sentinel", "cluster"):
        raise ConfigError(f"{clip(scheme)} is no way to reach Redis", hint="Use redis+sentinel:// or redis+cluster://.")
    unknown = sorted(query)
    if unknown:
        raise ConfigError(
            f"the Redis URL has the unknown parameter {clip(unknown[0])}", hint="There are prefix and replicas."
        )
    login, _, places = netloc.rpartition("@")
    options: dict[str, Any] = {"ssl": True} if base == "rediss" else {}
    if login:
        user, _, password = login.partition(":")
        options |= {"username": unquote(user) or None, "password": unquote(password) or None}
    pieces = [piece for piece in path.split("/") if piece]
    hosts = tuple(_host(place, 26379 if kind == "sentinel" else 6379) for place in places.split(",") if place)
    if not hosts:
        raise ConfigError("the Redis URL names no host", hint=f"Write {base}+{kind}://host1,host2.")
    if kind == "cluster":
        if replicas:
            raise ConfigError("replicas cannot be waited for in a Redis Cluster", hint="Leave replicas out of the URL.")
        if pieces:
            raise ConfigError(f"a Redis Cluster has no database {clip(pieces[0])}", hint="Leave out the path.")
        return Address(kind=kind, prefix=prefix, hosts=hosts, options=options)
    if not pieces:
        raise ConfigError("the Redis URL names no service that the sentinels know", hint="End it with /mymaster.")
    options["db"] = _whole("database", pieces[1]) if len(pieces) > 1 else 0
    return Address(kind=kind, prefix=prefix, replicas=replicas, hosts=hosts, service=pieces[0], options=options)


def _host(place: str, port: int) -> tuple[str, int]:
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        return host, _whole("port", rest[1:]) if rest else port
    host, mark, digits = place.partition(":")
    return host, _whole("port", digits) if mark else port


def _whole(what: str, digits: str) -> int:
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 5:
        raise ConfigError(f"the {what} {clip(digits)} of the Redis URL is no number")
    return int(digits)


class Reach(Protocol):
    """A way to a Redis."""

    async def run(self, commands: Sequence[Command], answered: Callable[[Any], None] | None = None) -> list[Any]:
        """One reply for each command, or the error in its place. Errors: RedisError when not all were had.

        ``answered`` is given each reply in turn, as soon as it counts.
        """
        ...

    async def settings(self) -> list[Mapping[str, str]]:
        """What ``CONFIG GET`` says of each primary. Errors: RedisError."""
        ...

    def pubsub(self) -> Any:
        """A new subscriber of the library."""
        ...

    async def drop(self) -> None:
        """Forget the connection, which the next run makes anew."""
        ...

    async def close(self) -> None: ...


def reach(address: Address) -> Reach:
    """A way that is not opened yet. Errors: ConfigError for a URL that the library does not read."""
    often: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_S,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "socket_keepalive": True,
    }
    if address.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        cluster = {**often, "socket_timeout": REPLY_S, "retry": Retry(NoBackoff(), 3)}
        plain = [aioredis.Redis(host=host, port=port, **often, **address.options) for host, port in address.hosts]
        return _Cluster(RedisCluster(startup_nodes=nodes, **cluster, **address.options), plain)
    if address.kind == "sentinel":
        sentinels: Any = Sentinel(  # type: ignore[no-untyped-call]
            list(address.hosts), sentinel_kwargs=often, **often, **address.options
        )
        return _One(sentinels.master_for(address.service), address.replicas)
    if address.url.startswith("unix"):
        often.pop("socket_keepalive")
    try:
        return _One(aioredis.Redis.from_url(address.url, **often), address.replicas)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the Redis URL cannot be read: {error}") from error


class _One:
    """One server, or the primary of a service: one connection, a batch at a time."""

    def __init__(self, client: Any, replicas: int) -> None:
        self._client, self._replicas = client, replicas
        self._connection: Any = None

    async def run(self, commands: Sequence[Command], answered: Callable[[Any], None] | None = None) -> list[Any]:
        try:
            async with asyncio.timeout(REPLY_S):
                if self._connection is None:
                    self._connection = await self._client.connection_pool.get_connection()
                connection = self._connection
                sent = [*commands, ("WAIT", self._replicas, _REPLICAS_MS)] if self._replicas else commands
                packed = b"".join(map(pack_command, sent))  # in C: the library's own way costs half of a batch
                await connection.send_packed_command(packed, check_health=False)
                replies = []
                for _ in sent:
                    replies.append(await self._reply(connection))
                    if answered is not None and not self._replicas:
                        answered(replies[-1])
                if self._replicas and not _has_enough(replies.pop(), self._replicas):
                    raise TimeoutError("the replicas did not confirm the change")
        except BaseException:
            await self.drop()
            raise
        if answered is not None and self._replicas:
            for reply in replies:
                answered(reply)
        return replies

    async def _reply(self, connection: Any) -> Any:
        try:
            # The batch has a deadline; one more for each reply would cost more than the reply.
            return await connection.read_response(disable_decoding=True, timeout=math.inf, disconnect_on_error=False)
        except ResponseError as error:
            return error

    async def settings(self) -> list[Mapping[str, str]]:
        return [_texts(await self._client.config_get("*"))]

    def pubsub(self) -> Any:
        return self._client.pubsub()

    async def drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
            await self._client.connection_pool.release(connection)

    async def close(self) -> None:
        await self.drop()
        await self._client.aclose()


def _has_enough(reply: Any, replicas: int) -> bool:
    return isinstance(reply, int) and reply >= replicas


class _Cluster:
    """A cluster: the library sends each command to the node of its key."""

    def __init__(self, client: RedisCluster, nodes: Sequence[Any]) -> None:
        self._client = client
        self._nodes = deque(nodes)

    async def run(self, commands: Sequence[Command], answered: Callable[[Any], None] | None = None) -> list[Any]:
        async with asyncio.timeout(REPLY_S):
            batch = self._client.pipeline()
            for command in commands:
                batch.execute_command(*command)
            replies = list(await batch.execute(raise_on_error=False))
        if answered is not None:
            for reply in replies:
                answered(reply)
        return replies

    async def settings(self) -> list[Mapping[str, str]]:
        await self._client.initialize()
        nodes = self._client.get_primaries()
        return [_texts(await self._client.config_get("*", target_nodes=node)) for node in nodes]

    def pubsub(self) -> Any:
        """Of one node: a cluster hands every message to all of them. The next time it is another one."""
        self._nodes.rotate(1)
        return self._nodes[0].pubsub()

    async def drop(self) -> None:
        return None

    async def close(self) -> None:
        await self._client.aclose()
        for node in self._nodes:
            await node.aclose()


def _texts(found: Mapping[Any, Any]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in found.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
