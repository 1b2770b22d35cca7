"""The page as real HTTP servers and a real browser see it: headers, compressed forms, its policy at work, frames."""

from __future__ import annotations

import gzip
import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asman.identity import known_id
from asman.metaframe import metaframe
from browser import Browser, why_no_page
from metapage_host import metapage_host
from served import served

pytestmark = pytest.mark.slow

HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
UNKNOWN = "0" * 64


@pytest.fixture(scope="module", params=["hypercorn", "uvicorn"])
def any_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with nothing in it, of each make."""
    with _server(request.param, tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with nothing in it."""
    with _server("hypercorn", tmp_path_factory.mktemp("served")) as found:
        yield found


@contextmanager
def _server(make: str, folder: Path) -> Iterator[str]:
    missing = why_no_page()
    if missing is not None:
        pytest.skip(missing)
    with served("--backend", "memory", "--server", make, cwd=folder) as server:
        yield server.url


def _get(url: str, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One request exactly as given: no encoding, no redirect, no header of a library's own."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/", "/q/some-queue", f"/j/{UNKNOWN}"])
def test_a_browser_gets_html_and_curl_does_not(any_url: str, path: str) -> None:
    status, headers, body = _get(any_url, path, Accept=HTML)
    assert (status, headers["content-type"]) == (200, "text/html; charset=UTF-8")
    assert b'<base href="/"' in body
    assert b"<script" in body
    _, plain, text = _get(any_url, path, Accept="*/*")
    assert plain["content-type"].startswith("text/plain" if path == "/" else "application/json")
    assert b"<html" not in text
    assert "accept" in headers["vary"].lower()
    assert "accept" in plain["vary"].lower()


@pytest.mark.parametrize("path", ["/", "/q/some-queue", f"/j/{UNKNOWN}", "/icon.svg", "/metaframe.json"])
def test_head_says_what_get_would_and_sends_nothing(any_url: str, path: str) -> None:
    status, headers, body = _get(any_url, path, Accept=HTML)
    head_status, head_headers, head_body = _get(any_url, path, "HEAD", Accept=HTML)
    assert (head_status, head_body) == (status, b"")
    assert head_headers["content-length"] == str(len(body))
    assert {k: v for k, v in head_headers.items() if k != "date"} == {k: v for k, v in headers.items() if k != "date"}


def test_what_is_unpacked_is_what_is_plain(any_url: str) -> None:
    _, headers, plain = _get(any_url, "/", Accept=HTML)
    _, packed_headers, packed = _get(any_url, "/", Accept=HTML, Accept_Encoding="gzip")
    assert packed_headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed) == plain
    assert _get(any_url, "/", Accept=HTML, Accept_Encoding="gzip, br")[1]["content-encoding"] == "br"
    status, again, body = _get(any_url, "/", Accept=HTML, If_None_Match=headers["etag"])
    assert (status, body, again["etag"]) == (304, b"", headers["etag"])
    assert _get(any_url, "/", Accept=HTML, If_None_Match='"other"')[0] == 200


def test_a_route_of_no_page_is_an_error_in_json(any_url: str) -> None:
    status, _, body = _get(any_url, "/settings", Accept=HTML)
    assert (status, json.loads(body)["code"]) == (404, "route_not_found")


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/q/some-queue", f"/j/{UNKNOWN}", "/#?queue=some-queue"])
def test_the_page_opens_without_a_word_of_complaint(browser: Browser, url: str, path: str) -> None:
    with browser.visit() as visit:
        loaded: list[int] = []
        visit.page.on("response", lambda answer: loaded.append(answer.status))
        visit.page.goto(f"{url}{path}", wait_until="networkidle")
        assert visit.page.locator("main").count() == 1
        own = [r for r in visit.failed if "/assets/" in r]
        visit.assert_clean(but=[r"status of 404.*/j/0{64}"])
        assert own == []
        assert loaded[0] == 200


