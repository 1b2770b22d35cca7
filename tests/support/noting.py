"""A meter that keeps what it is told: for tests of what is measured, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from asman.config import Config
from asman.hookspecs import hookimpl

__all__ = ["Noting"]


@dataclass(eq=False)
class Noting:
    """A meter, and the plugin that offers it. Shape: calls in order; ``opened`` True and False as it was."""

    requests: list[tuple[str, str, int]] = field(default_factory=list)
    operations: list[tuple[str, str]] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    opened: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @hookimpl
    def asman_meter(self, config: Config) -> Noting:
        return self

    async def __aenter__(self) -> Self:
        self.opened.append(True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.opened.append(False)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        self.requests.append((route, method, status))
        self.seconds.append(seconds)

    def stored(self, operation: str, seconds: float, code: str) -> None:
        self.operations.append((operation, code))
        self.seconds.append(seconds)

    def swept(self, lag_s: float) -> None:
        self.lags.append(lag_s)
