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
from asman_worker.guard import GUARD_LABEL, containers_of, guard_name
from asman_worker.images import Images
from asman_worker.network import Networks, NoGuard
from docker_engine import GUARD_IMAGE, IMAGE, DockerEngine
from worker_bench import GRANT, Bench, text_of
from worker_peers import until

SUPPORT = Path(__file__).parents[1] / "support"
PUBLIC, LAN, METADATA = "198.51.100.10", "192.168.77.1", "169.254.169.254"
OWN, OWN_METADATA, ROUTER = "203.0.113.7", "169.254.170.2", "203.0.113.1"
NEXT_HOP = "192.0.0.8"
DNS = (PUBLIC,)


@dataclass(frozen=True, kw_only=True)
class World:
    """What is where. Shape: ``uplink`` is the host's way out, ``own`` its addresses, ``behind`` those it routes to."""

    uplink: str
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
        yield World(uplink=near)


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
async def test_a_job_finds_its_name_and_nothing_of_the_hosts_resolver(bench: Bench) -> None:
    command = "cat /etc/resolv.conf; grep $(hostname) /etc/hosts; ip -4 -o addr show eth0"
    *resolver, named, interface = text_of(await bench.run(["sh", "-c", command], bench.another(grant()))).splitlines()
    assert [line for line in resolver if line.startswith(("nameserver", "search"))] == [f"nameserver {PUBLIC}"]
    assert named.split() == [interface.split("inet ")[1].split("/")[0], "job"]


@pytest.mark.docker
async def test_large_packets_pass_where_the_hosts_way_out_takes_smaller_ones(
    bench: Bench, docker_engine: DockerEngine, world: World
) -> None:
    _run(*docker_engine.inside("ip", "link", "set", world.uplink, "mtu", "1300"))
    post = "printf 'POST / HTTP/1.0\\r\\nContent-Length: 300000\\r\\n\\r\\n'; head -c 300000 /dev/zero"
    command = f"{{ {post}; }} | nc -w 20 {PUBLIC} 8080 | tail -n 1"
    assert text_of(await bench.run(["sh", "-c", command], bench.another(grant()))) == "behind"


@pytest.mark.docker
async def test_the_owner_may_open_and_close_networks(bench: Bench, world: World) -> None:
    opened = grant(allow_networks=("192.168.77.0/24",), deny_networks=(f"{PUBLIC}/32",))
    assert await reached(bench, opened, LAN, PUBLIC, METADATA) == {LAN: "behind", PUBLIC: "no", METADATA: "no"}


@pytest.mark.docker
async def test_jobs_do_not_reach_each_other(bench: Bench, world: World) -> None:
    executor = bench.another(grant())
    listener = "readlink /proc/self/ns/net; ip -4 addr show eth0; while :; do echo hello | nc -l -p 8080; done"
    assignment = bench.assignment({"command": ["sh", "-c", listener]})
    listening = asyncio.create_task(executor.run(assignment, bench.log))
    await until(lambda: "inet " in bench.live())
    address = bench.live().split("inet ")[1].split("/")[0]
    assert await reached(bench, grant(), address, "127.0.0.1", PUBLIC) == {
        address: "no",
        "127.0.0.1": "no",
        PUBLIC: "behind",
    }
    namespace = text_of(await bench.run("readlink /proc/self/ns/net", bench.another(grant()))).strip()
    assert namespace.startswith("net:")
    assert bench.live().count(namespace) == 1, "abstract sockets belong to a namespace of networks"
    await executor.stop(*assignment.key)
    await listening


# What a job cannot change -----------------------------------------------------------------------------------------


@pytest.mark.docker
async def test_root_in_a_job_cannot_change_its_routes_nor_speak_raw(bench: Bench, world: World) -> None:
    tries = (
        f"ip route del default; ip route add {LAN} via {NEXT_HOP} dev eth0 onlink; "
        "ip addr add 192.168.77.2/24 dev eth0; "
        f"ip link set eth0 down; ping -c 1 -w 2 {PUBLIC}; ip -6 addr | grep -c inet6; "
    )
    report = await bench.run(["sh", "-c", f"({tries}) 2>&1; {script(LAN, PUBLIC)}"], bench.another(grant()))
    lines = text_of(report).splitlines()
    assert lines[-2:] == [f"{LAN} no", f"{PUBLIC} behind"], lines
    assert sum("not permitted" in line or "denied" in line for line in lines) >= 5, lines
    assert "0" in lines


