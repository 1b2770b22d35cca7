"""Whatever bytes a document or a line has, it comes back as it was; lines are cut into rows and put together again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman_cloudflare.d1_schema import HALF_BYTES, MERGED_BYTES
from asman_cloudflare.d1_texts import PART_CHARACTERS, from_text, gather, runs_of, to_text


@given(st.binary(max_size=64) | st.text(max_size=64).map(str.encode))
def test_bytes_come_back_as_they_were(data: bytes) -> None:
    text = to_text(data)
    assert from_text(text) == data
    assert "\0" not in text
    text.encode()


@pytest.mark.parametrize("data", [b"", b"=", b"==YQ", b'{"a":1}', "名前🦀".encode()])
def test_json_stands_as_it_is(data: bytes) -> None:
    text = to_text(data)
    assert from_text(text) == data
    assert (text.encode() == data) == (not data.startswith(b"="))


def rows_of(lines: list[bytes]) -> list[tuple[int, int, str | None]]:
    """As the database would have them, without adding to rows."""
    rows: list[tuple[int, int, str | None]] = []
    total = 0
    for run in runs_of(lines):
        first = total if run.part == 0 else rows[-1][0]
        total = first + run.count
        rows.append((first, run.part, run.text if run.size_bytes <= HALF_BYTES else None))
    return rows


_lines = st.lists(st.binary(max_size=20) | st.sampled_from([b"x" * (MERGED_BYTES // 2), b"y" * (PART_CHARACTERS + 7)]))


@given(_lines, st.integers(0, 5), st.integers(1, 2 * PART_CHARACTERS))
def test_lines_come_back_from_their_rows(lines: list[bytes], since: int, max_bytes: int) -> None:
    held = rows_of(lines)
    firsts = [first for first, _, _ in held if first <= since]
    held = [row for row in held if row[0] >= max(firsts, default=0)]
    start, found = gather(held, since, max_bytes)
    assert found == lines[since : since + len(found)]
    if since < len(lines):
        assert start == since
        assert found
        assert len(found) == 1 or sum(map(len, found)) <= max_bytes
    else:
        assert found == []


def test_a_gap_ends_what_is_read_at_once() -> None:
    assert gather([(0, 0, "a\nb"), (5, 0, "f")], 0, 100) == (0, [b"a", b"b"])
    assert gather([(5, 0, "f"), (6, 0, "g")], 3, 100) == (5, [b"f", b"g"])
    assert gather([(3, 0, None), (4, 0, "e")], 3, 100) == (4, [b"e"])


def test_a_line_that_no_half_holds_keeps_its_place_only() -> None:
    lines = [b"a", b"x" * (HALF_BYTES + 1), b"b"]
    assert [(run.count, run.size_bytes, len(run.text)) for run in runs_of(lines)] == [
        (1, 1, 1),
        (1, HALF_BYTES + 1, 0),
        (1, 1, 1),
    ]
