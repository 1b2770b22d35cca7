"""The HTTP interface as data: one table of routes, one of shapes, and the OpenAPI 3.1 document made from them.

``ROUTES`` lists every operation the server has, with what it takes and all it may answer; ``/openapi.json``, the
types of the web client and the contract tests are made from it, and a test walks the app's own routes both ways.
Nothing here handles a request: what a route does is the routes' and the operations' to say.

Shapes are open where the project may have more to say later (answers, definitions) and closed where an unknown
member would be without effect (what a submit says beside its definition).

Source: published HTTP interface, route table and bodies; the additions are this project's ("One API, extended").
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from asman import errors
from asman.definition import REF_TYPES
from asman.errors import AsmanError
from asman.job import Outcome, Reason, State

__all__ = ["ROUTES", "SCHEMAS", "WEBSOCKETS", "Reply", "Route", "openapi"]

_Schema = dict[str, Any]

_JSON = "application/json"
_TEXT = "text/plain"
_HTML = "text/html"
_BYTES = "*/*"


# --- writing schemas -------------------------------------------------------------------------------------------------


def _ref(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Mapping[str, _Schema], optional: Mapping[str, _Schema] | None = None, **more: Any) -> _Schema:
    schema: _Schema = {"type": "object", "properties": {**required, **(optional or {})}}
    if required:
        schema["required"] = list(required)
    return {**schema, **more}


def _map(values: _Schema, **more: Any) -> _Schema:
    return {"type": "object", "additionalProperties": values, **more}


def _list(items: _Schema, **more: Any) -> _Schema:
    return {"type": "array", "items": items, **more}


def _text(description: str = "", **more: Any) -> _Schema:
    return {"type": "string", **({"description": description} if description else {}), **more}


def _one_of(values: type[Reason] | type[Outcome], **more: Any) -> _Schema:
    return {"type": "string", "enum": [member.value for member in values], **more}


def _or_null(schema: _Schema) -> _Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _data(schema: _Schema) -> _Schema:
    """Most answers put what was asked for into ``data``."""
    return _object({"data": schema})


_YES: _Schema = {"const": True}
_FLAG: _Schema = {"type": "boolean"}
_WHOLE: _Schema = {"type": "integer"}
_COUNT: _Schema = {"type": "integer", "minimum": 0}
_NUMBER: _Schema = {"type": "number"}
_MS: _Schema = {"type": "integer", "description": "Milliseconds since the epoch, UTC."}
_AMOUNT: _Schema = {"type": ["string", "number", "null"]}
_WORDS: _Schema = {"type": ["string", "array", "null"], "items": {"type": "string"}}
_OPTIONAL_TEXT: _Schema = {"type": ["string", "null"]}
_QUEUE = {"type": "string", "pattern": "^[A-Za-z0-9._~-]{1,128}$", "not": {"enum": [".", ".."]}}
_JOB_ID = _text("sha256 of the definition's canonical JSON, as 64 lowercase hex digits.", pattern="^[0-9a-f]{64}$")


def _codes() -> list[str]:
    """The slug of every error that the server raises on purpose."""
    kinds = [getattr(errors, name) for name in errors.__all__]
    return sorted({kind.code for kind in kinds if isinstance(kind, type) and issubclass(kind, AsmanError)})


# --- shapes ----------------------------------------------------------------------------------------------------------

_STATE = _text(enum=[state.value for state in State if state is not State.ABSENT])

_RECORD: dict[str, _Schema] = {
    "queuedTime": _MS,
    "state": _STATE,
    "time": _MS,
    "worker": _text("The worker that holds the job or held it last; empty if none has."),
    "namespaces": _list(_text()),
    "attempt": _COUNT | {"description": "Rises with every claim; results of older attempts are refused."},
    "generation": _COUNT | {"description": "Rises with every submit that starts the job anew."},
    "expiresAt": _MS,
}
_END: dict[str, _Schema] = {
    "finishedReason": _one_of(Reason),
    "outcome": _one_of(Outcome, description="What really happened, a non-zero exit code included."),
}
_RECORD_MORE: dict[str, _Schema] = {
    "leaseUntil": _MS,
    "exitCode": _WHOLE,
    "message": _text(),
    "debug": _FLAG,
    "requirements": {"type": "object"},
    "tags": _list(_text()),
    "attempts": _list(_ref("Attempt")),
}
_FINISHED = _object(
    {"reason": _one_of(Reason)},
    {
        "type": {"const": "Finished"},
        "time": _MS,
        "worker": _text(),
        "message": _text(),
        "namespace": _text(),
        "outcome": _one_of(Outcome),
        "result": _ref("RunResult"),
    },
)

_HAPPENED: Mapping[str, _Schema] = {
    "submitted": _COUNT | {"description": "Submits that queued a job; cached answers are none."},
    "started": _COUNT,
    "finished": _map(_COUNT) | {"description": "By outcome."},
    "wait": _ref("Durations") | {"description": "From queued to started."},
    "run": _ref("Durations") | {"description": "From started to reported."},
}

SCHEMAS: Mapping[str, _Schema] = {
    "DataRef": _object(
        {"value": {"description": "Text; for the type json any value."}},
        {
            "type": {
                "type": ["string", "null"],
                "enum": [*sorted(REF_TYPES), "", None],
                "description": "Default utf8.",
            },
            "hash": {"type": ["string", "null"], "description": "sha256 of the content; no part of the job's id."},
        },
        description="A file: its content, or where it is (a url, or the key of a blob of this server).",
    ),
    "Definition": _object(
        {},
        {
            "v": {"type": ["number", "string", "boolean", "null"]},
            "image": _OPTIONAL_TEXT | {"description": "Image to run; without it, build."},
            "build": {
                "type": ["object", "null"],
                "properties": {
                    "context": _OPTIONAL_TEXT,
                    "buildContext": _OPTIONAL_TEXT,
                    "filename": _OPTIONAL_TEXT,
                    "target": _OPTIONAL_TEXT,
                    "dockerfile": _OPTIONAL_TEXT,
                    "buildArgs": {"type": ["array", "null"], "items": _text()},
                    "platform": _OPTIONAL_TEXT,
                },
            },
            "command": _WORDS,
            "entrypoint": _WORDS,
            "env": {"type": ["object", "null"], "additionalProperties": _OPTIONAL_TEXT},
            "workdir": _OPTIONAL_TEXT,
            "shmSize": _AMOUNT,
            "inputs": {"type": ["object", "null"], "additionalProperties": _ref("DataRef")},
            "configFiles": {"type": ["object", "null"], "additionalProperties": _ref("DataRef")},
            "maxDuration": _AMOUNT | {"description": "Such as 20m or 1h; a number is milliseconds."},
            "tags": {"type": ["array", "null"], "items": _text()},
            "requirements": {
                "type": ["object", "null"],
                "properties": {
                    "cpus": {"type": ["number", "null"], "exclusiveMinimum": 0},
                    "gpus": {"type": ["integer", "boolean", "null"]},
                    "memory": _AMOUNT,
                    "maxDuration": _AMOUNT,
                    "network": {
                        "enum": ["none", "egress", "", None],
                        "description": "What the container reaches: nothing, or the public internet only. "
                        "Without it the worker's owner decides.",
                    },
                },
            },
        },
        anyOf=[{"required": ["image"]}, {"required": ["build"]}],
        additionalProperties=True,
        description="What to run. Members that are not listed are kept, have no effect and are warned about.",
    ),
    "Callback": _object(
        {"url": _text("Where to POST the event; a public http or https address.", format="uri")},
        {"payload": {"description": "Handed on as config."}},
    ),
    "Control": _object(
        {},
        {
            "namespace": _OPTIONAL_TEXT | {"description": "Who wants the job; default _."},
            "callbacks": {
                "type": ["object", "null"],
                "properties": {"queued": _ref("Callback"), "finished": _ref("Callback")},
                "additionalProperties": False,
            },
        },
        additionalProperties=False,
        description="Members of older clients that would be without effect (maxDuration, outputs) are refused.",
    ),
    "EnqueueJob": _object(
        {"definition": _ref("Definition")},
        {
            "id": _OPTIONAL_TEXT | {"description": "Must be the definition's id; computed if it is left out."},
            "control": _or_null(_ref("Control")),
            "debug": {"type": ["boolean", "null"]},
        },
        additionalProperties=False,
    ),
    "CopyJob": _object({"queue": _QUEUE}, {"control": _or_null(_ref("Control"))}),
    "Attempt": _object(
        {
            "attempt": _COUNT,
            "worker": _text(),
            "start": _MS,
            "end": _MS,
            "how": _text("reported, lost, released, cancelled, replaced, deleted or taken_over."),
        }
    ),
    "QueueRecord": _object(
        _RECORD, {**_END, **_RECORD_MORE}, description="A job in a listing. Members that do not apply are left out."
    ),
    "RunResult": _object(
        {},
        {
            "StatusCode": {"type": ["integer", "null"], "description": "The container's exit code."},
            "logs": _list(_ref("LogLine")),
            "duration": {"type": ["number", "null"], "description": "Milliseconds."},
            "error": {"description": "What went wrong, if something did."},
            "isTimedOut": {"type": ["boolean", "null"]},
            "outputs": {"type": ["object", "null"], "additionalProperties": _ref("DataRef")},
            "steps": _list({"type": "array", "prefixItems": [_text(), _NUMBER], "minItems": 2, "maxItems": 2})
            | {"description": "When the worker's steps began: name, and milliseconds since the epoch."},
        },
        additionalProperties=True,
    ),
    "FinishedRecord": _object(
        {**_RECORD, **_END, "finished": _FINISHED},
        _RECORD_MORE,
        description="The whole record of a job that left a result.",
    ),
    "LogLine": {
        "type": "array",
        "description": "Text, milliseconds since the epoch, and true for the error stream.",
        "prefixItems": [_text(), _NUMBER, _FLAG],
        "minItems": 1,
        "maxItems": 3,
    },
    "LogSlice": _object(
        {
            "data": _list(_ref("LogLine")),
            "sliceStart": _COUNT | {"description": "Index of the first line here."},
            "nextCursor": _COUNT | {"description": "Ask with since=nextCursor for what comes next."},
            "isFinal": _FLAG | {"description": "The job has ended: no more lines come."},
            "attempt": _COUNT | {"description": "A new attempt starts again at 0."},
        }
    ),
    "StreamEvent": _object(
        {
            "event": _text(enum=["state", "build-log", "run-log", "final"]),
            "id": _text("Attempt and the cursors of both logs: what Last-Event-ID takes.", pattern=r"^\d+-\d+-\d+$"),
            "data": _text("JSON: {lines, cursor} for logs, else {state, reason?}.", contentMediaType=_JSON),
        }
    ),
    "Submitted": _object(
        {
            "success": _YES,
            "jobId": _JOB_ID,
            "cached": _FLAG | {"description": "A stored result answers; nothing will run."},
            "state": _STATE,
        },
        {
            "warnings": _list(_text()),
            "job": _ref("QueueRecord"),
            "data": _or_null(_ref("FinishedRecord"))
            | {"description": "With Prefer: wait, if the job ended in time: as result.json answers."},
        },
    ),
    "DryRun": _object(
        {
            "success": _YES,
            "dryRun": _YES,
            "jobId": _JOB_ID,
            "cached": _FLAG,
            "wouldRun": {"type": ["boolean", "null"], "description": "Would a worker that is connected here take it?"},
            "workers": _COUNT | {"description": "How many workers are connected here."},
            "fitting": _list(_text("A worker that would take it.")),
            "state": _or_null(_STATE) | {"description": "What it is now; null if it is not known in this queue."},
        },
        {"warnings": _list(_text())},
    ),
    "Job": _object(
        {"definition": _ref("Definition")},
        {"results": _ref("FinishedRecord"), "job": _ref("QueueRecord")},
    ),
    "Cancelled": {
        "anyOf": [
            _object(
                {
                    "success": _YES,
                    "jobId": _JOB_ID,
                    "namespace": _text(),
                    "state": _STATE,
                    "namespaces": _list(_text("Who wants it still.")),
                }
            ),
            _object(
                {"message": _text("Why there was nothing to cancel.")},
                {"state": _STATE, "namespaces": _list(_text())},
            ),
        ]
    },
    "Deleted": _object({"success": _YES, "jobId": _JOB_ID, "state": _STATE, "namespaces": _list(_text())}),
    "Copied": _object({"success": _YES, "jobId": _JOB_ID, "cached": _FLAG}),
    "Why": _object(
        {
            "jobId": _JOB_ID,
            "state": _STATE,
            "position": {"type": ["integer", "null"], "description": "Jobs before it; null if it does not wait."},
            "queuedTime": _MS,
            "waitedSeconds": {"type": ["number", "null"]},
            "attempt": _COUNT,
            "workers": _list(_ref("WorkerFit")),
            "reason": _text("The answer in one sentence."),
        }
    ),
    "WorkerFit": _object(
        {
            "id": _text(),
            "fits": _FLAG | {"description": "It would take the job if it were idle."},
            "free": _FLAG | {"description": "It would take it now."},
            "rules": _list(
                _object({"rule": _text(), "passed": _FLAG, "asked": _text(), "has": _text(), "freeNow": _text()})
            ),
        }
    ),
    "Stored": _object({"success": _YES, "key": _text(), "size": _COUNT, "sha256": _text()}),
    "Exists": _object({"exists": _FLAG}),
    "SignedUrl": _object({"url": _text(), "ref": _ref("DataRef")}, {"size": _COUNT}),
    "Status": _object(
        {
            "jobs": _map(_ref("QueueRecord")),
            "otherServers": _map({"type": "object"}),
            "localWorkers": _map(
                _object({"id": _text()}, {"cpus": _NUMBER, "gpus": _NUMBER, "queue": {"type": "object"}})
            ),
            "clientCount": _COUNT,
            "queueInfo": _object(
                {
                    "address": _text("The queue."),
                    "serverId": _text(),
                    "broadcastChannel": _text("How servers tell each other of changes."),
                    "jobCount": _COUNT,
                    "localWorkerCount": _COUNT,
                    "otherWorkerCount": _COUNT,
                    "clientCount": _COUNT,
                    "jobStates": _list(_object({"id": _text(), "state": _STATE, "worker": _text()})),
                }
            ),
        }
    ),
    "Scale": _object(
        {
            "queue": _QUEUE,
            "backlog": _COUNT | {"description": "Queued jobs."},
            "running": _COUNT,
            "length": _COUNT | {"description": "Queued and running jobs."},
            "oldestWaitSeconds": {"type": "number", "minimum": 0, "description": "0 if nothing waits."},
            "requested": _ref("Amounts"),
            "workers": _COUNT | {"description": "Workers that are connected."},
            "free": _ref("Amounts"),
            "tooLarge": _COUNT | {"description": "Queued jobs that fit no worker of this size."},
            "desiredWorkers": _COUNT | {"description": "Workers of this size that would run everything at once."},
        }
    ),
    "QueueHistory": _object(
        {
            "queue": _QUEUE,
            "time": _MS | {"description": "Now."},
            "since": _MS | {"description": "What happened earlier was not counted: a server may have begun then."},
            "servers": _COUNT | {"description": "Whose counts these are: of all servers that answered in time."},
            "queued": _COUNT | {"description": "Jobs that wait now."},
            "hour": _object(_HAPPENED),
            "minutes": _list(_ref("QueueMinute")),
        }
    ),
    "QueueMinute": _object(
        {"start": _MS, "queued": _COUNT | {"description": "Jobs that waited at the end of it."}, **_HAPPENED}
    ),
    "Durations": _object(
        {
            "count": _COUNT,
            "median": {"type": ["number", "null"], "description": "Seconds, within 5 %; null if there is none."},
            "p90": {"type": ["number", "null"], "description": "Seconds: nine of ten were not longer."},
        }
    ),
    "Metaframe": _object(
        {
            "version": {"const": "2"},
            "metadata": {"type": "object"},
            "inputs": _map({"type": "object"}),
            "outputs": _map({"type": "object"}),
            "hashParams": _map(
                _object(
                    {"type": _text(), "label": _text(), "description": _text()},
                    {"allowed": _list({"type": "object"}), "default": {"type": "object"}},
                )
            ),
        },
        {"allow": _text("Browser features that a frame of it wants.")},
    ),
    "Amounts": _object({"cpus": {"type": "number", "minimum": 0}, "gpus": _COUNT}),
    "Error": _object(
        {
            "error": _text("What happened, the value and the limit, in one sentence."),
            "code": _text("Stable; what programs compare.", enum=_codes()),
            "hint": _text("The next step."),
            "requestId": _text(),
        },
        {"details": _list(_object({"loc": _text(), "msg": _text()}))},
    ),
}


# --- parameters ------------------------------------------------------------------------------------------------------


def _parameter(where: str, name: str, schema: _Schema, description: str) -> _Schema:
    return {"name": name, "in": where, "required": where == "path", "schema": schema, "description": description}


_PARAMETERS: Mapping[str, _Schema] = {
    "queue": _parameter(
        "path",
        "queue",
        _QUEUE,
        "The queue; it exists from its first use, and knowing its name is the key to it.",
    ),
    "jobId": _parameter("path", "jobId", _JOB_ID, "The job."),
    "key": _parameter(
        "path",
        "key",
        _text(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"),
        "The blob; 64 hex digits are the sha256 of its bytes, and checked.",
    ),
    "name": _parameter("path", "name", _text(minLength=1), "The file's name; it may hold slashes, as they are."),
    "namespaceInPath": _parameter("path", "namespace", _text(minLength=1), "As the parameter, which wins over this."),
    "since": _parameter("query", "since", {"type": "number", "default": 0}, "Index of the first line wanted."),
    "namespace": _parameter("query", "namespace", _text(), "Who gives up the job; default _, and * for all."),
    "deleteFor": _parameter("query", "namespace", _text(), "Who gives up the job; default *, which is all."),
    "message": _parameter("query", "message", _text(), "Why; kept with the job."),
    "saveAs": _parameter("query", "name", _text(), "File name to save as; it chooses the content type too."),
    "bytes": _parameter("query", "size", _COUNT, "Bytes to come; the url may then be for exactly so many."),
    "buildSince": _parameter("query", "build_since", _COUNT, "Build log lines that the caller has."),
    "runSince": _parameter("query", "run_since", _COUNT, "Run log lines that the caller has."),
    "needs": _parameter(
        "query",
        "needs",
        _text(enum=["cpu", "gpu"]),
        "Count only jobs that need a GPU and workers that have one, or only the others.",
    ),
    "cpusPerWorker": _parameter(
        "query",
        "cpus_per_worker",
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1_000_000},
        "Cores of one more worker. Left out: cores do not bound how many jobs share a worker.",
    ),
    "gpusPerWorker": _parameter(
        "query",
        "gpus_per_worker",
        {"type": "integer", "minimum": 0, "maximum": 1_000_000},
        "GPUs of one more worker. Left out: a job that needs GPUs has a worker to itself.",
    ),
    "dryRun": _parameter("query", "dry_run", _text(), "1: say what a submit would do, and do nothing."),
    "prefer": _parameter(
        "header", "Prefer", _text(examples=["wait=30"]), "wait=SECONDS: answer with the result if it comes in time."
    ),
    "range": _parameter("header", "Range", _text(examples=["bytes=0-1023"]), "Bytes wanted, one range."),
    "ifNoneMatch": _parameter("header", "If-None-Match", _text(), "An ETag that the caller has."),
    "lastEventId": _parameter("header", "Last-Event-ID", _text(), "Resume behind this event."),
}

_HEADERS: Mapping[str, _Schema] = {
    "Accept-Ranges": {"schema": {"const": "bytes"}},
    "Asman-Durability": {
        "schema": {"enum": ["disk", "everysec", "memory"]},
        "description": "What the acknowledged job survives: the power cord, all but its last second, or nothing.",
    },
    "Content-Disposition": {"schema": _text(), "description": "Attachment, unless the type is safe to show."},
    "Content-Range": {"schema": _text()},
    "Content-Security-Policy": {"schema": _text(), "description": "A sandbox: these are a stranger's bytes."},
    "ETag": {"schema": _text()},
    "Location": {"schema": _text(), "description": "An absolute address."},
    "Retry-After": {"schema": _text(), "description": "Seconds."},
    "Vary": {"schema": _text(), "description": "Accept is in it: browsers get the page here, programs JSON."},
    "X-Content-Type-Options": {"schema": {"const": "nosniff"}},
}

_ERRORS: Mapping[int, str] = {
    400: "Malformed: a name, parameter or body cannot be read as what it should be.",
    403: "Refused to this origin or host name: the server listens on loopback.",
    404: "Unknown.",
    409: "Does not apply to what the job or blob is now.",
    410: "Its data has expired.",
    413: "Larger than allowed.",
    416: "No such byte.",
    422: "Understood, but not acceptable; details say where.",
    429: "More than one source or queue may use; wait as Retry-After says.",
    503: "Not now; repeating is safe.",
    507: "The server's disk is full; nothing was stored.",
}


# --- routes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer.

    Shape:  ``body`` is a schema: None for no body at all, empty for any bytes. ``or_page``: a caller that prefers
            text/html gets the page instead.
    """

    text: str
    body: _Schema | None = None
    content_type: str = _JSON
    headers: tuple[str, ...] = ()
    or_page: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation.

    Shape:  ``takes`` names parameters that are not in the path; ``body`` names a schema, or is ``bytes``; ``errors``
            are statuses answered with an ``Error``. Every route may also answer 403 and 503, and says so.
    """

    name: str
    method: str
    path: str
    summary: str
    tag: str
    replies: Mapping[int, Reply]
    errors: tuple[int, ...] = ()
    takes: tuple[str, ...] = ()
    body: str = ""
    detail: str = ""
    deprecated: bool = False

    def at(self, path: str, name: str, *, deprecated: bool = False) -> Route:
        """The same operation under another path."""
        also = f"Same as {self.method} {self.path}."
        return replace(self, path=path, name=name, deprecated=deprecated, detail=f"{also} {self.detail}".strip())

    def in_queue(self, *more_errors: int) -> Route:
        """The same operation of the job in one queue."""
        scoped = self.at(f"/q/{{queue}}{self.path}", f"{self.name}_in_queue")
        return replace(scoped, errors=(*self.errors, *more_errors), detail="Looks at this queue only. " + self.detail)


def _ok(text: str, schema: _Schema, *, or_page: bool = False) -> Mapping[int, Reply]:
    return {200: Reply(text=text, body=schema, headers=("Vary",) if or_page else (), or_page=or_page)}


def _json_only(route: Route) -> Route:
    """The same for everybody: browsers get no page here."""
    return replace(route, replies={s: replace(r, headers=(), or_page=False) for s, r in route.replies.items()})


_FILE_HEADERS = ("Content-Disposition", "Content-Security-Policy", "X-Content-Type-Options")
_RANGE_HEADERS = ("Accept-Ranges", "ETag", *_FILE_HEADERS)
_FILE = Reply(text="The bytes.", body={}, content_type=_BYTES, headers=_FILE_HEADERS)
_ELSEWHERE = Reply(text="The bytes are at another address.", headers=("Location",))

_SUBMIT = Route(
    name="submit",
    method="POST",
    path="/q/{queue}",
    summary="Submit a job",
    tag="jobs",
    replies={
        200: Reply(
            text="On stable storage; or, for a dry run, what would be.",
            body={"anyOf": [_ref("Submitted"), _ref("DryRun")]},
            headers=("Asman-Durability",),
        )
    },
    errors=(400, 409, 413, 422, 429, 507),
    takes=("dryRun", "prefer"),
    body="EnqueueJob",
    detail="Repeating is always safe: the same definition is the same job. The body is read as JSON whatever its type.",
)
_LIST = Route(
    name="list_jobs",
    method="GET",
    path="/q/{queue}",
    summary="List the jobs of a queue",
    tag="jobs",
    replies=_ok("By job id. An unknown queue is an empty one.", _data(_map(_ref("QueueRecord"))), or_page=True),
    errors=(400,),
    detail="Finished jobs are shown for a minute; cancelled, replaced and deleted ones are not.",
)
_LOOKUP = Route(
    name="get_job",
    method="GET",
    path="/j/{jobId}",
    summary="Definition and result of a job",
    tag="jobs",
    replies=_ok("results are there once the job has left some.", _data(_ref("Job")), or_page=True),
    errors=(400, 404, 410),
)
_DEFINITION = Route(
    name="get_definition",
    method="GET",
    path="/j/{jobId}/definition.json",
    summary="The definition, as it was submitted",
    tag="jobs",
    replies=_ok("null for an unknown job.", _data(_or_null(_ref("Definition")))),
    errors=(400, 410),
)
_RESULT = Route(
    name="get_result",
    method="GET",
    path="/j/{jobId}/result.json",
    summary="The whole record of a finished job",
    tag="jobs",
    replies=_ok(
        "null for a job that is unknown, unfinished or left no result.", _data(_or_null(_ref("FinishedRecord")))
    ),
    errors=(400, 410),
)
_OUTPUT = Route(
    name="get_output",
    method="GET",
    path="/j/{jobId}/outputs/{name}",
    summary="One output file",
    tag="files",
    replies={200: _FILE, 302: _ELSEWHERE},
    errors=(400, 404, 410, 422),
)
_INPUT = replace(_OUTPUT, name="get_input", path="/j/{jobId}/inputs/{name}", summary="One input file")
_RUN_LOGS = Route(
    name="get_run_logs",
    method="GET",
    path="/j/{jobId}/run-logs.json",
    summary="Log lines of the container",
    tag="logs",
    replies=_ok("Lines from since on, of the latest attempt.", _ref("LogSlice")),
    errors=(400, 410),
    takes=("since",),
)
_BUILD_LOGS = replace(
    _RUN_LOGS,
    name="get_build_logs",
    path="/j/{jobId}/build-logs.json",
    summary="Log lines of fetching and building the image",
)
_CANCEL = Route(
    name="cancel",
    method="POST",
    path="/q/{queue}/j/{jobId}/cancel",
    summary="Give a job up, for one namespace or for all",
    tag="jobs",
    replies=_ok("Done; a message alone if there was nothing to cancel.", _ref("Cancelled")),
    errors=(400, 404, 410),
    takes=("namespace", "message"),
    detail="Final at once when no other namespace holds the job.",
)
_STATUS = Route(
    name="get_status",
    method="GET",
    path="/q/{queue}/status",
    summary="Jobs, workers and clients of a queue",
    tag="server",
    replies=_ok("As seen from this server.", _ref("Status")),
    errors=(400,),
)
_SCALE = Route(
    name="get_scale",
    method="GET",
    path="/q/{queue}/scale",
    summary="How many workers a queue wants",
    tag="server",
    replies=_ok("An unknown queue is an empty one.", _ref("Scale")),
    errors=(400, 422),
    takes=("needs", "cpusPerWorker", "gpusPerWorker"),
    detail="For autoscalers that read one number: desiredWorkers. A job that nothing bounds has a worker to itself, so "
    "without a size every outstanding job wants a worker.",
)
_HISTORY = Route(
    name="get_queue_history",
    method="GET",
    path="/q/{queue}/history",
    summary="What happened in a queue within the last hour",
    tag="server",
    replies=_ok("Minute by minute, oldest first. An unknown queue is an empty one.", _ref("QueueHistory")),
    errors=(400,),
    detail="For people who look at a queue. The numbers are kept in memory only: they begin anew with each server, and "
    "since says from when on they are whole. Servers that share a store are summed up.",
)
_METRICS = Route(
    name="get_queue_metrics",
    method="GET",
    path="/q/{queue}/metrics",
    summary="Metrics of a queue, for autoscalers",
    tag="server",
    replies={
        200: Reply(text="Prometheus text; queue_length counts Queued and Running.", body=_text(), content_type=_TEXT)
    },
    errors=(400,),
)

ROUTES: tuple[Route, ...] = (
    _SUBMIT,
    _SUBMIT.at("/q/{queue}/j", "submit_alias"),
    _LIST,
    _json_only(_LIST.at("/q/{queue}/j", "list_jobs_alias")),
    _LOOKUP,
    _json_only(_LOOKUP.at("/j/{jobId}.json", "get_job_json")),
    replace(_json_only(_LOOKUP.in_queue()), detail="Looks at this queue only, and adds the job's record in it (job)."),
    _DEFINITION,
    _DEFINITION.in_queue(),
    _RESULT,
    _RESULT.in_queue(),
    _RESULT.at("/j/{jobId}/results.json", "get_result_alias"),
    _RESULT.at("/q/{queue}/j/{jobId}/results.json", "get_result_alias_in_queue"),
    _OUTPUT,
    _OUTPUT.in_queue(),
    _INPUT,
    _INPUT.in_queue(),
    _RUN_LOGS,
    _RUN_LOGS.in_queue(),
    _BUILD_LOGS,
    _BUILD_LOGS.in_queue(),
    Route(
        name="follow",
        method="GET",
        path="/q/{queue}/j/{jobId}/stream",
        summary="Follow a job until it ends",
        tag="logs",
        replies={
            200: Reply(
                text="Events build-log and run-log {lines, cursor}, state {state, reason?}, and at the end final.",
                body=_ref("StreamEvent"),
                content_type="text/event-stream",
            )
        },
        errors=(400,),
        takes=("lastEventId", "buildSince", "runSince"),
        detail="All that is known is sent first. A comment every 15 s keeps the connection.",
    ),
    Route(
        name="why",
        method="GET",
        path="/q/{queue}/j/{jobId}/why",
        summary="Why a job waits",
        tag="jobs",
        replies=_ok("Its place, and each connected worker held against each rule.", _data(_ref("Why"))),
        errors=(400, 404, 410),
    ),
    Route(
        name="get_history",
        method="GET",
        path="/q/{queue}/j/{jobId}/history.json",
        summary="Past attempts of a job",
        tag="jobs",
        replies=_ok("Oldest first; the latest ten are kept.", _data(_list(_ref("Attempt")))),
        errors=(400, 404, 410),
    ),
    Route(
        name="get_namespaces",
        method="GET",
        path="/q/{queue}/j/{jobId}/namespaces.json",
        summary="Who wants a job",
        tag="jobs",
        replies=_ok("Sorted; empty for an unknown job.", _data(_list(_text()))),
        errors=(400,),
    ),
    _CANCEL,
    replace(
        _CANCEL.at("/q/{queue}/j/{jobId}/{namespace}/cancel", "cancel_namespace"),
        detail="The namespace in the path counts; one given as parameter wins.",
    ),
    Route(
        name="delete_job",
        method="DELETE",
        path="/q/{queue}/j/{jobId}",
        summary="Drop a job with its result and logs",
        tag="jobs",
        replies=_ok("Gone, unless other namespaces hold it still.", _ref("Deleted")),
        errors=(400, 404, 409),
        takes=("deleteFor",),
    ),
    Route(
        name="copy",
        method="POST",
        path="/j/{jobId}/copy",
        summary="Put a known job on another queue",
        tag="jobs",
        replies=_ok("Queued there; a stored result travels with it.", _ref("Copied")),
        errors=(400, 404, 409, 410, 413, 422, 429, 507),
        body="CopyJob",
    ),
    Route(
        name="put_blob",
        method="PUT",
        path="/f/{key}",
        summary="Store bytes",
        tag="files",
        replies={
            200: Reply(text="Stored.", body=_ref("Stored")),
            307: Reply(text="Send the same request to this address.", headers=("Location",)),
        },
        errors=(400, 409, 413, 422, 507),
        body="bytes",
        detail="Streamed, whatever the size. Under a key of 64 hex digits the bytes must have that sha256.",
    ),
    Route(
        name="get_blob",
        method="GET",
        path="/f/{key}",
        summary="Read bytes",
        tag="files",
        replies={
            200: replace(_FILE, headers=_RANGE_HEADERS),
            206: replace(_FILE, text="The bytes asked for.", headers=("Content-Range", *_RANGE_HEADERS)),
            302: _ELSEWHERE,
            304: Reply(text="The caller has it.", headers=("ETag",)),
        },
        errors=(400, 404, 410, 416),
        takes=("saveAs", "range", "ifNoneMatch"),
    ),
    Route(
        name="head_blob",
        method="HEAD",
        path="/f/{key}",
        summary="What GET would answer, without the bytes",
        tag="files",
        replies={
            200: Reply(text="It is here.", headers=("Content-Disposition", "ETag")),
            206: Reply(text="It is here.", headers=("Content-Range", "ETag")),
            302: _ELSEWHERE,
            304: Reply(text="The caller has it.", headers=("ETag",)),
            **{status: Reply(text=_ERRORS[status]) for status in (400, 404, 410, 416)},
        },
        takes=("range", "ifNoneMatch"),
    ),
    Route(
        name="has_blob",
        method="GET",
        path="/f/{key}/exists",
        summary="Is a blob here?",
        tag="files",
        replies={
            200: Reply(text="Yes.", body=_ref("Exists")),
            404: Reply(text="No.", body=_ref("Exists")),
        },
        errors=(400,),
    ),
    Route(
        name="get_upload_url",
        method="GET",
        path="/upload/{key}",
        summary="Where to upload a blob",
        tag="files",
        replies=_ok("PUT the bytes to url.", _ref("SignedUrl")),
        errors=(400, 413),
        takes=("bytes",),
        detail="PUT /f/{key} redirects there too, but many HTTP clients send the whole body before they look.",
    ),
    Route(
        name="get_download_url",
        method="GET",
        path="/download/{key}",
        summary="Where to download a blob",
        tag="files",
        replies=_ok("GET the bytes from url.", _ref("SignedUrl")),
        errors=(400,),
        deprecated=True,
        detail="Use GET /f/{key}.",
    ),
    Route(
        name="get_blob_alias",
        method="GET",
        path="/api/v1/download/{key}",
        summary="Where older definitions find a blob",
        tag="files",
        replies={302: _ELSEWHERE},
        errors=(400, 404),
        deprecated=True,
        detail="Use GET /f/{key}.",
    ),
    _STATUS,
    _STATUS.at("/{queue}/status", "get_status_alias", deprecated=True),
    _SCALE,
    _HISTORY,
    _METRICS,
    _METRICS.at("/{queue}/metrics", "get_queue_metrics_alias", deprecated=True),
    Route(
        name="get_metrics",
        method="GET",
        path="/metrics",
        summary="Metrics of the whole server",
        tag="server",
        replies={200: Reply(text="Prometheus text; no queue is named.", body=_text(), content_type=_TEXT)},
    ),
    Route(
        name="is_alive",
        method="GET",
        path="/healthz",
        summary="Is the process alive?",
        tag="server",
        replies={200: Reply(text="OK.", body={"const": "OK"}, content_type=_TEXT)},
    ),
    Route(
        name="is_ready",
        method="GET",
        path="/readyz",
        summary="Can the server take jobs? Asks its stores",
        tag="server",
        replies=_ok(
            "Yes; 503 if not.",
            _object({"ready": _YES, "checks": _map(_text()), "durability": _text(), "version": _text()}),
        ),
    ),
    Route(
        name="get_contract",
        method="GET",
        path="/openapi.json",
        summary="This document",
        tag="server",
        replies=_ok("OpenAPI 3.1.", {"type": "object", "required": ["openapi", "paths"]}),
    ),
    Route(
        name="get_metaframe",
        method="GET",
        path="/metaframe.json",
        summary="What the page is to pages that embed it",
        tag="server",
        replies=_ok("A metaframe definition, version 2.", _ref("Metaframe")),
        detail="hashParams says which parameters behind the # of a link are the page's, and what each one is.",
    ),
)

WEBSOCKETS: tuple[Mapping[str, Any], ...] = (
    {
        "path": "/q/{queue}/client",
        "aliases": ["/q/{queue}/browser", "/{queue}/client", "/{queue}/browser"],
        "summary": "Watch a queue, and submit, cancel and delete in it",
        "receives": ["Workers", "JobStates", "JobStateUpdates", "JobStatusPayload", "Error"],
        "sends": ["StateChange", "QueryJob", "QueryJobStates"],
    },
    {
        "path": "/q/{queue}/worker",
        "aliases": ["/{queue}/worker"],
        "summary": "Serve a queue; with ?protocol=2 jobs are assigned, without it the worker mirrors the queue",
        "receives": [
            "JobStates",
            "JobStateUpdates",
            "Workers",
            "ClearJobCache",
            "StatusRequest",
            "BroadcastJobDefinitions",
            "Registered",
            "Assign",
            "Renewed",
            "Ack",
            "Revoke",
            "Released",
            "Error",
        ],
        "sends": [
            "WorkerRegistration",
            "WorkerStatusResponse",
            "StateChange",
            "JobStatusLogs",
            "RequestJobDefinitions",
            "Ready",
            "Renew",
            "Goodbye",
        ],
    },
)


# --- the document ----------------------------------------------------------------------------------------------------

_TAGS = {
    "jobs": "Submit, look up, give up.",
    "logs": "Lines as they come, and afterwards.",
    "files": "Blobs, inputs and outputs.",
    "server": "Health, status, metrics, this document.",
}
_ABOUT = (
    "An open compute queue: anyone pushes a container job to a URL, whoever owns a machine runs a worker on that "
    "queue, the result comes back by URL. Knowing a queue's name is the only key to it. A job is its own definition "
    "and has one id everywhere. Every error is the shape Error. HEAD works wherever GET does; OPTIONS everywhere."
)


def openapi(version: str, server_url: str = "") -> dict[str, Any]:
    """The document for a release, as seen under one address.

    Shape:  OpenAPI 3.1 as plain JSON data, made anew at each call. ``server_url`` empty: relative to the document.
    """
    document = {
        "openapi": "3.1.0",
        "info": {"title": "asman", "version": version, "description": _ABOUT, "license": {"name": "MIT"}},
        "servers": [{"url": server_url or "/"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": _paths(),
        "components": {
            "schemas": dict(SCHEMAS),
            "parameters": dict(_PARAMETERS),
            "headers": dict(_HEADERS),
            "responses": {f"E{status}": _error(status) for status in _ERRORS},
        },
        "x-websockets": [dict(socket) for socket in WEBSOCKETS],
    }
    return deepcopy(document)


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return paths


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in _parameters(route)],
        "responses": _responses(route),
    }
    if route.detail:
        operation["description"] = route.detail
    if route.body:
        operation["requestBody"] = _request_body(route.body)
    if route.deprecated:
        operation["deprecated"] = True
    return operation


def _parameters(route: Route) -> list[str]:
    in_path = [piece.split("}")[0] for piece in route.path.split("{")[1:]]
    return ["namespaceInPath" if name == "namespace" else name for name in in_path] + list(route.takes)


def _request_body(name: str) -> _Schema:
    content = {"application/octet-stream": {}} if name == "bytes" else {_JSON: {"schema": _ref(name)}}
    return {"required": True, "content": content}


def _responses(route: Route) -> dict[str, Any]:
    answers = {status: _response(reply) for status, reply in route.replies.items()}
    for status in (*route.errors, 403, 503):
        answers.setdefault(status, {"$ref": f"#/components/responses/E{status}"})
    return {str(status): answers[status] for status in sorted(answers)}


def _response(reply: Reply) -> dict[str, Any]:
    response: dict[str, Any] = {"description": reply.text}
    if reply.body is not None:
        response["content"] = {reply.content_type: {"schema": reply.body} if reply.body else {}}
    if reply.or_page:
        response["content"][_HTML] = {"schema": _text("The page, for browsers.")}
    if reply.headers:
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in reply.headers}
    return response


def _error(status: int) -> dict[str, Any]:
    headers = ("Retry-After",) if status in (429, 503) else ()
    return _response(Reply(text=_ERRORS[status], body=_ref("Error"), headers=headers))
