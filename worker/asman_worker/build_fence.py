"""The containers in which an engine runs the steps of one build: found, bounded, measured, and ended.

The engine's build call bounds memory and processor, and puts the steps into the network that it is told to. It cannot
bound processes, nor what is written; and nothing in a step's container says which build it belongs to, except what
the build call asks for all of them. So each build asks for a number of its own as the limit on file locks, which no
kernel has looked at since Linux 2.4.25: a mark that no Dockerfile can set or take away, unlike a label.

Source: Docker Engine API v1.41, ``POST /build``, ``POST /containers/{id}/update``; setrlimit(2), RLIMIT_LOCKS.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import NoReturn

import aiohttp

from asman.errors import AsmanError, Unavailable
from asman.units import show_bytes
from asman_worker.build_calls import BuildCalls, StepContainer
from asman_worker.build_log import MOST_LAYERS, BuildLog, EventReader
from asman_worker.docker import Engine, EngineError

__all__ = ["BUILDER_LABEL", "MARK", "BuildTooLarge", "Fence", "SeenContainers", "StepsUnbounded"]

BUILDER_LABEL = "asman.builder"
"""The worker's id on what its builds make. Not ``asman.worker``: containers inherit labels from their image, and one
with that label is the worker's to remove."""

MARK = "locks"
"""The limit whose value says which build a container belongs to; containers of other origin have none."""
_LISTEN_AGAIN_S = 0.5
_LOOK_EVERY_S = 0.5
_TRIES = 20
_TRY_AGAIN_S = 0.05
_AT_ONCE = 4
"""Steps run one after the other; the last few containers are all that can be alive."""


class BuildTooLarge(AsmanError):
    """A build wrote more than the owner allows."""

    status = 422
    code = "build_too_large"
    hint = "Remove what a step does not need in that same step, or start from a smaller image."


class StepsUnbounded(AsmanError):
    """The engine cannot keep a build's steps within the owner's limits."""

    status = 422
    code = "build_unbounded"
    hint = "Build the image elsewhere and name it in definition.image; the worker's owner may look at the engine."


class SeenContainers:
    """What the engine says of its containers as far as it cannot change: asked once for all builds under way."""

    def __init__(self, calls: BuildCalls) -> None:
        self._calls = calls
        self._asked: dict[str, asyncio.Task[StepContainer | None]] = {}

    async def of(self, container: str) -> StepContainer | None:
        """None if it was gone already."""
        task = self._asked.get(container)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._asked[container] = asyncio.create_task(self._calls.container(container), name="look")
        return await asyncio.shield(task)

    def keep_only(self, there: set[str]) -> None:
        """Forget those that the engine does not have any more."""
        for container in [name for name, task in self._asked.items() if name not in there and task.done()]:
            del self._asked[container]


