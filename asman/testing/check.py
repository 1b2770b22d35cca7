"""The kits against a URL: what ``asman backend check URL`` runs.

The exam is an ordinary pytest run, in a thread of its own because it brings its own event loops. It works beside
data that is there: queues, ids and keys are random, and what a test stored is deleted after it. A server should not
be running on the store meanwhile, for it would sweep what the tests make overdue.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path

import pluggy
import pytest

from asman import memory
from asman.config import Config
from asman.errors import ConfigError, clip
from asman.plugins import load_plugins, open_blob_store, open_job_store, open_notifier
from asman.testing.telling import Compared, promise_of, tell
from asman.testing.watching import Calls

__all__ = ["EXAM", "Examined", "check_backend"]


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What is examined. Shape: ``plugins`` are asked before installed ones; ``calls`` are those of the running test."""

    url: str
    plugins: Sequence[object] = ()
    calls: Calls = field(default_factory=Calls)

    def load_plugins(self) -> pluggy.PluginManager:
        """A new manager, as each server makes one."""
        return load_plugins([memory, *self.plugins])


EXAM = pytest.StashKey[Examined]()
"""Where the exam's classes find it."""

_OPENERS = {"job_store": open_job_store, "blob_store": open_blob_store, "notifier": open_notifier}
_CLEAN_UP = "cleaning up after the tests"
_CLASSES = {"job_store": "TestJobStore", "blob_store": "TestBlobStore", "notifier": "TestNotifier"}


async def check_backend(url: str, *, plugins: Sequence[object] = (), only: str = "") -> list[tuple[str, str]]:
    """Examine everything that plugins open at this URL.

    Shape:  one (test, outcome) per test; outcome is ``passed``, ``skipped: why`` or ``failed: `` and some lines that
            tell the promise, the call, what happened and what was expected. ``plugins`` are modules that need not be
            installed; ``only`` chooses the tests whose name holds this text (spaces count as underscores).
    Errors: ConfigError if no plugin opens the URL, or no test is named so.
    """
    exam = Examined(url=url, plugins=tuple(plugins))
    offered = _offered(exam)
    outcomes = await asyncio.to_thread(_examine, exam, offered, only)
    if not outcomes:
        raise ConfigError(f"no test has {clip(only)} in its name", hint="asman backend check URL -v names them all.")
    return outcomes


def _offered(exam: Examined) -> list[str]:
    """Which contracts the URL is opened for."""
    plugins = exam.load_plugins()
    offered: list[str] = []
    refusal: ConfigError | None = None
    for name, opener in _OPENERS.items():
        try:
            opener(plugins, exam.url, Config())
        except ConfigError as error:
            refusal = error
        else:
            offered.append(name)
    if not offered and refusal is not None:
        raise refusal
    return offered


class _Recorder:
    """A pytest plugin: hands the exam in and the outcomes out."""

    def __init__(self, exam: Examined, only: str) -> None:
        self.exam = exam
        self.only = only.strip().replace(" ", "_")
        self.outcomes: list[tuple[str, str]] = []
        self._compared: Compared | None = None

    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[EXAM] = self.exam
        config.option.tbstyle = "native"  # what pytest makes of a traceback is not shown; making it takes long

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self.only in item.name]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.outcomes.append((report.nodeid or "collection", f"failed: {_last_line(report.longreprtext)}"))

    def pytest_runtest_setup(self) -> None:
        self.exam.calls.begin()
        self._compared = None

    def pytest_assertrepr_compare(self, op: str, left: object, right: object) -> None:
        """Called when a comparison of the kits has failed."""
        self._compared = (op, left, right)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed and call.excinfo is not None:
            report.user_properties.append(("told", self._told(item, call.excinfo.value, call.when)))
        return report

    def _told(self, item: pytest.Item, error: BaseException, when: str) -> str:
        promise = promise_of(getattr(getattr(item, "obj", None), "__doc__", None), item.name)
        latest = self.exam.calls.latest
        try:
            return tell(
                "what a test stored can be listed and deleted again" if when == "teardown" else promise,
                error,
                compared=self._compared if isinstance(error, AssertionError) else None,
                call=latest[-1] if latest else None,
            )
        except Exception:  # a value of theirs cannot even be shown
            return "".join(traceback.format_exception_only(error)).strip()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("::")[2]
        if report.failed:
            told = dict(report.user_properties).get("told") or _last_line(report.longreprtext)
            self._note_failure(_CLEAN_UP if report.when == "teardown" else name, f"failed: {told}")
        elif report.skipped:
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            self.outcomes.append((name, f"skipped: {why.removeprefix('Skipped: ')}"))
        elif report.when == "call":
            self.outcomes.append((name, "passed"))

    def _note_failure(self, name: str, outcome: str) -> None:
        """A clean-up that fails will do so after every test; it is told once, and not at all if a test has failed."""
        if name != _CLEAN_UP or not any(told.startswith("failed") for _, told in self.outcomes):
            self.outcomes.append((name, outcome))


def _last_line(text: str) -> str:
    return (text.strip() or "no reason was given").splitlines()[-1]


def _options() -> list[str]:
    """Nobody's configuration, and of the plugins that happen to be installed only the one that the kits need."""
    others = {point.name for point in entry_points(group="pytest11")} - {"asyncio"}
    chosen = [("-o", "asyncio_mode=auto"), ("-o", "asyncio_default_fixture_loop_scope=function")]
    chosen += [("-p", f"no:{name}") for name in sorted({*others, "cacheprovider", "terminal"})]
    return [part for option in chosen for part in option]


def _examine(exam: Examined, offered: list[str], only: str) -> list[tuple[str, str]]:
    recorder = _Recorder(exam, only)
    file = Path(__file__).with_name("exam.py")
    chosen = [f"{file}::{_CLASSES[name]}" for name in offered]
    place = ["-c", os.devnull, "--rootdir", str(file.parent), "--import-mode", "importlib"]
    code = pytest.main([*place, *_options(), *chosen], plugins=[recorder])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        recorder.outcomes.append(("pytest", f"failed: the exam did not run to its end (exit code {int(code)})"))
    return recorder.outcomes
