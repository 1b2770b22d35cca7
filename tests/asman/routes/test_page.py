"""The page's files and headers, on a page of the test's own: whether a real one was built here does not matter."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from asman.routes.page import PageFiles, chosen_coding, page_headers, prefers_page
from core import QUEUE, Core, core

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}
INDEX = '<!doctype html><html><head><base href="/" target="_parent" /></head><body>the page</body></html>\n'
SCRIPT = "console.log(1);\n" * 100
FILES = {
    "index.html": INDEX.encode(),
    "index.html.gz": gzip.compress(INDEX.encode()),
    "icon.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "client.js": b'export { Client } from "./assets/index-abc123.js";\n',
    "sources.sha256": b"0\n",
    "assets/index-abc123.js": SCRIPT.encode(),
    "assets/index-abc123.js.gz": gzip.compress(SCRIPT.encode()),
    "assets/index-abc123.js.br": b"stands for what brotli made",
}
UNKNOWN = "0" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "page" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "page"


@asynccontextmanager
async def paged(folder: Path, **settings: Any) -> AsyncIterator[Core]:
    async with core(**settings) as c:
        c.app.extensions["asman_page"] = PageFiles(folder)
        yield c


def _vary(headers: Any) -> set[str]:
    return {name.strip() for name in headers.get("Vary", "").split(",")}


# --- who gets it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "preferred"),
    [
        (BROWSER["Accept"], True),
        ("text/html", True),
        ("TEXT/HTML", True),
        ("text/html, */*", True),
        ("text/html;q=0.9, */*;q=0.1", True),
        ("application/json;q=0.5, text/html", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/*", False),
        ("text/html, application/json", False),
        ("application/json, text/html;q=0.9", False),
        ("application/json, text/plain, */*", False),
        ("text/html;q=0", False),
        ("text/html;q=nonsense", False),
        ("text/html;q=0.5, */*", False),
        (";;,,=", False),
    ],
)
def test_only_who_names_html_and_wants_it_most_gets_the_page(accept: str, preferred: bool) -> None:
    assert prefers_page(accept) is preferred


@pytest.mark.parametrize("path", ["/", f"/q/{QUEUE}", f"/j/{UNKNOWN}"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_browser_gets_the_page(folder: Path, path: str, method: str) -> None:
    async with paged(folder) as c:
        status, body, headers = await c.call(method, path, headers=BROWSER)
        assert status == 200
        assert headers["Content-Type"] == "text/html; charset=UTF-8"
        assert method == "HEAD" or body == INDEX.encode()
        assert headers["Content-Length"] == str(len(INDEX))
        assert {"Accept", "Accept-Encoding"} <= _vary(headers)
        assert headers["Cache-Control"] == "no-cache"


async def test_a_program_gets_json_or_text(folder: Path) -> None:
    async with paged(folder) as c:
        job = await c.submit()
        for accept in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
            status, listing, headers = await c.call("GET", f"/q/{QUEUE}", headers=accept)
            assert (status, list(listing["data"])) == (200, [job.job_id])
            assert "Accept" in _vary(headers)
            status, found, headers = await c.call("GET", f"/j/{job.job_id}", headers=accept)
            assert (status, found["data"]["definition"]["image"]) == (200, "alpine:3.19.1")
            assert "Accept" in _vary(headers)
            status, _, headers = await c.call("GET", f"/j/{UNKNOWN}", headers=accept)
            assert (status, _vary(headers)) == (404, {"Accept"})
            status, text, headers = await c.call("GET", "/", headers=accept)
            assert (status, headers["Content-Type"]) == (200, "text/plain; charset=UTF-8")
            assert b"asman worker QUEUE --server http://localhost" in text
            assert "Accept" in _vary(headers)


@pytest.mark.parametrize("tail", ["/j/ID.json", "/q/QUEUE/j", "/q/QUEUE/j/ID", "/j/ID/definition.json"])
async def test_what_is_json_for_everybody_stays_so(folder: Path, tail: str) -> None:
    async with paged(folder) as c:
        job = await c.submit()
        path = tail.replace("ID", job.job_id).replace("QUEUE", QUEUE)
        status, body, headers = await c.call("GET", path, headers=BROWSER)
        assert (status, headers["Content-Type"]) == (200, "application/json; charset=UTF-8")
        assert "data" in body


@pytest.mark.parametrize("path", ["/settings", "/index.html", "/sources.sha256", "/assets/", "/page/index.html"])
async def test_other_addresses_are_unknown_to_browsers_too(folder: Path, path: str) -> None:
    async with paged(folder) as c:
        status, body, _ = await c.call("GET", path, headers=BROWSER)
        assert (status, body["code"]) == (404, "route_not_found")


async def test_without_a_built_page_the_server_says_how_to_get_it(tmp_path: Path) -> None:
    async with paged(tmp_path / "nothing") as c:
        status, body, headers = await c.call("GET", "/", headers=BROWSER)
        assert (status, headers["Content-Type"]) == (200, "text/plain; charset=UTF-8")
        assert b"needs Node.js 20.19 or newer with npm" in body
        status, body, _ = await c.call("GET", f"/q/{QUEUE}", headers=BROWSER)
        assert (status, body) == (200, {"data": {}})
        assert (await c.call("GET", "/icon.svg"))[0] == 404


# --- files -----------------------------------------------------------------------------------------------------------


async def test_a_file_with_a_hash_in_its_name_is_kept_for_ever(folder: Path) -> None:
    async with paged(folder) as c:
        status, body, headers = await c.call("GET", "/assets/index-abc123.js")
        assert (status, body) == (200, SCRIPT.encode())
        assert headers["Content-Type"] == "text/javascript; charset=UTF-8"
        assert headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("asked", "there", "coding"),
    [
        ("gzip, deflate, br, zstd", ["br", "gzip"], "br"),
        ("gzip", ["br", "gzip"], "gzip"),
        ("br;q=0, gzip", ["br", "gzip"], "gzip"),
        ("gzip;q=0", ["br", "gzip"], ""),
        ("*", ["br", "gzip"], "br"),
        ("*;q=0", ["gzip"], ""),
        ("identity", ["gzip"], ""),
        ("", ["br", "gzip"], ""),
        ("br", [], ""),
    ],
)
def test_the_form_is_one_that_the_caller_takes(asked: str, there: list[str], coding: str) -> None:
    assert chosen_coding(asked, there) == coding


async def test_compressed_forms_are_sent_as_they_were_built(folder: Path) -> None:
    async with paged(folder) as c:
        tags = set()
        for asked, name in (("br, gzip", ".br"), ("gzip", ".gz"), ("identity", "")):
            _, body, headers = await c.call("GET", "/assets/index-abc123.js", headers={"Accept-Encoding": asked})
            assert body == FILES[f"assets/index-abc123.js{name}"]
            assert headers.get("Content-Encoding") == {".br": "br", ".gz": "gzip"}.get(name)
            assert headers["Content-Length"] == str(len(body))
            assert "Accept-Encoding" in _vary(headers)
            tags.add(headers["ETag"])
        assert len(tags) == 3, "each form is a representation of its own"


async def test_pages_of_others_may_use_the_client(folder: Path) -> None:
    async with paged(folder) as c:
        for path in ("/client.js", "/assets/index-abc123.js"):
            status, _, headers = await c.call("GET", path, headers={"Origin": "https://a-page.example"})
            assert (status, headers["Access-Control-Allow-Origin"]) == (200, "*")
            assert headers["Content-Type"].startswith("text/javascript")
        assert (await c.call("GET", "/client.js"))[2]["Cache-Control"] == "no-cache"


async def test_a_page_installed_over_the_served_one_is_served_from_then_on(folder: Path) -> None:
    async with paged(folder) as c:
        assert (await c.call("GET", "/icon.svg"))[0] == 200
        (folder / "assets" / "index-abc123.js").rename(folder / "assets" / "index-def456.js")
        status, told, _ = await c.call("GET", "/assets/index-abc123.js")
        assert (status, told["code"]) == (404, "file_not_found")
        assert "Load the page again" in told["hint"]
        assert (await c.call("GET", "/assets/index-def456.js"))[0] == 200


@pytest.mark.parametrize("path", ["/", "/icon.svg", "/assets/index-abc123.js"])
@pytest.mark.parametrize("written", ["{}", "W/{}", '"other", {}', "*"])
async def test_who_has_it_is_not_sent_it_again(folder: Path, path: str, written: str) -> None:
    async with paged(folder) as c:
        _, _, first = await c.call("GET", path, headers=BROWSER)
        again = {**BROWSER, "If-None-Match": written.format(first["ETag"])}
        status, body, headers = await c.call("GET", path, headers=again)
        assert (status, body, headers["ETag"]) == (304, b"", first["ETag"])
        assert headers["Cache-Control"] == first["Cache-Control"]
        assert _vary(headers) == _vary(first)


async def test_a_new_build_has_another_tag(folder: Path) -> None:
    tags = []
    for text in (INDEX, INDEX.replace("the page", "a newer page")):
        (folder / "index.html").write_text(text)
        async with paged(folder) as c:
            tags.append((await c.call("GET", "/", headers=BROWSER))[2]["ETag"])
    assert tags[0] != tags[1]


@pytest.mark.parametrize(
    "name",
    ["gone-1.js", "index-abc123.js.br", "..%2f..%2fapp.py", "%2e%2e/%2e%2e/app.py", "../app.py", "sources.sha256"],
)
async def test_nothing_else_can_be_read(folder: Path, name: str) -> None:
    async with paged(folder) as c:
        status, body, headers = await c.call("GET", f"/assets/{name}")
        assert (status, headers["Cache-Control"]) == (404, "no-store")
        assert body["code"] in ("file_not_found", "route_not_found")


# --- headers ---------------------------------------------------------------------------------------------------------


def _policy(headers: Any) -> dict[str, list[str]]:
    parts = [part.split() for part in headers["Content-Security-Policy"].split(";")]
    return {name: values for name, *values in parts}


@pytest.mark.parametrize("path", ["/", f"/q/{QUEUE}", f"/j/{UNKNOWN}", "/icon.svg", "/assets/index-abc123.js"])
async def test_the_page_runs_its_own_scripts_only_and_anybody_may_frame_it(folder: Path, path: str) -> None:
    async with paged(folder) as c:
        _, _, headers = await c.call("GET", path, headers=BROWSER)
        policy = _policy(headers)
        for what in ("default-src", "script-src", "style-src", "base-uri", "form-action"):
            assert policy[what] == ["'self'"], what
        assert policy["object-src"] == ["'none'"]
        assert policy["frame-ancestors"] == ["*"]
        assert policy["frame-src"] == ["'self'", "blob:"]
        assert policy["require-trusted-types-for"] == ["'script'"]
        assert not {"report-uri", "report-to"} & set(policy)
        assert "X-Frame-Options" not in headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "camera=()" in headers["Permissions-Policy"]
        assert "clipboard-write" not in headers["Permissions-Policy"], "the page copies links"


def test_a_page_that_came_encrypted_speaks_plainly_with_this_machine_only() -> None:
    wide, narrow = (_policy(_titled(page_headers(is_encrypted=e)))["connect-src"] for e in (False, True))
    assert wide == ["'self'", "https:", "wss:", "http:", "ws:"]
    assert {"'self'", "https:", "wss:", "http://localhost:*", "ws://localhost:*"} <= set(narrow)
    assert not {"http:", "ws:", "*"} & set(narrow)


def _titled(headers: dict[str, str]) -> dict[str, str]:
    return {name.title(): value for name, value in headers.items()}


async def test_the_way_a_page_came_decides_where_it_may_connect(folder: Path) -> None:
    async with paged(folder) as c:
        plain = _policy((await c.call("GET", "/", headers=BROWSER))[2])
        behind = _policy((await c.call("GET", "/", headers={**BROWSER, "X-Forwarded-Proto": "https"}))[2])
        assert "http:" in plain["connect-src"]
        assert "http:" not in behind["connect-src"]


async def test_on_loopback_an_allowed_origin_varies_beside_the_rest(folder: Path) -> None:
    async with paged(folder, allow_origin="https://pages.example") as c:
        headers = {**BROWSER, "Origin": "https://pages.example"}
        _, _, answered = await c.call("GET", "/", headers=headers)
        assert _vary(answered) == {"Accept", "Accept-Encoding", "Origin"}


# --- below a path ----------------------------------------------------------------------------------------------------


async def test_below_a_path_the_page_finds_its_files(folder: Path) -> None:
    async with paged(folder, public_url='https://host.example/jobs/a"b/') as c:
        _, body, headers = await c.call("GET", f"/j/{UNKNOWN}", headers=BROWSER | {"Accept-Encoding": "gzip"})
        assert b'<base href="/jobs/a%22b/" target="_parent" />' in body
        assert "Content-Encoding" not in headers
        _, text, _ = await c.call("GET", "/")
        assert b'asman worker QUEUE --server https://host.example/jobs/a"b\n' in text


async def test_a_path_that_only_the_http_server_knows_counts_too(folder: Path) -> None:
    async with paged(folder) as c:
        for path in ("/below/", "/below/j/" + UNKNOWN):
            status, body = await _mounted(c, "/below", path)
            assert status == 200
            assert b'<base href="/below/" target="_parent" />' in body


async def _mounted(c: Core, root_path: str, path: str) -> tuple[int, bytes]:
    """A GET by a browser as an HTTP server with a root path hands it on."""
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"accept", BROWSER["Accept"].encode())],
        "client": ("127.0.0.1", 5),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": root_path,
    }

    messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(messages, None) or await asyncio.get_running_loop().create_future()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await c.app.asgi_app(scope, receive, send)  # type: ignore[arg-type]
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent[1:])


# --- what hosts read -------------------------------------------------------------------------------------------------


async def test_any_page_may_read_the_metaframe_definition(folder: Path) -> None:
    async with paged(folder) as c:
        headers = {"Origin": "https://metapages.example"}
        status, body, answered = await c.call("GET", "/metaframe.json", headers=headers)
        assert (status, body["version"]) == (200, "2")
        assert answered["Access-Control-Allow-Origin"] == "*"
        assert answered["Cache-Control"] == "no-cache"
        assert body["metadata"]["image"] == "http://localhost/icon.svg"
