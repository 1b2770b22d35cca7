"""The network of jobs: none, the public internet only (``egress``), or whatever the host reaches (``open``).

A bridge alone keeps jobs from each other, but not from the host: the gateway of every bridge is the host itself, and
behind it lie the metadata service and the owner's network. Rules in the host's firewall would need rights there and
miss the packets that are for the host, and routes in the job's own namespace can be passed by (``guard`` says how).
So beside each job with egress stands a router, the *gate*, and a *guard* whose namespace the job joins and from which
a cable leads to the gate and to nothing else. Nothing but the engine's API is needed.

Both belong to one job (or one build) and are removed with it: neighbours share no loopback and no abstract socket.
One spare pair is kept ready, because joining a namespace that exists takes half the time of making one. Two that are
made at the same time take longer than one after the other, so a job that comes while the spare is being made waits for
it, and no spare is made while the job that took the last one is being started.

Source: contract, "Network classes"; promise W2.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import re
import secrets
import shutil
import tarfile
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import Any

from asman.errors import AsmanError, clip
from asman_worker.addresses import Routes, local_addresses, read_addresses, routes_of
from asman_worker.docker import Engine, EngineError
from asman_worker.grant import EGRESS_NETWORK, NETWORK, Grant
from asman_worker.guard import (
    ADDRESS,
    APPLETS,
    FORWARDS,
    GUARD_LABEL,
    NO_IPV6,
    READY,
    containers_of,
    gate_body,
    guard_body,
    guard_name,
    guard_script,
    looker_body,
    new_guard,
)
from asman_worker.images import Images, PullFailed

__all__ = ["Networks", "NoGuard", "has_static_busybox"]

_log = logging.getLogger(__name__)

_NEVER = re.compile(r"(?!)")
_READY_WITHIN_S = 60.0
_ADDRESSES_FRESH_S = 300.0
_REFILL_AFTER_S = 1.0


class NoGuard(AsmanError):
    """No guard can be made, so that no job with egress can be started safely."""

    status = 503
    code = "no_guard"
    hint = (
        "Give an image with busybox by --guard-image, let the engine pull it, install a static busybox here "
        "(Debian: busybox-static), or choose --network none or --network open."
    )


class Networks:
    """The networks of one worker's jobs on one engine.

    Errors: what cannot be had raises NoGuard, EngineError or Unavailable; a job never gets more than its class.
    """

    def __init__(self, engine: Engine, worker_id: str, grant: Grant, images: Images) -> None:
        self._engine, self._images, self._grant = engine, images, grant
        self._worker_id = worker_id
        self._live: set[str] = set()
        self._spare: tuple[str, Routes] | None = None
        self._coming: asyncio.Task[tuple[str, Routes]] | None = None
        """The spare that is being made, as long as no job waits for it."""
        self._spare_lock = asyncio.Lock()
        self._refill: asyncio.Task[None] | None = None
        self._is_calm = asyncio.Event()
        self._upkeep: asyncio.Task[None] | None = None
        self._routes: Routes | None = None
        self._routes_until = 0.0
        self._routes_lock = asyncio.Lock()
        self._refused_sysctls: frozenset[str] = frozenset()
        self._closed = False

    @property
    def live(self) -> frozenset[str]:
        """Names of guards that this process has made and not removed."""
        return frozenset(self._live)

    async def start(self) -> None:
        """Have a guard ready where the owner's jobs need one, or fail now. There already is fine.

        Errors: NoGuard, EngineError, Unavailable.
        """
        if self._grant.network_class == "egress":
            await self._have_spare()
            if self._upkeep is None:
                self._upkeep = asyncio.create_task(self._keep_up(), name="upkeep of networks")

    async def take(self, network_class: str) -> str:
        """A network of this class for one job, as the engine's network mode; ``release`` it afterwards."""
        if network_class == "none":
            return "none"
        if network_class == "open":
            await self._engine.ensure_network(NETWORK)
            return NETWORK
        await self._check_spare()
        guard, _ = await self._next()
        self._refill_soon()
        return f"container:{guard}"

    def started(self) -> None:
        """A job that took a network runs, and has no use for the engine's time any more: make another spare now."""
        self._is_calm.set()

    async def release(self, mode: str) -> None:
        """Done with it, also if the job never came to use it. Repeating it is harmless."""
        if name := guard_name(mode):
            await self._remove(name)

    @contextlib.asynccontextmanager
    async def lent(self, network_class: str) -> AsyncIterator[str]:
        """A network while inside."""
        mode = await self.take(network_class)
        try:
            yield mode
        finally:
            await asyncio.shield(self.release(mode))

    async def close(self) -> None:
        """Remove the spare guard; those of running jobs stay for the next start to find."""
        self._closed = True
        for task in filter(None, (self._refill, self._upkeep)):
            task.cancel()
            await asyncio.wait([task])
        spare, self._spare = self._spare, None
        if spare is not None:
            await self._remove_quietly(spare[0])

    # -- guards ------------------------------------------------------------------------------------------------------

    def _refill_soon(self) -> None:
        self._is_calm.clear()
        if self._refill is None or self._refill.done():
            self._refill = asyncio.create_task(self._fill(), name="spare guard")

    async def _fill(self) -> None:
        """A little later, so that the job which took the spare starts first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REFILL_AFTER_S):
                await self._is_calm.wait()
        try:
            await self._have_spare()
        except (AsmanError, EngineError) as error:
            _log.warning("no spare guard could be made", extra={"reason": getattr(error, "message", str(error))})

    async def _keep_up(self) -> None:
        """Look at the host again in good time, so that no job has to wait for it; replace a spare that is no use."""
        while True:
            await asyncio.sleep(_ADDRESSES_FRESH_S - 2 * _READY_WITHIN_S)
            try:
                await self._current_routes(renew=True)
                await self._have_spare()
            except (AsmanError, EngineError) as error:
                _log.warning("the host's addresses could not be read", extra={"reason": str(error)})

    async def _have_spare(self) -> None:
        async with self._spare_lock:
            await self._check_spare()
            if self._spare is None and not self._closed:
                await self._make_spare()

    async def _make_spare(self) -> None:
        """Until it is made, by this task; a job may have taken it by then, and has its failure too."""
        self._coming = coming = asyncio.create_task(self._make(), name="making of a spare guard")
        try:
            await asyncio.wait([coming])
        finally:
            is_ours = self._coming is coming
            if is_ours:
                self._coming = None
                coming.cancel()
                await asyncio.wait([coming])
                if not coming.cancelled() and coming.exception() is None:
                    self._spare = coming.result()
        if is_ours:
            coming.result()

    async def _next(self) -> tuple[str, Routes]:
        """The spare; or the one that is being made, which goes to one job only; or one that is made for this job."""
        spare, self._spare = self._spare, None
        if spare is not None:
            return spare
        coming, self._coming = self._coming, None
        if coming is None:
            return await self._make()
        try:
            return await coming
        except asyncio.CancelledError:
            if not coming.cancelled() and coming.exception() is None:
                await asyncio.shield(self._remove_quietly(coming.result()[0]))
            raise

    async def _check_spare(self) -> None:
        """Throw away a spare that does not run, or that has other routes than those that hold now."""
        routes, spare = await self._current_routes(), self._spare
        if spare is None or (spare[1] == routes and await self._is_up(spare[0])):
            return
        if self._spare is spare:
            self._spare = None
            await self._remove_quietly(spare[0])

    async def _is_up(self, name: str) -> bool:
        """A guard is one of the gate's processes to the kernel, and does not outlive it."""
        state = await self._engine.inspect(name)
        return state is not None and state.running

    async def _make(self) -> tuple[str, Routes]:
        """A guard whose gate lets through what it should, and the gate's routes."""
        image = await self._guard_image()
        routes = await self._current_routes()
        await self._engine.ensure_network(EGRESS_NETWORK)
        name = new_guard()
        self._live.add(name)
        try:
            try:
                await self._start_pair(name, image, routes)
            except EngineError as error:
                if not self._refuse_sysctls(error.message):
                    raise
                await self._remove_parts(name)
                await self._start_pair(name, image, routes)
        except BaseException:
            await asyncio.shield(self._remove_quietly(name))
            raise
        return name, routes

    def _refuse_sysctls(self, message: str) -> bool:
        """Do without what this kernel or engine does not know; False if the message is about something else.

        A kernel without IPv6 has none to switch off. Newer engines make the interface after they have set these
        values, and refuse its name: there it takes over the default's.
        """
        words = {word for word in ("disable_ipv6", "eth0.rp_filter", "eth0/rp_filter") if word in message}
        refused = {word.replace("/", ".") for word in words} - self._refused_sysctls
        self._refused_sysctls |= refused
        return bool(refused)

    def _sysctls(self, wanted: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in wanted.items() if not name.endswith(tuple(self._refused_sysctls))}

    async def _start_pair(self, name: str, image: str, routes: Routes) -> None:
        """The gate, then the guard, then the gate's word that the cable is in. Errors: NoGuard, EngineError."""
        guard, gate = containers_of(name)
        labels = {"asman.helper": self._worker_id, GUARD_LABEL: name}
        await self._engine.create(gate_body(image, labels, routes, self._sysctls({**FORWARDS, **NO_IPV6})), name=gate)
        async with contextlib.AsyncExitStack() as stack:
            gate_says = _Voice(await stack.enter_async_context(self._engine.attach(gate)))
            await self._engine.start(gate)
            found = await gate_says.until(ADDRESS)
            script = guard_script(found[1], found[2])
            body = guard_body(image, labels, script, self._sysctls(NO_IPV6), gate=gate, dns=self._grant.dns)
            body["HostConfig"]["ExtraHosts"] = [f"{body['Hostname']}:{found[1]}"]
            await self._engine.create(body, name=guard)
            guard_says = _Voice(await stack.enter_async_context(self._engine.attach(guard)))
            await self._engine.start(guard)
            await _first(gate_says.until(READY), guard_says.until(_NEVER))

    async def _run(self, body: Mapping[str, Any], name: str) -> str:
        await self._engine.create(body, name=name)
        async with self._engine.attach(name) as chunks:
            await self._engine.start(name)
            return await _Voice(chunks).rest()

    async def _remove(self, name: str) -> None:
        await self._remove_parts(name)
        self._live.discard(name)

    async def _remove_parts(self, name: str) -> None:
        for part in containers_of(name):
            await self._engine.remove(part)

    async def _remove_quietly(self, name: str) -> None:
        with contextlib.suppress(AsmanError, EngineError):
            await self._remove(name)

    # -- what a guard needs ------------------------------------------------------------------------------------------

    async def _guard_image(self) -> str:
        """The image of guards: here, pulled, or made of this machine's own static busybox."""
        image = self._grant.guard_image
        if await self._engine.image(image) is not None:
            return image
        try:
            await self._images.ensure(image, lambda text: None, limit_s=self._grant.pull_limit_s)
        except PullFailed as error:
            tree = await asyncio.to_thread(_busybox_tree)
            if tree is None:
                raise NoGuard(f"jobs with egress need the image {image}, and {error.message}") from error
            _log.info("the image of guards is made of this machine's busybox", extra={"image": image})
            await self._engine.import_image(image, tree)
        return image

    async def _current_routes(self, *, renew: bool = False) -> Routes:
        """Looked up again when old."""
        async with self._routes_lock:
            now = asyncio.get_running_loop().time()
            if renew or self._routes is None or now > self._routes_until:
                grant = self._grant
                host = await self._host_addresses()
                self._routes = routes_of(
                    host, deny=grant.deny_networks, allow=grant.allow_networks, resolvers=grant.dns
                )
                self._routes_until = now + _ADDRESSES_FRESH_S
            return self._routes

    async def _host_addresses(self) -> frozenset[str]:
        """Addresses of the engine's host, seen by a helper in its network, and those of this process's own."""
        image = await self._guard_image()
        name = f"asman-addresses-{secrets.token_hex(8)}"
        try:
            said = await self._run(looker_body(image, self._worker_id), name)
        finally:
            await asyncio.shield(self._engine.remove(name))
        found = read_addresses(said)
        if not found:
            raise NoGuard(f"the addresses of the engine's host could not be read: {clip(said.strip())}")
        with contextlib.suppress(OSError):
            found |= local_addresses(await asyncio.to_thread(Path("/proc/net/fib_trie").read_text))
        return found


