"""Strangers' files in a real browser: opened, framed and fetched as a person and as a host page would, and none runs.

Each file tries to say something through ``alert``, whose words the visit keeps, and to write to the storage of the
server's origin, which is looked at afterwards.
"""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Error as PlaywrightError

from browser import Browser, why_no_page
from processes import call
from served import served

pytestmark = pytest.mark.slow

RUN = "alert('ran');localStorage.setItem('ran','yes')"
SCRIPT = f"<script>{RUN}</script>"
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" onload="{RUN}"><script>{RUN}</script></svg>'
XHTML = f'<html xmlns="http://www.w3.org/1999/xhtml"><body><script>{RUN}</script></body></html>'
XSL = (
    '<?xml version="1.0"?><?xml-stylesheet type="text/xsl" href="#s"?>'
    '<x:stylesheet id="s" version="1.0" xmlns:x="http://www.w3.org/1999/XSL/Transform">'
    f'<x:template match="/"><html>{SCRIPT}</html></x:template></x:stylesheet>'
)
FILES = {
    "page.html": f"<!doctype html><body>{SCRIPT}",
    "page.htm": f'<img src=x onerror="{RUN}">',
    "page.xhtml": XHTML,
    "picture.svg": SVG,
    "feed.xml": XHTML,
    "sheet.xsl": XSL,
    "mail.mhtml": f"MIME-Version: 1.0\nContent-Type: text/html\n\n{SCRIPT}",
    "notes.txt": f"<!doctype html>{SCRIPT}",
    "table.csv": f"<!doctype html>{SCRIPT}",
    "data.json": f'"<!doctype html>{SCRIPT}"',
    "fake.png": f"<!doctype html>{SCRIPT}",
    "code.js": RUN,
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that holds the files."""
    missing = why_no_page()
    if missing is not None:
        pytest.skip(missing)
    with served("--backend", "memory", cwd=tmp_path_factory.mktemp("served")) as server:
        for name, text in FILES.items():
            assert call("PUT", f"{server.url}/f/{name}", text.encode())[0] == 200
        yield server.url


def _address(url: str, name: str) -> str:
    return f"{url}/f/{name}?name={urllib.parse.quote(name)}"


def test_there_are_twelve() -> None:
    assert len(FILES) == 12


@pytest.mark.parametrize("name", FILES)
def test_a_strangers_file_runs_nothing(browser: Browser, url: str, name: str, tmp_path: Path) -> None:
    address = _address(url, name)
    with browser.visit(url) as visit:
        visit.page.evaluate(
            """(address) => {
              for (const [tag, property] of [["iframe", "src"], ["img", "src"], ["object", "data"]]) {
                const made = document.createElement(tag);
                try { made[property] = address; document.body.append(made); } catch (e) {}
              }
            }""",
            address,
        )
        visit.page.wait_for_timeout(200)
        second = visit.context.new_page()
        with contextlib.suppress(PlaywrightError):  # so ends the navigation to what is saved and not shown
            second.goto(address)
        second.wait_for_timeout(100)
        second.goto(f"{url}/q/some-queue")
        assert second.evaluate("() => localStorage.getItem('ran')") is None
        assert visit.dialogs == []


def test_the_same_words_in_a_page_of_no_policy_do_run(browser: Browser) -> None:
    """Else the tests above would show nothing."""
    with browser.visit() as visit:
        visit.page.route(
            "http://plain.example/", lambda r: r.fulfill(body=FILES["page.html"], content_type="text/html")
        )
        visit.page.goto("http://plain.example/")
        assert visit.dialogs == ["ran"]


def test_a_script_of_this_server_is_not_a_script(browser: Browser, url: str) -> None:
    """A stranger's file as the source of a script, where the page's own policy would allow its own origin."""
    with browser.visit() as visit:
        host = f'<!doctype html><script src="{_address(url, "code.js")}"></script>'
        visit.page.route("http://plain.example/", lambda r: r.fulfill(body=host, content_type="text/html"))
        visit.page.goto("http://plain.example/")
        visit.page.wait_for_timeout(200)
        assert visit.dialogs == []
