"""Ways out of a network namespace that need no right at all: ``python network_probe.py DEVICE ADDRESS...``.

Tries port 8080 of each address in every way, as a program in a job could, and prints those that were answered as
"ADDRESS WAY". Naming the device makes Linux take an address for which there is no route to be on that wire.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_WAIT_S = 2.0
_IP_UNICAST_IF = 50
_IP_PKTINFO = 8
DEVICE = sys.argv[1]


def _bind(probe: socket.socket) -> None:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, DEVICE.encode() + b"\0")


def _unicast_if(probe: socket.socket) -> None:
    probe.setsockopt(socket.IPPROTO_IP, _IP_UNICAST_IF, struct.pack("!I", socket.if_nametoindex(DEVICE)))


def _bind_and_do_not_route(probe: socket.socket) -> None:
    _bind(probe)
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)


def _stream(address: str, prepare: Callable[[socket.socket], None]) -> bool:
    with socket.socket() as probe:
        probe.settimeout(_WAIT_S)
        prepare(probe)
        probe.connect((address, 8080))
        probe.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return bool(probe.recv(1000))


def _datagram(address: str, prepare: Callable[[socket.socket], None], *, says_device: bool = False) -> bool:
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.settimeout(_WAIT_S)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        prepare(probe)
        info = struct.pack("I4s4s", socket.if_nametoindex(DEVICE), b"\0" * 4, b"\0" * 4)
        extra = [(socket.IPPROTO_IP, _IP_PKTINFO, info)] if says_device else []
        probe.sendmsg([b"x"], extra, 0, (address, 8080))
        return bool(probe.recv(1000))


WAYS: dict[str, Callable[[str], bool]] = {
    "stream": lambda address: _stream(address, lambda probe: None),
    "stream-bound": lambda address: _stream(address, _bind),
    "stream-dontroute": lambda address: _stream(address, _bind_and_do_not_route),
    "datagram": lambda address: _datagram(address, lambda probe: None),
    "datagram-bound": lambda address: _datagram(address, _bind),
    "datagram-dontroute": lambda address: _datagram(address, _bind_and_do_not_route),
    "datagram-unicast-if": lambda address: _datagram(address, _unicast_if),
    "datagram-pktinfo": lambda address: _datagram(address, lambda probe: None, says_device=True),
}


def _try(address: str, way: str) -> str:
    with contextlib.suppress(OSError):
        if WAYS[way](address):
            return f"{address} {way}"
    return ""


if __name__ == "__main__":
    tries = [(address, way) for address in sys.argv[2:] for way in WAYS]
    with ThreadPoolExecutor(len(tries)) as pool:
        for line in filter(None, pool.map(lambda each: _try(*each), tries)):
            print(line)
