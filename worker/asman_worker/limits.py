"""The one place where what a job asks meets what the machine's owner allows. Pure.

A ``Grant`` is the owner's word, a definition a stranger's. ``container_spec`` reads the members of a definition that
it knows and nothing else, so no field of a job can reach a mount, a device, a capability or a network: those come
from the grant's profile and from this file. ``create_body`` then writes the engine's request; every field that
matters for isolation is written out, also where it repeats the engine's default, because an engine's defaults can be
changed by its own configuration.

The smaller of request and grant wins; a job that needs more than the grant is refused, not shrunk.

Source: contract, "Container hardening" (the profile table) and "Container creation"; Docker Engine API v1.41,
container create; CIS Docker Benchmark 1.6, section 5.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asman.errors import BadDefinition, BadRequest, LimitExceeded, clip
from asman.job import Requirements
from asman.matching import Capacity, rules
from asman.units import parse_duration_s, parse_size_bytes, show_bytes
from asman_worker.command import container_argv
from asman_worker.gpu import Gpu

__all__ = [
    "NETWORK",
    "PROFILES",
    "Allotment",
    "ContainerSpec",
    "Grant",
    "JobFolders",
    "Mount",
    "Profile",
    "allot",
    "cache_volume",
    "check_grant",
    "container_spec",
    "create_body",
    "default_memory_bytes",
    "image_of",
    "labels_of",
    "read_requirements",
    "time_limit_s",
]

NETWORK = "asman-jobs"
"""The bridge that jobs of this host share: no traffic between containers, no IPv6."""

_MIB = 1 << 20
_GIB = 1 << 30
_STANDARD_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID")
_OOM_SCORE = 500
_CPU_STEP = 0.01
_LEAST_MEMORY = 6 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One column of the hardening table.

    Shape:  ``drop_all`` False keeps the engine's default capabilities; ``shm_bytes`` is the most a job gets, and what
            it gets if it does not ask, None for no such bound; ``nofile`` None keeps the engine's default; ``tmpfs``
            are (path, options) of the writable places under a read-only root, among them a ``/job-cache`` that ends
            with the job where ``shared_cache`` is False; ``user`` replaces root.
    """

    drop_all: bool
    capabilities: tuple[str, ...]
    pids: int
    shm_bytes: int | None
    nofile: int | None
    network: str
    user: str = ""
    read_only_root: bool = False
    tmpfs: tuple[tuple[str, str], ...] = ()
    shared_cache: bool = True
    private_addresses: bool = False
    """May URL inputs be fetched from addresses that are not public?"""


