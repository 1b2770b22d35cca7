"""Request meets grant: what the engine is told, and that no job can move it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman.errors import AsmanError, BadDefinition, LimitExceeded
from asman_worker.container import JobFolders, cache_volume, create_body, labels_of
from asman_worker.gpu import Gpu
from asman_worker.grant import NETWORK, Grant, NamedVolume
from asman_worker.limits import (
    Allotment,
    allot,
    build_network_class,
    container_spec,
    image_of,
    network_class,
    read_requirements,
    recipe_of,
    time_limit_s,
)
from asman_worker.seccomp import strict_profile
from hostile import ATTEMPTS, TRICKS

GIB = 1 << 30
GRANT = Grant(cores=4, memory_bytes=16 * GIB, max_duration_s=1200, tags=frozenset({"big", "ssd"}))
JOB = "a" * 64
FOLDERS = JobFolders(inputs="/d/in", outputs="/d/out")


def body(definition: Mapping[str, Any], grant: Grant = GRANT, **options: Any) -> dict[str, Any]:
    """The create request of a definition, as the executor makes it."""
    image = image_of(definition, grant)
    allotment = allot(read_requirements(definition), grant)
    gpus = options.pop("gpus", ())
    spec = container_spec(
        definition,
        replace(allotment, gpus=gpus),
        grant,
        image=image,
        folders=options.pop("folders", FOLDERS),
        labels=labels_of("worker-1", "queue-1", JOB, 3),
        queue="queue-1",
        job_id=JOB,
        server_url="http://server:8000",
        network_mode={"none": "none", "open": NETWORK, "egress": "container:a-guard"}[network_class(definition, grant)],
        image_user=options.pop("image_user", ""),
        image_has_entrypoint=options.pop("image_has_entrypoint", False),
    )
    return create_body(spec, **options)


def host(definition: Mapping[str, Any], grant: Grant = GRANT, **options: Any) -> dict[str, Any]:
    config: dict[str, Any] = body(definition, grant, **options)["HostConfig"]
    return config


PLAIN = {"image": "alpine:3.19.1", "command": "true"}


def test_the_standard_profile_names_every_field_that_isolates() -> None:
    config = host(PLAIN)
    expected = {
        "Privileged": False,
        "NanoCpus": 1_000_000_000,
        "Memory": 4 * GIB,
        "MemorySwap": 4 * GIB,
        "PidsLimit": 1024,
        "ShmSize": GIB,
        "CapDrop": ["ALL"],
        "CapAdd": ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": False,
        "Tmpfs": {},
        "Init": True,
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "local", "Config": {"max-size": "5m", "max-file": "2"}},
        "OomScoreAdj": 500,
        "OomKillDisable": False,
        "Runtime": "",
        "NetworkMode": "container:a-guard",
        "PublishAllPorts": False,
        "PortBindings": {},
        "IpcMode": "private",
        "PidMode": "",
        "UTSMode": "",
        "CgroupnsMode": "private",
        "UsernsMode": "",
        "CgroupParent": "",
        "Sysctls": {},
        "Devices": [],
        "DeviceCgroupRules": [],
        "Links": [],
        "DeviceRequests": [],
        "Binds": [],
        "VolumesFrom": [],
        "GroupAdd": [],
        "ExtraHosts": [],
    }
    assert {name: config[name] for name in expected} == expected
    assert sorted(config) == sorted([*expected, "Ulimits", "Mounts"])
    assert {u["Name"]: (u["Soft"], u["Hard"]) for u in config["Ulimits"]} == {
        "core": (0, 0),
        "fsize": (16 * GIB, 16 * GIB),
        "nofile": (65536, 65536),
    }


def test_only_inputs_outputs_and_the_cache_are_mounted() -> None:
    assert host(PLAIN)["Mounts"] == [
        {"Type": "bind", "Source": "/d/in", "Target": "/inputs", "ReadOnly": True},
        {"Type": "bind", "Source": "/d/out", "Target": "/outputs", "ReadOnly": False},
        {"Type": "volume", "Source": cache_volume("queue-1"), "Target": "/job-cache", "ReadOnly": False},
    ]


def test_absolute_config_files_are_mounted_one_by_one_and_read_only() -> None:
    folders = replace(FOLDERS, config_files=(("/etc/x.conf", "/d/conf/etc/x.conf"),))
    assert {
        "Type": "bind",
        "Source": "/d/conf/etc/x.conf",
        "Target": "/etc/x.conf",
        "ReadOnly": True,
    } in host(PLAIN, folders=folders)["Mounts"]


def test_what_is_outside_of_the_host_config_is_closed_too() -> None:
    request = body(PLAIN)
    assert (request["Tty"], request["OpenStdin"], request["AttachStdin"]) == (False, False, False)
    assert (request["AttachStdout"], request["AttachStderr"]) == (True, True)
    assert request["Healthcheck"] == {"Test": ["NONE"]}
    assert "User" not in request
    assert "Entrypoint" not in request


def test_there_are_enough_attempts() -> None:
    assert len({json.dumps(attempt, sort_keys=True) for attempt in [*ATTEMPTS, *TRICKS]}) >= 120


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=str)
def test_no_member_of_a_definition_moves_the_host_config(attempt: dict[str, Any]) -> None:
    assert host({**PLAIN, **attempt}) == host(PLAIN)


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=str)
def test_no_member_of_a_definition_moves_labels_user_or_the_systems_variables(attempt: dict[str, Any]) -> None:
    request, plain = body({**PLAIN, **attempt}), body(PLAIN)
    assert request["Labels"] == plain["Labels"]
    assert "User" not in request
    assert {*plain["Env"]} <= {*request["Env"]}
    assert request["Image"] == plain["Image"]


@pytest.mark.parametrize("trick", TRICKS, ids=ascii)
@pytest.mark.parametrize("profile", ["standard", "strict", "trusted"])
def test_a_definition_that_twists_what_is_read_is_refused_or_moves_nothing(trick: dict[str, Any], profile: str) -> None:
    grant = replace(GRANT, profile=profile)
    try:
        request = body({**PLAIN, **trick}, grant)
    except (BadDefinition, LimitExceeded):
        return
    plain = body(PLAIN, grant)
    assert json.dumps(request["HostConfig"]) == json.dumps(plain["HostConfig"])
    moved = {name for name in {*request, *plain} if request.get(name) != plain.get(name)}
    assert moved <= {"Env", "Cmd", "Entrypoint", "WorkingDir"}
    assert {*plain["Env"]} - {"HOME=/tmp"} <= {*request["Env"]}


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20).filter(lambda name: name not in {"image", "build", "requirements", "shmSize"}),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=10), lambda s: st.lists(s, max_size=3)
        ),
        max_size=6,
    )
)
def test_random_members_move_nothing_on_the_host(members: dict[str, Any]) -> None:
    try:
        config = host({**members, **PLAIN})
    except AsmanError:
        return
    assert config == host(PLAIN)


def test_what_a_job_asks_within_the_grant_is_what_it_gets() -> None:
    config = host({**PLAIN, "requirements": {"cpus": 2.5, "memory": "3g"}, "shmSize": "64m"})
    assert (config["NanoCpus"], config["Memory"], config["MemorySwap"]) == (2_500_000_000, 3 * GIB, 3 * GIB)
    assert config["ShmSize"] == 64 << 20


def test_a_job_that_does_not_say_gets_the_share_of_its_cores() -> None:
    assert allot(read_requirements({"requirements": {"cpus": 0.5}}), GRANT) == Allotment(
        cores=0.5, memory_bytes=2 * GIB
    )
    assert allot(read_requirements({"requirements": {"cpus": 4}}), GRANT).memory_bytes == 16 * GIB


@pytest.mark.parametrize(
    ("definition", "field", "asked", "granted"),
    [
        ({"requirements": {"cpus": 5}}, "requirements.cpus", "5", "4"),
        ({"requirements": {"memory": "17g"}}, "requirements.memory", str(17 * GIB), str(16 * GIB)),
        ({"requirements": {"gpus": 1}}, "requirements.gpus", "1", "0"),
        ({"requirements": {"maxDuration": "1h"}}, "requirements.maxDuration", "3600", "1200"),
        ({"tags": ["tpu"]}, "tags", "tpu", "big,ssd"),
    ],
)
def test_a_job_that_needs_more_than_the_grant_is_refused_with_both_amounts(
    definition: dict[str, Any], field: str, asked: str, granted: str
) -> None:
    with pytest.raises(LimitExceeded) as refused:
        allot(read_requirements(definition), GRANT)
    assert field in refused.value.message
    assert f"asks for {asked}" in refused.value.message
    assert f"grants {granted}" in refused.value.message
    assert refused.value.status == 422


@pytest.mark.parametrize(
    ("definition", "member"),
    [
        ({"requirements": {"cpus": "many"}}, "requirements.cpus"),
        ({"requirements": {"cpus": -1}}, "requirements.cpus"),
        ({"requirements": {"memory": "lots"}}, "requirements.memory"),
        ({"requirements": {"gpus": "x"}}, "requirements.gpus"),
        ({"requirements": {"maxDuration": "soon"}}, "requirements.maxDuration"),
        ({"requirements": [1]}, "requirements"),
        ({"tags": "one"}, "tags"),
        ({"tags": [1]}, "tags"),
        ({"shmSize": "big"}, "shmSize"),
        ({"env": ["A=1"]}, "env"),
        ({"env": {"A=B": "1"}}, "env"),
        ({"env": {"A": "nul\0"}}, "env.A"),
        ({"workdir": "relative"}, "workdir"),
        ({"workdir": 1}, "workdir"),
        ({"command": 1}, "command"),
        ({"entrypoint": {}}, "entrypoint"),
    ],
)
def test_a_member_that_cannot_be_read_is_refused_by_name(definition: dict[str, Any], member: str) -> None:
    with pytest.raises(BadDefinition) as refused:
        body({**PLAIN, **definition})
    assert f"definition.{member}" in refused.value.message


def test_gpus_are_given_by_uuid_and_numbered_from_zero_inside() -> None:
    grant = replace(GRANT, gpus=(Gpu(index=0, uuid="GPU-a"), Gpu(index=1, uuid="GPU-b"), Gpu(index=5)))
    request = body({**PLAIN, "requirements": {"gpus": 2}}, grant, gpus=grant.gpus[1:])
    assert request["HostConfig"]["DeviceRequests"] == [
        {"Driver": "nvidia", "DeviceIDs": ["GPU-b", "5"], "Capabilities": [["gpu"]]}
    ]
    assert "CUDA_VISIBLE_DEVICES=0,1" in request["Env"]
    assert "NVIDIA_VISIBLE_DEVICES=GPU-b,5" in request["Env"]
    assert request["Labels"]["asman.gpus"] == "GPU-b,5"


def test_a_job_without_gpus_is_shown_none_even_by_an_nvidia_runtime() -> None:
    request = body({**PLAIN, "env": {"NVIDIA_VISIBLE_DEVICES": "all"}})
    assert [e for e in request["Env"] if e.startswith("NVIDIA")] == ["NVIDIA_VISIBLE_DEVICES=void"]


def test_the_systems_variables_win_and_come_last() -> None:
    env = body({**PLAIN, "env": {"JOB_ID": "mine", "A": "1", "N": 2, "B": True, "GONE": None}})["Env"]
    assert "A=1" in env
    assert "N=2" in env
    assert "B=true" in env
    assert not [e for e in env if e.startswith("GONE")]
    assert [e for e in env if e.startswith("JOB_")] == [
        f"JOB_ID={JOB}",
        "JOB_INPUTS=/inputs",
        "JOB_OUTPUTS=/outputs",
        "JOB_CACHE=/job-cache",
        f"JOB_URL_PREFIX=http://server:8000/j/{JOB}",
        f"JOB_OUTPUTS_URL_PREFIX=http://server:8000/j/{JOB}/outputs/",
        f"JOB_INPUTS_URL_PREFIX=http://server:8000/j/{JOB}/inputs/",
    ]


def test_the_strict_profile_takes_more_away() -> None:
    grant = replace(GRANT, profile="strict")
    request = body({**PLAIN, "shmSize": "1g"}, grant)
    config = request["HostConfig"]
    assert (config["CapDrop"], config["CapAdd"], config["PidsLimit"]) == (["ALL"], [], 256)
    assert (config["ReadonlyRootfs"], config["NetworkMode"], config["ShmSize"]) == (True, "none", 64 << 20)
    assert sorted(config["Tmpfs"]) == ["/home", "/job-cache", "/run", "/tmp", "/var/tmp"]
    assert request["User"] == "65532:65532"
    assert [m["Target"] for m in config["Mounts"]] == ["/inputs", "/outputs"]


def test_the_strict_profile_brings_its_own_list_of_system_calls() -> None:
    grant = replace(GRANT, profile="strict")
    assert host(PLAIN, grant)["SecurityOpt"] == ["no-new-privileges", f"seccomp={strict_profile()}"]
    assert host(PLAIN, replace(grant, allow_setuid=True))["SecurityOpt"] == [f"seccomp={strict_profile()}"]


def test_what_lies_in_the_strict_profiles_memory_disks_is_bounded_by_the_jobs_memory() -> None:
    grant = replace(GRANT, profile="strict")
    sizes = [
        {path: int(options.split("size=")[1].split(",")[0]) for path, options in config["Tmpfs"].items()}
        for config in (host({**PLAIN, "requirements": {"memory": memory}}, grant) for memory in ("100m", "8g"))
    ]
    assert set(sizes[0].values()) == {50 << 20}
    assert sizes[1] == {
        "/tmp": 512 << 20,
        "/var/tmp": 128 << 20,
        "/run": 64 << 20,
        "/home": 128 << 20,
        "/job-cache": GIB,
    }
    for options in host(PLAIN, grant)["Tmpfs"].values():
        assert {"nosuid", "nodev"} < {*options.split(",")}


def test_a_job_under_a_read_only_root_has_a_home_to_write_to() -> None:
    grant = replace(GRANT, profile="strict")
    assert "HOME=/tmp" in body(PLAIN, grant)["Env"]
    assert "HOME=/tmp" in body(PLAIN, grant, image_user="1000")["Env"]
    assert "HOME=/else" in body({**PLAIN, "env": {"HOME": "/else"}}, grant)["Env"]
    assert not [e for e in body(PLAIN)["Env"] if e.startswith("HOME=")]


def test_memory_disks_belong_to_the_user_put_in_the_place_of_root() -> None:
    grant = replace(GRANT, profile="strict")
    assert all(o.endswith(",uid=65532,gid=65532") for o in host(PLAIN, grant)["Tmpfs"].values())
    assert not [o for o in host(PLAIN, grant, image_user="app")["Tmpfs"].values() if "uid=" in o]


@pytest.mark.parametrize(
    "image", ["alpine", "library/x", "ghcr.io/a/b", "index.docker.io/a/b", "docker.io/a/b@sha256:" + "0" * 64]
)
def test_a_strict_worker_takes_images_of_well_known_registries(image: str) -> None:
    assert image_of({"image": image}, replace(GRANT, profile="strict"))


@pytest.mark.parametrize("image", ["localhost/a", "10.0.0.1:5000/a", "docker.io.example.org/a/b", "registry:5000/a/b"])
def test_a_strict_worker_takes_no_image_of_another_registry_unless_its_owner_names_it(image: str) -> None:
    grant = replace(GRANT, profile="strict")
    with pytest.raises(LimitExceeded, match=r"docker\.io, gcr\.io"):
        image_of({"image": image}, grant)
    assert image_of({"image": image}, replace(grant, images=(f"{image.split('/')[0]}/*",)))
    assert image_of({"image": image}, GRANT)


def test_the_owners_volumes_and_runtime_go_to_every_job() -> None:
    volumes = (NamedVolume(name="models", target="/models", read_only=True),)
    config = host(PLAIN, replace(GRANT, profile="trusted", volumes=volumes, runtime="crun"))
    assert config["Runtime"] == "crun"
    assert config["Mounts"][-1] == {"Type": "volume", "Source": "models", "Target": "/models", "ReadOnly": True}


def test_the_strict_profile_leaves_an_images_own_user() -> None:
    grant = replace(GRANT, profile="strict")
    assert "User" not in body(PLAIN, grant, image_user="1000:1000")
    assert body(PLAIN, grant, image_user="0:0")["User"] == "65532:65532"
    assert body(PLAIN, grant, image_user="root")["User"] == "65532:65532"


def test_the_trusted_profile_keeps_the_engines_capabilities() -> None:
    config = host({**PLAIN, "shmSize": "3g"}, replace(GRANT, profile="trusted"))
    assert (config["CapDrop"], config["CapAdd"], config["PidsLimit"]) == ([], [], 4096)
    assert config["SecurityOpt"] == ["no-new-privileges"]
    assert config["ShmSize"] == 3 * GIB
    assert config["Privileged"] is False
    assert [u["Name"] for u in config["Ulimits"]] == ["core"]


def test_the_owner_can_loosen_by_name_only() -> None:
    grant = replace(GRANT, capabilities=("NET_BIND_SERVICE",), allow_setuid=True, pids=99, network="none")
    config = host(PLAIN, grant)
    assert "NET_BIND_SERVICE" in config["CapAdd"]
    assert (config["SecurityOpt"], config["PidsLimit"], config["NetworkMode"]) == ([], 99, "none")


@pytest.mark.parametrize(
    ("definition", "seconds"),
    [
        ({}, 1200),
        ({"maxDuration": "10s"}, 10),
        ({"maxDuration": "5h"}, 1200),
        ({"maxDuration": ""}, 1200),
        ({"maxDuration": "10m", "requirements": {"maxDuration": "1m"}}, 60),
    ],
)
def test_the_smallest_time_limit_wins(definition: dict[str, Any], seconds: float) -> None:
    assert time_limit_s(definition, read_requirements(definition), GRANT) == seconds


def test_an_unreadable_time_limit_is_an_error_and_not_an_instant_timeout() -> None:
    with pytest.raises(BadDefinition, match=r"definition\.maxDuration"):
        time_limit_s({"maxDuration": "abc"}, read_requirements({}), GRANT)


@pytest.mark.parametrize(
    ("image", "full"),
    [
        ("alpine", "alpine:latest"),
        ("alpine:3.19.1", "alpine:3.19.1"),
        ("host:5000/a/b", "host:5000/a/b:latest"),
        ("ghcr.io/a/b:v1", "ghcr.io/a/b:v1"),
        ("a@sha256:" + "0" * 64, "a@sha256:" + "0" * 64),
        (" alpine ", "alpine:latest"),
        ("a__b--c.d/e", "a__b--c.d/e:latest"),
    ],
)
def test_image_names_get_their_tag(image: str, full: str) -> None:
    assert image_of({"image": image}, GRANT) == full


@pytest.mark.parametrize(
    "image",
    [
        "https://github.com/a/b",
        "git@host:a",
        "a b",
        "-v",
        "A/B",
        "a:",
        "a@sha256:1",
        "../x",
        "a\nb",
        "a:b:c",
        "a" * 600,
    ],
)
def test_what_is_no_image_name_is_refused(image: str) -> None:
    with pytest.raises(BadDefinition, match="no image name"):
        image_of({"image": image}, GRANT)


def test_a_build_is_read_where_the_owner_builds_and_refused_elsewhere() -> None:
    definition = {"image": "a", "build": {"dockerfile": "FROM a"}}
    recipe = recipe_of(definition, GRANT)
    assert recipe is not None
    assert recipe.dockerfile == "FROM a"
    assert recipe_of({"image": "a", "build": {}}, GRANT) is None
    strict = replace(GRANT, profile="strict")
    with pytest.raises(LimitExceeded, match=r"definition\.build"):
        recipe_of(definition, strict)
    assert recipe_of(definition, replace(strict, build=True)) == recipe
    with pytest.raises(LimitExceeded):
        recipe_of(definition, replace(GRANT, build=False))


@pytest.mark.parametrize("build", [{"context": "git@h:x"}, {"dockerfile": 1}, {"filename": "x"}, [1]])
def test_a_build_that_cannot_be_read_is_refused_by_its_member(build: Any) -> None:
    with pytest.raises(BadDefinition, match="build"):
        recipe_of({"build": build}, GRANT)


@pytest.mark.parametrize("definition", [{}, {"image": ""}, {"image": 3}, {"image": None, "build": {}}])
def test_a_definition_without_an_image_is_refused(definition: dict[str, Any]) -> None:
    with pytest.raises(BadDefinition, match="names no image"):
        image_of(definition, GRANT)


def test_the_owners_patterns_decide_which_images_run() -> None:
    grant = replace(GRANT, images=("alpine:*", "ghcr.io/me/*"))
    assert image_of({"image": "ghcr.io/me/x"}, grant) == "ghcr.io/me/x:latest"
    with pytest.raises(LimitExceeded, match=r"ghcr\.io/other/x"):
        image_of({"image": "ghcr.io/other/x"}, grant)


@pytest.mark.parametrize(
    ("profile", "owner", "asked", "given"),
    [
        ("standard", "", None, "egress"),
        ("standard", "", "", "egress"),
        ("standard", "", "none", "none"),
        ("standard", "none", None, "none"),
        ("standard", "open", None, "open"),
        ("standard", "open", "egress", "egress"),
        ("strict", "", None, "none"),
        ("strict", "egress", None, "none"),
        ("strict", "egress", "egress", "egress"),
        ("trusted", "", None, "open"),
        ("trusted", "", "egress", "egress"),
        ("trusted", "egress", None, "egress"),
    ],
)
def test_a_job_reaches_what_the_owner_allows_or_less_if_it_asks_for_less(
    profile: str, owner: str, asked: str | None, given: str
) -> None:
    grant = replace(GRANT, profile=profile, network=owner)
    assert network_class({**PLAIN, "requirements": {"network": asked}}, grant) == given


@pytest.mark.parametrize(("profile", "owner"), [("standard", "none"), ("strict", "")])
def test_more_network_than_the_owner_allows_is_refused(profile: str, owner: str) -> None:
    grant = replace(GRANT, profile=profile, network=owner)
    with pytest.raises(LimitExceeded, match=r"requirements.network asks for egress, this worker grants none"):
        network_class({**PLAIN, "requirements": {"network": "egress"}}, grant)


@pytest.mark.parametrize("asked", ["open", "host", "container:x", 1, True, ["none"], {"a": 1}])
def test_a_network_that_is_no_class_is_refused(asked: object) -> None:
    with pytest.raises(BadDefinition, match=r"requirements.network"):
        network_class({**PLAIN, "requirements": {"network": asked}}, GRANT)


def test_a_build_reaches_what_the_owner_allows_and_strict_jobs_must_ask() -> None:
    asks: dict[str, Any] = {"requirements": {"network": "egress"}}
    assert build_network_class({}, GRANT) == "egress"
    assert build_network_class({"requirements": {"network": "none"}}, GRANT) == "egress"
    assert build_network_class(asks, replace(GRANT, network="open")) == "open"
    assert build_network_class({}, replace(GRANT, network="none")) == "none"
    strict = replace(GRANT, profile="strict")
    assert build_network_class({}, strict) == "none"
    assert build_network_class(asks, replace(strict, network="egress")) == "egress"
