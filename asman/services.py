"""The opened parts of one app, in one place. Data and no logic: a reader can follow every call from here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pluggy

from asman.abc import BlobStore, Deliverer, JobStore, LogStore, Notifier, SupportsSignedUrls
from asman.config import Config
from asman.metering import Meters
from asman.rates import Rates
from asman.recent import Recent

__all__ = ["Services"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Shape: ``clock`` answers seconds since the epoch, UTC; ``durability`` what an acknowledged submit survives
    (``disk``, ``everysec``, ``memory``; empty if the job store does not say); ``random_id`` 32 random
    lowercase hex digits; ``is_heard`` False where a message on a notifier topic would certainly reach nobody;
    ``signer`` the blob store if callers are to be sent to it, None if all bytes pass through the server; ``meters``
    None where nobody measures.
    """

    config: Config
    jobs: JobStore
    logs: LogStore
    blobs: BlobStore
    signer: SupportsSignedUrls | None
    notifier: Notifier
    deliverer: Deliverer | None
    plugins: pluggy.PluginManager
    clock: Callable[[], float]
    durability: Callable[[], str]
    random_id: Callable[[], str]
    is_heard: Callable[[str], bool]
    rates: Rates
    recent: Recent
    meters: Meters | None = None
