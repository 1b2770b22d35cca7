"""What an import loads: the package alone loads no framework, a hook module no driver, the worker no web server."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from importlib.metadata import entry_points

import pytest

from fresh_python import run_fresh

DRIVERS = {
    *("sqlite3", "aiosqlite", "redis", "asyncpg", "aioboto3", "aiobotocore", "boto3", "botocore"),
    *("httpx", "standardwebhooks", "prometheus_client", "aiodocker", "aiohttp", "hypothesis", "pytest", "rich"),
}
WEB = {"quart", "flask", "werkzeug", "hypercorn", "uvicorn"}


def _loaded(statements: str, names: set[str]) -> list[str]:
    code = f"{statements}\nimport sys\nprint(*sorted({names!r} & set(sys.modules)))"
    return run_fresh(code).split()


def test_importing_the_package_loads_neither_quart_nor_a_driver() -> None:
    assert _loaded("import asman", DRIVERS | WEB | {"pluggy", "click"}) == []


def test_importing_the_seams_loads_neither_quart_nor_a_driver() -> None:
    statements = "import asman.hookspecs, asman.abc, asman.plugins, asman.services, asman.config, asman.errors"
    assert _loaded(statements, DRIVERS | WEB | {"click"}) == []


def test_finding_all_plugins_loads_no_driver() -> None:
    statements = "from asman.plugins import load_plugins; load_plugins()"
    assert _loaded(statements, DRIVERS | WEB) == []


@pytest.mark.parametrize("point", sorted(entry_points(group="asman")), ids=lambda point: point.name)
def test_a_hook_module_loads_its_driver_only_when_chosen(point: object) -> None:
    assert _loaded(f"import {point.module}", DRIVERS | WEB) == []  # type: ignore[attr-defined]


def test_the_worker_loads_no_web_framework() -> None:
    package = import_module("asman_worker")
    found = [info.name for info in pkgutil.walk_packages(package.__path__)]
    modules = [f"asman_worker.{name}" for name in found if name != "__main__"]
    assert len(modules) > 1
    assert _loaded("\n".join(f"import {name}" for name in modules), WEB) == []
