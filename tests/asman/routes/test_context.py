from __future__ import annotations

from core import QUEUE, core, definition


async def test_links_use_the_address_of_the_caller_or_the_configured_one() -> None:
    async with core() as c:
        _, body, _ = await c.call("GET", "/upload/" + "0" * 64)
        assert body["url"] == "http://localhost/f/" + "0" * 64
        _, body, _ = await c.call("GET", "/download/" + "0" * 64, headers={"X-Forwarded-Proto": "https"})
        assert body["url"].startswith("https://localhost/f/")
    async with core(public_url="https://grid.example/") as c:
        _, body, _ = await c.call("GET", "/upload/" + "0" * 64)
        assert body["url"] == "https://grid.example/f/" + "0" * 64


async def test_a_copy_with_a_body_that_is_too_long_is_refused() -> None:
    async with core(profile="public", host="0.0.0.0") as c:
        job = await c.submit(definition())
        status, body, _ = await c.call("POST", f"/j/{job.job_id}/copy", b"x" * (1 << 20) + b"y")
        assert (status, body["code"]) == (413, "limit_exceeded")
        assert (await c.call("GET", f"/q/{QUEUE}"))[0] == 200
