"""The two containers that fence in a job with egress: a router, and the namespace that the job joins. Pure.

Routes in the job's own namespace are no fence, though the job may not change them: a program without any right names
the interface (``SO_BINDTODEVICE``, ``IP_UNICAST_IF``, ``IP_PKTINFO``), and where no route is found Linux then
takes the destination to be on that wire; the host answers for each of its addresses there. Broadcasts need no route.

So the fence is a router. Two tiny containers stand beside each job with egress: the *guard*, whose network namespace
the job joins, and the *gate*, which alone is on the bridge. A cable (veth) leads from one to the other. What arrives
in the gate is forwarded by the gate's routes, whatever the job did to send it: to the public internet, or nowhere.
The gate has no address of its own and no port open; the job has the address that the engine gave the gate, so the
host's own rules know it. Nothing but the engine's API is needed.

Source: socket(7), ip(7); Linux, ``ip_route_output_key_hash_rcu``; RFC 7600 (192.0.0.8, the address of a router that
has none).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from asman_worker.addresses import Routes
from asman_worker.grant import EGRESS_NETWORK

__all__ = [
    "ADDRESS",
    "APPLETS",
    "FORWARDS",
    "GUARD_LABEL",
    "NO_IPV6",
    "READY",
    "containers_of",
    "gate_body",
    "gate_script",
    "guard_body",
    "guard_name",
    "guard_script",
    "looker_body",
    "new_guard",
]

GUARD_LABEL = "asman.guard"
"""On a guard and its gate: the guard's name. On a job's container: the name of the guard whose network it joined."""

READY = re.compile("asman-gate-ready")
"""What a gate says when a job can be let in."""

ADDRESS = re.compile(r"asman-gate-address ([0-9.]+) ([0-9]+)\n")
"""What a gate says before: the address that the job gets, and the most bytes of a packet."""

APPLETS = ("ip", "nc", "sed", "sh", "sleep")
"""Programs that the image must have, beside what is part of any shell."""

NO_IPV6 = {f"net.ipv6.conf.{which}.disable_ipv6": "1" for which in ("all", "default")}
FORWARDS = {
    "net.ipv4.ip_forward": "1",
    "net.ipv4.conf.all.proxy_arp": "1",
    **{f"net.ipv4.conf.{which}.rp_filter": "0" for which in ("all", "default", "eth0")},
}
"""A gate answers for the job's address, and passes on what the host says about a packet that is too large."""

_GUARD, _GATE = "asman-guard-", "asman-gate-"
_NEXT_HOP = "192.0.0.8"
_MEMORY_BYTES = 16 << 20


def guard_name(mode: str) -> str:
    """The guard behind an engine's network mode; empty if there is none."""
    return mode.partition(":")[2]


def new_guard() -> str:
    """A name that no guard has yet."""
    return f"{_GUARD}{secrets.token_hex(8)}"


def containers_of(guard: str) -> tuple[str, str]:
    """The names of a guard and of its gate, in the order in which they are removed."""
    return guard, _GATE + guard.removeprefix(_GUARD)


