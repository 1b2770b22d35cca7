from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import pytest

from asman import operations as ops
from asman.errors import BadName, BlobNotFound, Expired, HashMismatch
from core import QUEUE, core, definition, finished

DATA = b"some bytes"
KEY = hashlib.sha256(DATA).hexdigest()


async def _chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_a_blob_is_what_its_key_says() -> None:
    async with core() as c:
        info = await ops.store_blob(c.services, KEY, _chunks(b"some ", b"bytes"))
        assert (info.size_bytes, info.sha256) == (len(DATA), KEY)
        body = await ops.read_blob(c.services, await ops.stat_blob(c.services, KEY), 5)
        assert b"".join([chunk async for chunk in body.chunks]) == b"bytes"


async def test_other_bytes_are_refused_and_nothing_stays() -> None:
    async with core() as c:
        with pytest.raises(HashMismatch):
            await ops.store_blob(c.services, KEY, _chunks(b"other bytes"))
        with pytest.raises(BlobNotFound):
            await ops.stat_blob(c.services, KEY)
        assert not await ops.has_blob(c.services, KEY)


@pytest.mark.parametrize("key", ["", ".", "..", ".x", "a/b", "../x", "a\0b", "x" * 201, "_definition-1", "ü"])
async def test_keys_that_are_no_keys_are_refused(key: str) -> None:
    async with core() as c:
        with pytest.raises(BadName):
            await ops.store_blob(c.services, key, _chunks(DATA))


async def test_a_blob_expires_and_says_so() -> None:
    async with core() as c:
        await ops.store_blob(c.services, KEY, _chunks(DATA))
        c.clock.tick(30 * 86_400 - 60)
        assert not await ops.has_blob(c.services, KEY), "it is about to go: better upload it again"
        c.clock.tick(61)
        with pytest.raises(Expired):
            await ops.stat_blob(c.services, KEY)


async def test_a_blob_lives_as_long_as_the_jobs_that_refer_to_it() -> None:
    async with core() as c:
        await ops.store_blob(c.services, KEY, _chunks(DATA))
        c.clock.tick(20 * 86_400)
        inputs = {"a": {"type": "url", "value": f"https://any.example/f/{KEY}"}, "b": {"type": "key", "value": KEY}}
        job = await c.submit(definition(inputs=inputs))
        assert (await ops.stat_blob(c.services, KEY)).expires_at == job.expires_at
        c.clock.tick(5 * 86_400)
        await ops.announce(c.services, QUEUE, job.job_id, "w1")
        value = finished("w1", outputs={"o": {"type": "url", "value": f"http://h/f/{KEY}"}})
        done = await ops.report(c.services, QUEUE, job.job_id, "w1", 1, value)
        assert (await ops.stat_blob(c.services, KEY)).expires_at == done.after.expires_at


@pytest.mark.parametrize(
    ("url", "key"),
    [
        (f"https://h.example/f/{KEY}", KEY),
        (f"http://h.example:8000/f/{KEY}?name=x", KEY),
        (f"https://h.example/api/v1/download/{KEY}", KEY),
        ("https://h.example/f/deadbeef", None),
        (f"https://h.example/a/f/{KEY}", None),
        ("https://h.example/a/b/c.txt", None),
    ],
)
def test_only_addresses_of_content_name_a_blob(url: str, key: str | None) -> None:
    assert ops.own_blob_key(url) == key


def test_an_address_on_another_host_is_not_ours_if_hosts_are_named() -> None:
    assert ops.own_blob_key(f"https://h.example/f/{KEY}", frozenset(("other.example",))) is None


def test_output_keys_survive_any_shape_of_result() -> None:
    for odd in (None, [], {"result": None}, {"result": {"outputs": []}}, {"result": {"outputs": {"a": "text"}}}):
        assert ops.output_keys(odd) == []
