"""One upload by itself: parts, their limit, what is sent with them, what a store that knows less is sent."""

from __future__ import annotations

import hashlib
import os

import pytest

from asman.errors import BlobNotFound, LimitExceeded, Unavailable
from asman.testing import chunked, joined
from asman_s3 import upload
from asman_s3.blobs import S3BlobStore
from asman_s3.connection import open_client
from asman_s3.place import parse_place
from asman_s3.reading import open_chunks
from asman_s3.upload import AlreadyThere, Upload
from fault_proxy import Fault, error_body, fault_proxy
from s3_server import S3Server

FAR = 4_000_000_000.0
MIB = 1 << 20


async def test_chunks_of_any_size_become_parts_of_one_size(aws: S3Server) -> None:
    bucket, data = aws.bucket(), os.urandom(12 * MIB)
    async with open_client(parse_place(aws.url(bucket))) as client:
        sent = Upload(client, {"Bucket": bucket, "Key": "k"}, {"a": "b"}, 5 * MIB)
        await sent.write(data[: 11 * MIB])
        await sent.write(b"")
        await sent.write(data[11 * MIB :])
        await sent.finish()
        assert sent.is_multipart
        await sent.publish(create_once=True)
        await sent.abort()
        found = client.head_object(Bucket=bucket, Key="k")
        answer = await found
    assert (sent.size_bytes, sent.sha256) == (12 * MIB, hashlib.sha256(data).hexdigest())
    assert (answer["ETag"], answer["ContentLength"], answer["Metadata"]) == (sent.etag, 12 * MIB, {"a": "b"})


async def test_blob_of_exactly_one_part_is_one_request(aws: S3Server) -> None:
    bucket = aws.bucket()
    async with (
        fault_proxy(aws.endpoint) as proxy,
        open_client(parse_place(aws.url(bucket, endpoint=proxy.endpoint))) as c,
    ):
        sent = Upload(c, {"Bucket": bucket, "Key": "k"}, {}, 5 * MIB)
        await sent.write(b"x" * 5 * MIB)
        await sent.finish()
        await sent.publish(create_once=True)
        assert [method for method, _ in proxy.seen] == ["PUT"]
        with pytest.raises(AlreadyThere):
            await sent.publish(create_once=True)


def proxy_url(server: S3Server, bucket: str, endpoint: str) -> str:
    return server.url(bucket, endpoint=endpoint)


async def test_more_parts_than_a_store_takes_are_refused_and_nothing_is_left(
    aws: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "LARGEST_PARTS", 2)
    bucket = aws.bucket()
    async with S3BlobStore(parse_place(aws.url(bucket, part="5MiB"))) as store:
        with pytest.raises(LimitExceeded, match="2 parts") as caught:
            await store.put("key", chunked(b"x" * 16 * MIB), expires_at=FAR)
        assert "part=" in caught.value.hint
        assert await store.stat("key") is None
    assert not aws.client().list_multipart_uploads(Bucket=bucket).get("Uploads")


async def test_store_that_refuses_the_sha256_header_gets_another_check(aws: S3Server) -> None:
    bucket = aws.bucket()
    async with fault_proxy(aws.endpoint) as proxy:
        async with S3BlobStore(parse_place(aws.url(bucket, endpoint=proxy.endpoint))) as store:
            proxy.plan(Fault("answer", "PUT", "/blobs/", status=501, body=error_body("NotImplemented")))
            for n in range(2):
                await store.put(f"key{n}", chunked(b"x"), expires_at=FAR)
                assert await joined(await store.get(f"key{n}")) == b"x"
            assert proxy.count("PUT", "/blobs/key0") == 2
            assert proxy.count("PUT", "/blobs/key1") == 1, "it is remembered"


async def test_part_that_arrives_damaged_is_refused_by_the_store(
    swift: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check that every store makes; the other store of these tests does not."""
    swift.as_environment(monkeypatch)
    bucket = swift.bucket()
    async with open_client(parse_place(swift.url(bucket))) as client:
        sent = Upload(client, {"Bucket": bucket, "Key": "k"}, {}, 5 * MIB)
        sent.knows_sha256 = False
        await sent.write(b"x" * 5 * MIB)
        await sent.finish()
        sent._part_md5s[0] = b"0" * 16
        with pytest.raises(Unavailable, match="BadDigest"):
            await sent.publish(create_once=False)
        with pytest.raises(BlobNotFound):
            await open_chunks(client, bucket, "k", "k", 0, None)
