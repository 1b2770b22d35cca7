"""The image of one job: the one it names, or the one that is built for it.

Owns what both need: one set of pulls, one builder, the sources of builds and where they are kept for the moment. The
log of either goes to the job under the steps that older workers use, which a server shows apart from the run's.

Source: contract, "Image pull" and "Image build".
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import aiohttp

from asman_worker.attempt import Attempt
from asman_worker.build_cache import PULL_STEP
from asman_worker.builder import Builder, Lent
from asman_worker.docker import Engine, ImageInfo
from asman_worker.grant import Grant
from asman_worker.images import Images
from asman_worker.limits import Allotment, build_network_class
from asman_worker.network import Networks
from asman_worker.runtime import insist
from asman_worker.sources import Sources
from asman_worker.stock import Stock

__all__ = ["PULL_STEP", "JobImages"]

_MOST_FILES = 100_000


class JobImages:
    """The images of all jobs of one worker.

    Shape:  ``scratch`` is a folder for the sources of builds, this worker's alone; ``secret_for`` answers for the
            names that sources may ask for.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        grant: Grant,
        worker_id: str,
        images: Images,
        stock: Stock,
        networks: Networks,
        scratch: Path,
        session: aiohttp.ClientSession,
        secret_for: Callable[[str, str], str],
    ) -> None:
        self._engine = engine
        self._grant = grant
        self._session = session
        self._secret_for = secret_for
        self._scratch = scratch
        self._own = f"{int(time.time())}-{secrets.token_hex(4)}"
        self._images = images
        self._stock = stock
        self._networks = networks
        self._builder = Builder(engine, images, grant=grant, worker_id=worker_id)

    async def ensure(self, job: Attempt, allotment: Allotment) -> ImageInfo:
        """Have the job's image here; ``job.image`` is its name afterwards.

        Errors: as ``Images.ensure`` and ``Builder.ensure``.
        """
        job.at_step("build" if job.recipe else "image")
        await insist(self._engine.ping)

        def say(step: str, text: str) -> None:
            job.log(step, [[text, int(time.time() * 1000)]])

        if job.recipe is None:
            limit_s = self._grant.pull_limit_s
            return await self._images.ensure(job.image, lambda text: say(PULL_STEP, text), limit_s=limit_s)
        sources = self._sources(job.assignment.server_url)
        network = build_network_class(job.assignment.definition, self._grant)
        lent = Lent(allotment=allotment, network=partial(self._networks.lent, network))
        job.image, built = await self._builder.ensure(sources, job.recipe, lent, say)
        if self._stock.has_image(job.image):
            await self._stock.use_image(job.image)
        else:
            await self._stock.add_image(job.image, built.id, built.size_bytes)
        return built

    async def clean(self) -> None:
        """Remove what builds of an earlier process left."""
        await self._builder.clean()
        await asyncio.to_thread(self._clean_scratch)

    async def settle(self) -> None:
        """Wait for images that are still being pushed."""
        await self._builder.settle()

    def _clean_scratch(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            for folder in self._scratch.iterdir():
                if folder.name != self._own:
                    shutil.rmtree(folder, ignore_errors=True)

    def _sources(self, server_url: str) -> Sources:
        return Sources(
            private_addresses=self._grant.rules.private_addresses,
            secret_for=self._secret_for,
            scratch=self._scratch / self._own,
            max_bytes=self._grant.max_input_bytes,
            max_files=_MOST_FILES,
            session=self._session,
            server_url=server_url,
            limit_s=self._grant.fetch_limit_s,
        )
