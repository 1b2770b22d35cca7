"""What an S3 store says when it refuses or fails, in this project's errors.

The driver has tried again by then, with growing pauses, where that can help. No message holds an address with a
query, a header or anything else that a signature may stand in: only the operation and the store's own error code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import ClientError as TransportError
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from asman.errors import AsmanError, ConfigError, StorageFull, Unavailable, clip
from asman_s3.place import Place

__all__ = ["DRIVER_ERRORS", "code_of", "opening_error", "status_of", "told", "translated"]

DRIVER_ERRORS = (BotoCoreError, ClientError, TransportError, OSError)
"""All that a request to the store may raise."""

_CLOCK = frozenset(("RequestTimeTooSkewed", "RequestInTheFuture"))
_CREDENTIALS = frozenset(
    ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired")
)
_BUCKET = frozenset(("NoSuchBucket", "InvalidBucketName"))
_REGION = frozenset(("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"))
_FULL = frozenset(("QuotaExceeded", "EntityTooLarge", "XMinioStorageFull", "InsufficientStorage", "507"))
_DENIED = frozenset(("AccessDenied", "AllAccessDisabled", "403", "Forbidden"))
_CODE = re.compile(r"[A-Za-z0-9]{1,60}")

_CLOCK_TEXT = "the clock of this machine and that of the object store differ by more than the store allows"
_CLOCK_HINT = "Set this machine's clock (NTP), or the store's."
_CREDENTIALS_HINT = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, the profile or the instance role of the server."
_RIGHTS_HINT = "Needed are GetObject, PutObject, DeleteObject, AbortMultipartUpload and ListBucket."


def code_of(error: BaseException) -> str:
    """The store's error code (``SlowDown``), or its status where an answer has no body; empty for other errors."""
    if not isinstance(error, ClientError):
        return ""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code if _CODE.fullmatch(code) else "unknown"


def status_of(error: BaseException) -> int:
    """The HTTP status, 0 where there was no answer."""
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def told(what: str) -> Iterator[None]:
    """Inside, errors of the driver leave as ours. ``what`` names the operation for the message."""
    try:
        yield
    except AsmanError:
        raise
    except DRIVER_ERRORS as error:
        raise translated(error, what) from error


def translated(error: BaseException, what: str) -> AsmanError:
    """The error of ours that says what happened: StorageFull, or Unavailable with what to do."""
    code, status = code_of(error), status_of(error)
    if code in _FULL or status == 507:
        return StorageFull(f"the object store takes no more ({code}); nothing was stored")
    if code in _CLOCK:
        return Unavailable(f"{_CLOCK_TEXT} ({code})", hint=_CLOCK_HINT)
    if code in _CREDENTIALS or isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return Unavailable(
            f"the object store refuses the server's credentials ({_name(error)})", hint=_CREDENTIALS_HINT
        )
    if code in _BUCKET:
        return Unavailable(f"the bucket of the blobs is not there ({code})", hint="Make it: asman s3 init URL")
    if code in _DENIED:
        return Unavailable(f"the object store does not let the server {what} ({code})", hint=_RIGHTS_HINT)
    if isinstance(error, ClientError):
        return Unavailable(f"the object store failed to {what} ({code}, status {status}); repeat the request")
    return Unavailable(f"the object store does not answer ({_name(error)}); could not {what}; repeat the request")


def opening_error(error: BaseException, place: Place) -> ConfigError | None:
    """The ConfigError for what waiting cannot cure; None for a store that is only away."""
    code, status = code_of(error), status_of(error)
    if code in _CLOCK:
        return ConfigError(f"{_CLOCK_TEXT} ({code})", hint=_CLOCK_HINT)
    if code in _CREDENTIALS or isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return ConfigError(f"no credentials that open {place} ({_name(error)})", hint=_CREDENTIALS_HINT)
    if code in _BUCKET or (status == 404 and code in ("404", "NotFound")):
        return ConfigError(f"there is no bucket {clip(place.bucket)} ({code})", hint=f"Make it: asman s3 init {place}")
    if code in _REGION or status == 301:
        return ConfigError(f"the bucket {clip(place.bucket)} is in another region ({code})", hint="Add ?region=NAME.")
    if code in _DENIED:
        return ConfigError(f"the server may not list {place} ({code})", hint=_RIGHTS_HINT)
    if isinstance(error, ClientError) and 400 <= status < 500 and status not in (408, 429):
        return ConfigError(f"{place} cannot be opened ({code}, status {status})")
    return None


def _name(error: Any) -> str:
    return code_of(error) or type(error).__name__
