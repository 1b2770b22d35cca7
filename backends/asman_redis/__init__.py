"""Jobs, logs and messages in Redis or Valkey: for many servers that share one queue store.

``redis://host:6379/0``, ``rediss://`` (TLS), ``unix:///path``, ``redis+sentinel://host,host/service`` and
``redis+cluster://host,host``; ``?prefix=name`` keeps several deployments apart in one Redis, and ``?replicas=1``
acknowledges nothing that a replica does not have: a failover then loses nothing. What is acknowledged is as durable
as Redis is set to be: the store looks at the start and says so. The driver is loaded when the URL is chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asman.errors import ConfigError
from asman.hookspecs import hookimpl

if TYPE_CHECKING:
    from asman.config import Config
    from asman_redis.jobs import RedisJobStore
    from asman_redis.notifier import RedisNotifier

__all__ = ["asman_job_store", "asman_notifier", "asman_schemes"]

_SCHEMES = {
    "redis": "jobs, logs and messages in Redis or Valkey: redis://host:6379/0",
    "rediss": "the same over TLS",
    "unix": "the same over a Unix socket: unix:///path?db=0",
    "redis+sentinel": "the same behind sentinels: redis+sentinel://host,host/service",
    "rediss+sentinel": "the same over TLS",
    "redis+cluster": "the same in a cluster: redis+cluster://host,host",
    "rediss+cluster": "the same over TLS",
}
_INSTALL = 'pip install "asman[redis]"'


def _is_ours(url: str) -> bool:
    return url.partition("://")[0] in _SCHEMES and "://" in url


@hookimpl
def asman_job_store(url: str, config: Config) -> RedisJobStore | None:
    if not _is_ours(url):
        return None
    try:
        from asman_redis.jobs import RedisJobStore
    except ImportError as error:
        raise _not_installed(error) from error

    return RedisJobStore(url)


@hookimpl
def asman_notifier(url: str, config: Config) -> RedisNotifier | None:
    if not _is_ours(url):
        return None
    try:
        from asman_redis.notifier import RedisNotifier
    except ImportError as error:
        raise _not_installed(error) from error

    return RedisNotifier(url)


def _not_installed(error: ImportError) -> ConfigError:
    return ConfigError(f"Redis needs what is not installed: {error.name}; try: {_INSTALL}", hint=_INSTALL)


@hookimpl
def asman_schemes() -> dict[str, str]:
    return dict(_SCHEMES)
