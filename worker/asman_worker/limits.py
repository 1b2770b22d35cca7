"""The one place where what a job asks meets what the machine's owner allows. Pure.

A ``Grant`` is the owner's word, a definition a stranger's. ``container_spec`` reads the members of a definition that
it knows and nothing else, so no field of a job can reach a mount, a device, a capability or a network: those come
from the grant's profile and from this file.

The smaller of request and grant wins; a job that needs more than the grant is refused, not shrunk.

Source: contract, "Limits", "Container creation" and "Container hardening".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asman.errors import BadDefinition, BadRequest, LimitExceeded, clip
from asman.job import Requirements
from asman.matching import rules
from asman.units import parse_duration_s, parse_size_bytes
from asman_worker.command import container_argv
from asman_worker.container import CACHE, ContainerSpec, JobFolders, Mount, cache_volume
from asman_worker.gpu import Gpu
from asman_worker.grant import LEAST_MEMORY_BYTES, NETWORK_CLASSES, Grant, Profile
from asman_worker.image_name import matches_any
from asman_worker.recipe import Recipe, read_recipe
from asman_worker.seccomp import strict_profile

__all__ = [
    "Allotment",
    "allot",
    "allowed_image",
    "build_network_class",
    "container_spec",
    "image_of",
    "network_class",
    "read_requirements",
    "recipe_of",
    "time_limit_s",
]

_GIB = 1 << 30
_HOME = "/tmp"
"""Under a read-only root: what an image calls home cannot be written to there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """What one job holds of the grant while it runs."""

    cores: float
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()


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
        number = float(value) if not isinstance(value, str) or value.isascii() else math.nan
    except (TypeError, ValueError, OverflowError):
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


def network_class(definition: Mapping[str, Any], grant: Grant) -> str:
    """What the job's container reaches: ``none``, ``egress`` or ``open``.

    A job may ask for less than it would get, and under a profile where jobs must ask, for what the owner allows.

    Errors: BadDefinition for a word that is not known; LimitExceeded for more than the owner allows.
    """
    stated = definition.get("requirements")
    asked = stated.get("network") if isinstance(stated, Mapping) else None
    most = grant.network_class
    if asked is None or asked == "":
        return "none" if grant.rules.must_ask else most
    if asked not in ("none", "egress"):
        raise BadDefinition(
            f"definition.requirements.network is {clip(asked)}",
            hint='Write "none" or "egress" (the public internet), or leave it out.',
        )
    if NETWORK_CLASSES.index(asked) > NETWORK_CLASSES.index(most):
        raise LimitExceeded(
            f"requirements.network asks for {asked}, this worker grants {most}",
            hint="Ask for less, or send the job to another queue.",
            details=(("definition.requirements.network", f"asked {asked}, granted {most}"),),
            status=422,
        )
    return str(asked)


def build_network_class(definition: Mapping[str, Any], grant: Grant) -> str:
    """What the steps of a job's build reach: what the owner allows; what a job must ask for, only if it does.

    A job that asks for less than it would get asks for its own container: its image is made as for any other.

    Errors: as ``network_class``.
    """
    asked = network_class(definition, grant)
    return asked if grant.rules.must_ask else grant.network_class


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
    return Allotment(cores=requirements.cores, memory_bytes=max(requirements.memory_bytes or share, LEAST_MEMORY_BYTES))


def image_of(definition: Mapping[str, Any], grant: Grant) -> str:
    """The image a job runs in, with its tag written out.

    Errors: BadDefinition if there is none or it is not an image name; LimitExceeded if the owner does not allow it.
    """
    image = definition.get("image")
    if not isinstance(image, str) or not image.strip():
        raise BadDefinition("the definition names no image", hint='Set "image", for example "alpine:3.19.1".')
    return allowed_image(image.strip(), grant)


def recipe_of(definition: Mapping[str, Any], grant: Grant) -> Recipe | None:
    """How the job's image is to be built; None where it names one. A build wins over an image.

    Errors: BadDefinition for a build that cannot be read, naming the member; LimitExceeded if the owner builds none.
    """
    recipe = read_recipe(definition)
    if recipe is not None and not grant.builds:
        raise LimitExceeded(
            "definition.build asks for an image to be built, which this worker's owner does not allow",
            hint="Push the image to a registry and name it in definition.image, without definition.build.",
            details=(("definition.build", "the owner allows no builds"),),
            status=422,
        )
    return recipe


