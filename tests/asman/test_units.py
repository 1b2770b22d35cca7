"""Durations and sizes as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman.errors import BadRequest
from asman.units import parse_duration_s, parse_size_bytes, show_bytes, show_duration

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "durations.json").read_text())["durations"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["text"] or "empty")
def test_a_duration_has_the_published_length_or_is_refused(vector: dict[str, Any]) -> None:
    if vector["ms"] is None:
        with pytest.raises(BadRequest, match="is not a duration above zero"):
            parse_duration_s(vector["text"])
    else:
        assert parse_duration_s(vector["text"]) == vector["ms"] / 1000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1 h 30 min", 5400),
        ("2H", 7200),
        ("1e3s", 1000),
        (".5h", 1800),
        ("1h.5m", 3630),
        ("1,000s", 1000),
        ("1_000 s", 1000),
        ("1d12", 86400 + 12 * 3600),
        ("1m30", 90),
        ("1s500", 1.5),
        ("2 weeks", 1209600),
        ("1mo", 2629800),
        ("1y", 31557600),
        ("5us", 5e-6),
        ("5µs", 5e-6),
        (1500, 1.5),
        (0.5, 0.0005),
    ],
)
def test_a_duration_is_a_sum_of_numbers_with_units(text: str | float, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "0s",
        "-5m",
        "5 parsecs",
        "h",
        "5m!",
        "1.2.3s",
        "1..2s",
        "1e999s",
        "\uff15m",
        True,
        None,
        ["5m"],
        -1,
        float("nan"),
    ],
)
def test_what_is_no_duration_above_zero_is_refused(text: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_duration_s(text)
    assert caught.value.hint
    assert len(caught.value.message) < 150


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("64m", 64 << 20),
        ("1g", 1 << 30),
        ("1G", 1 << 30),
        ("1gb", 1 << 30),
        ("1.5gb", 3 << 29),
        ("1.5 GiB", 3 << 29),
        ("2kib", 2048),
        ("1t", 1 << 40),
        ("1p", 1 << 50),
        ("512", 512),
        ("512b", 512),
        (" 7 ", 7),
        (4096, 4096),
        (1024.0, 1024),
        ("0", 0),
    ],
)
def test_a_size_takes_all_common_spellings_with_1024_to_the_step(text: str | float, count: int) -> None:
    assert parse_size_bytes(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "",
        "big",
        "-1",
        "1x",
        "1 g b",
        "1ib5",
        "1e30",
        "\uff11g",
        True,
        None,
        [1],
        float("nan"),
        "9" * 400,
        "9" * 308 + "p",
    ],
)
def test_what_is_no_size_is_refused(text: Any) -> None:
    with pytest.raises(BadRequest, match="is not a size"):
        parse_size_bytes(text)


@given(st.text(max_size=30))
def test_no_text_makes_the_readers_fail_in_another_way(text: str) -> None:
    for read in (parse_duration_s, parse_size_bytes):
        try:
            number: float = read(text)
        except BadRequest:
            continue
        assert number >= 0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1 << 20, "1.0 MiB"),
        (3 << 29, "1.5 GiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_a_size_is_shown_in_the_largest_unit_that_fits(count: int, text: str) -> None:
    assert show_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "0.5s"),
        (12.34, "12.3s"),
        (60, "1m"),
        (90, "1m30s"),
        (3599.6, "1h"),
        (3600, "1h"),
        (5400, "1h30m"),
        (86400, "24h"),
    ],
)
def test_a_duration_is_shown_in_at_most_two_units(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text
