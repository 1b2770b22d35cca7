"""What a person does on the page, and jobs to do it with: shared by the tests of the page."""

from __future__ import annotations

import re
import socket
import uuid
from typing import Any
from urllib.parse import unquote

import pytest
from playwright.sync_api import Locator, Page

from processes import call
from up import Up

__all__ = [
    "OPENERS",
    "UPLOADED",
    "button",
    "log",
    "open_panel",
    "own_address",
    "panel",
    "parameter",
    "ran",
    "shell",
    "status",
    "submitted",
]

UPLOADED = r"status of 404 .*/f/[0-9a-f]{64}/exists"
"""What Chromium says where the page asks, before it uploads a file, whether the server has it."""

OPENERS = {"Inputs": 0, "Outputs": 0, "Settings": 0, "Share": 1, "History": 1, "Queue": 1, "Help and keys": 1}
"""Panels by the name of what opens them; 1 for those that are in the menu at every width."""


def shell(script: str, **members: Any) -> dict[str, Any]:
    """A job of its own at each call: nothing that ran before answers it."""
    return {"image": "alpine:3.19.1", "command": ["sh", "-c", script], "env": {"RUN": uuid.uuid4().hex}, **members}


def submitted(url: str, queue: str, job: dict[str, Any], **control: Any) -> str:
    """Submit without the page; gives the id. Errors: AssertionError with what the server said."""
    code, answer = call("POST", f"{url}/q/{queue}/j", {"definition": job, **({"control": control} if control else {})})
    assert code in (200, 201), answer
    return str(answer["jobId"])


def ran(up: Up, job: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Submit without the page and wait for the end; gives the id and the finished part of the result."""
    code, answer = call("POST", f"{up.url}/q/{up.queue}/j", {"definition": job}, headers={"Prefer": "wait=60"})
    assert code in (200, 201), answer
    assert answer["state"] == "Finished", answer
    return str(answer["jobId"]), dict(answer["data"]["finished"])


def button(page: Page | Locator, name: str) -> Locator:
    """The button whose name begins so."""
    return page.get_by_role("button", name=re.compile(rf"^{_escaped(name)}(?!\w)"))


def _escaped(text: str) -> str:
    """As a pattern; the browser's own syntax ends at a slash."""
    return re.escape(text).replace("/", r"\/")


def log(page: Page) -> Locator:
    return page.get_by_role("log").first


def status(page: Page) -> Locator:
    """The line above everything that says how the job is."""
    return page.get_by_role("banner")


def panel(page: Page, title: str) -> Locator:
    """The open panel of this title."""
    return page.get_by_role("region", name=title, exact=True)


def open_panel(page: Page, opener: str) -> None:
    """By its button in the header, or from the menu where the button is not shown."""
    shown = button(page.get_by_role("navigation", name="Panels"), opener)
    if OPENERS[opener] or not shown.is_visible():
        button(page, "More").click()
        shown = button(page.locator(".menu-list"), opener)
    shown.click()


def own_address() -> str:
    """An address of this machine that is not loopback: what is there, a browser without a network cannot reach.

    Marks: skips the test where there is none.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; asks which address would be used
            found = str(probe.getsockname()[0])
        except OSError:
            found = "127.0.0.1"
    if found.startswith("127."):
        pytest.skip("needs a network address other than loopback")
    return found


def parameter(page: Page, name: str) -> str:
    """The value of a parameter in the address bar, decoded once; empty if it is not there."""
    pairs = (pair.partition("=") for pair in page.url.partition("#")[2].partition("?")[2].split("&"))
    return next((unquote(value) for key, _, value in pairs if key == name), "")
