"""Telling the meters of an app: all of them at once, and stores that tell how long each of their operations took.

A plugin that listens returns a ``Meter`` (hook ``asman_meter``). Where none does, there is no ``Meters`` and stores
stay as they were opened: measuring then costs nothing, not even a call. Refuses to keep any number itself.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any, TypeVar, cast

from asman.abc import Meter
from asman.errors import AsmanError

__all__ = ["Meters", "measured"]

_log = logging.getLogger(__name__)

_Store = TypeVar("_Store")


class Meters:
    """Several meters as one; a meter that fails is logged and harms neither the caller nor the others."""

    def __init__(self, meters: Iterable[Meter]) -> None:
        self.each = tuple(meters)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        for meter in self.each:
            try:
                meter.request(route, method, status, seconds)
            except Exception:
                _log.exception("a meter failed")

    def stored(self, operation: str, seconds: float, code: str) -> None:
        for meter in self.each:
            try:
                meter.stored(operation, seconds, code)
            except Exception:
                _log.exception("a meter failed")

    def swept(self, lag_s: float) -> None:
        for meter in self.each:
            try:
                meter.swept(lag_s)
            except Exception:
                _log.exception("a meter failed")


def measured(store: _Store, kind: str, meters: Meters) -> _Store:
    """The same store, every public operation of which tells the meters how long it took and how it failed.

    The answer passes for the store itself: it has all its attributes and optional abilities, and its class. What the
    store calls of itself is not measured. An operation that is given up (cancelled) is not told.

    Shape:  ``kind`` comes before the operation's name: ``jobs`` makes ``jobs.load``.
    """
    members: dict[str, Any] = {"__getattr__": lambda self, name: getattr(store, name)}
    members["__class__"] = property(lambda self: type(store))
    for name in dir(store):
        if not name.startswith("_"):
            # Abilities are looked for on the class, so each name must stand there and not only be answered for.
            operation = _operation(store, name)
            timed = _timed(operation, f"{kind}.{name}", meters) if operation is not None else None
            members[name] = staticmethod(timed) if timed is not None else _passed(store, name)
    return cast(_Store, type(f"Measured{type(store).__name__}", (), members)())


def _operation(store: object, name: str) -> Callable[..., Any] | None:
    """The method of this name if it is one that waits. A property is not looked into: it may have a price."""
    if isinstance(inspect.getattr_static(store, name), property):
        return None
    member = getattr(store, name)
    return member if inspect.iscoroutinefunction(member) else None


def _passed(store: object, name: str) -> property:
    return property(lambda self: getattr(store, name))


def _timed(method: Callable[..., Any], operation: str, meters: Meters) -> Callable[..., Any]:
    async def call(*args: Any, **options: Any) -> Any:
        began = perf_counter()
        try:
            answer = await method(*args, **options)
        except Exception as error:
            code = error.code if isinstance(error, AsmanError) else AsmanError.code
            meters.stored(operation, perf_counter() - began, code)
            raise
        meters.stored(operation, perf_counter() - began, "")
        return answer

    return call
