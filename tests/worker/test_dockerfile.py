"""Reading a Dockerfile as engines do, and writing it out so that there is one way to read it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman.errors import BadDefinition
from asman_worker.dockerfile import parse, render


def read(text: str) -> list[tuple[int, str, str]]:
    return [(i.line, i.keyword, i.rest) for i in parse(text).instructions]


def test_comments_blank_lines_and_case_are_the_authors_business() -> None:
    text = "# a comment\n\n  from alpine:3.19.1  \n# another\nRun\techo hi\r\n"
    assert read(text) == [(3, "FROM", "alpine:3.19.1"), (5, "RUN", "echo hi")]


def test_a_continued_instruction_is_one_line_without_its_comments() -> None:
    text = "FROM a\nRUN one && \\\n  # why\n\n  two \\ \n  three\nUSER me\n"
    assert read(text) == [(1, "FROM", "a"), (2, "RUN", "one &&   two   three"), (7, "USER", "me")]


def test_the_escape_character_may_be_a_backtick() -> None:
    file = parse("# escape=`\nFROM a\nRUN dir `\n  C:\\\n")
    assert file.escape == "`"
    assert file.instructions[1].rest == "dir   C:\\"
    assert render(file).startswith("# escape=`\n")


def test_a_directive_after_anything_else_is_a_comment() -> None:
    assert parse("\n# syntax=evil/frontend\nFROM a\n").syntax == ""
    assert parse("# syntax=evil/frontend\nFROM a\n").syntax == "evil/frontend"
    assert "syntax" not in render(parse("# syntax=evil/frontend\nFROM a\n"))


def test_here_documents_hold_no_instructions() -> None:
    file = parse("FROM a\nRUN <<EOF cat <<-'two'\nFROM b\nEOF\n\tRUN c\n\ttwo\nUSER me\n")
    assert [i.keyword for i in file.instructions] == ["FROM", "RUN", "USER"]
    first, second = file.instructions[1].heredocs
    assert (first.lines, first.strips_tabs, second.lines, second.strips_tabs) == (
        ("FROM b",),
        False,
        ("\tRUN c",),
        True,
    )


@pytest.mark.parametrize("text", ["FROM a\nRUN cat <<< EOF\n", "FROM a\nRUN echo 1<<2\n", "FROM a\nENV X=<<EOF\n"])
def test_what_only_looks_like_a_here_document_is_none(text: str) -> None:
    assert not parse(text).instructions[1].heredocs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FROM a\nINCLUDE b\n", "line 2 .*INCLUDE"),
        ("FROM\u00a0a\n", "line 1"),
        ("FROM a\nRUN <<EOF\necho\n", "line 2 .*never ends"),
        ("FROM a\nRUN echo \\\\\n", "line 2 .*ends with"),
        ("FROM a\nRUN echo \\\f\nFROM b\n", "line 2 .*ends with"),
        ("# escape=x\nFROM a\n", "escape"),
        ("FROM a\n" + "USER b\n" * 1001, "1000 instructions"),
        ("#" * (1 << 20) + "\nFROM a\n", "1 MiB"),
    ],
)
def test_what_cannot_be_read_for_certain_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadDefinition, match=words):
        parse(text)


def test_an_instruction_too_long_for_engines_is_refused_with_a_way_out() -> None:
    with pytest.raises(BadDefinition, match="line 2") as caught:
        render(parse("FROM a\nRUN " + "x" * 70_000))
    assert "script" in caught.value.hint


def test_instructions_keep_their_lines_where_nothing_is_in_the_way() -> None:
    text = "FROM a\n\n# c\nRUN one \\\n  two\nUSER me\n"
    assert render(parse(text), [("k", "v")]).split("\n") == [
        *("FROM a", 'LABEL k="v"', "", "RUN one   two", "", "USER me", ""),
    ]


PIECES = st.lists(
    st.sampled_from(
        ["FROM a", "RUN b", " ", "\\", "\\\\", "\n", "\r\n", "\r", "\f", "\v", "#", "# escape=`", "`", "<<E", "E", "\t"]
    ),
    max_size=24,
).map("".join)


@given(PIECES)
def test_what_is_written_is_read_as_what_was_read(text: str) -> None:
    try:
        first = parse(text)
    except BadDefinition:
        return
    second = parse(render(first))
    assert [(i.keyword, i.rest, i.heredocs) for i in second.instructions] == [
        (i.keyword, i.rest, i.heredocs) for i in first.instructions
    ]


@given(PIECES)
def test_no_written_line_is_continued_on_the_next(text: str) -> None:
    try:
        file = parse(text)
    except BadDefinition:
        return
    if any(i.heredocs for i in file.instructions):
        return
    for line in render(file).split("\n"):
        assert not line.rstrip(" \t\r\f\v").endswith(file.escape) or line == "# escape=`"
