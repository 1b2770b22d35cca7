"""Job routes: lookup, definition and result, files, logs, cancel, delete, copy."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from quart import Blueprint, Response, request

from asman import operations as ops
from asman.errors import (
    AsmanError,
    BadRequest,
    Conflict,
    FileNotFound,
    JobNotFound,
    NotFinished,
    Unprocessable,
    clip,
)
from asman.identity import check_blob_key, is_content_key
from asman.job import DEFAULT_NAMESPACE
from asman.messages import encode, job_record, ms
from asman.routes.answers import Answer, json_answer
from asman.routes.content import content_headers, content_type_of
from asman.routes.context import base_url, hub, read_body, respond, services, source
from asman.routes.page import page_response
from asman.routes.submit import answer_submit, read_object

__all__ = ["jobs"]

jobs = Blueprint("jobs", __name__)

_CONTROL = re.compile(r"[\x00-\x20\x7f]")

_View = Callable[..., Awaitable[Response]]


def _both(tail: str, **options: Any) -> Callable[[_View], _View]:
    """Register a view for ``/j/:jobId…`` and ``/q/:queue/j/:jobId…``."""

    def register(view: _View) -> _View:
        jobs.get(f"/j/<job_id>{tail}", defaults={"queue": None}, endpoint=f"{view.__name__}_any", **options)(view)
        jobs.get(f"/q/<queue>/j/<job_id>{tail}", endpoint=f"{view.__name__}_in_queue", **options)(view)
        return view

    return register


@jobs.post("/q/<queue>")
@jobs.post("/q/<queue>/j")
async def submit(queue: str) -> Response:
    answer = await answer_submit(
        services(),
        hub(),
        queue,
        await read_body(),
        prefer=request.headers.get("Prefer", ""),
        args=request.args.to_dict(),
        source=source(),
    )
    return respond(answer)


@jobs.get("/j/<job_id>")
async def lookup_or_page(job_id: str) -> Response:
    return page_response() or await lookup(None, job_id)


@jobs.get("/j/<job_id>.json", defaults={"queue": None}, endpoint="lookup_any_json")
@jobs.get("/q/<queue>/j/<job_id>", endpoint="lookup_in_queue")
async def lookup(queue: str | None, job_id: str) -> Response:
    job = await ops.find_job(services(), job_id, queue)
    data: dict[str, Any] = {"definition": await ops.read_definition_of(services(), job)}
    results = await ops.read_result_of(services(), job)
    if results is not None:
        data["results"] = results
    if queue is not None:
        data["job"] = job_record(job)
    return respond(json_answer({"data": data}, cache_control="no-cache"))


@_both("/definition.json")
async def definition(queue: str | None, job_id: str) -> Response:
    try:
        job = await ops.find_job(services(), job_id, queue)
    except JobNotFound:
        return respond(json_answer({"data": None}))
    return respond(json_answer({"data": await ops.read_definition_of(services(), job)}))


async def _result(queue: str | None, job_id: str) -> Response:
    return respond(json_answer({"data": await ops.find_result(services(), job_id, queue)}, cache_control="no-cache"))


@_both("/result.json")
async def result(queue: str | None, job_id: str) -> Response:
    return await _result(queue, job_id)


@_both("/results.json")
async def results(queue: str | None, job_id: str) -> Response:
    return await _result(queue, job_id)


# --- files -----------------------------------------------------------------------------------------------------------


@_both("/inputs/", strict_slashes=False)
async def no_input_name(queue: str | None, job_id: str) -> Response:
    raise BadRequest("Missing filename", hint="The job's definition lists the names of its inputs.")


@_both("/outputs/", strict_slashes=False)
async def no_output_name(queue: str | None, job_id: str) -> Response:
    raise BadRequest("Missing filename", hint="The job's result lists the names of its outputs.")


@_both("/inputs/<path:name>")
async def input_file(queue: str | None, job_id: str, name: str) -> Response:
    job = await ops.find_job(services(), job_id, queue)
    definition = await ops.read_definition_of(services(), job) or {}
    files = {**_objects(definition.get("configFiles")), **_objects(definition.get("inputs"))}
    if name not in files and "/" + name in files:
        name = "/" + name
    return await _file(files, name, f"Input file '{clip(name)[1:-1]}' not found")


@_both("/outputs/<path:name>")
async def output_file(queue: str | None, job_id: str, name: str) -> Response:
    found = await ops.find_result(services(), job_id, queue)
    if found is None:
        job = await ops.find_job(services(), job_id, queue)
        raise NotFinished(f"Finished job not found: the job is {job.state.value}")
    outputs = _objects(_objects(found["finished"].get("result")).get("outputs"))
    return await _file(outputs, name, f"Output file '{clip(name)[1:-1]}' not found")


def _objects(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


async def _file(files: dict[str, Any], name: str, missing: str) -> Response:
    """Serve one data ref; links of old, undecoded form still work."""
    for candidate in (name, quote(name), unquote(name)):
        if candidate in files:
            return await _serve_ref(candidate, files[candidate])
    raise FileNotFound(missing)


async def _serve_ref(name: str, ref: Any) -> Response:
    if not isinstance(ref, dict):
        ref = {"type": "utf8", "value": ref}
    value, kind = ref.get("value"), ref.get("type") or "utf8"
    match kind:
        case "url" if isinstance(value, str):
            return await _redirect(name, value)
        case "key" if isinstance(value, str):
            return _to_blob(name, check_blob_key(value))
        case "base64" if isinstance(value, str):
            return _bytes(name, _decode_base64(value), content_type_of(name), attach=True)
        case "json":
            return _bytes(name, encode(value), "application/json; charset=UTF-8")
        case "utf8" if isinstance(value, str):
            return _bytes(name, value.encode(errors="surrogatepass"), "text/plain; charset=UTF-8")
    raise BadRequest(f"Unknown data type {clip(kind)}", hint="Known types are utf8, base64, json, url and key.")


def _decode_base64(value: str) -> bytes:
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except ValueError as error:  # also what it raises for text that is not ASCII
        raise BadRequest("Invalid base64 data") from error


def _bytes(name: str, data: bytes, content_type: str, *, attach: bool | None = None) -> Response:
    return Response(data, headers=content_headers(name, content_type, attach=attach))


async def _redirect(name: str, url: str) -> Response:
    """To our own copy of the bytes if the address names content that we hold, else to the address itself."""
    key = ops.own_blob_key(url)
    if key is not None and (urlsplit(url).netloc == request.host or await services().blobs.stat(key) is not None):
        return _to_blob(name, key)
    return Response(b"", status=302, headers={"location": _foreign_address(url)})


def _foreign_address(url: str) -> str:
    """An address as a header may carry it. Errors: Unprocessable."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and parts.hostname and not _CONTROL.search(url)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise Unprocessable(f"the file's address {clip(url)} is not a usable http or https address")
    return quote(url, safe="!#$%&'()*+,/:;=?@[]~", errors="replace")


