"""Which addresses a job with the network class ``egress`` reaches: the public internet, and what the owner opens. Pure.

Closed are the ranges that are never public, every address of the engine's host (it may well have public ones), and
what the owner names. Opened, by the owner only, are networks inside the closed ranges, and resolvers that lie in them.
An address of the host itself is opened only by naming it alone, never by a network around it.

IPv6 is off for such jobs, so only IPv4 is spoken of here.

Source: contract, "Network classes"; IANA special-purpose address registry.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from asman.errors import ConfigError, clip

__all__ = ["NOT_PUBLIC", "Routes", "local_addresses", "read_addresses", "read_network", "routes_of"]

NOT_PUBLIC = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
"""Private, shared, link-local, benchmarking, multicast and reserved ranges; loopback is each job's own."""

_INET = re.compile(r"\binet (\d+\.\d+\.\d+\.\d+)\b")
_LEAF = re.compile(r"\|-- (\d+\.\d+\.\d+\.\d+)\s*\Z")

_Network = ipaddress.IPv4Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Shape: networks as ``A.B.C.D/N``, sorted; the longer prefix wins, as in any routing table."""

    unreachable: tuple[str, ...]
    reachable: tuple[str, ...]


def read_network(text: str, setting: str) -> _Network:
    """An address or a network in CIDR form. Errors: ConfigError, naming the setting."""
    try:
        return ipaddress.IPv4Network(text.strip())
    except ValueError as error:
        hint = "Write an IPv4 network such as 10.1.0.0/16, or one address; jobs have no IPv6."
        raise ConfigError(f"{setting} is {clip(text)}: {error}", hint=hint) from error


def routes_of(
    host: Iterable[str], *, deny: Iterable[str] = (), allow: Iterable[str] = (), resolvers: Iterable[str] = ()
) -> Routes:
    """What a gate writes into its routing table.

    Shape:  ``host`` are addresses of the engine's host; ``deny`` and ``allow`` the owner's networks.
    Errors: ConfigError for a network or a resolver that cannot be read.
    """
    closed = {_Network(text) for text in NOT_PUBLIC}
    opened = {read_network(text, "allow_networks") for text in allow}
    opened |= {r for r in (read_network(text, "dns") for text in resolvers) if any(r.subnet_of(n) for n in closed)}
    own = {_Network(address) for address in host if not address.startswith("127.")}
    refused = {read_network(text, "deny_networks") for text in deny}
    closed = {n for n in closed if not any(n.subnet_of(o) for o in opened)} | (own - opened) | refused
    return Routes(
        unreachable=tuple(str(n) for n in sorted(closed)), reachable=tuple(str(n) for n in sorted(opened - closed))
    )


def read_addresses(text: str) -> frozenset[str]:
    """The addresses in what ``ip -4 -o addr`` prints."""
    return frozenset(_INET.findall(text))


def local_addresses(fib_trie: str) -> frozenset[str]:
    """The addresses of this network namespace, from the text of ``/proc/net/fib_trie``."""
    found, leaf = set(), ""
    for line in fib_trie.splitlines():
        if match := _LEAF.search(line):
            leaf = match[1]
        elif "/32 host LOCAL" in line and leaf:
            found.add(leaf)
    return frozenset(found)
