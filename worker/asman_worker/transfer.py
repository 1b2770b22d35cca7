"""Bytes to and from the server and the web, streamed: memory stays flat whatever the size.

Downloads that a job names go out from this machine, where the job itself may not: so addresses that are not public
are refused for them, checked on each address that is really connected to, redirects included. The server's own
address is exempt, and so is whatever it redirects to: it may well be on this network. A server has more names than the
one that this worker knows (``localhost``, a proxy's): an address that names content by its hash, as links to its blobs
do, is asked for at the server first.

Connection errors and 5xx answers are tried again with a growing pause; other refusals are final and say why.

Source: contract, "Inputs" (downloads) and "Outputs" (uploads), promise W2.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import random
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import IO, Any, TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from asman.errors import AsmanError, BadDefinition, HashMismatch, LimitExceeded, Unavailable, clip
from asman.units import show_bytes

__all__ = ["Transfer", "hash_in_url", "is_public"]

_CHUNK_BYTES = 1 << 20
_TRIES = 6
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_MOST_REDIRECTS = 10
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=120)
_REDIRECTS = (301, 302, 303, 307, 308)
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_NOT_PUBLIC = "is not at a public address"
_BLOB_PATH = re.compile(r"/f/([0-9a-f]{64})\Z")

T = TypeVar("T")


class _TryAgain(Exception):
    """This try failed in a way that another may not."""


def hash_in_url(url: str) -> str | None:
    """The sha256 that a blob address states (``.../f/<64 hex digits>``), else None."""
    found = _BLOB_PATH.search(url.partition("?")[0].partition("#")[0])
    return found[1] if found else None


def is_public(address: str) -> bool:
    """Is this IP address on the public internet? Addresses that carry an IPv4 address inside count as that one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None:
            return is_public(str(inner))
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _public_socket(info: Any) -> socket.socket:
    """Open a socket for a checked address. Errors: OSError for one that is not public."""
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise PermissionError(f"{address[0]} {_NOT_PUBLIC}")
    return socket.socket(family, kind, protocol)


class Transfer:
    """Up- and downloads of one job.

    Shape:  ``server_url`` has no slash at its end; ``private_addresses`` lets downloads reach this network;
            ``on_moved`` is told ``download`` or ``upload`` and the size of each file that was moved; ``tls`` is for
            downloads from elsewhere than the server.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        server_url: str,
        *,
        private_addresses: bool,
        on_moved: Callable[[str, int], None] = lambda direction, size: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._session = session
        self._server = URL(server_url)
        self._private_addresses = private_addresses
        self._on_moved = on_moved
        self._tls = tls

    def blob_url(self, key: str) -> str:
        return f"{str(self._server).rstrip('/')}/f/{quote(key, safe='')}"

    async def download(self, url: str, target: IO[bytes], *, limit_bytes: int, sha256: str | None = None) -> int:
        """Fetch into an open file, and answer with the size.

        Errors: BadDefinition for an address that is not http(s) or is refused; LimitExceeded; HashMismatch;
                Unavailable after the last try.
        """
        address = await self._nearest(_http_url(url))
        expected = sha256 or hash_in_url(url)

        async def once() -> int:
            target.seek(0)
            target.truncate()
            async with self._download_session(address) as session:
                return await _fetch(session, address, target, limit_bytes, expected)

        size = await _persist(once, f"download of {_shown(address)}")
        self._on_moved("download", size)
        return size

    async def _nearest(self, url: URL) -> URL:
        """The server's own copy of what an address names, else the address. The bytes are checked either way."""
        key = hash_in_url(str(url))
        if key is None or url.origin() == self._server.origin():
            return url
        own = URL(self.blob_url(key), encoded=True)
        return own if await _persist(lambda: self._exists(own), f"question for {_shown(own)}") else url

    def _download_session(self, url: URL) -> _Borrowed | aiohttp.ClientSession:
        if url.origin() == self._server.origin() or (self._private_addresses and self._tls is None):
            return _Borrowed(self._session)
        guard = None if self._private_addresses else _public_socket
        connector = aiohttp.TCPConnector(socket_factory=guard, limit=4, ssl=self._tls or True)
        return aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT, trust_env=False)

    async def upload(self, key: str, open_file: Callable[[], IO[bytes]], size: int) -> None:
        """Put a blob unless the server has it. ``open_file`` is called once for each try and each redirect.

        Errors: AsmanError if the server refuses it; Unavailable after the last try.
        """
        url = URL(self.blob_url(key), encoded=True)
        if not await _persist(lambda: self._exists(url), f"question for {_shown(url)}"):
            tries = iter(range(_TRIES))
            await _persist(lambda: self._put(url, open_file, size, next(tries)), f"upload to {_shown(url)}")
            self._on_moved("upload", size)

    async def _exists(self, url: URL) -> bool:
        async with self._session.get(url / "exists", timeout=_TIMEOUT) as answer:
            if answer.status in (200, 404):
                return answer.status == 200
            raise await _refusal(answer, "question for a blob")

    async def _put(self, url: URL, open_file: Callable[[], IO[bytes]], size: int, tried: int) -> None:
        """Redirects are followed here, since the body has to be read again for each.

        Every second try asks the server for permission first (``Expect``): one that redirects, or refuses, without
        reading the body may otherwise cut the connection before its answer is seen. Not every try does, because a
        server or a proxy that does not know the header would never give the permission.
        """
        for _ in range(_MOST_REDIRECTS):
            with open_file() as file:
                headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
                async with self._session.put(
                    url,
                    data=_read_chunks(file),
                    headers=headers,
                    allow_redirects=False,
                    expect100=tried % 2 == 1,
                    timeout=_TIMEOUT,
                ) as answer:
                    if 200 <= answer.status < 300:
                        return
                    if answer.status not in _REDIRECTS or "Location" not in answer.headers:
                        raise await _refusal(answer, f"upload of {show_bytes(size)}")
                    url = url.join(URL(answer.headers["Location"], encoded=True))
        raise Unavailable(f"the upload was redirected more than {_MOST_REDIRECTS} times")


