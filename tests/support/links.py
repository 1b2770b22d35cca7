"""Links of the page, written as the published hash library wrote them: JSON, percent-encoded, base64, percent-encoded.

Source: web client specification 1.2.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

__all__ = ["README_LINK", "decoded", "encoded", "link"]

_KEPT = "!'()*-._~"
"""What encodeURIComponent leaves as it is, beside letters and digits."""

README_LINK = (
    "#?ignoreQueueOverride=true&job=JTdCJTIyY29tbWFuZCUyMiUzQSUyMmVjaG8lMjAlNUMlMjJoZWxsbyUyMHdvcmxkJTVDJTIyJTIyJTJDJTIy"
    "aW1hZ2UlMjIlM0ElMjJhbHBpbmUlM0EzLjE5LjElMjIlN0Q%3D&queue=public1"
)
"""The example of the specification, as it stands there."""


def encoded(value: Any) -> str:
    """One JSON value, as it stands behind a name in a link."""
    inner = quote(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False), safe=_KEPT)
    return quote(base64.b64encode(inner.encode()).decode(), safe=_KEPT)


def decoded(text: str) -> Any:
    """What ``encoded`` wrote, once the address has been percent-decoded."""
    return json.loads(unquote(base64.b64decode(text).decode()))


def link(
    url: str, *, job: Mapping[str, Any] | None = None, inputs: Mapping[str, str] | None = None, **more: str
) -> str:
    """A link to the page of a server. ``more`` are parameters that are text: ``queue="q"``, ``autostart="true"``."""
    values = {name: quote(text, safe=_KEPT) for name, text in more.items()}
    if job is not None:
        values["job"] = encoded(job)
    if inputs is not None:
        values["inputs"] = encoded(inputs)
    return f"{url}/#?" + "&".join(f"{name}={values[name]}" for name in sorted(values))
