"""What a build asks of the engine, call by call: it passes on what it is given and decides nothing.

Beside ``docker``, which has the calls that every job needs.

Source: Docker Engine API v1.41, ``POST /build``, ``GET /events``, ``POST /containers/{id}/update`` and the images'
calls.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from asman_worker.docker import Engine, EngineError

__all__ = ["BuildCalls", "ImageDetails", "StepContainer"]

_END_S = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDetails:
    """What a build needs to know of an image. Shape: ``triggers`` are the ONBUILD lines; ``parent`` an id or empty."""

    id: str
    parent: str
    size_bytes: int
    labels: Mapping[str, str]
    triggers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContainer:
    """A container, as a build looks at it. Shape: ``ulimits`` are soft limits by name; ``volumes`` are names."""

    id: str
    has_ended: bool
    ulimits: Mapping[str, int]
    volumes: tuple[str, ...] = field(default=())


class BuildCalls:
    """Errors: as ``Engine``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def build(
        self, query: Mapping[str, str], context: AsyncIterator[bytes]
    ) -> contextlib.AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Build from a tar; the answer is the engine's events, one JSON object a line. Leaving it ends the build."""
        headers = {"Content-Type": "application/x-tar"}
        return self._engine.stream("POST", "build", query, body=context, headers=headers, end_s=_END_S)

    async def steps_are_containers(self) -> bool:
        """Are a build's steps containers of this engine, as Docker's are? Podman's belong to a library of its own."""
        components = (await self._engine.call("GET", "version")).get("Components") or ()
        return not any("podman" in str(component.get("Name")).lower() for component in components)

    async def cancel(self, build_id: str) -> None:
        """End a build of BuildKit by the id it was given. There is none: fine."""
        with contextlib.suppress(EngineError):
            await self._engine.call("POST", "build/cancel", {"id": build_id})

    def created_containers(self) -> contextlib.AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The engine's events about new containers, from now on."""
        wanted = {"type": ["container"], "event": ["create"]}
        return self._engine.stream("GET", "events", {"filters": json.dumps(wanted)})

    async def container_ids(self) -> set[str]:
        """All containers of the engine, in any state."""
        return {container["Id"] for container in await self._engine.call("GET", "containers/json", {"all": "1"})}

    async def container(self, container: str) -> StepContainer | None:
        """None if it is gone."""
        try:
            raw = await self._engine.call("GET", f"containers/{container}/json")
        except EngineError as error:
            if error.status == 404:
                return None
            raise
        limits = (raw.get("HostConfig") or {}).get("Ulimits") or ()
        mounts = [mount for mount in raw.get("Mounts") or () if mount.get("Type") == "volume"]
        return StepContainer(
            id=str(raw["Id"]),
            has_ended=(raw.get("State") or {}).get("Status") in ("exited", "dead", "removing"),
            ulimits={str(limit["Name"]): int(limit["Soft"]) for limit in limits},
            volumes=tuple(str(mount["Name"]) for mount in mounts),
        )

    async def limit_processes(self, container: str, pids: int) -> None:
        """Before the start or after it. Errors: EngineError if the engine cannot, or the container is gone."""
        await self._engine.call("POST", f"containers/{container}/update", body={"PidsLimit": pids})

    async def written_bytes(self, containers: Iterable[str]) -> int:
        """What these containers have written to their own file systems."""
        filters = json.dumps({"id": sorted(containers)})
        found = await self._engine.call("GET", "containers/json", {"all": "1", "size": "1", "filters": filters})
        return sum(int(container.get("SizeRw") or 0) for container in found)

    async def volume_bytes(self, volumes: Iterable[str]) -> int:
        """What these volumes hold; slow, because the engine counts all that it has."""
        wanted = set(volumes)
        found = (await self._engine.call("GET", "system/df")).get("Volumes") or ()
        sizes = [int((volume.get("UsageData") or {}).get("Size") or 0) for volume in found if volume["Name"] in wanted]
        return sum(max(0, size) for size in sizes)

    async def image(self, name: str) -> ImageDetails | None:
        """None if the engine has no such image."""
        try:
            raw = await self._engine.call("GET", f"images/{name}/json")
        except EngineError as error:
            if error.status == 404:
                return None
            raise
        config = raw.get("Config") or {}
        return ImageDetails(
            id=str(raw["Id"]),
            parent=str(raw.get("Parent") or ""),
            size_bytes=int(raw.get("Size") or 0),
            labels=config.get("Labels") or {},
            triggers=tuple(config.get("OnBuild") or ()),
        )

    async def layers(self, label: str, value: str) -> dict[str, tuple[int, str]]:
        """Size and parent of every image with this label, nameless ones included, by id."""
        query = {"all": "1", "filters": json.dumps({"label": [f"{label}={value}"]})}
        found = await self._engine.call("GET", "images/json", query)
        return {str(image["Id"]): (int(image["Size"]), str(image.get("ParentId") or "")) for image in found}

    async def tag(self, image: str, repository: str, tag: str) -> None:
        await self._engine.call("POST", f"images/{image}/tag", {"repo": repository, "tag": tag})

    def push(
        self, repository: str, tag: str, auth: Mapping[str, str] | None
    ) -> contextlib.AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The engine's events, one JSON object a line; what the registry refuses is among them."""
        login = base64.urlsafe_b64encode(json.dumps(auth or {}).encode()).decode()
        return self._engine.stream(
            "POST", f"images/{repository}/push", {"tag": tag}, headers={"X-Registry-Auth": login}
        )

    async def remove_image(self, name: str) -> None:
        """Take this name away, and the image with its last name. There is none, or it is in use: fine."""
        with contextlib.suppress(EngineError):
            await self._engine.call("DELETE", f"images/{name}")

    async def remove_nameless_images(self, label: str, value: str) -> None:
        """Remove images with this label that have no name and that nothing is built upon."""
        filters: dict[str, Any] = {"dangling": ["true"], "label": [f"{label}={value}"]}
        await self._engine.call("POST", "images/prune", {"filters": json.dumps(filters)})
