"""What is needed to take a running container up again after a restart: its definition, and how far its log got.

One file for each attempt is written before its container is made and removed when its report is in the outbox. Without
it a container that is found says which job it is, but not what was asked.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asman.messages import encode
from asman_worker.log_stream import Progress
from asman_worker.outbox import Key, drop_drafts, file_stem, write_durably

__all__ = ["Shelf", "ShelvedJob"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelvedJob:
    """Units: ``since`` in seconds since the epoch."""

    queue: str
    job_id: str
    attempt: int
    protocol: int
    since: float
    definition: Mapping[str, Any]

    @property
    def key(self) -> Key:
        return self.queue, self.job_id, self.attempt


class Shelf:
    """The jobs that this worker had started, in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self) -> dict[Key, ShelvedJob]:
        """What an earlier run left. A file that cannot be read is dropped: its job is simply run again."""
        self._directory.mkdir(parents=True, exist_ok=True)
        drop_drafts(self._directory)
        found: dict[Key, ShelvedJob] = {}
        for file in self._directory.glob("*.json"):
            try:
                job = ShelvedJob(**json.loads(file.read_bytes()))
                found[job.key] = job
            except (OSError, ValueError, TypeError) as error:
                _log.warning("a note about a held job cannot be read", extra={"file": file, "reason": error})
                file.unlink(missing_ok=True)
        known = {self._file(key, "progress") for key in found}
        for progress in set(self._directory.glob("*.progress")) - known:
            progress.unlink(missing_ok=True)
        return found

    async def put(self, job: ShelvedJob) -> None:
        """Errors: OSError; without the note a restart could not take the job up again, so it is not started."""
        await asyncio.to_thread(write_durably, self._file(job.key, "json"), encode(asdict(job)))

    def remove(self, key: Key) -> None:
        """Drop the note; an unknown key is no error."""
        try:
            self._file(key, "json").unlink(missing_ok=True)
            self._file(key, "progress").unlink(missing_ok=True)
        except OSError as error:
            _log.warning("a note about a held job could not be removed", extra={"job": key[1], "reason": error})

    def progress(self, key: Key) -> Progress:
        """How far the log of an attempt got; nothing known counts as nothing sent, and repeats are dropped."""
        try:
            return Progress(**json.loads(self._file(key, "progress").read_bytes()))
        except (OSError, ValueError, TypeError):
            return Progress()

    def note_progress(self, key: Key, progress: Progress) -> None:
        """Not flushed to the disk: after a power cut there is no container to go on with."""
        try:
            draft = self._file(key, "progress.part")
            draft.write_bytes(encode(asdict(progress)))
            draft.replace(self._file(key, "progress"))
        except OSError as error:
            _log.warning("the progress of a log could not be noted", extra={"job": key[1], "reason": error})

    def _file(self, key: Key, kind: str) -> Path:
        return self._directory / f"{file_stem(key)}.{kind}"