class _Borrowed:
    """A session that is used here but closed by its owner."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def __aenter__(self) -> aiohttp.ClientSession:
        return self._session

    async def __aexit__(self, *error: object) -> None:
        return None


def _http_url(url: str) -> URL:
    try:
        address = URL(url)
    except ValueError as error:
        raise BadDefinition(f"{clip(url)} is not a URL") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise BadDefinition(f"{clip(url)} is not an http or https address")
    return address


def _shown(url: URL) -> str:
    """For messages: without credentials and without a query, which may hold a signature."""
    return clip(str(url.with_user(None).with_query(None)), 200)


async def _persist(once: Callable[[], Awaitable[T]], what: str) -> T:
    """Try until it works, a few times. Errors: Unavailable, with the last cause."""
    pause_s = _FIRST_PAUSE_S
    for tries_left in reversed(range(_TRIES)):
        try:
            return await once()
        except (_TryAgain, aiohttp.ClientError, TimeoutError) as error:
            if _is_refused(error):
                raise BadDefinition(
                    f"{what} is refused: it {_NOT_PUBLIC}",
                    hint="Inputs come from public addresses or from the server; put the file into a blob instead.",
                ) from error
            if not tries_left:
                raise Unavailable(f"{what} failed {_TRIES} times, last: {_reason(error)}") from error
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
    raise AssertionError("unreachable")


def _is_refused(error: BaseException) -> bool:
    """Was it our own guard that stopped the connection?"""
    return isinstance(error, aiohttp.ClientConnectorError) and _NOT_PUBLIC in str(error.os_error)


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def _fetch(
    session: aiohttp.ClientSession, url: URL, target: IO[bytes], limit_bytes: int, expected: str | None
) -> int:
    headers = {"Accept-Encoding": "identity"}
    async with session.get(url, headers=headers, timeout=_TIMEOUT, max_redirects=_MOST_REDIRECTS) as answer:
        if answer.status != 200:
            raise await _refusal(answer, f"download of {_shown(url)}")
        size, digest = 0, hashlib.sha256()
        async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
            size += len(chunk)
            if size > limit_bytes:
                raise LimitExceeded(f"{_shown(url)} is larger than the {show_bytes(limit_bytes)} left for inputs")
            digest.update(chunk)
            await asyncio.to_thread(target.write, chunk)
    target.flush()
    if expected is not None and digest.hexdigest() != expected:
        raise HashMismatch(f"{_shown(url)} has the sha256 {digest.hexdigest()}, expected was {expected}")
    return size


async def _refusal(answer: aiohttp.ClientResponse, what: str) -> Exception:
    """What to raise for an answer that is not the one hoped for."""
    try:
        text = (await answer.content.read(2000)).decode("utf-8", "replace").strip()
    except aiohttp.ClientError:
        text = ""
    message = f"{what}: the answer was {answer.status} {answer.reason or ''}".rstrip()
    if answer.status in _AGAIN:
        return _TryAgain(message)
    refusal = AsmanError(f"{message}{f': {clip(text, 300)}' if text else ''}")
    refusal.code = "transfer_refused"
    return refusal


async def _read_chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
        yield chunk
