"""The app of one host: made from its settings, started once, asked for each request, stopped at the end.

``begin`` is all that JavaScript imports. A host that has a beginning and an end calls ``start`` and ``stop``; one that
has not just sends requests, and the first of them starts the app. Whether anything is swept in the background is the
host's choice: nothing that is answered depends on it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import asman_ttl
from asman import maintenance
from asman.app import create_app
from asman.config import load_config
from asman.errors import AsmanError
from asman_edge.bridge import Line, SocketLine, serve_request, serve_socket

__all__ = ["Host", "begin"]

_log = logging.getLogger(__name__)


def begin(told: str) -> Host:
    """A host's app, not yet started. Shape: ``told`` is JSON: ``flags`` and ``environ`` as ``load_config`` takes them.

    Errors: ConfigError.
    """
    from pyodide.ffi import to_js

    return Host(told, to_js)


class Host:
    """Shape: ``frame_bytes`` is the largest socket message that is taken; ``plugins`` are of this host alone."""

    def __init__(
        self,
        told: str,
        to_host: Callable[[bytes], Any] = bytes,
        plugins: Sequence[object] = (),
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        given = json.loads(told)
        self._config, _ = load_config(given.get("flags"), given.get("environ"))
        self._app = create_app(self._config, [asman_ttl, *plugins], discover=False, clock=clock)
        self._to_host = to_host
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Future[None] | None = None
        self._ending = asyncio.Event()
        self._sweeping: asyncio.Task[None] | None = None
        limits = self._config.limits
        self.frame_bytes = max(limits.client_frame_bytes, limits.worker_frame_bytes) or 1 << 20

    async def start(self) -> None:
        """Open what the app needs, once, whoever asks first; a failed start is tried again by the next who asks."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._open())
            self._starting.add_done_callback(self._started)
        await asyncio.shield(self._starting)

    async def _open(self) -> None:
        await self._app.startup()

    def _started(self, starting: asyncio.Future[None]) -> None:
        if starting.cancelled() or starting.exception() is not None:
            self._starting = None

    async def stop(self) -> None:
        """End sockets and streams, then close what was opened."""
        self._ending.set()
        if self._sweeping is not None:
            await self._sweeping
        if self._starting is not None:
            await self._app.shutdown()
            self._starting = None

    async def maintain(self) -> None:
        """Look at leases, expiry and callbacks until ``stop``, as the server command does."""
        await self.start()
        self._sweeping = asyncio.ensure_future(maintenance.run(self._app.extensions["asman"], self._ending))

    def request(self, told: str, line: Line) -> None:
        """Begin to answer one request."""
        self._own(self._request(told, line))

    def socket(self, told: str, line: SocketLine) -> None:
        """Begin to serve one socket."""
        self._own(self._socket(told, line))

    async def _request(self, told: str, line: Line) -> None:
        await self._try_to_start()
        await serve_request(self._app, told, line, self._to_host)

    async def _socket(self, told: str, line: SocketLine) -> None:
        await self._try_to_start()
        await serve_socket(self._app, told, line, self._to_host)

    async def _try_to_start(self) -> None:
        """A start that fails is the answer of the request that asked for it: the app tries once more and says why."""
        try:
            await self.start()
        except (AsmanError, OSError):
            _log.exception("the app did not start")

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
