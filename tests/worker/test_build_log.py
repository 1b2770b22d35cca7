"""Events of both builders into lines; nothing that an engine sends breaks this or makes it grow."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman_worker.build_log import MOST_LAYERS, BuildLog, EventReader, read_trace


def told(*events: dict[str, Any], most_bytes: int = 1 << 20) -> tuple[list[str], BuildLog]:
    said: list[str] = []
    log = BuildLog(said.append, most_bytes=most_bytes)
    for event in events:
        log.feed(event)
    log.close()
    return said, log


def number(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def field(index: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return number(index << 3) + number(value)
    data = value.encode() if isinstance(value, str) else value
    return number(index << 3 | 2) + number(len(data)) + data


def trace(*fields: bytes) -> dict[str, Any]:
    return {"id": "moby.buildkit.trace", "aux": base64.b64encode(b"".join(fields)).decode()}


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=5)), max_size=5), st.integers(1, 40))
def test_events_are_read_however_they_are_cut(events: list[dict[str, str]], size: int) -> None:
    data = b"".join(json.dumps(event).encode() + b"\r\n" for event in events)
    reader = EventReader()
    assert [e for at in range(0, len(data), size) for e in reader.feed(data[at : at + size])] == events


@pytest.mark.parametrize("data", [b"nothing\n", b"[1]\n", b"{\n", b"x" * ((4 << 20) + 1)], ids=range(4))
def test_what_is_no_event_is_said(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is json's own for some
        EventReader().feed(data)


def test_the_classic_builders_text_becomes_lines() -> None:
    said, log = told(
        {"stream": "Step 1/2 : FROM a"},
        {"stream": "\n"},
        {"stream": " ---> 0123456789ab\n"},
        {"stream": "\x1b[91mto stderr\n\x1b[0m"},
        {"stream": "Step 2/2 : ENV a=b\n ---> Using cache\n"},
        {"stream": " ---> ba9876543210\n"},
        {"aux": {"ID": "sha256:1"}},
        {"stream": "unfinished"},
        {"errorDetail": {"code": 3, "message": "returned 3"}, "error": "returned 3"},
    )
    assert said[:3] == ["Step 1/2 : FROM a\n", " ---> 0123456789ab\n", "to stderr\n"]
    assert said[-1] == "unfinished\n"
    assert (log.image_id, log.error, log.layers) == ("sha256:1", "returned 3", {"0123456789ab"})


def test_layers_that_a_step_pretends_are_bounded() -> None:
    _, log = told(*({"stream": f" ---> {n:012x}\n"} for n in range(MOST_LAYERS + 5)))
    assert len(log.layers) == MOST_LAYERS


def test_pull_progress_is_told_once_for_each_state() -> None:
    said, _ = told({"status": "Downloading", "id": "l1"}, {"status": "Downloading", "id": "l1"})
    assert said == ["l1: Downloading\n"]


def test_a_flood_is_drained_counted_and_its_end_kept() -> None:
    said, log = told(*({"stream": f"line {n}\n"} for n in range(1000)), most_bytes=100)
    assert sum(map(len, said[:-1])) <= 100
    assert "left out" in said[-1]
    assert log.last[-1] == "line 999\n"
    assert len(log.last) == 20
    assert log.dropped_bytes > 7000


def test_a_line_without_end_is_cut_and_not_collected() -> None:
    said, _ = told({"stream": "x" * 100_000})
    assert len(said) == 7
    assert max(map(len, said)) <= (16 << 10) + 1


def test_buildkits_graph_becomes_lines() -> None:
    step = field(1, "sha256:a") + field(3, "[1/2] RUN echo")
    started = step + field(5, field(1, 5))
    said, _ = told(
        trace(field(1, step)),
        trace(field(1, started)),
        trace(field(1, started), field(1, field(1, "sha256:b") + field(3, "FROM x") + field(4, 1))),
        trace(field(3, field(1, "sha256:a") + field(3, 2) + field(4, b"one\ntw"))),
        trace(field(3, field(1, "sha256:a") + field(4, b"o\n")), field(2, b"progress of no interest")),
        trace(field(1, started + field(7, "exit code: 4"))),
    )
    assert said == [
        *("#1 [1/2] RUN echo\n", "#2 FROM x\n", "#2 CACHED\n"),
        *("#1 one\n", "#1 two\n", "#1 ERROR: exit code: 4\n"),
    ]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_trace_or_refused(data: bytes) -> None:
    try:
        vertices, logs = read_trace(data)
    except ValueError:
        return
    assert len(vertices) + len(logs) <= len(data)


@pytest.mark.parametrize("data", [b"\x0a\x05abc", b"\x0b", b"\x08", b"\x08" + b"\xff" * 11])
def test_a_message_that_is_cut_off_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut off|wire type|longer"):
        read_trace(data)


def test_a_trace_that_is_no_base64_is_refused() -> None:
    with pytest.raises(ValueError, match="base64"):
        told({"id": "moby.buildkit.trace", "aux": "%"})