PROFILES: Mapping[str, Profile] = {
    "standard": Profile(
        drop_all=True,
        capabilities=_STANDARD_CAPABILITIES,
        pids=1024,
        shm_bytes=_GIB,
        nofile=65536,
        network=NETWORK,
    ),
    "strict": Profile(
        drop_all=True,
        capabilities=(),
        pids=256,
        shm_bytes=64 * _MIB,
        nofile=4096,
        network="none",
        user="65532:65532",
        read_only_root=True,
        tmpfs=(
            ("/tmp", "rw,exec,nosuid,nodev,size=512m,mode=1777"),
            ("/var/tmp", "rw,exec,nosuid,nodev,size=128m,mode=1777"),
            ("/run", "rw,exec,nosuid,nodev,size=64m,mode=1777"),
            ("/home", "rw,exec,nosuid,nodev,size=128m,mode=1777"),
            ("/job-cache", "rw,exec,nosuid,nodev,size=1g,mode=1777"),
        ),
        shared_cache=False,
    ),
    "trusted": Profile(
        drop_all=False,
        capabilities=(),
        pids=4096,
        shm_bytes=None,
        nofile=None,
        network=NETWORK,
        private_addresses=True,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the owner of this machine lends, for all jobs together and for each job.

    Shape:  ``images`` are patterns (``*`` matches anything) of which a job's image must match one; empty: any image.
            ``network`` overrides the profile's: ``egress`` or ``none``. ``pids`` overrides the profile's.
            ``max_open_files`` is the most this host's engine can give one process, None: no bound known.
            ``capabilities`` are added to the profile's; ``allow_setuid`` gives up no-new-privileges.
    Units:  cores; bytes; seconds. The three step limits bound fetching inputs, pulling and uploading, each.
    """

    cores: float
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()
    max_duration_s: float = 300.0
    tags: frozenset[str] = frozenset()
    profile: str = "standard"
    images: tuple[str, ...] = ()
    network: str = ""
    pids: int | None = None
    capabilities: tuple[str, ...] = ()
    allow_setuid: bool = False
    max_input_bytes: int = 16 * _GIB
    max_output_bytes: int = 16 * _GIB
    max_output_files: int = 10_000
    max_open_files: int | None = None
    stop_grace_s: float = 5.0
    fetch_limit_s: float = 1800.0
    pull_limit_s: float = 1800.0
    upload_limit_s: float = 1800.0

    @property
    def capacity(self) -> Capacity:
        """What the worker tells a server it has."""
        return Capacity(
            cores=self.cores,
            memory_bytes=self.memory_bytes,
            gpus=len(self.gpus),
            max_duration_s=self.max_duration_s,
            tags=self.tags,
        )

    @property
    def rules(self) -> Profile:
        return PROFILES[self.profile]


def check_grant(grant: Grant) -> None:
    """Refuse an owner's words that cannot be kept. Errors: BadRequest, naming the field."""
    if grant.profile not in PROFILES:
        raise BadRequest(f"profile is {clip(grant.profile)}; known are: {', '.join(PROFILES)}")
    if grant.network not in ("", "egress", "none"):
        raise BadRequest(f"network is {clip(grant.network)}; known are: egress, none")
    if not grant.cores >= _CPU_STEP:
        raise BadRequest(f"cores is {grant.cores}; at least {_CPU_STEP} are needed to run anything")
    if grant.memory_bytes < _LEAST_MEMORY:
        raise BadRequest(f"memory is {show_bytes(grant.memory_bytes)}; the engine needs {show_bytes(_LEAST_MEMORY)}")


def default_memory_bytes(host_bytes: int) -> int:
    """What an owner lends who did not say: all but 2 GiB, but never less than half."""
    return max(host_bytes - 2 * _GIB, host_bytes // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """What one job holds of the grant while it runs."""

    cores: float
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()


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
            text; ``env`` is ordered, the worker's own variables last.
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


def read_requirements(definition: Mapping[str, Any]) -> Requirements:
    """What a definition asks of a worker.

    Shape:  a job that says nothing asks for one core; ``tags`` come from the definition's own member.
    Errors: BadDefinition for a value that cannot be read, naming the member.
    """
    stated = definition.get("requirements") or {}
    if not isinstance(stated, Mapping):
        raise BadDefinition(f"definition.requirements is {clip(stated)}; expected an object")
    duration = stated.get("maxDuration")
    return Requirements(
        cores=_number("requirements.cpus", stated.get("cpus"), 1.0) or 1.0,
        memory_bytes=_size("requirements.memory", stated.get("memory")) or 0,
        gpus=math.ceil(_number("requirements.gpus", stated.get("gpus"), 0.0)),
        max_duration_s=None if duration is None else _duration("requirements.maxDuration", duration),
        tags=_tags(definition.get("tags")),
    )


def _number(field: str, value: Any, default: float) -> float:
    if value is None:
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise BadDefinition(f"definition.{field} is {clip(value)}; expected a number, zero or more")
    return number


def _size(field: str, value: Any) -> int | None:
    if value is None or value == "":
        return None
    try:
        return parse_size_bytes(value)
    except BadRequest as error:
        raise BadDefinition(f"definition.{field}: {error.message}", hint=error.hint) from error


def _duration(field: str, value: Any) -> float:
    try:
        return parse_duration_s(value)
    except BadRequest as error:
        raise BadDefinition(f"definition.{field}: {error.message}", hint=error.hint) from error


def _tags(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(tag, str) for tag in value):
        raise BadDefinition(f"definition.tags is {clip(value)}; expected an array of texts")
    return tuple(sorted(set(value)))


def time_limit_s(definition: Mapping[str, Any], requirements: Requirements, grant: Grant) -> float:
    """How long the container may run: the smallest of what the definition says and what the owner allows.

    ``maxDuration`` above the owner's limit is cut to it, as on older workers: browsers always send one.
    """
    stated = definition.get("maxDuration")
    limits = [grant.max_duration_s, requirements.max_duration_s]
    if stated is not None and stated != "":
        limits.append(_duration("maxDuration", stated))
    return min(limit for limit in limits if limit is not None)


def allot(requirements: Requirements, grant: Grant) -> Allotment:
    """Cores and memory of one job; which GPUs it gets is decided when they are free.

    A job that does not say how much memory it needs gets the share that belongs to its cores, so that jobs which
    say nothing can never ask for more than there is. It is a fixed share, never "what happens to be free": a result
    is kept for weeks and must not depend on the neighbours.

    Errors: LimitExceeded, naming the field, the amount asked and the amount granted.
    """
    for rule in rules(requirements, grant.capacity):
        if not rule.passed:
            field = {"duration": "requirements.maxDuration", "tags": "tags"}.get(rule.rule, f"requirements.{rule.rule}")
            raise LimitExceeded(
                f"{field} asks for {rule.asked}, this worker grants {rule.has}",
                hint="Ask for less, or send the job to a queue with a larger worker.",
                details=((f"definition.{field}", f"asked {rule.asked}, granted {rule.has}"),),
                status=422,
            )
    share = int(grant.memory_bytes * min(requirements.cores / grant.cores, 1.0))
    return Allotment(cores=requirements.cores, memory_bytes=max(requirements.memory_bytes or share, _LEAST_MEMORY))


def image_of(definition: Mapping[str, Any], grant: Grant) -> str:
    """The image a job runs in, with its tag written out.

    Errors: BadDefinition if there is none or it is not an image name; LimitExceeded if the owner does not allow it.
    """
    image = definition.get("image")
    if definition.get("build"):
        raise BadDefinition(
            "definition.build asks for an image to be built, which this worker does not do",
            hint="Push the image to a registry and name it in definition.image, without definition.build.",
        )
    if not isinstance(image, str) or not image.strip():
        raise BadDefinition("the definition names no image", hint='Set "image", for example "alpine:3.19.1".')
    name = image.strip()
    if len(name) > 512 or not _IMAGE.match(name):
        raise BadDefinition(
            f"definition.image is {clip(name)}, which is no image name",
            hint="Write [registry/]name[:tag] in lower case; a repository of sources goes into build.context.",
        )
    if "@" not in name and ":" not in name.rpartition("/")[2]:
        name += ":latest"
    if grant.images and not any(fnmatch.fnmatchcase(name, pattern) for pattern in grant.images):
        raise LimitExceeded(
            f"definition.image asks for {clip(name)}, this worker grants {', '.join(grant.images)}",
            hint="Use an allowed image, or send the job to another queue.",
            details=(("definition.image", "not among the images that the owner allows"),),
            status=422,
        )
    return name


_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_IMAGE = re.compile(
    rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?\Z"
)


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


def container_spec(
    definition: Mapping[str, Any],
    allotment: Allotment,
    grant: Grant,
    *,
    image: str,
    folders: JobFolders,
    labels: Mapping[str, str],
    queue: str,
    job_id: str,
    server_url: str,
    image_user: str = "",
    image_has_entrypoint: bool = False,
) -> ContainerSpec:
    """Turn what a job asks for and what the owner allows into one container.

    Shape:  ``image_user`` and ``image_has_entrypoint`` are what the image itself says.
    Errors: BadDefinition for a member that cannot be read, naming it.
    Source: contract, "Container creation" and "Container hardening".
    """
    profile = grant.rules
    image_is_root = image_user.partition(":")[0] in ("", "0", "root")
    user_env = _env(definition.get("env"))
    command, entrypoint = container_argv(
        definition.get("command"),
        definition.get("entrypoint"),
        user_env,
        image_has_entrypoint=image_has_entrypoint,
    )
    return ContainerSpec(
        image=image,
        command=command,
        entrypoint=entrypoint,
        workdir=_workdir(definition.get("workdir")),
        user=profile.user if image_is_root else "",
        env=tuple({**user_env, **_system_env(server_url, job_id, allotment.gpus)}.items()),
        labels=tuple({**labels, "asman.gpus": ",".join(gpu.device_id for gpu in allotment.gpus)}.items()),
        cores=allotment.cores,
        memory_bytes=allotment.memory_bytes,
        shm_bytes=_shm_bytes(definition.get("shmSize"), allotment.memory_bytes, profile),
        pids=profile.pids if grant.pids is None else grant.pids,
        ulimits=_ulimits(profile, grant),
        drop_all=profile.drop_all,
        capabilities=tuple(sorted({*profile.capabilities, *grant.capabilities})),
        no_new_privileges=not grant.allow_setuid,
        read_only_root=profile.read_only_root,
        tmpfs=profile.tmpfs,
        network={"egress": NETWORK, "none": "none"}.get(grant.network, profile.network),
        mounts=_mounts(folders, cache_volume(queue) if profile.shared_cache else ""),
        device_ids=tuple(gpu.device_id for gpu in allotment.gpus),
        stop_grace_s=grant.stop_grace_s,
        runs_as_root=image_is_root and not profile.user,
    )


def _env(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadDefinition(f"definition.env is {clip(value)}; expected an object of texts")
    env = {}
    for name, content in value.items():
        if not name or "=" in name or "\0" in name:
            raise BadDefinition(f"definition.env has a variable named {clip(name)}; it must have no = and no NUL")
        if content is None:
            continue
        text = content if isinstance(content, str) else json.dumps(content, separators=(",", ":"))
        if "\0" in text:
            raise BadDefinition(f"definition.env.{name} contains a NUL character")
        env[name] = text
    return env


def _system_env(server_url: str, job_id: str, gpus: tuple[Gpu, ...]) -> dict[str, str]:
    """The worker's own variables, which win over the definition's.

    ``NVIDIA_VISIBLE_DEVICES`` is always set: where the engine's default runtime is NVIDIA's, a job (or an image) that
    sets it to ``all`` would otherwise get every card of the host.
    """
    prefix = f"{server_url.rstrip('/')}/j/{job_id}"
    env = {
        "JOB_ID": job_id,
        "JOB_INPUTS": "/inputs",
        "JOB_OUTPUTS": "/outputs",
        "JOB_CACHE": "/job-cache",
        "JOB_URL_PREFIX": prefix,
        "JOB_OUTPUTS_URL_PREFIX": f"{prefix}/outputs/",
        "JOB_INPUTS_URL_PREFIX": f"{prefix}/inputs/",
        "NVIDIA_VISIBLE_DEVICES": ",".join(gpu.device_id for gpu in gpus) or "void",
    }
    if gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(str(i) for i in range(len(gpus)))
    return env


def _workdir(value: Any) -> str:
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise BadDefinition(f"definition.workdir is {clip(value)}; expected an absolute path")
    return value


def _shm_bytes(asked: Any, memory_bytes: int, profile: Profile) -> int:
    """Shared memory counts as memory, so half of that is the most that makes sense."""
    wanted = _size("shmSize", asked) or profile.shm_bytes or _GIB
    if profile.shm_bytes is None:
        return min(wanted, memory_bytes)
    return min(wanted, profile.shm_bytes, memory_bytes // 2)


def _ulimits(profile: Profile, grant: Grant) -> tuple[tuple[str, int], ...]:
    limits = [("core", 0)]
    if profile.nofile is not None:
        nofile = profile.nofile if grant.max_open_files is None else min(profile.nofile, grant.max_open_files)
        limits += [("fsize", grant.max_output_bytes), ("nofile", nofile)]
    return tuple(limits)


def _mounts(folders: JobFolders, volume: str) -> tuple[Mount, ...]:
    return (
        Mount(target="/inputs", source=folders.inputs, read_only=True),
        Mount(target="/outputs", source=folders.outputs),
        *(Mount(target=target, source=path, read_only=True) for target, path in folders.config_files),
        *([Mount(target="/job-cache", volume=volume)] if volume else []),
    )


def create_body(spec: ContainerSpec, *, host_cores: int = 0, selinux: bool = False) -> dict[str, Any]:
    """Write the engine's create request.

    Shape:  ``selinux`` writes binds in the form that relabels them, the only form which works there.
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
        "HostConfig": _host_config(spec, host_cores=host_cores, selinux=selinux),
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


def _host_config(spec: ContainerSpec, *, host_cores: int, selinux: bool) -> dict[str, Any]:
    cores = min(spec.cores, host_cores) if host_cores else spec.cores
    binds = [m for m in spec.mounts if m.source]
    config: dict[str, Any] = {
        "Privileged": False,
        "NanoCpus": round(max(cores, _CPU_STEP) * 1e9),
        "Memory": spec.memory_bytes,
        "MemorySwap": spec.memory_bytes,
        "PidsLimit": spec.pids,
        "ShmSize": spec.shm_bytes,
        "Ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in spec.ulimits],
        "CapDrop": ["ALL"] if spec.drop_all else [],
        "CapAdd": list(spec.capabilities),
        "SecurityOpt": ["no-new-privileges"] if spec.no_new_privileges else [],
        "ReadonlyRootfs": spec.read_only_root,
        "Tmpfs": dict(spec.tmpfs),
        "Init": True,
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "local", "Config": {"max-size": "5m", "max-file": "2"}},
        "OomScoreAdj": _OOM_SCORE,
        "NetworkMode": spec.network,
        "PublishAllPorts": False,
        "PortBindings": {},
        "IpcMode": "private",
        "PidMode": "",
        "UTSMode": "",
        "CgroupnsMode": "private",
        "Devices": [],
        "DeviceRequests": _device_requests(spec.device_ids),
        "Mounts": [_mount(m) for m in spec.mounts if not (selinux and m.source)],
        "Binds": [f"{m.source}:{m.target}:{'ro,Z' if m.read_only else 'Z'}" for m in binds] if selinux else [],
        "VolumesFrom": [],
        "GroupAdd": [],
        "ExtraHosts": [],
    }
    return config


def _device_requests(device_ids: tuple[str, ...]) -> list[dict[str, Any]]:
    if not device_ids:
        return []
    return [{"Driver": "nvidia", "DeviceIDs": list(device_ids), "Capabilities": [["gpu"]]}]


def _mount(mount: Mount) -> dict[str, Any]:
    if mount.source:
        return {"Type": "bind", "Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only}
    return {"Type": "volume", "Source": mount.volume, "Target": mount.target, "ReadOnly": mount.read_only}
