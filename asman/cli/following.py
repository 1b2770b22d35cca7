"""From a submitted job to its end: its log as it comes, why it waits, how it ended, its outputs on disk."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from asman.cli.exits import STILL_RUNNING, exit_of_outcome
from asman.cli.terminal import LogWriter, plain, say, transfer
from asman.client import Client, safe_target
from asman.errors import AsmanError, JobNotFound, clip
from asman.job import Outcome, Reason
from asman.units import show_duration

__all__ = [
    "Ending",
    "StillRunning",
    "exit_of",
    "fetch_outputs",
    "follow_to_end",
    "read_ending",
    "server_option",
    "whole_id",
]

_QUIET_START_S = 2.0
_ASK_AGAIN_S = 10.0

server_option = click.option(
    "--server",
    envvar="ASMAN_SERVER",
    default="http://localhost:8000",
    show_default=True,
    show_envvar=True,
    metavar="URL",
    help="Address of the server.",
)


class StillRunning(Exception):
    """``--timeout`` passed before the job ended; it goes on."""

    exit_code = STILL_RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a job ended. Shape: ``outputs`` are data refs by name. Units: ``duration_ms`` as the worker measured it."""

    job_id: str
    outcome: str
    reason: str
    exit_code: int | None
    error: str
    worker: str
    attempt: int | None
    duration_ms: float | None
    outputs: Mapping[str, Mapping[str, Any]]

    def report(self, **more: Any) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "jobId": self.job_id,
            "outcome": self.outcome,
            "reason": self.reason,
            "exitCode": self.exit_code,
            "error": self.error or None,
            "worker": self.worker,
            "attempt": self.attempt,
            "durationMs": self.duration_ms,
            "outputs": sorted(self.outputs),
            **more,
        }

    def sentence(self) -> str:
        took = f" after {show_duration(self.duration_ms / 1000)}" if self.duration_ms is not None else ""
        where = f" on {plain(self.worker)}" if self.worker else ""
        status = f" with exit code {self.exit_code}" if self.exit_code is not None and self.outcome == "failed" else ""
        error = f": {plain(self.error)[:2000]}" if self.error else ""
        return f"job {self.job_id[:12]} {_WORDS.get(self.outcome, self.outcome)}{status}{took}{where}{error}"


_WORDS: Mapping[str, str] = {
    Outcome.TIMED_OUT: "timed out",
    Outcome.OUT_OF_MEMORY: "ran out of memory",
    Outcome.CANCELLED: "was cancelled",
    Outcome.REPLACED: "was replaced by a newer one",
    Outcome.DELETED: "was deleted",
    Outcome.WORKER_LOST: "was given up: its workers were lost",
    Outcome.ERROR: "could not be run",
}


def exit_of(ending: Ending) -> int:
    return exit_of_outcome(ending.outcome, ending.exit_code)


async def follow_to_end(
    client: Client, queue: str, job_id: str, writer: LogWriter | None, *, quiet: bool, timeout_s: float | None = None
) -> Ending:
    """Follow a job until it has ended. Without a ``writer`` the log is not shown.

    Errors: StillRunning after ``timeout_s``; JobNotFound; Unavailable.
    """
    waits = None if quiet else asyncio.ensure_future(_explain_waiting(client, queue, job_id))
    last: Mapping[str, Any] = {}
    attempt = 0
    try:
        async with asyncio.timeout(timeout_s), aclosing(client.follow(queue, job_id)) as events:
            async for event in events:
                if event.kind in ("build-log", "run-log") and writer is not None:
                    writer.write(event.kind.removesuffix("-log"), event.data.get("lines", ()))
                elif event.kind == "final":
                    last = event.data
                elif event.data.get("state") == "Running":
                    if waits is not None:
                        waits.cancel()
                    began = int(event.data.get("attempt") or 1)
                    if attempt and began > attempt and not quiet:
                        say(f"attempt {attempt} was lost; this is attempt {began}, its log starts anew")
                    attempt = began
    except TimeoutError as error:
        raise StillRunning from error
    finally:
        if waits is not None:
            waits.cancel()
            await asyncio.gather(waits, return_exceptions=True)
    return await read_ending(client, queue, job_id, last)


