"""Where plugins attach: twelve hooks. A hook chooses at start-up; the object it returns does the work.

To write a plugin, make a module with functions of these names, mark each with ``hookimpl`` and name the module in
the entry point group ``asman``::

    # pyproject.toml of the plugin
    [project.entry-points.asman]
    mybackend = "asman_mybackend"

    # asman_mybackend.py
    from asman.hookspecs import hookimpl

    @hookimpl
    def asman_job_store(url, config):
        if not url.startswith("mine://"):
            return None
        from asman_mybackend.jobs import MyJobStore   # import the driver here, so that it is loaded only when chosen
        return MyJobStore(url)

Choosing hooks are plain functions, never coroutines: the first answer that is not None wins. A hook may name fewer
arguments than it is offered. The module is imported by every server and every listing of plugins, so it imports no
driver, reads no environment and opens nothing: its hooks do, once they know that they are meant. What belongs to one
app (a counter, a client, a path) is an object that ``asman_app_plugins`` gives, never a variable of the module.

``docs/plugins.md`` goes from here to a published package.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from asman.abc import BlobStore, Deliverer, JobStore, Meter, Notifier
    from asman.config import Config
    from asman.job import Job

__all__ = ["PROJECT", "hookimpl", "hookspec"]

PROJECT = "asman"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def asman_job_store(url: str, config: Config) -> JobStore | None:
    """Called once per app. Return an unopened job store (that is also a log store) if the URL is yours, else None.

    The server enters it as an async context manager, once, and leaves it when it stops. Raise ConfigError for a URL
    that is yours and cannot be read.
    """


@hookspec(firstresult=True)
def asman_blob_store(url: str, config: Config) -> BlobStore | None:
    """Called once per app. Return an unopened blob store if the URL is yours, else None."""


@hookspec(firstresult=True)
def asman_notifier(url: str, config: Config) -> Notifier | None:
    """Called once per app. Return an unopened notifier if the URL is yours, else None."""


@hookspec
def asman_schemes() -> dict[str, str]:
    """Called for listings and errors. Return {URL scheme: one line of help}, e.g. {"redis": "job store, notifier"}."""
    return {}


@hookspec(firstresult=True)
def asman_expires_at(job: Job, now: float, config: Config) -> float | None:
    """Called at each submit and each accepted result. Return the job's last second (epoch), None to pass.

    The one rule of expiry: it decides for the record, its documents, its logs and the blobs it refers to.
    """


@hookspec(firstresult=True)
def asman_deliverer(config: Config) -> Deliverer | None:
    """Called once per app. Return what carries webhooks out; None to pass. Without one, callbacks are refused."""


@hookspec
def asman_job_changed(job: Job, before: Job) -> Coroutine[Any, Any, None] | None:
    """The one hook at run time: called after a step was saved, with the records after and before it.

    It is told at most once: a server that is killed at that moment tells nobody. A coroutine that it returns is awaited
    beside the others, and the step waits for it; a failure is logged and changes nothing.
    """


@hookspec(firstresult=True)
def asman_metrics_text() -> bytes | None:
    """Called for GET /metrics. Return Prometheus text that is appended to the server's own; None to pass."""


@hookspec
def asman_meter(config: Config) -> Meter | None:
    """Called once per app. Return an unopened meter, which is told of requests, store operations and sweeps, else None.

    All that are returned are told. Where there is none nothing is measured, and measuring costs nothing.
    """


@hookspec
def asman_app_plugins(config: Config) -> list[object]:
    """Called once per app. Return objects that implement run-time hooks and keep state for this app alone.

    They are registered beside the modules, so a plugin that counts or remembers needs no state of its module. Read your
    own environment variables here; a ConfigError stops the server and is shown.
    """
    return []


@hookspec
def asman_doctor(environ: Mapping[str, str]) -> Coroutine[Any, Any, Sequence[Mapping[str, str]]] | None:
    """Called for ``asman doctor``. Return a coroutine whose answer is your checks, None if you have none.

    A check has ``name``, ``result`` (ok, warn or fail), ``found``, and ``next_step``, which is empty for ok. One that
    is named like a check of the core takes its place.
    """


@hookspec(firstresult=True)
def asman_command(name: str) -> Any:
    """Called when ``asman NAME`` is no command of the core. Return a click command if the name is yours, else None.

    Import what the command needs inside the hook; an ImportError is told to the user with its message.
    """
