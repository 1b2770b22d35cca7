from __future__ import annotations

from types import SimpleNamespace

import pytest

import asman_sqlite
from asman import memory
from asman.config import Config
from asman.errors import ConfigError
from asman.hookspecs import hookimpl
from asman.plugins import load_plugins, open_blob_store, open_deliverer, open_job_store, open_notifier

CONFIG = Config(backend="memory")


def test_our_own_backends_are_found_as_a_strangers_are() -> None:
    manager = load_plugins()
    assert {"sqlite", "filesystem", "ttl", "webhooks", "metrics", "worker"} <= {
        name for name, _ in manager.list_name_plugin()
    }


def test_a_url_chooses_its_backend() -> None:
    manager = load_plugins([memory], discover=False)
    assert isinstance(open_job_store(manager, "memory:", CONFIG), memory.MemoryJobStore)
    assert isinstance(open_blob_store(manager, "memory:", CONFIG), memory.MemoryBlobStore)
    assert isinstance(open_notifier(manager, "memory:", CONFIG), memory.MemoryNotifier)
    assert open_deliverer(manager, CONFIG) is None


def test_a_url_that_nobody_takes_names_what_is_installed_and_what_to_do() -> None:
    manager = load_plugins([memory], discover=False)
    with pytest.raises(ConfigError, match=r'no job store opens "redis://h"; installed schemes: memory; try: .*redis'):
        open_job_store(manager, "redis://h", CONFIG)


def test_a_job_store_without_logs_is_refused_at_the_start() -> None:
    class Bare:
        @hookimpl
        def asman_job_store(self, url: str, config: Config) -> object:
            return SimpleNamespace()

    with pytest.raises(ConfigError, match="keeps no logs"):
        open_job_store(load_plugins([Bare()], discover=False), "bare:", CONFIG)


def test_a_given_plugin_wins_over_an_installed_one() -> None:
    mine = memory.MemoryNotifier()

    class Mine:
        @hookimpl
        def asman_notifier(self, url: str, config: Config) -> object:
            return mine

    assert open_notifier(load_plugins([memory, Mine()], discover=False), "memory:", CONFIG) is mine


def test_a_plugin_may_be_given_that_is_installed_as_well() -> None:
    manager = load_plugins([memory, asman_sqlite])
    assert manager.get_name(asman_sqlite) == "sqlite"
    assert manager.hook.asman_schemes.get_hookimpls()[-1].plugin is asman_sqlite


def test_managers_share_nothing() -> None:
    assert load_plugins(discover=False) is not load_plugins(discover=False)
