"""Answers over HTTP: JSON, errors, the headers that every answer carries, and who may ask.

Plain functions of plain values, shared by the Quart views and the thinner path in ``front``.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from asman.config import Config
from asman.errors import AsmanError, OriginRefused, RateLimited, Unavailable, clip
from asman.messages import encode

__all__ = [
    "Answer",
    "check_host_and_origin",
    "cors_headers",
    "error_answer",
    "json_answer",
    "preflight_headers",
    "text_answer",
]

_log = logging.getLogger(__name__)

_LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "::1", "[::1]"))
_METHODS = "GET,HEAD,PUT,POST,DELETE,PATCH"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete answer. Shape: header names in lower case."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json; charset=UTF-8"
    headers: Mapping[str, str] = field(default_factory=dict)

    def all_headers(self) -> dict[str, str]:
        return {"content-type": self.content_type, "x-content-type-options": "nosniff", **self.headers}


def json_answer(value: Any, status: int = 200, **headers: str) -> Answer:
    """Headers are given with underscores: ``cache_control="no-store"``."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status=status, body=encode(value), headers=named)


def text_answer(text: str, status: int = 200) -> Answer:
    return Answer(status=status, body=text.encode(), content_type="text/plain; charset=UTF-8")


def error_answer(error: BaseException, ref: str = "") -> Answer:
    """Every error in one shape; what is not ours becomes a 500 without any inner detail and is logged.

    Shape:  {"error": sentence, "code": slug, "hint": next step, "details"?: [{"loc", "msg"}], "requestId": hex}.
    """
    request_id = secrets.token_hex(8)
    if not isinstance(error, AsmanError):
        _log.error("a request failed", extra={"request_id": request_id, "ref": ref}, exc_info=error)
        error = AsmanError(
            "the server failed to answer this request", hint="Repeat it; quote the requestId if it stays."
        )
    body: dict[str, Any] = {"error": error.message, "code": error.code, "hint": error.hint, "requestId": request_id}
    if error.details:
        body["details"] = [{"loc": loc, "msg": text} for loc, text in error.details]
    headers = {"cache-control": "no-store"}
    if isinstance(error, (RateLimited, Unavailable)):
        headers["retry-after"] = "5"
    return Answer(status=error.status, body=json.dumps(body, separators=(",", ":")).encode(), headers=headers)


def _allowed(config: Config, origin: str, host: str) -> bool:
    return origin in config.allow_origin or (bool(host) and origin.partition("://")[2] == host)


def cors_headers(config: Config, origin: str, host: str) -> dict[str, str]:
    """Open to every page, except on a server that listens on loopback only: there pages must be allowed by name."""
    if not config.is_local:
        return {"access-control-allow-origin": "*"}
    if origin and _allowed(config, origin, host):
        return {"access-control-allow-origin": origin, "vary": "Origin"}
    return {} if origin else {"access-control-allow-origin": "*"}


def preflight_headers(config: Config, origin: str, host: str, requested: str) -> dict[str, str]:
    """The answer to OPTIONS on any path."""
    headers = cors_headers(config, origin, host)
    if "access-control-allow-origin" not in headers:
        return headers
    headers["access-control-allow-methods"] = _METHODS
    if requested:
        headers["access-control-allow-headers"] = ",".join(part.strip() for part in requested.split(","))
        headers["vary"] = "Access-Control-Request-Headers"
    if config.is_local and origin:
        headers["access-control-allow-private-network"] = "true"
    return headers


def check_host_and_origin(config: Config, method: str, origin: str, host: str) -> None:
    """A server on loopback answers to its own names only, and no foreign page may change anything on it.

    Errors: OriginRefused.
    """
    if not config.is_local:
        return
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    known = _LOCAL_NAMES | {urlsplit(a).hostname or "" for a in (*config.allow_origin, config.public_url) if a}
    if host and name not in known:
        raise OriginRefused(
            f"this server listens on loopback and does not answer to the name {clip(name)}",
            hint="Set --public-url if a proxy stands before it.",
        )
    if origin and method not in ("GET", "HEAD", "OPTIONS") and not _allowed(config, origin, host):
        raise OriginRefused(f"pages of {clip(origin)} may not drive this server")
