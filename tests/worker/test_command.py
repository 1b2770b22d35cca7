"""The argv grammar: the published table, then what it implies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asman.errors import BadDefinition
from asman_worker.command import container_argv, needs_shell, split_words

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "argv.json").read_text())["argv"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["text"])
def test_published_vector_is_met(vector: dict[str, Any]) -> None:
    assert split_words(vector["text"], vector["env"]) == vector["argv"]


def test_the_published_table_is_complete() -> None:
    assert len(VECTORS) >= 16


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('echo "abc', ["echo", "abc"]),
        ("a'b'\"c\"d", ["abcd"]),
        ("echo 'a\nb'", ["echo", "a\nb"]),
        ("one\n two\tthree", ["one", "two", "three"]),
        (r'echo "a\"b\\c\$d\n"', ["echo", 'a"b\\c$d\\n']),
        (r"echo \*\?", ["echo", "*?"]),
        (r"echo a\;b", ["echo", "a;b"]),
        ("echo '$X' \"$X\"", ["echo", "$X", "1"]),
        ("echo $", ["echo", "$"]),
        ("echo $X$X-$X", ["echo", "11-1"]),
        ("echo $$abc", ["echo", "abc"]),
        ("echo $_Y", ["echo", "2"]),
        ("echo '*.txt' \"a|b\"", ["echo", "*.txt", "a|b"]),
        ("ünï cödé", ["ünï", "cödé"]),
    ],
)
def test_words_follow_the_quoting_rules(text: str, words: list[str]) -> None:
    assert split_words(text, {"X": "1", "_Y": "2"}) == words


@pytest.mark.parametrize(
    "text",
    ["a||b", "a&&b", "a;;b", "a|&b", "a<(b)", "a<<<b", "a>>b", "a>&b", "a<&b", "a&", "a;", "(a)", "a|b", "<a", ">a"],
)
def test_every_control_operator_keeps_the_text_whole(text: str) -> None:
    assert split_words(text, {}) == [text]
    assert needs_shell(text, {})


def test_a_value_with_an_operator_in_it_is_not_read_again() -> None:
    assert split_words("echo $X", {"X": "a;b *"}) == ["echo", "a;b *"]


@pytest.mark.parametrize("text", ["echo ${X", "echo ${}", 'echo "${X"'])
def test_a_malformed_brace_is_refused(text: str) -> None:
    with pytest.raises(BadDefinition, match="malformed"):
        split_words(text, {})


def test_shell_text_runs_in_a_shell_where_nothing_has_an_entrypoint() -> None:
    assert container_argv("ls | wc -l", None, {}) == (("/bin/sh", "-c", "ls | wc -l"), None)


def test_shell_text_is_handed_over_whole_to_an_entrypoint() -> None:
    assert container_argv("ls | wc -l", "sh -c", {}) == (("ls | wc -l",), ("sh", "-c"))
    assert container_argv("ls | wc -l", None, {}, image_has_entrypoint=True) == (("ls | wc -l",), None)


def test_plain_text_never_gets_a_shell() -> None:
    assert container_argv("ls -la", None, {}) == (("ls", "-la"), None)


def test_arrays_pass_unchanged() -> None:
    assert container_argv(["a b", "$X", "|"], ["/e"], {"X": "1"}) == (("a b", "$X", "|"), ("/e",))


@pytest.mark.parametrize("empty", [None, "", "  ", []])
def test_an_empty_value_leaves_the_image_its_own(empty: Any) -> None:
    assert container_argv(empty, empty, {}) == (None, None)


@pytest.mark.parametrize("value", [7, {"a": 1}, [1], ["a", None], True])
def test_other_values_are_refused_by_name(value: Any) -> None:
    with pytest.raises(BadDefinition, match=r"definition\.command"):
        container_argv(value, None, {})


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12), max_size=6))
def test_single_quoted_words_come_back(words: list[str]) -> None:
    """But for a backslash before a quote: in the published grammar it keeps the quote from closing."""
    assume(not any(word.endswith("\\") or "\\'" in word for word in words))
    text = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    assert split_words(text, {}) == words


@given(st.text(max_size=60))
def test_any_text_is_split_or_refused_but_never_breaks(text: str) -> None:
    try:
        words = split_words(text, {"A": "x"})
    except BadDefinition:
        return
    assert all(isinstance(word, str) for word in words)
