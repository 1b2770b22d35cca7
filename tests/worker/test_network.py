"""Network classes on a real engine, in a world of network namespaces.

The engine's own namespace is the host: it has a public-looking address, a metadata address of its own, and a server
that listens on all of them. Behind it lies a second namespace with another metadata service, a host of the owner's
network, and a server on the internet. So both ways a packet may take are tried: to the host and through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from asman_worker.addresses import routes_of
from asman_worker.docker import Engine
from asman_worker.grant import Grant
from asman_worker.images import Images
from asman_worker.network import GUARD_LABEL, Networks, NoGuard, guard_name, guard_script
from docker_engine import GUARD_IMAGE, IMAGE, DockerEngine
from worker_bench import GRANT, Bench, text_of
from worker_peers import until

SUPPORT = Path(__file__).parents[1] / "support"
PUBLIC, LAN, METADATA = "198.51.100.10", "192.168.77.1", "169.254.169.254"
OWN, OWN_METADATA, ROUTER = "203.0.113.7", "169.254.170.2", "203.0.113.1"
DNS = (PUBLIC,)


@dataclass(frozen=True, kw_only=True)
class World:
    """What is where. Shape: ``own`` are the host's addresses, ``behind`` those that it routes to."""

    gateway: str = ""
    own: tuple[str, ...] = (OWN, OWN_METADATA)
    behind: tuple[str, ...] = (LAN, METADATA)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@contextlib.contextmanager
def _server(*prefix: str, name: str, addresses: tuple[str, ...]) -> Iterator[None]:
    command = [*prefix, sys.executable, str(SUPPORT / "small_internet.py"), name, *addresses]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


@pytest.fixture
def world(docker_engine: DockerEngine) -> Iterator[World]:
    if docker_engine.pid is None:
        pytest.skip("an engine given by ASMAN_TEST_DOCKER_HOST has no network namespace to build a world in")
    mark = secrets.token_hex(3)
    there, near, far = f"asman-{mark}", f"n{mark}", f"f{mark}"
    with contextlib.ExitStack() as stack:
        _run("ip", "netns", "add", there)
        stack.callback(_run, "ip", "netns", "delete", there)
        _run("ip", "link", "add", near, "type", "veth", "peer", "name", far)
        _run("ip", "link", "set", near, "netns", str(docker_engine.pid))
        _run("ip", "link", "set", far, "netns", there)
        for address, device in ((f"{ROUTER}/24", far), *((f"{a}/32", "lo") for a in (PUBLIC, LAN, METADATA))):
            _run("ip", "-n", there, "addr", "add", address, "dev", device)
        for device in (far, "lo"):
            _run("ip", "-n", there, "link", "set", device, "up")
        _run(*docker_engine.inside("ip", "addr", "add", f"{OWN}/24", "dev", near))
        _run(*docker_engine.inside("ip", "link", "set", near, "up"))
        _run(*docker_engine.inside("ip", "addr", "add", f"{OWN_METADATA}/32", "dev", "lo"))
        stack.callback(_run, *docker_engine.inside("ip", "addr", "del", f"{OWN_METADATA}/32", "dev", "lo"))
        _run(*docker_engine.inside("ip", "route", "add", "default", "via", ROUTER))
        stack.enter_context(_server("ip", "netns", "exec", there, name="behind", addresses=(PUBLIC, LAN, METADATA)))
        stack.enter_context(_server(*docker_engine.inside(), name="host", addresses=(OWN, OWN_METADATA)))
        yield World()


def grant(**changes: Any) -> Grant:
    return replace(GRANT, dns=DNS, **changes)


def ask(address: str) -> str:
    return f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 6 nc -w 4 {address} 8080 2>/dev/null | tail -n 1"


def script(*addresses: str) -> str:
    """Says of each address what it answers, or "no"."""
    return "; ".join(f"x=$({ask(a)}); echo {a} ${{x:-no}}" for a in addresses)


async def reached(bench: Bench, granted: Grant, *addresses: str, **definition: Any) -> dict[str, str]:
    report = await bench.run(["sh", "-c", script(*addresses)], bench.another(granted), **definition)
    assert report["outcome"] == "succeeded", report
    return dict(line.split() for line in text_of(report).splitlines())


async def gateway(bench: Bench, network: str) -> str:
    """The bridge's own address: the host, as its containers see it."""
    found = json.loads((await _raw(bench.engine, f"networks/{network}")).decode())
    return str(found["IPAM"]["Config"][0]["Gateway"])


async def _raw(engine: Engine, path: str) -> bytes:
    async with engine._quick.session.get(f"{engine._quick.docker_host}/{path}") as answer:
        return await answer.read()


# What is reached --------------------------------------------------------------------------------------------------


