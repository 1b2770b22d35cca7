"""What a gate and a guard are told, before any engine is asked; ``test_network`` runs them."""

from __future__ import annotations

from asman_worker.addresses import routes_of
from asman_worker.guard import (
    FORWARDS,
    NO_IPV6,
    containers_of,
    gate_body,
    gate_script,
    guard_body,
    guard_name,
    guard_script,
    looker_body,
    new_guard,
)

ROUTES = routes_of(["203.0.113.7"], allow=["10.0.0.5"])


def test_the_gate_is_closed_before_anything_can_be_attached_to_it() -> None:
    lines = gate_script(routes_of(["203.0.113.7"], allow=["10.0.0.5"])).splitlines()
    open_for_cables = next(n for n, line in enumerate(lines) if line.startswith("trap "))
    assert lines.index("ip route replace unreachable 203.0.113.7/32") < open_for_cables
    assert lines.index("for n in $near $gw/32; do ip route replace unreachable $n; done") < open_for_cables
    assert lines.index("ip route replace 10.0.0.5/32 via $gw dev eth0 onlink") < open_for_cables
    assert lines[0] == "set -e"


def test_a_guard_and_its_gate_are_known_by_one_name() -> None:
    guard, gate = containers_of(new_guard())
    assert guard.removeprefix("asman-guard-") == gate.removeprefix("asman-gate-")
    assert new_guard() != guard
    assert guard_name(f"container:{guard}") == guard
    assert guard_name("none") == ""


def test_a_guard_has_one_way_out_and_tells_the_gate_when_it_stands() -> None:
    lines = guard_script("172.18.0.2", "1400").splitlines()
    assert [line for line in lines if "route" in line] == ["ip route add default via 192.0.0.8 dev eth0 onlink"]
    assert lines.index("ip addr add 172.18.0.2/32 dev eth0") < lines.index("kill -USR1 1") == len(lines) - 2


def test_helpers_hold_nothing_but_what_their_work_takes() -> None:
    gate = gate_body("image", {}, ROUTES, {**FORWARDS, **NO_IPV6})
    guard = guard_body("image", {}, "script", NO_IPV6, gate="g", dns=("192.0.2.1",))
    looker = looker_body("image", "worker-1")
    for body in (gate, guard, looker):
        host = body["HostConfig"]
        assert (host["CapDrop"], host["SecurityOpt"], host["ReadonlyRootfs"]) == (["ALL"], ["no-new-privileges"], True)
        assert (host["PidsLimit"], host["Memory"], host["MemorySwap"]) == (16, 16 << 20, 16 << 20)
        assert not {"Binds", "Mounts", "Devices", "Privileged"} & host.keys()
    assert [body["HostConfig"].get("CapAdd", []) for body in (gate, guard, looker)] == [["NET_ADMIN"]] * 2 + [[]]
    assert (guard["HostConfig"]["NetworkMode"], guard["HostConfig"]["PidMode"]) == ("none", "container:g")
    assert (guard["HostConfig"]["Dns"], guard["HostConfig"]["DnsSearch"]) == (["192.0.2.1"], ["."])
