"""Getting a job's image onto this machine: once for everybody who waits for it.

A local image is used as it is; what is missing is pulled. Only ``latest`` moves by custom, so there the registry is
asked (not more often than every ten minutes), and if it cannot be reached the local copy is used, with a line in the
log that says so. Jobs that wait for one image share one pull; it is given up when the last of them goes.

A pull is broken off when its layers, as they are sent, are larger than the owner allows; how large they are unpacked is
known only afterwards, and then an image that is too large is removed again.

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
from asman.units import show_bytes, show_duration
from asman_worker.docker import Engine, EngineError, ImageInfo
from asman_worker.stock import Stock

__all__ = [
    "ImageTooLarge",
    "Images",
    "PullFailed",
    "PullProgress",
    "PullTimedOut",
    "moves",
    "registry_auth",
    "registry_of",
]

_FRESH_S = 600.0
_DOCKER_HUB = "https://index.docker.io/v1/"


class PullFailed(AsmanError):
    """The registry, or the engine, refused the image."""

    status = 422
    code = "image_unavailable"
    hint = "Check the image's name and tag, and whether this worker may read it."


class PullTimedOut(PullFailed):
    """The owner's time for a pull was over."""

    code = "pull_timed_out"
    hint = "Submit the job again, what was pulled is often kept; or use a smaller image."


class ImageTooLarge(PullFailed):
    """The image is larger than the owner allows."""

    code = "image_too_large"
    hint = "Use a smaller image, or send the job to a worker that allows more."


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
    """The engine's events as lines: one when a layer's state changes, one for what concerns the whole image.

    ``size_bytes`` is how large the layers that had to be fetched are, as they are sent, as far as it is known;
    ``fetched_bytes`` how much of them is here.
    """

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._totals: dict[str, int] = {}
        self._current: dict[str, int] = {}

    @property
    def size_bytes(self) -> int:
        return sum(max(total, self._current.get(layer, 0)) for layer, total in self._totals.items())

    @property
    def fetched_bytes(self) -> int:
        return sum(self._current.values())

    def count(self, event: Mapping[str, Any]) -> None:
        """Take the sizes out of an event. A layer of unknown size is sent with a total of -1."""
        detail = event.get("progressDetail") or {}
        if event.get("status") == "Downloading" and "current" in detail:
            layer = str(event.get("id") or "")
            self._totals[layer] = int(detail.get("total") or 0)
            self._current[layer] = int(detail["current"])

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
        self.progress = PullProgress()
        self.task: asyncio.Task[None] | None = None

    def say(self, text: str) -> None:
        self.said.append(text)
        for listener in list(self.listeners.values()):
            listener(text)


class Images:
    """The images of one engine.

    Shape:  ``stock`` is told what was pulled here and what is used; ``max_bytes`` is for one image, None for no bound;
            ``on_pulled`` is told the seconds that a pull took, done or not.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        stock: Stock | None = None,
        max_bytes: int | None = None,
        on_pulled: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._engine = engine
        self._stock, self._max_bytes = stock, max_bytes
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
            return await self._used(image, local)
        try:
            await self._join(image, say, limit_s)
        except PullFailed as error:
            if local is None:
                raise
            say(f"{error.message}; using the copy that is here\n")
            return await self._used(image, local)
        found = await self._engine.image(image)
        if found is None:
            raise PullFailed(f"the image {clip(image)} was pulled, but the engine does not have it")
        return await self._pulled(image, local, found)

    def fetched_bytes(self, image: str) -> int:
        """What the pull of this image that is under way has brought so far."""
        pull = self._pulls.get(image)
        return pull.progress.fetched_bytes if pull else 0

    async def _used(self, image: str, found: ImageInfo) -> ImageInfo:
        if self._stock is not None:
            await self._stock.use_image(image)
        return found

    async def _pulled(self, image: str, before: ImageInfo | None, found: ImageInfo) -> ImageInfo:
        """Note it as ours, unless it was here before we came; one that is too large goes again."""
        is_ours = before is None or (self._stock is not None and self._stock.has_image(image))
        if self._stock is not None and is_ours:
            await self._stock.add_image(image, found.id, found.size_bytes)
        if self._max_bytes is not None and found.size_bytes > self._max_bytes and found != before:
            if self._stock is not None and is_ours:
                await self._stock.remove_image(image)
            raise _too_large(image, found.size_bytes, self._max_bytes, "")
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
        progress, begun = pull.progress, asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(limit_s):
                auth = await asyncio.to_thread(registry_auth, image)
                async for event in self._engine.pull(image, auth):
                    if text := progress.line(event):
                        pull.say(text)
                    progress.count(event)
                    if self._max_bytes is not None and progress.size_bytes > self._max_bytes:
                        raise _too_large(image, progress.size_bytes, self._max_bytes, " packed")
        except TimeoutError as error:
            limit = show_duration(limit_s)
            raise PullTimedOut(f"the image {clip(image)} could not be pulled within {limit}") from error
        except EngineError as error:
            raise PullFailed(f"the image {clip(image)} could not be pulled: {error.message}") from error
        finally:
            self._on_pulled(asyncio.get_running_loop().time() - begun)
            if self._pulls.get(image) is pull:
                del self._pulls[image]
        self._fresh_until[image] = asyncio.get_running_loop().time() + _FRESH_S


def _too_large(image: str, size: int, limit: int, how: str) -> ImageTooLarge:
    return ImageTooLarge(
        f"the image {clip(image)} has {show_bytes(size)}{how}; this worker allows {show_bytes(limit)} for one image"
    )
