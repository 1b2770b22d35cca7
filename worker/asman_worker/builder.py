"""Building a job's image on this machine's engine: once for everybody who waits for it, and only if it is not here.

An image is known by what it was built from: the recipe, and the commit or the bytes of its context. Its name is
derived from both, so a branch that moved is another image, and an image that is here needs no second look. Nothing is
pushed anywhere unless the owner names a registry to keep images in.

The classic builder does the work, because its steps are containers of the engine that can be bounded (``build_fence``).
BuildKit's steps cannot be; it is used for what only it can do, where the owner trusts the queue. What the engine would
do by itself, past the fence, is judged before (``build_rules``): it gets a Dockerfile of our writing, and the images
that it begins from are fetched by the worker.

After a build nothing is left but its image: layers without a name are removed as soon as no other build can need them.

Source: contract, "Image build"; promises, "Container hardening" (build); Docker Engine API v1.41, ``POST /build``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiohttp

from asman.errors import AsmanError, Unavailable
from asman.identity import canonical_json
from asman.units import show_bytes, show_duration
from asman_worker.build_cache import PULL_STEP, BuildCache, Say
from asman_worker.build_calls import BuildCalls
from asman_worker.build_context import check_archives, read_context, stream
from asman_worker.build_fence import BUILDER_LABEL, MARK, BuildTooLarge, Fence, SeenContainers, StepsUnbounded
from asman_worker.build_log import BuildLog, EventReader
from asman_worker.build_plan import (
    BUILD_LABEL,
    BuildPlan,
    Recipe,
    build_query,
    check_base,
    plan_build,
)
from asman_worker.docker import Engine, EngineError, ImageInfo
from asman_worker.grant import Grant
from asman_worker.images import Images
from asman_worker.limits import Allotment
from asman_worker.report import first_cause

__all__ = [
    "BUILD_STEP",
    "CLONE_STEP",
    "BuildFailed",
    "BuildTimedOut",
    "Builder",
    "Found",
    "Lent",
    "Packed",
    "Sources",
    "built_name",
]

CLONE_STEP = "cloning repo"
BUILD_STEP = "docker build"

_REPOSITORY = "asman-build"
_LAST_LINES = 12

R = TypeVar("R", bound="Found")


class BuildFailed(AsmanError):
    """A step of the build failed, or the engine refused it."""

    status = 422
    code = "build_failed"
    hint = "The build's log tells what its steps wrote."


class BuildTimedOut(AsmanError):
    """A build took longer than the owner allows."""

    status = 422
    code = "build_timed_out"
    hint = "Split the image: build what takes long elsewhere, push it, and begin from it."


class Found(Protocol):
    """What exactly is built from. Shape: ``identity`` is a commit or the hash of an archive; empty for no context."""

    @property
    def kind(self) -> str: ...
    @property
    def identity(self) -> str: ...
    def remove(self) -> None: ...


class Packed(Protocol):
    """A build context. Shape: ``tar`` is uncompressed; ``dockerfile`` is a name in it."""

    @property
    def tar(self) -> Path: ...
    @property
    def dockerfile(self) -> str: ...
    def remove(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """What a build may use: of the machine, and a network that is the build's own while it is held open.

    Shape:  ``network`` answers with the engine's network mode.
    """

    allotment: Allotment
    network: Callable[[], AbstractAsyncContextManager[str]]


class Sources(Protocol[R]):
    """Where contexts come from."""

    async def resolve(self, recipe: Any, say: Callable[[str], None], /) -> R: ...
    async def pack(self, resolved: R, recipe: Any, say: Callable[[str], None], /) -> Packed: ...


def built_name(recipe: Recipe, kind: str, identity: str) -> str:
    """The local name of what is built: the same recipe and the same sources have the same name."""
    said = {
        name: getattr(recipe, name) for name in ("context", "folder", "filename", "dockerfile", "target", "platform")
    }
    whole = {**said, "args": [list(pair) for pair in sorted(recipe.build_args)], "kind": kind, "identity": identity}
    return f"{_REPOSITORY}:{hashlib.sha256(canonical_json(whole).encode()).hexdigest()[:32]}"


@dataclass(slots=True, kw_only=True)
class _Shared:
    """One build under way, who listens to it, and what it is at."""

    listeners: dict[object, Say] = field(default_factory=dict)
    said: list[tuple[str, str]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    stage: str = CLONE_STEP

    def say(self, step: str, text: str) -> None:
        self.stage = step
        self.said.append((step, text))
        for listener in list(self.listeners.values()):
            listener(step, text)


class Builder:
    """Builds on one engine, within one grant."""

    def __init__(
        self,
        engine: Engine,
        images: Images,
        *,
        grant: Grant,
        worker_id: str,
    ) -> None:
        self._engine = engine
        self._calls = BuildCalls(engine)
        self._seen = SeenContainers(self._calls)
        self._images = images
        self._grant = grant
        self._worker_id = worker_id
        self._builds: dict[str, _Shared] = {}
        self._active = 0
        self._gate = asyncio.Lock()
        self._cache = BuildCache(engine, grant.cache_registry)

    async def ensure(self, sources: Sources[R], recipe: Recipe, lent: Lent, say: Say) -> tuple[str, ImageInfo]:
        """Have the image of this recipe here, and answer with its name and what it says about itself.

        Whoever asks for a build that is under way gets its log so far, and waits for it. It has what the first of
        them was lent, and ends when the last of them goes.

        Errors: BuildFailed, BuildTimedOut, BuildTooLarge, StepsUnbounded; BadDefinition and LimitExceeded for what is
                not built here; what the sources raise; PullFailed; Unavailable if the engine is.
        """
        resolved = await sources.resolve(recipe, lambda text: say(CLONE_STEP, text))
        name = built_name(recipe, resolved.kind, resolved.identity)
        try:
            local = await self._engine.image(name)
            shared = self._builds.get(name)
        except BaseException:
            resolved.remove()
            raise
        if local is not None or shared is not None:
            resolved.remove()
        if local is not None:
            say(BUILD_STEP, f"the image {name} is here already; nothing is built\n")
            return name, local
        if shared is None:
            shared = self._builds[name] = _Shared()
            work = self._build(name, recipe, sources, resolved, lent, shared)
            shared.task = asyncio.create_task(work, name=f"build {name}")
        await self._join(name, shared, say)
        if (built := await self._engine.image(name)) is None:
            raise BuildFailed(f"the image {name} was built, but the engine does not have it")
        return name, built

    async def clean(self) -> None:
        """Remove what builds of an earlier process left; does nothing while one of this process is under way."""
        async with self._gate:
            if not self._active:
                for container in await self._engine.find({BUILDER_LABEL: self._worker_id}):
                    found = await self._calls.container(container.id)
                    if found is not None and MARK in found.ulimits:
                        await self._engine.remove(container.id)
                await self._calls.remove_nameless_images(BUILDER_LABEL, self._worker_id)

    async def settle(self) -> None:
        """Wait for images that are still being pushed."""
        await self._cache.settle()

    async def _join(self, name: str, shared: _Shared, say: Say) -> None:
        """Wait for a build under way; it ends with the last who waits."""
        assert shared.task is not None
        for step, text in shared.said:
            say(step, text)
        me = object()
        shared.listeners[me] = say
        try:
            await asyncio.shield(shared.task)
        finally:
            del shared.listeners[me]
            if not shared.listeners and not shared.task.done():
                if self._builds.get(name) is shared:
                    del self._builds[name]
                shared.task.cancel()
                await asyncio.wait([shared.task])

    async def _build(
        self, name: str, recipe: Recipe, sources: Sources[R], resolved: R, lent: Lent, shared: _Shared
    ) -> None:
        """Errors: as ``ensure``."""
        limit_s = self._grant.build_limit_s
        try:
            async with asyncio.timeout(limit_s) as limit:
                if await self._cache.take(name, shared.say):
                    return
                packed = await sources.pack(resolved, recipe, lambda text: shared.say(CLONE_STEP, text))
                try:
                    await self._build_packed(name, recipe, packed, lent, shared.say)
                finally:
                    packed.remove()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise BuildTimedOut(
                f'the image was not built within {show_duration(limit_s)}; the last step begun was "{shared.stage}"'
            ) from error
        finally:
            resolved.remove()
            if self._builds.get(name) is shared:
                del self._builds[name]
        self._cache.keep(name, tuple(shared.listeners.values()))

    # One build ------------------------------------------------------------------------------------------------------

    async def _build_packed(self, name: str, recipe: Recipe, packed: Packed, lent: Lent, say: Say) -> None:
        context = await asyncio.to_thread(read_context, packed.tar, packed.dockerfile)
        info = await self._engine.info()
        plan = plan_build(context.text, recipe, self._grant, arch=info.arch, worker_id=self._worker_id)
        if not self._grant.rules.trusts_builds and not await self._calls.steps_are_containers():
            raise StepsUnbounded(
                "this worker's engine runs the steps of a build where they cannot be kept within limits"
            )
        for note in plan.notes:
            say(BUILD_STEP, f"{note}\n")
        adds = plan.adds + await self._have_bases(plan, say)
        if adds and not self._grant.rules.trusts_builds:
            await self._check_archives(packed.tar, adds)
        log = BuildLog(lambda text: say(BUILD_STEP, text))
        pids = self._grant.rules.pids if self._grant.pids is None else self._grant.pids
        fence = Fence(
            self._engine, log, self._seen, worker_id=self._worker_id, pids=pids, max_bytes=self._grant.max_image_bytes
        )
        build_id = secrets.token_hex(16)
        held = contextlib.AsyncExitStack()
        async with self._tidied():
            network = await held.enter_async_context(lent.network())
            try:
                query = build_query(
                    plan,
                    image=name,
                    target=recipe.target,
                    dockerfile=packed.dockerfile,
                    network=network,
                    ulimits=fence.ulimits,
                    allotment=lent.allotment,
                    labels={BUILD_LABEL: name.partition(":")[2], BUILDER_LABEL: self._worker_id},
                    build_id=build_id,
                )
                body = stream(packed.tar, context.end, packed.dockerfile, plan.dockerfile)
                await self._run(query, body, log, fence)
            finally:
                log.close()
                if plan.buildkit:
                    await self._calls.cancel(build_id)
                await _both(fence.clear(), held.aclose())
        if log.error:
            raise _failure(log, lent.allotment)
        await self._check_size(name)

    async def _have_bases(self, plan: BuildPlan, say: Say) -> int:
        """Fetch and judge the images that the build begins from; how many of them may unpack archives?

        For another platform than its own the engine fetches them itself: what is here is not that platform's.
        """
        adds = 0
        for image in () if plan.platform else plan.images:
            await self._images.ensure(image, lambda text: say(PULL_STEP, text), limit_s=self._grant.pull_limit_s)
            details = await self._calls.image(image)
            if details is None:
                raise BuildFailed(f"the image {image} was here a moment ago, and is gone")
            adds += check_base(image, details, self._grant)
        return adds

    async def _check_archives(self, tar: Path, adds: int) -> None:
        stop = threading.Event()
        try:
            await asyncio.to_thread(check_archives, tar, times=adds, limit_bytes=self._grant.max_image_bytes, stop=stop)
        finally:
            stop.set()

    @contextlib.asynccontextmanager
    async def _tidied(self) -> AsyncIterator[None]:
        """Count the builds under way; after the last of them remove layers that have no name."""
        async with self._gate:
            self._active += 1
        try:
            yield
        finally:
            self._active -= 1
            async with self._gate:
                if not self._active:
                    await self._calls.remove_nameless_images(BUILDER_LABEL, self._worker_id)

    async def _run(self, query: dict[str, str], body: AsyncIterator[bytes], log: BuildLog, fence: Fence) -> None:
        """Build, while the fence watches. Errors: BuildTooLarge, StepsUnbounded, BuildFailed, Unavailable."""
        watch = asyncio.create_task(fence.watch(), name="watch a build")
        work = asyncio.create_task(self._follow(query, body, log, fence), name="follow a build")
        try:
            await asyncio.wait([watch, work], return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                raise first_cause(watch.exception() or AssertionError("a build's watch ended"))
            await work
        finally:
            for task in (work, watch):
                task.cancel()
            await asyncio.wait([work, watch])

    async def _follow(self, query: dict[str, str], body: AsyncIterator[bytes], log: BuildLog, fence: Fence) -> None:
        await fence.ready()
        reader = EventReader()
        try:
            async with self._calls.build(query, body) as pieces:
                async for piece in pieces:
                    for event in reader.feed(piece):
                        log.feed(event)
        except EngineError as error:
            raise BuildFailed(f"the engine refuses the build: {error.message}") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise Unavailable(f"the engine's answer broke off in the middle of a build: {error}") from error

    async def _check_size(self, name: str) -> None:
        """Errors: BuildTooLarge, and the image is gone; BuildFailed if there is none."""
        image = await self._calls.image(name)
        limit = self._grant.max_image_bytes
        if image is None:
            raise BuildFailed("the engine ended the build without an image and without an error")
        if image.size_bytes > limit:
            await self._calls.remove_image(name)
            raise BuildTooLarge(
                f"the image has {show_bytes(image.size_bytes)}; at most {show_bytes(limit)} are allowed"
            )


async def _both(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Wait for both, also if one fails; then its failure is raised."""
    for answer in await asyncio.gather(one, other, return_exceptions=True):
        if answer is not None:
            raise answer


def _failure(log: BuildLog, allotment: Allotment) -> BuildFailed:
    """The engine's words, the last lines, and what is likely to help."""
    words, lines = log.error, "".join(list(log.last)[-_LAST_LINES:]).strip()
    message = f"the image could not be built: {words}"
    if lines:
        message += f"\nthe log ends with:\n{lines}"
    hint = ""
    if "exec format error" in words + lines:
        hint = "The image is for another processor than this worker's; look for one that fits, or set build.platform."
    elif words.rstrip().endswith(("code: 137", "code: 137.")):
        hint = f"The step was killed; a build may use {show_bytes(allotment.memory_bytes)} of memory, as the job may."
    return BuildFailed(message, hint=hint)