class Fence:
    """The steps of one build.

    Shape:  ``ulimits`` is what the build call must ask for; ``seen`` is shared by all builds on this engine.
    Units:  ``max_bytes`` is for all layers and everything that a step has written, together.
    """

    def __init__(
        self, engine: Engine, log: BuildLog, seen: SeenContainers, *, worker_id: str, pids: int, max_bytes: int
    ) -> None:
        self._engine = engine
        self._calls = BuildCalls(engine)
        self._log = log
        self._seen = seen
        self._worker_id = worker_id
        self._pids = pids
        self._max_bytes = max_bytes
        self._number = 1 + secrets.randbelow(1 << 52)
        self._looked_at: set[str] = set()
        self._ours: dict[str, StepContainer] = {}
        self._sizes: dict[str, int] = {}
        self._counted: set[str] = set()
        self._layers_bytes = 0
        self._lines_seen = 0
        self._listens = asyncio.Event()

    @property
    def ulimits(self) -> list[dict[str, int | str]]:
        limits = {"core": 0, "fsize": self._max_bytes, MARK: self._number}
        return [{"Name": name, "Soft": value, "Hard": value} for name, value in limits.items()]

    async def ready(self) -> None:
        """Until new containers are noticed. ``watch`` must be running."""
        await self._listens.wait()

    async def watch(self) -> NoReturn:
        """Bound each step as it begins, and look at what it writes; ends only by an error.

        Errors: BuildTooLarge, StepsUnbounded, in an exception group.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._measure())
        raise AssertionError("a build's watch ended")

    async def clear(self) -> None:
        """Kill and remove what there is of the steps."""
        while True:
            there = await self._calls.container_ids()
            self._seen.keep_only(there)
            for container in there - self._looked_at:
                await self._look_at(container)
            left = there & self._ours.keys()
            if not left:
                return
            for container in left:
                await self._engine.remove(container)

    async def _listen(self) -> NoReturn:
        while True:
            try:
                async with self._calls.created_containers() as pieces:
                    self._listens.set()
                    reader = EventReader()
                    async for piece in pieces:
                        for event in reader.feed(piece):
                            await self._look_at(str(event.get("id") or event["Actor"]["ID"]))
            except (aiohttp.ClientError, Unavailable, ValueError, KeyError):
                pass  # the engine is restarting, or will say so to the build itself
            await asyncio.sleep(_LISTEN_AGAIN_S)

    async def _look_at(self, container: str) -> None:
        """Bound it if it is ours. Errors: StepsUnbounded."""
        if container in self._looked_at:
            return
        self._looked_at.add(container)
        found = await self._seen.of(container)
        if found is None or found.ulimits.get(MARK) != self._number:
            return
        self._ours[container] = found
        await self._bound(container)

    async def _bound(self, container: str) -> None:
        """Limit its processes. A step may end at any moment, of which the engine learns a little later.

        Errors: StepsUnbounded, and it is gone.
        """
        for _ in range(_TRIES):
            try:
                await self._calls.limit_processes(container, self._pids)
                return
            except EngineError as error:
                reason = error.message
            found = await self._calls.container(container)
            if found is None or found.has_ended:
                return
            await asyncio.sleep(_TRY_AGAIN_S)
        await self._engine.remove(container)
        raise StepsUnbounded(f"the engine cannot limit the processes of a build: {reason}")

    async def _measure(self) -> NoReturn:
        """Look twice a second, less often where looking takes long; the overshoot is what is written in between."""
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            written = await self._measure_layers() + await self._measure_steps()
            if written > self._max_bytes:
                raise BuildTooLarge(
                    f"the build has written {show_bytes(written)}; at most {show_bytes(self._max_bytes)} are allowed"
                )
            await asyncio.sleep(max(_LOOK_EVERY_S, 4 * (loop.time() - begun)))

    async def _measure_layers(self) -> int:
        """What finished steps have added, in all stages, each over what it began with.

        The log says which layers are this build's, the engine which of those there are.

        Errors: StepsUnbounded for a log that hides them in a crowd.
        """
        if len(self._log.layers) == self._lines_seen:
            return self._layers_bytes
        if len(self._log.layers) >= MOST_LAYERS:
            raise StepsUnbounded("the build writes lines that look like the engine's own, too many to tell them apart")
        self._lines_seen = len(self._log.layers)
        for image, (size, parent) in (await self._calls.layers(BUILDER_LABEL, self._worker_id)).items():
            if image[7:19] in self._log.layers and image not in self._counted:
                self._counted.add(image)
                self._layers_bytes += max(0, size - await self._size_of(parent))
        return self._layers_bytes

    async def _size_of(self, image: str) -> int:
        if image and image not in self._sizes:
            found = await self._calls.image(image)
            self._sizes[image] = found.size_bytes if found else 0
        return self._sizes.get(image, 0)

    async def _measure_steps(self) -> int:
        """What the step at hand has written: to its own files, and to volumes that its image asks for."""
        alive = list(self._ours.values())[-_AT_ONCE:]
        if not alive:
            return 0
        written = await self._calls.written_bytes(container.id for container in alive)
        volumes = [volume for container in alive for volume in container.volumes]
        return written + (await self._calls.volume_bytes(volumes) if volumes else 0)
