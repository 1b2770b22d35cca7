"""What an owner may lend, and what is refused before anything is started."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from asman.errors import BadRequest
from asman_worker.grant import PROFILES, Grant, NamedVolume, check_grant, default_memory_bytes, parse_volume

GIB = 1 << 30
GRANT = Grant(cores=4, memory_bytes=16 * GIB)


@pytest.mark.parametrize(
    "change",
    [
        {"profile": "loose"},
        {"network": "host"},
        {"cores": 0},
        {"cores": float("nan")},
        {"memory_bytes": 1024},
        {"pids": 1},
        {"capabilities": ("CAP_CHOWN",)},
        {"capabilities": ("ALL",)},
        {"capabilities": ("NET_BIND_SERVICE", "SYS_ADMIN")},
        {"capabilities": ("MKNOD",), "profile": "strict"},
        {"volumes": (NamedVolume(name="data", target="/data"),)},
        {"volumes": (NamedVolume(name="data", target="/data"),), "profile": "strict"},
    ],
)
def test_a_grant_that_cannot_be_kept_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        check_grant(replace(GRANT, **change))


def test_every_profile_makes_a_grant() -> None:
    for profile in PROFILES:
        check_grant(replace(GRANT, profile=profile))


def test_an_owner_who_does_not_say_keeps_two_gibibytes_or_half() -> None:
    assert default_memory_bytes(16 * GIB) == 14 * GIB
    assert default_memory_bytes(3 * GIB) == 3 * GIB // 2


@pytest.mark.parametrize(
    "registry", ["localhost:5000/asman-cache", "ghcr.io/me/asman_cache", "registry.example/a/b/c", ""]
)
def test_a_registry_for_built_images_is_a_repository(registry: str) -> None:
    check_grant(replace(GRANT, cache_registry=registry))


@pytest.mark.parametrize("registry", ["localhost:5000", "ghcr.io/me/a:tag", "https://h/a", "h/A", "h/a?x=1", "h/../a"])
def test_what_is_no_repository_is_refused_at_the_start(registry: str) -> None:
    with pytest.raises(BadRequest, match="cache registry"):
        check_grant(replace(GRANT, cache_registry=registry))


def test_what_reaches_the_host_is_for_own_jobs_only() -> None:
    check_grant(replace(GRANT, capabilities=("NET_BIND_SERVICE", "SYS_PTRACE")))
    check_grant(replace(GRANT, capabilities=("SYS_ADMIN",), profile="trusted"))
    check_grant(replace(GRANT, volumes=(NamedVolume(name="data", target="/data"),), profile="trusted"))


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("data:/data", NamedVolume(name="data", target="/data")),
        ("models.v2:/opt/models:ro", NamedVolume(name="models.v2", target="/opt/models", read_only=True)),
        ("data:/data:rw", NamedVolume(name="data", target="/data")),
    ],
)
def test_a_volume_is_written_as_for_docker(text: str, volume: NamedVolume) -> None:
    assert parse_volume(text) == volume


@pytest.mark.parametrize(
    "text",
    [
        "data",
        "data:",
        "data:relative",
        "/etc:/etc",
        "../x:/data",
        "./x:/data",
        "~:/data",
        "data:/",
        "data:/a/../b",
        "data:/a//b",
        "data:/proc/x",
        "data:/sys",
        "data:/dev/shm",
        "data:/outputs",
        "data:/inputs/x",
        "data:/job-cache",
        "data:/data:z",
        "data:/data:ro:ro",
    ],
)
def test_a_path_of_the_host_or_a_place_of_the_workers_is_no_volume(text: str) -> None:
    with pytest.raises(BadRequest, match="volume is"):
        parse_volume(text)
