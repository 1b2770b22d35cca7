"""A stand-in for hypercorn where there are no processes: Pyodide and the edge hosts built on it.

Quart imports hypercorn for the names of ASGI types and for ``app.run``. Hypercorn in turn imports parts of
``multiprocessing`` that Pyodide does not have, so ``import quart`` fails there. The host serves the app itself; what
is needed is only that the names exist. So this registers empty modules of those names, before Quart is first
imported, and on that platform only. It refuses to serve: a caller that asks is told who serves instead.

Source: measured with Quart 0.22 in Pyodide 314: this is the only import that fails.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, NoReturn

from asman.errors import ConfigError

__all__ = ["stand_in_for_hypercorn"]


class _AsgiTypes(ModuleType):
    """``hypercorn.typing``: any public name is a dict; Quart uses them as annotations and to build messages."""

    def __getattr__(self, name: str) -> type[dict[str, Any]]:
        if name.startswith("_"):
            raise AttributeError(name)
        made = type(name, (dict,), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


class _Config:
    """``hypercorn.config.Config``: takes any setting, does nothing with it."""


async def _serve(*args: object, **kwargs: object) -> NoReturn:
    raise ConfigError(
        "there is no hypercorn on this platform: the host that runs Python serves the app",
        hint="give the app object of asman.app.create_app to the host's ASGI bridge",
    )


def stand_in_for_hypercorn() -> None:
    """Register the stand-in on ``sys.platform == "emscripten"``; elsewhere, or a second time, nothing happens."""
    if sys.platform != "emscripten" or "hypercorn" in sys.modules:
        return
    package, loop, config = (ModuleType(f"hypercorn{part}") for part in ("", ".asyncio", ".config"))
    package.__path__ = []
    vars(loop)["serve"] = _serve
    vars(config)["Config"] = _Config
    parts = {"asyncio": loop, "config": config, "typing": _AsgiTypes("hypercorn.typing")}
    vars(package).update(parts, Config=_Config)
    sys.modules["hypercorn"] = package
    sys.modules.update({f"hypercorn.{name}": module for name, module in parts.items()})
