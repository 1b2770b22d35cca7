"""How long answers take, told to the app's meters: a layer around the whole app that is there only if one listens.

A request is known by the template of its route, which whoever handles it leaves in the scope under ``ROUTE``: paths
carry names of queues, which are secrets, and there is no end of them. The time runs to the first byte of the answer:
how long a stream or a download goes on is up to its reader.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from asman.metering import Meters

__all__ = ["ROUTE", "UNMATCHED", "Timed", "template"]

ROUTE = "asman.route"
UNMATCHED = "unmatched"
"""What answered without a route: an unknown path, a method it does not have, a refused host."""

_METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))
_VARIABLE = re.compile(r"<(?:\w+:)?(\w+)>")
_NAMES = {"job_id": "jobId"}

_Message = dict[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_ASGI = Callable[[dict[str, Any], _Receive, _Send], Awaitable[None]]


def template(rule: str) -> str:
    """A route as ``/openapi.json`` writes it: ``/q/{queue}/j/{jobId}`` of ``/q/<queue>/j/<job_id>``."""
    return _VARIABLE.sub(lambda found: f"{{{_NAMES.get(found[1], found[1])}}}", rule)


class Timed:
    """Wraps an ASGI app. Sockets pass through: they are counted while they are open, not timed."""

    def __init__(self, app: _ASGI, meters: Meters) -> None:
        self._app, self._meters = app, meters

    async def __call__(self, scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        meters, began = self._meters, perf_counter()

        async def tell(message: _Message) -> None:
            if message["type"] == "http.response.start":
                method = scope["method"]
                known = method if method in _METHODS else "other"
                meters.request(scope.get(ROUTE, UNMATCHED), known, message["status"], perf_counter() - began)
            await send(message)

        await self._app(scope, receive, tell)
