"""Whether this worker takes jobs at the moment, and if not, why. What runs goes on either way.

Several parts may each have a reason to wait: the owner, who drains the machine by a signal, or a disk that is nearly
full. Jobs are taken when none of them has one left. Leaving for good is not decided here (``process``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

__all__ = ["BY_OWNER", "Intake"]

_log = logging.getLogger(__name__)

BY_OWNER = "drained by its owner"
"""The reason that a signal sets and lifts."""


class Intake:
    """The reasons why no jobs are taken. A reason is a constant text: it is shown to the owner, never to a server."""

    def __init__(self) -> None:
        self._reasons: dict[str, None] = {}
        self._listeners: list[Callable[[], None]] = []

    @property
    def is_open(self) -> bool:
        return not self._reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """The oldest first."""
        return tuple(self._reasons)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have it called after each change; it must not block."""
        self._listeners.append(listener)

    def hold(self, reason: str) -> None:
        """Take no more jobs until ``release`` is called with the same reason. Repeating it is harmless."""
        if reason not in self._reasons:
            self._reasons[reason] = None
            _log.info("no more jobs are taken", extra={"reason": reason})
            self._tell()

    def release(self, reason: str) -> None:
        """This reason is gone. Repeating it is harmless."""
        if reason in self._reasons:
            del self._reasons[reason]
            _log.info("jobs are taken again" if self.is_open else "jobs still wait", extra={"was": reason})
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
