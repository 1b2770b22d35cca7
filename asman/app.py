"""The ASGI application: plugins loaded, stores opened, routes attached, errors translated once.

``create_app`` is pure: no I/O, no clock, no randomness, no environment. What must be opened is opened by the first
of lifespan, request or socket, awaited once, and closed in reverse order by the lifespan's end. Sweeping, signals
and the listening socket belong to the server command, not to the app.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, cast

import pluggy
from quart import Quart, Response, has_request_context, request, websocket
from werkzeug.exceptions import HTTPException
from werkzeug.routing import PathConverter, WebsocketMismatch

from asman import memory
from asman.abc import JobStore, KeepsTime, KnowsListeners, SupportsSignedUrls, TellsDurability
from asman.config import Config
from asman.errors import AsmanError, BadRequest, MethodNotAllowed, RouteNotFound, clip
from asman.gathering import Hours
from asman.metering import Meters, measured
from asman.plugins import choose_notifier, load_plugins, open_blob_store, open_deliverer, open_job_store
from asman.presence import Hub
from asman.rates import Rates
from asman.recent import Recent
from asman.routes.answers import check_host_and_origin, cors_headers, error_answer, preflight_headers
from asman.routes.blobs import blobs
from asman.routes.context import respond
from asman.routes.front import Front
from asman.routes.health import health
from asman.routes.jobs import jobs
from asman.routes.page import page
from asman.routes.queues import queues
from asman.routes.scaling import scaling
from asman.routes.sockets import parse_socket_path, serve_client, serve_worker
from asman.routes.stream import stream
from asman.routes.timing import ROUTE, Timed, template
from asman.services import Services

__all__ = ["create_app"]


def create_app(
    config: Config | None = None,
    plugins: Sequence[object] = (),
    *,
    discover: bool = True,
    clock: Callable[[], float] | None = None,
) -> Quart:
    """Make an app. ``app.extensions["asman"]`` holds its ``Services`` once it has started.

    Shape:  ``plugins`` are asked before installed ones; ``discover`` False leaves the installed ones out.
            ``clock`` answers seconds since the epoch; None for the job store's, else the machine's.
    Errors: ConfigError when no plugin takes a backend's URL.
    """
    config = config or Config()
    app = Quart("asman", static_folder=None)
    app.url_map.merge_slashes = False
    app.url_map.converters = {**app.url_map.converters, "path": _AnyPath}
    app.config["MAX_CONTENT_LENGTH"] = None  # each route has its own limit and reads its body itself
    app.config["BODY_TIMEOUT"] = None
    for blueprint in (health, page, blobs, jobs, stream, queues, scaling):
        app.register_blueprint(blueprint)
    starter = _Starter(app, config, plugins, discover, clock)
    app.before_serving(starter.ready)
    app.after_serving(starter.stop)
    app.before_request(starter.ready)
    app.before_websocket(starter.ready)
    _guard_requests(app, config, is_measured=starter.meters is not None)
    _translate_errors(app)
    _attach_sockets(app, config)
    front = Front(app.asgi_app, starter.start)  # type: ignore[arg-type]
    app.asgi_app = front if starter.meters is None else Timed(front, starter.meters)  # type: ignore[method-assign,assignment]
    return app


def _perhaps(topic: str) -> bool:
    return True


def _clock_of(store: JobStore) -> Callable[[], float]:
    """Servers that share a store go by its clock, where it has one."""
    return store.clock if isinstance(store, KeepsTime) else time.time


def _durability_of(store: JobStore) -> str:
    return store.durability if isinstance(store, TellsDurability) else ""


def _load(config: Config, plugins: Sequence[object], discover: bool) -> pluggy.PluginManager:
    """All plugins of one app. Later ones are asked first: installed, what plugins keep for this app, given ones."""
    manager = load_plugins([memory, *plugins], discover=discover)
    made = [plugin for answer in manager.hook.asman_app_plugins(config=config) for plugin in answer or ()]
    for plugin in plugins:
        manager.unregister(plugin)
    for plugin in (*made, *plugins):
        manager.register(plugin)
    return manager


class _AnyPath(PathConverter):
    """Names of files as jobs leave them: werkzeug's own does not match a newline, and would take one off the end."""

    regex = r"[^/][\s\S]*"


