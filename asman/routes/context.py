"""What every view needs from the request and the app. The only place, with ``app``, that touches Quart's globals."""

from __future__ import annotations

import asyncio
from typing import Any

from quart import Response, current_app, request

from asman.errors import BadRequest, LimitExceeded
from asman.gathering import Hours
from asman.presence import Hub
from asman.rates import source_of
from asman.routes.answers import Answer
from asman.services import Services

__all__ = ["base_url", "hours", "hub", "read_body", "respond", "services", "source"]

_JSON_BODY_S = 20.0


def services() -> Services:
    opened: Services = current_app.extensions["asman"]
    return opened


def hub() -> Hub:
    present: Hub = current_app.extensions["asman_hub"]
    return present


def base_url() -> str:
    """Address under which the caller reached us, without a final slash; the configured one wins.

    It has a path where a proxy passes on what is below a path only, and tells the server so.
    """
    configured = services().config.public_url
    if configured:
        return configured.rstrip("/")
    scheme = request.headers.get("X-Forwarded-Proto", request.scheme)
    return f"{'https' if scheme == 'https' else 'http'}://{request.host}{request.root_path.rstrip('/')}"


def source() -> str:
    """Whom limits on the present request are counted by."""
    return source_of(request.remote_addr or "", request.headers.get("X-Forwarded-For", ""), services().config.proxies)


def hours() -> Hours:
    counted: Hours = current_app.extensions["asman_hours"]
    return counted


async def read_body() -> bytes:
    """All of a JSON body. Errors: LimitExceeded; BadRequest when it does not arrive."""
    limit = services().config.limits.json_body_bytes
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_JSON_BODY_S):
            async for piece in request.body:
                size += len(piece)
                if size > limit:
                    raise LimitExceeded(f"the body has more than {limit} bytes, which is the most that is allowed")
                parts.append(piece)
    except TimeoutError as error:
        raise BadRequest(f"the body took longer than {_JSON_BODY_S:.0f} s to arrive") from error
    return b"".join(parts)


def respond(answer: Answer) -> Response:
    headers: dict[str, Any] = answer.all_headers()
    return Response(answer.body, status=answer.status, headers=headers)
