"""What a failed test of the exam says to the author of the backend: the promise, the call, what came and what was due.

A record has thirty members and a list of them fills a screen, so values are told by what tells them apart.
"""

from __future__ import annotations

import ast
import re
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from asman.job import Job
from asman.testing.watching import Call

__all__ = ["Compared", "differences", "promise_of", "show", "show_call", "tell"]

Compared = tuple[str, Any, Any]
"""An operator and the two values that it was asked about; what the backend gave stands left."""

_KITS = Path(__file__).parent
_WATCHER = "watching.py"
_HASH = re.compile(r"[0-9a-f]{64}")
_CUT = 160
_MANY = 6
_ASKED = {"==": "", "is": "", "in": "one of"}


def tell(
    promise: str,
    error: BaseException,
    *,
    compared: Compared | None = None,
    call: Call | None = None,
) -> str:
    """One label and text per line: ``promise``, ``called``, ``because``, ``happened``, ``expected``, ``asked``, ``at``.

    Shape:  ``compared`` is the comparison that failed, ``call`` the last one of the backend's methods.
    """
    told = [("promise", promise)]
    if call is not None:
        told.append(("called", show_call(call)))
    told += _happened(error, compared, call)
    steps = [step for note in getattr(error, "__notes__", ()) for step in _steps(note)]
    told += [("steps" if number == 0 else "", step) for number, step in enumerate(steps[-_MANY:])]
    told += _places(error)
    return "\n".join(f"{label:<10}{text}" for label, text in told)


def promise_of(doc: str | None, name: str) -> str:
    """The docstring of the test in one line; without one, its name."""
    plain = name.partition("[")[0].removeprefix("test_").replace("_", " ")
    return " ".join(doc.replace("``", "").split()) if doc else plain


# --- what happened ---------------------------------------------------------------------------------------------------


def _happened(error: BaseException, compared: Compared | None, call: Call | None) -> list[tuple[str, str]]:
    if isinstance(error, pytest.fail.Exception) and "DID NOT RAISE" in str(error):
        answer = "" if call is None or call.raised is not None else f"; {call.method}() returned {show(call.answer)}"
        return [("happened", f"nothing was raised{answer}"), ("expected", f"{_refusal(str(error))} is raised")]
    if not isinstance(error, AssertionError):
        raised = f"{_kind(error)} was raised: {_cut(str(error))}"
        return [("happened", raised), ("expected", "an answer, or an error of asman.errors that the contract names")]
    text = str(error).split("\nassert ")[0].strip()
    said = "" if text.startswith("assert ") else _cut(text)
    if compared is None:
        return [("happened", said or "the condition below does not hold")]
    operator, found, wanted = compared
    told = [("because", said)] if said else []
    if operator not in _ASKED:
        return [*told, ("happened", f"not so: {show(found)} {operator} {show(wanted)}")]
    told += [("happened", show(found)), ("expected", f"{_ASKED[operator]} {show(wanted)}".strip())]
    if operator == "==":
        told += [("differs", line) for line in differences(found, wanted)[:_MANY]]
    return told


def _refusal(text: str) -> str:
    """What ``pytest.raises`` waited for, out of its message."""
    return text.partition("DID NOT RAISE ")[2].removeprefix("<class '").removesuffix("'>")


