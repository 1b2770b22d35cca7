"""What an egress job reaches, as routes."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman.errors import ConfigError
from asman_worker.addresses import NOT_PUBLIC, Routes, local_addresses, read_addresses, routes_of
from asman_worker.transfer import is_public

ADDRESS = st.ip_addresses(v=4).map(str)


def reaches(routes: Routes, address: str) -> bool:
    """As the kernel decides: the longest prefix wins; what no route names goes out by the default one."""
    ip = ipaddress.IPv4Address(address)
    named = [(ipaddress.IPv4Network(n), ok) for ok in (False, True) for n in (routes.unreachable, routes.reachable)[ok]]
    matching = [(network.prefixlen, ok) for network, ok in named if ip in network]
    return max(matching)[1] if matching else True


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "172.31.255.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "203.0.113.7"]
)
def test_private_ranges_metadata_multicast_and_the_hosts_own_addresses_are_closed(address: str) -> None:
    assert not reaches(routes_of(["203.0.113.7", "127.0.0.1"]), address)


@given(ADDRESS)
def test_whatever_is_reached_is_a_public_address(address: str) -> None:
    loopback_or_test = ("127.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "192.88.99.0/24")
    if not is_public(address) and not any(
        ipaddress.IPv4Address(address) in ipaddress.IPv4Network(n) for n in loopback_or_test
    ):
        assert not reaches(routes_of([]), address)


@given(st.lists(ADDRESS, max_size=4), ADDRESS)
def test_the_internet_stays_open(host: list[str], address: str) -> None:
    special = ipaddress.IPv4Address(address) in ipaddress.IPv4Network("192.0.0.0/24")  # some of it counts as global
    if is_public(address) and address not in host and not special:
        assert reaches(routes_of(host), address)


def test_the_owner_opens_a_network_but_not_the_host_in_it() -> None:
    routes = routes_of(["10.1.0.5"], allow=["10.1.0.0/16"])
    assert reaches(routes, "10.1.0.6")
    assert not reaches(routes, "10.1.0.5")
    assert not reaches(routes, "10.2.0.6")


def test_the_host_is_opened_only_by_its_own_name() -> None:
    assert reaches(routes_of(["10.1.0.5"], allow=["10.1.0.5"]), "10.1.0.5")


def test_a_whole_closed_range_can_be_opened_and_what_is_denied_wins() -> None:
    routes = routes_of([], allow=["10.0.0.0/8", "10.9.0.0/16"], deny=["10.9.0.0/16", "1.1.1.0/24"])
    assert reaches(routes, "10.8.0.1")
    assert not reaches(routes, "10.9.0.1")
    assert not reaches(routes, "1.1.1.1")


def test_a_resolver_of_the_owners_network_is_opened_and_a_public_one_needs_no_route() -> None:
    routes = routes_of([], resolvers=["10.0.0.2", "1.1.1.1"])
    assert routes.reachable == ("10.0.0.2/32",)
    assert not reaches(routes, "10.0.0.3")


@pytest.mark.parametrize("text", ["10.0.0.0/33", "fd00::/8", "lan", "10.1.2.3/8", ""])
def test_what_is_no_network_is_refused_with_the_settings_name(text: str) -> None:
    with pytest.raises(ConfigError, match="allow_networks"):
        routes_of([], allow=[text])


def test_addresses_are_read_from_what_tools_and_the_kernel_print() -> None:
    printed = (
        "1: lo    inet 127.0.0.1/8 scope host lo\n"
        "2: eth0    inet 192.168.1.9/24 brd 192.168.1.255 scope global eth0\n"
        "3: ppp0    inet 100.64.0.9 peer 100.64.0.1/32 scope global ppp0\n"
    )
    assert read_addresses(printed) == {"127.0.0.1", "192.168.1.9", "100.64.0.9"}
    trie = (
        "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.0\n        /8 host LOCAL\n"
        "     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n"
    )
    assert local_addresses(trie) == {"127.0.0.1"}
    assert "127.0.0.1" in local_addresses(Path("/proc/net/fib_trie").read_text())


def test_the_closed_ranges_are_networks() -> None:
    assert all(ipaddress.IPv4Network(text) for text in NOT_PUBLIC)
