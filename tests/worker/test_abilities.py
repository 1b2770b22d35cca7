"""What engines say about themselves, and what a worker makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from asman.errors import ConfigError
from asman_worker.abilities import check_limits, check_network, log_driver, missing_limits, reads_as_podman
from asman_worker.docker import Engine
from docker_engine import DockerEngine

ABLE: dict[str, Any] = {
    "MemoryLimit": True,
    "CpuCfsQuota": True,
    "PidsLimit": True,
    "CgroupVersion": "2",
    "SecurityOptions": ["name=seccomp,profile=default", "name=rootless"],
}


def test_an_engine_is_known_by_its_first_component() -> None:
    assert reads_as_podman({"Components": [{"Name": "Podman Engine"}, {"Name": "Conmon"}]})
    assert not reads_as_podman({"Components": [{"Name": "Engine"}, {"Name": "containerd"}]})
    assert not reads_as_podman({})


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        ({}, ()),
        ({"MemoryLimit": False}, ("memory",)),
        ({"CpuCfsQuota": False, "PidsLimit": None}, ("cpus", "pids")),
        ({"CgroupVersion": "1"}, ("memory", "cpus", "pids")),
        ({"CgroupVersion": "1", "SecurityOptions": ["name=seccomp"]}, ()),
        ({"CgroupVersion": "", "SecurityOptions": ["rootless"]}, ("memory", "cpus", "pids")),
    ],
)
def test_limits_that_an_engine_cannot_keep_are_named(said: dict[str, Any], missing: tuple[str, ...]) -> None:
    assert missing_limits(ABLE | said) == missing


def test_podman_without_rights_keeps_only_what_it_was_handed() -> None:
    def handed(*controllers: str) -> dict[str, Any]:
        return {"host": {"cgroupControllers": list(controllers)}}

    assert missing_limits(ABLE, handed("cpuset", "cpu", "memory", "pids")) == ()
    assert missing_limits(ABLE, handed("memory", "pids")) == ("cpus",)
    assert missing_limits(ABLE, handed()) == ("memory", "cpus", "pids")
    assert missing_limits(ABLE, {}) == ()
    silent = ABLE | {"CgroupVersion": "1", "SecurityOptions": ["name=seccomp,profile=default"]}
    assert missing_limits(silent, {"host": {"security": {"rootless": True}}}) == ("memory", "cpus", "pids")
    assert missing_limits(silent, {"host": {"security": {"rootless": False}}}) == ()


def test_the_best_bounded_way_to_keep_a_log_is_chosen() -> None:
    assert log_driver({"Plugins": {"Log": ["json-file", "journald", "local"]}}) == "local"
    assert log_driver({"Plugins": {"Log": ["k8s-file", "none", "passthrough", "journald"]}}) == "k8s-file"
    assert log_driver({"Plugins": {"Log": ["syslog", "json-file"]}}) == "json-file"


@pytest.mark.parametrize("plugins", [{"Log": ["journald", "syslog"]}, {"Log": None}, None])
def test_an_engine_without_a_bounded_log_is_refused(plugins: Any) -> None:
    with pytest.raises(ConfigError, match="none of which has a bound"):
        log_driver({"Plugins": plugins})


def test_a_missing_limit_is_refused_unless_the_owner_names_it() -> None:
    assert check_limits((), ()) == ()
    assert check_limits((), ("memory",)) == ()
    with pytest.raises(ConfigError, match="cannot limit memory, pids: one job can use all memory") as refused:
        check_limits(("memory", "cpus", "pids"), ("cpus",))
    assert "--without-limits memory,cpus,pids" in refused.value.hint
    accepted = check_limits(("memory", "cpus"), ("cpus", "memory"))
    assert [sentence.partition(":")[0] for sentence in accepted] == ["no limit of memory", "no limit of cpus"]


def test_a_limit_that_does_not_exist_is_no_limit_to_do_without() -> None:
    with pytest.raises(ConfigError, match=r"names .disk.; limits are: memory, cpus, pids"):
        check_limits((), ("memory", "disk"))


def test_jobs_that_could_reach_each_other_are_refused_unless_they_are_the_owners() -> None:
    with pytest.raises(ConfigError, match="reach each other"):
        check_network("podman", "open", trusted=False)
    for network_class in ("none", "egress"):
        check_network("podman", network_class, trusted=False)
    check_network("podman", "open", trusted=True)
    check_network("docker", "open", trusted=False)


@pytest.mark.docker
async def test_a_real_engine_tells_all_of_it(docker_engine: DockerEngine) -> None:
    async with Engine(docker_engine.host) as engine:
        info = await engine.info()
    assert info.kind == ("podman" if "podman" in docker_engine.kind else "docker")
    assert info.lacks == docker_engine.lacks
    assert info.log_driver == ("k8s-file" if "podman" in docker_engine.kind else "local")