def allowed_image(name: str, grant: Grant, where: str = "definition.image") -> str:
    """An image's name with its tag written out; ``where`` says in errors who asks for it.

    Errors: BadDefinition if it is not an image name; LimitExceeded if the owner does not allow it.
    """
    if len(name) > 512 or not _IMAGE.match(name):
        raise BadDefinition(
            f"{where} is {clip(name)}, which is no image name",
            hint="Write [registry/]name[:tag] in lower case; a repository of sources goes into build.context.",
        )
    if "@" not in name and ":" not in name.rpartition("/")[2]:
        name += ":latest"
    if grant.images and not matches_any(grant.images, name):
        raise LimitExceeded(
            f"{where} asks for {clip(name)}, this worker grants {', '.join(grant.images)}",
            hint="Use an allowed image, or send the job to another queue.",
            details=((where, "not among the images that the owner allows"),),
            status=422,
        )
    if not grant.images and grant.rules.registries and _registry(name) not in grant.rules.registries:
        raise LimitExceeded(
            f"{where} asks for {clip(name)}, this worker takes from {', '.join(grant.rules.registries)}",
            hint="Use an image of one of these registries, or send the job to another queue.",
            details=((where, "not from a registry that the owner's profile takes"),),
            status=422,
        )
    return name


def _registry(image: str) -> str:
    """The first part of a name is a registry if it looks like a host, as the engine reads it."""
    first, slash, _ = image.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    return first.lower().replace("index.docker.io", "docker.io") if is_host else "docker.io"


_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_IMAGE = re.compile(
    rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?\Z"
)


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
    network_mode: str,
    image_user: str = "",
    image_has_entrypoint: bool = False,
) -> ContainerSpec:
    """Turn what a job asks for and what the owner allows into one container.

    Shape:  ``network_mode`` is the engine's word for a network of the job's class (``network_class``);
            ``image_user`` and ``image_has_entrypoint`` are what the image itself says.
    Errors: BadDefinition for a member that cannot be read, naming it.
    Source: contract, "Container creation" and "Container hardening".
    """
    profile = grant.rules
    image_is_root = image_user.partition(":")[0] in ("", "0", "root")
    user = profile.user if image_is_root else ""
    home = {"HOME": _HOME} if profile.read_only_root else {}
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
        user=user,
        env=tuple({**home, **user_env, **_system_env(server_url, job_id, allotment.gpus)}.items()),
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
        tmpfs=_tmpfs(profile, allotment.memory_bytes, user),
        network=network_mode,
        mounts=_mounts(folders, cache_volume(queue) if profile.shared_cache else "", grant),
        device_ids=tuple(gpu.device_id for gpu in allotment.gpus),
        stop_grace_s=grant.stop_grace_s,
        runs_as_root=image_is_root and not profile.user,
        seccomp=strict_profile() if profile.own_seccomp else "",
        runtime=grant.runtime,
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


def _tmpfs(profile: Profile, memory_bytes: int, user: str) -> tuple[tuple[str, str], ...]:
    """What lies in them counts as the job's memory; half of that each, so that a full one is told as a full disk.

    Shape:  they belong to ``user`` (numbers), because engines keep the mode of the image's own folder in that place.
    """
    uid, _, gid = user.partition(":")
    owner = f",uid={uid},gid={gid}" if user else ""
    return tuple(
        (path, f"rw,exec,nosuid,nodev,size={min(size, memory_bytes // 2)},mode=1777{owner}")
        for path, size in profile.tmpfs
    )


def _mounts(folders: JobFolders, volume: str, grant: Grant) -> tuple[Mount, ...]:
    return (
        Mount(target="/inputs", source=folders.inputs, read_only=True),
        Mount(target="/outputs", source=folders.outputs),
        *(Mount(target=target, source=path, read_only=True) for target, path in folders.config_files),
        *([Mount(target=CACHE, volume=volume)] if volume else []),
        *(Mount(target=v.target, volume=v.name, read_only=v.read_only) for v in grant.volumes),
    )
