from __future__ import annotations

import hashlib

from core import core

DATA = bytes(range(256)) * 40
KEY = hashlib.sha256(DATA).hexdigest()


async def test_a_blob_goes_in_and_comes_back() -> None:
    async with core() as c:
        assert (await c.call("GET", f"/f/{KEY}/exists"))[:2] == (404, {"exists": False})
        status, body, _ = await c.call("PUT", f"/f/{KEY}", DATA)
        assert (status, body["key"], body["size"]) == (200, KEY, len(DATA))
        assert (await c.call("GET", f"/f/{KEY}/exists"))[:2] == (200, {"exists": True})
        status, got, headers = await c.call("GET", f"/f/{KEY}")
        assert (status, got) == (200, DATA)
        assert headers["ETag"] == f'"{KEY}"'
        assert "immutable" in headers["Cache-Control"]
        assert headers["Content-Disposition"].startswith("attachment")


async def test_parts_of_it_can_be_had() -> None:
    async with core() as c:
        await c.call("PUT", f"/f/{KEY}", DATA)
        status, got, headers = await c.call("GET", f"/f/{KEY}", headers={"Range": "bytes=10-19"})
        assert (status, got, headers["Content-Range"]) == (206, DATA[10:20], f"bytes 10-19/{len(DATA)}")
        status, body, _ = await c.call("GET", f"/f/{KEY}", headers={"Range": "bytes=999999-"})
        assert (status, body["code"]) == (416, "range_refused")


async def test_head_and_a_known_etag_bring_no_bytes() -> None:
    async with core() as c:
        await c.call("PUT", f"/f/{KEY}", DATA)
        assert (await c.call("HEAD", f"/f/{KEY}"))[:2] == (200, b"")
        status, got, _ = await c.call("GET", f"/f/{KEY}", headers={"If-None-Match": f'"{KEY}"'})
        assert (status, got) == (304, b"")


async def test_a_name_chooses_type_and_disposition_and_nothing_dangerous() -> None:
    async with core() as c:
        await c.call("PUT", f"/f/{KEY}", DATA)
        _, _, headers = await c.call("GET", f"/f/{KEY}?name=a.png")
        assert headers["Content-Type"] == "image/png"
        _, _, headers = await c.call("GET", f"/f/{KEY}?name=a.html")
        assert headers["Content-Type"] == "application/octet-stream"


async def test_a_missing_blob_is_404_and_an_expired_one_410() -> None:
    async with core() as c:
        assert (await c.call("GET", f"/f/{KEY}"))[1]["code"] == "blob_not_found"
        await c.call("PUT", f"/f/{KEY}", DATA)
        c.clock.tick(31 * 86_400)
        status, body, _ = await c.call("GET", f"/f/{KEY}")
        assert (status, body["code"]) == (410, "expired")


async def test_a_key_that_is_free_keeps_its_first_bytes() -> None:
    async with core() as c:
        assert (await c.call("PUT", "/f/notes.txt", b"one"))[0] == 200
        assert (await c.call("PUT", "/f/notes.txt", b"one"))[0] == 200
        status, body, _ = await c.call("PUT", "/f/notes.txt", b"two")
        assert (status, body["code"]) == (409, "conflict")
        assert (await c.call("GET", "/f/notes.txt"))[1] == b"one"
