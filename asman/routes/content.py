"""Strangers' bytes, served so that they are only ever data: types from a short list, sandboxed, never script.

Source: promises, "The web origin", single-origin fallback; RFC 6266 for names, RFC 9110 for ranges.
"""

from __future__ import annotations

import mimetypes
import re
from urllib.parse import quote

from asman.errors import RangeRefused, clip

__all__ = ["byte_range", "content_headers", "content_type_of"]

_INLINE = frozenset(
    (
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/webm",
        "audio/ogg",
        "video/ogg",
        "audio/wav",
        "audio/x-wav",
        "audio/mpeg",
        "text/plain",
        "text/csv",
        "application/json",
    )
)
_ATTACHED = frozenset(("application/pdf", "application/zip", "application/gzip", "application/x-tar"))
_CSP = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; frame-ancestors *"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z", re.ASCII)
_DIGITS_COUNTED = 18


def content_type_of(name: str) -> str:
    """The type to serve a file as, from its name; everything that could run somewhere is octet-stream."""
    guessed, coding = mimetypes.guess_type(name)
    if coding is not None or guessed not in _INLINE | _ATTACHED:
        return "application/octet-stream"
    return guessed or "application/octet-stream"


def content_headers(name: str, content_type: str, *, attach: bool | None = None) -> dict[str, str]:
    """Headers for a stranger's file. ``attach`` None: attachment unless the type is safe to show."""
    bare = content_type.split(";")[0]
    attached = bare not in _INLINE if attach is None else attach
    clean = re.sub(r'[\x00-\x1f\x7f"\\/]', "_", name.rsplit("/", 1)[-1]) or "file"
    ascii_name = clean.encode("ascii", "replace").decode().replace("?", "_")
    disposition = f'{"attachment" if attached else "inline"}; filename="{ascii_name}"'
    if ascii_name != clean:
        disposition += f"; filename*=UTF-8''{quote(clean, safe='', errors='replace')}"
    return {
        "content-type": content_type,
        "content-disposition": disposition,
        "content-security-policy": _CSP,
        "cross-origin-resource-policy": "cross-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


def byte_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """The (start, stop) a Range header asks for, None for the whole file; several ranges count as the whole.

    Errors: RangeRefused when no byte of it exists.
    """
    found = _RANGE.match(header.strip()) if header else None
    if found is None or found[1] == found[2] == "":
        return None
    if found[1] == "":
        start, stop = max(size_bytes - _offset(found[2]), 0), size_bytes
    else:
        start = _offset(found[1])
        stop = min(_offset(found[2]) + 1, size_bytes) if found[2] else size_bytes
    if start >= size_bytes or stop <= start:
        raise RangeRefused(f"the range {clip(header)} has no byte of the {size_bytes} there are")
    return start, stop


def _offset(digits: str) -> int:
    """Beyond any file, however many digits it has."""
    return int(digits) if len(digits) <= _DIGITS_COUNTED else 10**_DIGITS_COUNTED