@pytest.mark.docker
async def test_egress_reaches_the_internet_and_nothing_of_the_owners(bench: Bench, world: World) -> None:
    await reached(bench, grant(), PUBLIC)
    closed = (*world.own, *world.behind, await gateway(bench, "asman-egress"))
    found = await reached(bench, grant(), PUBLIC, *closed)
    assert found == {PUBLIC: "behind", **dict.fromkeys(closed, "no")}


@pytest.mark.docker
async def test_open_reaches_all_of_it_so_that_the_test_above_can_fail(bench: Bench, world: World) -> None:
    granted = grant(network="open")
    await reached(bench, granted, PUBLIC)
    own = (*world.own, await gateway(bench, "asman-jobs"))
    found = await reached(bench, granted, PUBLIC, *own, *world.behind)
    assert found == {**dict.fromkeys((PUBLIC, *world.behind), "behind"), **dict.fromkeys(own, "host")}


@pytest.mark.docker
async def test_none_reaches_nothing(bench: Bench, world: World) -> None:
    found = await reached(bench, grant(network="none"), PUBLIC, *world.own, *world.behind)
    assert set(found.values()) == {"no"}
    asked = await reached(bench, grant(), PUBLIC, requirements={"network": "none"})
    assert asked == {PUBLIC: "no"}


@pytest.mark.docker
async def test_datagrams_reach_the_internet_only(bench: Bench, world: World) -> None:
    command = "; ".join(f"echo {a} $(nslookup a.b {a} 2>&1 | grep -c 198.51.100.77)" for a in (PUBLIC, LAN, OWN))
    for granted, expected in ((grant(), ["1", "0", "0"]), (grant(network="open"), ["1", "1", "1"])):
        report = await bench.run(["sh", "-c", f"{command}; # {granted.network}"], bench.another(granted))
        assert [line.split()[1] for line in text_of(report).splitlines()] == expected


@pytest.mark.docker
async def test_names_are_asked_of_the_resolvers_that_the_owner_named(bench: Bench, world: World) -> None:
    report = await bench.run(["sh", "-c", "nslookup anything.example.com; echo"], bench.another(grant()))
    assert "198.51.100.77" in text_of(report)


@pytest.mark.docker
async def test_the_owner_may_open_and_close_networks(bench: Bench, world: World) -> None:
    opened = grant(allow_networks=("192.168.77.0/24",), deny_networks=(f"{PUBLIC}/32",))
    assert await reached(bench, opened, LAN, PUBLIC, METADATA) == {LAN: "behind", PUBLIC: "no", METADATA: "no"}


@pytest.mark.docker
async def test_jobs_do_not_reach_each_other(bench: Bench, world: World) -> None:
    executor = bench.another(grant())
    listener = "ip -4 addr show eth0; while :; do echo hello | nc -l -p 8080; done"
    assignment = bench.assignment({"command": ["sh", "-c", listener]})
    listening = asyncio.create_task(executor.run(assignment, bench.log))
    await until(lambda: "inet " in bench.live())
    address = bench.live().split("inet ")[1].split("/")[0]
    assert await reached(bench, grant(), address, "127.0.0.1", PUBLIC) == {
        address: "no",
        "127.0.0.1": "no",
        PUBLIC: "behind",
    }
    await executor.stop(*assignment.key)
    await listening


# What a job cannot change -----------------------------------------------------------------------------------------


@pytest.mark.docker
async def test_root_in_a_job_cannot_change_its_routes_nor_speak_raw(bench: Bench, world: World) -> None:
    tries = (
        f"ip route del unreachable 192.168.0.0/16; ip route add {LAN} via $(ip route | sed -n "
        "'s/^default via \\([0-9.]*\\).*/\\1/p') dev eth0 onlink; ip addr add 192.168.77.2/24 dev eth0; "
        f"ip link set eth0 down; ping -c 1 -w 2 {PUBLIC}; ip -6 addr | grep -c inet6; "
    )
    report = await bench.run(["sh", "-c", f"({tries}) 2>&1; {script(LAN, PUBLIC)}"], bench.another(grant()))
    lines = text_of(report).splitlines()
    assert lines[-2:] == [f"{LAN} no", f"{PUBLIC} behind"], lines
    assert sum("not permitted" in line or "denied" in line for line in lines) >= 5, lines
    assert "0" in lines


# Guards -----------------------------------------------------------------------------------------------------------


async def guards(bench: Bench) -> list[Any]:
    return [c for c in await bench.engine.find({"asman.helper": bench.worker_id}) if GUARD_LABEL in c.labels]


@pytest.mark.docker
async def test_each_job_has_a_guard_of_its_own_and_it_goes_with_the_job(bench: Bench) -> None:
    executor = bench.another(replace(GRANT, cores=10, memory_bytes=1 << 30))
    assignments = [bench.assignment({"command": ["sh", "-c", f"echo up{n}.; sleep 60"]}) for n in range(10)]
    running = [asyncio.create_task(executor.run(each, bench.log)) for each in assignments]
    await until(lambda: bench.live().count("up") == 10)
    used = {c.labels[GUARD_LABEL] for c in await bench.containers()}
    assert len(used) == 10
    await asyncio.gather(*(executor.stop(*each.key) for each in assignments))
    await asyncio.gather(*running)
    assert not used & {c.labels[GUARD_LABEL] for c in await guards(bench)}
    await executor.settle()
    assert await guards(bench) == []


