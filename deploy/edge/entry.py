"""The Worker and its objects as classes of Python, for Cloudflare's own Python Workers, whose Python is the same.

The runtime starts this module once when it is deployed and keeps the memory as it is then: so all is imported here, and
nothing here asks for chance, for the time or for a binding. An app is made by an object when it is first asked.

The half of the bridge in JavaScript is that of the other form, imported as modules of the Worker; the SDK's own bridge
to ASGI reads a whole body before the app sees it. What the SDK wraps is unwrapped here.
"""

from __future__ import annotations

from typing import Any

import _pyodide_entrypoint_helper as runtime  # of the runtime; the SDK imports its own JavaScript by it
from pyodide.ffi import create_proxy
from workers import DurableObject, WorkerEntrypoint

from asman_edge import objects

__all__ = ["Default", "QueueObject"]


async def _front() -> Any:
    return await runtime.doAnImport("front.mjs")


class Default(WorkerEntrypoint):
    async def fetch(self, request: Any) -> Any:
        return await (await _front()).handle(request.js_object, self.env._env)

    async def scheduled(self, *_: Any) -> None:
        await (await _front()).lookAround(self.env._env)


class QueueObject(DurableObject):
    _host: Any = None

    async def _opened(self) -> objects.ObjectHost:
        if self._host is None:
            front = await _front()
            if self._host is None:
                self._host = create_proxy(objects.begin(*front.given(self.env._env, self.ctx._ctx)))
        return self._host.unwrap()

    async def fetch(self, request: Any) -> Any:
        await self._opened()
        return await (await _front()).answerWith(self._host, request.js_object)

    async def alarm(self, *_: Any) -> None:
        await self.sweep()

    async def sweep(self) -> None:
        await (await self._opened()).sweep()

    async def prune(self) -> None:
        await (await self._opened()).prune()

    async def overdue(self) -> str:
        return await (await self._opened()).overdue()

    async def ask(self, question: str) -> Any:
        return await (await self._opened()).ask(question)

    async def hear(self, topic: str, data: Any) -> None:
        await (await self._opened()).hear(topic, data)
