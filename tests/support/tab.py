"""The API in a browser tab for tests: its site, built by the build itself, on a static host below a path."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from browser import Visit
from edge import Bundle, run_node

__all__ = ["PLACE", "Site", "build_site", "host_site", "stop_service_worker"]

PLACE = "some/place"
"""Below which path the site lies."""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None: ...


class Site:
    """A static host. Shape: ``url`` is that of the start page, ``app`` that of the API, without a slash at its end."""

    def __init__(self, root: Path) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(root)))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.origin}/{PLACE}/"
        self.app = f"{self.url}app"

    def stop(self) -> None:
        """From now on nobody answers there."""
        self._server.shutdown()
        self._server.server_close()


def build_site(bundle: Bundle, root: Path) -> str:
    """Build it below ``root``; answers with what the build said."""
    done = run_node("tab.mjs", "--bundle", str(bundle.file), "--out", str(root / PLACE))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@contextmanager
def host_site(root: Path) -> Iterator[Site]:
    site = Site(root)
    try:
        yield site
    finally:
        site.stop()


def stop_service_worker(visit: Visit, page: Page) -> None:
    """As the browser does it when it likes to; comes back when it has stopped."""
    session = visit.context.new_cdp_session(page)
    states: list[str] = []
    session.on("ServiceWorker.workerVersionUpdated", lambda told: states.extend(_running(told)))
    session.send("ServiceWorker.enable")
    session.send("ServiceWorker.stopAllWorkers")
    for _ in range(100):
        if "stopped" in states:
            break
        page.wait_for_timeout(50)
    session.detach()
    assert "stopped" in states, states


def _running(told: dict[str, Any]) -> list[str]:
    return [version["runningStatus"] for version in told["versions"]]
