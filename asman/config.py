"""Every setting, in one table, and where its value comes from.

Flags win over environment, environment over the config file, that over defaults. The table is the only list: the
command line's help, ``asman config`` and the README are made from it. Nothing is read at import.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asman.errors import AsmanError, ConfigError, clip
from asman.units import parse_duration_s, parse_size_bytes

__all__ = ["PROFILES", "SETTINGS", "Config", "Limits", "Setting", "load_config"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request, job or source may use; 0 means no limit. The defaults are those of the public profile.

    Source: promises, "Error shape and default limits".
    """

    json_body_bytes: int = 1 << 20
    json_depth: int = 64
    json_keys: int = 10_000
    json_string_bytes: int = 512 << 10
    definition_bytes: int = 256 << 10
    inline_data_bytes: int = 128 << 10
    blob_bytes: int = 1 << 30
    queued_per_queue: int = 1_000
    client_frame_bytes: int = 64 << 10
    worker_frame_bytes: int = 1 << 20
    sockets_per_queue: int = 700
    sockets_total: int = 6_000
    submits_per_minute_per_address: int = 60
    submit_burst_per_address: int = 120
    submits_per_minute_per_queue: int = 600
    env_entries: int = 64
    env_value_bytes: int = 8 << 10
    command_bytes: int = 32 << 10
    tags: int = 32
    outputs: int = 1_000
    callbacks: int = 4
    callback_payload_bytes: int = 16 << 10
    max_duration_s: float = 86_400.0


