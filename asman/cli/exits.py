"""Exit codes: the container's own where it ran to its end, and one number for each other way to end.

The numbers are those that shells, ``timeout`` and container tools use for the same things.
"""

from __future__ import annotations

from asman.errors import AsmanError, Unavailable
from asman.job import Outcome

__all__ = [
    "CANCELLED",
    "EXIT_CODES",
    "FAILURE",
    "NETWORK",
    "NOT_RUN",
    "OUT_OF_MEMORY",
    "STILL_RUNNING",
    "TIMED_OUT",
    "USAGE",
    "exit_codes_text",
    "exit_of_error",
    "exit_of_outcome",
]

FAILURE = 1
USAGE = 2
NETWORK = 69
STILL_RUNNING = 75
TIMED_OUT = 124
NOT_RUN = 125
CANCELLED = 130
OUT_OF_MEMORY = 137

EXIT_CODES = {
    0: "done; for run and wait: the container exited with 0",
    FAILURE: "something failed; the message says what",
    USAGE: "the command line is wrong",
    NETWORK: "the server cannot be reached, or cannot answer now",
    STILL_RUNNING: "--timeout passed; the job goes on",
    TIMED_OUT: "the job ran longer than it may",
    NOT_RUN: "the worker could not run the job, or was lost",
    CANCELLED: "the job was cancelled, replaced or deleted, or this command was interrupted",
    OUT_OF_MEMORY: "the job used more memory than it may",
}
"""``run`` and ``wait`` otherwise end with the container's own exit code."""


def exit_of_outcome(outcome: str, exit_code: int | None) -> int:
    """The code that ``run`` and ``wait`` end with. A container that failed always gives a code other than 0."""
    match outcome:
        case Outcome.SUCCEEDED:
            return 0
        case Outcome.FAILED:
            return exit_code if exit_code is not None and 0 < exit_code < 256 else FAILURE
        case Outcome.TIMED_OUT:
            return TIMED_OUT
        case Outcome.OUT_OF_MEMORY:
            return OUT_OF_MEMORY
        case Outcome.CANCELLED | Outcome.REPLACED | Outcome.DELETED:
            return CANCELLED
    return NOT_RUN


def exit_of_error(error: AsmanError) -> int:
    return NETWORK if isinstance(error, Unavailable) else FAILURE


def exit_codes_text() -> str:
    """The table as it stands at the end of ``asman --help``."""
    rows = "\n".join(f"  {code:>3}  {text}" for code, text in EXIT_CODES.items())
    return f"\b\nExit codes (run and wait otherwise end with the container's own):\n{rows}"
