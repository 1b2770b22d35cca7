"""Jobs, logs and messages in PostgreSQL: ``postgresql://user@host/database`` (``postgres://`` means the same).

For a team that has a PostgreSQL server and wants several asman servers on it. One URL gives the job store and the
notifier (LISTEN/NOTIFY); both keep to a schema of their own, ``asman`` or ``?schema=name``, so the database may hold
other things. What else the URL may say is asyncpg's: several hosts, ``sslmode``, ``target_session_attrs``, and
``?connections=N`` for the most connections that one server opens. Connections must be sessions: a pooler between
must not hand a connection to somebody else after each transaction. The driver is loaded when the URL is chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asman.errors import ConfigError
from asman.hookspecs import hookimpl

if TYPE_CHECKING:
    from asman.config import Config
    from asman_postgres.jobs import PostgresJobStore
    from asman_postgres.notifier import PostgresNotifier

__all__ = ["asman_job_store", "asman_notifier", "asman_schemes"]

_PREFIXES = ("postgresql://", "postgres://")
_INSTALL = 'pip install "asman[postgres]"'


@hookimpl
def asman_job_store(url: str, config: Config) -> PostgresJobStore | None:
    if not url.startswith(_PREFIXES):
        return None
    try:
        from asman_postgres.jobs import PostgresJobStore
    except ImportError as error:
        raise _not_installed(error) from error

    return PostgresJobStore(url)


@hookimpl
def asman_notifier(url: str, config: Config) -> PostgresNotifier | None:
    if not url.startswith(_PREFIXES):
        return None
    try:
        from asman_postgres.notifier import PostgresNotifier
    except ImportError as error:
        raise _not_installed(error) from error

    return PostgresNotifier(url)


def _not_installed(error: ImportError) -> ConfigError:
    return ConfigError(f"PostgreSQL needs what is not installed: {error.name}; try: {_INSTALL}", hint=_INSTALL)


@hookimpl
def asman_schemes() -> dict[str, str]:
    return {"postgresql": "job store and notifier: a PostgreSQL database that several servers share"}
