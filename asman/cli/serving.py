"""``asman serve`` and ``asman up``: the server, alone or with a worker on the same machine.

The options are the rows of ``asman.config.SETTINGS``; none is written down twice.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from asman.cli.engine import NO_ENGINE, find_engine
from asman.cli.terminal import say
from asman.config import PROFILES, SETTINGS, Config, Setting, load_config
from asman.errors import ConfigError

__all__ = ["config_from", "option_name", "serve", "setting_options", "up", "without_password"]

_STABLE_S = 60.0
_BACKOFF_MAX_S = 30.0
_ENGINE_AGAIN_S = 5.0
_WORKER_GRACE_S = 15.0


def option_name(setting: Setting) -> str:
    """``expire_after_s`` is ``--expire-after``: on the command line a value says its own unit."""
    return "--" + setting.name.removesuffix("_s").replace("_", "-")


def _option(setting: Setting) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    kinds: Mapping[str, Any] = {"whole": int, "duration": str, "list": str, "size": str}
    choices = click.Choice(sorted(PROFILES)) if setting.name == "profile" else None
    metavar = {"duration": "DURATION", "list": "A,B,...", "size": "SIZE"}.get(setting.kind)
    default = ",".join(setting.default) if setting.kind == "list" else setting.default
    shown = f"default: {default:g}s" if setting.kind == "duration" else f"default: {default}"
    return click.option(
        option_name(setting),
        setting.name,
        type=choices or kinds.get(setting.kind, str),
        metavar=metavar,
        default=None,
        help=f"{setting.help}  [{setting.env}{'; ' + shown if default not in ('', ()) else ''}]",
    )


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--config`` and one option per setting."""
    for setting in reversed(SETTINGS):
        command = _option(setting)(command)
    return click.option(
        "--config",
        "config_file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="ASMAN_CONFIG",
        help="Settings as TOML.  [ASMAN_CONFIG; default: asman.toml here, if there is one]",
    )(command)


def config_from(given: Mapping[str, Any]) -> tuple[Config, dict[str, str]]:
    """The configuration from flags, environment and file, and where each value came from. Errors: ConfigError."""
    file = given.get("config_file")
    if file is None and Path("asman.toml").is_file():
        file = Path("asman.toml")
    flags = {s.name: given[s.name] for s in SETTINGS if given.get(s.name) is not None}
    return load_config(flags, os.environ, file)


_http_server = click.option(
    "--server",
    "http_server",
    type=click.Choice(["hypercorn", "uvicorn"]),
    default="hypercorn",
    show_default=True,
    help="HTTP server; uvicorn is faster and needs the extra asman[fast].",
)


@click.command()
@setting_options
@_http_server
def serve(http_server: str, **given: Any) -> None:
    """Serve queues over HTTP. Stops in good order on SIGTERM and Ctrl-C.

    With --workers, SIGHUP replaces the processes one by one.
    """
    from asman.prefork import inherited, run_many
    from asman.serve import run_server

    config, _ = config_from(given)
    parent = inherited(os.environ)
    if parent is not None:
        run_server(
            config,
            server=http_server,
            announce=lambda _: parent.say_ready(),
            listener=parent.listener,
            life=parent.life,
        )
    elif config.workers > 1:
        run_many(config, server=http_server, announce=lambda url: _announce(config, url))
    else:
        run_server(config, server=http_server, announce=lambda url: _announce(config, url))


def _announce(config: Config, url: str) -> None:
    say(_ready_line(config, url))
    say(f"open:    {config.public_url.rstrip('/') or url}/")


def _ready_line(config: Config, url: str) -> str:
    many = f", {config.workers} processes" if config.workers > 1 else ""
    where = f", data {config.data}" if config.backend != "memory" else ""
    return f"asman serves {url} (backend {without_password(config.backend)}{where}, profile {config.profile}{many})"


def without_password(text: str) -> str:
    """A setting as it may be shown: URLs in it keep the user and lose the password."""
    return re.sub(r"(://[^/@:]*):[^/@]+@", r"\1:***@", text)


@click.command()
@click.option("--queue", default="local", show_default=True, help="Queue that this machine's worker serves.")
@setting_options
@_http_server
@click.argument("worker_options", nargs=-1, type=click.UNPROCESSED)
def up(queue: str, http_server: str, worker_options: tuple[str, ...], **given: Any) -> None:
    """Server and worker on this machine, for trying out and for small teams.

    What follows -- goes to the worker: asman up -- --cpus 4
    """
    from asman.serve import run_server

    config, _ = config_from(given)
    if config.workers > 1:
        raise ConfigError("asman up serves with one process", hint="Use asman serve --workers, and asman worker.")

    def announce(url: str) -> None:
        say(_ready_line(config, url))
        other = "" if url == "http://localhost:8000" or url == "http://127.0.0.1:8000" else f"--server {url} "
        say(f"open:    {config.public_url.rstrip('/') or url}/#?queue={quote(queue, safe='')}")
        say(f"try it:  asman run {other}{queue} alpine:3.19.1 -- echo hello")

    async def beside(url: str, stop: asyncio.Event) -> None:
        await _keep_worker(queue, url, worker_options, stop)

    run_server(config, server=http_server, announce=announce, beside=beside)


async def _keep_worker(queue: str, url: str, options: tuple[str, ...], stop: asyncio.Event) -> None:
    """A worker as a child process, as soon as there is an engine; started again, ever later, when it dies."""
    if not _can_start_worker():
        say('no worker is started: its parts are not installed. Install them with: pip install "asman[worker]"')
        return await _never(stop)
    if not await _engine_there(stop):
        return None
    failures = 0
    while not stop.is_set():
        began = time.monotonic()
        status = await _run_worker([queue, "--server", url, *_lent(os.environ), *options], stop)
        if stop.is_set():
            return None
        failures = 1 if time.monotonic() - began > _STABLE_S else failures + 1
        pause_s = min(2.0 ** (failures - 1), _BACKOFF_MAX_S)
        say(f"the worker ended with {status}; it is started again in {pause_s:.0f} s")
        await _pause(stop, pause_s)
    return None


async def _never(stop: asyncio.Event) -> None:
    await stop.wait()


def _can_start_worker() -> bool:
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in ("asman_worker", "aiodocker"))


def _lent(environ: Mapping[str, str]) -> list[str]:
    """On one's own machine all cores are lent, unless the environment says otherwise; options given win over both."""
    return [] if environ.get("ASMAN_WORKER_CPUS") else ["--cpus", str(os.cpu_count() or 1)]


async def _engine_there(stop: asyncio.Event) -> bool:
    """Wait for an engine; says once what to do while there is none. False if the server stops first."""
    is_said = False
    while not stop.is_set():
        engine = await find_engine(os.environ)
        if not engine.problem:
            return True
        if not is_said:
            say(NO_ENGINE)
            is_said = True
        await _pause(stop, _ENGINE_AGAIN_S)
    return False


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


async def _run_worker(arguments: list[str], stop: asyncio.Event) -> int:
    """One life of the child. It has a session of its own: Ctrl-C reaches it through us, after its jobs are safe."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "asman_worker", *arguments, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    ended, stopped = asyncio.ensure_future(child.wait()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            child.terminate()
            await asyncio.wait({ended}, timeout=_WORKER_GRACE_S)
    finally:
        if child.returncode is None:
            child.kill()
        stopped.cancel()
        await asyncio.gather(ended, stopped, return_exceptions=True)
    return child.returncode if child.returncode is not None else -1
