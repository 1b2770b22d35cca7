"""The routes of blobs and files when the bytes are in S3: who is sent where, and who checks what comes back."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import httpx
import pytest

import asman_s3
from asman.client import Client
from asman.config import Config, load_config
from asman.errors import ConfigError, HashMismatch
from asman.plugins import load_plugins, open_blob_store
from asman_s3 import connection
from asman_worker.transfer import Transfer
from core import Core, core, definition
from processes import Process, eventually
from s3_server import S3Server

MIB = 1 << 20
QUEUE = "queue-on-s3"


def content(size_bytes: int) -> tuple[str, bytes]:
    data = os.urandom(size_bytes)
    return hashlib.sha256(data).hexdigest(), data


@asynccontextmanager
async def on_s3(server: S3Server, **settings: str) -> AsyncIterator[tuple[Core, str]]:
    bucket = server.bucket()
    async with core([asman_s3], blobs=server.url(bucket), **settings) as c:
        yield c, bucket


def stored(server: S3Server, bucket: str, key: str) -> bytes:
    return bytes(server.client().get_object(Bucket=bucket, Key=f"blobs/{key}")["Body"].read())


# --- who is sent where -----------------------------------------------------------------------------------------------


async def test_large_upload_is_sent_to_the_store_and_found_there(aws: S3Server) -> None:
    key, data = content(2 * MIB)
    async with on_s3(aws) as (c, bucket):
        assert (await c.call("GET", f"/f/{key}/exists"))[0] == 404
        status, body, headers = await c.call("PUT", f"/f/{key}", data, {"Content-Length": str(len(data))})
        assert (status, body) == (307, b"")
        place = urlsplit(headers["Location"])
        assert f"{place.scheme}://{place.netloc}" == aws.endpoint
        assert place.path == f"/{bucket}/blobs/{key}"
        assert parse_qs(place.query)["X-Amz-SignedHeaders"] == ["content-length;host"]
        assert int(parse_qs(place.query)["X-Amz-Expires"][0]) <= 900
        assert headers["Access-Control-Allow-Origin"] == "*"
        async with httpx.AsyncClient() as http:
            assert (await http.put(headers["Location"], content=data)).status_code == 200
            assert (await c.call("GET", f"/f/{key}/exists"))[0] == 200
            status, body, headers = await c.call("GET", f"/f/{key}?name=a.png")
            assert (status, body, headers["Cache-Control"]) == (302, b"", "no-store")
            answer = await http.get(headers["Location"])
        assert answer.content == data
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["content-disposition"] == 'inline; filename="a.png"'


async def test_place_for_a_large_body_can_be_asked_for_before(aws: S3Server) -> None:
    key, data = content(MIB)
    async with on_s3(aws, profile="public", host="0.0.0.0") as (c, _bucket):
        status, answer, _ = await c.call("GET", f"/upload/{key}?size={len(data)}")
        assert (status, answer["size"], answer["ref"]) == (200, len(data), {"value": key, "type": "key"})
        async with httpx.AsyncClient() as http:
            assert (await http.put(answer["url"], content=data)).status_code == 200
        assert (await c.call("GET", f"/f/{key}/exists"))[0] == 200
        for asked in (f"/upload/{key}", f"/upload/{key}?size=5", f"/upload/free?size={MIB}"):
            answer = (await c.call("GET", asked))[1]
            assert answer["url"].endswith(f"/f/{answer['ref']['value']}")
            assert "size" not in answer
        for size, expected in ((str(2 << 30), 413), ("-1", 400), ("1e3", 400), ("9" * 19, 400), ("%D9%A3", 400)):
            assert (await c.call("GET", f"/upload/{key}?size={size}"))[0] == expected


async def test_small_uploads_free_keys_and_bodies_without_a_length_are_taken_here(aws: S3Server) -> None:
    key, data = content(1_000)
    large_key, large = content(2 * MIB)
    async with on_s3(aws) as (c, bucket):
        for name, body in ((key, data), ("notes.txt", large)):
            status, answer, _ = await c.call("PUT", f"/f/{name}", body, {"Content-Length": str(len(body))})
            assert (status, answer["size"]) == (200, len(body))
            assert stored(aws, bucket, name) == body
        status, answer, _ = await c.call("PUT", f"/f/{large_key}", large)
        assert (status, answer["sha256"]) == (200, large_key)
        assert (await c.call("PUT", "/f/notes.txt", b"other"))[0] == 409
        assert (await c.call("PUT", f"/f/{key}", b"other"))[0] == 422


async def test_what_was_checked_is_not_open_to_be_replaced(aws: S3Server) -> None:
    key, data = content(2 * MIB)
    stated = {"Content-Length": str(len(data))}
    async with on_s3(aws) as (c, bucket):
        assert (await c.call("PUT", f"/f/{key}", data))[0] == 200
        assert (await c.call("PUT", f"/f/{key}", data, stated))[0] == 200
        assert (await c.call("PUT", f"/f/{key}", b"x" * len(data), stated))[0] == 422
        assert stored(aws, bucket, key) == data


async def test_upload_above_the_limit_is_refused_and_not_sent_on(aws: S3Server) -> None:
    key, _ = content(1)
    async with on_s3(aws, profile="public", host="0.0.0.0") as (c, _bucket):
        status, body, _ = await c.call("PUT", f"/f/{key}", b"", {"Content-Length": str(2 << 30)})
        assert (status, body["code"]) == (413, "limit_exceeded")


async def test_missing_and_expired_blobs_are_said_here(aws: S3Server) -> None:
    key, data = content(100)
    async with on_s3(aws) as (c, _bucket):
        assert (await c.call("GET", f"/f/{key}"))[1]["code"] == "blob_not_found"
        await c.call("PUT", f"/f/{key}", data)
        status, body, headers = await c.call("HEAD", f"/f/{key}")
        assert (status, body, headers["ETag"]) == (200, b"", f'"{key}"')
        assert (await c.call("GET", f"/f/{key}", headers={"If-None-Match": f'"{key}"'}))[0] == 304
        c.clock.tick(31 * 86_400)
        assert (await c.call("GET", f"/f/{key}"))[1]["code"] == "expired"


async def test_without_redirects_all_bytes_pass_through_the_server(aws: S3Server) -> None:
    key, data = content(2 * MIB)
    async with on_s3(aws, blob_redirects="off") as (c, bucket):
        status, answer, _ = await c.call("PUT", f"/f/{key}", data, {"Content-Length": str(len(data))})
        assert (status, answer["sha256"]) == (200, key)
        assert stored(aws, bucket, key) == data
        assert (await c.call("GET", f"/f/{key}"))[:2] == (200, data)
        status, body, headers = await c.call("GET", f"/f/{key}", headers={"Range": "bytes=7-9"})
        assert (status, body, headers["Content-Range"]) == (206, data[7:10], f"bytes 7-9/{len(data)}")


def test_blob_redirects_are_on_or_off() -> None:
    with pytest.raises(ConfigError, match="blob_redirects"):
        load_config({"blob_redirects": "perhaps"})


async def test_store_that_is_away_is_503_with_a_time_to_come_back_and_no_secret(
    aws: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "TRIES", 1)
    async with core([asman_s3], blobs="s3://some-bucket?endpoint=http://127.0.0.1:1") as c:
        for method, path in (("GET", "/f/key"), ("GET", "/f/key/exists"), ("GET", "/readyz")):
            status, body, headers = await c.call(method, path)
            assert (status, body["code"], headers["Retry-After"]) == (503, "unavailable", "5")
            assert not any(secret in str(body) for secret in aws.environ.values())


# --- jobs ------------------------------------------------------------------------------------------------------------


async def test_a_job_with_its_files_in_s3(aws: S3Server) -> None:
    """Submitted with a large definition, run, its output fetched by name, and all of it gone with the job."""
    key, data = content(MIB + 1)
    name, link = "dir/a b.txt", f"https://any.example/f/{key}"
    async with on_s3(aws) as (c, bucket):
        big = definition("echo " + "x" * 40_000, inputs={"in.bin": {"type": "url", "value": link}})
        assert (await c.call("PUT", f"/f/{key}", data))[0] == 200
        job = await c.submit(big, queue=QUEUE)
        job = await c.run(job, outputs={name: {"type": "url", "value": link}})
        assert (await c.call("GET", f"/j/{job.job_id}/definition.json"))[1]["data"]["command"] == big["command"]
        for path in (f"/j/{job.job_id}/outputs/{name}", f"/q/{QUEUE}/j/{job.job_id}/inputs/in.bin"):
            status, _, headers = await c.call("GET", path)
            assert status == 302
            status, _, headers = await c.call("GET", headers["Location"].removeprefix("http://localhost"))
            assert status == 302
            async with httpx.AsyncClient() as http:
                answer = await http.get(headers["Location"])
            assert answer.content == data
        assert 'filename="in.bin"' in answer.headers["content-disposition"]
        c.clock.tick(40 * 86_400)
        await c.sweep()
        left = aws.client().list_objects_v2(Bucket=bucket, Prefix="blobs/").get("Contents", [])
        assert left == []


# --- real peers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    return s3_server.bucket()


@pytest.fixture(scope="module", params=["hypercorn", "uvicorn"])
def url(request: pytest.FixtureRequest, s3_server: S3Server, bucket: str) -> Iterator[str]:
    """A real server on SQLite and S3."""
    with tempfile.TemporaryDirectory() as data:
        place = ("--blobs", s3_server.url(bucket))
        kind = ("--server", request.param)
        with Process("serve", "--port", "0", "--data", data, *place, *kind, env=s3_server.environ) as process:
            process.wait_for("asman serves")
            found = process.output.partition("asman serves ")[2].split()[0]
            eventually("it is ready", lambda: httpx.get(f"{found}/readyz").status_code == 200)
            yield found


async def test_our_client_follows_both_ways(url: str, tmp_path: Path) -> None:
    key, data = content(24 * MIB)
    (tmp_path / "up").write_bytes(data)
    async with Client(url) as client:
        assert await client.upload(tmp_path / "up") == key
        assert await client.has_blob(key)
        assert await client.download(f"/f/{key}", tmp_path / "down", sha256=key) == len(data)
    assert (tmp_path / "down").read_bytes() == data


async def test_our_worker_follows_both_ways_and_checks(
    url: str, s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    key, data = content(24 * MIB)
    (tmp_path / "up").write_bytes(data)
    async with aiohttp.ClientSession() as session:
        transfer = Transfer(session, url, private_addresses=False)
        await transfer.upload(key, lambda: (tmp_path / "up").open("rb"), len(data))
        with (tmp_path / "down").open("wb") as target:
            assert await transfer.download(transfer.blob_url(key), target, limit_bytes=1 << 30) == len(data)
        assert (tmp_path / "down").read_bytes() == data
        s3_server.client().put_object(Bucket=bucket, Key=f"blobs/{key}", Body=data[:-1] + b"?")
        with (tmp_path / "down").open("wb") as target, pytest.raises(HashMismatch):
            await transfer.download(transfer.blob_url(key), target, limit_bytes=1 << 30)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt-get install curl")
@pytest.mark.parametrize("expect", ["Expect:", "Expect: 100-continue"])
async def test_curl_follows_both_ways(url: str, tmp_path: Path, expect: str) -> None:
    """As older workers call it."""
    key, data = content(24 * MIB)
    (tmp_path / "up").write_bytes(data)
    given = ("--fail-with-body", "--location", "--silent", "--show-error", "--max-time", "30")
    up = ("curl", *given, "-X", "PUT", "-H", expect, "--upload-file", str(tmp_path / "up"), f"{url}/f/{key}")
    down = ("curl", *given, "--output", str(tmp_path / "down"), f"{url}/f/{key}")
    for command in (up, down):
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "down").read_bytes() == data


def test_the_url_of_the_server_opens_the_store(aws: S3Server) -> None:
    assert open_blob_store(load_plugins([asman_s3], discover=False), aws.url("bucket"), Config()) is not None