async def ways_out(bench: Bench, docker_engine: DockerEngine, granted: Grant, *addresses: str) -> set[str]:
    """Run the probe in the network namespace of a job, without any capability; what it found answering."""
    executor = bench.another(granted)
    assignment = bench.assignment({"command": ["sh", "-c", f"echo up-{granted.network}; exec sleep 60"]})
    running = asyncio.create_task(executor.run(assignment, bench.log))
    await until(lambda: f"up-{granted.network}" in bench.live())
    container = next(c for c in await bench.containers() if c.is_running)
    pid = json.loads(await _raw(bench.engine, f"containers/{container.id}/json"))["State"]["Pid"]
    bare = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
    probe = await asyncio.create_subprocess_exec(
        *("nsenter", f"--net=/proc/{pid}/ns/net", *bare, sys.executable, "-", "eth0", *addresses),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    answer, _ = await probe.communicate((SUPPORT / "network_probe.py").read_bytes())
    assert probe.returncode == 0
    await executor.stop(*assignment.key)
    await running
    return set(answer.decode().splitlines())


@pytest.mark.docker
async def test_naming_the_interface_leads_no_further_than_the_routes(
    bench: Bench, docker_engine: DockerEngine, world: World
) -> None:
    every = ("255.255.255.255", "224.0.0.1", NEXT_HOP)
    for network, bridge in (("open", "asman-jobs"), ("egress", "asman-egress")):
        await reached(bench, grant(network=network), PUBLIC)
        owners = (*world.own, *world.behind, await gateway(bench, bridge), *every)
        found = await ways_out(bench, docker_engine, grant(network=network), PUBLIC, *owners)
        answering = {line.split()[0] for line in found}
        if network == "open":
            assert {f"{OWN} stream-bound", f"{OWN_METADATA} datagram-pktinfo"} < found
            assert answering == {PUBLIC, *owners} - {NEXT_HOP}
        else:
            assert {f"{PUBLIC} stream", f"{PUBLIC} stream-bound", f"{PUBLIC} datagram-pktinfo"} < found
            assert answering == {PUBLIC}


# Guards -----------------------------------------------------------------------------------------------------------


async def taken(bench: Bench, worker_id: str) -> str:
    """A guard that its process no longer knows of."""
    networks = Networks(bench.engine, worker_id, GRANT, Images(bench.engine))
    mode = await networks.take("egress")
    await networks.close()
    return mode


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
    guard, gate = containers_of(container.labels[GUARD_LABEL])
    await bench.engine.remove(gate)
    state = await bench.engine.inspect(guard)
    assert state is not None
    assert not state.running
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
    stray, foreign = await taken(bench, bench.worker_id), await taken(bench, "another-worker")
    again = bench.another()
    await again.clean({kept.key})
    (container,) = await bench.containers()
    left = {c.labels[GUARD_LABEL] for c in await guards(bench)}
    assert container.labels[GUARD_LABEL] in left
    assert guard_name(stray) not in left
    assert (await bench.engine.inspect(guard_name(foreign))) is not None
    for part in containers_of(guard_name(foreign)):
        await bench.engine.remove(part)
    await again.stop(*kept.key)
    await again.clean(set())
    await first.settle()
    assert await guards(bench) == []


@pytest.mark.docker
async def test_a_spare_guard_that_has_died_is_not_given_to_a_job(bench: Bench) -> None:
    await bench.executor.start()
    spare = await guards(bench)
    assert len(spare) == 2
    await bench.engine.remove(containers_of(spare[0].labels[GUARD_LABEL])[1])
    assert (await bench.run("echo fine"))["outcome"] == "succeeded"


@pytest.mark.docker
async def test_a_spare_guard_made_before_the_host_had_another_address_is_replaced(
    bench: Bench, docker_engine: DockerEngine, world: World
) -> None:
    networks = Networks(bench.engine, bench.worker_id, grant(), Images(bench.engine))
    await networks.start()
    (before,) = networks.live
    await networks.start()
    assert networks.live == {before}, "a good spare is kept"
    networks._routes_until = 0.0
    _run(*docker_engine.inside("ip", "addr", "add", "203.0.113.77/32", "dev", "lo"))
    mode = await networks.take("egress")
    _run(*docker_engine.inside("ip", "addr", "del", "203.0.113.77/32", "dev", "lo"))
    assert await bench.engine.inspect(before) is None
    assert guard_name(mode) != before
    assert networks._routes is not None
    assert "203.0.113.77/32" in networks._routes.unreachable
    await networks.release(mode)
    await networks.close()
    assert await guards(bench) == []


async def half_made(bench: Bench) -> tuple[Networks, str]:
    """Networks whose spare is being made, because a job took the one before; and the network of that job."""
    networks = Networks(bench.engine, bench.worker_id, grant(), Images(bench.engine))
    await networks.start()
    mode = await networks.take("egress")
    networks.started()
    await until(lambda: len(networks.live) == 2)
    return networks, mode


@pytest.mark.docker
async def test_a_job_that_comes_while_the_spare_is_half_made_waits_for_it(bench: Bench) -> None:
    networks, first = await half_made(bench)
    (coming,) = networks.live - {guard_name(first)}
    second = await networks.take("egress")
    assert guard_name(second) == coming, "no other one was made beside it"
    assert networks.live == {guard_name(first), coming}
    for mode in (first, second):
        await networks.release(mode)
    await networks.close()
    assert await guards(bench) == []


@pytest.mark.docker
async def test_of_jobs_that_come_together_one_waits_and_the_others_do_not_queue_behind_it(bench: Bench) -> None:
    networks, first = await half_made(bench)
    modes = await asyncio.gather(*(networks.take("egress") for _ in range(3)))
    names = {guard_name(mode) for mode in (first, *modes)}
    assert len(names) == 4, "no two jobs share one"
    assert networks.live == names, "and none is left over"
    for mode in (first, *modes):
        await networks.release(mode)
    await networks.close()
    assert await guards(bench) == []


@pytest.mark.docker
async def test_a_job_that_is_stopped_while_it_waits_for_the_spare_leaves_none(bench: Bench) -> None:
    networks, first = await half_made(bench)
    waiting = asyncio.create_task(networks.take("egress"))
    await asyncio.sleep(0)  # it waits
    await until(lambda: networks._coming is None)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert networks.live == {guard_name(first)}
    await networks.release(first)
    await networks.close()
    assert await guards(bench) == []


@pytest.mark.docker
async def test_a_spare_that_is_half_made_at_the_end_of_the_worker_is_removed(bench: Bench) -> None:
    networks, first = await half_made(bench)
    await networks.close()
    assert networks.live == {guard_name(first)}
    await networks.release(first)
    assert await guards(bench) == []


@pytest.mark.docker
async def test_no_spare_is_made_while_the_job_that_took_the_last_one_is_being_started(bench: Bench) -> None:
    await bench.executor.start()
    (spare,) = {container.labels[GUARD_LABEL] for container in await guards(bench)}
    assignment = bench.assignment({"command": ["sh", "-c", "echo up; sleep 30"]})
    running = bench.begin(assignment)
    async with asyncio.timeout(30):
        while len(found := await guards(bench)) < 4 or not all(c.is_running for c in found):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    (job,) = await bench.containers()
    assert job.labels[GUARD_LABEL] == spare
    state = await bench.engine.inspect(job.id)
    assert state is not None
    for container in found:
        if container.labels[GUARD_LABEL] != spare:
            made = await bench.engine.inspect(container.id)
            assert made is not None
            assert made.started_at > state.started_at
    await bench.executor.stop(*assignment.key)
    await running


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


@pytest.mark.parametrize(
    ("message", "left"),
    [
        ("open /proc/sys/net/ipv6/conf/all/disable_ipv6: no such file", {"net.ipv4.conf.eth0.rp_filter"}),
        ('setting "net.ipv4.conf.eth0.rp_filter" must be supplied otherwise', {"net.ipv6.conf.all.disable_ipv6"}),
        ("open /proc/sys/net/ipv4/conf/eth0/rp_filter: no such file", {"net.ipv6.conf.all.disable_ipv6"}),
    ],
)
async def test_what_a_kernel_or_an_engine_does_not_know_is_left_out(
    engine_without_socket: Engine, message: str, left: set[str]
) -> None:
    networks = Networks(engine_without_socket, "w", GRANT, Images(engine_without_socket))
    wanted = ("net.ipv4.conf.eth0.rp_filter", "net.ipv6.conf.all.disable_ipv6", "net.ipv4.conf.all.rp_filter")
    assert networks._refuse_sysctls(message)
    assert set(networks._sysctls(dict.fromkeys(wanted, "0"))) == left | {"net.ipv4.conf.all.rp_filter"}
    assert not networks._refuse_sysctls(message), "the same refusal again is an error"
    assert not networks._refuse_sysctls("no space left on device")


@pytest.fixture
async def engine_without_socket(tmp_path: Path) -> AsyncIterator[Engine]:
    async with Engine(f"unix://{tmp_path}/none.sock") as engine:
        yield engine


async def test_none_needs_no_engine_at_all(engine_without_socket: Engine) -> None:
    networks = Networks(engine_without_socket, "w", replace(GRANT, network="none"), Images(engine_without_socket))
    await networks.start()
    assert await networks.take("none") == "none"
    await networks.release("none")


@pytest.mark.docker
async def test_the_images_of_jobs_and_guards_are_there(docker_engine: DockerEngine) -> None:
    for image in (IMAGE, GUARD_IMAGE):
        assert docker_engine.request("GET", f"/images/{image}/json")[0] == 200
