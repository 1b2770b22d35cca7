"""Blob routes: download with ranges, existence, and the upload's place in the route table."""

from __future__ import annotations

from collections.abc import AsyncIterator

from quart import Blueprint, Response, request

from asman import operations as ops
from asman.routes.answers import json_answer
from asman.routes.content import byte_range, content_headers, content_type_of
from asman.routes.context import respond, services

__all__ = ["blobs"]

blobs = Blueprint("blobs", __name__)


@blobs.get("/f/<key>/exists")
async def exists(key: str) -> Response:
    there = await ops.has_blob(services(), key)
    return respond(json_answer({"exists": there}, status=200 if there else 404, cache_control="no-store"))


@blobs.get("/f/<key>")
async def download(key: str) -> Response:
    """The bytes, streamed as fast as the caller reads. ``?name=`` only chooses the type and the name to save as."""
    info = await ops.stat_blob(services(), key)
    name = request.args.get("name") or key
    left_s = max(int(info.expires_at - services().clock()), 0)
    headers = content_headers(name, content_type_of(name))
    headers |= {
        "accept-ranges": "bytes",
        "cache-control": f"private, max-age={left_s}, immutable",
        "etag": f'"{key}"',
    }
    if request.headers.get("If-None-Match", "").strip() == headers["etag"]:
        return Response(b"", status=304, headers=headers)
    if request.method == "GET":
        disposition = headers["content-disposition"]
        link = await ops.download_link(services(), info, content_type=headers["content-type"], disposition=disposition)
        if link is not None:
            return Response(b"", status=302, headers={"location": link, "cache-control": "no-store"})
    wanted = byte_range(request.headers.get("Range"), info.size_bytes)
    start, stop = wanted or (0, info.size_bytes)
    headers["content-length"] = str(stop - start)
    if wanted is not None:
        headers["content-range"] = f"bytes {start}-{stop - 1}/{info.size_bytes}"
    if request.method == "HEAD":
        return Response(_nothing(), status=206 if wanted else 200, headers=headers)
    body = await ops.read_blob(services(), info, start, stop)
    response = Response(_stream(body.chunks), status=206 if wanted else 200, headers=headers)
    response.timeout = None
    return response


async def _stream(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk


async def _nothing() -> AsyncIterator[bytes]:
    """No bytes, without a length of its own: HEAD says the length that a GET would have."""
    return
    yield b""


@blobs.put("/f/<key>")
async def upload(key: str) -> Response:
    info = await ops.store_blob(services(), key, request.body)
    body = {"success": True, "key": info.key, "size": info.size_bytes, "sha256": info.sha256}
    return respond(json_answer(body))
