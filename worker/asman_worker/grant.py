"""What the owner of a machine lends: the amounts, and the profile that says how containers are fenced in. Pure.

A ``Grant`` is the owner's word and nobody else's: no member of a definition appears here. ``limits`` is where it meets
what a job asks.

Source: contract, "Container hardening" (the profile table).
"""

from __future__ import annotations

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
    "NETWORK",
    "NETWORK_CLASSES",
    "PROFILES",
    "Grant",
    "Profile",
    "check_grant",
    "default_memory_bytes",
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
_STANDARD_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One column of the hardening table.

    Shape:  ``drop_all`` False keeps the engine's default capabilities; ``shm_bytes`` is the most a job gets, and what
            it gets if it does not ask, None for no such bound; ``nofile`` None keeps the engine's default; ``tmpfs``
            are (path, options) of the writable places under a read-only root, among them a ``/job-cache`` that ends
            with the job where ``shared_cache`` is False; ``user`` replaces root. ``network`` is the class that jobs
            get; where ``must_ask`` holds they get none unless they ask for it.
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
        network="open",
        private_addresses=True,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the owner of this machine lends, for all jobs together and for each job.

    Shape:  ``images`` are patterns (``image_name``) of which a job's image must match one; empty: any image.
            ``network`` overrides the profile's class. ``dns`` are the resolvers of jobs with egress, and
            ``allow_networks`` and ``deny_networks`` (CIDR) what they reach beyond, or short of, the public internet;
            ``guard_image`` is what fences them in (``network``). ``pids`` overrides the profile's.
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
    dns: tuple[str, ...] = ("1.1.1.1", "8.8.8.8")
    allow_networks: tuple[str, ...] = ()
    deny_networks: tuple[str, ...] = ()
    guard_image: str = "busybox:1.36"
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


def default_memory_bytes(host_bytes: int) -> int:
    """What an owner lends who did not say: all but 2 GiB, but never less than half."""
    return max(host_bytes - 2 * _GIB, host_bytes // 2)
