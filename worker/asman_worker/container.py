"""One container as the engine is told about it: every field, and the request that is made of them. Pure.

``create_body`` writes the engine's request; every field that matters for isolation is written out, also where it
repeats the engine's default, because an engine's defaults can be changed by its own configuration. Nothing is decided
here: the amounts and the fences come from ``limits``.

Source: contract, "Container creation"; Docker Engine API v1.41, container create; CIS Docker Benchmark 1.6, section 5.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

from asman_worker.grant import LEAST_CORES

__all__ = ["CACHE", "ContainerSpec", "JobFolders", "Mount", "cache_volume", "create_body", "labels_of"]

CACHE = "/job-cache"
"""Where images expect a folder that outlives the job."""

_OOM_SCORE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mount: of a host path (``source``) or of a named volume (``volume``)."""

    target: str
    source: str = ""
    volume: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFolders:
    """Where a job's files lie on the host.

    Shape:  ``config_files`` are (absolute path in the container, path on the host).
    """

    inputs: str
    outputs: str
    config_files: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """Everything the engine is told about one container.

    Shape:  ``command`` and ``entrypoint`` None leave the image's own; ``device_ids`` are uuids or host indices as
            text; ``env`` is ordered, the worker's own variables last; ``seccomp`` is a profile as JSON, empty for
            the engine's own; ``runtime`` empty is the engine's default;
            ``layer_bytes`` is for engines that bound what a container writes to its own layer.
    Units:  cores; bytes; seconds.
    """

    image: str
    command: tuple[str, ...] | None
    entrypoint: tuple[str, ...] | None
    workdir: str
    user: str
    env: tuple[tuple[str, str], ...]
    labels: tuple[tuple[str, str], ...]
    cores: float
    memory_bytes: int
    shm_bytes: int
    pids: int
    ulimits: tuple[tuple[str, int], ...]
    drop_all: bool
    capabilities: tuple[str, ...]
    no_new_privileges: bool
    read_only_root: bool
    tmpfs: tuple[tuple[str, str], ...]
    network: str
    mounts: tuple[Mount, ...]
    device_ids: tuple[str, ...]
    stop_grace_s: float
    runs_as_root: bool
    seccomp: str = ""
    runtime: str = ""
    layer_bytes: int | None = None


def cache_volume(queue: str) -> str:
    """The volume behind ``/job-cache`` for jobs of one queue; the queue's name is a secret and is not shown."""
    return f"asman-cache-{hashlib.sha256(queue.encode()).hexdigest()[:32]}"


def labels_of(worker_id: str, queue: str, job_id: str, attempt: int) -> dict[str, str]:
    """How a container says whose it is.

    The ``container.mtfm.io`` labels are those of older workers, so that one host can serve both kinds and tools that
    look for a job find it. The bare marker ``container.mtfm.io=true`` is left out on purpose: an older worker kills
    every container that carries it together with another worker's id.
    """
    return {
        "asman.job": job_id,
        "asman.worker": worker_id,
        "asman.attempt": str(attempt),
        "asman.queue": queue,
        "container.mtfm.io/id": job_id,
        "container.mtfm.io/queue": queue,
        "container.mtfm.io/worker": worker_id,
    }


def create_body(
    spec: ContainerSpec, *, host_cores: int = 0, selinux: bool = False, log_driver: str = "local"
) -> dict[str, Any]:
    """Write the engine's create request.

    Shape:  ``selinux`` writes binds in the form that relabels them, the only form which works there; ``log_driver`` is
            how the engine keeps the output within a bound.
    Units:  NanoCpus in 1e-9 cores; ``host_cores`` caps it, because engines refuse more than they have.
    Source: Docker Engine API v1.41, ``POST /containers/create``.
    """
    body: dict[str, Any] = {
        "Image": spec.image,
        "Env": [f"{name}={value}" for name, value in spec.env],
        "Labels": dict(spec.labels),
        "Tty": False,
        "OpenStdin": False,
        "AttachStdin": False,
        "AttachStdout": True,
        "AttachStderr": True,
        "Healthcheck": {"Test": ["NONE"]},
        "StopTimeout": math.ceil(spec.stop_grace_s),
        "HostConfig": _host_config(spec, host_cores=host_cores, selinux=selinux, log_driver=log_driver),
    }
    if spec.command is not None:
        body["Cmd"] = list(spec.command)
    if spec.entrypoint is not None:
        body["Entrypoint"] = list(spec.entrypoint)
    if spec.workdir:
        body["WorkingDir"] = spec.workdir
    if spec.user:
        body["User"] = spec.user
    return body


def _host_config(spec: ContainerSpec, *, host_cores: int, selinux: bool, log_driver: str) -> dict[str, Any]:
    cores = min(spec.cores, host_cores) if host_cores else spec.cores
    binds = [m for m in spec.mounts if m.source]
    config: dict[str, Any] = {
        "Privileged": False,
        "NanoCpus": round(max(cores, LEAST_CORES) * 1e9),
        "Memory": spec.memory_bytes,
        "MemorySwap": spec.memory_bytes,
        "PidsLimit": spec.pids,
        "ShmSize": spec.shm_bytes,
        "Ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in spec.ulimits],
        "CapDrop": ["ALL"] if spec.drop_all else [],
        "CapAdd": list(spec.capabilities),
        "SecurityOpt": _security(spec),
        "ReadonlyRootfs": spec.read_only_root,
        "Tmpfs": dict(spec.tmpfs),
        "Init": True,
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": log_driver, "Config": {"max-size": "5m", "max-file": "2"}},
        "OomScoreAdj": _OOM_SCORE,
        "OomKillDisable": False,
        "Runtime": spec.runtime,
        "NetworkMode": spec.network,
        "PublishAllPorts": False,
        "PortBindings": {},
        "IpcMode": "private",
        "PidMode": "",
        "UTSMode": "",
        "CgroupnsMode": "private",
        "UsernsMode": "",
        "CgroupParent": "",
        "Sysctls": {},
        "Devices": [],
        "DeviceCgroupRules": [],
        "DeviceRequests": _device_requests(spec.device_ids),
        "Mounts": [_mount(m) for m in spec.mounts if not (selinux and m.source)],
        "Binds": [f"{m.source}:{m.target}:{'ro,Z' if m.read_only else 'Z'}" for m in binds] if selinux else [],
        "VolumesFrom": [],
        "GroupAdd": [],
        "Links": [],
        "ExtraHosts": [],
    }
    if spec.layer_bytes is not None:
        config["StorageOpt"] = {"size": str(spec.layer_bytes)}
    return config


def _security(spec: ContainerSpec) -> list[str]:
    options = ["no-new-privileges"] if spec.no_new_privileges else []
    return [*options, f"seccomp={spec.seccomp}"] if spec.seccomp else options


def _device_requests(device_ids: tuple[str, ...]) -> list[dict[str, Any]]:
    if not device_ids:
        return []
    return [{"Driver": "nvidia", "DeviceIDs": list(device_ids), "Capabilities": [["gpu"]]}]


def _mount(mount: Mount) -> dict[str, Any]:
    if mount.source:
        return {"Type": "bind", "Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only}
    return {"Type": "volume", "Source": mount.volume, "Target": mount.target, "ReadOnly": mount.read_only}
