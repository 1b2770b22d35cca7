"""Reading by itself: connections are given back, ranges end where they should."""

from __future__ import annotations

import gc
import os

import pytest

from asman.errors import BlobNotFound
from asman.testing import chunked, joined
from asman_s3.blobs import S3BlobStore
from asman_s3.connection import open_client
from asman_s3.place import parse_place
from asman_s3.reading import open_chunks
from s3_server import S3Server

FAR = 4_000_000_000.0
MIB = 1 << 20


async def test_readers_who_leave_do_not_use_up_the_connections(aws: S3Server) -> None:
    data = os.urandom(3 * MIB)
    async with S3BlobStore(parse_place(aws.url(aws.bucket()))) as store:
        await store.put("key", chunked(data), expires_at=FAR)
        for n in range(140):
            chunks = await store.get("key")
            if n % 2:
                await anext(chunks)
            del chunks
        gc.collect()
        assert await joined(await store.get("key")) == data


async def test_absent_object_and_empty_ranges(aws: S3Server) -> None:
    bucket = aws.bucket()
    aws.client().put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    async with open_client(parse_place(aws.url(bucket))) as client:
        for start, stop, wanted in ((0, None, b"0123456789"), (2, 4, b"23"), (4, 4, b""), (9, 99, b"9"), (10, 99, b"")):
            assert await joined(await open_chunks(client, bucket, "k", "k", start, stop)) == wanted
        for start, stop in ((0, None), (3, 3), (5, 9)):
            with pytest.raises(BlobNotFound):
                await open_chunks(client, bucket, "absent", "absent", start, stop)
