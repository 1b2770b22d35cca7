"""Two of our frames in a metapage of another origin: files of the first become inputs of the second."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from browser import Browser
from links import link
from metapage_host import metapage_host
from up import Up

pytestmark = [pytest.mark.slow, pytest.mark.docker]


def job(script: str, **members: Any) -> dict[str, Any]:
    return {"image": "alpine:3.19.1", "command": ["sh", "-c", script], "env": {"RUN": uuid.uuid4().hex}, **members}


def test_what_one_frame_puts_out_the_other_runs_with(browser: Browser, up: Up) -> None:
    number = uuid.uuid4().hex
    first = job(f"echo {number} > /outputs/number.txt")
    second = job("while read n; do echo got-$n | tee /outputs/echo.txt; done < /inputs/number.txt")
    frames = {
        "first": link(up.url, job=first, queue=up.queue, autostart="true", allowsetjob="true"),
        "second": link(up.url, job=second, queue=up.queue, autostart="true"),
    }
    with metapage_host(frames, [("first", "number.txt", "second", "number.txt")]) as host:
        with browser.visit(host, size="wide") as visit:
            for place in range(2):  # a server on loopback, in a frame: nothing runs before a person says so
                frame = visit.page.frame_locator(f"iframe >> nth={place}")
                frame.get_by_role("button", name="Use this machine").click()
            shown = visit.page.frame_locator("iframe >> nth=1").get_by_role("log").first
            shown.get_by_text(f"got-{number}").wait_for(timeout=60_000)
            visit.page.wait_for_function("() => window.outputs.second?.['echo.txt']", timeout=30_000)
            visit.shot("metapage")
            outputs: Any = visit.page.evaluate("() => window.outputs")
            assert outputs["first"]["number.txt"]["type"] in ("url", "utf8", "base64")
            assert outputs["first"]["job/result.json"]["statusCode"] == 0
            assert "job/result.json" not in outputs["second"], "only who lets its job be set tells of it"
            assert (visit.reports, visit.errors, visit.dialogs) == ([], [], [])