class _Voice:
    """What a helper says, read as far as it is needed."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._said = ""

    async def until(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Errors: NoGuard, with what it said, if it ends or stays silent instead."""
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                while (found := pattern.search(self._said)) is None:
                    self._said += (await anext(self._chunks)).decode(errors="replace")
        except TimeoutError as error:
            raise NoGuard(f"a job's network was not ready within {_READY_WITHIN_S:.0f} s: {self._clipped()}") from error
        except StopAsyncIteration as error:
            raise NoGuard(f"the guard of a job's network did not start: {self._clipped()}") from error
        return found

    async def rest(self) -> str:
        """All that it says until it ends."""
        with contextlib.suppress(StopAsyncIteration, TimeoutError):
            async with asyncio.timeout(_READY_WITHIN_S):
                while True:
                    self._said += (await anext(self._chunks)).decode(errors="replace")
        return self._said

    def _clipped(self) -> str:
        return clip("".join(c for c in self._said if c.isprintable() or c == "\n").strip())


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Until one of them is done; its failure is ours."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def has_static_busybox() -> bool:
    """Can the image of guards be made of this machine's own busybox?"""
    return bool(_static_busybox())


def _static_busybox() -> bytes:
    """The busybox in PATH, empty if there is none or if it needs libraries."""
    found = shutil.which("busybox")
    program = Path(found).read_bytes() if found else b""
    return b"" if not program.startswith(b"\x7fELF") or b"/ld-" in program[:4096] else program


def _busybox_tree() -> bytes | None:
    """A root file system of the busybox in PATH, if that needs no libraries."""
    program = _static_busybox()
    if not program:
        return None
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in ("bin", "dev", "etc", "proc", "sys"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        entry = tarfile.TarInfo("bin/busybox")
        entry.mode, entry.size = 0o755, len(program)
        tar.addfile(entry, io.BytesIO(program))
        for applet in APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return out.getvalue()
