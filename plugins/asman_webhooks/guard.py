"""Which addresses webhooks may reach, and the one place where they are dialled.

The address in a callback is a stranger's. A name is resolved here, once; if any of its addresses is not public the
call is refused and nothing is dialled; otherwise exactly the checked addresses are tried, so an answer that changes
between check and connect is of no use to anybody. No spelling is parsed: whatever a host looks like (decimal, octal,
hexadecimal, a trailing dot), what counts is the address the resolver makes of it.

Names are resolved on threads of the guard's own. A resolver that hangs holds back other webhooks at worst, never
the storage, which shares the loop's threads.

Source: promises, S8 and "SSRF guard"; IANA special-purpose registries for IPv4 and IPv6.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpcore
from httpcore import AsyncNetworkBackend, AsyncNetworkStream

from asman.errors import ConfigError, Unprocessable, clip

__all__ = ["Address", "Guard", "Network", "Resolve", "SystemResolver", "is_allowed", "is_public", "read_networks"]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""From a host to the addresses behind it, as text."""

_SPECIAL_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this host
            "10.0.0.0/8",
            "100.64.0.0/10",  # carrier-grade NAT; some clouds keep their metadata service here
            "127.0.0.0/8",
            "168.63.129.16/32",  # public by number, but a cloud's own service inside its machines
            "169.254.0.0/16",  # link local, the usual metadata service
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
_UNICAST_V6 = IPv6Network("2000::/3")
_SPECIAL_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments, Teredo among them
            "2001:db8::/32",
            "2002::/16",  # 6to4: an IPv4 address in disguise
            "3fff::/20",
        ),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)
_DIALLED_AT_MOST = 4
_RESOLVERS = 8


def read_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Read the setting ``webhook_allow``. Errors: ConfigError, naming the network."""
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text))
        except ValueError as error:
            raise ConfigError(
                f"webhook_allow has {clip(text)}, which is not a network: {error}",
                hint="Write networks as 10.1.0.0/16 or fd00:1::/64.",
            ) from error
    return tuple(networks)


def _behind(address: Address) -> Address:
    """The IPv4 address that an IPv6 one only wraps (IPv4-mapped, NAT64), or the address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Can anybody on the internet reach this address, and reach the same thing?

    Python's own ``is_global`` must agree, but does not suffice: it calls multicast global, and older releases some
    tunnels too.
    """
    real = _behind(address)
    if isinstance(real, IPv4Address):
        return real.is_global and not any(real in network for network in _SPECIAL_V4)
    if real.scope_id is not None or (int(real) >> 32) & 0xFFFFFFFF in _ISATAP:
        return False
    return real in _UNICAST_V6 and real.is_global and not any(real in network for network in _SPECIAL_V6)


def is_allowed(address: Address, allow: Iterable[Network] = ()) -> bool:
    """Public, or inside a network that the operator allows."""
    real = _behind(address)
    return is_public(address) or any(real in network or address in network for network in allow)


class Guard(AsyncNetworkBackend):
    """A network that leads to public addresses only. What it refuses it has not dialled.

    Shape:  ``resolve`` and ``dial`` are the system's unless given; ``dial`` gets addresses only, never names.
    """

    def __init__(
        self,
        *,
        allow: Iterable[Network] = (),
        resolve: Resolve | None = None,
        dial: AsyncNetworkBackend | None = None,
    ) -> None:
        self._allow = tuple(allow)
        self._resolve = resolve or SystemResolver()
        self._dial = dial or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Connect to the first checked address that answers.

        Errors: Unprocessable for a host with any address that is not allowed; httpcore.ConnectError,
                httpcore.ConnectTimeout for one that cannot be resolved or reached now.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._connect(host, port, timeout, local_address, socket_options)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"{host} did not answer in {timeout} s") from error

    async def _connect(
        self,
        host: str,
        port: int,
        within_s: float | None,
        local_address: str | None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None,
    ) -> AsyncNetworkStream:
        addresses = (await self.checked(host))[:_DIALLED_AT_MOST]
        each_s = within_s / len(addresses) if within_s is not None and addresses else within_s
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await self._dial.connect_tcp(address, port, each_s, local_address, socket_options)
            except (httpcore.NetworkError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def checked(self, host: str) -> list[str]:
        """The addresses of a host, all of them allowed.

        A closing dot is cut off first, because resolvers differ on ``localhost.`` and ``127.0.0.1.``.

        Errors: Unprocessable, naming the host and never the address behind it (who asks should not learn it);
                httpcore.ConnectError where there is no address.
        """
        try:
            found = [ip_address(text) for text in await self._resolve(host.removesuffix("."))]
        except UnicodeError as error:
            raise Unprocessable(f"the callback host {clip(host)} is not a host name") from error
        except OSError as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from error
        if any(not is_allowed(address, self._allow) for address in found):
            raise Unprocessable(
                f"the callback host {clip(host)} leads to an address that is not public; callbacks go to public ones",
                hint="The server's operator can allow networks with ASMAN_WEBHOOK_ALLOW.",
            )
        return list(dict.fromkeys(map(str, found)))

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Never: a socket file is not a public address. Errors: Unprocessable."""
        raise Unprocessable("callbacks do not go to socket files")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SystemResolver:
    """The system's resolver, on threads of its own that start with the first name."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    async def __call__(self, host: str) -> Sequence[str]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="asman-webhooks-resolve")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _addresses, host)


def _addresses(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for family, _, _, _, address in found if family in (socket.AF_INET, socket.AF_INET6)]
