"""Getting a job's image onto this machine: once for everybody who waits for it.

A local image is used as it is; what is missing is pulled. Only ``latest`` moves by custom, so there the registry is
asked (not more often than every ten minutes), and if it cannot be reached the local copy is used, with a line in the
log that says so. Jobs that wait for one image share one pull; it is given up when the last of them goes.

Progress is one line for each change of a layer's state, not one for each event of the engine.

Source: contract, "Image pull"; Docker Engine API v1.41, ``POST /images/create``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from asman.errors import AsmanError, clip
from asman_worker.docker import Engine, EngineError, ImageInfo

__all__ = ["Images", "PullFailed", "PullProgress", "moves", "registry_auth", "registry_of"]

_FRESH_S = 600.0
_DOCKER_HUB = "https://index.docker.io/v1/"


class PullFailed(AsmanError):
    """The registry, or the engine, refused the image."""

    status = 422
    code = "image_unavailable"
    hint = "Check the image's name and tag, and whether this worker may read it."


def moves(image: str) -> bool:
    """Is this a name whose content is expected to change?"""
    return image.rpartition("/")[2].endswith(":latest") and "@" not in image


def registry_of(image: str) -> str:
    """The registry's host, empty for the engine's default one."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else ""


def registry_auth(image: str, env: Mapping[str, str] = os.environ, home: Path | None = None) -> dict[str, str] | None:
    """The login for an image's registry that ``docker login`` left in plain form; credential helpers are not asked."""
    folder = Path(env.get("DOCKER_CONFIG") or (home or Path.home()) / ".docker")
    try:
        logins = json.loads((folder / "config.json").read_text()).get("auths") or {}
        host = registry_of(image)
        entry = logins.get(host) or logins.get(f"https://{host}") if host else logins.get(_DOCKER_HUB)
        user, _, password = base64.b64decode((entry or {})["auth"]).decode().partition(":")
    except (OSError, ValueError, KeyError, AttributeError, binascii.Error):
        return None
    return {"username": user, "password": password, "serveraddress": host or _DOCKER_HUB} if user else None


class PullProgress:
    """The engine's events as lines: one when a layer's state changes, one for what concerns the whole image."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}

    def line(self, event: Mapping[str, Any]) -> str | None:
        """The line for this event; None if it says nothing new."""
        status, layer = str(event.get("status") or ""), str(event.get("id") or "")
        if not status or self._states.get(layer) == status:
            return None
        self._states[layer] = status
        return f"{layer}: {status}\n" if layer else f"{status}\n"


_Say = Callable[[str], None]


class _Pull:
    """One pull under way, and who listens to it."""

    def __init__(self) -> None:
        self.listeners: dict[object, _Say] = {}
        self.said: list[str] = []
        self.task: asyncio.Task[None] | None = None

    def say(self, text: str) -> None:
        self.said.append(text)
        for listener in list(self.listeners.values()):
            listener(text)


class Images:
    """The images of one engine. Shape: ``on_pulled`` is told the seconds that a pull took, done or not."""

    def __init__(self, engine: Engine, *, on_pulled: Callable[[float], None] = lambda seconds: None) -> None:
        self._engine = engine
        self._on_pulled = on_pulled
        self._pulls: dict[str, _Pull] = {}
        self._fresh_until: dict[str, float] = {}

    async def ensure(self, image: str, say: _Say, *, limit_s: float) -> ImageInfo:
        """Have the image here, and answer with what it says about itself.

        Errors: PullFailed, with the registry's words, or if it takes longer than ``limit_s``; Unavailable if the
                engine is.
        """
        local = await self._engine.image(image)
        if local is not None and not self._is_stale(image):
            return local
        try:
            await self._join(image, say, limit_s)
        except PullFailed as error:
            if local is None:
                raise
            say(f"{error.message}; using the copy that is here\n")
            return local
        found = await self._engine.image(image)
        if found is None:
            raise PullFailed(f"the image {clip(image)} was pulled, but the engine does not have it")
        return found

    def _is_stale(self, image: str) -> bool:
        return moves(image) and self._fresh_until.get(image, 0.0) <= asyncio.get_running_loop().time()

    async def _join(self, image: str, say: _Say, limit_s: float) -> None:
        """Wait for the pull of this image, the one under way if there is one."""
        pull = self._pulls.get(image)
        if pull is None:
            pull = self._pulls[image] = _Pull()
            pull.task = asyncio.create_task(self._pull(image, pull, limit_s), name=f"pull {image}")
        assert pull.task is not None
        for text in pull.said:
            say(text)
        me = object()
        pull.listeners[me] = say
        try:
            await asyncio.shield(pull.task)
        finally:
            del pull.listeners[me]
            if not pull.listeners and not pull.task.done():
                self._pulls.pop(image, None)
                pull.task.cancel()
                with contextlib.suppress(asyncio.CancelledError, AsmanError):
                    await pull.task

    async def _pull(self, image: str, pull: _Pull, limit_s: float) -> None:
        progress, begun = PullProgress(), asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(limit_s):
                auth = await asyncio.to_thread(registry_auth, image)
                async for event in self._engine.pull(image, auth):
                    if text := progress.line(event):
                        pull.say(text)
        except TimeoutError as error:
            raise PullFailed(f"the image {clip(image)} could not be pulled within {limit_s:.0f} s") from error
        except EngineError as error:
            raise PullFailed(f"the image {clip(image)} could not be pulled: {error.message}") from error
        finally:
            self._on_pulled(asyncio.get_running_loop().time() - begun)
            if self._pulls.get(image) is pull:
                del self._pulls[image]
        self._fresh_until[image] = asyncio.get_running_loop().time() + _FRESH_S
