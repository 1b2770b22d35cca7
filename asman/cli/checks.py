"""Commands that look: plugins, config, doctor, backend check."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from asman.cli.engine import NO_ENGINE, find_engine
from asman.cli.exits import FAILURE
from asman.cli.following import server_option
from asman.cli.serving import config_from, setting_options, without_password
from asman.cli.terminal import print_json, print_table
from asman.config import SETTINGS, Config
from asman.errors import AsmanError, ConfigError
from asman.units import show_bytes

__all__ = ["Check", "backend", "config", "doctor", "plugins"]

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_LITTLE_SPACE_BYTES = 5 << 30
_SKEW_S = 5.0
_SECRETS = ("webhook_secret",)


# --- plugins ---------------------------------------------------------------------------------------------------------


@click.command()
@_json
def plugins(as_json: bool) -> None:
    """List installed plugins, the hooks they answer, and the URL schemes that can be opened."""
    found, schemes = _installed()
    if as_json:
        print_json({"plugins": found, "schemes": schemes})
        return
    rows = [(p["name"], p["module"], p["version"], p["problem"] or ", ".join(p["hooks"])) for p in found]
    print_table(("PLUGIN", "MODULE", "VERSION", "HOOKS"), rows)
    click.echo()
    print_table(("SCHEME", "WHAT IT OPENS"), sorted(schemes.items()))


def _installed() -> tuple[list[dict[str, Any]], dict[str, str]]:
    from asman import memory
    from asman.hookspecs import PROJECT
    from asman.plugins import load_plugins

    manager = load_plugins([memory])
    found: list[dict[str, Any]] = []
    for point in sorted(entry_points(group=PROJECT), key=lambda p: p.name):
        plugin = manager.get_plugin(point.name)
        callers = (manager.get_hookcallers(plugin) or []) if plugin is not None else []
        found.append(
            {
                "name": point.name,
                "module": point.value,
                "version": point.dist.version if point.dist is not None else "",
                "hooks": sorted(caller.name.removeprefix("asman_") for caller in callers),
                "problem": "" if plugin is not None else _problem_of(point),
            }
        )
    schemes = {scheme: text for answer in manager.hook.asman_schemes() for scheme, text in answer.items()}
    return found, schemes


def _problem_of(point: Any) -> str:
    try:
        point.load()
    except Exception as error:  # whatever a stranger's module raises is what is shown
        return f"does not load: {error}"
    return "is switched off"


# --- config ----------------------------------------------------------------------------------------------------------


@click.command()
@setting_options
@_json
def config(as_json: bool, **given: Any) -> None:
    """Show every setting, its value and where the value comes from. Takes the options of serve."""
    chosen, source = config_from(given)
    shown = [(s.name, _shown(chosen, s.name), source[s.name]) for s in SETTINGS]
    if as_json:
        print_json({name: {"value": value, "from": where} for name, value, where in shown})
        return
    print_table(("SETTING", "VALUE", "FROM"), [(n, _text(v), w) for n, v, w in shown])


def _shown(chosen: Config, name: str) -> Any:
    value = getattr(chosen, name)
    if name in _SECRETS and value:
        return "(set, not shown)"
    if isinstance(value, str):
        return without_password(value)
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    text = ",".join(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)
    return text or "-"


# --- doctor ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of ``doctor``. Shape: ``result`` is ok, warn or fail; ``next_step`` is empty for ok."""

    name: str
    result: str
    found: str
    next_step: str = ""


@click.command()
@setting_options
@server_option
@_json
@click.pass_context
def doctor(ctx: click.Context, /, server: str, as_json: bool, **given: Any) -> int:
    """Check what asman needs on this machine: Python, extras, plugins, Docker, disk, server, clock.

    Where the worker is installed, its set-up is checked as well, with the settings of ASMAN_WORKER_... variables.
    """
    chosen, _ = config_from(given)
    is_named = ctx.get_parameter_source("server") is not click.core.ParameterSource.DEFAULT
    checks = [
        _check_python(),
        *_check_extras(),
        *_check_plugins(),
        *_check_data(Path(chosen.data)),
        *asyncio.run(_check_outside(server, is_named=is_named)),
    ]
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            click.echo(f"{check.result:<4}  {check.name}: {check.found}")
            if check.next_step:
                click.echo(f"      {check.next_step}")
    return FAILURE if any(check.result == "fail" for check in checks) else 0


def _check_python() -> Check:
    return Check(name="python", result="ok", found=f"{platform.python_version()} in {sys.prefix}")


_EXTRAS = {
    "client": ("httpx", "rich"),
    "worker": ("aiodocker", "aiohttp", "prometheus_client"),
    "webhooks": ("httpx", "standardwebhooks"),
    "metrics": ("prometheus_client",),
    "fast": ("uvicorn", "httptools"),
}


def _check_extras() -> Iterator[Check]:
    for extra, modules in _EXTRAS.items():
        missing = [name for name in modules if find_spec(name) is None]
        yield Check(
            name=f"extra {extra}",
            result="warn" if missing else "ok",
            found=f"{', '.join(missing)} missing" if missing else "installed",
            next_step=f'if you need it: pip install "asman[{extra}]"' if missing else "",
        )


def _check_plugins() -> Iterator[Check]:
    found, schemes = _installed()
    for plugin in found:
        if plugin["problem"]:
            step = f"reinstall or remove the package of {plugin['module']}"
            yield Check(name=f"plugin {plugin['name']}", result="fail", found=plugin["problem"], next_step=step)
    yield Check(name="plugins", result="ok", found=f"{len(found)} installed; schemes: {', '.join(sorted(schemes))}")


