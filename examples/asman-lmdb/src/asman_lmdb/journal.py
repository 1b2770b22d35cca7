"""An event plugin: one JSON line for every job that ended, appended to the file that ``ASMAN_JOURNAL`` names.

Without that variable nothing is written. A line names its queue, and whoever knows a queue's name may use the queue:
the file is made readable for its owner alone.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asman.errors import ConfigError, clip
from asman.hookspecs import hookimpl
from asman.job import Job, State

if TYPE_CHECKING:
    from asman.config import Config

__all__ = ["Journal", "asman_app_plugins"]


@hookimpl
def asman_app_plugins(config: Config) -> list[object]:
    """One journal for the app that starts. The environment is read here, not when the module is imported."""
    path = os.environ.get("ASMAN_JOURNAL", "")
    if not path:
        return []
    journal = Journal(Path(path))
    try:
        journal.write(b"")
    except OSError as error:
        raise ConfigError(f"ASMAN_JOURNAL is {clip(path)}, which cannot be written: {error.strerror}") from error
    return [journal]


class Journal:
    """The state of one app's plugin: here a path; elsewhere a client, a counter, a queue."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @hookimpl
    def asman_job_changed(self, job: Job, before: Job) -> Coroutine[Any, Any, None] | None:
        """Most steps end nothing: decide at once, and answer with a coroutine only where there is work."""
        if not before.is_active or job.state is not State.FINISHED:
            return None
        return self._note(job)

    async def _note(self, job: Job) -> None:
        line = json.dumps(
            {
                "at": job.finished_at or job.changed_at,
                "queue": job.queue,
                "job": job.job_id,
                "reason": job.reason,
                "outcome": job.outcome,
                "exit_code": job.exit_code,
                "worker": job.result_worker or job.worker,
                "attempt": job.attempt,
            }
        )
        await asyncio.to_thread(self.write, line.encode() + b"\n")

    def write(self, data: bytes) -> None:
        """Append in one call, so that lines of several servers on one file do not mix."""
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, data)
        finally:
            os.close(handle)
