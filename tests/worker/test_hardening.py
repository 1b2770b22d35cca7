"""Every field of the hardening table, asked of real containers: from the engine's side and from inside of them.

One row is one named field with what it has to be under each profile. The engine says what it was told; a program in
the container says what the kernel makes of it. Rows whose value belongs to the machine (its limits on open files, its
version of cgroups, AppArmor) are worked out from what the engine says about itself.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from asman.errors import AsmanError, BadDefinition, LimitExceeded
from asman_worker.container import ContainerSpec, create_body, labels_of
from asman_worker.docker import EngineInfo
from asman_worker.executor import CANCELLED
from asman_worker.grant import NETWORK, PROFILES
from asman_worker.limits import allot, container_spec, image_of, network_class, read_requirements
from asman_worker.report import first_cause
from asman_worker.seccomp import strict_profile
from asman_worker.transfer import Transfer
from asman_worker.workspace import Workspace, materialise
from docker_engine import IMAGE
from hostile import ATTEMPTS, TRICKS
from worker_bench import GRANT, QUEUE, Bench
from worker_peers import until

pytestmark = pytest.mark.docker

MIB, GIB = 1 << 20, 1 << 30
WRITABLE = ("/tmp", "/var/tmp", "/run", "/home", "/job-cache", "/outputs")
STANDARD_CAPS = "00000000000000fb"
ENGINE_CAPS = "00000000a80425fb"

SCRIPT = r"""
say() { printf '%s\t%s\n' "$1" "$2"; }
first() { for file in "$@"; do [ -e "$file" ] && cat "$file" && return; done; }
status() { sed -n "s/^$1:\t*//p" /proc/self/status; }
mount_of() { awk -v place="$1" '$5 == place { print $6 }' /proc/self/mountinfo | tail -n 1; }
writes() { (: > "$1") 2> /dev/null; }
for field in CapEff CapBnd CapInh CapAmb NoNewPrivs Seccomp; do say "$field" "$(status $field)"; done
say uid "$(id -u)"; say gid "$(id -g)"; say home "$HOME"
for place in / /inputs /outputs /job-cache /proc /proc/sys /sys /dev/shm /tmp; do
  say "mount $place" "$(mount_of $place)"
done
say devices "$(cd /dev; for entry in *; do [ -d "$entry" ] || printf '%s ' "$entry"; done)"
say block "$(find /dev -type b | wc -l)"
say memory "$(first /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max)"
say pids "$(first /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max)"
say cpu "$(first /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max | cut -d' ' -f1)"
say shm "$(df -k /dev/shm | tail -n 1 | awk '{print $2}')"
say core "$(ulimit -c)"; say fsize "$(ulimit -f)"; say nofile "$(ulimit -n)"
say oom "$(cat /proc/1/oom_score_adj)"
say init "$(tr '\0' ' ' < /proc/1/cmdline | cut -d' ' -f1)"
for kind in ipc pid uts mnt net cgroup; do say "ns $kind" "$(readlink /proc/self/ns/$kind)"; done
say links "$(ls /sys/class/net | tr '\n' ' ')"
say sockets "$(find / -xdev -type s 2> /dev/null | wc -l)"
say kcore "$(head -c 1 /proc/kcore 2> /dev/null | wc -c)"
say writes "$(for file in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /sys/kernel/uevent_helper \
  /sys/fs/cgroup/memory/cgroup.procs /inputs/x /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/memory.max; do
  { [ -e "$file" ] || [ "$file" = /inputs/x ]; } && writes "$file" && printf '%s ' "$file"; done)"
