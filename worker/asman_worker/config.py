"""Every setting of a worker, in one table, and where its value comes from.

Flags win over environment, environment over the config file, that over defaults. The flags are made from the table,
and each row lists the names that older workers used, so that their unit files, compose files and machine images keep
working. What cannot be read is refused here, with the name and the place, before anything is started.

This module knows texts and numbers only: which GPUs exist and how much memory the host has is asked later, elsewhere.

Source: published worker flags and variables, their intended precedence; promises, "Container hardening".
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from asman.errors import AsmanError, ConfigError, clip
from asman.units import parse_duration_s, parse_size_bytes, show_duration
from asman_worker.addresses import routes_of

__all__ = [
    "GUESSABLE_BELOW",
    "SETTINGS",
    "WorkerConfig",
    "WorkerSetting",
    "default_data_directory",
    "load_worker_config",
]

GUESSABLE_BELOW = 22
"""Queue names with fewer characters are said to be guessable: 22 URL-safe characters hold 128 random bits."""

_LOCAL_QUEUE = "local"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSetting:
    """One row of the table.

    Shape:  ``kind`` is text, number, whole, size, bytes (a size that may be 0), duration, seconds, address, flag, list,
            or the allowed words joined by ``|``.
            ``flags`` and ``envs`` hold the present name first, then the names of older workers.
    """

    name: str
    kind: str
    default: Any
    flags: tuple[str, ...]
    envs: tuple[str, ...]
    help: str
    shown_default: str = ""


SETTINGS: tuple[WorkerSetting, ...] = (
    WorkerSetting(
        name="queues",
        kind="list",
        default=(),
        flags=(),
        envs=("ASMAN_WORKER_QUEUES", "METAPAGE_IO_WORKER_QUEUE", "METAPAGE_IO_WORKER_QUEUE_ID"),
        help="Queues to serve; all share this worker's capacity.",
    ),
    WorkerSetting(
        name="server",
        kind="text",
        default="http://localhost:8000",
        flags=("--server", "--api-address", "--api-server-address", "-a"),
        envs=("ASMAN_WORKER_SERVER", "ASMAN_SERVER", "METAPAGE_IO_WORKER_API_ADDRESS"),
        help="Address of the server, http:// or https://.",
    ),
    WorkerSetting(
        name="cpus",
        kind="number",
        default=1.0,
        flags=("--cpus", "-c"),
        envs=("ASMAN_WORKER_CPUS", "METAPAGE_IO_WORKER_CPUS", "METAPAGE_IO_CPUS"),
        help="Processor cores lent to jobs, all together; a job that does not ask gets one.",
    ),
    WorkerSetting(
        name="memory_bytes",
        kind="size",
        default=None,
        flags=("--memory",),
        envs=("ASMAN_WORKER_MEMORY",),
        help="Memory lent to jobs, all together, such as 8g.",
        shown_default="the host's, less 2 GiB",
    ),
    WorkerSetting(
        name="gpus",
        kind="text",
        default="0",
        flags=("--gpus", "-g"),
        envs=("ASMAN_WORKER_GPUS", "METAPAGE_IO_WORKER_GPUS", "METAPAGE_IO_GPUS"),
        help='GPUs lent to jobs: a count, "device=0,1", uuids, or "all".',
    ),
    WorkerSetting(
        name="max_job_duration_s",
        kind="duration",
        default=300.0,
        flags=("--max-job-duration", "-t"),
        envs=("ASMAN_WORKER_MAX_JOB_DURATION", "METAPAGE_IO_WORKER_JOB_MAX_DURATION"),
        help="Longest run of one container, such as 20m or 1h30; a bare number is milliseconds.",
        shown_default="5m",
    ),
    WorkerSetting(
        name="tags",
        kind="list",
        default=(),
        flags=("--tags",),
        envs=("ASMAN_WORKER_TAGS",),
        help="What this machine is for, comma-separated; a job that names tags needs all of them here.",
    ),
    WorkerSetting(
        name="data_directory",
        kind="text",
        default="",
        flags=("--data-directory", "-d"),
        envs=("ASMAN_WORKER_DATA",),
        help="Where inputs, outputs and unsent reports are kept; the same path for the worker and its engine.",
        shown_default="asman-worker below the user's data directory",
    ),
    WorkerSetting(
        name="worker_id",
        kind="text",
        default="",
        flags=("--id",),
        envs=("ASMAN_WORKER_ID",),
        help="Name of this worker towards the server.",
        shown_default="a random one, kept in the data directory",
    ),
    WorkerSetting(
        name="generate_id",
        kind="given",
        default=False,
        flags=("--generate-id",),
        envs=("ASMAN_WORKER_GENERATE_ID", "METAPAGE_IO_WORKER_GENERATE_WORKER_ID"),
        help="Take a fresh id at every start, for machines cloned from one image.",
    ),
    WorkerSetting(
        name="name",
        kind="text",
        default="",
        flags=("--name",),
        envs=("ASMAN_WORKER_NAME",),
        help="Name shown to people beside the id.",
    ),
    WorkerSetting(
        name="profile",
        kind="standard|strict|trusted",
        default="standard",
        flags=("--profile",),
        envs=("ASMAN_WORKER_PROFILE",),
        help="Hardening of containers: strict for strangers' jobs, trusted for your own.",
    ),
    WorkerSetting(
        name="allow_images",
        kind="list",
        default=(),
        flags=("--allow-image",),
        envs=("ASMAN_WORKER_ALLOW_IMAGES",),
        help="Only run images that match this pattern, such as alpine or ghcr.io/org/*; may be given several times.",
        shown_default="any image",
    ),
    WorkerSetting(
        name="secrets",
        kind="text",
        default="",
        flags=("--secrets",),
        envs=("ASMAN_WORKER_SECRETS",),
        help="TOML file of secrets that jobs may ask for by name; it must be readable by its owner only.",
        shown_default="none",
    ),
    WorkerSetting(
        name="build",
        kind="on|off",
        default="",
        flags=("--build",),
        envs=("ASMAN_WORKER_BUILD",),
        help="Build images that jobs describe, within the same limits as jobs.",
        shown_default="what the profile says: off for strict",
    ),
    WorkerSetting(
        name="cache_registry",
        kind="text",
        default="",
        flags=("--cache-registry",),
        envs=("ASMAN_WORKER_CACHE_REGISTRY",),
        help="Repository of your own to keep built images in, such as localhost:5000/asman-cache.",
        shown_default="none, nothing is pushed",
    ),
    WorkerSetting(
        name="network",
        kind="none|egress|open",
        default="",
        flags=("--network",),
        envs=("ASMAN_WORKER_NETWORK",),
        help="What jobs reach at most: nothing, the public internet only, or whatever this host reaches.",
        shown_default="what the profile says",
    ),
    WorkerSetting(
        name="allow_networks",
        kind="list",
        default=(),
        flags=("--allow-network",),
        envs=("ASMAN_WORKER_ALLOW_NETWORKS",),
        help="Also let jobs with egress reach this network (CIDR) of yours.",
    ),
    WorkerSetting(
        name="deny_networks",
        kind="list",
        default=(),
        flags=("--deny-network",),
        envs=("ASMAN_WORKER_DENY_NETWORKS",),
        help="Keep jobs with egress from this network (CIDR), such as your public addresses.",
    ),
    WorkerSetting(
        name="dns",
        kind="list",
        default=("1.1.1.1", "8.8.8.8"),
        flags=("--dns",),
        envs=("ASMAN_WORKER_DNS",),
        help="Resolvers of jobs with egress; one of your own network becomes reachable for them.",
        shown_default="1.1.1.1,8.8.8.8",
    ),
    WorkerSetting(
        name="guard_image",
        kind="text",
        default="busybox:1.36",
        flags=("--guard-image",),
        envs=("ASMAN_WORKER_GUARD_IMAGE",),
        help="Image with busybox, for the containers that fence in jobs with egress.",
    ),
    WorkerSetting(
        name="pids",
        kind="whole",
        default=0,
        flags=("--pids",),
        envs=("ASMAN_WORKER_PIDS",),
        help="Most processes and threads of one job.",
        shown_default="1024; 256 under strict, 4096 under trusted",
    ),
    WorkerSetting(
        name="allow_caps",
        kind="list",
        default=(),
        flags=("--allow-cap",),
        envs=("ASMAN_WORKER_ALLOW_CAPS",),
        help="Give every job this capability too, such as NET_BIND_SERVICE; may be given several times.",
        shown_default="none",
    ),
    WorkerSetting(
        name="allow_setuid",
        kind="flag",
        default=False,
        flags=("--allow-setuid",),
        envs=("ASMAN_WORKER_ALLOW_SETUID",),
        help="Let programs such as sudo gain rights inside of a container; loosens every profile.",
    ),
    WorkerSetting(
        name="runtime",
        kind="text",
        default="",
        flags=("--runtime",),
        envs=("ASMAN_WORKER_RUNTIME",),
        help="Runtime of the container engine for jobs, such as runsc (gVisor).",
        shown_default="the engine's; under strict a sandbox if the engine has one",
    ),
    WorkerSetting(
        name="volumes",
        kind="list",
        default=(),
        flags=("--volume",),
        envs=("ASMAN_WORKER_VOLUMES",),
        help="Mount a volume of the engine into every job, NAME:/path or NAME:/path:ro; needs --profile trusted.",
        shown_default="none",
    ),
    WorkerSetting(
        name="max_outputs_bytes",
        kind="size",
        default=None,
        flags=("--max-outputs",),
        envs=("ASMAN_WORKER_MAX_OUTPUTS",),
        help="Most bytes that one job may leave in /outputs, such as 1g.",
        shown_default="16g",
    ),
    WorkerSetting(
        name="without_limits",
        kind="list",
        default=(),
        flags=("--without-limits",),
        envs=("ASMAN_WORKER_WITHOUT_LIMITS",),
        help="Limits of jobs that this engine cannot keep and you do without: memory, cpus, pids.",
        shown_default="none: such an engine is refused",
    ),
    WorkerSetting(
        name="max_inputs_bytes",
        kind="size",
        default=16 << 30,
        flags=("--max-inputs",),
        envs=("ASMAN_WORKER_MAX_INPUTS",),
        help="Most bytes of inputs that one job may have, such as 1g.",
        shown_default="16g",
    ),
    WorkerSetting(
        name="max_layer_bytes",
        kind="size",
        default=16 << 30,
        flags=("--max-layer",),
        envs=("ASMAN_WORKER_MAX_LAYER",),
        help="Most bytes that a container may write outside of /outputs and /job-cache.",
        shown_default="16g",
    ),
    WorkerSetting(
        name="max_image_bytes",
        kind="size",
        default=20 << 30,
        flags=("--max-image",),
        envs=("ASMAN_WORKER_MAX_IMAGE",),
        help="Largest image of a job, as sent and as unpacked; and the most that building one may write.",
        shown_default="20g",
    ),
    WorkerSetting(
        name="max_images_bytes",
        kind="size",
        default=None,
        flags=("--max-images",),
        envs=("ASMAN_WORKER_MAX_IMAGES",),
        help="Most bytes of images kept for later jobs, of those that this worker pulled or built; the oldest go.",
        shown_default="no bound",
    ),
    WorkerSetting(
        name="disk_floor_bytes",
        kind="bytes",
        default=None,
        flags=("--disk-floor",),
        envs=("ASMAN_WORKER_DISK_FLOOR",),
        help="Free disk below which no jobs are taken and caches go, such as 10g; 0 for off.",
        shown_default="10g or a tenth of the disk",
    ),
    WorkerSetting(
        name="fetch_limit_s",
        kind="duration",
        default=1800.0,
        flags=("--fetch-limit",),
        envs=("ASMAN_WORKER_FETCH_LIMIT",),
        help="Longest time that a job's inputs may take to be fetched; a bare number is milliseconds.",
        shown_default="30m",
    ),
    WorkerSetting(
        name="pull_limit_s",
        kind="duration",
        default=1800.0,
        flags=("--pull-limit",),
        envs=("ASMAN_WORKER_PULL_LIMIT",),
        help="Longest time that a job's image may take to be pulled; a bare number is milliseconds.",
        shown_default="30m",
    ),
    WorkerSetting(
        name="build_limit_s",
        kind="duration",
        default=1800.0,
        flags=("--build-limit",),
        envs=("ASMAN_WORKER_BUILD_LIMIT",),
        help="Longest time that a job's image may take to be built; a bare number is milliseconds.",
        shown_default="30m",
    ),
    WorkerSetting(
        name="upload_limit_s",
        kind="duration",
        default=1800.0,
        flags=("--upload-limit",),
        envs=("ASMAN_WORKER_UPLOAD_LIMIT",),
        help="Longest time that a job's outputs may take to be sent; a bare number is milliseconds.",
        shown_default="30m",
    ),
    WorkerSetting(
        name="drain_s",
        kind="seconds",
        default=0.0,
        flags=("--drain",),
        envs=("ASMAN_WORKER_DRAIN",),
        help="When told to stop: how long running jobs may finish before they are handed back.",
        shown_default="0, hand back at once",
    ),
    WorkerSetting(
        name="on_lease_lost",
        kind="keep|kill",
        default="keep",
        flags=("--on-lease-lost",),
        envs=("ASMAN_WORKER_ON_LEASE_LOST",),
        help="While the server is out of reach: keep containers running, or kill them when their lease is over.",
    ),
    WorkerSetting(
        name="ephemeral",
        kind="whole",
        default=0,
        flags=("--ephemeral",),
        envs=("ASMAN_WORKER_EPHEMERAL",),
        help="Stop after this many jobs, for throw-away machines.",
        shown_default="0, never",
    ),
    WorkerSetting(
        name="mode",
        kind="remote|local",
        default="remote",
        flags=("--mode", "-m"),
        envs=("ASMAN_WORKER_MODE", "METAPAGE_IO_WORKER_MODE"),
        help='local: serve queue "local" of the server on this machine (asman up starts both).',
    ),
    WorkerSetting(
        name="port",
        kind="whole",
        default=8000,
        flags=("--port", "-p"),
        envs=("ASMAN_WORKER_PORT", "METAPAGE_IO_WORKER_PORT"),
        help="Port of that server in local mode.",
    ),
    WorkerSetting(
        name="status_address",
        kind="address",
        default="",
        flags=("--status",),
        envs=("ASMAN_WORKER_STATUS",),
        help="Serve /healthz, /readyz and /metrics at HOST:PORT, such as 127.0.0.1:9000.",
        shown_default="off",
    ),
    WorkerSetting(
        name="log_format",
        kind="text|json",
        default="text",
        flags=("--log-format",),
        envs=("ASMAN_WORKER_LOG_FORMAT",),
        help="Log lines for people, or one JSON object per line.",
    ),
    WorkerSetting(
        name="debug",
        kind="flag",
        default=False,
        flags=("--debug",),
        envs=("ASMAN_WORKER_DEBUG", "METAPAGE_IO_WORKER_DEBUG"),
        help="Log what goes over the socket.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """The settings of one worker; the fields are the rows of ``SETTINGS``, in their units.

    Shape:  ``server`` has no trailing slash. ``memory_bytes`` and ``max_outputs_bytes`` None, ``pids`` 0, ``network``
            and ``runtime`` empty: not said, so the profile or the host decides. ``gpus`` is the owner's words, read
            where devices are known.
    """

    queues: tuple[str, ...]
    server: str = "http://localhost:8000"
    cpus: float = 1.0
    memory_bytes: int | None = None
    gpus: str = "0"
    max_job_duration_s: float = 300.0
    tags: tuple[str, ...] = ()
    data_directory: str = ""
    worker_id: str = ""
    generate_id: bool = False
    name: str = ""
    profile: str = "standard"
    allow_images: tuple[str, ...] = ()
    secrets: str = ""
    build: str = ""
    cache_registry: str = ""
    network: str = ""
    allow_networks: tuple[str, ...] = ()
    deny_networks: tuple[str, ...] = ()
    dns: tuple[str, ...] = ("1.1.1.1", "8.8.8.8")
    guard_image: str = "busybox:1.36"
    pids: int = 0
    allow_caps: tuple[str, ...] = ()
    allow_setuid: bool = False
    runtime: str = ""
    volumes: tuple[str, ...] = ()
    max_outputs_bytes: int | None = None
    without_limits: tuple[str, ...] = ()
    max_inputs_bytes: int = 16 << 30
    max_layer_bytes: int = 16 << 30
    max_image_bytes: int = 20 << 30
    max_images_bytes: int | None = None
    disk_floor_bytes: int | None = None
    fetch_limit_s: float = 1800.0
    pull_limit_s: float = 1800.0
    build_limit_s: float = 1800.0
    upload_limit_s: float = 1800.0
    drain_s: float = 0.0
    on_lease_lost: str = "keep"
    ephemeral: int = 0
    mode: str = "remote"
    port: int = 8000
    status_address: str = ""
    log_format: str = "text"
    debug: bool = False

    @property
    def max_job_duration(self) -> str:
        """As the registration says it to people and older servers: ``20m``."""
        return show_duration(self.max_job_duration_s)

    @property
    def is_local(self) -> bool:
        return (urlsplit(self.server).hostname or "") in _LOOPBACK

    @property
    def guessable_queues(self) -> tuple[str, ...]:
        """Queues that a stranger might guess, on a server that strangers might reach."""
        return () if self.is_local else tuple(q for q in self.queues if len(q) < GUESSABLE_BELOW)


def default_data_directory(environ: Mapping[str, str]) -> Path:
    """Beside other programs' data of this user. It must outlive a restart of the machine: unsent reports are in it."""
    if os.geteuid() == 0:
        return Path("/var/lib/asman-worker")
    base = environ.get("XDG_DATA_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".local/share")
    return Path(base) / "asman-worker"


def load_worker_config(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> tuple[WorkerConfig, dict[str, str]]:
    """Put one configuration together, and say where each value came from.

    Shape:  ``flags`` maps names of settings to what was given, None or () for "not given"; the second answer maps
            each name to ``default``, the file's path, the variable's name or ``flag``.
    Errors: ConfigError, naming the setting, the value and where it stood.
    """
    stored, variables, given = _read_file(file), environ or {}, flags or {}
    values: dict[str, Any] = {}
    source: dict[str, str] = {}
    for setting in SETTINGS:
        where, value = _find(setting, given, variables, str(file), stored)
        source[setting.name] = where
        values[setting.name] = setting.default if where == "default" else _read(setting, value, where)
    if not values["data_directory"]:
        values["data_directory"] = str(default_data_directory(variables))
    return _checked(values), source


def _find(
    setting: WorkerSetting,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: str,
    stored: Mapping[str, Any],
) -> tuple[str, Any]:
    """The value that wins and where it stood. An empty variable counts as not set, as in most shells' habits."""
    if flags.get(setting.name) not in (None, ()):
        return "flag", flags[setting.name]
    for variable in setting.envs:
        if environ.get(variable, "").strip():
            return variable, environ[variable]
    if setting.name in stored:
        return file, stored[setting.name]
    return "default", None


def _read_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        stored = tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config file {file}: {error}") from error
    unknown = sorted(set(stored) - {s.name for s in SETTINGS})
    if unknown:
        names = ", ".join(s.name for s in SETTINGS)
        raise ConfigError(f"{file} has an unknown setting {clip(unknown[0])}", hint=f"Settings of a worker: {names}.")
    return stored


def _read(setting: WorkerSetting, value: Any, where: str) -> Any:
    read = _READERS[setting.kind] if setting.kind in _READERS else _word(setting.kind)
    try:
        return read(value)
    except (ValueError, AsmanError) as error:
        hint = error.hint if isinstance(error, AsmanError) else ""
        raise ConfigError(f"{setting.name} is {clip(value)} ({where}): {error}", hint=hint) from error


def _number(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not 0 < number < math.inf:
        raise ValueError("a number above zero is needed")
    return number


def _whole(value: Any) -> int:
    if isinstance(value, (bool, float)) or int(value) < 0:
        raise ValueError("a whole number from 0 up is needed")
    return int(value)


def _size(value: Any) -> int:
    size = parse_size_bytes(value)
    if size <= 0:
        raise ValueError("a size above zero is needed")
    return size


def _bytes(value: Any) -> int:
    return parse_size_bytes(value)


def _seconds(value: Any) -> float:
    """A bare number is seconds here; text with a unit is a duration."""
    try:
        seconds = float(value)
    except ValueError:
        return parse_duration_s(value)
    if not 0 <= seconds < math.inf:
        raise ValueError("a duration from 0 up is needed")
    return seconds


def _address(value: Any) -> str:
    """``HOST:PORT``, ``[IPv6]:PORT``, or a port alone, which means loopback."""
    host, _, port = str(value).strip().rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) < 65536) or (":" in host and host[:1] != "["):
        raise ValueError("write it like 127.0.0.1:9000 or [::1]:9000")
    return f"{host or '127.0.0.1'}:{port}"


def _list(value: Any) -> tuple[str, ...]:
    """Text with commas, or several such texts; every word once, in the order given."""
    parts = [value] if isinstance(value, str) else list(value)
    words = [word.strip() for part in parts for word in str(part).split(",")]
    return tuple(dict.fromkeys(word for word in words if word))


def _flag(value: Any) -> bool:
    word = str(value).strip().lower()
    if word not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise ValueError("true or false is needed")
    return word in ("1", "true", "yes", "on")


def _given(value: Any) -> bool:
    """Older workers took any text at all, even ``false``, as a yes; a flag or a file says what it means."""
    return value is not False


def _word(kind: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in kind.split("|"):
            raise ValueError(f"known are: {', '.join(kind.split('|'))}")
        return str(value)

    return read


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "text": str,
    "number": _number,
    "whole": _whole,
    "size": _size,
    "bytes": _bytes,
    "duration": parse_duration_s,
    "seconds": _seconds,
    "address": _address,
    "list": _list,
    "flag": _flag,
    "given": _given,
}


def _checked(values: dict[str, Any]) -> WorkerConfig:
    if not 0 < values["port"] < 65536:
        raise ConfigError(f"port is {values['port']}; ports are 1 to 65535")
    if values["mode"] == "local":
        values |= {"queues": (_LOCAL_QUEUE,), "server": f"http://localhost:{values['port']}"}
    values["server"] = _check_server(values["server"])
    values["queues"] = _check_queues(values["queues"])
    routes_of((), deny=values["deny_networks"], allow=values["allow_networks"], resolvers=values["dns"])
    if len(values["worker_id"]) > 128 or not values["worker_id"].isprintable():
        raise ConfigError(f"id is {clip(values['worker_id'])}; at most 128 printable characters are allowed")
    return WorkerConfig(**values)


def _check_server(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(
            f"server is {clip(address)}, which is no http:// or https:// address",
            hint="Write it like https://compute.example.org or http://localhost:8000.",
        )
    return address.rstrip("/")


def _check_queues(queues: Sequence[str]) -> tuple[str, ...]:
    if not queues:
        raise ConfigError(
            "no queue is named", hint="Name the queue to serve, for example: asman worker my-queue --server URL"
        )
    for queue in queues:
        if queue in (".", "..") or len(queue) > 128 or any(c in "/?#%\\" or not c.isprintable() for c in queue):
            raise ConfigError(
                f"the queue name {clip(queue)} cannot be part of a URL",
                hint="Use 1 to 128 letters, digits and . _ ~ - in queue names.",
            )
    return tuple(dict.fromkeys(queues))
