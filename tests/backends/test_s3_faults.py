"""The S3 blob store behind a proxy that fails on purpose: what heals by itself, and what is said where it cannot."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from botocore.exceptions import ClientError
from botocore.retries.standard import ExponentialBackoff

from asman.errors import BlobNotFound, ConfigError, StorageFull, Unavailable
from asman.testing import chunked, joined
from asman_s3 import connection, faults, reading, upload
from asman_s3.blobs import S3BlobStore
from asman_s3.place import Place, parse_place
from fault_proxy import Fault, FaultProxy, error_body, fault_proxy
from s3_server import S3Server

FAR = 4_000_000_000.0
MIB = 1 << 20
LARGE = 18 * MIB
"""Three parts."""


def content(size_bytes: int) -> tuple[str, bytes]:
    data = os.urandom(size_bytes)
    return hashlib.sha256(data).hexdigest(), data


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer tries, and short pauses: the driver's own are seconds."""
    monkeypatch.setattr(connection, "TRIES", 2)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.01)
    monkeypatch.setattr(connection, "_SILENCE_S", 1.0)
    monkeypatch.setattr(reading, "_FIRST_PAUSE_S", 0.01)


@asynccontextmanager
async def behind_faults(server: S3Server) -> AsyncIterator[tuple[S3BlobStore, FaultProxy]]:
    bucket = server.bucket()
    async with fault_proxy(server.endpoint) as proxy:
        place = parse_place(server.url(bucket, "pre", endpoint=proxy.endpoint))
        async with S3BlobStore(place) as store:
            assert await store._can_create_once()
            yield store, proxy


def unfinished(server: S3Server, store: S3BlobStore) -> list[object]:
    return list(server.client().list_multipart_uploads(Bucket=store._place.bucket).get("Uploads", ()))


# --- what heals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault("answer", "PUT", "/blobs/", status=500, body=error_body("InternalError")),
        Fault("answer", "PUT", "/blobs/", status=503, body=error_body("SlowDown")),
        Fault("cut_request", "PUT", "/blobs/", after_bytes=100_000),
        Fault("cut_answer", "PUT", "/blobs/", after_bytes=10),
        Fault("silent", "PUT", "/blobs/"),
    ],
    ids=lambda fault: f"{fault.how}-{fault.status}",
)
@pytest.mark.parametrize("size_bytes", [300_000, LARGE], ids=["small", "large"])
async def test_upload_survives_a_failure_of_the_store(aws: S3Server, fault: Fault, size_bytes: int) -> None:
    key, data = content(size_bytes)
    fault.times = 1
    async with behind_faults(aws) as (store, proxy):
        proxy.plan(fault)
        info = await store.put(key, chunked(data), expires_at=FAR, sha256=key)
        assert fault.times == 0
        assert (info.size_bytes, info.sha256) == (size_bytes, key)
        assert await joined(await store.get(key)) == data
        assert unfinished(aws, store) == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault("answer", "POST", "uploadId", status=200, body=error_body("InternalError")),
        Fault("answer", "POST", "uploadId", status=503, body=error_body("SlowDown")),
        Fault("cut_answer", "POST", "uploadId", after_bytes=10),
    ],
    ids=["200 with an error in it", "503", "answer lost"],
)
@pytest.mark.parametrize("is_content", [True, False], ids=["content key", "free key"])
async def test_completing_a_large_upload_survives_a_failure(aws: S3Server, fault: Fault, is_content: bool) -> None:
    digest, data = content(LARGE)
    key = digest if is_content else "free"
    fault.times = 1
    async with behind_faults(aws) as (store, proxy):
        proxy.plan(fault)
        info = await store.put(key, chunked(data), expires_at=FAR)
        assert fault.times == 0
        assert (info.key, info.size_bytes, info.sha256) == (key, LARGE, digest)
        assert await joined(await store.get(key)) == data


async def test_free_key_whose_first_answer_was_lost_is_no_conflict(aws: S3Server) -> None:
    async with behind_faults(aws) as (store, proxy):
        proxy.plan(Fault("cut_answer", "PUT", "/blobs/free", after_bytes=1))
        info = await store.put("free", chunked(b"bytes"), expires_at=FAR)
        assert info.size_bytes == 5
        assert proxy.count("PUT", "/blobs/free") == 2


