"""A real Chromium for tests of the page: one visit at a time, and everything that went wrong in it.

A visit has a profile of its own and keeps what a person would not see: messages of the console, errors of scripts,
reports of the page's policy, dialogs. ``Visit.assert_clean`` fails on any of them. Pictures go to a folder that stays
after the run (``ASMAN_TEST_ARTIFACTS``; default ``.artifacts`` in the repository).

Playwright's synchronous interface is used, in tests that are no coroutines; take ``browser`` from the fixtures of
``end_to_end/conftest.py``, which end it before any other module's tests run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, ConsoleMessage, Frame, Page, sync_playwright

__all__ = ["SIZES", "THEMES", "Browser", "Visit", "artifacts", "browsing", "why_no_browser", "why_no_page"]

ROOT = Path(__file__).parents[2]
SIZES: Mapping[str, tuple[int, int]] = {"wide": (1280, 800), "tablet": (768, 1024), "phone": (320, 640)}
THEMES = ("light", "dark")
SERIOUS = ("serious", "critical")
"""Impacts of accessibility findings that fail a test."""

_FLAGS = (
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    # Frames of local servers in a page of another port are what some tests are about.
    "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",
)
_WATCH = """
(() => {
  if (window.__watched) return;
  window.__watched = true;
  document.addEventListener("securitypolicyviolation", (e) => window.__report({
    directive: e.effectiveDirective, blocked: e.blockedURI, sample: e.sample, file: e.sourceFile, line: e.lineNumber,
    page: location.href,
  }), true);
})();
"""
_LONGEST_TASK = """
() => new Promise((done) => {
  let longest = 0;
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) longest = Math.max(longest, entry.duration);
  });
  observer.observe({ type: "longtask", buffered: true });
  setTimeout(() => { observer.disconnect(); done(longest); }, 50);
})
"""
_SEEN = """
([selector, text]) => {
  for (const node of document.querySelectorAll(selector)) {
    if ((node.innerText ?? node.textContent ?? "").includes(text)) return performance.now();
  }
  return false;
}
"""


def chromium_path() -> str | None:
    """Debian's Chromium, or what ASMAN_TEST_CHROMIUM names: the browser that Playwright would download is not used."""
    return os.environ.get("ASMAN_TEST_CHROMIUM") or shutil.which("chromium")


def why_no_browser() -> str | None:
    """One line that starts with "needs", or None where a browser can be started."""
    if chromium_path() is None:
        return "needs Chromium; on Debian: apt-get install chromium; or ASMAN_TEST_CHROMIUM=/path"
    return why_no_page()


def why_no_page() -> str | None:
    """One line that starts with "needs", or None where the asman under test has its page."""
    if not (Path(str(files("asman") / "page")) / "index.html").is_file():
        return "needs the built page: Node.js 20.19 or newer with npm where asman is built"
    return None


def artifacts() -> Path:
    """Where pictures go."""
    folder = Path(os.environ.get("ASMAN_TEST_ARTIFACTS") or ROOT / ".artifacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def package_file(path: str) -> Path:
    """A file of a package that the page's tests use. Errors: AssertionError, which says how to get it."""
    found = ROOT / "web" / "node_modules" / path
    assert found.is_file(), f"{found} is not there: run npm ci in web/"
    return found


@dataclass(kw_only=True)
class Visit:
    """One tab with a fresh profile, and what went wrong in it.

    Shape:  ``console`` are messages of the levels error and warning; ``failed`` requests that got no answer;
            ``reports`` violations of the page's policy, of all frames; ``dialogs`` what alert and its like said.
    """

    context: BrowserContext
    page: Page
    size: str
    theme: str
    console: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("requestfailed", lambda request: self.failed.append(f"{request.url}: {request.failure}"))
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.console.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def assert_clean(self, *, but: Sequence[str] = ()) -> None:
        """No report, no error, no dialog; ``but`` are patterns of console messages that belong to the test."""
        left = [text for text in self.console if not any(re.search(pattern, text) for pattern in but)]
        dialogs = [f"dialog: {words}" for words in self.dialogs]
        wrong = "\n".join([*(f"policy: {report}" for report in self.reports), *self.errors, *dialogs, *left])
        assert not wrong, wrong

    def shot(self, name: str) -> Path:
        """A picture of what is seen now, as ``NAME-SIZE-THEME.png``."""
        path = artifacts() / f"{name}-{self.size}-{self.theme}.png"
        self.page.screenshot(path=path, animations="disabled")
        return path

    def longest_task_ms(self) -> float:
        """Of the page so far: how long nothing could be clicked. 0 if no task took 50 ms."""
        return float(self.page.evaluate(_LONGEST_TASK))

    def seen_ms(self, text: str, *, inside: str = "[role=log]", timeout_s: float = 30.0) -> float:
        """Milliseconds from the navigation to the frame in which the text could be read."""
        handle = self.page.wait_for_function(_SEEN, arg=[inside, text], polling="raf", timeout=timeout_s * 1000)
        return float(handle.json_value())

    def accessibility(self, frame: Frame | None = None) -> list[str]:
        """What axe-core finds serious or worse, one line each.

        It runs in a world of its own beside the page's scripts: the page's policy is neither loosened nor met.
        """
        session = self.context.new_cdp_session(frame or self.page)
        try:
            tree = session.send("Page.getFrameTree")["frameTree"]
            made = session.send("Page.createIsolatedWorld", {"frameId": tree["frame"]["id"], "worldName": "axe"})
            world = {"contextId": made["executionContextId"], "awaitPromise": True, "returnByValue": True}
            source = package_file("axe-core/axe.min.js").read_text()
            session.send("Runtime.evaluate", {"expression": f"{source};0", **world})
            run = "axe.run(document, {resultTypes: ['violations']}).then((r) => JSON.stringify(r.violations))"
            answer = session.send("Runtime.evaluate", {"expression": run, **world})
            assert "exceptionDetails" not in answer, answer["exceptionDetails"]
            return [_finding(found) for found in json.loads(answer["result"]["value"]) if found["impact"] in SERIOUS]
        finally:
            session.detach()


def _finding(found: Mapping[str, Any]) -> str:
    places = ", ".join(" ".join(map(str, node["target"])) for node in found["nodes"][:5])
    return f"{found['impact']}: {found['id']}: {found['help']} ({places})"


class Browser:
    """A running Chromium."""

    def __init__(self, chromium: Chromium) -> None:
        self._chromium = chromium

    @contextmanager
    def visit(self, url: str = "", *, size: str = "wide", theme: str = "light", **options: Any) -> Iterator[Visit]:
        """A tab with a fresh profile, at ``url`` if there is one. ``options`` are Playwright's, of a context."""
        width, height = SIZES[size]
        context = self._chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion="reduce", **options
        )
        context.set_default_timeout(15_000)
        try:
            visit = Visit(context=context, page=context.new_page(), size=size, theme=theme)
            context.expose_binding("__report", lambda source, report: visit.reports.append(report))
            context.add_init_script(_WATCH)
            visit.watch(visit.page)
            context.on("page", visit.watch)
            if url:
                visit.page.goto(url)
            yield visit
        finally:
            context.close()


@contextmanager
def browsing() -> Iterator[Browser]:
    """Chromium, started and ended here."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path(), args=list(_FLAGS))
        try:
            yield Browser(chromium)
        finally:
            chromium.close()
