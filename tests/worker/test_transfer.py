"""Up- and downloads against a real server on a socket."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

import asman_worker.transfer as transfer_module
from asman.errors import AsmanError, BadDefinition, HashMismatch, LimitExceeded, Unavailable
from asman_worker.transfer import Transfer, hash_in_url, is_public
from worker_blobs import BlobServer

LIMIT = 1 << 30


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_module, "_FIRST_PAUSE_S", 0.01)


@pytest.fixture
async def blobs() -> AsyncIterator[BlobServer]:
    async with BlobServer() as server:
        yield server


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
def transfer(session: aiohttp.ClientSession, blobs: BlobServer) -> Transfer:
    return Transfer(session, blobs.url, private_addresses=False)


async def test_a_download_arrives_whole(transfer: Transfer, blobs: BlobServer, tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000
    key = blobs.add(content)
    with (tmp_path / "x").open("wb") as target:
        assert await transfer.download(transfer.blob_url(key), target, limit_bytes=LIMIT) == len(content)
    assert (tmp_path / "x").read_bytes() == content


async def test_a_download_that_is_not_what_its_address_says_is_refused(transfer: Transfer, blobs: BlobServer) -> None:
    key = "0" * 64
    blobs.blobs[key] = b"something else"
    with pytest.raises(HashMismatch, match=key):
        await transfer.download(transfer.blob_url(key), io.BytesIO(), limit_bytes=LIMIT)
    assert blobs.count("GET") == 1


async def test_a_stated_hash_is_checked(transfer: Transfer, blobs: BlobServer) -> None:
    blobs.blobs["plain"] = b"data"
    url = transfer.blob_url("plain")
    good = hashlib.sha256(b"data").hexdigest()
    assert await transfer.download(url, io.BytesIO(), limit_bytes=LIMIT, sha256=good) == 4
    with pytest.raises(HashMismatch):
        await transfer.download(url, io.BytesIO(), limit_bytes=LIMIT, sha256="1" * 64)


async def test_a_download_above_the_limit_is_stopped(transfer: Transfer, blobs: BlobServer) -> None:
    key = blobs.add(b"x" * 5000)
    with pytest.raises(LimitExceeded, match="larger"):
        await transfer.download(transfer.blob_url(key), io.BytesIO(), limit_bytes=4999)


async def test_server_faults_are_tried_again(transfer: Transfer, blobs: BlobServer) -> None:
    key, target = blobs.add(b"data"), io.BytesIO()
    blobs.fail_next = 3
    assert await transfer.download(transfer.blob_url(key), target, limit_bytes=LIMIT) == 4
    assert target.getvalue() == b"data"
    assert blobs.count("GET") == 4


async def test_a_server_that_stays_away_is_given_up(transfer: Transfer, blobs: BlobServer) -> None:
    blobs.fail_next = 100
    with pytest.raises(Unavailable, match="503"):
        await transfer.download(transfer.blob_url("k"), io.BytesIO(), limit_bytes=LIMIT)
    assert blobs.count("GET") == 6


async def test_a_refusal_is_final_and_says_why(transfer: Transfer, blobs: BlobServer) -> None:
    with pytest.raises(AsmanError, match=r"404.*no such blob"):
        await transfer.download(transfer.blob_url("k"), io.BytesIO(), limit_bytes=LIMIT)
    assert blobs.count("GET") == 1


async def test_a_broken_download_starts_anew(transfer: Transfer, blobs: BlobServer) -> None:
    target = io.BytesIO()
    assert await transfer.download(f"{blobs.url}/short", target, limit_bytes=LIMIT) == 10
    assert target.getvalue() == b"1234567890"


async def test_redirects_of_the_server_are_followed(transfer: Transfer, blobs: BlobServer) -> None:
    key = blobs.add(b"data")
    assert await transfer.download(f"{blobs.url}/to?where=/f/{key}", io.BytesIO(), limit_bytes=LIMIT) == 4


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b", "/f/x", "http://", "nonsense", "http://[::1"])
async def test_only_http_addresses_are_fetched(transfer: Transfer, url: str) -> None:
    with pytest.raises(BadDefinition, match="is not a"):
        await transfer.download(url, io.BytesIO(), limit_bytes=LIMIT)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "127.1", "2130706433", "[::ffff:127.0.0.1]"]
)
async def test_a_job_cannot_reach_this_network_through_its_inputs(
    session: aiohttp.ClientSession, blobs: BlobServer, host: str
) -> None:
    port = blobs.url.rpartition(":")[2]
    async with BlobServer() as own:
        guarded = Transfer(session, own.url, private_addresses=False)
        for name in (blobs.add(b"x"), "private"):
            with pytest.raises(AsmanError):
                await guarded.download(f"http://{host}:{port}/f/{name}", io.BytesIO(), limit_bytes=LIMIT)
    assert blobs.asked == []


async def test_the_owner_may_open_this_network_to_inputs(session: aiohttp.ClientSession, blobs: BlobServer) -> None:
    async with BlobServer() as own:
        open_to_all = Transfer(session, own.url, private_addresses=True)
        assert await open_to_all.download(f"{blobs.url}/f/{blobs.add(b'x')}", io.BytesIO(), limit_bytes=LIMIT) == 1


@pytest.mark.parametrize("place", ["http://localhost:1", "http://10.0.0.1", "https://asman.example/below"])
async def test_a_blob_of_the_server_is_had_by_any_of_its_names(
    transfer: Transfer, blobs: BlobServer, place: str
) -> None:
    """A page opened as localhost names what it uploaded so; the worker knows the server by another name."""
    key, target = blobs.add(b"data"), io.BytesIO()
    assert await transfer.download(f"{place}/f/{key}", target, limit_bytes=LIMIT) == 4
    assert target.getvalue() == b"data"
    assert blobs.asked == [("GET", f"/f/{key}/exists"), ("GET", f"/f/{key}")]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
        ("ff02::1", False),
    ],
)
def test_addresses_are_told_apart(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_what_was_moved_is_told_once_it_is_whole(session: aiohttp.ClientSession, blobs: BlobServer) -> None:
    moved: list[tuple[str, int]] = []
    counted = Transfer(session, blobs.url, private_addresses=False, on_moved=lambda *what: moved.append(what))
    await counted.download(counted.blob_url(blobs.add(b"12345")), io.BytesIO(), limit_bytes=LIMIT)
    with pytest.raises(LimitExceeded):
        await counted.download(counted.blob_url(blobs.add(b"123456")), io.BytesIO(), limit_bytes=5)
    for _ in range(2):
        await counted.upload(hashlib.sha256(b"abc").hexdigest(), lambda: io.BytesIO(b"abc"), 3)
    assert moved == [("download", 5), ("upload", 3)], "what the server has already is not sent"


async def test_an_upload_is_stored_once(transfer: Transfer, blobs: BlobServer) -> None:
    content = b"abc" * 1_000_000
    key = hashlib.sha256(content).hexdigest()
    await transfer.upload(key, lambda: io.BytesIO(content), len(content))
    assert blobs.blobs[key] == content
    await transfer.upload(key, lambda: io.BytesIO(content), len(content))
    assert blobs.count("PUT") == 1


@pytest.mark.parametrize("status", [302, 307, 308])
async def test_an_upload_keeps_its_method_and_body_over_redirects(
    transfer: Transfer, blobs: BlobServer, status: int
) -> None:
    blobs.redirect_puts = status
    content = b"x" * 3_000_000
    key = hashlib.sha256(content).hexdigest()
    await transfer.upload(key, lambda: io.BytesIO(content), len(content))
    assert blobs.blobs[key] == content


async def test_an_upload_is_tried_again_after_faults(transfer: Transfer, blobs: BlobServer) -> None:
    blobs.fail_next = 3
    key = hashlib.sha256(b"data").hexdigest()
    await transfer.upload(key, lambda: io.BytesIO(b"data"), 4)
    assert blobs.blobs[key] == b"data"


async def test_an_upload_that_the_server_refuses_says_why(transfer: Transfer, blobs: BlobServer) -> None:
    with pytest.raises(AsmanError, match=r"422.*do not match"):
        await transfer.upload("0" * 64, lambda: io.BytesIO(b"data"), 4)
    assert blobs.count("PUT") == 1


def test_blob_addresses_state_their_hash() -> None:
    key = "a" * 64
    assert hash_in_url(f"https://h/f/{key}") == key
    assert hash_in_url(f"https://h/f/{key}?sig=1#x") == key
    assert hash_in_url(f"https://h/f/{key}/exists") is None
    assert hash_in_url("https://h/f/short") is None


def test_messages_never_show_credentials() -> None:
    shown = transfer_module._shown(transfer_module._http_url("https://user:secret@h/p?token=secret"))
    assert "secret" not in shown
