"""Where sources come from: a host whose addresses are checked, and the credential for it.

Addresses come from strangers and are reached from the owner's machine. So each address of a host is checked before
anything is sent there, again for each redirect, and whoever connects afterwards is told which addresses those were: a
second look-up could give others. Redirects are followed here, one by one; a credential does not go along to another
host.

Source: gitprotocol-http(5), "Smart Clients"; contract, "Image build", "Context".
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from asman.errors import AsmanError, BadDefinition, Unavailable
from asman_worker.recipe import GitContext, shown_url
from asman_worker.transfer import is_public

__all__ = ["Credential", "Reach", "Remote", "SourceFailed"]

_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_ASK = "/info/refs?service=git-upload-pack"
_ADVERTISEMENT = "application/x-git-upload-pack-advertisement"
_PAUSES_S = (0.5, 2.0)
_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=30)


class SourceFailed(AsmanError):
    """The sources of an image cannot be had: no such repository, ref or file, or no access."""

    status = 422
    code = "source_unavailable"
    hint = "Check build.context: the address, the branch, tag or commit, and whether this worker may read it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a host wants to see. Never shown: its ``repr`` is empty, and ``hide`` takes it out of a text."""

    user: str = ""
    password: str = ""

    @classmethod
    def read(cls, text: str) -> Credential:
        """From ``user:password``, or a token alone."""
        user, colon, password = text.strip().partition(":")
        return cls(user=user, password=password) if colon else cls(user="x-access-token", password=user)

    def __repr__(self) -> str:
        return "Credential()"

    def __bool__(self) -> bool:
        return bool(self.password or self.user)

    @property
    def header(self) -> str:
        return f"Basic {base64.b64encode(f'{self.user}:{self.password}'.encode()).decode()}"

    def hide(self, text: str) -> str:
        """The text without it, in each form in which it may have been sent."""
        if not self:
            return text
        forms = (self.header.removeprefix("Basic "), self.password, quote(self.password, safe=""))
        for form in forms:
            text = text.replace(form, "***") if form else text
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A repository that may be talked to. Shape: ``addresses`` are those that were checked; none for a literal one."""

    url: str
    addresses: tuple[str, ...] = ()
    credential: Credential = Credential()

    @property
    def pin(self) -> str:
        """In the form of curl's ``CURLOPT_RESOLVE``; empty if there is nothing to pin."""
        parts = urlsplit(self.url)
        if not self.addresses or not parts.hostname:
            return ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        shown = ",".join(f"[{address}]" if ":" in address else address for address in self.addresses)
        return f"{parts.hostname}:{port}:{shown}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What the owner lets sources be fetched from.

    Shape:  ``server_url`` is the queue's server, reached whatever its address; ``ca_file`` is trusted instead of the
            system's certificates.
    """

    private_addresses: bool
    server_url: str
    ca_file: Path | None = None

    def is_ours(self, url: str) -> bool:
        """Is it the server's?"""
        return _origin(url) == _origin(self.server_url)

    def check_scheme(self, url: str) -> None:
        """Errors: BadDefinition for what is not https, where the owner did not open this network."""
        scheme = urlsplit(url).scheme
        if scheme == "https" or (scheme == "http" and (self.private_addresses or self.is_ours(url))):
            return
        raise BadDefinition(f"build.context {shown_url(url)} is not an https address", hint="Use https.")

    def tls(self) -> ssl.SSLContext | None:
        """How to check certificates; None for the usual way."""
        return ssl.create_default_context(cafile=self.ca_file) if self.ca_file is not None else None

    async def repository(self, context: GitContext, credential: Credential) -> Remote | None:
        """Where the repository really is, its addresses checked; None for what may be an archive instead.

        Errors: SourceFailed, BadDefinition, Unavailable.
        """
        url = context.url
        for _ in range(_MOST_REDIRECTS):
            self.check_scheme(url)
            remote = Remote(url=url, addresses=await self._addresses(url), credential=credential)
            onward = await self._persist(remote, may_be_archive=context.may_be_archive)
            if isinstance(onward, bool):
                return remote if onward else None
            if credential and _origin(onward) != _origin(url):
                raise SourceFailed(
                    f"{shown_url(url)} redirects to {shown_url(onward)}, where the secret is not sent",
                    hint="Name the new address in build.context, and have the owner allow the secret there.",
                )
            url = onward
        raise SourceFailed(f"{shown_url(context.url)} redirects more than {_MOST_REDIRECTS} times")

    async def _persist(self, remote: Remote, *, may_be_archive: bool) -> str | bool:
        """Ask, and ask again where it may help. Errors: as `repository`."""
        for pause_s in _PAUSES_S:
            try:
                return await self._ask(remote, may_be_archive=may_be_archive)
            except Unavailable:
                await asyncio.sleep(pause_s)
        return await self._ask(remote, may_be_archive=may_be_archive)

    async def _ask(self, remote: Remote, *, may_be_archive: bool) -> str | bool:
        """Is there a repository? An address, if the answer is to ask there. Source: gitprotocol-http(5)."""
        headers = {"Git-Protocol": "version=2", "User-Agent": "git/asman"}
        if remote.credential:
            headers["Authorization"] = remote.credential.header
        try:
            async with self._session(remote) as session:
                async with session.get(remote.url + _ASK, headers=headers, allow_redirects=False) as answer:
                    status, kind = answer.status, answer.content_type
                    onward = answer.headers.get("Location", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = remote.credential.hide(str(error) or type(error).__name__)
            raise Unavailable(f"{shown_url(remote.url)} could not be reached: {reason}") from error
        if status == 200 and kind == _ADVERTISEMENT:
            return True
        if status in _REDIRECTS and (target := _repository_behind(remote.url, onward)):
            return target
        if may_be_archive:
            return False
        if status >= 500 or status == 429:
            raise Unavailable(f"{shown_url(remote.url)} answered {status}")
        raise SourceFailed(f"there is no repository at {shown_url(remote.url)}{_why(status, remote.credential)}")

    async def _addresses(self, url: str) -> tuple[str, ...]:
        """The addresses of the host, each of them allowed. Errors: BadDefinition, Unavailable."""
        _, host, port = _origin(url)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Unavailable(f"the host of {shown_url(url)} has no address: {error}") from error
        addresses = tuple(dict.fromkeys(str(info[4][0]) for info in found))
        if not self.private_addresses and not all(map(is_public, addresses)):
            raise BadDefinition(
                f"build.context {shown_url(url)} is refused: it is not at a public address",
                hint="Sources come from public addresses or from the server; put an archive into a blob instead.",
            )
        return () if _is_literal(host) else addresses

    @contextlib.asynccontextmanager
    async def _session(self, remote: Remote) -> AsyncIterator[aiohttp.ClientSession]:
        """A session for this host at its checked addresses, and for nothing else."""
        host = urlsplit(remote.url).hostname or ""
        connector = aiohttp.TCPConnector(resolver=_Pinned(host, remote.addresses), ssl=self.tls() or True)
        async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT, trust_env=False) as session:
            yield session


class _Pinned(AbstractResolver):
    """Answers for one host only, with addresses that were checked."""

    def __init__(self, host: str, addresses: tuple[str, ...]) -> None:
        self._host, self._addresses = host, addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host != self._host:
            raise OSError(f"{host} is not {self._host}")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        return None


def _why(status: int, credential: Credential) -> str:
    if status in (401, 403) or (status == 404 and credential):
        return f": the answer was {status}, {'the secret is not accepted' if credential else 'it may be private'}"
    return f": the answer was {status}" if status != 200 else ": nothing there speaks git's protocol"


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _repository_behind(url: str, location: str) -> str:
    """The repository to which an answer redirects; empty if it is to something else, or cannot be one."""
    try:
        target = urljoin(url + _ASK, location)
        parts = urlsplit(target)
        plain = parts.hostname is not None and "@" not in parts.netloc and (parts.port or 1) > 0
    except ValueError:
        return ""
    is_clean = target.isascii() and target.isprintable() and " " not in target
    return target.removesuffix(_ASK) if plain and is_clean and target.endswith(_ASK) else ""