PROFILES: Mapping[str, Limits] = {
    "public": Limits(),
    "private": Limits(
        json_body_bytes=16 << 20,
        json_keys=100_000,
        json_string_bytes=16 << 20,
        definition_bytes=16 << 20,
        inline_data_bytes=16 << 20,
        blob_bytes=0,
        queued_per_queue=0,
        client_frame_bytes=16 << 20,
        worker_frame_bytes=16 << 20,
        sockets_per_queue=0,
        sockets_total=0,
        submits_per_minute_per_address=0,
        submit_burst_per_address=0,
        submits_per_minute_per_queue=0,
        env_entries=1_000,
        env_value_bytes=128 << 10,
        command_bytes=128 << 10,
        outputs=100_000,
        max_duration_s=30 * 86_400.0,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One line of the table. Shape: ``kind`` is text, duration, size, whole, flag or list (comma-separated)."""

    name: str
    kind: str
    default: Any
    env: str
    help: str


SETTINGS: tuple[Setting, ...] = (
    Setting(name="host", kind="text", default="127.0.0.1", env="ASMAN_HOST", help="Address to listen on."),
    Setting(name="port", kind="whole", default=8000, env="ASMAN_PORT", help="TCP port to listen on."),
    Setting(
        name="workers",
        kind="whole",
        default=1,
        env="ASMAN_WORKERS",
        help="Server processes that share the port; more than one needs a backend that servers share.",
    ),
    Setting(
        name="data", kind="text", default="asman-data", env="ASMAN_DATA", help="Directory for databases and blobs."
    ),
    Setting(
        name="backend",
        kind="text",
        default="sqlite",
        env="ASMAN_BACKEND",
        help="sqlite, memory, redis or postgres; with +s3, +filesystem or +memory for the blobs; or a job store URL.",
    ),
    Setting(
        name="redis",
        kind="text",
        default="redis://localhost:6379/0",
        env="ASMAN_REDIS",
        help="Where the backend redis is: redis://, rediss://, redis+sentinel:// or redis+cluster://.",
    ),
    Setting(
        name="postgres",
        kind="text",
        default="postgresql://localhost/asman",
        env="ASMAN_POSTGRES",
        help="Where the backend postgres is: postgresql://user@host/database.",
    ),
    Setting(
        name="s3",
        kind="text",
        default="",
        env="ASMAN_S3",
        help="Where the blobs of +s3 are: s3://bucket/prefix?endpoint=https://host.",
    ),
    Setting(name="blobs", kind="text", default="", env="ASMAN_BLOBS", help="Blob store URL, if not the backend's own."),
    Setting(
        name="blob_redirects",
        kind="text",
        default="on",
        env="ASMAN_BLOB_REDIRECTS",
        help="on: send callers to the blob store where it can sign addresses (S3); off: bytes pass through here.",
    ),
    Setting(
        name="notifier",
        kind="text",
        default="",
        env="ASMAN_NOTIFIER",
        help="Notifier URL; else the job store's own where it has one, else within the process.",
    ),
    Setting(
        name="profile",
        kind="text",
        default="private",
        env="ASMAN_PROFILE",
        help="Limits: private (a trusted network) or public (the open internet).",
    ),
    Setting(
        name="public_url",
        kind="text",
        default="",
        env="ASMAN_PUBLIC_URL",
        help="Address under which callers reach this server, for links; else taken from each request.",
    ),
    Setting(
        name="proxies",
        kind="whole",
        default=0,
        env="ASMAN_PROXIES",
        help="How many proxies stand before this server and add to X-Forwarded-For; limits count what they saw.",
    ),
    Setting(
        name="expire_after_s",
        kind="duration",
        default=0.0,
        env="ASMAN_EXPIRE_AFTER",
        help="How long a job and its data are kept; 0 for the profile's default (30 days, public 7 days).",
    ),
    Setting(
        name="lease_s", kind="duration", default=30.0, env="ASMAN_LEASE", help="How long a silent worker keeps a job."
    ),
    Setting(name="renew_s", kind="duration", default=10.0, env="ASMAN_RENEW", help="How often a worker renews."),
    Setting(
        name="reconnect_grace_s",
        kind="duration",
        default=15.0,
        env="ASMAN_RECONNECT_GRACE",
        help="How long a worker whose connection closed may come back before its jobs are queued again.",
    ),
    Setting(
        name="max_attempts",
        kind="whole",
        default=3,
        env="ASMAN_MAX_ATTEMPTS",
        help="Lost attempts before a job is given up.",
    ),
    Setting(
        name="listed_s",
        kind="duration",
        default=60.0,
        env="ASMAN_LISTED",
        help="How long a finished job stays on the listing.",
    ),
    Setting(
        name="sweep_s",
        kind="duration",
        default=2.0,
        env="ASMAN_SWEEP",
        help="How often leases, expiry and callbacks are looked at.",
    ),
    Setting(
        name="allow_origin",
        kind="list",
        default=(),
        env="ASMAN_ALLOW_ORIGIN",
        help="Web origins that may drive a server that listens on loopback.",
    ),
    Setting(
        name="webhook_allow",
        kind="list",
        default=(),
        env="ASMAN_WEBHOOK_ALLOW",
        help="Non-public networks (CIDR) that webhooks may call.",
    ),
    Setting(
        name="webhook_secret",
        kind="text",
        default="",
        env="ASMAN_WEBHOOK_SECRET",
        help="Signing secret of webhooks (whsec_...); without it callbacks are sent unsigned.",
    ),
    Setting(
        name="server_id",
        kind="text",
        default="",
        env="ASMAN_SERVER_ID",
        help="Name of this server in status answers; else random.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one server; the fields are the rows of ``SETTINGS``, in their units."""

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    data: str = "asman-data"
    backend: str = "sqlite"
    redis: str = "redis://localhost:6379/0"
    postgres: str = "postgresql://localhost/asman"
    s3: str = ""
    blobs: str = ""
    blob_redirects: str = "on"
    notifier: str = ""
    profile: str = "private"
    public_url: str = ""
    proxies: int = 0
    expire_after_s: float = 0.0
    lease_s: float = 30.0
    renew_s: float = 10.0
    reconnect_grace_s: float = 15.0
    max_attempts: int = 3
    listed_s: float = 60.0
    sweep_s: float = 2.0
    allow_origin: tuple[str, ...] = ()
    webhook_allow: tuple[str, ...] = ()
    webhook_secret: str = ""
    server_id: str = ""
    limits: Limits = field(default_factory=lambda: PROFILES["private"])

    @property
    def is_local(self) -> bool:
        """Listens on loopback: the web pages of other sites must not drive it."""
        return self.host in ("127.0.0.1", "::1", "localhost")

    @property
    def job_store_url(self) -> str:
        named = {
            "sqlite": f"sqlite:///{Path(self.data) / 'asman.db'}",
            "memory": "memory:",
            "redis": self.redis,
            "postgres": self.postgres,
        }
        return named.get(self._parts[0], self._parts[0])

    @property
    def blob_store_url(self) -> str:
        if self.blobs:
            return self.blobs
        jobs, blobs = self._parts
        named = {"filesystem": f"file:///{Path(self.data) / 'blobs'}", "memory": "memory:", "s3": self.s3}
        return named[blobs or ("memory" if jobs in ("memory", "memory:") else "filesystem")]

    @property
    def _parts(self) -> tuple[str, str]:
        """The backend's two names; a URL is one, whatever it holds. Shape: the second is empty if it was left out."""
        if ":" in self.backend:
            return self.backend, ""
        jobs, _, blobs = self.backend.partition("+")
        return jobs, blobs

    @property
    def notifier_url(self) -> str:
        """Whom to ask for a notifier: the one that was chosen, else the job store."""
        return self.notifier or self.job_store_url


_JOBS = ("memory", "postgres", "redis", "sqlite")
_BLOBS = ("filesystem", "memory", "s3")


def _check_backend(config: Config) -> None:
    """Errors: ConfigError for a name that is none, and for blobs in a bucket that is not named."""
    jobs, blobs = config._parts
    if not config.workers:
        raise ConfigError("workers is 0; at least one process must serve")
    if jobs not in _JOBS and ":" not in jobs:
        raise ConfigError(
            f"backend is {clip(config.backend)}; job stores are: {', '.join(_JOBS)}, or a URL",
            hint="Write JOBS or JOBS+BLOBS, for example sqlite or redis+s3.",
        )
    if blobs and blobs not in _BLOBS:
        raise ConfigError(f"backend is {clip(config.backend)}; blob stores are: {', '.join(_BLOBS)}")
    if blobs == "s3" and not (config.s3 or config.blobs):
        raise ConfigError(
            f"backend is {config.backend} but no bucket is named",
            hint="Name it with --s3 s3://bucket (ASMAN_S3).",
        )


def load_config(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> tuple[Config, dict[str, str]]:
    """Put one configuration together, and say where each value came from.

    Shape:  ``flags`` holds only what was given; the second answer maps a setting to ``default``, the file's path,
            the variable's name or ``flag``.
    Errors: ConfigError, naming the setting, the value and where it stood.
    """
    values: dict[str, Any] = {}
    source = {s.name: "default" for s in SETTINGS}
    stored = _read_file(file) if file is not None else {}
    unknown = sorted(set(stored) - {s.name for s in SETTINGS})
    if unknown:
        raise ConfigError(f"{file} has an unknown setting {clip(unknown[0])}", hint="asman config lists all settings")
    for setting in SETTINGS:
        for where, given in ((str(file), stored), (setting.env, environ or {}), ("flag", flags or {})):
            key = setting.env if where == setting.env else setting.name
            if key in given and given[key] is not None:
                values[setting.name] = _read(setting, given[key], where)
                source[setting.name] = where
    config = Config(**values)
    if config.profile not in PROFILES:
        raise ConfigError(f"profile is {clip(config.profile)}; known are: {', '.join(sorted(PROFILES))}")
    if config.blob_redirects not in ("on", "off"):
        raise ConfigError(f"blob_redirects is {clip(config.blob_redirects)}; known are: on, off")
    _check_backend(config)
    return replace(config, limits=PROFILES[config.profile]), source


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the config file {file}: {error}") from error


def _read(setting: Setting, value: Any, where: str) -> Any:
    try:
        match setting.kind:
            case "duration":
                return _seconds(value)
            case "size":
                return parse_size_bytes(value)
            case "whole":
                return _whole(value)
            case "list":
                parts = value.split(",") if isinstance(value, str) else value
                return tuple(str(p).strip() for p in parts if str(p).strip())
            case _:
                return _text(value)
    except (TypeError, ValueError, OverflowError, AsmanError) as error:
        raise ConfigError(f"{setting.name} is {clip(value)} ({where}): {error}") from error


def _seconds(value: Any) -> float:
    """A setting's bare number is seconds; text with a unit is a duration."""
    try:
        seconds = float(value)
    except ValueError:
        return parse_duration_s(value)
    if isinstance(value, bool) or not 0 <= seconds < math.inf:
        raise ValueError("a duration of 0 or more was expected")
    return seconds


def _whole(value: Any) -> int:
    number = int(value)
    if isinstance(value, bool) or number < 0 or (isinstance(value, float) and value != number):
        raise ValueError("a whole number of 0 or more was expected")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, (str, int, float, Path)) or isinstance(value, bool):
        raise ValueError("text was expected")
    return str(value)
