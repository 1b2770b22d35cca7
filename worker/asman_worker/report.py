"""What a job's report says: the words, the outcome, and the failure of a step. Pure.

The wire calls every exit code a ``Success``; ``outcome`` beside it tells the truth.

Source: contract, "Lines added by the worker" and "Finish message" (the decision table).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp

from asman.errors import AsmanError
from asman.job import Outcome, Reason
from asman.units import show_bytes, show_duration
from asman_worker.docker import EngineError
from asman_worker.logs import KeptLog, merge_lines
from asman_worker.runtime import Exit

__all__ = ["StepFailed", "explain", "failure_report", "first_cause", "is_expected", "notes", "run_report"]

_KILLED = 137


class StepFailed(Exception):
    """A step of a job failed; the message is for its submitter."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(f"[asman] step {step} failed: {message}")
        self.step = step
        self.message = message


def notes(end: Exit, *, limit_s: float, memory_bytes: int) -> Iterator[str]:
    """Lines that the worker adds to the log of a run that did not end with 0. A plain success adds none."""
    if end.timed_out:
        yield f"[asman] timed out: the container ran longer than {show_duration(limit_s)} and was stopped"
    elif end.oom_killed and end.code:
        limit = show_bytes(memory_bytes)
        yield f"[asman] out of memory: the container may use {limit}; ask for more with requirements.memory"
    elif end.code == _KILLED:
        yield f"[asman] the container was killed after {show_duration(end.duration_s)}"
    if code := _status_code(end):
        yield f"[asman] exit code {code}"


def run_report(
    end: Exit,
    log: KeptLog,
    *,
    outputs: Mapping[str, Mapping[str, str]],
    skipped: tuple[tuple[str, str], ...] = (),
    error: str = "",
) -> dict[str, Any]:
    """The report of a container that ran to its end; ``error`` is what went wrong afterwards.

    Units:  ``duration`` in milliseconds.
    """
    result: dict[str, Any] = {
        "StatusCode": _status_code(end),
        "logs": merge_lines(log.lines()),
        "duration": round(end.duration_s * 1000),
        "isTimedOut": end.timed_out,
        "outputs": dict(outputs),
    }
    if error:
        result["error"] = error
    if end.oom_killed:
        result["oomKilled"] = True
    if skipped:
        result["outputsSkipped"] = [{"name": name, "reason": reason} for name, reason in skipped]
    if log.dropped_bytes:
        result["logsDropped"] = log.dropped_bytes
    reason = Reason.TIMED_OUT if end.timed_out else Reason.ERROR if error else Reason.SUCCESS
    outcome = Outcome.ERROR if reason is Reason.ERROR else _outcome(end)
    return {"reason": reason.value, "outcome": outcome.value, "result": result}


def failure_report(failure: StepFailed, log: KeptLog) -> dict[str, Any]:
    """The report of a job that did not get to an exit code."""
    result = {"logs": merge_lines(log.lines()), "error": str(failure), "isTimedOut": False, "outputs": {}}
    return {"reason": Reason.ERROR.value, "outcome": Outcome.ERROR.value, "result": result}


def _status_code(end: Exit) -> int:
    """A job that ended in its grace has been stopped all the same."""
    return _KILLED if end.timed_out else end.code


def _outcome(end: Exit) -> Outcome:
    if end.timed_out:
        return Outcome.TIMED_OUT
    if end.code == _KILLED and end.oom_killed:
        return Outcome.OUT_OF_MEMORY
    return Outcome.FAILED if end.code else Outcome.SUCCEEDED


def first_cause(error: BaseException) -> BaseException:
    """The first of several failures that happened at once."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def is_expected(error: BaseException) -> bool:
    """Is this the world's fault (or the job's), and not a fault of this program?"""
    return isinstance(error, (AsmanError, EngineError, aiohttp.ClientError, OSError))


def explain(error: BaseException) -> str:
    """One sentence for the submitter, without this machine's paths where they can be avoided."""
    if isinstance(error, AsmanError):
        return f"{error.message} ({error.hint})" if error.hint else error.message
    if isinstance(error, EngineError):
        text = f"the container engine answered {error.status}: {error.message}"
        if "bind source path does not exist" in error.message:
            text += " (the worker's data directory must have the same path for the engine as for the worker)"
        return text
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
