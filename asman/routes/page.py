"""The page: files that the package build left in ``asman/page``, the headers they are served with, and who gets them.

A browser and a program ask for the same addresses: ``/``, ``/j/ID`` and ``/q/QUEUE`` are the page for whoever prefers
HTML and text or JSON for everybody else. Without a built page the API is the same and ``/`` says how to get one.

Files are read when they are first asked for, never at import, and compressed when they are built, never here.

Source: promises, "The web origin", 4 and 6; RFC 9110 for negotiation and conditional requests.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any
from urllib.parse import quote, urlsplit

from quart import Blueprint, Response, after_this_request, current_app, request

from asman import __version__
from asman.errors import FileNotFound, clip
from asman.metaframe import metaframe
from asman.routes.answers import json_answer, text_answer
from asman.routes.context import base_url, respond

__all__ = ["PageFiles", "chosen_coding", "page", "page_headers", "page_response", "prefers_page"]

page = Blueprint("page", __name__)

_TYPES = {
    ".html": "text/html; charset=UTF-8",
    ".js": "text/javascript; charset=UTF-8",
    ".css": "text/css; charset=UTF-8",
    ".svg": "image/svg+xml",
    ".json": "application/json; charset=UTF-8",
    ".woff2": "font/woff2",
    ".wasm": "application/wasm",
}
_CODINGS = {"br": ".br", "gzip": ".gz"}
"""What a file may have been compressed as, the best first, and how such a file's name ends."""

_BASE = b'<base href="/"'
_INDEX = "index.html"
_FOREVER = "public, max-age=31536000, immutable"
_A_DAY = "public, max-age=86400"
_ASK_AGAIN = "no-cache"

_ELSEWHERE = "https: wss: http://localhost:* ws://localhost:* http://127.0.0.1:* ws://127.0.0.1:*"
_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "connect-src 'self' {connect}; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "frame-src 'self' blob:; frame-ancestors *; require-trusted-types-for 'script'"
)
_UNUSED = "camera=(), microphone=(), geolocation=(), payment=(), usb=(), midi=(), display-capture=()"


