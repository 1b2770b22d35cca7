"""Values are told by what tells them apart, and never by a screen full of members."""

from __future__ import annotations

from dataclasses import replace

from asman.errors import Conflict
from asman.job import State
from asman.testing import make_job
from asman.testing.telling import differences, promise_of, show, show_call, tell
from asman.testing.watching import Call

JOB = make_job("q", "ab12cd" + "0" * 58)


def test_promise_is_the_docstring_or_else_the_name() -> None:
    assert promise_of("``save`` keeps\n    it.", "test_x") == "save keeps it."
    assert promise_of(None, "test_keys_are_two[a]") == "keys are two"


def test_values_are_short() -> None:
    assert show(JOB) == "<ab12cd Queued v1 queued_at=1700000000.000 due_at=4000000000.000>"
    assert show(State.QUEUED) == "Queued"
    assert show(JOB.job_id) == "'ab12cd...'"
    assert show(b"x" * 100) == f"{b'x' * 40!r}... (100 bytes)"
    assert show(list(range(9))) == "[0, 1, 2, 3, 4, 5, ... (9 in all)]"
    assert show((State.RUNNING, 1)) == "(Running, 1)"
    assert len(show("x" * 1000)) < 100
    assert show_call(Call("load", ("q",), {"limit": 2})) == "load('q', limit=2)"


def test_differences_name_members_missing_extra_and_order() -> None:
    other = replace(JOB, version=2)
    assert differences(JOB, other) == ["version is 1, expected 2"]
    assert differences([JOB], [JOB, other])[0].startswith("1 missing: [<ab12cd Queued v2")
    assert differences([JOB], [])[0].startswith("1 that should not be there: [<ab12cd")
    assert differences([JOB, other], [other, JOB])[0].startswith("another order: entry 0 is <ab12cd Queued v1")
    assert differences([JOB, JOB], [JOB]) == ["2 entries, expected 1"]
    assert differences({"a": 1}, {"a": 2, "b": 3}) == ["'a': 1, expected 2", "'b': None, expected 3"]
    assert differences(1, 2) == []


def test_comparison_and_call_are_told_line_by_line() -> None:
    told = tell("a promise", AssertionError("why\nassert 1 == 2"), compared=("==", 1, 2), call=Call("due", (1.0,), {}))
    assert told.splitlines() == [
        "promise   a promise",
        "called    due(1.0)",
        "because   why",
        "happened  1",
        "expected  2",
    ]
    assert "happened  not so: 3 <= 2" in tell("p", AssertionError("assert 3 <= 2"), compared=("<=", 3, 2))


def test_error_of_the_backend_is_told_with_its_kind() -> None:
    told = tell("p", Conflict("the other was first"))
    assert "happened  asman.errors.Conflict was raised: the other was first" in told