def _to_blob(name: str, key: str) -> Response:
    suffix = f"?name={quote(name.rsplit('/', 1)[-1], safe='', errors='replace')}"
    return Response(b"", status=302, headers={"location": f"{base_url()}/f/{key}{suffix}"})


# --- logs ------------------------------------------------------------------------------------------------------------


@_both("/build-logs.json")
async def build_logs(queue: str | None, job_id: str) -> Response:
    return respond(await _logs(queue, job_id, "build"))


@_both("/run-logs.json")
async def run_logs(queue: str | None, job_id: str) -> Response:
    return respond(await _logs(queue, job_id, "run"))


async def _logs(queue: str | None, job_id: str, half: str) -> Answer:
    page = await ops.read_lines(services(), job_id, half, _since(request.args.get("since", "")), queue)
    body = {
        "data": page.lines,
        "sliceStart": page.start,
        "nextCursor": page.next,
        "isFinal": page.is_final,
        "attempt": page.attempt,
    }
    return json_answer(body, cache_control="no-store")


def _since(text: str) -> int:
    if not text.strip():
        return 0
    try:
        number = float(text)
    except ValueError as error:
        raise BadRequest("`since` must be a number") from error
    if not math.isfinite(number) or number > 2**53:
        raise BadRequest("`since` must be a number", hint="Use nextCursor of the answer before.")
    return max(math.floor(number), 0)


# --- what one queue knows of a job -----------------------------------------------------------------------------------


@jobs.get("/q/<queue>/j/<job_id>/namespaces.json")
async def namespaces(queue: str, job_id: str) -> Response:
    try:
        job = await ops.get_job(services(), queue, job_id)
    except AsmanError as error:
        if error.status not in (404, 410):
            raise
        return respond(json_answer({"data": []}))
    return respond(json_answer({"data": job.namespace_names}))