async def read_ending(client: Client, queue: str, job_id: str, final: Mapping[str, Any]) -> Ending:
    """Put together what the last event and the stored record say; servers that know no ``outcome`` are read too."""
    try:
        record = await client.record(queue, job_id)
    except AsmanError as error:
        if error.status not in (404, 410) or not final:
            raise
        record = {}  # deleted or expired since: the event says how it ended
    results = _object(record.get("results"))
    job = {**_object(record.get("job")), **results}
    result = _object(_object(results.get("finished")).get("result"))
    reason = str(job.get("finishedReason") or final.get("reason") or "Unknown")
    exit_code = _first_number(job.get("exitCode"), final.get("exitCode"), result.get("StatusCode"))
    said = result.get("error") or job.get("message") or final.get("message") or ""
    duration = result.get("duration")
    return Ending(
        job_id=job_id,
        outcome=str(job.get("outcome") or final.get("outcome") or _outcome_of(reason, exit_code)),
        reason=reason,
        exit_code=exit_code,
        error=said if isinstance(said, str) else str(said),
        worker=str(job.get("worker") or ""),
        attempt=job.get("attempt"),
        duration_ms=float(duration) if isinstance(duration, (int, float)) else None,
        outputs={name: _object(ref) for name, ref in _object(result.get("outputs")).items()},
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _first_number(*values: Any) -> int | None:
    return next((int(value) for value in values if isinstance(value, (int, float))), None)


_OUTCOMES = {
    Reason.TIMED_OUT: Outcome.TIMED_OUT,
    Reason.CANCELLED: Outcome.CANCELLED,
    Reason.REPLACED: Outcome.REPLACED,
    Reason.DELETED: Outcome.DELETED,
    Reason.WORKER_LOST: Outcome.WORKER_LOST,
}


def _outcome_of(reason: str, exit_code: int | None) -> Outcome:
    if reason == Reason.SUCCESS:
        return Outcome.FAILED if exit_code else Outcome.SUCCEEDED
    return next((outcome for name, outcome in _OUTCOMES.items() if name == reason), Outcome.ERROR)


async def _explain_waiting(client: Client, queue: str, job_id: str) -> None:
    """Say why nothing happens, once for each kind of reason, until the job runs."""
    said = ""
    await asyncio.sleep(_QUIET_START_S)
    while True:
        try:
            why = await client.why(queue, job_id)
        except AsmanError:
            return  # following says what is wrong with the server
        if why.get("state") != "Queued":
            return
        text = _waiting_text(client.server, queue, why)
        if re.sub(r"\d+", "", text) != said:
            say(text)
            said = re.sub(r"\d+", "", text)
        await asyncio.sleep(_ASK_AGAIN_S)


def _waiting_text(server: str, queue: str, why: Mapping[str, Any]) -> str:
    if not why.get("workers"):
        return (
            f"waiting: no worker is connected to queue {clip(queue)}. The job stays queued.\n"
            f"start one on a machine with Docker: asman worker {queue} --server {server}"
        )
    return f"waiting: {plain(why.get('reason', ''))}"


async def fetch_outputs(
    client: Client, queue: str, ending: Ending, directory: Path, *, quiet: bool, only: Callable[[str], bool] = bool
) -> dict[str, Path]:
    """Fetch outputs into a directory that is made only if there are any. Names that would leave it are refused.

    Errors: BadName, HashMismatch, Unavailable, OSError; what was fetched before stays.
    """
    written: dict[str, Path] = {}
    for name, ref in sorted(ending.outputs.items()):
        if not only(name):
            continue
        target = safe_target(directory, name)
        with transfer("fetched", str(directory / name), quiet=quiet) as progress:
            await client.fetch_output(queue, ending.job_id, name, ref, target, progress)
        written[name] = target
    return written


async def whole_id(client: Client, queue: str, job_id: str) -> str:
    """Let people write the first characters of an id, as ``asman ls`` shows them.

    Errors: JobNotFound when no listed job, or more than one, starts so.
    """
    if len(job_id) >= 64:
        return job_id
    found = [known for known in await client.list(queue) if known.startswith(job_id)]
    if len(found) != 1:
        many = f"{len(found)} listed jobs start" if found else "no listed job starts"
        raise JobNotFound(
            f"{many} with {clip(job_id)} in queue {clip(queue)}",
            hint="Give the whole id; jobs leave the listing a while after they end. See: asman ls QUEUE",
        )
    return found[0]
