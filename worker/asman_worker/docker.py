"""A thin adapter over the container engine's API: it passes on what it is given and decides nothing.

Two clients: one without a time limit for what waits on a job (its end, its output, a pull), one with a limit for
everything else, so that an engine that hangs is noticed. Output is read raw, in large pieces: parsing frames in
``logs`` costs a tenth of what a frame-by-frame reader costs.

Attach comes before start: the engine connects the streams before it answers, so no first byte is lost.

Source: Docker Engine API v1.41. Any engine that speaks it will do (rootless Docker, Podman's socket).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import math
import os
import tarfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
from aiodocker import Docker
from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError
from aiodocker.networks import DockerNetwork

from asman.completion import to_the_end
from asman.errors import Unavailable
from asman_worker.abilities import log_driver, missing_limits, reads_as_podman

__all__ = [
    "Container",
    "ContainerState",
    "Engine",
    "EngineError",
    "EngineInfo",
    "ImageInfo",
    "engine_address",
    "read_moment",
]

_QUICK = aiohttp.ClientTimeout(total=60, sock_connect=10)
_PATIENT = aiohttp.ClientTimeout(total=None, sock_connect=10)
_READ_BYTES = 1 << 18
_UNREACHABLE = 900
_NETWORK_TRIES = 10
_DEFAULT_SOCKET = "/var/run/docker.sock"

EngineError = DockerError
"""What the engine refused: ``status`` and ``message`` are its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What the engine says about its host.

    Shape:  ``kind`` is ``docker`` or ``podman``; ``log_driver`` keeps a container's output within a bound; ``lacks``
            names the limits that the engine cannot keep (see ``abilities``). ``fences`` maps what it fences containers
            in with (``seccomp``, ``apparmor``, ``selinux``, ``rootless``, ``userns``, ...) to the profile of it, empty
            where it names none; ``runtimes`` may be asked for by name. ``data_root`` is a path on that
            host, where images and volumes lie.
    """

    cores: int
    memory_bytes: int
    arch: str
    version: str
    kind: str = "docker"
    log_driver: str = "local"
    lacks: tuple[str, ...] = ()
    fences: Mapping[str, str] = field(default_factory=dict)
    runtimes: tuple[str, ...] = ()
    data_root: str = ""

    @property
    def takes_seccomp(self) -> bool:
        """Can a filter of system calls be sent along with a container? Podman's socket takes the name of a file."""
        return self.kind != "podman"

    @property
    def selinux(self) -> bool:
        return "selinux" in self.fences


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """What an image says about itself."""

    id: str
    user: str
    has_entrypoint: bool
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One line of a listing. Shape: ``state`` is ``created``, ``running``, ``exited``, ... as the engine says."""

    id: str
    state: str
    labels: Mapping[str, str]
    image: str = ""

    @property
    def is_running(self) -> bool:
        return self.state in ("running", "paused", "restarting")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """How a container is, or how it ended. Units: seconds since the epoch, by the engine's clock; 0.0 for never."""

    status: str
    running: bool
    exit_code: int
    oom_killed: bool
    started_at: float
    finished_at: float
    error: str


def engine_address(env: Mapping[str, str] = os.environ, home: Path | None = None) -> str:
    """Where the engine listens, found as Docker's own tools find it.

    DOCKER_HOST wins, then the context (DOCKER_CONTEXT or the chosen one), then the first socket that exists, rootless
    ones included, then ``unix:///var/run/docker.sock``.
    """
    if env.get("DOCKER_HOST"):
        return env["DOCKER_HOST"]
    folder = Path(env.get("DOCKER_CONFIG") or (home or Path.home()) / ".docker")
    chosen = env.get("DOCKER_CONTEXT") or _read_json(folder / "config.json").get("currentContext") or "default"
    if chosen != "default":
        meta = folder / "contexts" / "meta" / hashlib.sha256(chosen.encode()).hexdigest() / "meta.json"
        host = _read_json(meta).get("Endpoints", {}).get("docker", {}).get("Host")
        if host:
            return str(host)
    runtime = env.get("XDG_RUNTIME_DIR", "/nonexistent")
    for path in (_DEFAULT_SOCKET, f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock"):
        if Path(path).is_socket():
            return f"unix://{path}"
    return f"unix://{_DEFAULT_SOCKET}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_moment(text: str) -> float:
    """The engine's RFC 3339 time with nanoseconds, in seconds since the epoch; its zero time is 0.0.

    Errors: ValueError for any other text.
    """
    if not text or text.startswith("0001-"):
        return 0.0
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"a time without a zone: {text}")
    return moment.timestamp()


