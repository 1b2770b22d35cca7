"""Secret values in text: found however the stream is cut, in base64 too, and nothing else is touched."""

from __future__ import annotations

import base64
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asman_worker.redact import Redactor

NAMED = [("A", "abcabd"), ("B", "abcabdabcabe"), ("C", "one\ntwo\nthree"), ("D", "aaaaaaaa"), ("E", "bdabcab")]
_PARTS = ("abcab", "one\ntwo\n", "aaaa", "a", "b", "c", "\n", "é", "x")
_PIECES = st.sampled_from([*(value for _, value in NAMED), *_PARTS])
TEXTS = st.lists(_PIECES, max_size=12).map("".join)


def _cut(text: str, places: list[int]) -> list[str]:
    marks = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in pairwise(marks)]


def _through(redactor: Redactor, pieces: list[str]) -> list[str]:
    stream = redactor.stream()
    out = [shown for piece in pieces for shown, _ in stream.feed(piece)]
    return out + [shown for shown, _ in stream.close()]


@given(TEXTS, st.lists(st.integers(0), max_size=12))
@example("abcabdabcab", [3])
@example("one\ntwo\nthree\n", [4, 8])
def test_any_cutting_gives_the_same_text_as_the_whole(text: str, places: list[int]) -> None:
    redactor = Redactor(NAMED)
    assert "".join(_through(redactor, _cut(text, places))) == redactor.text(text)


@given(TEXTS, st.lists(st.integers(0), max_size=12))
def test_no_value_comes_through_and_the_rest_stays(text: str, places: list[int]) -> None:
    shown = "".join(_through(Redactor(NAMED), _cut(text, places)))
    assert not [name for name, value in NAMED if value in shown]
    if not any(value in text for _, value in NAMED):
        assert shown == text


@given(st.text(min_size=6, max_size=40), st.binary(max_size=5), st.binary(max_size=5), st.lists(st.integers(0)))
def test_a_value_inside_of_base64_is_found_at_every_place(
    value: str, before: bytes, after: bytes, places: list[int]
) -> None:
    for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
        text = encode(before + value.encode() + after).decode()
        shown = "".join(_through(Redactor([("K", value)]), _cut(text, places)))
        assert "[secret K]" in shown
        left = shown.replace("[secret K]", "")
        assert len(left) <= len(text) - len(value.encode()) * 8 // 6 + 2


@given(st.text("abcdefgh0123456789", min_size=6, max_size=200), st.lists(st.integers(0)))
def test_exactly_the_base64_of_a_value_leaves_nothing(value: str, places: list[int]) -> None:
    redactor = Redactor([("K", value)])
    for data in (value.encode(), f"{value}\n".encode()):
        for text in (base64.b64encode(data).decode(), base64.encodebytes(data).decode()):
            assert "".join(_through(redactor, _cut(text, places))).strip() == "[secret K]"


def test_a_line_that_cannot_be_the_beginning_of_a_value_is_given_out_at_once() -> None:
    stream = Redactor([("K", "tok-123456")]).stream()
    assert stream.feed("hello tok-12\n", 1) == [("hello tok-12\n", 1)]
    assert stream.feed("hello tok-12", 2) == []
    assert stream.feed("345", 3) == []
    assert stream.feed("6 there\n", 4) == [("hello [secret K]", 2), (" there\n", 4)]


def test_what_turns_out_to_be_no_value_is_given_out_with_its_own_companion() -> None:
    stream = Redactor([("K", "tok-123456")]).stream()
    assert stream.feed("tok-", 1) == []
    assert stream.feed("other\n", 2) == [("tok-", 1), ("other\n", 2)]
    assert stream.feed("tok-1", 3) == []
    assert stream.close() == [("tok-1", 3)]
    assert stream.close() == []


def test_lines_of_a_value_of_several_lines_are_found_by_themselves_unless_they_are_short() -> None:
    redactor = Redactor([("KEY", "{\nfirst-long-line-of-it\nsecond-long-line-of-it\n}")])
    assert redactor.text("> second-long-line-of-it <") == "> [secret KEY] <"
    assert redactor.text("{\n}\n") == "{\n}\n"


def test_the_first_name_is_shown_for_a_value_that_has_two() -> None:
    assert Redactor([("B", "same-value"), ("A", "same-value")]).text("same-value") == "[secret B]"


@pytest.mark.parametrize("text", ["", "nothing here", "[secret K]"])
def test_without_secrets_nothing_is_touched(text: str) -> None:
    assert Redactor([]).text(text) == text
    assert _through(Redactor([]), [text]) == ([text] if text else [""])
