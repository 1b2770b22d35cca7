"""Jobs and logs in an LMDB environment: ``lmdb:///relative/folder`` or ``lmdb:////absolute/folder``.

``?size=20g`` says how much the store may ever hold (16 GiB unless you say otherwise). The hooks are all there is in
this module: the driver is loaded when the URL is chosen, not when plugins are listed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from asman.errors import BadRequest, ConfigError, clip
from asman.hookspecs import hookimpl
from asman.units import parse_size_bytes

if TYPE_CHECKING:
    from asman.config import Config
    from asman_lmdb.jobs import LmdbJobStore

__all__ = ["asman_job_store", "asman_schemes"]

_PREFIX = "lmdb:///"


@hookimpl
def asman_job_store(url: str, config: Config) -> LmdbJobStore | None:
    """An unopened store if the URL is ours, else None: somebody else's."""
    if not url.startswith(_PREFIX):
        return None
    path, _, query = url.removeprefix(_PREFIX).partition("?")
    size_bytes = _size_bytes(url, query)
    from asman_lmdb.jobs import LmdbJobStore

    return LmdbJobStore(path, size_bytes=size_bytes)


@hookimpl
def asman_schemes() -> dict[str, str]:
    return {"lmdb": "jobs and logs in one LMDB file, for one machine: lmdb:///folder?size=16g"}


def _size_bytes(url: str, query: str) -> int:
    options = dict(parse_qsl(query, keep_blank_values=True))
    size = options.pop("size", "16g")
    if options:
        raise ConfigError(f"{clip(url)} has an unknown option {clip(next(iter(options)))}; known is: size")
    try:
        return max(parse_size_bytes(size), 1 << 20)
    except BadRequest as error:
        raise ConfigError(f"{clip(url)}: {error.message}", hint=error.hint) from error
