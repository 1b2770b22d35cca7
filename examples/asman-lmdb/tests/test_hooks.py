"""What the hook takes, what it refuses, and that listing plugins does not load the driver."""

import subprocess
import sys
from pathlib import Path

import pytest

import asman_lmdb
from asman.config import Config
from asman.errors import ConfigError
from asman.plugins import load_plugins, open_job_store
from asman_lmdb.jobs import LmdbJobStore


def test_url_names_the_folder_and_its_size(tmp_path: Path) -> None:
    store = asman_lmdb.asman_job_store(f"lmdb:///{tmp_path}/a?size=2g", Config())
    assert isinstance(store, LmdbJobStore)


def test_installed_plugin_opens_the_scheme() -> None:
    assert isinstance(open_job_store(load_plugins([asman_lmdb]), "lmdb:///x", Config()), LmdbJobStore)


@pytest.mark.parametrize("url", ["memory:", "sqlite:///x", "lmdb:relative", "lmdbs:///x"])
def test_other_urls_are_left_to_others(url: str) -> None:
    assert asman_lmdb.asman_job_store(url, Config()) is None


@pytest.mark.parametrize(
    ("query", "told"), [("siez=1g", 'unknown option "siez"'), ("size=much", '"much" is not a size'), ("size", "size")]
)
def test_option_that_cannot_be_read_is_refused(query: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        asman_lmdb.asman_job_store(f"lmdb:///x?{query}", Config())


def test_listing_plugins_does_not_load_the_driver() -> None:
    code = "import sys, asman_lmdb, asman_lmdb.journal; sys.exit('lmdb' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
