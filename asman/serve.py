"""The server command's engine room: the listening socket, the HTTP server, signals, sweeping, an orderly end.

The app knows none of this. Here it is opened first, so that a wrong setting is one clear sentence and not a half
started server; then the HTTP server and maintenance run in one task group until SIGTERM or SIGINT. The end: no new
connections, sockets closed with 1012, follow streams ended, running requests given ``GRACE_S``, maintenance stopped,
stores closed. A second signal does not wait.

Two HTTP servers can be had: Hypercorn, which is always installed, and uvicorn (extra ``fast``). Their settings are
pinned below because the defaults of both leave doors open.

Source: promises, "Server settings to pin"; reasons where we differ stand beside the value.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from asman.config import Config
from asman.errors import AsmanError, ConfigError, clip

if TYPE_CHECKING:
    from quart import Quart

__all__ = ["GRACE_S", "SERVERS", "Beside", "address_of", "bind", "run_server", "serve"]

SERVERS = ("hypercorn", "uvicorn")
GRACE_S = 10.0
"""How long requests that run may go on after the signal."""

_BACKLOG = 512
_KEEP_ALIVE_S = 5
_PING_S = 15.0
_HEADERS_MAX_BYTES = 16 << 10
_DEAD_PEER_S = 60
_OTHER_DATA = "Choose a directory that this user may write to with --data."
_FAST = 'pip install "asman[fast]"'

Beside = Callable[[str, asyncio.Event], Awaitable[None]]
"""What runs beside the server: it gets the server's URL, and an event that is set when it must end."""


def run_server(
    config: Config,
    *,
    server: str = "hypercorn",
    plugins: Sequence[object] = (),
    announce: Callable[[str], None],
    beside: Beside | None = None,
    listener: socket.socket | None = None,
    life: int | None = None,
) -> None:
    """Serve until a signal says stop, or until ``life`` ends, a pipe to whoever started this process.

    ``listener`` is a socket that listens already. ``announce`` is called with the URL once requests are answered.

    Errors: ConfigError for settings that cannot work, an address in use or a missing server.
    """
    with asyncio.Runner(loop_factory=_loop_factory(server)) as runner:
        runner.run(_until_signalled(config, server, plugins, announce, beside, listener, life))


async def _until_signalled(
    config: Config,
    server: str,
    plugins: Sequence[object],
    announce: Callable[[str], None],
    beside: Beside | None,
    listener: socket.socket | None,
    life: int | None,
) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    task = asyncio.current_task()

    def on_signal() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    loop.set_exception_handler(_without_cancelled)
    if life is not None:
        loop.add_reader(life, stop.set)
    failure: BaseException | None = None
    try:
        await serve(
            config, server=server, plugins=plugins, stop=stop, announce=announce, beside=beside, listener=listener
        )
    except* AsmanError as group:
        failure = _first(group)  # raised below: what is raised in here some releases of Python put into a group again
    except* asyncio.CancelledError:
        if not stop.is_set():
            raise
    finally:
        if life is not None:
            loop.remove_reader(life)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    if failure is not None:
        raise failure


def _without_cancelled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Connections cut at the end are no news; asyncio's streams report them nevertheless."""
    if not isinstance(context.get("exception"), asyncio.CancelledError):
        loop.default_exception_handler(context)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def serve(
    config: Config,
    *,
    stop: asyncio.Event,
    server: str = "hypercorn",
    plugins: Sequence[object] = (),
    announce: Callable[[str], None] = lambda url: None,
    beside: Beside | None = None,
    listener: socket.socket | None = None,
) -> None:
    """Serve until ``stop`` is set, then end in good order.

    Errors: ConfigError as ``run_server``; an exception group if a part fails while it runs.
    """
    listener = listener or bind(config.host, config.port)
    try:
        config = replace(config, port=listener.getsockname()[1])
        app = await _opened_app(config, plugins)
    except BaseException:
        listener.close()
        raise
    url = address_of(config)
    ready, ending = asyncio.Event(), asyncio.Event()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_say_goodbye(app, ending))
            tasks.create_task(_maintain(app, ending))
            tasks.create_task(_run_http(app, config, server, listener, ready, ending))
            await ready.wait()
            if not ending.is_set():
                announce(url)
            tasks.create_task(_until_ending(beside, url, stop, ending))
    finally:
        await app.shutdown()


async def _until_ending(beside: Beside | None, url: str, stop: asyncio.Event, ending: asyncio.Event) -> None:
    """What runs beside the server ends before it: a worker can still hand its jobs back."""
    waiting = asyncio.ensure_future(stop.wait() if beside is None else beside(url, stop))
    ended = asyncio.ensure_future(ending.wait())
    try:
        await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            stop.set()
        if beside is not None:
            await waiting
    finally:
        ending.set()
        for task in (waiting, ended):
            task.cancel()
        await asyncio.gather(waiting, ended, return_exceptions=True)


async def _opened_app(config: Config, plugins: Sequence[object]) -> Quart:
    """The app with its stores open. Opened here rather than by the HTTP server, which would hide what went wrong."""
    from asman.app import create_app

    app = create_app(config, plugins)
    app.logger.disabled = True  # it would log the error that is raised as well, with a traceback
    try:
        await app.startup()
    except ConfigError as error:
        error.hint = error.hint or _OTHER_DATA
        raise
    except OSError as error:
        raise ConfigError(
            f"cannot open the data in {clip(config.data)}: {error.strerror or error}", hint=_OTHER_DATA
        ) from error
    finally:
        app.logger.disabled = False
    return app


async def _maintain(app: Quart, stop: asyncio.Event) -> None:
    from asman import maintenance

    await maintenance.run(app.extensions["asman"], stop)


