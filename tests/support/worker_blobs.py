"""A blob server on a real socket, as a worker sees it: ``/f/KEY``, and some ways in which such a server can behave."""

from __future__ import annotations

import asyncio
import hashlib
from types import TracebackType

from aiohttp import web

__all__ = ["BlobServer"]


class BlobServer:
    """Use with ``async with``.

    Shape:  ``blobs`` is what it holds; ``asked`` are (method, path) of all requests; ``fail_next`` answers that many
            requests with ``fail_status``; ``redirect_puts`` sends uploads elsewhere with that status, unread;
            ``hold`` keeps downloads (GET) or uploads (PUT) from being answered, ``held`` counts them.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.fail_next = 0
        self.fail_status = 503
        self.redirect_puts = 0
        self.hold = ""
        self.held = 0
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> BlobServer:
        app = web.Application(client_max_size=1 << 30, middlewares=[self._middleware])
        app.router.add_get("/f/{key}/exists", self._exists)
        app.router.add_get("/f/{key}", self._get)
        app.router.add_put("/f/{key}", self._put)
        app.router.add_put("/store/{key}", self._store)
        app.router.add_get("/to", self._redirect)
        app.router.add_get("/short", self._short)
        self._runner = web.AppRunner(app, shutdown_timeout=1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def add(self, content: bytes) -> str:
        """Hold a blob; its key."""
        key = hashlib.sha256(content).hexdigest()
        self.blobs[key] = content
        return key

    def count(self, method: str, part: str = "") -> int:
        return sum(1 for asked, path in self.asked if asked == method and part in path)

    @web.middleware
    async def _middleware(self, request: web.Request, handler: object) -> web.StreamResponse:
        self.asked.append((request.method, request.path))
        if self.fail_next > 0:
            self.fail_next -= 1
            return web.Response(status=self.fail_status, text="not now")
        if request.method == self.hold and not request.path.endswith("/exists"):
            self.held += 1
            await asyncio.Event().wait()
        answer: web.StreamResponse = await handler(request)  # type: ignore[operator]
        return answer

    async def _exists(self, request: web.Request) -> web.Response:
        there = request.match_info["key"] in self.blobs
        return web.json_response({"exists": there}, status=200 if there else 404)

    async def _get(self, request: web.Request) -> web.Response:
        content = self.blobs.get(request.match_info["key"])
        return web.Response(status=404, text="no such blob") if content is None else web.Response(body=content)

    async def _put(self, request: web.Request) -> web.Response:
        if self.redirect_puts:
            where = f"/store/{request.match_info['key']}"
            return web.Response(status=self.redirect_puts, headers={"Location": where})
        return await self._store(request)

    async def _store(self, request: web.Request) -> web.Response:
        content = await request.read()
        if hashlib.sha256(content).hexdigest() != request.match_info["key"]:
            return web.Response(status=422, text="the bytes do not match the key")
        self.blobs[request.match_info["key"]] = content
        return web.Response(text="stored")

    async def _redirect(self, request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": request.query["where"]})

    async def _short(self, request: web.Request) -> web.StreamResponse:
        """Promises more than it sends, once; the second time it keeps its word."""
        answer = web.StreamResponse(headers={"Content-Length": "10"})
        await answer.prepare(request)
        first = self.count("GET", "/short") == 1
        await answer.write(b"12345" if first else b"1234567890")
        if first and request.transport is not None:
            request.transport.close()
        return answer