def page_headers(*, is_encrypted: bool) -> dict[str, str]:
    """What every file of the page carries; anybody may frame it, as a metaframe is framed.

    The page talks to this server, to servers that a link names, and to one on the reader's own machine. Under https
    that leaves plain http out, but for loopback; a page that came over plain http may be on a network where the other
    servers have no certificates either, so there it may use what its browser lets it use.
    """
    connect = _ELSEWHERE if is_encrypted else "https: wss: http: ws:"
    return {
        "content-security-policy": _POLICY.format(connect=connect),
        "permissions-policy": _UNUSED,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


# --- files -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """One form of one file. Shape: ``tag`` is what ETag says, quotes included."""

    body: bytes
    tag: str


class PageFiles:
    """The built files, each read once. Names are those that were listed: no path of a request reaches a disk."""

    def __init__(self, folder: Traversable | None = None) -> None:
        self._folder = folder
        self._listed: dict[str, Traversable] | None = None
        self._read: dict[str, _Stored] = {}

    def names(self) -> Mapping[str, Traversable]:
        """By path below the folder; empty if no page was built."""
        if self._listed is None:
            folder = self._folder if self._folder is not None else files("asman") / "page"
            self._listed = dict(_walk(folder, "")) if folder.is_dir() else {}
        return self._listed

    def is_built(self) -> bool:
        return _INDEX in self.names()

    def get(self, name: str, coding: str = "") -> _Stored:
        """A file that is there, compressed as ``coding``. Errors: KeyError."""
        full = name + _CODINGS.get(coding, "")
        if full not in self._read:
            try:
                body = self.names()[full].read_bytes()
            except OSError as error:  # another page was installed over this one: from now on that one is served
                self._listed, self._read = None, {}
                raise KeyError(full) from error
            self._read[full] = _Stored(body=body, tag=_tag(body))
        return self._read[full]

    def codings(self, name: str) -> list[str]:
        """How it can be had compressed, the best first."""
        return [coding for coding, ending in _CODINGS.items() if name + ending in self.names()]


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _walk(entry, f"{prefix}{entry.name}/")
        else:
            found.append((f"{prefix}{entry.name}", entry))
    return found


def _tag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def _files() -> PageFiles:
    """Those of the present app: nothing is shared between apps."""
    kept: PageFiles = current_app.extensions.setdefault("asman_page", PageFiles())
    return kept


# --- negotiation -----------------------------------------------------------------------------------------------------


def _weights(header: str) -> dict[str, float]:
    """What an Accept or Accept-Encoding header lists, with its weight; what cannot be read counts as refused."""
    found: dict[str, float] = {}
    for part in header.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        if name:
            found[name] = weight
    return found


def prefers_page(accept: str) -> bool:
    """Does this Accept header name HTML, and want it more than JSON?

    Only who names ``text/html`` gets a page: ``*/*``, which curl and most libraries send, does not. At equal weight
    the one that is named more exactly wins, and JSON if both are.
    """
    weights = _weights(accept)
    wanted = weights.get("text/html", 0.0)
    ranges = ("application/json", "application/*", "*/*")
    place, json_wanted = next(((i, weights[r]) for i, r in enumerate(ranges) if r in weights), (0, 0.0))
    return wanted > 0 and (wanted > json_wanted or (wanted == json_wanted and place > 0))


def chosen_coding(accept_encoding: str, there: list[str]) -> str:
    """The first of ``there`` that the caller takes; empty for the plain file."""
    weights = _weights(accept_encoding)
    return next((coding for coding in there if weights.get(coding, weights.get("*", 0.0)) > 0), "")


# --- answers ---------------------------------------------------------------------------------------------------------


def page_response() -> Response | None:
    """The page, if one was built and the present request prefers it; None for the answer that programs get.

    Whatever the answer is, an error included, it says that another Accept would have got another one.
    """
    after_this_request(_varies)
    if not _files().is_built() or not prefers_page(request.headers.get("Accept", "")):
        return None
    return _index()


def _varies(response: Any) -> Any:
    response.vary.add("Accept")
    return response


def _index() -> Response:
    """The page's HTML. Its ``<base>`` says below which path this server is reached, so that any depth finds it."""
    path = quote(urlsplit(base_url()).path.rstrip("/"), safe="/%")
    if not path:
        return _answer(_INDEX, _ASK_AGAIN)
    based = f'<base href="{html.escape(path)}/"'.encode()
    body = _files().get(_INDEX).body.replace(_BASE, based, 1)
    return _send(_INDEX, _Stored(body=body, tag=_tag(body)), {"cache-control": _ASK_AGAIN})


def _answer(name: str, cache_control: str) -> Response:
    """One file, in the best form that the caller takes. Errors: FileNotFound."""
    known = _files()
    ending = "." + name.rpartition(".")[2]
    if name not in known.names() or ending not in _TYPES:
        raise _no_file(name)
    coding = chosen_coding(request.headers.get("Accept-Encoding", ""), known.codings(name))
    headers = {"cache-control": cache_control, "vary": "Accept-Encoding"}
    if coding:
        headers["content-encoding"] = coding
    try:
        return _send(name, known.get(name, coding), headers)
    except KeyError as error:
        raise _no_file(name) from error


def _no_file(name: str) -> FileNotFound:
    return FileNotFound(f"the page has no file {clip(name)}", hint="Load the page again: it may be a newer one.")


def _send(name: str, stored: _Stored, more: Mapping[str, str]) -> Response:
    is_encrypted = base_url().startswith("https:")
    headers = {"etag": stored.tag, **page_headers(is_encrypted=is_encrypted), **more}
    asked = [tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")]
    if stored.tag in asked or "*" in asked:
        return Response(b"", status=304, headers=headers)
    return Response(stored.body, headers={"content-type": _TYPES["." + name.rpartition(".")[2]], **headers})


@page.get("/")
async def front_page() -> Response:
    return page_response() or respond(text_answer(_in_words(base_url(), is_built=_files().is_built())))


def _in_words(url: str, *, is_built: bool) -> str:
    shown = (
        f"The page:      {url}/ in a browser\n"
        if is_built
        else "The page:      was not built into this installation. It needs Node.js 20.19 or newer with npm where\n"
        "               asman is built: install both, then install asman again from its source.\n"
    )
    return (
        f"asman {__version__}: an open compute queue.\n\n"
        f"Push a job:    curl {url}/q/QUEUE -d '"
        '{"definition": {"image": "alpine:3.19.1", "command": "echo hello"}}\'\n'
        f"Run a worker:  asman worker QUEUE --server {url}\n"
        f"{shown}"
        f"All routes:    {url}/openapi.json\n"
    )


@page.get("/assets/<name>")
async def asset(name: str) -> Response:
    """Names hold a hash of the content: a browser need never ask for one again."""
    return _open(_answer(f"assets/{name}", _FOREVER))


@page.get("/client.js")
async def client_js() -> Response:
    """The client as a module, for pages of others too; what it is made of lies among the assets."""
    return _open(_answer("client.js", _ASK_AGAIN))


def _open(response: Response) -> Response:
    """Any page may use it, also on a server on loopback: it is code, and says nothing of this server."""
    response.headers["access-control-allow-origin"] = "*"
    return response


@page.get("/icon.svg")
async def icon() -> Response:
    return _answer("icon.svg", _A_DAY)


@page.get("/metaframe.json")
async def metaframe_json() -> Response:
    """For any page, also on a server on loopback: it is the same for everybody and says nothing of this server."""
    return respond(json_answer(metaframe(base_url()), cache_control=_ASK_AGAIN, access_control_allow_origin="*"))