@jobs.get("/q/<queue>/j/<job_id>/history.json")
async def history(queue: str, job_id: str) -> Response:
    job = await ops.get_job(services(), queue, job_id)
    past = [
        {"attempt": a.number, "worker": a.worker, "start": ms(a.started_at), "end": ms(a.ended_at), "how": a.end}
        for a in job.history
    ]
    return respond(json_answer({"data": past}))


@jobs.get("/q/<queue>/j/<job_id>/why")
async def why(queue: str, job_id: str) -> Response:
    channel = hub().present(queue)
    workers = channel.connected.values() if channel else ()
    candidates = [ops.Candidate(worker=w.worker, total=w.total, free=w.free, takes=w.takes) for w in workers]
    return respond(json_answer({"data": await ops.why(services(), queue, job_id, candidates)}))


@jobs.post("/q/<queue>/j/<job_id>/cancel")
@jobs.post("/q/<queue>/j/<job_id>/<namespace>/cancel")
async def cancel(queue: str, job_id: str, namespace: str | None = None) -> Response:
    wanted = request.args.get("namespace") or namespace or DEFAULT_NAMESPACE
    message = request.args.get("message", "")
    try:
        job = await ops.cancel(services(), queue, job_id, wanted, message)
    except JobNotFound:
        return respond(json_answer({"message": "Job not found"}))
    except Conflict as error:
        return respond(json_answer(await _not_cancelled(queue, job_id, wanted, error)))
    answer = {
        "success": True,
        "jobId": job_id,
        "namespace": wanted,
        "state": job.state.value,
        "namespaces": job.namespace_names,
    }
    return respond(json_answer(answer))


async def _not_cancelled(queue: str, job_id: str, namespace: str, error: Conflict) -> dict[str, Any]:
    """Older clients clean up by cancelling and rely on 200 here; the text says what is so."""
    job = await ops.get_job(services(), queue, job_id)
    if not job.is_active:
        return {"message": f"Job already {job.state.value}", "state": job.state.value}
    held = ", ".join(job.namespace_names)
    text = f"namespace {clip(namespace)} does not hold the job; it is held by: {held}"
    return {"message": text, "state": job.state.value, "namespaces": job.namespace_names}


@jobs.delete("/q/<queue>/j/<job_id>")
async def delete(queue: str, job_id: str) -> Response:
    job = await ops.delete(services(), queue, job_id, request.args.get("namespace") or "*")
    answer = {"success": True, "jobId": job_id, "state": job.state.value, "namespaces": job.namespace_names}
    return respond(json_answer(answer))


@jobs.post("/j/<job_id>/copy")
async def copy(job_id: str) -> Response:
    body = read_object(await read_body(), services())
    target = body.get("queue")
    if not isinstance(target, str) or not target:
        raise BadRequest("copy needs the name of a queue", hint='Send {"queue": "NAME"}.')
    receipt = await ops.copy(services(), job_id, target, body.get("control"))
    return respond(json_answer({"success": True, "jobId": job_id, "cached": receipt.is_cached}))


# --- deprecated helpers ----------------------------------------------------------------------------------------------


@jobs.get("/upload/<key>")
async def upload_url(key: str) -> Response:
    """``?size=`` asks for the place that takes exactly so many bytes, so that they need not be sent here first."""
    ref = {"value": check_blob_key(key), "type": "key"}
    size_bytes = _size(request.args.get("size", ""))
    link = await ops.upload_link(services(), key, size_bytes)
    if link is not None:
        return respond(json_answer({"url": link, "ref": ref, "size": size_bytes}, cache_control="no-store"))
    return respond(json_answer({"url": f"{base_url()}/f/{key}", "ref": ref}))


def _size(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequest(f"size is {clip(text)}; a whole number of bytes was expected")
    return int(text)


@jobs.get("/download/<key>")
async def download_url(key: str) -> Response:
    url = f"{base_url()}/f/{check_blob_key(key)}"
    return respond(json_answer({"url": url, "ref": {"value": url, "type": "url"}}))


@jobs.get("/api/v1/download/<key>")
async def older_download(key: str) -> Response:
    if not is_content_key(key):
        raise FileNotFound(f"no blob {clip(key)}")
    return _to_blob(key, key)
