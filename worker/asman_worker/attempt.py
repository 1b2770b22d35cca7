"""One attempt at one job, as this worker goes through its steps: what was assigned, and how far it has come.

Source: contract, "Job lifecycle".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from asman.errors import AsmanError
from asman.messages import ms
from asman_worker.limits import Allotment
from asman_worker.logs import LogPump
from asman_worker.recipe import Recipe
from asman_worker.redact import Redactor
from asman_worker.remains import Key
from asman_worker.report import StepFailed, code_of, explain, first_cause, is_expected
from asman_worker.secrets import Secret

__all__ = ["Assignment", "Attempt", "LogSink", "UPLOAD_STEP"]

_log = logging.getLogger(__name__)

LogSink = Callable[[str, list[list[Any]]], None]
"""Takes (step, lines); a line is ``[text, ms]``, or ``[text, ms, true]`` for stderr. No lines: the step begins."""

_TOLD: Mapping[str, str] = {
    "inputs": "fetching inputs",
    "create": "starting",
    "wait": "Running",
}
"""Steps that watchers are told of as they begin, and their names on the wire; an image's tell themselves by lines."""

UPLOAD_STEP = "uploading outputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One attempt at one job. Shape: ``server_url`` is the server's origin, for blobs and for the job's own links."""

    queue: str
    job_id: str
    attempt: int
    definition: Mapping[str, Any]
    server_url: str

    @property
    def key(self) -> Key:
        return self.queue, self.job_id, self.attempt


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One job that this process works on, and how far it has come.

    Shape:  ``secrets`` are by the variable that holds them; ``on_step`` is told each step that begins; ``began`` is
            when those that watchers hear of did, ``[name, ms]`` in order.
            ``work`` is what may be cancelled to end the step at hand (fetching, pulling); ``limit_hit`` is why the
            worker itself ended the job; ``peak_memory_bytes`` is what ``meter`` saw, 0 for nothing.
    """

    assignment: Assignment
    log: LogSink
    pump: LogPump
    step: str = "limits"
    limit_s: float = 0.0
    image: str = ""
    network: str = ""
    """The engine's network mode, once it is taken."""
    recipe: Recipe | None = None
    allotment: Allotment | None = None
    secrets: Mapping[str, Secret] = field(default_factory=dict, repr=False)
    redactor: Redactor = field(default_factory=lambda: Redactor(()), repr=False)
    on_step: Callable[[str], None] = lambda step: None
    began: list[list[Any]] = field(default_factory=list)
    revoked: bool = False
    interrupted: bool = False
    work: asyncio.Future[Any] | None = None
    limit_hit: AsmanError | None = None
    peak_memory_bytes: int = 0
    task: asyncio.Task[dict[str, Any]] | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> Key:
        return self.assignment.key

    def at_step(self, step: str, *, is_news: bool = True) -> None:
        """The step begins; it is no news where an earlier process has told of it."""
        self.step = step
        _log.debug("step", extra={"step": step, "job": self.key[1], "attempt": self.key[2]})
        self.on_step(step)
        if is_news and step in _TOLD:
            self.begin(_TOLD[step])

    def begin(self, name: str) -> None:
        """Tell watchers that a step begins, by its name on the wire; once."""
        if name not in (told for told, _ in self.began):
            self.began.append([name, ms(time.time())])
            self.log(name, [])

    def take_secrets(self, secrets: Mapping[str, Secret]) -> None:
        """What the job gets, and what is therefore kept out of its log and its report."""
        self.secrets = secrets
        self.redactor = Redactor([(secret.name, secret.value) for secret in secrets.values()])
        self.pump.redact(self.redactor)

    @contextlib.asynccontextmanager
    async def failing(self) -> AsyncIterator[None]:
        """Turn whatever goes wrong inside into the failure of the step at hand; a fault of ours is logged as well."""
        try:
            yield
        except StepFailed:
            raise
        except Exception as error:
            cause = first_cause(error)
            if not is_expected(cause):
                _log.exception("a step failed unexpectedly", extra={"job": self.key[1], "step": self.step})
            raise StepFailed(self.step, self.redactor.text(explain(cause)), code_of(cause)) from error
