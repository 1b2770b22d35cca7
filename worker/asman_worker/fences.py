"""What an engine has to offer so that a profile holds, looked at once, at the start of the worker. Pure.

A fence that is silently missing is worse than none: so what a profile is built on is refused where it is missing,
with the owner's way out; what makes it stronger and is not there is said as a warning, loudly, once.

=============  ========================  ====================================  =======================
profile        without system call       without a user namespace for          without a runtime that
               filter (seccomp)          containers (rootless, remapped)       keeps the kernel away
=============  ========================  ====================================  =======================
``standard``   refused                   silent                                silent
``strict``     refused                   warning                               warning
``trusted``    warning                   silent                                silent
=============  ========================  ====================================  =======================

A sandbox and the network class ``egress`` exclude each other, not for safety (the gate stands outside of the job), but
because a sandbox has a network stack of its own, and none was seen to take over a guard's only route, whose next hop is
in no subnet: jobs might have no network and say nothing.

Source: contract, "Container hardening"; Docker Engine API v1.41, ``GET /info``. That the lesser fences are a warning
under ``strict`` is ours: most machines have neither, and strict without them is still much more than standard.
"""

from __future__ import annotations

from collections.abc import Collection

from asman.errors import ConfigError, clip
from asman_worker.docker import EngineInfo
from asman_worker.grant import Grant

__all__ = ["SANDBOX_RUNTIMES", "check_engine", "choose_runtime"]

SANDBOX_RUNTIMES = ("runsc", "kata", "kata-runtime", "kata-qemu")
"""Runtimes that put a kernel of their own between a job and the host's, in the order of choice."""


def choose_runtime(asked: str, profile: str, known: Collection[str]) -> str:
    """The runtime for jobs, empty for the engine's default: what the owner asks, else a sandbox under ``strict``.

    Errors: ConfigError for one that the engine does not know.
    """
    if asked:
        if asked not in known:
            names = ", ".join(sorted(known)) or "none"
            raise ConfigError(
                f"runtime is {clip(asked)}, which the container engine does not know; it knows: {names}",
                hint='Name it in the engine\'s configuration under "runtimes" (daemon.json), or leave --runtime out.',
            )
        return asked
    if profile == "strict":
        return next((name for name in SANDBOX_RUNTIMES if name in known), "")
    return ""


def check_engine(grant: Grant, info: EngineInfo, *, host_has_apparmor: bool = False) -> tuple[str, ...]:
    """What the owner should know about this engine under this profile, one sentence each.

    Shape:  ``host_has_apparmor`` is what the kernel says, True only where the engine is on this host.
    Errors: ConfigError if the profile cannot be kept.
    """
    if grant.runtime in SANDBOX_RUNTIMES and grant.network_class == "egress":
        raise ConfigError(
            f"the runtime {grant.runtime} has a network stack of its own, which is not known to take over the "
            "routes of jobs with egress",
            hint="Choose one of the two: --network none, or --runtime runc.",
        )
    if grant.rules.own_seccomp and not info.takes_seccomp:
        raise ConfigError(
            f"the profile {grant.profile} sends a filter of system calls along; {info.kind} takes it from files only",
            hint="Use Docker for this profile (rootless will do), or --profile standard.",
        )
    warnings = [_without_seccomp(grant)] if not _filters_calls(grant, info) else []
    if host_has_apparmor and "apparmor" not in info.fences:
        warnings.append(
            "this host has AppArmor, but the container engine does not use it: jobs lack a fence that they should "
            "have; install the apparmor package and restart the engine"
        )
    if grant.profile == "strict":
        warnings += _lesser_than_strict(grant, info)
    return tuple(warnings)


def _filters_calls(grant: Grant, info: EngineInfo) -> bool:
    """With a profile of our own it is enough that the engine can filter; otherwise its own must be in force."""
    stated = info.fences.get("seccomp")
    return stated is not None and (grant.rules.own_seccomp or stated != "unconfined")


def _without_seccomp(grant: Grant) -> str:
    if grant.profile != "trusted":
        raise ConfigError(
            f"the container engine filters no system calls (seccomp), which the profile {grant.profile} is built on",
            hint="Use an engine and a kernel with seccomp, or --profile trusted on a machine for your own jobs.",
        )
    return "the container engine filters no system calls (seccomp): run your own jobs only"


def _lesser_than_strict(grant: Grant, info: EngineInfo) -> list[str]:
    found = []
    if grant.runtime not in SANDBOX_RUNTIMES:
        found.append(
            "profile strict without a sandbox: jobs of strangers share this host's kernel; install gVisor and name "
            "runsc in the engine's daemon.json, or give each worker a virtual machine of its own"
        )
    if not {"rootless", "userns"} & info.fences.keys():
        found.append(
            "profile strict without a user namespace: root in a container that breaks out is root of this host; run "
            'the engine rootless, or set "userns-remap": "default" in its daemon.json'
        )
    return found
