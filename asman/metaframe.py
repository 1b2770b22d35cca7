"""What the page says of itself to pages that embed it: ``GET /metaframe.json``, made from one table of parameters.

Hosts read it to know which parameters of a link are the page's, so that they may keep those and clean the rest, to
show a form for them, and to draw pipes. The page's own reader of links has the same names; a test compares the two.

Source: web client specification 1.3 and 7.1; version 2 of the published metaframe definition, whose ``hashParams``
are a list of names or, as here, a map that also says what each one is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["HASH_PARAMS", "metaframe"]


def _flag(label: str, description: str) -> dict[str, Any]:
    return {
        "type": "boolean",
        "label": label,
        "description": description,
        "allowed": [{"value": True, "label": "On"}, {"value": False, "label": "Off"}],
        "default": {"value": False},
    }


def _text(label: str, description: str) -> dict[str, Any]:
    return {"type": "string", "label": label, "description": description}


def _json(label: str, description: str) -> dict[str, Any]:
    return {"type": "json", "label": label, "description": description}


HASH_PARAMS: Mapping[str, Mapping[str, Any]] = {
    "allowsetjob": _flag(
        "Upstream may change the job", "The input metaframe/job replaces the job, and job/result.json is sent."
    ),
    "autostart": _flag("Run automatically", "The job is submitted when the page opens and whenever it changes."),
    "config": _json("Configuration", "Reserved; without effect."),
    "control": _json("Control", "Who wants the job (namespace) and whom to call when it is queued and finished."),
    "debug": _flag("Debug", "More is logged, in the browser's console and by the worker."),
    "definition": _json("Declared inputs and outputs", "For editors of metapages: {inputs, outputs}, name to {type}."),
    "ignoreQueueOverride": _flag("Keep the own queue", "queue wins over queueOverride."),
    "inputs": _json("Files", "Name to text. They become files of the job: below /inputs, or at an absolute path."),
    "job": _json(
        "Job",
        "What to run: {image, command, env, ...}; the shape is Definition in /openapi.json. Files are in inputs.",
    ),
    "maxJobDuration": _text("Longest run", "Such as 20m or 1h; then the job is ended. A limit in the job wins."),
    "queue": _text("Queue", "Name of the queue; local for a server on this machine; or the URL of a queue elsewhere."),
    "queueOverride": _text("Queue of the host", "Set by the embedding page; wins over queue unless that is ignored."),
    "resolverefs": _flag("Send file contents", "Outputs are sent with their bytes instead of as links."),
    "terminal": _flag("Log first", "The log is shown first, not the editor."),
}
"""Every parameter that the page reads. Others become environment variables of the job and fill in ${NAME}."""


def metaframe(base_url: str) -> dict[str, Any]:
    """The definition as it is served. Shape: plain JSON data, made anew at each call."""
    job = {"type": "json", "description": "A job to run in place of the link's; taken if allowsetjob is on."}
    result = {
        "type": "json",
        "description": "How the job ended: {stdout, stderr, statusCode, error, duration, isTimedOut, url}; "
        "sent if allowsetjob is on.",
    }
    return {
        "version": "2",
        "metadata": {
            "name": "asman",
            "title": "asman: run a container",
            "description": "Runs a container job on a queue, shows its log and passes its files on. Every other input "
            "is a file below /inputs; every file the job leaves in /outputs is an output.",
            "image": f"{base_url}/icon.svg",
            "tags": ["docker", "container", "compute", "queue"],
        },
        "allow": "clipboard-write",
        "inputs": {"metaframe/job": dict(job), "job": dict(job)},
        "outputs": {"job/result.json": result},
        "hashParams": {name: dict(about) for name, about in HASH_PARAMS.items()},
    }
