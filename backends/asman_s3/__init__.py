"""Blobs in a bucket of any S3-compatible store: ``s3://bucket/prefix?endpoint=https://host&region=...``.

A blob appears complete or not at all and never changes. Its bytes may go straight between the store and who uploads
or downloads them, by short-lived signed addresses. Credentials come from where AWS tools look for them (environment,
profile, instance role), never from the URL.

``place`` reads the URL, ``connection`` opens clients, ``blobs`` is the store, ``upload`` and ``reading`` move bytes,
``expiry`` remembers how long, ``faults`` says in plain words what went wrong, ``bucket`` prepares a bucket (the
command ``asman s3 init``). This module is what the core sees and loads no driver.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from asman.hookspecs import hookimpl

if TYPE_CHECKING:
    import click

    from asman.config import Config
    from asman_s3.blobs import S3BlobStore

__all__ = ["asman_blob_store", "asman_command", "asman_schemes"]

_INSTALL = 'pip install "asman[s3]"'


@hookimpl
def asman_blob_store(url: str, config: Config) -> S3BlobStore | None:
    """Errors: ConfigError for a URL that cannot be read, or if the extra is not installed."""
    if not url.startswith("s3:"):
        return None
    if find_spec("aioboto3") is None:
        from asman.errors import ConfigError

        raise ConfigError(f"blobs in S3 need aioboto3, which is not installed: {_INSTALL}", hint=_INSTALL)
    from asman_s3.blobs import S3BlobStore
    from asman_s3.place import parse_place

    return S3BlobStore(parse_place(url))


@hookimpl
def asman_schemes() -> dict[str, str]:
    return {"s3": "blobs in a bucket: s3://bucket/prefix?endpoint=https://host&region=..."}


@hookimpl
def asman_command(name: str) -> click.Command | None:
    """``asman s3``. Errors: ModuleNotFoundError, here and not later, if the extra is not installed."""
    if name != "s3":
        return None
    if find_spec("aioboto3") is None:
        raise ModuleNotFoundError("No module named 'aioboto3'", name="aioboto3")
    from asman_s3.command import s3

    return s3
