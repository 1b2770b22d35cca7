"""Log lines cut into chunks and put together again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asman_redis.logs import chunks, gather

LINES = st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b" ")) | st.just(b"x" * 30_000), max_size=30)


def stored(lines: list[bytes]) -> list[tuple[int, bytes]]:
    first, found = 0, []
    for number, size_bytes, text in chunks(lines):
        assert size_bytes == sum(map(len, lines[first : first + number]))
        found.append((first, text))
        first += number
    assert first == len(lines)
    return found


@given(LINES, st.integers(0, 40))
def test_what_was_cut_comes_back_from_any_line_on(lines: list[bytes], since: int) -> None:
    since = min(since, len(lines))
    behind = [chunk for chunk in stored(lines) if chunk[0] + len(chunk[1].split(b"\n")) > since]
    start, taken = gather(behind, since, len(lines), 1 << 30)
    assert (start, taken) == (since, lines[since:])


@given(LINES, st.integers(0, 100))
def test_a_reader_gets_at_least_one_line_and_no_more_than_it_asked_for(lines: list[bytes], most: int) -> None:
    start, taken = gather(stored(lines), 0, len(lines), most)
    assert taken == lines[: len(taken)]
    assert len(taken) >= min(len(lines), 1)
    assert len(taken) <= 1 or sum(map(len, taken)) <= most
    assert start == 0


def test_lines_stop_before_a_gap_and_start_behind_one() -> None:
    found = [(0, b"a\nb"), (9, b"j\nk")]
    assert gather(found, 0, 11, 100) == (0, [b"a", b"b"])
    assert gather(found[1:], 5, 11, 100) == (9, [b"j", b"k"])
    assert gather([], 5, 11, 100) == (11, [])


def test_a_newline_within_a_line_becomes_white_space() -> None:
    assert list(chunks([b'["a",\n1]'])) == [(1, 8, b'["a", 1]')]
