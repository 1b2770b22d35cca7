"""The network of jobs: none, the public internet only (``egress``), or whatever the host reaches (``open``).

A bridge alone keeps jobs from each other, but not from the host: the gateway of every bridge is the host itself, and
behind it lie the metadata service and the owner's network. Rules in the host's firewall would need rights there and
miss the packets that are for the host. So each job with egress joins the network namespace of a *guard*: a tiny
container that has replaced its routes by ``unreachable`` ones and keeps the namespace open. The job has no right to
change routes, and nothing but the engine's API is needed.

A guard belongs to one job (or one build) and is removed with it: neighbours share no loopback and no abstract socket.
One spare is kept ready, because joining a namespace that exists takes half the time of making one.

Source: contract, "Network classes"; promise W2.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import secrets
import shutil
import tarfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from asman.errors import AsmanError, clip
from asman_worker.addresses import Routes, local_addresses, read_addresses, routes_of
from asman_worker.docker import Engine, EngineError
from asman_worker.grant import EGRESS_NETWORK, NETWORK, Grant
from asman_worker.images import Images, PullFailed

__all__ = ["GUARD_LABEL", "Networks", "NoGuard", "guard_name", "guard_script"]

_log = logging.getLogger(__name__)

GUARD_LABEL = "asman.guard"
"""On a guard: its name. On a job's container: the name of the guard whose network it joined."""

_READY = "asman-guard-ready"
_READY_WITHIN_S = 60.0
_ADDRESSES_FRESH_S = 300.0
_REFILL_AFTER_S = 1.0
_MEMORY_BYTES = 16 << 20
_APPLETS = ("ip", "sed", "sh", "sleep")


class NoGuard(AsmanError):
    """No guard can be made, so that no job with egress can be started safely."""

    status = 503
    code = "no_guard"
    hint = (
        "Give an image with sh and ip by --guard-image, let the engine pull it, install a static busybox here "
        "(Debian: busybox-static), or choose --network none or --network open."
    )


def guard_name(mode: str) -> str:
    """The guard behind an engine's network mode; empty if there is none."""
    return mode.partition(":")[2]


def guard_script(routes: Routes) -> str:
    """What a guard does: replace its routes, say so, stay.

    The route to its own subnet goes too, so that of all neighbours only the gateway is left, as the next hop and
    not as an address.
    """
    lines = [
        "set -e",
        "gw=$(ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p')",
        "near=$(ip route | sed -n 's/^\\([0-9.]*\\/[0-9]*\\) dev.*/\\1/p')",
        'test -n "$gw"',
        "ip route del default",
        "ip route add default via $gw dev eth0 onlink",
        "for n in $near; do ip route del $n dev eth0; done",
        *(f"ip route replace unreachable {network}" for network in routes.unreachable),
        *(f"ip route replace {network} via $gw dev eth0 onlink" for network in routes.reachable),
        "ip route replace unreachable $gw/32",
        f"echo {_READY}",
        "exec sleep 2147483647",
    ]
    return "\n".join(lines)


