"""How long a job and its data are kept: the one rule of expiry, as the server's settings state it.

``expire_after_s`` decides where the operator set it; otherwise 30 days, and 7 days under the public profile. The
clock starts at each submit and each accepted result; a read never moves it. Another plugin that answers before this
one replaces the rule: this is all there is of it, nothing in the core falls back on other figures while it is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asman.hookspecs import hookimpl

if TYPE_CHECKING:
    from asman.config import Config
    from asman.job import Job

__all__ = ["asman_expires_at", "kept_s"]

_DAY_S = 86_400.0
_PRIVATE_S = 30 * _DAY_S
_PUBLIC_S = 7 * _DAY_S
_LONGEST_S = 36_500 * _DAY_S
"""A hundred years: what "never" comes to, because records and JSON know no infinity."""


def kept_s(config: Config) -> float:
    """For how long anything is kept from now on; what is not a positive time is taken as "not set".

    Source: decision "Seams" (30 days, public 7 days); promises, P8.
    """
    if config.expire_after_s > 0:
        return min(config.expire_after_s, _LONGEST_S)
    return _PUBLIC_S if config.profile == "public" else _PRIVATE_S


@hookimpl
def asman_expires_at(job: Job, now: float, config: Config) -> float:
    """The last second of the job, its documents, its logs and the blobs it refers to."""
    return now + kept_s(config)
