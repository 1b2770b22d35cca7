"""The S3 blob store takes the whole exam on two makes of store; what it promises beyond that stands below."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import urllib.error
import urllib.request
from email.message import Message

import pytest

from asman.errors import BadName, Conflict
from asman.testing import BlobStoreKit, chunked, joined
from asman_s3.blobs import S3BlobStore
from asman_s3.place import parse_place
from s3_server import S3Server

FAR = 4_000_000_000.0
MIB = 1 << 20


class _Exam(BlobStoreKit):
    durable = True
    shared = True
    memory_bytes = 24 * MIB

    async def open_store(self) -> S3BlobStore:
        return S3BlobStore(parse_place(self.server.url(self.bucket, "some/prefix")))


class TestS3BlobStore(_Exam):
    @pytest.fixture(autouse=True)
    def _bucket(self, aws: S3Server) -> None:
        self.server, self.bucket = aws, aws.bucket()


class TestS3BlobStoreOnSwift(_Exam):
    """It knows no ``If-None-Match``, so this is the exam of the other path as well.

    Left out is what depends on our code alone, which the other store has examined: the suite must stay quick.
    """

    test_range_is_what_a_slice_is = None
    test_nasty_keys_are_kept_apart = None
    test_chunk_boundaries_do_not_matter = None
    test_empty_chunks_are_harmless = None
    test_upload_above_the_limit_is_not_read_to_its_end = None
    test_a_large_blob_passes_through_little_memory = None
    test_extending_many_times_at_once_ends_with_the_latest = None
    test_the_store_is_a_blob_store = None

    @pytest.fixture(autouse=True)
    def _bucket(self, swift: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        swift.as_environment(monkeypatch)
        self.server, self.bucket = swift, swift.bucket()


# --- beyond the exam -------------------------------------------------------------------------------------------------


def content(size_bytes: int) -> tuple[str, bytes]:
    data = os.urandom(size_bytes)
    return hashlib.sha256(data).hexdigest(), data


def send(method: str, url: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes, Message]:
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


@pytest.mark.parametrize("key", ["", ".", "..", ".x", "../x", "a/b", "a\x00b", "a\n", "ä", "x" * 201, "a b"])
async def test_key_that_is_none_is_refused_before_anything_happens(aws: S3Server, key: str) -> None:
    bucket = aws.bucket()
    async with S3BlobStore(parse_place(aws.url(bucket))) as store:
        calls = [
            store.put(key, chunked(b"x"), expires_at=FAR),
            store.get(key),
            store.stat(key),
            store.extend(key, FAR),
            store.delete(key),
            store.signed_get_url(key, valid_s=60, content_type="a/b", disposition="inline"),
            store.signed_put_url(key, valid_s=60, size_bytes=1, expires_at=FAR),
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [BadName] * len(calls)
    assert "Contents" not in aws.client().list_objects_v2(Bucket=bucket)


async def test_bucket_in_the_host_works_as_well_as_in_the_path(aws: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names below ``localhost`` are this machine; not every resolver knows that, so the test's own is told."""
    bucket, port = aws.bucket(), aws.endpoint.rpartition(":")[2]
    resolve = socket.getaddrinfo
    asked = []

    def here(host: str, *more: object, **how: object) -> object:
        asked.append(host)
        return resolve("127.0.0.1" if str(host).endswith(".localhost") else host, *more, **how)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    key, data = content(9 * MIB)
    async with S3BlobStore(parse_place(f"s3://{bucket}?endpoint=http://localhost:{port}&style=virtual")) as store:
        await store.put(key, chunked(data), expires_at=FAR)
        assert await joined(await store.get(key)) == data
        url = await store.signed_get_url("key", valid_s=60, content_type="text/plain", disposition="inline")
    assert url.startswith(f"http://{bucket}.localhost:{port}/blobs/key?")
    assert set(asked) == {f"{bucket}.localhost"}


