"""Webhooks against real sockets: a receiver of this test's own, the system's resolver for literal addresses, and a
resolver of names that answers what a hostile DNS server would."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import httpcore
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

import asman_webhooks
from asman.abc import Delivery
from asman.config import Config
from asman.errors import ConfigError, Unprocessable
from asman.plugins import load_plugins, open_deliverer
from asman_webhooks.deliver import HttpDeliverer
from asman_webhooks.guard import Guard, is_allowed, is_public, read_networks

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
LOOPBACK = read_networks(("127.0.0.0/8",))
BODY = json.dumps({"jobId": "a" * 64, "text": "grüße"}, ensure_ascii=False).encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@dataclass
class Call:
    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A web server on loopback that notes each call and answers with ``answer`` (None: never)."""

    answer: bytes | None = OK
    calls: list[Call] = field(default_factory=list)
    port: int = 0
    called: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str = "/hook?x=1", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *rest = head.split("\r\n")
        headers = dict(_header(entry) for entry in rest if entry)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.calls.append(Call(line, headers, body))
        self.called.set()
        if self.answer is None:
            await reader.read()
        else:
            writer.write(self.answer)
        writer.close()


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(": ")
    return name.lower(), value


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with await asyncio.start_server(receiver.serve, "127.0.0.1", 0) as server:
        receiver.port = server.sockets[0].getsockname()[1]
        yield receiver


class Dials(httpcore.AsyncNetworkBackend):
    """The system's network, with every dial noted."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.made.append((host, port))
        return await self._network.connect_tcp(host, port, timeout, local_address, socket_options)


def names(table: dict[str, Sequence[str]]) -> Callable[[str], Awaitable[Sequence[str]]]:
    """A name server with these names and no others."""

    async def resolve(host: str) -> Sequence[str]:
        if host not in table:
            raise OSError(-2, "Name or service not known")
        return table[host]

    return resolve


def delivery(url: str) -> Delivery:
    return Delivery(event_id="evt_0123456789abcdef", url=url, body=BODY, sent_at=time.time())


# --- a call ----------------------------------------------------------------------------------------------------------


async def test_a_call_posts_the_body_as_json_with_the_event_id(receiver: Receiver) -> None:
    assert await HttpDeliverer(guard=Guard(allow=LOOPBACK)).deliver(delivery(receiver.url()))
    (call,) = receiver.calls
    assert call.line == "POST /hook?x=1 HTTP/1.1"
    assert call.body == BODY
    assert call.headers["content-type"] == "application/json"
    assert call.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert call.headers["webhook-id"] == "evt_0123456789abcdef"
    assert "webhook-signature" not in call.headers


async def test_a_signed_call_is_verified_by_the_published_library(receiver: Receiver) -> None:
    assert await HttpDeliverer(guard=Guard(allow=LOOPBACK), secret=SECRET).deliver(delivery(receiver.url()))
    (call,) = receiver.calls
    assert Webhook(SECRET).verify(call.body, call.headers) == json.loads(BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(call.body + b" ", call.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(base64.b64encode(b"x" * 32).decode()).verify(call.body, call.headers)


async def test_every_try_of_an_event_carries_the_same_id(receiver: Receiver) -> None:
    deliverer, event = HttpDeliverer(guard=Guard(allow=LOOPBACK), secret=SECRET), delivery(receiver.url())
    assert await deliverer.deliver(event)
    assert await deliverer.deliver(event)
    assert len({call.headers["webhook-id"] for call in receiver.calls}) == 1


@pytest.mark.parametrize(
    ("status", "is_taken"),
    [(n, True) for n in (200, 201, 204, 299)] + [(n, False) for n in (301, 307, 400, 404, 410, 429, 500, 503)],
)
async def test_only_2xx_counts_as_taken(receiver: Receiver, status: int, is_taken: bool) -> None:
    receiver.answer = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()
    assert await HttpDeliverer(guard=Guard(allow=LOOPBACK)).deliver(delivery(receiver.url())) is is_taken


async def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    location = receiver.url("/elsewhere")
    receiver.answer = f"HTTP/1.1 307 X\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    assert not await HttpDeliverer(guard=Guard(allow=LOOPBACK)).deliver(delivery(receiver.url()))
    assert [call.line for call in receiver.calls] == ["POST /hook?x=1 HTTP/1.1"]


async def test_a_proxy_of_the_environment_is_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert await HttpDeliverer(guard=Guard(allow=LOOPBACK)).deliver(delivery(receiver.url()))


async def test_a_body_without_end_is_not_read(receiver: Receiver) -> None:
    receiver.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\nx"
    assert await HttpDeliverer(guard=Guard(allow=LOOPBACK), total_s=5.0).deliver(delivery(receiver.url()))


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000],
    ids=["no HTTP", "nothing", "half an answer", "a header without end"],
)
async def test_an_answer_that_is_none_is_no_delivery(receiver: Receiver, answer: bytes) -> None:
    receiver.answer = answer
    assert not await HttpDeliverer(guard=Guard(allow=LOOPBACK)).deliver(delivery(receiver.url()))


async def test_a_receiver_that_never_answers_ends_the_call_in_time(receiver: Receiver) -> None:
    receiver.answer = None
    deliverer = HttpDeliverer(guard=Guard(allow=LOOPBACK), total_s=0.2)
    async with asyncio.timeout(5.0):
        assert not await deliverer.deliver(delivery(receiver.url()))
    assert receiver.called.is_set()


async def test_informational_answers_without_end_do_not_prolong_the_call(receiver: Receiver) -> None:
    receiver.answer = b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50_000
    async with asyncio.timeout(5.0):
        assert not await HttpDeliverer(guard=Guard(allow=LOOPBACK), total_s=1.0).deliver(delivery(receiver.url()))


async def test_a_closed_port_is_no_delivery(unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}/"
    assert not await HttpDeliverer(guard=Guard(allow=LOOPBACK)).deliver(delivery(url))


async def test_an_unknown_name_is_no_delivery_and_may_be_tried_again() -> None:
    dials = Dials()
    guard = Guard(resolve=names({}), dial=dials)
    assert not await HttpDeliverer(guard=guard).deliver(delivery("https://nowhere.example/"))
    assert dials.made == []


@pytest.fixture
async def secure(receiver: Receiver, certificate: Path) -> AsyncIterator[Receiver]:
    """The receiver behind TLS, as hook.example."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=context) as server:
        receiver.port = server.sockets[0].getsockname()[1]
        yield receiver


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=hook.example"]
    command += ["-addext", "subjectAltName=DNS:hook.example", "-keyout", "-", "-out", "-"]
    file.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return file


