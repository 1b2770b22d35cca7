"""One webhook call: a POST of the event, signed, bounded in time, its answer reduced to yes or no.

Retrying, backing off and giving up are the caller's. Each call has a connection of its own: receivers are many and
rarely called twice in a row, and a deliverer that holds nothing open needs no closing. Redirects are not followed
(they would lead around the check of the address) and count as "no"; the body of an answer is never read.

Source: job model, "Control object and webhooks"; the Standard Webhooks specification for names and signature.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import ssl
from datetime import UTC, datetime

import httpcore
import httpx
from httpcore import AsyncNetworkBackend
from standardwebhooks import Webhook

from asman.abc import Delivery
from asman.errors import ConfigError, Unprocessable, clip

__all__ = ["CONNECT_S", "TOTAL_S", "HttpDeliverer"]

CONNECT_S = 5.0
TOTAL_S = 10.0
_SECRET_PREFIX = "whsec_"
_SECRET_BYTES = range(24, 65)
_ASCII_BLANKS_AND_CONTROLS = frozenset(map(chr, (*range(33), 127)))

_log = logging.getLogger(__name__)


class HttpDeliverer:
    """Delivers over the given network, which decides what may be reached.

    Shape:  ``secret`` is ``whsec_`` and the base64 of 24 to 64 bytes; empty for unsigned calls. ``tls`` says whose
            certificates count; unless given, the usual authorities', whatever the environment names.
    Errors: ConfigError for a secret of another form.
    """

    def __init__(
        self,
        *,
        guard: AsyncNetworkBackend,
        secret: str = "",
        tls: ssl.SSLContext | None = None,
        connect_s: float = CONNECT_S,
        total_s: float = TOTAL_S,
    ) -> None:
        self._guard = guard
        self._signer = _read_secret(secret) if secret else None
        self._tls = tls
        self._timeouts = {"connect": connect_s, "read": total_s, "write": total_s, "pool": total_s}
        self._total_s = total_s

    async def deliver(self, delivery: Delivery) -> bool:
        """POST the event once. True on 2xx, False on any other answer, on no answer in time, and on failures
        of the network.

        Errors: Unprocessable for an address that is refused; nothing has been dialled then.
        """
        url = _read_url(delivery.url)
        reason = ""
        try:
            async with asyncio.timeout(self._total_s):
                status = await self._post(url, delivery)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
        else:
            if 200 <= status < 300:
                return True
            reason = f"the receiver answered {status}"
        _log.info(
            "webhook not delivered", extra={"event_id": delivery.event_id, "host": url.host, "reason": reason[:200]}
        )
        return False

    async def _post(self, url: httpx.URL, delivery: Delivery) -> int:
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers = [(b"Host", url.netloc), *self._headers(delivery)]
        async with httpcore.AsyncConnectionPool(
            ssl_context=self._context() if url.scheme == "https" else None,
            network_backend=self._guard,
            max_connections=1,
            max_keepalive_connections=0,
        ) as pool:
            async with pool.stream(
                "POST", target, headers=headers, content=delivery.body, extensions={"timeout": self._timeouts}
            ) as response:
                return response.status

    def _headers(self, delivery: Delivery) -> list[tuple[bytes, bytes]]:
        sent_at = datetime.fromtimestamp(int(delivery.sent_at), UTC)
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(delivery.body)),
            "User-Agent": "asman-webhooks",
            "Connection": "close",
            "webhook-id": delivery.event_id,
            "webhook-timestamp": str(int(delivery.sent_at)),
        }
        if self._signer is not None:
            headers["webhook-signature"] = self._signer.sign(delivery.event_id, sent_at, delivery.body.decode())
        return [(name.encode(), value.encode()) for name, value in headers.items()]

    def _context(self) -> ssl.SSLContext:
        """Made once, when first needed: loading the trusted certificates takes a while."""
        if self._tls is None:
            self._tls = httpx.create_ssl_context(trust_env=False)
        return self._tls


def _read_secret(secret: str) -> Webhook:
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error as error:
        raise _bad_secret("it is not base64") from error
    if not secret.startswith(_SECRET_PREFIX):
        raise _bad_secret(f"it does not start with {_SECRET_PREFIX}")
    if len(key) not in _SECRET_BYTES:
        raise _bad_secret(f"it holds {len(key)} bytes; 24 to 64 are allowed")
    return Webhook(key)


def _bad_secret(why: str) -> ConfigError:
    """The secret itself is not repeated: messages end up in logs."""
    make = "printf whsec_; head -c 32 /dev/urandom | base64"
    return ConfigError(f"webhook_secret cannot be used: {why}; make one with: {make}", hint=make)


def _read_url(text: str) -> httpx.URL:
    """An address that may be asked for at all. Errors: Unprocessable; the guard decides about its host later."""
    if _ASCII_BLANKS_AND_CONTROLS.intersection(text):
        raise _refused(text, "it holds blanks or control characters")
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise _refused(text, "it cannot be read") from error
    if url.scheme not in ("http", "https"):
        raise _refused(text, "only http and https are called")
    if not url.host or b"%" in url.raw_host:
        raise _refused(text, "it names no host, or one with a zone or an escape")
    if url.port is not None and not 0 < url.port < 65_536:
        raise _refused(text, f"{url.port} is not a port")
    if url.userinfo:
        raise Unprocessable(
            "a callback address holds credentials; they would be stored with the job and shown in logs",
            hint="Put a token into the payload, or check the signature of the call.",
        )
    return url


def _refused(text: str, why: str) -> Unprocessable:
    return Unprocessable(f"the callback address {clip(text)} is refused: {why}")
