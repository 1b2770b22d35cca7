"""The engine's create request, written from a finished container."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from asman_worker.container import ContainerSpec, Mount, cache_volume, create_body, labels_of

JOB = "a" * 64
PLAIN: dict[str, Any] = {
    "image": "alpine:3.19.1",
    "command": ("true",),
    "entrypoint": None,
    "workdir": "",
    "user": "",
    "env": (("A", "1"), ("JOB_ID", JOB)),
    "labels": (("asman.job", JOB),),
    "cores": 1.5,
    "memory_bytes": 1 << 30,
    "shm_bytes": 64 << 20,
    "pids": 100,
    "ulimits": (("core", 0),),
    "drop_all": True,
    "capabilities": ("KILL",),
    "no_new_privileges": True,
    "read_only_root": False,
    "tmpfs": (),
    "network": "none",
    "mounts": (
        Mount(target="/inputs", source="/d/in", read_only=True),
        Mount(target="/outputs", source="/d/out"),
        Mount(target="/job-cache", volume="v"),
    ),
    "device_ids": (),
    "stop_grace_s": 1.2,
    "runs_as_root": True,
}


def spec(**changes: Any) -> ContainerSpec:
    given = {**PLAIN, **changes}
    return ContainerSpec(**{f.name: given[f.name] for f in fields(ContainerSpec) if f.name in given})


def test_amounts_are_written_in_the_engines_units() -> None:
    body = create_body(spec(), host_cores=8)
    config = body["HostConfig"]
    assert (config["NanoCpus"], config["Memory"], config["MemorySwap"]) == (1_500_000_000, 1 << 30, 1 << 30)
    assert (config["ShmSize"], config["PidsLimit"], body["StopTimeout"]) == (64 << 20, 100, 2)
    assert body["Env"] == ["A=1", f"JOB_ID={JOB}"]


def test_cores_are_capped_at_what_the_engine_has() -> None:
    assert create_body(spec(cores=4.0), host_cores=2)["HostConfig"]["NanoCpus"] == 2_000_000_000


def test_what_the_image_decides_is_left_out() -> None:
    body = create_body(spec(command=None))
    assert not {"Cmd", "Entrypoint", "WorkingDir", "User"} & body.keys()
    said = create_body(spec(entrypoint=("e",), workdir="/w", user="1:2"))
    assert (said["Cmd"], said["Entrypoint"], said["WorkingDir"], said["User"]) == (["true"], ["e"], "/w", "1:2")


def test_selinux_hosts_get_binds_that_relabel() -> None:
    config = create_body(spec(), selinux=True)["HostConfig"]
    assert config["Binds"] == ["/d/in:/inputs:ro,Z", "/d/out:/outputs:Z"]
    assert [m["Target"] for m in config["Mounts"]] == ["/job-cache"]


def test_labels_say_whose_it_is_to_both_kinds_of_worker() -> None:
    assert labels_of("worker-1", "queue-1", JOB, 3) == {
        "asman.job": JOB,
        "asman.worker": "worker-1",
        "asman.attempt": "3",
        "asman.queue": "queue-1",
        "container.mtfm.io/id": JOB,
        "container.mtfm.io/queue": "queue-1",
        "container.mtfm.io/worker": "worker-1",
    }


def test_queues_do_not_share_a_cache_and_do_not_show_their_name() -> None:
    assert cache_volume("secret-queue") != cache_volume("other")
    assert "secret" not in cache_volume("secret-queue")