def gate_script(routes: Routes) -> str:
    """What a gate does: give up its address, close its routes, say the address, and wait for the cable.

    All packets but its own look into the main table, so that an interface which appears later is fenced from its first
    packet. The gate's own need the next hop (and so do the kernel's checks of where a packet comes from): table 100.

    The host learns the gate's hardware address for the job's address while the gate still has it; a proxy's answers
    are late by up to 0.8 s.
    """
    lines = [
        "set -e",
        "cidr=$(ip -o -4 addr show dev eth0 | sed -n 's/.* inet \\([0-9./]*\\).*/\\1/p')",
        "gw=$(ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p')",
        "near=$(ip route | sed -n 's/^\\([0-9.]*\\/[0-9]*\\) dev.*/\\1/p')",
        "read mtu < /sys/class/net/eth0/mtu",
        'test -n "$cidr" && test -n "$gw"',
        "nc -w 1 $gw 9 < /dev/null > /dev/null 2>&1 & sleep 0.05",
        f"ip addr add {_NEXT_HOP}/32 dev lo scope host",
        "ip addr del $cidr dev eth0",
        "ip rule add iif lo lookup 100",
        "ip route add $gw/32 dev eth0 table 100",
        "ip route add default via $gw dev eth0 onlink table 100",
        "ip route add default via $gw dev eth0 onlink",
        *(f"ip route replace unreachable {network}" for network in routes.unreachable),
        "for n in $near $gw/32; do ip route replace unreachable $n; done",
        *(f"ip route replace {network} via $gw dev eth0 onlink" for network in routes.reachable),
        "attach() {",
        "  ip link set job0 mtu $mtu && ip link set job0 up &&",
        f"  ip route add ${{cidr%/*}}/32 dev job0 src {_NEXT_HOP} table 100 &&",
        f"  ip route add ${{cidr%/*}}/32 dev job0 src {_NEXT_HOP} && echo {READY.pattern}",
        "}",
        "trap 'attach || exit 1' USR1",
        "echo asman-gate-address ${cidr%/*} $mtu",
        "while :; do sleep 2147483647 & wait $! || :; done",
    ]
    return "\n".join(lines)


def guard_script(address: str, mtu: str) -> str:
    """What a guard does: lay the cable into the gate, whose process is 1 for it too, tell the gate, and stay."""
    lines = [
        "set -e",
        "ip link add eth0 type veth",
        "ip link set veth0 name job0",
        "ip link set job0 netns 1",
        f"ip link set eth0 mtu {mtu}",
        f"ip addr add {address}/32 dev eth0",
        "ip link set eth0 up",
        f"ip route add default via {_NEXT_HOP} dev eth0 onlink",
        "kill -USR1 1",
        "exec sleep 2147483647",
    ]
    return "\n".join(lines)


def gate_body(image: str, labels: Mapping[str, str], routes: Routes, sysctls: Mapping[str, str]) -> dict[str, Any]:
    body = _helper_body(image, ["/bin/sh", "-c", gate_script(routes)], labels)
    config = {"NetworkMode": EGRESS_NETWORK, "CapAdd": ["NET_ADMIN"], "Sysctls": dict(sysctls)}
    return {**body, "HostConfig": body["HostConfig"] | config}


def guard_body(
    image: str, labels: Mapping[str, str], script: str, sysctls: Mapping[str, str], *, gate: str, dns: tuple[str, ...]
) -> dict[str, Any]:
    """The job takes over this container's name and resolvers with its network, so none of the host's own are in it."""
    body = _helper_body(image, ["/bin/sh", "-c", script], labels)
    config = {
        "NetworkMode": "none",
        "PidMode": f"container:{gate}",
        "CapAdd": ["NET_ADMIN"],
        "Dns": list(dns),
        "DnsSearch": ["."],
        "Sysctls": dict(sysctls),
    }
    return {**body, "Hostname": "job", "HostConfig": body["HostConfig"] | config}


def looker_body(image: str, worker_id: str) -> dict[str, Any]:
    body = _helper_body(image, ["/bin/sh", "-c", "ip -4 -o addr"], {"asman.helper": worker_id})
    return {**body, "HostConfig": body["HostConfig"] | {"NetworkMode": "host", "UsernsMode": "host"}}


def _helper_body(image: str, command: list[str], labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "Image": image,
        "Entrypoint": command[:1],
        "Cmd": command[1:],
        "User": "0:0",
        "Labels": dict(labels),
        "AttachStdout": True,
        "AttachStderr": True,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "Memory": _MEMORY_BYTES,
            "MemorySwap": _MEMORY_BYTES,
            "PidsLimit": 16,
            "IpcMode": "private",
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "none"},
        },
    }