async def test_download_goes_on_where_the_connection_broke(aws: S3Server) -> None:
    key, data = content(5 * MIB)
    async with behind_faults(aws) as (store, proxy):
        await store.put(key, chunked(data), expires_at=FAR)
        proxy.plan(
            Fault("cut_answer", "GET", "/blobs/", after_bytes=MIB + 1),
            Fault("answer", "GET", "/blobs/", status=503, body=error_body("SlowDown")),
            Fault("cut_answer", "GET", "/blobs/", after_bytes=2 * MIB),
            Fault("silent", "GET", "/blobs/"),
        )
        assert await joined(await store.get(key, start=3, stop=5 * MIB - 3)) == data[3:-3]
        assert all(fault.times == 0 for fault in proxy.faults)


async def test_download_never_mixes_two_objects(aws: S3Server) -> None:
    key, data = content(4 * MIB)
    async with behind_faults(aws) as (store, proxy):
        await store.put(key, chunked(data), expires_at=FAR)
        proxy.plan(Fault("cut_answer", "GET", "/blobs/", after_bytes=MIB))
        chunks = await store.get(key)
        await anext(chunks)
        aws.client().put_object(Bucket=store._place.bucket, Key=f"pre/blobs/{key}", Body=os.urandom(4 * MIB))
        with pytest.raises(Unavailable, match="removed while it was read"):
            await joined(chunks)


# --- what does not ---------------------------------------------------------------------------------------------------


async def test_store_that_stays_broken_is_unavailable_and_nothing_is_left(aws: S3Server) -> None:
    key, data = content(LARGE)
    async with behind_faults(aws) as (store, proxy):
        proxy.plan(Fault("answer", "PUT", "partNumber=2", times=99, status=503, body=error_body("SlowDown")))
        with pytest.raises(Unavailable, match="SlowDown"):
            await store.put(key, chunked(data), expires_at=FAR, sha256=key)
        assert await store.stat(key) is None
        assert unfinished(aws, store) == []