class Networks:
    """The networks of one worker's jobs on one engine.

    Errors: what cannot be had raises NoGuard, EngineError or Unavailable; a job never gets more than its class.
    """

    def __init__(self, engine: Engine, worker_id: str, grant: Grant, images: Images) -> None:
        self._engine, self._images, self._grant = engine, images, grant
        self._worker_id = worker_id
        self._live: set[str] = set()
        self._spare: str | None = None
        self._refill: asyncio.Task[None] | None = None
        self._routes: Routes | None = None
        self._routes_until = 0.0
        self._routes_lock = asyncio.Lock()
        self._has_ipv6 = True
        self._closed = False

    @property
    def live(self) -> frozenset[str]:
        """Names of guards that this process has made and not removed."""
        return frozenset(self._live)

    async def start(self) -> None:
        """Have a guard ready where the owner's jobs need one, or fail now.

        Errors: NoGuard, EngineError, Unavailable.
        """
        if self._grant.network_class == "egress":
            self._spare = await self._make()

    async def take(self, network_class: str) -> str:
        """A network of this class for one job, as the engine's network mode; ``release`` it afterwards."""
        if network_class == "none":
            return "none"
        if network_class == "open":
            await self._engine.ensure_network(NETWORK)
            return NETWORK
        await self._current_routes()
        name, self._spare = self._spare, None
        if name is not None and not await self._is_up(name):
            await self._remove(name)
            name = None
        if name is None:
            name = await self._make()
        self._refill_soon()
        return f"container:{name}"

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
        if self._refill is not None:
            self._refill.cancel()
            await asyncio.wait([self._refill])
        if self._spare is not None:
            name, self._spare = self._spare, None
            with contextlib.suppress(AsmanError, EngineError):
                await self._remove(name)

    # -- guards ------------------------------------------------------------------------------------------------------

    def _refill_soon(self) -> None:
        if self._refill is None or self._refill.done():
            self._refill = asyncio.create_task(self._fill(), name="spare guard")

    async def _fill(self) -> None:
        """A little later, so that the job which took the spare starts first."""
        await asyncio.sleep(_REFILL_AFTER_S)
        if self._spare is not None or self._closed:
            return
        try:
            self._spare = await self._make()
        except (AsmanError, EngineError) as error:
            _log.warning("no spare guard could be made", extra={"reason": getattr(error, "message", str(error))})

    async def _is_up(self, name: str) -> bool:
        state = await self._engine.inspect(name)
        return state is not None and state.running

    async def _make(self) -> str:
        """A guard whose routes stand."""
        image = await self._guard_image()
        script = guard_script(await self._current_routes())
        await self._engine.ensure_network(EGRESS_NETWORK)
        name = f"asman-guard-{secrets.token_hex(8)}"
        self._live.add(name)
        try:
            try:
                said = await self._start(name, image, script)
            except EngineError as error:
                if not self._has_ipv6 or "disable_ipv6" not in error.message:
                    raise
                self._has_ipv6 = False  # the kernel has none, so there is none to switch off
                await self._remove(name)
                self._live.add(name)
                said = await self._start(name, image, script)
            if _READY not in said:
                raise NoGuard(f"the guard of a job's network did not start: {clip(said.strip())}")
        except BaseException:
            await asyncio.shield(self._remove_quietly(name))
            raise
        return name

    async def _start(self, name: str, image: str, script: str) -> str:
        """Create and start it; what it said until it was ready, or until it ended."""
        body = _guard_body(name, image, script, self._worker_id, self._grant.dns, has_ipv6=self._has_ipv6)
        return await self._run(body, name, until=_READY)

    async def _run(self, body: Mapping[str, Any], name: str, *, until: str = "") -> str:
        said = b""
        await self._engine.create(body, name=name)
        async with self._engine.attach(name) as chunks:
            await self._engine.start(name)
            try:
                async with asyncio.timeout(_READY_WITHIN_S):
                    async for chunk in chunks:
                        said += chunk
                        if until and until.encode() in said:
                            break
            except TimeoutError as error:
                raise NoGuard(f"a helper did not answer within {_READY_WITHIN_S:.0f} s") from error
        return said.decode(errors="replace")

    async def _remove(self, name: str) -> None:
        await self._engine.remove(name)
        self._live.discard(name)

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

    async def _current_routes(self) -> Routes:
        """Looked up again when old; a spare guard with other routes is thrown away."""
        async with self._routes_lock:
            now = asyncio.get_running_loop().time()
            if self._routes is None or now > self._routes_until:
                grant = self._grant
                host = await self._host_addresses()
                routes = routes_of(host, deny=grant.deny_networks, allow=grant.allow_networks, resolvers=grant.dns)
                if self._routes not in (None, routes) and self._spare is not None:
                    stale, self._spare = self._spare, None
                    await self._remove(stale)
                self._routes, self._routes_until = routes, now + _ADDRESSES_FRESH_S
            return self._routes

    async def _host_addresses(self) -> frozenset[str]:
        """Addresses of the engine's host, seen by a helper in its network, and those of this process's own."""
        image = await self._guard_image()
        name = f"asman-addresses-{secrets.token_hex(8)}"
        try:
            said = await self._run(_looker_body(image, self._worker_id), name)
        finally:
            await asyncio.shield(self._engine.remove(name))
        found = read_addresses(said)
        if not found:
            raise NoGuard(f"the addresses of the engine's host could not be read: {clip(said.strip())}")
        with contextlib.suppress(OSError):
            found |= local_addresses(await asyncio.to_thread(Path("/proc/net/fib_trie").read_text))
        return found


def _guard_body(
    name: str, image: str, script: str, worker_id: str, dns: tuple[str, ...], *, has_ipv6: bool
) -> dict[str, Any]:
    off = {f"net.ipv6.conf.{which}.disable_ipv6": "1" for which in ("all", "default")}
    body = _helper_body(image, ["/bin/sh", "-c", script], {"asman.helper": worker_id, GUARD_LABEL: name})
    config = body["HostConfig"] | {
        "NetworkMode": EGRESS_NETWORK,
        "CapAdd": ["NET_ADMIN"],
        "Dns": list(dns),
        "Sysctls": off if has_ipv6 else {},
    }
    return {**body, "Hostname": "job", "HostConfig": config}


def _looker_body(image: str, worker_id: str) -> dict[str, Any]:
    body = _helper_body(image, ["/bin/sh", "-c", "ip -4 -o addr"], {"asman.helper": worker_id})
    return {**body, "HostConfig": body["HostConfig"] | {"NetworkMode": "host", "UsernsMode": "host"}}


def _helper_body(image: str, command: list[str], labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "Image": image,
        "Entrypoint": command[:1],
        "Cmd": command[1:],
        "User": "0:0",
        "Labels": dict(labels),
        "AttachStdout": True,
        "AttachStderr": True,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "Memory": _MEMORY_BYTES,
            "MemorySwap": _MEMORY_BYTES,
            "PidsLimit": 16,
            "IpcMode": "private",
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "none"},
        },
    }


def _busybox_tree() -> bytes | None:
    """A root file system of the busybox in PATH, if that needs no libraries."""
    found = shutil.which("busybox")
    program = Path(found).read_bytes() if found else b""
    if not program.startswith(b"\x7fELF") or b"/ld-" in program[:4096]:
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
        for applet in _APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return out.getvalue()
