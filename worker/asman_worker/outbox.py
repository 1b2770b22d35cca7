"""Reports that the server has not answered yet, on disk: one file for each attempt.

A report is written here before it is first sent, and leaves when the server has accepted or refused it, however many
connections, restarts and days that takes. Sending it twice is harmless, losing it would run the job again. The file is
written beside its name, flushed, renamed, and the directory flushed, so it is whole or absent.

If the disk refuses, the report is kept in memory and sent all the same: a full disk must not cost a finished job.

Source: promises P3 and P4; published finish message.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from asman.messages import encode

__all__ = ["Key", "Outbox", "Report", "file_stem", "fit_report", "write_durably", "drop_drafts"]

_log = logging.getLogger(__name__)

Key = tuple[str, str, int]
"""(queue, job id, attempt)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How one attempt ended.

    Shape:  ``value`` is the wire's finished value. ``protocol`` 1: the attempt is this worker's own count, which the
            server does not know and is not told.
    """

    queue: str
    job_id: str
    attempt: int
    protocol: int
    worker: str
    value: Mapping[str, Any]

    @property
    def key(self) -> Key:
        return self.queue, self.job_id, self.attempt

    def payload(self) -> dict[str, Any]:
        """The StateChange that carries it."""
        change = {"job": self.job_id, "tag": self.worker, "state": "Finished", "value": self.value}
        return change if self.protocol < 2 else {**change, "attempt": self.attempt}


def file_stem(key: Key) -> str:
    """A file name for an attempt; queue names may hold any character, so they are hashed."""
    queue, job_id, attempt = key
    return f"{sha256(queue.encode(errors='surrogatepass')).hexdigest()[:16]}-{_safe(job_id)}-{attempt}"


def _safe(job_id: str) -> str:
    plain = len(job_id) <= 128 and job_id.isascii() and job_id.isalnum()
    return job_id if plain else sha256(job_id.encode(errors="surrogatepass")).hexdigest()


def write_durably(file: Path, data: bytes) -> None:
    """Write a whole file or nothing, and return when it would survive a power cut. Errors: OSError."""
    draft = file.with_suffix(".part")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
    _flush_directory(file.parent)


def drop_drafts(directory: Path) -> None:
    """Remove what a process left half written; only the owner of the directory may call it, at its start."""
    for draft in directory.glob("*.part"):
        draft.unlink(missing_ok=True)


def _flush_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Outbox:
    """The reports of one worker, over all its queues."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._reports: dict[Key, Report] = {}

    def load(self) -> None:
        """Read what an earlier run left. A file that cannot be read is set aside, never deleted."""
        self._directory.mkdir(parents=True, exist_ok=True)
        drop_drafts(self._directory)
        for file in sorted(self._directory.glob("*.json")):
            try:
                report = Report(**json.loads(file.read_bytes()))
                self._reports[report.key] = report
            except (OSError, ValueError, TypeError) as error:
                _log.error("an unsent report cannot be read and is set aside", extra={"file": file, "reason": error})
                file.replace(file.with_suffix(".unreadable"))

    def __contains__(self, key: Key) -> bool:
        return key in self._reports

    def __len__(self) -> int:
        return len(self._reports)

    def get(self, key: Key) -> Report | None:
        return self._reports.get(key)

    def pending(self, queue: str) -> tuple[Report, ...]:
        """Unanswered reports of a queue, oldest first."""
        return tuple(report for key, report in self._reports.items() if key[0] == queue)

    def find(self, queue: str, job_id: str) -> Report | None:
        """The newest unanswered report of a job."""
        found = [report for report in self.pending(queue) if report.job_id == job_id]
        return max(found, key=lambda report: report.attempt) if found else None

    async def put(self, report: Report) -> None:
        """Keep a report. It is on disk when this returns, or the log says why it is not."""
        self._reports[report.key] = report
        try:
            await asyncio.to_thread(write_durably, self._file(report.key), encode(asdict(report)))
        except OSError as error:
            _log.error(
                "a report could not be written to disk and is kept in memory only",
                extra={"job": report.job_id, "queue": report.queue, "reason": error},
            )

    async def remove(self, key: Key) -> None:
        """The server has answered; an unknown key is no error."""
        if self._reports.pop(key, None) is None:
            return
        try:
            await asyncio.to_thread(self._file(key).unlink, missing_ok=True)
        except OSError as error:  # it is sent once more after a restart, which is harmless
            _log.warning("an answered report could not be removed", extra={"job": key[1], "reason": error})

    def _file(self, key: Key) -> Path:
        return self._directory / f"{file_stem(key)}.json"


def fit_report(payload: dict[str, Any], max_bytes: int) -> dict[str, Any]:
    """Cut the middle out of a report's log until its frame is at most ``max_bytes`` long.

    Shape:  where lines are missing one line says how many bytes; everything else stays as it is, even if that alone is
            too long.
    Source: promises P9: what is dropped is said.
    """
    size = len(encode(payload))
    value = payload.get("value")
    result = value.get("result") if isinstance(value, dict) else None
    logs = result.get("logs") if isinstance(result, dict) else None
    if size <= max_bytes or not isinstance(value, dict) or not isinstance(result, dict) or not logs:
        return payload
    sizes = [len(encode(line)) + 1 for line in logs]
    budget = max(max_bytes - (size - sum(sizes)) - 256, 0) // 2
    head = _count_within(sizes, budget)
    tail = _count_within(sizes[:head:-1], budget)
    dropped = sum(sizes[head : len(sizes) - tail])
    stamp = logs[min(head, len(logs) - 1)][1]
    note = [f"[{dropped} bytes of log are left out: the server takes frames of {max_bytes} bytes]\n", stamp, True]
    kept = [*logs[:head], note, *logs[len(logs) - tail :]]
    return {**payload, "value": {**value, "result": {**result, "logs": kept}}}


def _count_within(sizes: list[int], budget: int) -> int:
    """How many leading entries fit."""
    count = 0
    for size in sizes:
        budget -= size
        if budget < 0:
            break
        count += 1
    return count
