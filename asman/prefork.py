"""Several server processes on one port: the parent holds the listening socket and no requests, the children serve.

The kernel hands each connection to one of them. A child that dies is started again; on SIGHUP the children are
replaced one by one, each new one ready before the old one is told to end, so that no connection is refused. Children
end with their parent, however that ended: each holds a pipe to it.

Owns processes and signals of the parent. Refuses a backend whose servers would not see each other.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from asman import memory
from asman.config import SETTINGS, Config
from asman.errors import ConfigError, clip
from asman.plugins import choose_notifier, load_plugins
from asman.serve import GRACE_S, address_of, bind

__all__ = ["Inherited", "environment", "inherited", "run_many"]

_LISTENER, _READY, _LIFE = "ASMAN_LISTEN_FD", "ASMAN_READY_FD", "ASMAN_LIFE_FD"
_START_S = 60.0
_STABLE_S = 30.0
_BACKOFF_MAX_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """What a child has from its parent. Shape: file descriptors; ``life`` ends with the parent."""

    listener: socket.socket
    ready: int
    life: int

    def say_ready(self) -> None:
        with suppress(OSError):
            os.write(self.ready, b"1")
        os.close(self.ready)


def inherited(environ: Mapping[str, str]) -> Inherited | None:
    """None in a process that was not started by ``run_many``. Errors: ConfigError for what is no socket."""
    given = [environ.get(name, "") for name in (_LISTENER, _READY, _LIFE)]
    if not all(text.isdigit() for text in given):
        return None
    try:
        listener = socket.socket(fileno=int(given[0]))
    except OSError as error:
        raise ConfigError(f"{_LISTENER} is {clip(given[0])}, which is no open socket") from error
    listener.setblocking(False)
    return Inherited(listener=listener, ready=int(given[1]), life=int(given[2]))


def environment(config: Config, number: int) -> dict[str, str]:
    """The settings of child ``number``, each under its variable's name, whatever they came from."""
    one = replace(config, workers=1, server_id=f"{config.server_id}-{number}" if config.server_id else "")
    return {s.env: _text(getattr(one, s.name)) for s in SETTINGS}


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def run_many(config: Config, *, server: str, announce: Callable[[str], None]) -> None:
    """Serve with ``config.workers`` processes until a signal says stop.

    Errors: ConfigError as ``run_server``, and for a backend that processes do not share.
    """
    if isinstance(choose_notifier(load_plugins([memory]), config), memory.MemoryNotifier):
        raise ConfigError(
            f"workers is {config.workers}, but servers on the backend {clip(config.backend)} do not hear of each other",
            hint="Use --backend redis+s3 or postgres+s3, or leave out --workers.",
        )
    listener = bind(config.host, config.port)
    try:
        config = replace(config, port=listener.getsockname()[1])
        asyncio.run(_Parent(config, server, listener, announce).run())
    finally:
        listener.close()


@dataclass(slots=True, eq=False)
class _Child:
    process: asyncio.subprocess.Process
    started_at: float


class _Parent:
    def __init__(self, config: Config, server: str, listener: socket.socket, announce: Callable[[str], None]) -> None:
        self._config, self._server, self._listener, self._announce = config, server, listener, announce
        self._stop, self._renew = asyncio.Event(), asyncio.Event()
        self._children: dict[int, _Child] = {}
        self._failures = 0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._renew.set)
        self._life, held = os.pipe()
        try:
            for place in range(self._config.workers):  # in turn, so that wrong settings are said once
                self._children[place] = await self._start(place)
            self._announce(address_of(self._config))
            await self._keep()
        finally:
            await self._end_all()
            os.close(held)
            os.close(self._life)

    def _on_stop(self) -> None:
        if self._stop.is_set():
            for child in self._children.values():
                _signal(child, signal.SIGKILL)
        self._stop.set()

    async def _start(self, number: int) -> _Child:
        """A child that answers. Errors: ConfigError if it ends instead; it has said why."""
        ready, told = os.pipe()
        pipes = {_LISTENER: self._listener.fileno(), _READY: told, _LIFE: self._life}
        environ = os.environ | environment(self._config, number) | {name: str(fd) for name, fd in pipes.items()}
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "asman", "serve", "--server", self._server),
                stdin=asyncio.subprocess.DEVNULL,
                env=environ,
                pass_fds=tuple(pipes.values()),
                start_new_session=True,
            )
        finally:
            os.close(told)
        child = _Child(process, time.monotonic())
        try:
            async with asyncio.timeout(_START_S):
                is_ready = await asyncio.to_thread(os.read, ready, 1)
        except TimeoutError:
            is_ready = b""
        finally:
            os.close(ready)
        if not is_ready:
            _signal(child, signal.SIGKILL)
            status = await process.wait()
            raise ConfigError(f"server process {number + 1} ended with {status} instead of serving; see above")
        return child

    async def _keep(self) -> None:
        """Until a signal: start what died again, replace all on SIGHUP."""
        while not self._stop.is_set():
            waits: list[asyncio.Future[Any]] = [
                asyncio.ensure_future(event.wait()) for event in (self._stop, self._renew)
            ]
            waits += [asyncio.ensure_future(child.process.wait()) for child in self._children.values()]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if self._stop.is_set():
                return
            if self._renew.is_set():
                self._renew.clear()
                await self._replace_all()
            for number, child in list(self._children.items()):
                if child.process.returncode is not None:
                    await self._start_again(number, child)

    async def _start_again(self, number: int, dead: _Child) -> None:
        lived_s = time.monotonic() - dead.started_at
        self._failures = 0 if lived_s > _STABLE_S else self._failures + 1
        pause_s = min(0.1 * 2.0**self._failures, _BACKOFF_MAX_S) if self._failures else 0.0
        print(f"server process {number + 1} ended with {dead.process.returncode}; started again", file=sys.stderr)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stop.wait()
        with suppress(ConfigError):
            self._children[number] = await self._start(number)

    async def _replace_all(self) -> None:
        for number, old in list(self._children.items()):
            try:
                self._children[number] = await self._start(number)
            except ConfigError:
                return  # the old ones go on
            _signal(old, signal.SIGTERM)
            await _end(old)

    async def _end_all(self) -> None:
        for child in self._children.values():
            _signal(child, signal.SIGTERM)
        await asyncio.gather(*(_end(child) for child in self._children.values()))


def _signal(child: _Child, number: int) -> None:
    if child.process.returncode is None:
        with suppress(ProcessLookupError):
            child.process.send_signal(number)


async def _end(child: _Child) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(GRACE_S + 10.0):
            await child.process.wait()
    _signal(child, signal.SIGKILL)
    await child.process.wait()