def test_the_policy_stops_what_the_page_would_not_do(browser: Browser, url: str) -> None:
    """Each of these is what an injected script or a stranger's text would try; none runs, each is reported."""
    attempts = """
      () => {
        window.refused = 0;
        const attempt = (tag, property, value) => {
          try {
            const made = document.createElement(tag);
            made[property] = value;
            document[tag === "base" ? "head" : "body"].prepend(made);
          } catch (e) { window.refused += e instanceof TypeError; }
        };
        attempt("script", "src", "https://elsewhere.example/x.js");
        attempt("script", "text", "alert('inline')");
        attempt("div", "innerHTML", "<b>markup</b>");
        attempt("iframe", "srcdoc", "<script>alert('srcdoc')</script>");
        attempt("img", "src", "http://127.0.0.1:9/x.png");
        attempt("iframe", "src", "https://elsewhere.example/");
        attempt("base", "href", "https://elsewhere.example/");
      }
    """
    with browser.visit(url) as visit:
        visit.page.evaluate(attempts)
        visit.page.wait_for_timeout(300)
        stopped = {report["directive"] for report in visit.reports}
        assert stopped == {"require-trusted-types-for", "img-src", "frame-src", "base-uri"}
        assert visit.page.evaluate("() => window.refused") == 4
        assert visit.dialogs == []
        assert visit.page.locator("b", has_text="markup").count() == 0


def test_nothing_inline_runs(browser: Browser, url: str) -> None:
    attempts = """
      () => {
        const script = document.createElement("script");
        script.append("alert('inline')");
        document.body.append(script);
        const link = document.createElement("a");
        link.setAttribute("onclick", "alert('handler')");
        document.body.append(link);
        link.click();
      }
    """
    with browser.visit(url) as visit:
        visit.page.evaluate(f"() => {{ try {{ ({attempts})() }} catch (e) {{}} }}")
        visit.page.wait_for_timeout(300)
        assert visit.dialogs == []
        assert visit.reports, "the attempts are reported: else this test shows nothing"


@pytest.mark.parametrize("size", ["wide", "phone"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_empty_page_has_no_serious_accessibility_finding(browser: Browser, url: str, size: str, theme: str) -> None:
    with browser.visit(url, size=size, theme=theme) as visit:
        visit.page.wait_for_load_state("networkidle")
        visit.shot("empty")
        assert visit.accessibility() == []
        visit.assert_clean()


def test_the_accessibility_check_finds_what_is_wrong(browser: Browser, url: str) -> None:
    with browser.visit(url) as visit:
        visit.page.evaluate("() => document.body.append(document.createElement('button'))")
        assert any("button-name" in found for found in visit.accessibility())
        assert visit.reports == [], "the check itself does not go through the page's policy"


# --- in a metapage ---------------------------------------------------------------------------------------------------


def test_the_page_is_a_frame_of_another_origins_metapage(browser: Browser, url: str) -> None:
    frames = {"first": f"{url}/#?queue=a-secret-name", "second": f"{url}/"}
    with metapage_host(frames, [("first", "*", "second", "*")]) as host, browser.visit(host) as visit:
        visit.page.wait_for_function("() => document.querySelectorAll('iframe').length === 2")
        for place in range(2):
            visit.page.frame_locator(f"iframe >> nth={place}").locator("main").wait_for(state="attached")
        assert len([frame for frame in visit.page.frames if frame.url.startswith(url)]) == 2
        assert visit.reports == []
        assert visit.errors == []
        told: Any = visit.page.evaluate("(url) => fetch(url).then((r) => r.json())", f"{url}/metaframe.json")
        assert told == metaframe(url)


def test_a_page_of_another_origin_uses_the_client_that_the_server_gives(browser: Browser, url: str) -> None:
    definition = {"image": "alpine:3.19.1", "command": "echo hello"}
    use = """async ([url, job]) => {
      const client = await import(url + "/client.js");
      return [typeof client.Client, await client.jobId(job)];
    }"""
    with metapage_host({"frame": f"{url}/"}) as host, browser.visit(host) as visit:
        assert visit.page.evaluate(use, [url, definition]) == ["function", known_id(definition)]
