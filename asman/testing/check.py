"""The kits against a URL: what ``asman backend check URL`` runs.

The exam is an ordinary pytest run, in a thread of its own because it brings its own event loops. It works beside
data that is there: queues, ids and keys are random, and what a test stored is deleted after it. A server should not
be running on the store meanwhile, for it would sweep what the tests make overdue.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pluggy
import pytest

from asman import memory
from asman.config import Config
from asman.errors import ConfigError
from asman.plugins import load_plugins, open_blob_store, open_job_store, open_notifier

__all__ = ["EXAM_URL", "check_backend"]

EXAM_URL = pytest.StashKey[str]()
"""Where the exam's classes find the URL."""

_OPENERS = {"job_store": open_job_store, "blob_store": open_blob_store, "notifier": open_notifier}
_CLASSES = {"job_store": "TestJobStore", "blob_store": "TestBlobStore", "notifier": "TestNotifier"}


async def check_backend(url: str) -> list[tuple[str, str]]:
    """Examine everything that the installed plugins open at this URL.

    Shape:  one (test, outcome) per test; outcome is ``passed``, ``skipped: why`` or ``failed: why``.
    Errors: ConfigError if no plugin opens the URL.
    """
    offered = _offered(url)
    return await asyncio.to_thread(_examine, url, offered)


def _offered(url: str) -> list[str]:
    """Which contracts the URL is opened for."""
    plugins = _plugins()
    offered: list[str] = []
    refusal: ConfigError | None = None
    for name, opener in _OPENERS.items():
        try:
            opener(plugins, url, Config())
        except ConfigError as error:
            refusal = error
        else:
            offered.append(name)
    if not offered and refusal is not None:
        raise refusal
    return offered


class _Recorder:
    """A pytest plugin: hands the URL in and the outcomes out."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.outcomes: list[tuple[str, str]] = []

    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[EXAM_URL] = self.url

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.outcomes.append((report.nodeid or "collection", f"failed: {_last_line(report.longreprtext)}"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("::")[2]
        if report.failed:
            self.outcomes.append((name, f"failed: {_last_line(report.longreprtext)}"))
        elif report.skipped:
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            self.outcomes.append((name, f"skipped: {why.removeprefix('Skipped: ')}"))
        elif report.when == "call":
            self.outcomes.append((name, "passed"))


def _last_line(text: str) -> str:
    lines = [line.removeprefix("E").strip() for line in text.splitlines() if line.startswith("E ")]
    return lines[0] if lines else text.strip().splitlines()[-1]


def _plugins() -> pluggy.PluginManager:
    return load_plugins([memory])


def _options() -> list[str]:
    given = ("asyncio_mode=auto", "asyncio_default_fixture_loop_scope=function")
    return [part for option in given for part in ("-o", option)]


def _examine(url: str, offered: list[str]) -> list[tuple[str, str]]:
    """Run pytest on the exam's classes, without anybody's configuration."""
    recorder = _Recorder(url)
    exam = Path(__file__).with_name("exam.py")
    chosen = [f"{exam}::{_CLASSES[name]}" for name in offered]
    quiet = ["-c", os.devnull, "--rootdir", str(exam.parent), "--import-mode", "importlib"]
    plugins = ["-p", "no:cacheprovider", "-p", "no:terminal", "-p", "no:hypothesispytest"]
    code = pytest.main([*quiet, *plugins, *_options(), *chosen], plugins=[recorder])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        recorder.outcomes.append(("pytest", f"failed: the exam did not run to its end (exit code {int(code)})"))
    return recorder.outcomes
