"""What must hold for the wheel without any extra. Run by ``tox -e bare``, where there is no pytest either.

The server serves, the command line explains itself, and what needs an extra says which one to install.
"""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asman

EXTRAS = {
    "client": "httpx",
    "worker": "aiodocker",
    "webhooks": "standardwebhooks",
    "redis": "redis",
    "s3": "aioboto3",
    "metrics": "prometheus_client",
    "postgres": "asyncpg",
    "fast": "uvicorn",
    "testing": "hypothesis",
}


def asman_is_the_installed_one_and_no_extra_is_here() -> None:
    assert asman.__file__ is not None
    assert Path(asman.__file__).is_relative_to(sys.prefix), asman.__file__
    present = [module for module in EXTRAS.values() if importlib.util.find_spec(module) is not None]
    assert not present, f"not bare: {present}"


def the_app_takes_a_job_and_shows_it() -> None:
    from asman.app import create_app
    from asman.config import Config

    async def use() -> None:
        client = create_app(Config(backend="memory")).test_client()
        made = await client.post("/q/bare", json={"definition": {"image": "alpine:3.19.1", "command": "true"}})
        assert made.status_code == 200, await made.get_data()
        job_id = (await made.get_json())["jobId"]
        assert job_id in await (await client.get("/q/bare")).get_data(as_text=True)
        assert (await client.get("/healthz")).status_code == 200

    asyncio.run(use())


def _asman(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "asman", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)
    return done.returncode, done.stdout + done.stderr


def the_command_line_explains_itself() -> None:
    status, said = _asman("--help")
    assert status == 0, said
    assert "serve" in said, said


def plugins_are_listed() -> None:
    status, said = _asman("plugins")
    assert status == 0, said
    for name in ("sqlite", "filesystem", "redis", "postgres", "s3", "ttl", "webhooks", "metrics"):
        assert name in said, said


def a_missing_extra_is_named(extra: str, *arguments: str) -> None:
    status, said = _asman(*arguments)
    assert status != 0, said
    assert f"asman[{extra}]" in said, said
    assert "Traceback" not in said, said


def the_client_says_which_extra_it_needs() -> None:
    a_missing_extra_is_named("client", "ls", "some-queue")


def the_worker_says_which_extra_it_needs() -> None:
    a_missing_extra_is_named("worker", "worker", "some-queue", "--server", "http://localhost:9")


def the_faster_server_says_which_extra_it_needs() -> None:
    a_missing_extra_is_named("fast", "serve", "--backend", "memory", "--server", "uvicorn", "--port", "0")


def blobs_in_s3_say_which_extra_they_need() -> None:
    a_missing_extra_is_named("s3", "serve", "--backend", "memory", "--blobs", "s3://bucket", "--port", "0")
    a_missing_extra_is_named("s3", "s3", "init", "s3://bucket")


def a_backend_that_is_not_installed_is_named() -> None:
    a_missing_extra_is_named("redis", "serve", "--backend", "redis://localhost:6379/0", "--port", "0")
    a_missing_extra_is_named("postgres", "serve", "--backend", "postgres", "--port", "0")
    a_missing_extra_is_named("s3", "serve", "--backend", "memory+s3", "--s3", "s3://bucket", "--port", "0")


CHECKS: tuple[Callable[[], None], ...] = (
    asman_is_the_installed_one_and_no_extra_is_here,
    the_app_takes_a_job_and_shows_it,
    the_command_line_explains_itself,
    plugins_are_listed,
    the_client_says_which_extra_it_needs,
    the_worker_says_which_extra_it_needs,
    the_faster_server_says_which_extra_it_needs,
    blobs_in_s3_say_which_extra_they_need,
    a_backend_that_is_not_installed_is_named,
)


def main() -> int:
    failed = 0
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        try:
            check()
        except Exception as error:
            failed += 1
            print(f"FAILED  {name}: {type(error).__name__}: {error}")
        else:
            print(f"ok      {name}")
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks hold without extras")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
