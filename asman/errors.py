"""Every error asman raises on purpose, in one tree.

    AsmanError
    ├── BadRequest            400  malformed: cannot be read as what it should be
    │   ├── BadJson
    │   ├── BadName           a queue, namespace, job id, blob key or file name
    │   ├── BadMessage        a socket frame
    │   └── BadArchive        a file of asman export
    ├── Unprocessable         422  readable, but not acceptable
    │   ├── BadDefinition
    │   ├── IdMismatch
    │   └── HashMismatch
    ├── NotFound              404
    │   ├── JobNotFound
    │   ├── BlobNotFound
    │   ├── FileNotFound
    │   ├── NotFinished       asked for what only a finished job has
    │   └── RouteNotFound
    ├── MethodNotAllowed      405
    ├── OriginRefused         403
    ├── Expired               410
    ├── Conflict              409  somebody else changed the record first
    │   ├── TransitionRefused the state table has no such step
    │   └── LeaseLost         the reporter no longer holds the job
    ├── RangeRefused          416
    ├── LimitExceeded         413  (or 422 where the limit is on a member)
    ├── RateLimited           429
    ├── StorageFull           507
    ├── Unavailable           503  try again later
    └── ConfigError                before serving: settings, plugins, addresses

A message says what happened, the value, the limit and the next step. ``code`` is stable and is what programs
compare; the text may change. Nothing here knows HTTP beyond the number.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AsmanError",
    "BadArchive",
    "BadDefinition",
    "BadJson",
    "BadMessage",
    "BadName",
    "BadRequest",
    "BlobNotFound",
    "ConfigError",
    "Conflict",
    "Expired",
    "FileNotFound",
    "HashMismatch",
    "IdMismatch",
    "JobNotFound",
    "LeaseLost",
    "LimitExceeded",
    "MethodNotAllowed",
    "NotFinished",
    "NotFound",
    "OriginRefused",
    "RangeRefused",
    "RateLimited",
    "RouteNotFound",
    "StorageFull",
    "TransitionRefused",
    "Unavailable",
    "Unprocessable",
    "clip",
]


def clip(value: object, limit: int = 80) -> str:
    """Quote a caller's value for a message, cut to ``limit`` characters and free of control characters."""
    text = value if isinstance(value, str) else repr(value)
    shown = "".join(c if c.isprintable() else "?" for c in text[:limit])
    return f'"{shown}{"..." if len(text) > limit else ""}"'


class AsmanError(Exception):
    """The root; never raised itself.

    Shape:  ``details`` are (where, what) pairs, where as a dotted path such as ``definition.env.PATH``.
    """

    status = 500
    code = "internal_error"
    hint = ""

    def __init__(self, message: str, *, hint: str = "", details: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or type(self).hint
        self.details = tuple(details)


class BadRequest(AsmanError):
    status = 400
    code = "bad_request"
    hint = "See /openapi.json for the shape of this request."


class BadJson(BadRequest):
    code = "bad_json"
    hint = "Send one JSON document, UTF-8 encoded, without NaN or Infinity."


class BadName(BadRequest):
    code = "bad_name"
    hint = "Use letters, digits and . _ ~ - in names; percent-encode the rest of a path once."


class BadMessage(BadRequest):
    code = "bad_message"
    hint = 'Send text frames of the form {"type": name, "payload": object}.'


class BadArchive(BadRequest):
    code = "bad_archive"
    hint = "Give asman import a whole file that asman export wrote."


class Unprocessable(AsmanError):
    status = 422
    code = "unprocessable"


class BadDefinition(Unprocessable):
    code = "bad_definition"
    hint = "Correct the named members of the definition and submit again."


class IdMismatch(Unprocessable):
    code = "id_mismatch"
    hint = "Leave out the id and the server computes it from the definition."


class HashMismatch(Unprocessable):
    code = "hash_mismatch"
    hint = "The key of a blob is the sha256 of its bytes; upload the bytes that the key names."


class NotFound(AsmanError):
    status = 404
    code = "not_found"


class JobNotFound(NotFound):
    code = "job_not_found"
    hint = "Check the job id and the queue; a job is known from its submit until it expires."


class BlobNotFound(NotFound):
    code = "blob_not_found"
    hint = "Upload it with PUT /f/<sha256>; blobs expire with the jobs that refer to them."


class FileNotFound(NotFound):
    code = "file_not_found"
    hint = "The job's record lists the names of its inputs and outputs."


class NotFinished(NotFound):
    code = "not_finished"
    hint = "Wait for the job, for example with GET /q/<queue>/j/<job>/stream."


class RouteNotFound(NotFound):
    code = "route_not_found"
    hint = "See /openapi.json for the routes of this server."


class MethodNotAllowed(AsmanError):
    status = 405
    code = "method_not_allowed"
    hint = "See /openapi.json for the methods of this path."


class OriginRefused(AsmanError):
    status = 403
    code = "origin_refused"
    hint = "Start the server with --allow-origin for the page that should reach it."


class Expired(AsmanError):
    status = 410
    code = "expired"
    hint = "Submit the job again; data is kept until its expiry time only."


class Conflict(AsmanError):
    status = 409
    code = "conflict"
    hint = "Read the record again and repeat the request."


class TransitionRefused(Conflict):
    code = "transition_refused"


class LeaseLost(Conflict):
    code = "lease_lost"
    hint = "The job has been given to another attempt; drop this one."


class RangeRefused(AsmanError):
    status = 416
    code = "range_refused"
    hint = "Ask for bytes inside the file; HEAD gives its size."


class LimitExceeded(AsmanError):
    status = 413
    code = "limit_exceeded"
    hint = "Put large data into blobs (PUT /f/<sha256>) and refer to them."

    def __init__(
        self, message: str, *, hint: str = "", details: Sequence[tuple[str, str]] = (), status: int = 413
    ) -> None:
        super().__init__(message, hint=hint, details=details)
        self.status = status


class RateLimited(AsmanError):
    status = 429
    code = "rate_limited"
    hint = "Wait as long as Retry-After says."


class StorageFull(AsmanError):
    status = 507
    code = "storage_full"
    hint = "The server's disk is full; nothing was stored. Try again later or tell its operator."


class Unavailable(AsmanError):
    status = 503
    code = "unavailable"
    hint = "Repeat the request; repeating is always safe."


class ConfigError(AsmanError):
    code = "config_error"
