"""What the owner of a machine lends: the amounts, and the profile that says how containers are fenced in. Pure.

A ``Grant`` is the owner's word and nobody else's: no member of a definition appears here. ``limits`` is where it meets
what a job asks.

Source: contract, "Container hardening" (the profile table).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from asman.errors import BadRequest, clip
from asman.matching import Capacity
from asman.units import show_bytes
from asman_worker.addresses import routes_of
from asman_worker.gpu import Gpu

__all__ = [
    "EGRESS_NETWORK",
    "LEAST_CORES",
    "LEAST_MEMORY_BYTES",
    "LEAST_PIDS",
    "NETWORK",
    "NETWORK_CLASSES",
    "PROFILES",
    "Grant",
    "NamedVolume",
    "Profile",
    "check_grant",
    "default_memory_bytes",
    "parse_volume",
]

NETWORK = "asman-jobs"
"""The bridge that jobs with an open network share: no traffic between containers, no IPv6."""
EGRESS_NETWORK = "asman-egress"
"""The bridge that the guards of jobs with egress share, likewise."""

NETWORK_CLASSES = ("none", "egress", "open")
"""What a container reaches, from the least: nothing; the public internet; whatever the host reaches."""

LEAST_CORES = 0.01
LEAST_MEMORY_BYTES = 6 << 20
"""What the engine needs to start anything at all."""

_MIB = 1 << 20
_GIB = 1 << 30
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]+)?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)+\Z")
LEAST_PIDS = 8
"""A shell, what it starts, and the engine's own init."""

_STANDARD_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID")
_LENDABLE_CAPABILITIES = """
    CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP SETFCAP NET_BIND_SERVICE NET_RAW NET_BROADCAST
    SYS_CHROOT SYS_NICE SYS_PTRACE IPC_LOCK IPC_OWNER AUDIT_WRITE
"""
"""What stays inside a container's own processes, files and network."""

_HOST_CAPABILITIES = """
    AUDIT_CONTROL AUDIT_READ BLOCK_SUSPEND BPF CHECKPOINT_RESTORE DAC_READ_SEARCH LEASE LINUX_IMMUTABLE MAC_ADMIN
    MAC_OVERRIDE MKNOD NET_ADMIN PERFMON SYSLOG SYS_ADMIN SYS_BOOT SYS_MODULE SYS_PACCT SYS_RAWIO SYS_RESOURCE
    SYS_TIME SYS_TTY_CONFIG WAKE_ALARM
"""
"""What reaches the kernel, its devices or other people's limits: for an owner's own jobs only."""

