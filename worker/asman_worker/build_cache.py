"""The owner's registry, where built images are kept: asked before a build, given what was built.

With no registry nothing is taken from anywhere and nothing is pushed anywhere. What goes wrong with it is a line in
the log: it saves time, and no job depends on it.

Source: contract, "Image build", "Identity and cache"; Docker Engine API v1.41, ``POST /images/{name}/push``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import aiohttp

from asman.errors import AsmanError
from asman_worker.build_calls import BuildCalls
from asman_worker.build_log import BuildLog, EventReader
from asman_worker.docker import Engine, EngineError
from asman_worker.images import PullProgress, registry_auth

__all__ = ["PULL_STEP", "PUSH_STEP", "BuildCache", "Say"]

_log = logging.getLogger(__name__)

PULL_STEP = "docker image pull"
PUSH_STEP = "docker image push"

_PULL_LIMIT_S = 300.0
_PUSH_LIMIT_S = 900.0

Say = Callable[[str, str], None]
"""Takes (step, text); the text has its newline."""


class BuildCache:
    """Shape: ``registry`` is a repository without a tag, empty for none; an image's name is ``repository:tag``."""

    def __init__(self, engine: Engine, registry: str) -> None:
        self._engine = engine
        self._calls = BuildCalls(engine)
        self._registry = registry
        self._pushes: set[asyncio.Task[None]] = set()

    async def take(self, name: str, say: Say) -> bool:
        """Is the image in the registry? Then it is here now, under its own name only."""
        if not self._registry:
            return False
        repository, _, tag = name.partition(":")
        kept = f"{self._registry}:{tag}"
        progress = PullProgress()
        try:
            async with asyncio.timeout(_PULL_LIMIT_S):
                auth = await asyncio.to_thread(registry_auth, self._registry)
                async for event in self._engine.pull(kept, auth):
                    if text := progress.line(event):
                        say(PULL_STEP, text)
            await self._calls.tag(kept, repository, tag)
            await self._calls.remove_image(kept)
        except (EngineError, TimeoutError) as error:
            reason = error.message if isinstance(error, EngineError) else "it takes too long"
            say(PULL_STEP, f"not taken from the owner's registry: {reason}\n")
            return False
        return True

    def keep(self, name: str, listeners: tuple[Say, ...]) -> None:
        """Push in the background: no job waits for it, but those that waited for the build are told."""

        def say(step: str, text: str) -> None:
            for listener in listeners:
                listener(step, text)

        if self._registry:
            task = asyncio.create_task(self._push(name, say), name=f"push {name}")
            self._pushes.add(task)
            task.add_done_callback(self._pushes.discard)

    async def settle(self) -> None:
        """Wait for images that are still being pushed."""
        while self._pushes:
            await asyncio.wait(self._pushes)

    async def _push(self, name: str, say: Say) -> None:
        tag = name.partition(":")[2]
        log = BuildLog(lambda text: say(PUSH_STEP, text))
        try:
            async with asyncio.timeout(_PUSH_LIMIT_S):
                auth = await asyncio.to_thread(registry_auth, self._registry)
                await self._calls.tag(name, self._registry, tag)
                reader = EventReader()
                async with self._calls.push(self._registry, tag, auth) as pieces:
                    async for piece in pieces:
                        for event in reader.feed(piece):
                            log.feed(event)
        except (EngineError, AsmanError, aiohttp.ClientError, ValueError, TimeoutError) as error:
            log.error = log.error or str(error) or "it takes too long"
        with contextlib.suppress(AsmanError):
            await self._calls.remove_image(f"{self._registry}:{tag}")
        if log.error:
            _log.warning("a built image cannot be pushed", extra={"image": name, "reason": log.error})
            say(PUSH_STEP, f"not kept in the owner's registry: {log.error}\n")
