"""What an engine can do of what a worker builds on: found once, at the start, from what the engine says. Pure.

Engines that speak one interface differ in what they enforce. Worst of all is one that takes a limit, shows it when it
is asked about the container, and does not keep it: a rootless engine does so where the kernel's control groups are of
version 1. So nothing is tried out on jobs; a limit that the engine cannot keep is a reason not to start, unless the
owner names it.

Source: Docker Engine API v1.41, ``GET /info`` and ``GET /version``; Podman API v4, ``GET /libpod/info``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from asman.errors import ConfigError, clip

__all__ = ["LIMITS", "check_limits", "check_network", "log_driver", "missing_limits", "reads_as_podman"]

LIMITS: Mapping[str, tuple[str, str]] = {
    "memory": ("MemoryLimit", "one job can use all memory of this host"),
    "cpus": ("CpuCfsQuota", "one job can use all cores of this host"),
    "pids": ("PidsLimit", "one job can use all process numbers of this host"),
}
"""The limits that a worker sets on every container: the engine's word for being able to, and what happens without."""

_CONTROLLERS = {"memory": "memory", "cpus": "cpu", "pids": "pids"}
_BOUNDED_LOGS = ("local", "k8s-file", "json-file")


def reads_as_podman(version: Mapping[str, Any]) -> bool:
    """Is the engine Podman, which speaks Docker's interface too?"""
    return any(part.get("Name") == "Podman Engine" for part in version.get("Components") or ())


def missing_limits(info: Mapping[str, Any], podman: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Names of the limits that the engine cannot keep, in the order of ``LIMITS``.

    Shape:  ``podman`` is Podman's own account of its host. What it says of itself as Docker does tells neither that it
            has no root rights nor what was handed to it then, only what the kernel could do.
    """
    host = (podman or {}).get("host") or {}
    rootless = any("rootless" in option for option in info.get("SecurityOptions") or ())
    rootless = rootless or bool((host.get("security") or {}).get("rootless"))
    if rootless and str(info.get("CgroupVersion") or "1") == "1":
        return tuple(LIMITS)
    handed = host.get("cgroupControllers")
    return tuple(
        name
        for name, (word, _) in LIMITS.items()
        if not info.get(word) or (handed is not None and _CONTROLLERS[name] not in handed)
    )


def log_driver(info: Mapping[str, Any]) -> str:
    """How the engine is told to keep a container's output on disk, the best of those that can be bounded.

    Errors: ConfigError if there is none.
    """
    known = (info.get("Plugins") or {}).get("Log") or ()
    for name in _BOUNDED_LOGS:
        if name in known:
            return name
    raise ConfigError(
        f"the container engine can keep logs as {', '.join(known) or 'nothing'}, none of which has a bound",
        hint=f"One of {', '.join(_BOUNDED_LOGS)} is needed, or a job could fill the disk with its output.",
    )


def check_limits(missing: Collection[str], without: Collection[str]) -> tuple[str, ...]:
    """What the owner accepts to do without, as sentences for the log.

    Errors: ConfigError for a limit that the engine cannot keep and the owner did not name, or a name that is none.
    """
    unknown = sorted(set(without) - LIMITS.keys())
    if unknown:
        raise ConfigError(f"--without-limits names {clip(unknown[0])}; limits are: {', '.join(LIMITS)}")
    refused = [name for name in missing if name not in without]
    if refused:
        raise ConfigError(
            f"the container engine cannot limit {', '.join(refused)}: {'; '.join(LIMITS[name][1] for name in refused)}",
            hint="Run it with root rights, or rootless where the kernel has cgroup version 2 and these controllers are "
            f"handed to its user. On a machine for your own jobs: --without-limits {','.join(missing)}",
        )
    return tuple(f"no limit of {name}: {LIMITS[name][1]}" for name in missing)


def check_network(kind: str, network_class: str, *, trusted: bool) -> None:
    """Refuse an open network on which jobs could reach each other, except where all jobs are the owner's own.

    With ``egress`` a guard keeps jobs apart, and the engine need not.

    Errors: ConfigError. Podman takes the option that keeps containers of one network apart, and passes over it.
    """
    if kind == "podman" and network_class == "open" and not trusted:
        raise ConfigError(
            "Podman does not keep the containers of one network apart, so jobs could reach each other",
            hint="Use --network egress or none, Docker's engine, or --profile trusted for your own jobs.",
        )
