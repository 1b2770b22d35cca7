"""Looks over a backend's shoulder during the exam: what was called last, and no call that never returns.

The methods of the contracts are wrapped on the object itself, so that it stays an instance of its own class; what a
backend calls of itself is not noted. One with slots cannot be wrapped: it is examined all the same, only told about
with less detail.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from asman.abc import BlobStore, JobStore, LogStore, Notifier, SupportsLeading, SupportsScan

__all__ = ["Call", "Calls", "watch"]

_CALL_LIMIT_S = 30.0
_NEXT_LIMIT_S = 2.0
_TEST_LIMIT_S = 600.0
_KEPT = 50

_is_inside: ContextVar[bool] = ContextVar("_is_inside", default=False)

_METHODS = sorted(
    name
    for contract in (JobStore, LogStore, SupportsScan, SupportsLeading, BlobStore, Notifier)
    for name, member in vars(contract).items()
    if inspect.iscoroutinefunction(member) and not name.startswith("_")
)


@dataclass(slots=True, eq=False)
class Call:
    """One call of a method. Shape: ``answer`` is None until it has returned; ``raised`` what it raised instead."""

    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    answer: Any = None
    raised: BaseException | None = None


@dataclass(slots=True)
class Calls:
    """The latest calls of one test, and how long to wait.

    Units:  ``patience_s`` for one call, less once a call did not return: an exam of a store that hangs must end, too.
    """

    latest: deque[Call] = field(default_factory=lambda: deque(maxlen=_KEPT))
    patience_s: float = field(default_factory=lambda: _CALL_LIMIT_S)
    until: float = field(default_factory=lambda: time.monotonic() + _TEST_LIMIT_S)

    def begin(self) -> None:
        """A test begins."""
        self.latest.clear()
        self.until = time.monotonic() + _TEST_LIMIT_S


def watch(backend: Any, calls: Calls) -> Any:
    """The same object, with its methods noted in ``calls``.

    Errors: a method that takes longer than half a minute, or a test that goes on for ten, is an AssertionError.
    """
    for name in _METHODS:
        method = getattr(backend, name, None)
        if not inspect.iscoroutinefunction(method):
            continue
        try:
            setattr(backend, name, _watched(name, method, calls))
        except AttributeError:
            break
    return backend


def _watched(name: str, method: Callable[..., Awaitable[Any]], calls: Calls) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def watched(*args: Any, **kwargs: Any) -> Any:
        if _is_inside.get():
            return await method(*args, **kwargs)
        call = Call(name, args, kwargs)
        calls.latest.append(call)
        token = _is_inside.set(True)
        try:
            call.answer = await _bounded(name, method(*args, **kwargs), calls)
        except BaseException as error:
            call.raised = error
            raise
        finally:
            _is_inside.reset(token)
        return call.answer

    return watched


async def _bounded(name: str, work: Awaitable[Any], calls: Calls) -> Any:
    patience_s = calls.patience_s
    try:
        async with asyncio.timeout(patience_s) as limit:
            answer = await work
    except TimeoutError as error:
        if not limit.expired():
            raise
        calls.patience_s = _NEXT_LIMIT_S
        raise AssertionError(f"{name}() did not return within {patience_s:g} s") from error
    if time.monotonic() > calls.until:
        raise AssertionError(f"the test calls {name}() still after {_TEST_LIMIT_S:g} s: it makes no progress")
    return answer