NAMED = {"hook.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]}


async def test_https_needs_a_certificate_that_is_trusted(secure: Receiver) -> None:
    deliverer = HttpDeliverer(guard=Guard(allow=LOOPBACK, resolve=names(NAMED)))
    assert not await deliverer.deliver(delivery(f"https://hook.example:{secure.port}/"))
    assert secure.calls == []


async def test_https_checks_the_certificate_against_the_name_not_the_dialled_address(
    secure: Receiver, certificate: Path
) -> None:
    tls = ssl.create_default_context(cafile=certificate)
    deliverer = HttpDeliverer(guard=Guard(allow=LOOPBACK, resolve=names(NAMED)), tls=tls)
    assert await deliverer.deliver(delivery(f"https://hook.example:{secure.port}/"))
    assert not await deliverer.deliver(delivery(f"https://other.example:{secure.port}/"))
    assert len(secure.calls) == 1


# --- addresses that are refused --------------------------------------------------------------------------------------

LITERAL_HOSTS = [
    "127.0.0.1",
    "127.1",
    "127.255.255.254",
    "127.0.0.1.",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "127。0。0。1",
    "localhost",
    "localhost.",
    "LocalHost",
    "0.0.0.0",
    "0",
    "10.0.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::a00:1]",
    "[2002:7f00:1::1]",
    "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
    "[2001:db8::1]",
    "[2606:4700::200:5efe:7f00:1]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fd00:ec2::254]",
    "[ff02::1]",
]


@pytest.mark.parametrize("host", LITERAL_HOSTS)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_host_that_is_not_public_is_refused_and_never_dialled(scheme: str, host: str) -> None:
    dials = Dials()
    with pytest.raises(Unprocessable):
        await HttpDeliverer(guard=Guard(dial=dials)).deliver(delivery(f"{scheme}://{host}:8080/"))
    assert dials.made == []


PUBLIC = ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.1"],
        [*PUBLIC, "10.0.0.1"],
        ["10.0.0.1", *PUBLIC],
        [*PUBLIC, "::1"],
        [*PUBLIC, "::ffff:192.168.1.1"],
        [*PUBLIC, "169.254.169.254"],
        [PUBLIC[1], "64:ff9b::a00:1"],
        [PUBLIC[0], "fe80::1%lo"],
    ],
)
async def test_one_address_that_is_not_public_refuses_the_name(addresses: list[str]) -> None:
    dials = Dials()
    guard = Guard(resolve=names({"hook.example": addresses}), dial=dials)
    with pytest.raises(Unprocessable) as refused:
        await HttpDeliverer(guard=guard).deliver(delivery("http://hook.example/"))
    assert dials.made == []
    assert "hook.example" in refused.value.message
    assert not any(address in refused.value.message for address in addresses)


async def test_a_name_is_resolved_once_and_only_the_checked_address_is_dialled(receiver: Receiver) -> None:
    asked: list[str] = []

    async def rebinding(host: str) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    dials = Dials()
    guard = Guard(allow=LOOPBACK, resolve=rebinding, dial=dials)
    assert await HttpDeliverer(guard=guard).deliver(delivery(receiver.url(host="hook.example")))
    assert asked == ["hook.example"]
    assert dials.made == [("127.0.0.1", receiver.port)]
    assert receiver.calls[0].headers["host"] == f"hook.example:{receiver.port}"


