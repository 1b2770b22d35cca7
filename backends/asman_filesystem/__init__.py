"""Blobs as files below one folder: ``file:///relative/path`` or ``file:////absolute/path``.

A blob appears complete or not at all, is on stable storage before anybody hears of it, and never changes. Nothing
is kept beside the file: its name is the key and its modification time is its expiry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asman.hookspecs import hookimpl

if TYPE_CHECKING:
    from asman.config import Config
    from asman_filesystem.blobs import FileBlobStore

__all__ = ["asman_blob_store", "asman_schemes"]

_PREFIX = "file:///"


@hookimpl
def asman_blob_store(url: str, config: Config) -> FileBlobStore | None:
    """The path behind ``file:///`` is taken as it is; a second slash makes it absolute."""
    if not url.startswith(_PREFIX):
        return None
    from asman_filesystem.blobs import FileBlobStore

    return FileBlobStore(url.removeprefix(_PREFIX))


@hookimpl
def asman_schemes() -> dict[str, str]:
    return {"file": "blobs as files below one folder: file:///path"}
