"""Finding and loading plugins: one manager per app, made here, kept by the app.

Our own backends are found exactly as a stranger's: by an entry point in the group ``asman``. Nothing is loaded at
import. A plugin that does not load is reported with its name and reason, and hurts only who needs it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, cast

import pluggy

from asman import hookspecs
from asman.abc import BlobStore, Deliverer, JobStore, LogStore, Notifier
from asman.config import Config
from asman.errors import ConfigError, clip

__all__ = [
    "INSTALL_HINTS",
    "choose_notifier",
    "load_plugins",
    "open_blob_store",
    "open_deliverer",
    "open_job_store",
    "open_notifier",
]

_log = logging.getLogger(__name__)

INSTALL_HINTS = {
    scheme: f'pip install "asman[{extra}]"'
    for extra, schemes in {
        "redis": ("redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster", "unix"),
        "postgres": ("postgres", "postgresql"),
        "s3": ("s3",),
    }.items()
    for scheme in schemes
}


def load_plugins(extra: Iterable[ModuleType | object] = (), *, discover: bool = True) -> pluggy.PluginManager:
    """Make a manager with every installed plugin (``discover``) and the given ones.

    Plugins given explicitly are asked first: their answer wins over an installed plugin's.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    if discover:
        for point in sorted(entry_points(group=hookspecs.PROJECT), key=lambda p: p.name):
            _register(manager, point)
    for plugin in extra:
        name = manager.get_name(plugin)
        if name is not None:  # installed as well: it moves to the front
            manager.unregister(plugin)
        manager.register(plugin, name=name)
    return manager


def _register(manager: pluggy.PluginManager, point: EntryPoint) -> None:
    if manager.has_plugin(point.name):
        return
    try:
        plugin = point.load()
    except Exception as error:
        _log.warning("plugin did not load", extra={"plugin": point.name, "reason": str(error)})
        return
    manager.register(plugin, name=point.name)


def open_job_store(manager: pluggy.PluginManager, url: str, config: Config) -> JobStore:
    """The job store for a URL, not yet opened. Errors: ConfigError if no plugin takes it, or it keeps no logs."""
    store: JobStore | None = manager.hook.asman_job_store(url=url, config=config)
    if store is None:
        raise _nobody(manager, "job store", url)
    if not isinstance(store, LogStore):
        raise ConfigError(f"the job store for {clip(url)} keeps no logs: it lacks append_log, read_log or drop_log")
    return cast(JobStore, store)


def open_blob_store(manager: pluggy.PluginManager, url: str, config: Config) -> BlobStore:
    """The blob store for a URL, not yet opened. Errors: ConfigError if no plugin takes it."""
    return cast(BlobStore, _chosen(manager, "blob store", url, manager.hook.asman_blob_store(url=url, config=config)))


def open_notifier(manager: pluggy.PluginManager, url: str, config: Config) -> Notifier:
    """The notifier for a URL, not yet opened. Errors: ConfigError if no plugin takes it."""
    return cast(Notifier, _chosen(manager, "notifier", url, manager.hook.asman_notifier(url=url, config=config)))


def choose_notifier(manager: pluggy.PluginManager, config: Config) -> Notifier:
    """The notifier of the settings: the one that is named, else the job store's own, else one within the process.

    Errors: ConfigError if one is named that no plugin takes.
    """
    if config.notifier:
        return open_notifier(manager, config.notifier, config)
    found: Notifier | None = manager.hook.asman_notifier(url=config.job_store_url, config=config)
    return open_notifier(manager, "memory:", config) if found is None else found


def open_deliverer(manager: pluggy.PluginManager, config: Config) -> Deliverer | None:
    return manager.hook.asman_deliverer(config=config)  # type: ignore[no-any-return]


def _chosen(manager: pluggy.PluginManager, what: str, url: str, found: Any) -> Any:
    if found is None:
        raise _nobody(manager, what, url)
    return found


def _nobody(manager: pluggy.PluginManager, what: str, url: str) -> ConfigError:
    schemes = sorted({scheme for answer in manager.hook.asman_schemes() for scheme in answer})
    scheme = url.split(":", 1)[0]
    hint = INSTALL_HINTS.get(scheme, "see asman plugins for what is installed")
    return ConfigError(f"no {what} opens {clip(url)}; installed schemes: {', '.join(schemes)}; try: {hint}", hint=hint)
