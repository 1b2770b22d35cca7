"""The connections to PostgreSQL: opening, bounding in time, and saying what went wrong in asman's words.

A connection that does not answer in time is dropped, not waited for: that is what recovers from a server that hangs
or a cable that was cut. The driver is asyncpg, not psycopg: it speaks the binary protocol without libpq, keeps
statements prepared, and encodes the arrays of a batch in C.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from asman.errors import AsmanError, ConfigError, StorageFull, Unavailable, clip
from asman_postgres.schema import STATEMENTS, migrate

__all__ = ["Database", "storage_error", "within"]

_log = logging.getLogger(__name__)

_CONNECT_S = 5.0
_ACQUIRE_S = 5.0
_ANSWER_S = 10.0
_WAITING = 1_000
_TRIES = 4
_OLDEST = 13
_PLANNER = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}
"""Every statement has its index: without this the planner reads and sorts young tables whole, and keeps the plan, and
plans each statement five times before it sees that it always comes to the same."""

_REPEATABLE = ("40001", "40P01")
_LOST = ("08", "57P", "25006")
_PASSING = ("08", "25006", "25P03", "40", "53", "55P03", "57", "58", "XX")
_WORDS = {"25006": "is read-only", "57P": "is stopping or starting", "40": "is busy with the same records"}
"""What callers are told: addresses and the server's own words are for its log."""
_REFUSALS = {
    "28": "Check the user and the password in the URL (or PGPASSWORD, or ~/.pgpass), and pg_hba.conf on the server.",
    "3D000": "Create it first, for example with: createdb asman",
    "42501": "Let the user make it (GRANT CREATE ON DATABASE ... TO ...), or make the schema for the user beforehand.",
}
"""Errors that only an operator can cure, by how their code starts, and how."""


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # the driver does not publish its types
    def get_reset_query(self) -> str:
        """Nothing here leaves anything behind, so that giving a connection back costs no round trip."""
        return ""


