"""The package as the core sees it, and what loading it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import asman_worker
from asman.plugins import load_plugins

_LOOK = (
    "import sys; import {module}\n"
    "heavy = ('quart', 'hypercorn', 'boto3', 'botocore', 'aiobotocore', 'aiodocker', 'aiohttp', 'sqlite3')\n"
    "print(*sorted(set(heavy) & set(sys.modules)))"
)


def _loaded_by(module: str) -> set[str]:
    answer = subprocess.run(
        [sys.executable, "-c", _LOOK.format(module=module)], capture_output=True, text=True, check=True, timeout=60
    )
    return set(answer.stdout.split())


def test_the_hook_answers_for_its_own_name_only() -> None:
    command = load_plugins([asman_worker], discover=False).hook.asman_command(name="worker")
    assert command.name == "worker"
    assert load_plugins([asman_worker], discover=False).hook.asman_command(name="serve") is None


async def test_the_worker_brings_checks_for_the_doctor(tmp_path: Path) -> None:
    host = {"DOCKER_HOST": f"unix://{tmp_path}/none.sock", "ASMAN_WORKER_DATA": str(tmp_path)}
    (asked,) = load_plugins([asman_worker], discover=False).hook.asman_doctor(environ=host)
    assert {"docker", "git"} <= {check["name"] for check in await asked}


def test_loading_the_package_loads_no_library_and_its_command_no_client() -> None:
    assert _loaded_by("asman_worker") == set()
    assert _loaded_by("asman_worker.cli") == set()


def test_a_running_worker_needs_no_server_parts() -> None:
    assert _loaded_by("asman_worker.process") == {"aiodocker", "aiohttp"}