async def test_a_second_address_is_dialled_when_the_first_is_closed(receiver: Receiver) -> None:
    dials = Dials()
    guard = Guard(allow=LOOPBACK, resolve=names({"hook.example": ["127.0.0.2", "127.0.0.1"]}), dial=dials)
    assert await HttpDeliverer(guard=guard).deliver(delivery(receiver.url(host="hook.example")))
    assert [host for host, _ in dials.made] == ["127.0.0.2", "127.0.0.1"]


async def test_an_allowed_network_opens_nothing_else(receiver: Receiver) -> None:
    dials = Dials()
    deliverer = HttpDeliverer(guard=Guard(allow=read_networks(("10.1.0.0/16",)), dial=dials))
    for host in ("127.0.0.1", "10.2.0.1", "[::1]"):
        with pytest.raises(Unprocessable):
            await deliverer.deliver(delivery(receiver.url(host=host)))
    assert dials.made == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://93.184.215.14/",
        "file:///etc/passwd",
        "gopher://93.184.215.14/",
        "unix:///var/run/docker.sock",
        "//93.184.215.14/",
        "http:///nohost",
        "http://",
        "",
        "http://user:pass@93.184.215.14/",
        "http://token@93.184.215.14/",
        "http://93.184.215.14:0/",
        "http://93.184.215.14:70000/",
        "http://93.184.215.14/a\r\nX-Evil: 1",
        "http://93.184.215.14/a b",
        "http://exa\x00mple/",
        "http://[::1/",
        "http://①②⑦.0.0.1/",
    ],
)
async def test_an_address_of_another_form_is_refused_and_never_dialled(url: str) -> None:
    dials = Dials()
    with pytest.raises(Unprocessable):
        await HttpDeliverer(guard=Guard(dial=dials)).deliver(delivery(url))
    assert dials.made == []


async def test_a_label_that_is_too_long_is_refused() -> None:
    dials = Dials()
    with pytest.raises(Unprocessable, match="not a host name"):
        await HttpDeliverer(guard=Guard(dial=dials)).deliver(delivery(f"http://{'a' * 70}.example/"))
    assert dials.made == []


async def test_a_socket_file_is_never_opened() -> None:
    with pytest.raises(Unprocessable):
        await Guard().connect_unix_socket("/var/run/docker.sock")


@pytest.mark.parametrize(
    "text", [*PUBLIC, "8.8.8.8", "100.63.255.255", "172.32.0.1", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_public_addresses_are_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", ["127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"])
def test_an_allowed_network_holds_for_the_wrapped_forms_too(text: str) -> None:
    assert is_allowed(ip_address(text), LOOPBACK)
    assert not is_allowed(ip_address(text), read_networks(("10.0.0.0/8",)))


# --- settings --------------------------------------------------------------------------------------------------------


def test_the_hook_makes_a_deliverer_from_the_settings() -> None:
    plugins = load_plugins([asman_webhooks], discover=False)
    assert isinstance(open_deliverer(plugins, Config(webhook_secret=SECRET)), HttpDeliverer)


async def test_the_settings_reach_the_call(receiver: Receiver) -> None:
    deliverer = open_deliverer(load_plugins(), Config(webhook_allow=("127.0.0.0/8",), webhook_secret=SECRET))
    assert deliverer is not None
    assert await deliverer.deliver(delivery(receiver.url()))
    assert Webhook(SECRET).verify(receiver.calls[0].body, receiver.calls[0].headers)


@pytest.mark.parametrize("network", ["10.0.0.1/8", "localhost", "10.0.0.0/33", "*"])
def test_a_network_that_cannot_be_read_stops_the_server(network: str) -> None:
    with pytest.raises(ConfigError, match="webhook_allow") as error:
        asman_webhooks.asman_deliverer(Config(webhook_allow=(network,)))
    assert network in error.value.message


@pytest.mark.parametrize(
    "secret", ["hunter2hunter2hunter2hunter2hunter2", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!!", SECRET + "AAAA" * 20]
)
def test_a_secret_that_cannot_be_used_stops_the_server_and_is_not_repeated(secret: str) -> None:
    with pytest.raises(ConfigError, match="webhook_secret") as error:
        asman_webhooks.asman_deliverer(Config(webhook_secret=secret))
    assert secret.removeprefix("whsec_") not in error.value.message or secret == "whsec_"


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "standardwebhooks", None)


@pytest.mark.usefixtures("without_the_extra")
def test_without_the_extra_the_hook_passes_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="asman_webhooks"):
        assert asman_webhooks.asman_deliverer(Config()) is None
    assert [record.getMessage() for record in caplog.records] == ["callbacks will be refused"]


@pytest.mark.usefixtures("without_the_extra")
@pytest.mark.parametrize("config", [Config(webhook_secret=SECRET), Config(webhook_allow=("10.0.0.0/8",))])
def test_webhook_settings_without_the_extra_stop_the_server(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"asman\[webhooks\]"):
        asman_webhooks.asman_deliverer(config)
