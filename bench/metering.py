"""What measuring costs a request: the app in this process, without a listener and with the metrics plugin.

No sockets and no disk, so that the cost stands out as it never does on a real server: CPU of the process per request,
both sides in turn, many short rounds; the ratio is the median of the pairs.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

from asman.app import create_app
from asman.config import load_config
from asman.hookspecs import hookimpl
from asman_metrics.counters import Metrics
from bench.table import Row, spread

__all__ = ["metering"]

_ROUNDS, _EACH, _AT_ONCE = 40, 320, 16


class _Listener:
    """The plugin's meter alone: counting jobs is another hook, with a cost of its own."""

    @hookimpl
    def asman_meter(self, config: object) -> Any:
        return Metrics().meter


async def _ask(app: Any, method: str, path: str, body: bytes = b"") -> None:
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    over = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200, message

    headers = [(b"host", b"localhost"), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "http_version": "1.1", "asgi": {"version": "3.0"}, "method": method, "path": path}
    more = {"raw_path": path.encode(), "query_string": b"", "scheme": "http", "root_path": "", "headers": headers}
    await app({**scope, **more, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}, receive, send)
    over.set()


async def _cost_us(app: Any, turn: int, *, submits: bool) -> float:
    """Microseconds of CPU per request."""

    def ask(number: int) -> Any:
        if not submits:
            return _ask(app, "GET", "/q/bench-queue-that-is-empty")
        body = {"definition": {"image": "alpine:3.19.1", "command": f"echo {turn} {number}"}}
        return _ask(app, "POST", f"/q/bench-queue-{turn}", json.dumps(body).encode())

    began = time.process_time()
    for first in range(0, _EACH, _AT_ONCE):
        await asyncio.gather(*(ask(number) for number in range(first, first + _AT_ONCE)))
    return (time.process_time() - began) / _EACH * 1e6


async def metering(folder: Path) -> list[Row]:
    """CPU of a submit and of a listing, with and without a meter."""
    config, _ = load_config({"backend": "memory", "data": str(folder)})
    apps = [create_app(config, plugins, discover=False) for plugins in ((), (_Listener(),))]
    rows = []
    for app in apps:
        await app.startup()
    for what, submits in (("submit", True), ("listing of an empty queue", False)):
        pairs = [[await _cost_us(app, turn, submits=submits) for app in apps] for turn in range(_ROUNDS)]
        ratio = statistics.median(measured / plain for plain, measured in pairs)
        rows += [
            Row(what=f"in-process CPU of a {what}, no meter, us", figure=spread([plain for plain, _ in pairs])),
            Row(what=f"in-process CPU of a {what}, measured, us", figure=spread([measured for _, measured in pairs])),
            Row(what="ratio, median of pairs", figure=f"{ratio:.3f}", bar="<= 1.1", is_missed=ratio > 1.1),
        ]
    for app in apps:
        await app.shutdown()
    return rows