def _check_data(data: Path) -> Iterator[Check]:
    """Would the server be able to write here? Nothing is left behind, and the directory itself is not made."""
    there = next(path for path in (data.absolute(), *data.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        step = "choose a directory of this user with --data, or change its owner"
        yield Check(name="data", result="fail", found=f"{data} is not writable: {error.strerror}", next_step=step)
        return
    yield Check(name="data", result="ok", found=f"{data} is writable")
    free_bytes = shutil.disk_usage(there).free
    is_little = free_bytes < _LITTLE_SPACE_BYTES
    step = "images, inputs and outputs need room: free some, or move --data to a larger disk"
    yield Check(
        name="disk",
        result="warn" if is_little else "ok",
        found=f"{show_bytes(free_bytes)} free",
        next_step=step if is_little else "",
    )


async def _check_outside(server: str, *, is_named: bool) -> list[Check]:
    theirs, seen = await asyncio.gather(_check_by_plugins(), _check_server(server, is_named=is_named))
    ours = [] if any(check.name == "docker" for check in theirs) else [await _check_docker()]
    return [*ours, *theirs, *seen]


async def _check_by_plugins() -> list[Check]:
    """What installed plugins look at themselves; one that fails to look is a fault like any other."""
    from asman.plugins import load_plugins

    checks: list[Check] = []
    try:
        asked = load_plugins().hook.asman_doctor(environ=os.environ)
        answers = await asyncio.gather(*asked, return_exceptions=True)
    except Exception as error:  # whatever a stranger's module raises is what is shown
        answers = [error]
    for answer in answers:
        if isinstance(answer, BaseException):
            step = "this is a fault of the plugin; tell its authors"
            checks.append(Check(name="a plugin's checks", result="fail", found=repr(answer), next_step=step))
        else:
            checks += [Check(**check) for check in answer]
    return checks


async def _check_docker() -> Check:
    engine = await find_engine(os.environ)
    return Check(
        name="docker",
        result="warn" if engine.problem else "ok",
        found=f"{engine.address}: {engine.problem}" if engine.problem else f"answers at {engine.address}",
        next_step=f"to run jobs here: {NO_ENGINE.splitlines()[1]}" if engine.problem else "",
    )


async def _check_server(server: str, *, is_named: bool) -> list[Check]:
    """A server that was named must be there; the default address is only a guess."""
    from asman.client import Client

    try:
        async with Client(server, timeout_s=5.0) as client:
            took_s, its_clock = await client.healthz()
    except AsmanError as error:
        result = "fail" if is_named or isinstance(error, ConfigError) else "warn"
        return [Check(name="server", result=result, found=error.message, next_step=error.hint)]
    checks = [Check(name="server", result="ok", found=f"{server} answers in {took_s * 1000:.0f} ms")]
    if its_clock is not None:
        skew_s = time.time() - its_clock
        is_off = abs(skew_s) > _SKEW_S
        checks.append(
            Check(
                name="clock",
                result="warn" if is_off else "ok",
                found=f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the server's",
                next_step="set this machine's clock (NTP): ages and times shown here are off" if is_off else "",
            )
        )
    return checks


# --- backend ---------------------------------------------------------------------------------------------------------


@click.group()
def backend() -> None:
    """Storage backends."""


@backend.command()
@click.argument("url")
@click.option("--only", default="", metavar="TEXT", help="Run the tests whose name holds this text.")
@click.option("-v", "--verbose", is_flag=True, help="Name every test.")
def check(url: str, only: str, verbose: bool) -> int:
    """Run the conformance kits against the backend at URL: job store, blob store, notifier, whichever it offers.

    The kits write and delete under names of their own; give a URL whose data may be lost. Of a test that fails it is
    told what was promised, what was called, what happened and what was expected.
    """
    try:
        from asman.testing import check_backend
    except ImportError as error:
        hint = 'pip install "asman[testing]"'
        raise ConfigError(f"the kits need what is not installed: {error.name}", hint=hint) from error
    outcomes = asyncio.run(check_backend(url, only=only))
    for test, alike, outcome in _grouped(outcomes) if not verbose else [(t, [], o) for t, o in outcomes]:
        result, _, told = outcome.partition(": ")
        if verbose or result == "failed":
            click.echo("\n".join((f"{result:<8}{test}", *(f"        {line}" for line in told.splitlines()))))
            if alike:
                click.echo(f"        and so with {len(alike)} more: {' '.join(alike)[:200]}")
    counted = {kind: sum(1 for _, o in outcomes if o.startswith(kind)) for kind in ("passed", "failed", "skipped")}
    click.echo(", ".join(f"{count} {kind}" for kind, count in counted.items()))
    if counted["failed"]:
        click.echo("one of them again: --only with a part of its name; the tests stand in asman/testing")
    return FAILURE if counted["failed"] or not counted["passed"] else 0


def _grouped(outcomes: list[tuple[str, str]]) -> Iterator[tuple[str, list[str], str]]:
    """Failures of one test with several values as one: the first, and with which values it failed besides."""
    alike: dict[str, list[str]] = {}
    for test, outcome in outcomes:
        if outcome.startswith("failed"):
            alike.setdefault(test.partition("[")[0], []).append(test)
    for test, outcome in outcomes:
        first, *others = alike.get(test.partition("[")[0], [test])
        if test == first:
            yield test, [f"[{other.partition('[')[2]}" for other in others], outcome
