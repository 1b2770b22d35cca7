"""The same record as a line for people and as one for programs."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asman_worker.log_format import JsonLines, TextLines, log_to


def _record(**fields: object) -> logging.LogRecord:
    made = logging.LogRecord("asman_worker.agent", logging.WARNING, "x.py", 1, "a job ended", None, None)
    made.created = 1767323045.678
    vars(made).update(fields)
    return made


def test_text_shows_message_and_fields() -> None:
    shown = TextLines().format(_record(job="a1", attempt=2))
    assert shown.endswith("warning a job ended  job=a1 attempt=2")


def test_json_is_one_object_on_one_line_with_the_same_fields() -> None:
    shown = JsonLines().format(_record(job="a1", attempt=2, folder=Path("/x"), text="two\nlines"))
    assert "\n" not in shown
    assert json.loads(shown) == {
        "time": "2026-01-02T03:04:05.678+00:00",
        "level": "warning",
        "message": "a job ended",
        "logger": "asman_worker.agent",
        "job": "a1",
        "attempt": 2,
        "folder": "/x",
        "text": "two\nlines",
    }


def test_a_field_cannot_take_the_place_of_time_or_level() -> None:
    shown = json.loads(JsonLines().format(_record(level="harmless", time="never")))
    assert (shown["level"], shown["time"][:4]) == ("warning", "2026")


def test_a_traceback_stays_on_the_line() -> None:
    record = _record()
    try:
        raise ValueError("bad")
    except ValueError:
        record.exc_info = sys.exc_info()
    shown = JsonLines().format(record)
    assert "\n" not in shown
    assert json.loads(shown)["traceback"].endswith("ValueError: bad")
    assert TextLines().format(record).endswith("ValueError: bad")


@pytest.fixture
def kept_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("asman_worker")
    before = list(root.handlers), root.level, ours.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


@pytest.mark.usefixtures("kept_logging")
@pytest.mark.parametrize("debug", [False, True])
def test_debug_shows_our_own_details_and_nobody_elses(debug: bool) -> None:
    out = io.StringIO()
    log_to(out, form="json", debug=debug)
    logging.getLogger("asman_worker.link").debug("ours", extra={"kind": "PING"})
    logging.getLogger("other").debug("theirs")
    logging.getLogger("other").info("told")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["message"] for line in lines] == (["ours", "told"] if debug else ["told"])
