"""Opening a client: how it signs, retries and gives up. The only module that makes one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError
from botocore.handlers import add_expect_header

from asman.errors import ConfigError
from asman_s3.place import Place

__all__ = ["TRIES", "open_client"]

TRIES = 4
"""How often one request is sent in all; between them the driver waits longer each time, at most a few seconds."""

_CONNECT_S = 5.0
_SILENCE_S = 30.0
_CONNECTIONS = 128


@asynccontextmanager
async def open_client(place: Place, *, endpoint: str = "") -> AsyncIterator[Any]:
    """An S3 client of this place; ``endpoint`` stands for another name of the same store.

    Checksums are chosen by us (``upload``): what newer drivers add by themselves is refused by older stores. Leave to
    send a body is not asked for (``Expect``): the driver would wait for it without end.

    Errors: ConfigError for a profile that does not exist or settings that the driver refuses.
    """
    options: dict[str, Any] = {
        "signature_version": "s3v4",
        "s3": {"addressing_style": place.style},
        "retries": {"mode": "standard", "total_max_attempts": TRIES},
        "connect_timeout": _CONNECT_S,
        "read_timeout": _SILENCE_S,
        "max_pool_connections": _CONNECTIONS,
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    try:
        session = aioboto3.Session()
        region = place.region or session.region_name or os.environ.get("AWS_REGION") or "us-east-1"
        opening = session.client(
            "s3",
            region_name=region,
            endpoint_url=endpoint or place.endpoint or None,
            config=AioConfig(**options),
        )
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"the S3 settings of the environment cannot be used: {error}") from error
    async with opening as client:
        client.meta.events.unregister("before-call.s3", add_expect_header)
        yield client