async def _say_goodbye(app: Quart, stop: asyncio.Event) -> None:
    """Sockets and streams end by themselves as soon as the app knows that the server stops."""
    await stop.wait()
    app.extensions["asman_hub"].close_all()


async def _run_http(
    app: Quart, config: Config, server: str, listener: socket.socket, ready: asyncio.Event, stop: asyncio.Event
) -> None:
    """Run the chosen HTTP server; ``ready`` is set in any case, so that nobody waits for a server that failed."""
    run = _run_uvicorn if server == "uvicorn" else _run_hypercorn
    running = asyncio.ensure_future(run(_without_lifespan(app), config, listener, ready, stop))
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({running}, timeout=GRACE_S + 2.0)
        if running.done():
            running.result()
    finally:
        for task in (running, stopped):
            task.cancel()
        await asyncio.gather(running, stopped, return_exceptions=True)
        ready.set()
        stop.set()


def _without_lifespan(app: Quart) -> Callable[..., Awaitable[None]]:
    """The app for a server that insists on the lifespan events, which were seen to here already."""

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})
        return None

    return asgi


async def _run_hypercorn(
    app: Any, config: Config, listener: socket.socket, ready: asyncio.Event, stop: asyncio.Event
) -> None:
    import hypercorn.asyncio
    import hypercorn.config

    async def trigger() -> None:
        """Hypercorn awaits this as soon as it accepts connections."""
        ready.set()
        await stop.wait()
        _end_pings()

    chosen = hypercorn.config.Config()
    chosen.bind = [f"fd://{listener.detach()}"]
    chosen.backlog = _BACKLOG
    chosen.loglevel = "WARNING"
    chosen.graceful_timeout = GRACE_S
    chosen.keep_alive_timeout = _KEEP_ALIVE_S  # also what cuts a request whose headers drip in
    chosen.keep_alive_max_requests = 1000
    # It would count the silence of the *caller* while the answer streams, and so cut every follow stream and every
    # wait=N. Slow bodies are cut by the routes, dead peers by the kernel (see bind) and by pings.
    chosen.read_timeout = None
    chosen.websocket_ping_interval = _PING_S
    chosen.websocket_max_message_size = _frame_bytes(config)
    chosen.h11_max_incomplete_size = _HEADERS_MAX_BYTES
    chosen.h2_max_concurrent_streams = 50
    chosen.include_server_header = False
    await hypercorn.asyncio.serve(app, chosen, shutdown_trigger=trigger, mode="asgi")


def _end_pings() -> None:
    """Hypercorn's task that pings a socket sleeps on after the socket has closed, and so delays the end for as long."""
    for task in asyncio.all_tasks():
        if getattr(task.get_coro(), "__qualname__", "") == "WSStream._send_pings":
            task.cancel()


async def _run_uvicorn(
    app: Any, config: Config, listener: socket.socket, ready: asyncio.Event, stop: asyncio.Event
) -> None:
    try:
        import uvicorn
    except ImportError as error:
        raise ConfigError(f"--server uvicorn needs uvicorn, which is not installed: {_FAST}", hint=_FAST) from error

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            ready.set()

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Signals are handled by the command, for all its tasks."""
            yield

    chosen = uvicorn.Config(
        app,
        lifespan="off",
        backlog=_BACKLOG,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(GRACE_S),
        ws_ping_interval=_PING_S,
        ws_ping_timeout=_DEAD_PEER_S,
        ws_max_size=_frame_bytes(config),
        ws_per_message_deflate=False,
        h11_max_incomplete_event_size=_HEADERS_MAX_BYTES,
        server_header=False,
    )
    server = Server(chosen)

    async def end() -> None:
        await stop.wait()
        server.should_exit = True

    ending = asyncio.ensure_future(end())
    try:
        await server.serve(sockets=[listener])
    finally:
        ending.cancel()
        listener.close()


def _frame_bytes(config: Config) -> int:
    """The largest socket message: what the profile allows a worker or a client, and never without a bound."""
    limits = config.limits
    return max(limits.client_frame_bytes, limits.worker_frame_bytes) or 1 << 20


def _loop_factory(server: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if server != "uvicorn":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Connections are accepted by the kernel from here on and answered when the app is ready.

    Peers that vanished without a word (a pulled cable, a sleeping laptop) are found by the kernel: what was sent
    must be acknowledged within a minute. Accepted connections inherit these options.

    Errors: ConfigError, with what to do.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"{port} is no TCP port", hint="Choose a port from 1 to 65535, or 0 for any that is free.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise _no_address(host) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sys.platform == "linux":
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _DEAD_PEER_S)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_PEER_S * 1000)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def _no_address(host: str) -> ConfigError:
    return ConfigError(
        f"{clip(host)} is no address of this machine",
        hint="Use --host 127.0.0.1 for this machine only, or --host 0.0.0.0 for every network it is on.",
    )


def _cannot_listen(host: str, port: int, error: OSError) -> ConfigError:
    code = error.errno
    if code == errno.EADDRINUSE:
        return ConfigError(
            f"port {port} of {host} is in use by another program",
            hint=f"Stop that program, or choose another port: --port {port + 1 if port < 65535 else 8000}",
        )
    if code in (errno.EACCES, errno.EPERM):
        return ConfigError(
            f"this user may not listen on port {port}", hint="Ports below 1024 need rights; use one above, or a proxy."
        )
    if code == errno.EADDRNOTAVAIL:
        return _no_address(host)
    return ConfigError(f"cannot listen on port {port} of {host}: {error.strerror}", hint="Choose another --port.")


def address_of(config: Config) -> str:
    """The URL under which this machine reaches the server."""
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    return f"http://[{host}]:{config.port}" if ":" in host else f"http://{host}:{config.port}"