_VOLUME = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]{1,127}):(?P<target>/[^:\0]+?)(?P<mode>:ro|:rw)?\Z")
_NO_VOLUME_AT = ("/", "/dev", "/inputs", "/job-cache", "/outputs", "/proc", "/sys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One column of the hardening table.

    Shape:  ``drop_all`` False keeps the engine's default capabilities; ``shm_bytes`` is the most a job gets, and what
            it gets if it does not ask, None for no such bound; ``nofile`` None keeps the engine's default; ``tmpfs``
            are (path, bytes) of the writable places under a read-only root, among them a ``/job-cache`` that ends
            with the job where ``shared_cache`` is False; ``user`` replaces root. ``own_seccomp`` takes our list of
            system calls in the place of the engine's; ``registries`` are those that images come from where the owner
            allows no images by name, empty: any. ``network`` is the class that jobs get; where ``must_ask`` holds they
            get none unless they ask for it.
    """

    drop_all: bool
    capabilities: tuple[str, ...]
    pids: int
    shm_bytes: int | None
    nofile: int | None
    network: str
    must_ask: bool = False
    user: str = ""
    read_only_root: bool = False
    tmpfs: tuple[tuple[str, int], ...] = ()
    shared_cache: bool = True
    own_seccomp: bool = False
    registries: tuple[str, ...] = ()
    named_volumes: bool = False
    """May the owner mount volumes of the engine into every job?"""
    private_addresses: bool = False
    """May URL inputs be fetched from addresses that are not public?"""
    builds: bool = True
    trusts_builds: bool = False
    """May builds do what no container of theirs does: use BuildKit, and have the engine download?"""


PROFILES: Mapping[str, Profile] = {
    "standard": Profile(
        drop_all=True,
        capabilities=_STANDARD_CAPABILITIES,
        pids=1024,
        shm_bytes=_GIB,
        nofile=65536,
        network="egress",
    ),
    "strict": Profile(
        drop_all=True,
        capabilities=(),
        pids=256,
        shm_bytes=64 * _MIB,
        nofile=4096,
        network="none",
        must_ask=True,
        user="65532:65532",
        read_only_root=True,
        tmpfs=(
            ("/tmp", 512 * _MIB),
            ("/var/tmp", 128 * _MIB),
            ("/run", 64 * _MIB),
            ("/home", 128 * _MIB),
            ("/job-cache", _GIB),
        ),
        shared_cache=False,
        builds=False,
        own_seccomp=True,
        registries=(
            "docker.io",
            "gcr.io",
            "ghcr.io",
            "mcr.microsoft.com",
            "nvcr.io",
            "public.ecr.aws",
            "quay.io",
            "registry.gitlab.com",
            "registry.k8s.io",
        ),
    ),
    "trusted": Profile(
        drop_all=False,
        capabilities=(),
        pids=4096,
        shm_bytes=None,
        nofile=None,
        network="open",
        private_addresses=True,
        trusts_builds=True,
        named_volumes=True,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedVolume:
    """A volume of the engine that an owner mounts into every job of a trusted worker."""

    name: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the owner of this machine lends, for all jobs together and for each job.

    Shape:  ``images`` are patterns (``image_name``) of which a job's image must match one; empty: any image.
            ``network`` overrides the profile's class. ``dns`` are the resolvers of jobs with egress, and
            ``allow_networks`` and ``deny_networks`` (CIDR) what they reach beyond, or short of, the public internet;
            ``guard_image`` is what fences them in (``network``). ``pids`` overrides the profile's.
            ``max_open_files`` is the most this host's engine can give one process, None: no bound known.
            ``capabilities`` are added to the profile's; ``allow_setuid`` gives up no-new-privileges. ``runtime`` is
            one of the engine's, empty for its default. ``build`` overrides whether the profile builds images;
            ``cache_registry`` keeps built ones, such as ``registry.example.org/asman``, empty for none.
            ``max_images_bytes`` is for all images that this worker keeps, None for no bound; ``disk_floor_bytes`` is
            what must stay free on the disk, 0 for nothing, None for 10 GiB or a tenth.
    Units:  cores; bytes; seconds. The step limits bound fetching inputs, pulling, building and uploading, each.
            ``max_image_bytes`` is for an image, and for what its build writes; ``max_layer_bytes`` is what a
            container may write outside of /outputs and /job-cache.
    """

    cores: float
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()
    max_duration_s: float = 300.0
    tags: frozenset[str] = frozenset()
    profile: str = "standard"
    images: tuple[str, ...] = ()
    network: str = ""
    dns: tuple[str, ...] = ("1.1.1.1", "8.8.8.8")
    allow_networks: tuple[str, ...] = ()
    deny_networks: tuple[str, ...] = ()
    guard_image: str = "busybox:1.36"
    pids: int | None = None
    capabilities: tuple[str, ...] = ()
    allow_setuid: bool = False
    runtime: str = ""
    volumes: tuple[NamedVolume, ...] = ()
    max_input_bytes: int = 16 * _GIB
    max_output_bytes: int = 16 * _GIB
    max_output_files: int = 10_000
    max_layer_bytes: int = 16 * _GIB
    max_image_bytes: int = 20 * _GIB
    max_images_bytes: int | None = None
    disk_floor_bytes: int | None = None
    max_open_files: int | None = None
    stop_grace_s: float = 5.0
    fetch_limit_s: float = 1800.0
    pull_limit_s: float = 1800.0
    build_limit_s: float = 1800.0
    upload_limit_s: float = 1800.0
    build: bool | None = None
    cache_registry: str = ""

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
    def builds(self) -> bool:
        return self.rules.builds if self.build is None else self.build

    @property
    def rules(self) -> Profile:
        return PROFILES[self.profile]

    @property
    def network_class(self) -> str:
        """The most that a job may reach."""
        return self.network or self.rules.network


def check_grant(grant: Grant) -> None:
    """Refuse an owner's words that cannot be kept. Errors: BadRequest or ConfigError, naming the field."""
    if grant.profile not in PROFILES:
        raise BadRequest(f"profile is {clip(grant.profile)}; known are: {', '.join(PROFILES)}")
    if grant.network not in ("", *NETWORK_CLASSES):
        raise BadRequest(f"network is {clip(grant.network)}; known are: {', '.join(NETWORK_CLASSES)}")
    routes_of((), deny=grant.deny_networks, allow=grant.allow_networks, resolvers=grant.dns)
    if not grant.cores >= LEAST_CORES:
        raise BadRequest(f"cores is {grant.cores}; at least {LEAST_CORES} are needed to run anything")
    if grant.memory_bytes < LEAST_MEMORY_BYTES:
        raise BadRequest(
            f"memory is {show_bytes(grant.memory_bytes)}; the engine needs {show_bytes(LEAST_MEMORY_BYTES)}"
        )
    if grant.cache_registry and not _REPOSITORY.match(grant.cache_registry):
        raise BadRequest(
            f"cache registry is {clip(grant.cache_registry)}; expected a repository without a tag",
            hint="Write it like localhost:5000/asman-cache or ghcr.io/me/asman-cache.",
        )
    if grant.pids is not None and grant.pids < LEAST_PIDS:
        raise BadRequest(f"pids is {grant.pids}; at least {LEAST_PIDS} are needed to run anything")
    _check_capabilities(grant)
    if grant.volumes and not grant.rules.named_volumes:
        raise BadRequest(
            f"volume {grant.volumes[0].name} is for every job of this worker, and its profile is {grant.profile}",
            hint="Volumes are shared by all jobs: use --profile trusted on a worker for your own jobs.",
        )


def _check_capabilities(grant: Grant) -> None:
    lendable, of_the_host = _LENDABLE_CAPABILITIES.split(), _HOST_CAPABILITIES.split()
    for name in grant.capabilities:
        if name not in lendable and name not in of_the_host:
            raise BadRequest(
                f"allow_caps has {clip(name)}, which is no capability of a container",
                hint=f"Written without CAP_; known are: {', '.join(sorted(lendable))}.",
            )
        if name in of_the_host and grant.profile != "trusted":
            raise BadRequest(
                f"allow_caps has {name}, which reaches the host, and the profile is {grant.profile}",
                hint="Use --profile trusted on a worker for your own jobs, or leave it out.",
            )


def parse_volume(text: str) -> NamedVolume:
    """``NAME:/path`` or ``NAME:/path:ro``: a volume's name, never a path of the host.

    Errors: BadRequest, also for a place that is the worker's or the kernel's.
    """
    found = _VOLUME.match(text)
    parts = found["target"].split("/")[1:] if found else []
    if not found or any(part in ("", ".", "..") for part in parts):
        raise BadRequest(f"volume is {clip(text)}", hint="Write NAME:/path or NAME:/path:ro, NAME being a volume's.")
    target = found["target"]
    if any(target == place or (place != "/" and target.startswith(f"{place}/")) for place in _NO_VOLUME_AT):
        raise BadRequest(
            f"volume is {clip(text)}; nothing can be mounted there",
            hint=f"Choose a place outside of {', '.join(_NO_VOLUME_AT[1:])}.",
        )
    return NamedVolume(name=found["name"], target=target, read_only=found["mode"] == ":ro")


def default_memory_bytes(host_bytes: int) -> int:
    """What an owner lends who did not say: all but 2 GiB, but never less than half."""
    return max(host_bytes - 2 * _GIB, host_bytes // 2)
