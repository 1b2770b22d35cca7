"""The worker's own log lines: for people, or one JSON object each for programs. The fields are the same in both.

A record's message is constant text and its values are fields; nothing is put into the message. What a job prints is
not logged at all, it goes to the server.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, TextIO

__all__ = ["JsonLines", "TextLines", "log_to"]

_NOT_LOGGED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _NOT_LOGGED}


class TextLines(logging.Formatter):
    """One line for a record: time, level, message, then its fields as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        told = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        moment = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        line = f"{moment} {record.levelname.lower():7} {record.getMessage()}" + (f"  {told}" if told else "")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One JSON object on one line: ``time`` (RFC 3339, UTC), ``level``, ``message``, ``logger``, then the fields.

    Shape:  a field that is no JSON value is written as text; a traceback is the field ``traceback``.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "logger": record.name,
        }
        line = {**_fields(record), **line}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to(stream: TextIO, *, form: str = "text", debug: bool = False) -> None:
    """Have everything logged to this stream, and to nothing else. Shape: ``form`` is text or json."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("asman_worker").setLevel(logging.DEBUG if debug else logging.INFO)