@pytest.mark.docker
async def test_a_job_whose_guard_dies_loses_its_network_and_nothing_else(bench: Bench, world: World) -> None:
    command = f"while {ask(PUBLIC)} | grep behind; do :; done; echo end"
    executor = bench.another(grant())
    running = asyncio.create_task(executor.run(bench.assignment({"command": ["sh", "-c", command]}), bench.log))
    await until(lambda: "behind" in bench.live())
    (container,) = await bench.containers()
    await bench.engine.remove(container.labels[GUARD_LABEL])
    report = await running
    assert report["outcome"] == "succeeded"
    assert text_of(report).endswith("end\n")


@pytest.mark.docker
async def test_guards_that_a_crash_left_go_unless_a_kept_job_uses_them(bench: Bench) -> None:
    first = bench.executor
    kept = bench.assignment({"command": ["sh", "-c", "echo up; sleep 30"]})
    running = asyncio.create_task(first.run(kept, bench.log))
    await until(lambda: "up" in bench.live())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    crashed = Networks(bench.engine, bench.worker_id, GRANT, Images(bench.engine))
    neighbour = Networks(bench.engine, "another-worker", GRANT, Images(bench.engine))
    stray, foreign = await crashed.take("egress"), await neighbour.take("egress")
    for networks in (crashed, neighbour):
        await networks.close()
    again = bench.another()
    await again.clean({kept.key})
    (container,) = await bench.containers()
    left = {c.labels[GUARD_LABEL] for c in await guards(bench)}
    assert container.labels[GUARD_LABEL] in left
    assert guard_name(stray) not in left
    assert (await bench.engine.inspect(guard_name(foreign))) is not None
    await bench.engine.remove(guard_name(foreign))
    await again.stop(*kept.key)
    await again.clean(set())
    await first.settle()
    assert await guards(bench) == []


@pytest.mark.docker
async def test_a_spare_guard_that_has_died_is_not_given_to_a_job(bench: Bench) -> None:
    await bench.executor.start()
    (spare,) = await guards(bench)
    await bench.engine.remove(spare.id)
    assert (await bench.run("echo fine"))["outcome"] == "succeeded"


@pytest.mark.docker
async def test_without_an_image_for_guards_it_is_made_of_the_machines_busybox(bench: Bench) -> None:
    networks = Networks(
        bench.engine, bench.worker_id, replace(GRANT, guard_image="asman-guard-test:1"), Images(bench.engine)
    )
    async with networks.lent("egress") as mode:
        assert (await bench.engine.inspect(guard_name(mode))) is not None
    assert await bench.engine.inspect(guard_name(mode)) is None
    await networks.close()


@pytest.mark.docker
async def test_a_guard_that_cannot_set_its_routes_is_no_guard(bench: Bench) -> None:
    networks = Networks(bench.engine, bench.worker_id, grant(), Images(bench.engine))
    networks._routes, networks._routes_until = replace(routes_of([]), unreachable=("10.0.0.0/99",)), float("inf")
    with pytest.raises(NoGuard, match="did not start"):
        await networks.take("egress")
    assert await guards(bench) == []
    assert networks.live == frozenset()


@pytest.fixture
async def engine_without_socket(tmp_path: Path) -> AsyncIterator[Engine]:
    async with Engine(f"unix://{tmp_path}/none.sock") as engine:
        yield engine


async def test_none_needs_no_engine_at_all(engine_without_socket: Engine) -> None:
    networks = Networks(engine_without_socket, "w", replace(GRANT, network="none"), Images(engine_without_socket))
    await networks.start()
    assert await networks.take("none") == "none"
    await networks.release("none")


def test_the_guards_script_closes_before_it_says_that_it_is_ready() -> None:
    lines = guard_script(routes_of(["203.0.113.7"], allow=["10.0.0.5"])).splitlines()
    ready = next(n for n, line in enumerate(lines) if line.startswith("echo "))
    assert lines.index("ip route replace unreachable 203.0.113.7/32") < ready
    assert lines.index("ip route replace unreachable $gw/32") < ready
    assert lines.index("ip route replace 10.0.0.5/32 via $gw dev eth0 onlink") < ready
    assert lines[-1].startswith("exec sleep")


@pytest.mark.docker
async def test_the_images_of_jobs_and_guards_are_there(docker_engine: DockerEngine) -> None:
    for image in (IMAGE, GUARD_IMAGE):
        assert docker_engine.request("GET", f"/images/{image}/json")[0] == 200
