"""Jobs and logs in one SQLite file: ``sqlite:///relative/path`` or ``sqlite:////absolute/path``.

One server with a disk needs nothing more. What is acknowledged survives the power cord (write-ahead log, synchronous
FULL); waiting writers share one commit. The driver is loaded when the URL is chosen, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asman.hookspecs import hookimpl

if TYPE_CHECKING:
    from asman.config import Config
    from asman_sqlite.jobs import SqliteJobStore

__all__ = ["asman_job_store", "asman_schemes"]

_PREFIX = "sqlite:///"


@hookimpl
def asman_job_store(url: str, config: Config) -> SqliteJobStore | None:
    """The path behind ``sqlite:///`` is taken as it is; a second slash makes it absolute."""
    if not url.startswith(_PREFIX):
        return None
    from asman_sqlite.jobs import SqliteJobStore

    return SqliteJobStore(url.removeprefix(_PREFIX))


@hookimpl
def asman_schemes() -> dict[str, str]:
    return {"sqlite": "jobs and logs in one file, for one machine: sqlite:///path"}