class _Starter:
    """Opens the services of one app, once, whoever asks first."""

    def __init__(
        self, app: Quart, config: Config, plugins: Sequence[object], discover: bool, clock: Callable[[], float] | None
    ) -> None:
        self._app, self._config, self._clock = app, config, clock
        self._manager = manager = _load(config, plugins, discover)
        self._jobs = open_job_store(manager, config.job_store_url, config)
        self._blobs = open_blob_store(manager, config.blob_store_url, config)
        self._notifier = choose_notifier(manager, config)
        meters = [meter for meter in manager.hook.asman_meter(config=config) if meter is not None]
        self.meters = Meters(meters) if meters else None
        self._stack: AsyncExitStack | None = None
        self._opened: tuple[Services, Hub] | None = None
        self._lock: asyncio.Lock | None = None

    async def ready(self) -> None:
        await self.start()

    async def start(self) -> tuple[Services, Hub]:
        if self._opened is not None:
            return self._opened
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            if self._opened is None:
                self._opened = await self._open()
        return self._opened

    async def _open(self) -> tuple[Services, Hub]:
        async with AsyncExitStack() as stack:
            jobs_opened = await stack.enter_async_context(self._jobs)
            notifier = await stack.enter_async_context(self._notifier)
            blobs_opened = await stack.enter_async_context(self._blobs)
            may_redirect = self._config.blob_redirects == "on" and isinstance(blobs_opened, SupportsSignedUrls)
            meters = self.meters
            if meters is not None:
                jobs_opened, blobs_opened = (
                    measured(jobs_opened, "jobs", meters),
                    measured(blobs_opened, "blobs", meters),
                )
                for meter in meters.each:
                    await stack.enter_async_context(meter)
            clock = self._clock or _clock_of(jobs_opened)
            services = Services(
                config=self._config,
                jobs=jobs_opened,
                logs=jobs_opened,  # type: ignore[arg-type]  # checked when it was chosen
                blobs=blobs_opened,
                signer=blobs_opened if may_redirect else None,  # type: ignore[arg-type]  # just checked
                notifier=notifier,
                is_heard=notifier.is_heard if isinstance(notifier, KnowsListeners) else _perhaps,
                deliverer=open_deliverer(self._manager, self._config),
                plugins=self._manager,
                clock=clock,
                durability=partial(_durability_of, jobs_opened),
                random_id=lambda: uuid.uuid4().hex,
                rates=Rates(),
                recent=Recent(clock()),
                meters=meters,
            )
            server = self._config.server_id or f"asman-{services.random_id()[:8]}"
            hub = Hub(notifier, server=server, clock=clock)
            hours = Hours(notifier, services.recent, server=server, is_alone=hub.is_alone, clock=clock)
            await hours.open()
            stack.push_async_callback(hours.close)
            self._stack = stack.pop_all()
        self._app.extensions["asman"] = services
        self._app.extensions["asman_hub"] = hub
        self._app.extensions["asman_hours"] = hours
        return services, hub

    async def stop(self) -> None:
        if self._opened is None:
            return
        self._opened[1].close_all()
        self._opened = None
        if self._stack is not None:
            await self._stack.aclose()


def _guard_requests(app: Quart, config: Config, *, is_measured: bool) -> None:
    """Who may ask, CORS on every answer, and OPTIONS on every path. The route is left for the layer that measures."""
    templates = {rule.rule: template(rule.rule) for rule in app.url_map.iter_rules()}

    @app.before_request
    async def guard() -> Response | None:
        if is_measured and request.url_rule is not None:
            cast(dict[str, Any], request.scope)[ROUTE] = templates[request.url_rule.rule]
        host, origin = request.host or "", request.headers.get("Origin", "")
        if request.method == "OPTIONS":
            wanted = request.headers.get("Access-Control-Request-Headers", "")
            return Response(b"", status=204, headers=preflight_headers(config, origin, host, wanted))
        if "Content-Length" in request.headers and "Transfer-Encoding" in request.headers:
            raise BadRequest("the request has both Content-Length and Transfer-Encoding", hint="Send one of them.")
        check_host_and_origin(config, request.method, origin, host)
        return None

    @app.after_request
    async def open_to_pages(response: Response) -> Response:
        for name, value in cors_headers(config, request.headers.get("Origin", ""), request.host or "").items():
            if name == "vary":
                response.vary.add(value)
            else:
                response.headers.setdefault(name, value)
        response.headers.setdefault("x-content-type-options", "nosniff")
        return response


def _asked_path() -> str:
    """The path of the request or socket at hand."""
    return request.path if has_request_context() else websocket.path


def _translate_errors(app: Quart) -> None:
    @app.errorhandler(AsmanError)
    async def ours(error: AsmanError) -> Response:
        return respond(error_answer(error, ref=_asked_path()[:80]))

    @app.errorhandler(HTTPException)
    async def routing(error: HTTPException) -> Response:
        if error.code == 404 or isinstance(error, WebsocketMismatch):
            return respond(error_answer(RouteNotFound(f"there is nothing at {clip(_asked_path())}")))
        if error.code == 405:
            return respond(error_answer(MethodNotAllowed(f"{request.method} does not work on {clip(request.path)}")))
        return respond(error_answer(BadRequest(error.description or error.name)))

    @app.errorhandler(Exception)
    async def bug(error: Exception) -> Response:
        return respond(error_answer(error, ref=_asked_path()[:80]))


def _attach_sockets(app: Quart, config: Config) -> None:
    @app.websocket("/<path:path>")
    async def socket(path: str) -> Any:
        found = parse_socket_path(path)
        if found is None:
            return respond(error_answer(RouteNotFound(f"no socket at {clip(path)}", hint="Use /q/QUEUE/client.")))
        services: Services = app.extensions["asman"]
        hub: Hub = app.extensions["asman_hub"]
        queue, role = found
        try:
            check_host_and_origin(config, "POST", websocket.headers.get("Origin", ""), websocket.host or "")
            await (serve_client if role == "client" else serve_worker)(services, hub, queue)
        except AsmanError as error:
            return respond(error_answer(error, ref="socket"))
        return None