def _client(address: str | None, resolved: str, timeout: aiohttp.ClientTimeout) -> Docker:
    """A pool without a bound for unix sockets: each running job holds two connections for as long as it runs."""
    if resolved.startswith("unix://"):
        connector = aiohttp.UnixConnector(resolved.removeprefix("unix://"), limit=0)
        return Docker(url="http://docker", connector=connector, timeout=timeout)
    return Docker(url=address, timeout=timeout)


class Engine:
    """One container engine. Use ``async with Engine(address)``; ``address`` None finds it as Docker's tools do.

    Errors: every call raises EngineError for what the engine refuses and Unavailable if it cannot be reached.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = address or engine_address()
        self._quick = _client(address, self.address, _QUICK)
        self._patient = _client(address, self.address, _PATIENT)
        self._info: EngineInfo | None = None
        self._network_lock = asyncio.Lock()

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        for client in (self._quick, self._patient):
            await client.close()
            await client.connector.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DockerError as error:
            if error.status == _UNREACHABLE:
                raise self._unreachable(error) from error
            raise
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"no answer from the container engine at {self.address}: {error}",
            hint="Start it, or set DOCKER_HOST or a Docker context to where it listens.",
        )

    async def ask(self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Any = None) -> Any:
        """A call that has no method of its own here, and its JSON answer. Shape: ``path`` without the version."""
        with self._errors():
            return await self._quick._query_json(path, method, params=dict(query or {}), data=body)

    async def ping(self) -> None:
        """Errors: Unavailable if the engine does not answer."""
        with self._errors():
            await self._quick.version()

    async def info(self) -> EngineInfo:
        """Asked once, then remembered. Errors: ConfigError if it cannot keep logs within a bound."""
        if self._info is None:
            with self._errors():
                raw = await self._quick.system.info()
                is_podman = reads_as_podman(await self._quick.version())
            podman = await self._podman_info() if is_podman else None
            self._info = EngineInfo(
                cores=int(raw.get("NCPU") or 1),
                memory_bytes=int(raw.get("MemTotal") or 0),
                arch=str(raw.get("Architecture") or ""),
                version=str(raw.get("ServerVersion") or ""),
                kind="podman" if is_podman else "docker",
                log_driver=log_driver(raw),
                lacks=missing_limits(raw, podman),
                fences=dict(_fence(option) for option in raw.get("SecurityOptions") or ()),
                runtimes=tuple(sorted(raw.get("Runtimes") or ())),
                data_root=str(raw.get("DockerRootDir") or ""),
            )
        return self._info

    async def _podman_info(self) -> Mapping[str, Any]:
        """Podman's own account of its host."""
        response = await self._open("GET", "v4.0.0/libpod/info", {})
        try:
            with self._errors():
                account = await response.json()
        finally:
            response.close()
        return account if isinstance(account, Mapping) else {}

    async def image(self, name: str) -> ImageInfo | None:
        """What the engine has under this name, None if nothing."""
        try:
            with self._errors():
                raw = await self._quick.images.inspect(name)
        except DockerError as error:
            if error.status == 404:
                return None
            raise
        config = raw.get("Config") or {}
        return ImageInfo(
            id=str(raw["Id"]),
            user=str(config.get("User") or ""),
            has_entrypoint=bool(config.get("Entrypoint")),
            size_bytes=int(raw.get("Size") or 0),
        )

    async def pull(self, name: str, auth: Mapping[str, str] | None = None) -> AsyncIterator[dict[str, Any]]:
        """The engine's progress events. Errors: EngineError, also for what the registry refuses half-way."""
        credentials = dict(auth) if auth else None
        with self._errors():
            async for event in self._patient.images.pull(name, auth=credentials, stream=True):
                yield event

    async def create(self, body: Mapping[str, Any], *, name: str = "") -> str:
        """Answers with the id; wherever a container is asked for, its name does as well.

        The engine makes a container also for a caller that has left: for one that is cancelled it is removed again,
        and the cancellation is raised then.
        """
        with self._errors():
            creating = self._quick.containers.create(dict(body), name=name or None)
            return (await to_the_end(creating, self._take_back)).id

    async def _take_back(self, container: DockerContainer) -> None:
        """As far as the engine answers; what it keeps has the labels by which a worker finds what nobody tracks."""
        with contextlib.suppress(EngineError, Unavailable, TimeoutError):
            async with asyncio.timeout(_QUICK.total):
                await self.remove(container.id)

    async def import_image(self, image: str, tree: bytes) -> None:
        """Make an image of a root file system (a tar). Errors: EngineError, also for what it refuses half-way."""
        repository, _, tag = image.rpartition(":")
        query = {"fromSrc": "-", "repo": repository, "tag": tag}
        with self._errors():
            url = f"{self._quick.docker_host}/images/create"
            headers = {"Content-Type": "application/x-tar"}
            async with self._quick.session.post(url, params=query, data=tree, headers=headers) as response:
                text = await response.text()
                if response.status != 200 or '"errorDetail"' in text:
                    raise DockerError(response.status, text.strip())

    async def start(self, container: str) -> None:
        """Without a time limit: a first start may have to wait for a slow disk, and is bounded by its caller."""
        with self._errors():
            await self._patient.containers.container(container).start()

    async def wait(self, container: str) -> int:
        """The exit code, once it has one."""
        with self._errors():
            return int((await self._patient.containers.container(container).wait())["StatusCode"])

    async def inspect(self, container: str) -> ContainerState | None:
        """None if there is no such container."""
        try:
            with self._errors():
                raw = (await self._quick.containers.container(container).show())["State"]
        except DockerError as error:
            if error.status == 404:
                return None
            raise
        return ContainerState(
            status=str(raw["Status"]),
            running=bool(raw["Running"]),
            exit_code=int(raw["ExitCode"]),
            oom_killed=bool(raw["OOMKilled"]),
            started_at=read_moment(raw["StartedAt"]),
            finished_at=read_moment(raw["FinishedAt"]),
            error=str(raw.get("Error") or ""),
        )

    async def describe(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The engine's own ``/version`` and ``/info``, asked now."""
        with self._errors():
            return dict(await self._quick.version()), dict(await self._quick.system.info())

    async def any_image(self) -> str:
        """The id of some image that is here; empty if there is none."""
        with self._errors():
            found = await self._quick.images.list()
        return str(found[0]["Id"]) if found else ""

    async def read_file(self, container: str, path: str) -> bytes:
        """A file as a container sees it, running or not, through its mounts. Errors: EngineError if it is not there."""
        with self._errors():
            archive = await self._quick.containers.container(container).get_archive(path)
        with archive:
            members = [member for member in archive if member.isfile()]
            content = archive.extractfile(members[0]) if members else None
            return content.read() if content is not None else b""

    async def environment(self, container: str) -> dict[str, str]:
        """The variables that a container was created with. Errors: EngineError if there is no such container."""
        with self._errors():
            raw = await self._quick.containers.container(container).show()
        pairs = (text.partition("=") for text in raw["Config"].get("Env") or ())
        return {name: value for name, _, value in pairs}

    async def has_run_out_of_memory(self, container: str, since: float) -> bool:
        """Has the engine noted an ``oom`` of this container since that moment (seconds since the epoch)?

        Its notice may come after the end that it led to, and then the container's own state lacks it.
        """
        filters = json.dumps({"container": [container], "event": ["oom"]})
        query = {"since": str(int(since)), "until": str(math.ceil(time.time())), "filters": filters}
        with self._errors():
            url = f"{self._quick.docker_host}/events"
            async with self._quick.session.get(url, params=query) as response:
                return response.status == 200 and bool((await response.read()).strip())

    async def stop(self, container: str, grace_s: float) -> None:
        """TERM (or the image's own stop signal), the grace, then KILL. Already stopped or gone is fine."""
        with self._errors(), _unless(304, 404):
            await self._patient.containers.container(container).stop(t=math.ceil(grace_s))

    async def remove(self, container: str) -> None:
        """Kill if need be, and remove with the volumes that only it had. Gone already is fine."""
        with self._errors(), _unless(404, 409):
            await self._patient.containers.container(container).delete(force=True, v=True)

    async def find(self, labels: Mapping[str, str]) -> list[Container]:
        """Containers in any state that carry all these labels with these values."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with self._errors():
            found = await self._quick.containers.list(all="true", filters=json.dumps({"label": wanted}))
        return [Container(id=c.id, state=c["State"], labels=c["Labels"] or {}, image=c["Image"]) for c in found]

    @contextlib.asynccontextmanager
    async def attach(self, container: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The multiplexed output from now on, in pieces as they come; ends when the container does.

        Errors: EngineError, Unavailable; while reading, aiohttp's ClientError if the connection breaks.
        """
        query = {"stream": "1", "stdout": "1", "stderr": "1"}
        response = await self._open("POST", f"containers/{container}/attach", query)
        try:
            yield response.content.iter_chunked(_READ_BYTES)
        finally:
            response.close()

    @contextlib.asynccontextmanager
    async def logs(self, container: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The multiplexed output from its start, each frame with its time in front; ends when the container does.

        Errors: as ``attach``.
        """
        query = {"follow": "1", "stdout": "1", "stderr": "1", "timestamps": "1"}
        response = await self._open("GET", f"containers/{container}/logs", query)
        try:
            yield response.content.iter_chunked(_READ_BYTES)
        finally:
            response.close()

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        body: AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        end_s: float = 0.0,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """One call without a time limit whose answer is read in pieces; leaving it early gives it up.

        The engine ends what nobody waits for, but not at once. With ``end_s`` it is told, by closing our direction
        only, and so long its answer is read on, until it has ended.

        Errors: as ``attach``.
        """
        response = await self._open(method, path, query, body, headers)
        try:
            yield response.content.iter_any()
        finally:
            if end_s and not response.content.at_eof():
                await _give_up(response, end_s)
            response.close()

    async def call(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> Any:
        """One quick call, and its answer; None if that is empty. Errors: EngineError, Unavailable."""
        with self._errors():
            url = f"{self._quick.docker_host}/{path}"
            async with self._quick.session.request(method, url, params=query, json=body, timeout=_QUICK) as response:
                if response.status >= 400:
                    raise DockerError(response.status, _message_of(await response.text()))
                return json.loads(await response.read() or b"null")

    async def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        """Raw, because the library's own readers parse frame by frame."""
        with self._errors():
            url = f"{self._patient.docker_host}/{path}"
            response = await self._patient.session.request(
                method, url, params=query, data=body, headers=headers, timeout=_PATIENT
            )
            if response.status != 200:
                raise DockerError(response.status, _message_of(await response.text()))
            return response

    async def ensure_network(self, name: str) -> None:
        """A bridge without traffic between containers and without IPv6.

        The engine's own check for a name that is taken does not hold when two ask at once, and with two networks of
        one name no container can be started; so what is too much is removed again, the oldest stays.

        Errors: EngineError if there are still several after a few tries.
        """
        async with self._network_lock:
            for _ in range(_NETWORK_TRIES):
                found = await self._networks(name)
                if len(found) == 1:
                    return
                with self._errors(), _unless(403, 404, 409):
                    if not found:
                        await self._quick.networks.create(_network_body(name))
                    for network in found[1:]:
                        await DockerNetwork(self._quick, network).delete()  # type: ignore[no-untyped-call]
        raise DockerError(409, f"there are several networks named {name}; remove all but one")

    async def _networks(self, name: str) -> list[str]:
        """Ids of the networks with exactly this name, the oldest first."""
        with self._errors():
            found = await self._quick.networks.list(filters={"name": name})
        return [n["Id"] for n in sorted(found, key=lambda n: (n["Created"], n["Id"])) if n["Name"] == name]

    async def archive(self, container: str, path: str) -> tarfile.TarFile:
        """A small file of a container, running or not, as a tar with one member."""
        with self._errors():
            return await self._quick.containers.container(container).get_archive(path)

    async def ensure_volume(self, name: str) -> str:
        """A named volume; there already is fine. The answer is when it was made: another one, another time."""
        with self._errors():
            made = await self.ask("POST", "volumes/create", body={"Name": name, "Labels": {"asman": "true"}})
        return str(made.get("CreatedAt") or "")

    async def open_volume(self, name: str, image: str, labels: Mapping[str, str]) -> None:
        """Make a volume's top folder writable for any user: a fresh volume belongs to root, and a job need not.

        Nothing is run: a tar with that folder in it is unpacked into a container that is never started.
        """
        mount = {"Type": "volume", "Source": name, "Target": "/v"}
        body = {"Image": image, "Cmd": ["-"], "Labels": dict(labels), "HostConfig": {"Mounts": [mount]}}
        container = await self.create(body)
        try:
            with self._errors():
                handle = self._quick.containers.container(container)
                await handle.put_archive("/", _open_folder("v"))  # type: ignore[no-untyped-call]
        finally:
            await self.remove(container)


def _fence(option: str) -> tuple[str, str]:
    """One of the engine's security options: ``name=seccomp,profile=default``, or the bare name in older ones."""
    stated = dict(part.partition("=")[::2] for part in option.split(","))
    return stated.get("name") or option.partition(",")[0], stated.get("profile", "")


def _open_folder(name: str) -> bytes:
    """A tar with one folder in it that any user may write to."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        entry = tarfile.TarInfo(f"{name}/")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(entry)
    return content.getvalue()


async def _give_up(response: aiohttp.ClientResponse, end_s: float) -> None:
    transport = response.connection.transport if response.connection else None
    with contextlib.suppress(TimeoutError, OSError, aiohttp.ClientError):
        if transport is not None and transport.can_write_eof():
            transport.write_eof()
            async with asyncio.timeout(end_s):
                async for _ in response.content.iter_any():
                    pass


def _message_of(answer: str) -> str:
    """What the engine says is wrong: mostly an object with a message."""
    try:
        return str(json.loads(answer)["message"]).strip()
    except (ValueError, TypeError, KeyError):
        return answer.strip()


@contextlib.contextmanager
def _unless(*statuses: int) -> Iterator[None]:
    """Take these answers of the engine as done."""
    try:
        yield
    except DockerError as error:
        if error.status not in statuses:
            raise


def _network_body(name: str) -> dict[str, Any]:
    return {
        "Name": name,
        "CheckDuplicate": True,
        "Driver": "bridge",
        "EnableIPv6": False,
        "Options": {
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.bridge.enable_ip_masquerade": "true",
        },
        "Labels": {"asman": "true"},
    }
