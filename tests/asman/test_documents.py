from __future__ import annotations

import pytest

from asman.documents import (
    DEFINITION,
    INLINE_BYTES,
    RESULT,
    blob_key,
    blobs_behind,
    pack,
    pack_encoded,
    pointer_to,
    read_document,
)
from core import QUEUE, core, definition


@pytest.mark.parametrize("size", [0, 100, 16_000, 16_500, 120_000])
async def test_a_document_is_read_back_whatever_its_size(size: int) -> None:
    async with core() as c:
        job = await c.submit(definition("x" * size))
        assert await read_document(c.services, job, DEFINITION) == definition("x" * size)
        assert len(await blobs_behind(c.services, job)) == (1 if size > 16_384 else 0)


async def test_a_large_document_has_a_blob_of_its_own() -> None:
    async with core() as c:
        kept = [await pack(c.services, RESULT, "x" * 20_000, expires_at=c.clock() + 9) for _ in range(2)]
        keys = [blob_key(k) for k in kept]
        assert keys[0] != keys[1]
        assert all(key is not None and key.startswith("_result-") for key in keys)


async def test_a_small_document_is_kept_as_it_is() -> None:
    async with core() as c:
        assert await pack_encoded(c.services, RESULT, b'{"a":1}', expires_at=0.0) == b'{"a":1}'
        assert blob_key(b'{"a":1}') is None
        assert blob_key(None) is None
    assert blob_key(pointer_to("_result-1")) == "_result-1"
    assert INLINE_BYTES == 16 << 10


async def test_a_document_whose_blob_is_gone_is_none() -> None:
    async with core() as c:
        job = await c.submit(definition("x" * 20_000))
        for key in await blobs_behind(c.services, job):
            await c.services.blobs.delete(key)
        assert await read_document(c.services, job, DEFINITION) is None
        assert await read_document(c.services, job, RESULT) is None


async def test_a_new_generation_leaves_no_blob_of_the_old_result() -> None:
    async with core() as c:
        job = await c.run(await c.submit(), logs=[["x" * 50_000, 1]])
        (old,) = await blobs_behind(c.services, job)
        await c.call("DELETE", f"/q/{QUEUE}/j/{job.job_id}")
        assert await c.services.blobs.stat(old) is None
