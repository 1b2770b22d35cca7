"""Expiry without changing objects: marks, their order, and what pruning reads."""

from __future__ import annotations

import asyncio
import time

import pytest

from asman.testing import chunked, joined
from asman_s3.blobs import S3BlobStore
from asman_s3.expiry import LAST_S, stamp
from asman_s3.place import parse_place
from fault_proxy import fault_proxy
from s3_server import S3Server

FAR = 4_000_000_000.0


def names(server: S3Server, bucket: str, prefix: str = "") -> list[str]:
    page = server.client().list_objects_v2(Bucket=bucket, Prefix=prefix)
    return [entry["Key"] for entry in page.get("Contents", ())]


def test_stamps_are_in_the_order_of_time() -> None:
    moments = [-5.0, 0.0, 0.000001, 9.5, 10.0, 1_000.0, 1_800_000_000.123456, FAR, LAST_S, 1e300, float("inf")]
    stamps = [stamp(at) for at in moments]
    assert stamps == sorted(stamps)
    assert {len(text) for text in stamps} == {17}


async def test_idle_prune_is_one_request_however_many_blobs_there_are(aws: S3Server) -> None:
    bucket = aws.bucket()
    async with fault_proxy(aws.endpoint) as proxy:
        async with S3BlobStore(parse_place(aws.url(bucket, endpoint=proxy.endpoint))) as store:
            for n in range(20):
                await store.put(f"key{n}", chunked(b"x"), expires_at=FAR + n)
            proxy.seen.clear()
            assert await store.prune(FAR) == 0
            assert [method for method, _ in proxy.seen] == ["GET"]


async def test_nothing_is_left_of_a_pruned_blob(aws: S3Server) -> None:
    bucket = aws.bucket()
    async with S3BlobStore(parse_place(aws.url(bucket, "p"))) as store:
        await store.put("key", chunked(b"x"), expires_at=1_000.0)
        for at in (1_500.0, 2_000.0, 1_800.0):
            await store.extend("key", at)
        assert await store.prune(1_999.0) == 0
        assert await joined(await store.get("key")) == b"x"
        assert await store.prune(2_001.0) == 1
        assert names(aws, bucket) == []


async def test_blob_extended_many_times_has_few_marks(aws: S3Server) -> None:
    bucket = aws.bucket()
    async with S3BlobStore(parse_place(aws.url(bucket))) as store:
        await store.put("key", chunked(b"x"), expires_at=1_000.0)
        for n in range(12):
            await store.extend("key", 2_000.0 + n)
        assert len(names(aws, bucket, "until/")) < 8
        info = await store.stat("key")
        assert info is not None
        assert info.expires_at == 2_011.0


async def test_extending_does_not_move_the_bytes(aws: S3Server) -> None:
    bucket = aws.bucket()
    async with fault_proxy(aws.endpoint) as proxy:
        async with S3BlobStore(parse_place(aws.url(bucket, endpoint=proxy.endpoint))) as store:
            await store.put("key", chunked(b"x" * 1_000), expires_at=1_000.0)
            proxy.seen.clear()
            await store.extend("key", 2_000.0)
            assert proxy.count("PUT", "/blobs/") == proxy.count("GET", "/blobs/") == 0


async def test_object_that_somebody_put_there_by_hand_has_an_end(aws: S3Server) -> None:
    bucket = aws.bucket()
    aws.client().put_object(Bucket=bucket, Key="blobs/by-hand", Body=b"x")
    async with S3BlobStore(parse_place(aws.url(bucket))) as store:
        info = await store.stat("by-hand")
        assert info is not None
        assert info.sha256 == ""
        assert 6 * 86_400 < info.expires_at - time.time() < 8 * 86_400


@pytest.mark.parametrize("never", [float("inf"), 1e300])
async def test_blob_that_never_expires_is_kept_to_the_last_time_there_is(aws: S3Server, never: float) -> None:
    async with S3BlobStore(parse_place(aws.url(aws.bucket()))) as store:
        await store.put("key", chunked(b"x"), expires_at=FAR)
        await store.extend("key", never)
        again = await store.put("key", chunked(b"x"), expires_at=never)
        assert again.expires_at == LAST_S
        assert await store.prune(FAR * 2) == 0


async def test_two_servers_that_prune_at_once_do_no_harm(aws: S3Server) -> None:
    bucket = aws.bucket()
    place = parse_place(aws.url(bucket))
    async with S3BlobStore(place) as one, S3BlobStore(place) as two:
        for n in range(6):
            await one.put(f"key{n}", chunked(b"x"), expires_at=1_000.0)
        await one.put("kept", chunked(b"x"), expires_at=FAR)
        counts = await asyncio.gather(one.prune(2_000.0), two.prune(2_000.0))
        assert sum(counts) >= 6
        assert names(aws, bucket, "blobs/") == ["blobs/kept"]
