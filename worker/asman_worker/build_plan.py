"""What the engine is told to build, settled before it is told anything: its Dockerfile, its builder, its query. Pure.

The author's Dockerfile and the recipe are a stranger's words; the grant is the owner's. What comes out names only what
both allow.

Source: contract, "Image build"; promises, "Container hardening" (build); Docker Engine API v1.41, ``POST /build``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from asman.errors import BadDefinition, clip
from asman_worker.build_calls import ImageDetails
from asman_worker.build_fence import BUILDER_LABEL
from asman_worker.build_rules import check_steps, inner, lower, needs_buildkit, platform_args, resolve
from asman_worker.dockerfile import Dockerfile, parse, render
from asman_worker.grant import Grant
from asman_worker.limits import Allotment, allowed_image

__all__ = [
    "BUILD_LABEL",
    "BuildPlan",
    "Recipe",
    "build_query",
    "check_base",
    "plan_build",
    "platform_of",
]

BUILD_LABEL = "asman.build"
"""The hash in its name, on an image that was built."""

_CPU_PERIOD_US = 100_000
_SHM_BYTES = 64 << 20
_ARCHES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "armv6l": "arm/v6", "i686": "386", "i386": "386"}


class Recipe(Protocol):
    """How an image is to be built, as the definition says. Shape: empty texts for what it does not say."""

    @property
    def context(self) -> str: ...
    @property
    def folder(self) -> str: ...
    @property
    def filename(self) -> str: ...
    @property
    def dockerfile(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def build_args(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def platform(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """One build, before it is begun.

    Shape:  ``images`` are those to have here first, with tags; ``platform`` is empty for the engine's own, and then
            only; ``adds`` counts the steps that may unpack archives; ``notes`` are lines for the log.
    """

    dockerfile: str
    buildkit: bool
    images: tuple[str, ...]
    args: tuple[tuple[str, str], ...]
    platform: str
    adds: int
    notes: tuple[str, ...]


def platform_of(arch: str) -> str:
    """An engine's platform as Dockerfiles write it, such as ``linux/amd64``."""
    return f"linux/{_ARCHES.get(arch, arch)}"


def plan_build(text: str, recipe: Recipe, grant: Grant, *, arch: str, worker_id: str) -> BuildPlan:
    """Judge a Dockerfile, and settle how it is built.

    Errors: BadDefinition, naming the line, for what cannot be built here; LimitExceeded for an image that the owner
            does not allow.
    """
    native = platform_of(arch)
    platform = recipe.platform or native
    trusted = grant.rules.trusts_builds
    if platform != native and not trusted:
        raise BadDefinition(
            f"build.platform asks for {clip(platform)}; this worker builds {native}",
            hint="Leave it out, or send the job to a queue with such a worker.",
        )
    given = dict(recipe.build_args)
    resolved = resolve(parse(text), given, platform)
    check_steps(resolved.file.instructions, engine_fetches=trusted)
    where = "line {line} of the Dockerfile"
    images = tuple(allowed_image(name, grant, where.format(line=line)) for name, line in resolved.images)
    lowered, notes = lower(resolved.file)
    feature = needs_buildkit(lowered)
    if feature is not None and not trusted:
        raise BadDefinition(
            f"line {feature.line} of the Dockerfile has {feature.what}, for which BuildKit is needed; this worker does "
            "not build with it, because its steps cannot be kept within limits",
            hint="Write the step without it, or build the image elsewhere and name it in definition.image.",
        )
    written = render(resolved.file) if feature else render(lowered, [(BUILDER_LABEL, worker_id)])
    return BuildPlan(
        dockerfile=written,
        buildkit=feature is not None,
        images=images,
        args=tuple({**_platform_args(lowered, platform), **given}.items()),
        platform="" if platform == native else platform,
        adds=_adds(lowered),
        notes=(f"line {feature.line} has {feature.what}: BuildKit builds this", *notes[:1]) if feature else notes,
    )


def _platform_args(file: Dockerfile, platform: str) -> dict[str, str]:
    """What BuildKit would set by itself, if the file asks for it. Others would be called unused."""
    names = {
        word.partition("=")[0] for line in file.instructions if line.keyword == "ARG" for word in line.rest.split()
    }
    return {name: value for name, value in platform_args(platform).items() if name in names}


def _adds(file: Dockerfile) -> int:
    return sum(inner(line)[0] == "ADD" for line in file.instructions)


def check_base(name: str, image: ImageDetails, grant: Grant) -> bool:
    """Judge what an image brings along; may one of its triggers unpack archives?

    Errors: BadDefinition, LimitExceeded.
    """
    ours = [label for label in image.labels if label.startswith("asman.")]
    if any(label not in (BUILD_LABEL, BUILDER_LABEL) for label in ours):
        raise BadDefinition(f"the image {clip(name)} has the label {clip(ours[0])}; those mark what is the worker's")
    if not image.triggers:
        return False
    where = f"the triggers of {clip(name)}"
    triggers = parse("\n".join(["FROM scratch", *(trigger.replace("\n", " ") for trigger in image.triggers)]))
    check_steps(triggers.instructions[1:], engine_fetches=grant.rules.trusts_builds, where=where)
    for copied, line in resolve(triggers, {}, "").images:
        allowed_image(copied, grant, f"line {line} of {where}")
    return _adds(triggers) > 0


def build_query(
    plan: BuildPlan,
    *,
    image: str,
    target: str,
    dockerfile: str,
    network: str,
    ulimits: Iterable[Mapping[str, Any]],
    allotment: Allotment,
    labels: Mapping[str, str],
    build_id: str,
) -> dict[str, str]:
    """The engine's query. Shape: ``network`` is the engine's network mode for the steps."""
    query = {
        "version": "2" if plan.buildkit else "1",
        "t": image,
        "dockerfile": dockerfile,
        "rm": "1",
        "forcerm": "1",
        "networkmode": "none" if plan.buildkit and network == "none" else "" if plan.buildkit else network,
        "memory": str(allotment.memory_bytes),
        "memswap": str(allotment.memory_bytes),
        "cpuperiod": str(_CPU_PERIOD_US),
        "cpuquota": str(max(1000, round(allotment.cores * _CPU_PERIOD_US))),
        "shmsize": str(min(_SHM_BYTES, allotment.memory_bytes // 2)),
        "ulimits": json.dumps(list(ulimits)),
        "labels": json.dumps(dict(labels)),
        "buildargs": json.dumps(dict(plan.args)),
    }
    if plan.buildkit:
        query["buildid"] = build_id
    if target:
        query["target"] = target
    if plan.platform:
        query["platform"] = plan.platform
    return query
