"""After a start: what an earlier process left, set against what is still wanted.

Containers, notes about them (the shelf) and unsent reports (the outbox) may each be there without the others. A
container with a note is followed again, running or ended. A note whose report is on disk already is done with. A
container without a note, or of nobody, goes. Only containers of this worker's own id are looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from asman.errors import AsmanError
from asman_worker.docker import EngineError
from asman_worker.executor import Held
from asman_worker.holdings import Holdings, Runs
from asman_worker.outbox import Key
from asman_worker.shelf import ShelvedJob

__all__ = ["RunsHere", "keep_clean", "take_up_again", "to_follow"]

_log = logging.getLogger(__name__)

_CLEAN_EVERY_S = 60.0


class RunsHere(Runs, Protocol):
    """What carries jobs out, and knows what it has on this host (``executor.Executor``)."""

    async def held(self) -> list[Held]: ...

    async def clean(self, keep: set[Key]) -> None: ...


def to_follow(
    held: list[Held], shelved: Mapping[Key, ShelvedJob], reported: set[Key], queues: tuple[str, ...]
) -> list[ShelvedJob]:
    """The jobs to take up again: a container, a note, no report yet, and a queue that is served now. Pure."""
    there = {(found.queue, found.job_id, found.attempt) for found in held}
    return [job for key, job in sorted(shelved.items()) if key in there and key not in reported and job.queue in queues]


async def take_up_again(executor: RunsHere, holdings: Holdings, *, queues: tuple[str, ...], server: str) -> int:
    """Follow what still runs (or has ended unseen), and remove what nobody tracks; before the first connection.

    Errors: Unavailable if the engine does not answer.
    """
    shelved = holdings.shelf.load()
    reported = {report.key for queue in queues for report in holdings.outbox.pending(queue)}
    followed = to_follow(await executor.held(), shelved, reported, queues)
    for job in followed:
        holdings.resume(job, server_url=server)
    for key in set(shelved) - {job.key for job in followed}:
        if key[0] in queues:
            holdings.shelf.remove(key)
    await executor.clean(_kept(holdings))
    return len(followed)


def _kept(holdings: Holdings) -> set[Key]:
    return set(holdings.keys)


async def keep_clean(executor: RunsHere, holdings: Holdings) -> None:
    """Now and then remove what should not be there: a removal that failed, a container made by a dying process."""
    while True:
        await asyncio.sleep(_CLEAN_EVERY_S)
        try:
            await executor.clean(_kept(holdings))
        except (AsmanError, EngineError) as error:
            _log.warning("containers could not be looked over", extra={"reason": str(error)})
