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
from asman_worker.runtime import KILLED, Exit

__all__ = [
    "CODES",
    "StepFailed",
    "code_of",
    "explain",
    "failure_report",
    "first_cause",
    "is_expected",
    "notes",
    "run_report",
]

CODES: Mapping[str, str] = {
    "bad_definition": "the definition cannot be run as it is",
    "limit_exceeded": "more was asked for, or sent as inputs, than the owner allows",
    "fetch_timed_out": "the inputs took longer than --fetch-limit",
    "pull_timed_out": "the image took longer than --pull-limit",
    "build_timed_out": "building the image took longer than --build-limit",
    "source_unavailable": "what an image is built from could not be fetched, or is not there",
    "build_failed": "a step of the image's build failed, or the engine refused it",
    "build_too_large": "building the image wrote more than --max-image",
    "build_unbounded": "the engine cannot keep the build's steps within limits",
    "upload_timed_out": "sending the outputs took longer than --upload-limit",
    "image_unavailable": "the registry or the engine refused the image",
    "image_too_large": "the image is larger than --max-image",
    "outputs_too_large": "/outputs met its limit of bytes or files; what fits is kept",
    "disk_limit": "the container wrote more outside of /outputs than --max-layer, or ate the machine's disk",
    "hash_mismatch": "an input is not what its hash says",
    "transfer_refused": "an address refused an input, or the server an output",
    "unavailable": "the server, an input's address or the container engine did not answer for too long",
    "container_lost": "the container was removed, or could not be ended",
    "engine_refused": "the container engine refused a request, such as a program that cannot be started",
    "worker_io_failed": "reading or writing on the worker's own disk or network failed",
    "internal_error": "a fault of the worker",
}
"""What ``errorCode`` in a result may be, and what it says; errors of the core have their own codes besides."""


class StepFailed(Exception):
    """A step of a job failed; the message is for its submitter, the code for programs."""

    def __init__(self, step: str, message: str, code: str = "internal_error") -> None:
        super().__init__(f"[asman] step {step} failed: {message}")
        self.step = step
        self.message = message
        self.code = code


def notes(end: Exit, *, limit_s: float, memory_bytes: int) -> Iterator[str]:
    """Lines that the worker adds to the log of a run that did not end with 0. A plain success adds none."""
    if end.timed_out:
        yield f"[asman] timed out: the container ran longer than {show_duration(limit_s)} and was stopped"
    elif end.oom_killed and end.code:
        limit = show_bytes(memory_bytes)
        yield f"[asman] out of memory: the container may use {limit}; ask for more with requirements.memory"
    elif end.code == KILLED:
        yield f"[asman] the container was killed after {show_duration(end.duration_s)}"
    if code := _status_code(end):
        yield f"[asman] exit code {code}"


def run_report(
    end: Exit,
    log: KeptLog,
    *,
    outputs: Mapping[str, Mapping[str, str]],
    skipped: tuple[tuple[str, str], ...] = (),
    failure: StepFailed | None = None,
    peak_memory_bytes: int = 0,
) -> dict[str, Any]:
    """The report of a container that ran to its end; ``failure`` is what went wrong in the run or afterwards.

    Units:  ``duration`` in milliseconds; ``peakMemoryBytes`` in bytes, left out if it is not known.
    """
    result: dict[str, Any] = {
        "StatusCode": _status_code(end),
        "logs": merge_lines(log.lines()),
        "duration": round(end.duration_s * 1000),
        "isTimedOut": end.timed_out,
        "outputs": dict(outputs),
    }
    if failure is not None:
        result |= _error_members(failure)
    if peak_memory_bytes:
        result["peakMemoryBytes"] = peak_memory_bytes
    if end.oom_killed:
        result["oomKilled"] = True
    if skipped:
        result["outputsSkipped"] = [{"name": name, "reason": reason} for name, reason in skipped]
    if log.dropped_bytes:
        result["logsDropped"] = log.dropped_bytes
    reason = Reason.TIMED_OUT if end.timed_out else Reason.ERROR if failure else Reason.SUCCESS
    outcome = Outcome.ERROR if reason is Reason.ERROR else _outcome(end)
    return {"reason": reason.value, "outcome": outcome.value, "result": result}


def failure_report(failure: StepFailed, log: KeptLog) -> dict[str, Any]:
    """The report of a job that did not get to an exit code.

    The outcome of a step that took too long is ``error``: ``timed_out`` says that the container's own time was over,
    which a longer ``maxDuration`` can mend. Which limit it was is told by ``errorCode``.
    """
    result = {"logs": merge_lines(log.lines()), **_error_members(failure), "isTimedOut": False, "outputs": {}}
    return {"reason": Reason.ERROR.value, "outcome": Outcome.ERROR.value, "result": result}


def _error_members(failure: StepFailed) -> dict[str, Any]:
    return {"error": str(failure), "errorCode": failure.code}


def _status_code(end: Exit) -> int:
    """A job that ended in its grace has been stopped all the same."""
    return KILLED if end.timed_out else end.code


def _outcome(end: Exit) -> Outcome:
    if end.timed_out:
        return Outcome.TIMED_OUT
    if end.code == KILLED and end.oom_killed:
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


def code_of(error: BaseException) -> str:
    """The stable slug of a failure's cause."""
    if isinstance(error, AsmanError):
        return error.code
    if isinstance(error, EngineError):
        return "engine_refused"
    return "worker_io_failed" if isinstance(error, (OSError, aiohttp.ClientError)) else "internal_error"


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
