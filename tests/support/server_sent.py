"""What readers of server-sent events share, over whichever connection the bytes came."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["Event", "read_event"]


@dataclass(frozen=True)
class Event:
    kind: str
    event_id: str
    data: Any


def read_event(block: bytes) -> Event | None:
    """The event of one block between empty lines; None for a comment. Lines that are comments are passed over."""
    lines = block.decode().split("\n")
    members = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
    return Event(members["event"], members["id"], json.loads(members["data"])) if "data" in members else None
