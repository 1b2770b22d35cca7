"""Strangers' files are only ever data: every kind of file, by every route that serves one, inline and stored.

What must hold is in the promises ("The web origin", 2): 30 kinds by 4 routes in 2 forms.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest

from core import QUEUE, Core, core

INLINE = {
    "a.png": "image/png",
    "a.jpg": "image/jpeg",
    "a.gif": "image/gif",
    "a.webp": "image/webp",
    "a.avif": "image/avif",
    "a.mp4": "video/mp4",
    "a.webm": "video/webm",
    "a.ogg": "audio/ogg",
    "a.wav": "audio/x-wav",
    "a.mp3": "audio/mpeg",
    "a.csv": "text/csv",
    "a.txt": "text/plain",
    "a.json": "application/json",
}
"""May be shown where they are asked for."""

ATTACHED = {
    "a.pdf": "application/pdf",
    **dict.fromkeys(
        (
            *("a.html", "a.htm", "a.xhtml", "a.svg", "a.xml", "a.xsl", "a.mhtml", "a.js", "a.mjs", "a.css", "a.swf"),
            *("a.wasm", "a.html.gz", "a.unknown", "noextension", "a.HTML"),
        ),
        "application/octet-stream",
    ),
}
"""Are saved, never shown."""

KINDS = {**INLINE, **ATTACHED}
ROUTES = (
    "/f/{key}?name={name}",
    "/j/{job}/outputs/{name}",
    "/q/{queue}/j/{job}/outputs/{name}",
    "/j/{job}/inputs/{name}",
)
HOSTILE = b"<!doctype html><script>alert(document.domain)</script>"
POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; frame-ancestors *"


def test_there_are_thirty_kinds() -> None:
    assert len(KINDS) == 30


@pytest.mark.parametrize("form", ["inline", "stored"])
@pytest.mark.parametrize("route", ROUTES)
async def test_every_kind_of_file_is_served_as_data(route: str, form: str) -> None:
    """One server for the thirty kinds: the names of those that were served wrongly are what fails."""
    async with core() as c:
        assert (await c.call("PUT", "/f/hostile", HOSTILE))[0] == 200
        ref = {"type": "key", "value": "hostile"} if form == "stored" else _inline()
        job = await c.submit({"image": "alpine:3.19.1", "command": "true", "inputs": dict.fromkeys(KINDS, ref)})
        await c.run(job, outputs=dict.fromkeys(KINDS, ref))
        wrong = {}
        for name in KINDS:
            path = route.format(key="hostile", name=name, job=job.job_id, queue=QUEUE)
            status, headers = await _last_answer(c, path)
            problems = _problems(name, headers, is_forced=form == "inline" and "/f/" not in path)
            if status != 200 or problems:
                wrong[name] = (status, problems)
        assert wrong == {}


def _inline() -> dict[str, str]:
    return {"type": "base64", "value": base64.b64encode(HOSTILE).decode()}


async def _last_answer(c: Core, path: str) -> tuple[int, Any]:
    """Behind at most one redirect to our own blobs. An Accept of a browser: no page comes in the file's place."""
    browser = {"Accept": "text/html,*/*;q=0.8"}
    status, _, headers = await c.call("GET", path, headers=browser)
    if status == 302:
        location = headers["Location"]
        assert location.startswith("http://localhost/f/"), location
        status, _, headers = await c.call("GET", location.removeprefix("http://localhost"), headers=browser)
    return status, headers


def _problems(name: str, headers: Any, *, is_forced: bool) -> list[str]:
    """What is not as promised. ``is_forced``: bytes that came inline with the job are saved whatever they are."""
    disposition = "attachment" if name in ATTACHED or is_forced else "inline"
    wanted = {
        "Content-Type": KINDS[name],
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Access-Control-Allow-Origin": "*",
        "Referrer-Policy": "no-referrer",
    }
    found = [f"{key}: {headers.get(key)}" for key, value in wanted.items() if headers.get(key) != value]
    if not headers.get("Content-Disposition", "").startswith(f"{disposition}; filename="):
        found.append(f"Content-Disposition: {headers.get('Content-Disposition')}")
    if "Access-Control-Allow-Credentials" in headers:
        found.append("credentials are allowed")
    return found
