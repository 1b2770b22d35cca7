"""Counts what happens to jobs on this server, for ``GET /metrics``. Needs the extra ``metrics``.

Counters belong to one app: the hook makes a set of them per app, and this module keeps nothing. Without the extra
the server's own gauges are still served; only these counters are missing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from asman.hookspecs import hookimpl

if TYPE_CHECKING:
    from asman.config import Config

__all__ = ["asman_app_plugins"]

_log = logging.getLogger(__name__)
_INSTALL = 'pip install "asman[metrics]"'


@hookimpl
def asman_app_plugins(config: Config) -> list[object]:
    """One set of counters for the app that asks; none without the extra."""
    try:
        import prometheus_client as _prometheus_client  # noqa: F401
    except ImportError as error:
        _log.info("jobs are not counted", extra={"reason": str(error), "try": _INSTALL})
        return []
    from asman_metrics.counters import Metrics

    return [Metrics()]