class Database:
    """One server's connections.

    Shape:  ``name`` is the URL without its password; ``settings`` are the server's, for these connections.
    Units:  ``connections=`` of the URL is how many there may be (8 if it does not say), ``at_most`` bounds that.
    Errors: ConfigError for a URL that cannot be one; see ``open`` and ``fetch``.
    """

    def __init__(self, url: str, *, at_most: int = 9999, **settings: str) -> None:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.schema = query.pop("schema", "asman")
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,39}", self.schema):
            raise ConfigError(
                f"the schema in the URL is {clip(self.schema)}; use a-z, 0-9 and _, 40 characters at most"
            )
        given = query.pop("connections", "8")
        if not re.fullmatch(r"[1-9][0-9]{0,3}", given):
            raise ConfigError(f"connections in the URL is {clip(given)}; it is a number from 1 to 9999")
        self._connections = min(int(given), at_most)
        query.setdefault("target_session_attrs", "read-write")  # of several hosts the one that can be written to
        query.setdefault("application_name", "asman")
        self._url = urlunsplit(parts._replace(query=urlencode(query)))
        host = parts.netloc.rpartition("@")[2] or query.get("host", "")
        self.name = f"{parts.scheme}://{host}{parts.path}"
        self._pool: Any = None
        self._settings = {"search_path": self.schema, **_PLANNER, **settings}
        self._acquiring = 0
        self._is_troubled = False

    async def open(self) -> None:
        """Connect, bring the schema to this release's form, and check the server.

        Errors: ConfigError where somebody must act (a refused password, no such database, a schema that is not ours);
                Unavailable where waiting may help.
        """
        try:
            self._pool = await asyncpg.create_pool(
                connect=self._connect_for_pool, min_size=1, max_size=self._connections, connection_class=_Connection
            )
            async with self._pool.acquire() as connection:
                version = connection.get_server_version().major
                if version < _OLDEST:
                    raise ConfigError(f"{self.name} is PostgreSQL {version}; {_OLDEST} or newer is needed")
                await migrate(connection, self.schema)
        except Exception as error:
            await self.close()
            made = self._open_error(error)
            if made is error:
                raise
            raise made from error

    async def close(self) -> None:
        """Give the connections back; what does not answer is dropped."""
        if self._pool is None:
            return
        try:
            await asyncio.wait_for(self._pool.close(), _CONNECT_S)
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()

    async def connect(self) -> Any:
        """A connection of the caller's own."""
        return await asyncpg.connect(
            self._url,
            timeout=_CONNECT_S,
            connection_class=_Connection,
            server_settings=self._settings,
        )

    async def _connect_for_pool(self, *arguments: Any, **options: Any) -> Any:
        return await self.connect()

    async def fetch(self, name: str, *values: Any) -> Any:
        """The rows of a statement.

        Errors: Unavailable when no connection is free in 5 s, none can be made, or there is no answer in 10 s;
                StorageFull. What may have happened before a connection was lost is not known: repeat the request.
        """
        for number in range(_TRIES):
            try:
                rows = await self._fetch(name, values)
                self._note(None)
                return rows
            except Exception as error:
                code = getattr(error, "sqlstate", None) or ""
                if code in _REPEATABLE and number < _TRIES - 1:
                    await asyncio.sleep(random.random() * 0.01 * 4**number)
                    continue
                if self._pool is not None and code.startswith(_LOST):
                    await self._pool.expire_connections()  # the others are to the same server, which is no longer it
                made = storage_error(error)
                if made is error:
                    raise
                self._note(error)
                raise made from error
        raise AssertionError("unreachable")

    def _note(self, trouble: Exception | None) -> None:
        """Log the first of many failures, and the end of them."""
        if trouble is not None and not self._is_troubled:
            _log.warning("the database fails", extra={"database": self.name, "reason": str(trouble) or repr(trouble)})
        elif trouble is None and self._is_troubled:
            _log.info("the database works again", extra={"database": self.name})
        self._is_troubled = trouble is not None

    async def value(self, name: str, *values: Any) -> Any:
        """The one value of a statement. Errors: as ``fetch``."""
        return (await self.fetch(name, *values))[0][0]

    async def _fetch(self, name: str, values: tuple[Any, ...]) -> Any:
        if self._pool is None:
            raise Unavailable("the database is not open")
        if self._acquiring >= _WAITING:
            raise Unavailable(f"{self._acquiring} requests wait for one of {self._connections} connections")
        self._acquiring += 1
        try:
            connection = await self._pool.acquire(timeout=_ACQUIRE_S)
        finally:
            self._acquiring -= 1
        try:
            return await within(_ANSWER_S, connection, partial(connection.fetch, STATEMENTS[name], *values))
        finally:
            await self._pool.release(connection)

    def _open_error(self, error: Exception) -> Exception:
        code = getattr(error, "sqlstate", None) or ""
        for start, hint in _REFUSALS.items():
            if code.startswith(start):
                return ConfigError(f"{self.name} refuses: {error}", hint=hint)
        if isinstance(error, (ValueError, asyncpg.ClientConfigurationError)):
            return ConfigError(f"{self.name} cannot be used: {error}", hint="Write postgresql://user@host/database.")
        made = storage_error(error)
        if isinstance(made, Unavailable):
            made = Unavailable(f"{self.name} does not answer: {error}", hint="Start it, or name another in the URL.")
        return made


async def within(timeout_s: float, connection: Any, ask: Callable[[], Any]) -> Any:
    """Await an answer; a connection that gives none in time is cut, which ends the wait.

    The driver's own time limit asks the server to cancel first, and waits for a server that may be gone.
    """
    cut = asyncio.get_running_loop().call_later(timeout_s, connection.terminate)
    try:
        return await ask()
    finally:
        cut.cancel()


def storage_error(error: Exception) -> Exception:
    """The driver's error in our words; anything else is a bug and stays what it is."""
    code = getattr(error, "sqlstate", None) or ""
    made: AsmanError
    if isinstance(error, AsmanError):
        return error
    if code == "53100":
        made = StorageFull("the database cannot grow: its disk is full; nothing was stored")
    elif code == "53300":
        made = Unavailable(
            "the database has no connection left", hint="Raise its max_connections, or lower connections= in the URL."
        )
    elif isinstance(error, TimeoutError):
        made = Unavailable("the database does not answer in time; repeat the request")
    elif code.startswith(_PASSING) or isinstance(error, OSError) or _is_lost(error):
        says = next((words for start, words in _WORDS.items() if code.startswith(start)), "does not answer")
        made = Unavailable(f"the database {says}; repeat the request")
    else:
        return error
    made.__cause__ = error
    return made


def _is_lost(error: Exception) -> bool:
    """Is this the driver's word for a connection that is gone? Its word for a value it cannot encode is another."""
    kinds = (asyncpg.InterfaceError, asyncpg.InternalClientError)
    return isinstance(error, kinds) and not isinstance(error, ValueError)
