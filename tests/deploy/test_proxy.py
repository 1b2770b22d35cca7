"""nginx and Caddy, as ``deploy/proxy`` configures them, before a real server."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from processes import eventually
from proxies import PROXIES, Proxy
from served import Story, served, telling_worker

pytestmark = pytest.mark.slow

MIB = 1 << 20
JOB = {"definition": {"image": "alpine:3.19.1", "command": "echo hello"}}


@dataclass(frozen=True)
class Site:
    proxy: Proxy
    data: Path

    @property
    def trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def connection(self, source: str = "127.0.0.1") -> http.client.HTTPConnection:
        place = {"host": "127.0.0.1", "port": self.proxy.port, "timeout": 60, "source_address": (source, 0)}
        if self.proxy.is_tls:
            return http.client.HTTPSConnection(**place, context=self.trust)  # type: ignore[arg-type]
        return http.client.HTTPConnection(**place)  # type: ignore[arg-type]

    def ask(self, method: str, path: str, body: bytes | None = None, source: str = "127.0.0.1") -> tuple[int, bytes]:
        with contextlib.closing(self.connection(source)) as connection:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def raw(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.proxy.port), timeout=30)
        return self.trust.wrap_socket(plain) if self.proxy.is_tls else plain


@pytest.fixture(scope="module", params=list(PROXIES))
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("proxy")
    more = {"ASMAN_PROFILE": "public", "ASMAN_PROXIES": "1", "ASMAN_PUBLIC_URL": "https://compute.example.org"}
    with served("--data", str(data), cwd=data, **more) as server:
        with PROXIES[request.param](int(server.url.rpartition(":")[2]), folder) as proxy:
            yield Site(proxy, data)


async def test_a_job_goes_through_submit_worker_and_stream(site: Site) -> None:
    """Both kinds of sockets and the events pass, and no event waits for the next."""
    queue, release = "through-the-proxy", asyncio.Event()
    story = Story(lines=[("running", "hello\n", False)])
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=site.trust)) as session:
        async with (
            _worker(site, queue, story, release),
            session.ws_connect(f"{site.proxy.url}/q/{queue}/client", compress=15) as follower,
        ):
            async with session.post(f"{site.proxy.url}/q/{queue}", json=JOB) as answer:
                assert answer.status in (200, 201, 202)
                job = (await answer.json())["jobId"]
            async with session.get(f"{site.proxy.url}/q/{queue}/j/{job}/stream") as stream:
                seen = b""
                async with asyncio.timeout(20):
                    while b"hello" not in seen:
                        seen += await stream.content.readany()
                    release.set()
                    while b"Finished" not in seen:
                        seen += await stream.content.readany()
                    while "Finished" not in (await follower.receive_str()):
                        pass
    assert follower.compress == 0, "the extension for compressed frames reached the server"


@contextlib.asynccontextmanager
async def _worker(site: Site, queue: str, story: Story, until: asyncio.Event):  # type: ignore[no-untyped-def]
    """The telling worker trusts no certificate of ours, so it goes by a plain port that leads to the proxy."""
    if not site.proxy.is_tls:
        async with telling_worker(site.proxy.url, queue, lambda _: story, until=until):
            yield
        return
    pipes: set[asyncio.Task[None]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(MIB):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", site.proxy.port, ssl=site.trust)
        pipes.update(asyncio.create_task(pipe(*ends)) for ends in ((reader, back), (there, writer)))

    listener = await asyncio.start_server(lead, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        async with telling_worker(f"http://127.0.0.1:{port}", queue, lambda _: story, until=until):
            yield
    finally:
        listener.close()
        for task in pipes:
            task.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)


def test_300_mb_go_through_without_being_kept_on_the_way(site: Site) -> None:
    piece, pieces = os.urandom(MIB), 300
    digest = hashlib.sha256(piece * pieces).hexdigest()
    with contextlib.closing(site.connection()) as connection:
        connection.putrequest("PUT", f"/f/{digest}")
        connection.putheader("Content-Length", str(pieces * MIB))
        connection.endheaders()
        for count in range(pieces):
            connection.send(piece)
            if count == pieces // 2:
                eventually("the first half reaches the server", lambda: _stored_bytes(site.data) > 100 * MIB)
                assert site.proxy.scratch is None or _stored_bytes(site.proxy.scratch) == 0
        assert connection.getresponse().read().startswith(b"{")
    with contextlib.closing(site.connection()) as connection:
        connection.request("GET", f"/f/{digest}")
        answer, got = connection.getresponse(), hashlib.sha256()
        while data := answer.read(MIB):
            got.update(data)
    assert got.hexdigest() == digest


def _stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_large_document_is_refused_and_a_large_file_is_not(site: Site) -> None:
    body = json.dumps({**JOB, "filler": "x" * (2 * MIB)}).encode()
    assert site.ask("POST", "/q/large", body)[0] == 413
    data = os.urandom(2 * MIB)
    assert site.ask("PUT", f"/f/{hashlib.sha256(data).hexdigest()}", data)[0] == 200


def test_a_request_whose_headers_drip_in_is_cut(site: Site) -> None:
    with site.raw() as caller:
        caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: compute.example.org\r\n")
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while caller.recv(4096):
                pass
    assert time.monotonic() - began < 10


def test_headers_of_more_than_is_allowed_are_refused(site: Site) -> None:
    with site.raw() as caller:
        caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: compute.example.org\r\nX-Long: " + b"a" * 40_000 + b"\r\n\r\n")
        assert caller.recv(4096).split(b" ")[1] in (b"400", b"431")


def test_numbers_of_the_server_are_shown_to_its_owner_only(site: Site) -> None:
    assert b"asman_jobs" in site.ask("GET", "/metrics")[1]
    status, text = site.ask("GET", "/metrics", source="127.0.0.2")
    assert status in (403, 404)
    assert b"asman_jobs" not in text


def test_a_caller_cannot_invent_its_address(site: Site) -> None:
    """The public profile allows 120 submits at once for each address; claiming others does not help."""
    answers = []
    with contextlib.closing(site.connection("127.0.0.9")) as connection:
        for number in range(125):
            job = {"definition": {"image": "alpine:3.19.1", "command": f"echo {number}"}}
            headers = {"Content-Type": "application/json", "X-Forwarded-For": f"203.0.113.{number}"}
            connection.request("POST", "/q/invented", json.dumps(job), headers)
            answer = connection.getresponse()
            answer.read()
            answers.append(answer.status)
    assert 429 in answers


def test_nothing_that_is_logged_names_a_queue(site: Site) -> None:
    site.ask("GET", "/q/a-name-that-is-a-key/status")
    eventually("the request is logged", lambda: not site.proxy.is_tls or "/q/-" in site.proxy.log.read_text())
    logs = [path.read_text(errors="replace") for path in site.proxy.log.parent.glob("*log*") if path.is_file()]
    assert [text for text in logs if "a-name-that-is-a-key" in text] == []


async def test_nginx_refuses_the_101st_connection_of_an_address(site: Site) -> None:
    if not site.proxy.is_tls:
        pytest.skip("stock Caddy does not count connections; its README says so")
    connector = aiohttp.TCPConnector(ssl=site.trust, limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, contextlib.AsyncExitStack() as stack:
        url = f"{site.proxy.url}/q/many-sockets/client"
        for _ in range(10):
            sockets = [stack.enter_async_context(session.ws_connect(url)) for _ in range(10)]
            await asyncio.gather(*sockets)
        async with session.get(f"{site.proxy.url}/healthz") as answer:
            assert answer.status == 429
        assert await asyncio.to_thread(site.ask, "GET", "/healthz", None, "127.0.0.2") == (200, b"OK")
    eventually("there is room again", lambda: site.ask("GET", "/healthz")[0] == 200)