say root "$(writes /etc/new && echo writable || echo closed)"
for place in PLACES; do mkdir -p $place; writes $place/new && say $place writable; done
say end end
sleep 60
""".replace("PLACES", " ".join(WRITABLE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of one container: ``inside`` by its own word, ``shown`` by the engine's."""

    inside: Mapping[str, str]
    shown: Mapping[str, Any]
    info: EngineInfo

    @property
    def host(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.shown["HostConfig"]
        return config


Row = tuple[str, Callable[[Facts], Any], Any]
"""A field's name, how to ask for it, and what it must be: for all profiles, or per profile."""


def per(standard: Any, strict: Any, trusted: Any) -> Any:
    return {"standard": standard, "strict": strict, "trusted": trusted}


def told(*names: str) -> Callable[[Facts], Any]:
    """A member of the engine's HostConfig."""

    def ask(facts: Facts) -> Any:
        value: Any = facts.host
        for name in names:
            value = value[name]
        return value

    return ask


def seen(name: str) -> Callable[[Facts], str]:
    return lambda facts: facts.inside[name]


def options(place: str, *wanted: str) -> Callable[[Facts], list[str]]:
    """Which of these options a mount has, as the container sees it."""
    return lambda facts: [option for option in wanted if option in facts.inside[f"mount {place}"].split(",")]


def is_private(kind: str) -> Callable[[Facts], bool]:
    return lambda facts: facts.inside[f"ns {kind}"] not in ("", os.readlink(f"/proc/self/ns/{kind}"))


def empty(name: str) -> Callable[[Facts], bool]:
    """Engines write an empty field as null, an empty list or an empty object."""
    return lambda facts: not facts.host.get(name)


def ulimits(facts: Facts) -> dict[str, int]:
    return {limit["Name"]: limit["Hard"] for limit in facts.host["Ulimits"] or () if limit["Name"] != "nofile"}


def apparmor_is_on(facts: Facts) -> bool:
    return ("apparmor" in facts.info.fences) == bool(facts.shown.get("AppArmorProfile"))


ROWS: list[Row] = [
    # what the engine was told
    ("Privileged", told("Privileged"), False),
    ("CapDrop", told("CapDrop"), per(["ALL"], ["ALL"], [])),
    (
        "CapAdd",
        lambda f: sorted(name.removeprefix("CAP_") for name in f.host["CapAdd"] or ()),
        per(["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"], [], []),
    ),
    (
        "SecurityOpt",
        told("SecurityOpt"),
        per(["no-new-privileges"], ["no-new-privileges", f"seccomp={strict_profile()}"], ["no-new-privileges"]),
    ),
    ("AppArmor, where the engine has it", apparmor_is_on, True),
    ("ReadonlyRootfs", told("ReadonlyRootfs"), per(False, True, False)),
    ("Memory", told("Memory"), 256 * MIB),
    ("MemorySwap: none beyond memory", told("MemorySwap"), 256 * MIB),
    ("NanoCpus", told("NanoCpus"), 500_000_000),
    ("PidsLimit", told("PidsLimit"), per(1024, 256, 4096)),
    ("ShmSize", told("ShmSize"), per(128 * MIB, 64 * MIB, 256 * MIB)),
    ("OomScoreAdj", told("OomScoreAdj"), 500),
    ("OomKillDisable", lambda f: bool(f.host["OomKillDisable"]), False),
    ("Ulimits", ulimits, per({"core": 0, "fsize": 16 * GIB}, {"core": 0, "fsize": 16 * GIB}, {"core": 0})),
    ("NetworkMode", lambda f: f.host["NetworkMode"].partition(":")[0], per("container", "none", NETWORK)),
    ("IpcMode", told("IpcMode"), "private"),
    ("PidMode", told("PidMode"), ""),
    ("UTSMode", told("UTSMode"), ""),
    ("UsernsMode", told("UsernsMode"), ""),
    ("CgroupnsMode", told("CgroupnsMode"), "private"),
    ("PublishAllPorts", told("PublishAllPorts"), False),
    *((name, empty(name), True) for name in ("PortBindings", "Binds", "VolumesFrom", "GroupAdd", "ExtraHosts")),
    *((name, empty(name), True) for name in ("Devices", "DeviceRequests", "DeviceCgroupRules", "Links", "Sysctls")),
    ("MaskedPaths", lambda f: {"/proc/kcore", "/proc/keys", "/sys/firmware"} <= {*f.host["MaskedPaths"]}, True),
    ("ReadonlyPaths", lambda f: {"/proc/sys", "/proc/sysrq-trigger"} <= {*f.host["ReadonlyPaths"]}, True),
    ("RestartPolicy", told("RestartPolicy", "Name"), "no"),
    ("AutoRemove", told("AutoRemove"), False),
    ("Init", told("Init"), True),
    ("LogConfig", told("LogConfig"), {"Type": "local", "Config": {"max-file": "2", "max-size": "5m"}}),
    ("Healthcheck", lambda f: f.shown["Config"]["Healthcheck"]["Test"], ["NONE"]),
    ("StopTimeout", lambda f: f.shown["Config"]["StopTimeout"], 1),
    ("terminal and input", lambda f: [f.shown["Config"][n] for n in ("Tty", "OpenStdin", "AttachStdin")], [False] * 3),
    (
        "mounts",
        lambda f: {mount["Destination"]: mount["RW"] for mount in f.shown["Mounts"]},
        per(
            {"/inputs": False, "/outputs": True, "/job-cache": True},
            {"/inputs": False, "/outputs": True},
            {"/inputs": False, "/outputs": True, "/job-cache": True},
        ),
    ),
    ("labels", lambda f: {"asman.job", "asman.worker", "asman.attempt"} <= {*f.shown["Config"]["Labels"]}, True),
    # what the kernel makes of it
    *((f"{place} can be written to", lambda f, place=place: f.inside.get(place), "writable") for place in WRITABLE),
    ("user", lambda f: (f.inside["uid"], f.inside["gid"]), per(("0", "0"), ("65532", "65532"), ("0", "0"))),
    ("home", seen("home"), per("/root", "/tmp", "/root")),
    ("CapEff", seen("CapEff"), per(STANDARD_CAPS, "0" * 16, ENGINE_CAPS)),
    ("CapBnd", seen("CapBnd"), per(STANDARD_CAPS, "0" * 16, ENGINE_CAPS)),
    ("CapAmb", seen("CapAmb"), "0" * 16),
    ("NoNewPrivs", seen("NoNewPrivs"), "1"),
    ("Seccomp: a filter", seen("Seccomp"), "2"),
    ("root", options("/", "ro", "rw"), per(["rw"], ["ro"], ["rw"])),
    ("root can be written to", seen("root"), per("writable", "closed", "writable")),
    ("/inputs", options("/inputs", "ro", "rw"), ["ro"]),
    ("/outputs", options("/outputs", "ro", "rw"), ["rw"]),
    ("/proc", options("/proc", "nosuid", "nodev", "noexec"), ["nosuid", "nodev", "noexec"]),
    ("/proc/sys", options("/proc/sys", "ro"), ["ro"]),
    ("/sys", options("/sys", "ro", "nosuid", "nodev", "noexec"), ["ro", "nosuid", "nodev", "noexec"]),
    ("/dev/shm", options("/dev/shm", "nosuid", "nodev", "noexec"), ["nosuid", "nodev", "noexec"]),
    ("/tmp", options("/tmp", "nosuid", "nodev"), per([], ["nosuid", "nodev"], [])),
    ("/job-cache", options("/job-cache", "nosuid", "nodev"), per([], ["nosuid", "nodev"], [])),
    (
        "devices",
        lambda f: sorted({*f.inside["devices"].split()} - {"console", "core"}),
        ["full", "null", "ptmx", "random", "stderr", "stdin", "stdout", "tty", "urandom", "zero"],
    ),
    ("block devices", seen("block"), "0"),
    ("memory by cgroup", seen("memory"), str(256 * MIB)),
    ("pids by cgroup", seen("pids"), per("1024", "256", "4096")),
    ("cpu by cgroup, us in 100 ms", seen("cpu"), "50000"),
    ("shm, KiB", seen("shm"), per(str(128 << 10), str(64 << 10), str(256 << 10))),
    ("ulimit core", seen("core"), "0"),
    ("ulimit fsize, 512 bytes", seen("fsize"), per(str(16 * GIB // 512), str(16 * GIB // 512), "unlimited")),
    ("ulimit nofile", lambda f: f.inside["nofile"] != "unlimited", True),
    ("ulimit nofile under strict", lambda f: int(f.inside["nofile"]) <= 4096, per(False, True, False)),
    ("oom_score_adj", seen("oom"), "500"),
    ("first process", lambda f: f.inside["init"] in ("/sbin/docker-init", "/dev/init", "/run/podman-init"), True),
    *((f"{kind} namespace", is_private(kind), True) for kind in ("ipc", "pid", "uts", "mnt", "net", "cgroup")),
    ("network interfaces", lambda f: f.inside["links"].split(), per(["eth0", "lo"], ["lo"], ["eth0", "lo"])),
    ("sockets of the host", seen("sockets"), "0"),
    ("/proc/kcore", seen("kcore"), "0"),
    ("files of the kernel and of the worker that could be written", seen("writes"), ""),
]


async def look(bench: Bench, profile: str) -> Facts:
    """Run the script under a profile, hear what it says, and ask the engine while it is there."""
    executor = bench.another(replace(GRANT, profile=profile))
    definition = {
        "command": ["sh", "-c", SCRIPT],
        "requirements": {"cpus": 0.5, "memory": "256m"},
        "shmSize": "900m",
    }
    assignment = bench.assignment(definition)
    running = asyncio.create_task(executor.run(assignment, bench.log))
    await until(lambda: "end\tend" in bench.live() or running.done())
    assert not running.done(), running.result()
    (container,) = await bench.containers()
    shown = await bench.engine._quick.containers.container(container.id).show()
    await executor.stop(*assignment.key)
    assert await running == CANCELLED
    inside = dict(line.split("\t", 1) for line in bench.live().splitlines() if "\t" in line)
    return Facts(inside=inside, shown=shown, info=await bench.engine.info())


@pytest.mark.parametrize("profile", PROFILES)
async def test_every_field_is_what_the_profile_says(bench: Bench, profile: str) -> None:
    facts = await look(bench, profile)
    per_profile = {"standard", "strict", "trusted"}
    wanted = {n: w[profile] if isinstance(w, dict) and {*w} == per_profile else w for n, _, w in ROWS}
    assert {name: ask(facts) for name, ask, _ in ROWS} == wanted


def test_there_are_enough_rows_and_each_has_a_name_of_its_own() -> None:
    names = [name for name, _, _ in ROWS]
    assert len(names) == len({*names}) >= 60


# What a stranger may write in a definition ------------------------------------------------------------------------


async def spec_of(bench: Bench, definition: dict[str, Any], folder: Path) -> ContainerSpec:
    """All steps before the container, as a worker does them."""
    transfer = Transfer(bench.session, bench.blobs.url, private_addresses=False)
    image = image_of(definition, GRANT)
    allotment = allot(read_requirements(definition), GRANT)
    workspace = Workspace.of(folder, "w", QUEUE, "job", 1)
    return container_spec(
        definition,
        allotment,
        GRANT,
        image=image,
        folders=await materialise(workspace, definition, transfer, limit_bytes=MIB),
        labels=labels_of("w", QUEUE, "job", 1),
        queue=QUEUE,
        job_id="job",
        server_url=bench.blobs.url,
        network_mode={"none": "none", "egress": NETWORK}[network_class(definition, GRANT)],
    )


async def host_config(bench: Bench, spec: ContainerSpec) -> str:
    """What the engine makes of it, without starting anything."""
    container = await bench.engine.create(create_body(spec))
    try:
        shown = await bench.engine._quick.containers.container(container).show()
    finally:
        await bench.engine.remove(container)
    return json.dumps(shown["HostConfig"], sort_keys=True)


async def test_the_engine_gets_the_same_request_whatever_a_stranger_writes(bench: Bench, tmp_path: Path) -> None:
    plain = {"image": IMAGE, "command": "true"}
    wanted = await host_config(bench, await spec_of(bench, plain, tmp_path))
    refused: list[BaseException] = []
    harmless = 0
    for attempt in [*ATTEMPTS, *TRICKS]:
        try:
            spec = await spec_of(bench, {**plain, **attempt}, tmp_path)
        except (AsmanError, ExceptionGroup) as error:
            refused.append(first_cause(error))
            continue
        assert await host_config(bench, spec) == wanted, attempt
        harmless += 1
    assert len(refused) >= 60
    assert harmless >= 60
    others = [str(error) for error in refused if not isinstance(error, (BadDefinition, LimitExceeded))]
    assert len(others) == 1, "the server is asked for one blob, which it does not have"
    assert "404" in others[0]
    await spec_of(bench, plain, tmp_path)
    assert [path.name for path in files_below(tmp_path)] == []


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