async def test_signed_download_has_the_forced_type_and_name_whatever_the_uploader_said(
    swift: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    swift.as_environment(monkeypatch)
    key, data = content(2 * MIB)
    bucket = swift.bucket()
    swift.client().put_object(Bucket=bucket, Key=f"blobs/{key}", Body=data, ContentType="text/html")
    async with S3BlobStore(parse_place(swift.url(bucket))) as store:
        forced = {"content_type": "application/octet-stream", "disposition": 'attachment; filename="a.bin"'}
        url = await store.signed_get_url(key, valid_s=60, **forced)
    status, body, headers = await asyncio.to_thread(send, "GET", url)
    assert (status, body) == (200, data)
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"] == 'attachment; filename="a.bin"'
    status, body, _ = await asyncio.to_thread(send, "GET", url, Range="bytes=5-9")
    assert (status, body) == (206, data[5:10])
    assert (await asyncio.to_thread(send, "GET", url.replace("octet-stream", "javascript")))[0] == 403
    assert (await asyncio.to_thread(send, "PUT", url, b"x"))[0] == 403


async def test_signed_upload_takes_the_stated_size_only_and_has_an_end(
    swift: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    swift.as_environment(monkeypatch)
    key, data = content(50_000)
    async with S3BlobStore(parse_place(swift.url(swift.bucket()))) as store:
        url = await store.signed_put_url(key, valid_s=60, size_bytes=len(data), expires_at=1_500.0)
        assert await store.stat(key) is None
        assert (await asyncio.to_thread(send, "PUT", url, data + b"x"))[0] == 403
        assert await store.stat(key) is None
        assert (await asyncio.to_thread(send, "PUT", url, data))[0] == 200
        info = await store.stat(key)
        assert info is not None
        assert (info.size_bytes, info.sha256, info.expires_at) == (len(data), "", 1_500.0)
        assert await store.prune(1_501.0) == 1


async def test_no_signed_address_is_valid_for_longer_than_15_minutes(aws: S3Server) -> None:
    async with S3BlobStore(parse_place(aws.url(aws.bucket()))) as store:
        url = await store.signed_get_url("key", valid_s=999_999, content_type="a/b", disposition="inline")
        assert "X-Amz-Expires=900&" in url


async def test_signed_addresses_carry_the_public_name(aws: S3Server) -> None:
    bucket = aws.bucket()
    async with S3BlobStore(parse_place(aws.url(bucket, public_endpoint="https://files.example.org"))) as store:
        url = await store.signed_get_url("key", valid_s=60, content_type="a/b", disposition="inline")
        assert url.startswith(f"https://files.example.org/{bucket}/blobs/key?")
        assert await store.stat("key") is None


@pytest.mark.parametrize("size_bytes", [100, 9 * MIB])
async def test_what_nobody_checked_is_replaced_by_what_was_checked(aws: S3Server, size_bytes: int) -> None:
    bucket = aws.bucket()
    key, data = content(size_bytes)
    async with S3BlobStore(parse_place(aws.url(bucket))) as store:
        await store.signed_put_url(key, valid_s=60, size_bytes=5, expires_at=FAR + 50)
        aws.client().put_object(Bucket=bucket, Key=f"blobs/{key}", Body=b"wrong")
        info = await store.put(key, chunked(data), expires_at=FAR, sha256=key)
        assert (info.size_bytes, info.expires_at) == (size_bytes, FAR + 50)
        assert await store.stat(key) == info
        assert await joined(await store.get(key)) == data


async def test_free_key_whose_sha256_is_not_known_is_compared_by_reading(aws: S3Server) -> None:
    bucket = aws.bucket()
    aws.client().put_object(Bucket=bucket, Key="blobs/free", Body=b"some bytes")
    async with S3BlobStore(parse_place(aws.url(bucket))) as store:
        await store.put("free", chunked(b"some bytes"), expires_at=FAR)
        with pytest.raises(Conflict):
            await store.put("free", chunked(b"same size!"), expires_at=FAR)