def _kind(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _steps(note: str) -> list[str]:
    """The steps of a random test that led to the fault, as hypothesis notes them with the error."""
    lines = [line.strip() for line in note.splitlines()]
    steps = [line.removeprefix("state.") for line in lines if line.startswith("state.")]
    return [_cut(step) for step in steps if not step.startswith(("teardown(", "counts_are_true("))]


def _places(error: BaseException) -> list[tuple[str, str]]:
    """The statement of the kit, where it stands, and where in the backend if that is what raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name != _WATCHER]
    ours = [number for number, frame in enumerate(frames) if Path(frame.filename).parent == _KITS]
    if not ours:
        return []
    kit = frames[ours[-1]]
    told = [("asked", _statement(kit.filename, kit.lineno or 0)), ("at", f"{kit.filename}:{kit.lineno}")]
    behind = frames[ours[-1] + 1 :]
    if behind and not isinstance(error, (AssertionError, pytest.fail.Exception)):
        told.append(("raised in", f"{behind[-1].filename}:{behind[-1].lineno}, {behind[-1].name}"))
    return told


def _statement(filename: str, line: int) -> str:
    """The smallest statement that holds this line, in one line."""
    source = Path(filename).read_text()
    holding = [
        n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.stmt) and n.lineno <= line <= (n.end_lineno or 0)
    ]
    smallest = min(holding, key=lambda n: (n.end_lineno or 0) - n.lineno)
    return _cut(ast.get_source_segment(source, smallest) or "", 240)


# --- values ----------------------------------------------------------------------------------------------------------


def differences(found: Any, wanted: Any) -> list[str]:
    """How two values differ, in a few lines; none where one look at both says it."""
    if type(found) is type(wanted) and is_dataclass(found):
        return [
            f"{f.name} is {show(getattr(found, f.name))}, expected {show(getattr(wanted, f.name))}"
            for f in fields(found)
            if getattr(found, f.name) != getattr(wanted, f.name)
        ]
    if isinstance(found, list) and isinstance(wanted, list):
        return _list_differences(found, wanted)
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        names = [*wanted, *(name for name in found if name not in wanted)]
        return [
            f"{show(name)}: {show(found.get(name))}, expected {show(wanted.get(name))}"
            for name in names
            if found.get(name) != wanted.get(name)
        ]
    return []


def _list_differences(found: list[Any], wanted: list[Any]) -> list[str]:
    missing = [value for value in wanted if value not in found]
    extra = [value for value in found if value not in wanted]
    told = [f"{len(missing)} missing: {show(missing)}"] if missing else []
    told += [f"{len(extra)} that should not be there: {show(extra)}"] if extra else []
    if told:
        return told
    at = next((n for n, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), None)
    if at is None:
        return [f"{len(found)} entries, expected {len(wanted)}"]
    return [f"another order: entry {at} is {show(found[at])}, expected {show(wanted[at])}"]


def show(value: Any) -> str:
    """A value in at most a line; a record by its id, state, version and what stores order it by."""
    if isinstance(value, Job):
        times = f"queued_at={value.queued_at:.3f} due_at={value.due_at:.3f}"
        return f"<{value.job_id[:6]} {value.state} v{value.version} {times}>"
    if isinstance(value, bytes):
        return _cut(repr(value[:40])) + (f"... ({len(value)} bytes)" if len(value) > 40 else "")
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, str):
        return f"'{value[:6]}...'" if _HASH.fullmatch(value) else _cut(repr(str(value)), 60)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{show(name)}: {show(entry)}" for name, entry in list(value.items())[:_MANY])
        return f"{{{inner}{_more(value)}}}"
    if isinstance(value, (list, tuple, set, frozenset)):
        return _show_many(value)
    if is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}({', '.join(f'{f.name}={show(getattr(value, f.name))}' for f in fields(value))})"
    return _cut(repr(value))


def _show_many(value: Collection[Any]) -> str:
    left, right = {list: ("[", "]"), tuple: ("(", ")")}.get(type(value), ("{", "}"))
    return f"{left}{', '.join(show(entry) for entry in list(value)[:_MANY])}{_more(value)}{right}"


def _more(value: Collection[Any]) -> str:
    return f", ... ({len(value)} in all)" if len(value) > _MANY else ""


def show_call(call: Call) -> str:
    """A call as it would be written, with values cut short."""
    given: Sequence[str] = [show(value) for value in call.args]
    named = [f"{name}={show(value)}" for name, value in call.kwargs.items()]
    return f"{call.method}({', '.join([*given, *named])})"


def _cut(text: str, limit: int = _CUT) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]}..."
