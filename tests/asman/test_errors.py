"""The tree of errors: codes that stay, statuses that are honest, a drawing that is true."""

from __future__ import annotations

import re

import pytest

from asman import errors
from asman.errors import AsmanError, BadDefinition, ConfigError, LimitExceeded, clip


def all_below(kind: type[AsmanError]) -> list[type[AsmanError]]:
    return [
        found
        for child in kind.__subclasses__()
        for found in (child, *all_below(child))
        if child.__module__ == errors.__name__
    ]


ERRORS = [AsmanError, *all_below(AsmanError)]
DRAWN = re.findall(r"^ +((?:[│ ]   )*)(?:[├└]── )?([A-Z]\w+)(?: +(\d{3}))?", errors.__doc__ or "", re.MULTILINE)


def test_each_code_belongs_to_one_error() -> None:
    assert len({kind.code for kind in ERRORS}) == len(ERRORS)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_has_a_slug_a_status_and_an_entry_in_all(kind: type[AsmanError]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert kind.status in range(400, 600)
    assert kind.__name__ in errors.__all__


@pytest.mark.parametrize(
    "kind", [k for k in ERRORS if not k.__subclasses__() and k is not ConfigError], ids=lambda k: k.__name__
)
def test_an_error_that_is_raised_says_what_to_do_next(kind: type[AsmanError]) -> None:
    assert kind("what happened").hint


def test_the_drawing_shows_every_error_once_below_its_parent() -> None:
    assert sorted(name for _, name, _ in DRAWN) == sorted(kind.__name__ for kind in ERRORS)
    path: list[str] = []
    for indent, name, _ in DRAWN:
        kind = getattr(errors, name)
        depth = 0 if kind is AsmanError else len(indent) // 4 + 1
        path[depth:] = [name]
        parents = [parent.__name__ for parent in kind.__mro__ if issubclass(parent, AsmanError)]
        assert path == parents[::-1]


def test_the_drawing_shows_the_status_where_it_changes() -> None:
    for _, name, status in DRAWN:
        if status:
            assert getattr(errors, name).status == int(status)
    told = {name for _, name, status in DRAWN if status}
    for kind in ERRORS[1:]:
        assert kind.__name__ in told or kind.status == kind.__mro__[1].status  # type: ignore[attr-defined]


def test_all_lists_exactly_what_the_module_defines() -> None:
    defined = {name for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__}
    assert set(errors.__all__) == defined


def test_an_error_carries_message_hint_and_places() -> None:
    error = BadDefinition("it is wrong", details=[("definition.image", "is missing")])
    assert str(error) == error.message == "it is wrong"
    assert error.details == (("definition.image", "is missing"),)
    assert error.hint == BadDefinition.hint
    assert BadDefinition("x", hint="do this").hint == "do this"


def test_a_limit_says_413_unless_it_is_on_a_member() -> None:
    assert LimitExceeded("x").status == 413
    assert LimitExceeded("x", status=422).status == 422
    assert LimitExceeded.status == 413


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("abc", '"abc"'),
        ("", '""'),
        ("x" * 81, '"' + "x" * 80 + '..."'),
        ("x" * 80, '"' + "x" * 80 + '"'),
        ("a\nb\x1b[31m\ud800", '"a?b?[31m?"'),
        (7, '"7"'),
        (None, '"None"'),
        (["a"], "\"['a']\""),
    ],
)
def test_a_callers_value_is_shown_short_and_harmless(value: object, shown: str) -> None:
    assert clip(value) == shown


def test_a_value_can_be_cut_shorter() -> None:
    assert clip("abcdef", 3) == '"abc..."'