async def test_download_that_keeps_breaking_is_given_up(aws: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    key, data = content(3 * MIB)
    monkeypatch.setattr(connection, "TRIES", 1)
    async with behind_faults(aws) as (store, proxy):
        await store.put(key, chunked(data), expires_at=FAR)
        chunks = await store.get(key)
        proxy.plan(Fault("answer", "GET", "/blobs/", times=99, status=500, body=error_body("InternalError")))
        chunks._drop()
        with pytest.raises(Unavailable, match="InternalError"):
            await joined(chunks)
        assert proxy.count("GET", "/blobs/") == 1 + reading._TRIES


CLOCK = "the clock of this machine and that of the object store differ"


async def test_wrong_clock_is_called_a_wrong_clock(aws: S3Server) -> None:
    async with behind_faults(aws) as (store, proxy):
        skewed = Fault("answer", times=99, status=403, body=error_body("RequestTimeTooSkewed"))
        proxy.plan(skewed)
        for call in (store.stat("key"), store.get("key"), store.put("key", chunked(b"x"), expires_at=FAR)):
            with pytest.raises(Unavailable, match=CLOCK):
                await call
        with pytest.raises(ConfigError, match=CLOCK):
            async with S3BlobStore(store._place):
                pass


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
async def test_refused_credentials_are_named_and_nothing_secret_is_said(aws: S3Server, code: str) -> None:
    async with behind_faults(aws) as (store, proxy):
        proxy.plan(Fault("answer", times=99, status=403, body=error_body(code)))
        with pytest.raises(Unavailable, match=rf"refuses the server's credentials \({code}\)") as caught:
            await store.stat("key")
        with pytest.raises(ConfigError, match=code) as at_start:
            async with S3BlobStore(store._place):
                pass
        for error in (caught.value, at_start.value):
            said = error.message + error.hint
            assert "AWS_ACCESS_KEY_ID" in error.hint
            assert not any(secret in said for secret in (*aws.environ.values(), "X-Amz", "Signature="))


async def test_absent_blob_that_the_store_calls_forbidden_is_absent(aws: S3Server) -> None:
    """Some stores say 403 for what is not there, and HEAD gives no reason."""
    async with behind_faults(aws) as (store, proxy):
        proxy.plan(Fault("answer", "HEAD", "/blobs/", times=9, status=403))
        proxy.plan(Fault("answer", "GET", "/blobs/", times=9, status=403, body=error_body("AccessDenied")))
        assert await store.stat("absent") is None
        with pytest.raises(BlobNotFound):
            await store.get("absent")
        await store.put("there", chunked(b"x"), expires_at=FAR)
        with pytest.raises(Unavailable, match="does not let the server"):
            await store.get("there")


async def test_server_starts_while_the_store_is_away_and_works_when_it_is_back(aws: S3Server) -> None:
    bucket = aws.bucket()
    async with fault_proxy(aws.endpoint) as proxy:
        proxy.plan(Fault("answer", times=2, status=503, body=error_body("ServiceUnavailable")))
        async with S3BlobStore(parse_place(aws.url(bucket, endpoint=proxy.endpoint))) as store:
            assert await store.stat("key") is None
    async with S3BlobStore(parse_place(f"s3://{bucket}?endpoint=http://127.0.0.1:1")) as store:
        with pytest.raises(Unavailable, match="does not answer"):
            await store.stat("key")


async def test_bucket_that_is_not_there_ends_the_start_and_says_how_to_make_it(aws: S3Server) -> None:
    with pytest.raises(ConfigError, match='no bucket "no-such-bucket"') as caught:
        async with S3BlobStore(parse_place(aws.url("no-such-bucket"))):
            pass
    assert "asman s3 init" in caught.value.hint


async def test_start_without_credentials_says_which_are_missing(aws: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="no credentials") as caught:
        async with S3BlobStore(parse_place(aws.url("some-bucket"))):
            pass
    assert "AWS_SECRET_ACCESS_KEY" in caught.value.hint


async def test_cancelled_upload_ends_soon_though_the_store_is_silent(aws: S3Server) -> None:
    key, data = content(LARGE)
    async with behind_faults(aws) as (store, proxy):
        proxy.plan(Fault("silent", "PUT", "partNumber=1", times=9))
        task = asyncio.create_task(store.put(key, chunked(data), expires_at=FAR))
        await proxy.asked("PUT", "partNumber=1")
        begun = time.monotonic()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert time.monotonic() - begun < 5.0
        assert unfinished(aws, store) == []


async def test_store_that_takes_no_more_bytes_is_given_up(aws: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver has no deadline for sending."""
    monkeypatch.setattr(upload, "_STUCK_S", 1.5)
    key, data = content(LARGE)
    async with behind_faults(aws) as (store, proxy):
        proxy.plan(Fault("deaf", "PUT", "partNumber=1", times=9))
        with pytest.raises(Unavailable, match="does not answer"):
            await store.put(key, chunked(data), expires_at=FAR)
        assert unfinished(aws, store) == []


# --- words -----------------------------------------------------------------------------------------------------------


def refused(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("QuotaExceeded", 403, StorageFull),
        ("EntityTooLarge", 400, StorageFull),
        ("507", 507, StorageFull),
        ("SlowDown", 503, Unavailable),
        ("NoSuchBucket", 404, Unavailable),
        ("AccessDenied", 403, Unavailable),
        ("https://host/?X-Amz-Signature=abc", 500, Unavailable),
    ],
)
def test_each_refusal_has_its_error(code: str, status: int, kind: type[Exception]) -> None:
    error = faults.translated(refused(code, status), "store a blob")
    assert type(error) is kind
    assert "X-Amz" not in error.message


@pytest.mark.parametrize(
    ("code", "status", "is_final"),
    [
        ("NoSuchBucket", 404, True),
        ("PermanentRedirect", 301, True),
        ("AccessDenied", 403, True),
        ("SlowDown", 503, False),
        ("InternalError", 500, False),
        ("TooManyRequests", 429, False),
    ],
)
def test_only_what_waiting_cannot_cure_ends_the_start(code: str, status: int, is_final: bool) -> None:
    error = faults.opening_error(refused(code, status), Place(bucket="some-bucket"))
    assert (error is not None) == is_final
