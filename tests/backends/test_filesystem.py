"""The hook of the filesystem backend."""

from __future__ import annotations

from pathlib import Path

import pytest

import asman_filesystem
from asman.config import Config
from asman.errors import ConfigError
from asman.plugins import load_plugins, open_blob_store
from asman_filesystem.blobs import FileBlobStore


@pytest.mark.parametrize(("url", "folder"), [("file:///a/b", "a/b"), ("file:////a/b%20", "/a/b%20")])
def test_url_names_the_folder_as_it_is(url: str, folder: str) -> None:
    store = asman_filesystem.asman_blob_store(url, Config())
    assert store is not None
    assert store._root == Path(folder)


def test_other_urls_are_left_to_others() -> None:
    for url in ("memory:", "file:relative", "s3://x", "sqlite:///x"):
        assert asman_filesystem.asman_blob_store(url, Config()) is None


def test_listings_show_the_scheme_with_a_line_of_help() -> None:
    assert list(asman_filesystem.asman_schemes()) == ["file"]


def test_installed_plugins_open_the_scheme() -> None:
    assert isinstance(open_blob_store(load_plugins(), "file:///x", Config()), FileBlobStore)


@pytest.mark.parametrize("folder", ["", "."])
async def test_url_without_a_folder_is_refused(folder: str) -> None:
    with pytest.raises(ConfigError, match="names no folder"):
        async with FileBlobStore(folder):
            pass


async def test_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot use"):
        async with FileBlobStore(tmp_path / "file" / "blobs"):
            pass
