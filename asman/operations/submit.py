"""Pushing a job: check, name, store, announce; and taking the place of older jobs of the same namespace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asman.completion import to_the_end
from asman.definition import Definition, read_definition
from asman.documents import DEFINITION, RESULT, blob_key, extend_documents, pack, pack_encoded, read_document
from asman.errors import (
    BadRequest,
    Conflict,
    Expired,
    JobNotFound,
    LimitExceeded,
    RateLimited,
    TransitionRefused,
    Unprocessable,
    clip,
)
from asman.identity import accept_id, check_namespace, check_queue_name
from asman.job import DEFAULT_NAMESPACE, Callback, Job, Reason, State, absent
from asman.messages import encode
from asman.operations.blobs import output_keys
from asman.operations.step import Step, step
from asman.rates import Rate
from asman.services import Services
from asman.state import Imported, Replaced, Submitted, Superseded

__all__ = [
    "Control",
    "Receipt",
    "Submission",
    "copy",
    "expiry",
    "read_control",
    "read_submission",
    "replace_now",
    "submit",
]

_REPLACE_AT_ONCE_S = 20.0
_REPLACE_SOON_S = 60.0
_WITHOUT_EFFECT = {
    "maxDuration": "control.maxDuration has no effect; put maxDuration into the definition",
    "outputs": "control.outputs has no effect and is not stored; fetch outputs from the job's result",
}
_REPLACED_TEXT = "replaced by a newer job of the same namespace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What a submit says beside the definition. Shape: ``callbacks`` maps an event to (url, payload)."""

    namespace: str = DEFAULT_NAMESPACE
    callbacks: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A checked submit, ready to be stored."""

    job_id: str
    definition: Definition
    control: Control
    debug: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of a submit. Shape: ``is_cached``: a stored result answers, nothing will run."""

    job: Job
    is_cached: bool
    is_new: bool
    warnings: tuple[str, ...] = ()


def read_submission(services: Services, body: Any) -> Submission:
    """Check the body of a submit.

    Shape:  ``{"definition": {...}, "id"?: text, "control"?: {...}, "debug"?: bool}``.
    Errors: BadRequest when it is no such object; BadDefinition, IdMismatch, BadName, LimitExceeded.
    """
    if not isinstance(body, dict):
        raise BadRequest(f"the body is {_kind(body)}, not an object", hint='Send {"definition": {...}}.')
    unknown = sorted(set(body) - {"definition", "id", "control", "debug"})
    if "definition" not in body:
        hint = 'Put the definition into a member: {"definition": {...}}.'
        raise BadRequest("the body has no definition", hint=hint)
    if unknown:
        raise BadRequest(
            f"the body has an unknown member {clip(unknown[0])}",
            hint="Known members are definition, id, control and debug.",
        )
    stated = body.get("id") or None
    if stated is not None and not isinstance(stated, str):
        raise BadRequest(f"id is {_kind(stated)}, not text", hint="Leave it out and the server computes it.")
    debug = body.get("debug")
    definition = read_definition(body["definition"], services.config.limits)
    return Submission(
        job_id=accept_id(stated, definition.raw),
        definition=definition,
        control=read_control(services, body.get("control")),
        debug=bool(debug) if debug is not None else None,
    )


def read_control(services: Services, raw: Any) -> Control:
    """Check a control object: ``{"namespace"?: text, "callbacks"?: {"queued"|"finished": {"url", "payload"?}}}``.

    Two members that older clients declare have no effect here: they are dropped, with a warning in the answer.
    Errors: BadRequest, BadName; Unprocessable for unknown members.
    """
    if raw is None:
        return Control()
    if not isinstance(raw, dict):
        raise BadRequest(f"control is {_kind(raw)}, not an object")
    for name in raw:
        if name not in ("namespace", "callbacks", *_WITHOUT_EFFECT):
            raise Unprocessable(
                f"control.{clip(name)[1:-1]} is not supported",
                hint="Known members are namespace and callbacks; time limits go into definition.maxDuration.",
            )
    namespace = raw.get("namespace") or DEFAULT_NAMESPACE
    callbacks = raw.get("callbacks") or {}
    if not isinstance(callbacks, dict):
        raise BadRequest(f"control.callbacks is {_kind(callbacks)}, not an object")
    wanted = {event: _read_callback(services, event, value) for event, value in callbacks.items() if value}
    warnings = tuple(text for name, text in _WITHOUT_EFFECT.items() if raw.get(name) is not None)
    return Control(namespace=check_namespace(namespace), callbacks=wanted, warnings=warnings)


def _read_callback(services: Services, event: str, raw: Any) -> tuple[str, Any]:
    where = f"control.callbacks.{clip(event)[1:-1]}"
    if event not in ("queued", "finished"):
        raise Unprocessable(f"{where} is not an event", hint="Events are queued and finished.")
    if services.deliverer is None:
        hint = 'Its operator can add them with: pip install "asman[webhooks]"'
        raise Unprocessable("this server delivers no callbacks", hint=hint)
    if not isinstance(raw, dict) or not isinstance(raw.get("url"), str):
        raise BadRequest(f"{where} needs a url", hint='{"url": "https://...", "payload": {...}}')
    if not raw["url"].startswith(("http://", "https://")) or len(raw["url"]) > 2048:
        raise BadRequest(f"{where}.url is {clip(raw['url'])}; http and https addresses of at most 2048 characters work")
    size = len(encode(raw.get("payload")))
    limit = services.config.limits.callback_payload_bytes
    if size > limit:
        raise LimitExceeded(f"{where}.payload has {size} bytes; at most {limit} are allowed")
    return raw["url"], raw.get("payload")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def expiry(services: Services, job: Job, now: float) -> float:
    """The one rule of expiry, asked of the plugins; without any, 30 days."""
    decided = services.plugins.hook.asman_expires_at(job=job, now=now, config=services.config)
    return float(decided) if decided is not None else now + 30 * 86_400.0


async def submit(services: Services, queue: str, submission: Submission, *, source: str = "") -> Receipt:
    """Store a checked submit and answer when it is on stable storage. Once admitted it is carried through.

    Shape:  ``source`` is whom limits are counted by; without one only the queue's own limits apply.
    Errors: RateLimited when the queue is full or the source too quick; StorageFull, Unavailable, Conflict.
    """
    now = services.clock()
    await _admit(services, check_queue_name(queue), source, now)
    return await to_the_end(_push(services, queue, submission, now))


async def _push(services: Services, queue: str, submission: Submission, now: float) -> Receipt:
    fresh = absent(queue, submission.job_id)
    expires_at = expiry(services, fresh, now)
    event = Submitted(
        at=now,
        namespace=submission.control.namespace,
        expires_at=expires_at,
        listed_until=now + services.config.listed_s,
        requirements=submission.definition.requirements,
        advertised=submission.definition.advertised,
        callbacks=_callbacks(services, submission.control, now),
        debug=submission.debug,
    )
    document = await pack_encoded(services, DEFINITION, submission.definition.encoded, expires_at=expires_at)
    on_start = {DEFINITION: document}
    done = await step(services, queue, submission.job_id, event, on_start=on_start, known=fresh, is_carried=True)
    await _keep_blobs(services, done, submission.definition, document)
    if submission.control.namespace != DEFAULT_NAMESPACE and done.after.is_active:
        await _take_place(services, done.after, submission.control.namespace, now)
    return Receipt(
        job=done.after,
        is_cached=done.after.has_result,
        is_new=done.after.generation != done.before.generation,
        warnings=submission.definition.warnings + submission.control.warnings,
    )


async def _admit(services: Services, queue: str, source: str, now: float) -> None:
    """Errors: RateLimited."""
    _check_rates(services, queue, source, now)
    await _check_room(services, queue)


def _check_rates(services: Services, queue: str, source: str, now: float) -> None:
    limits = services.config.limits
    if source:
        per_address = Rate(
            what="submits", per_minute=limits.submits_per_minute_per_address, burst=limits.submit_burst_per_address
        )
        services.rates.take(per_address, source, now)
    per_minute = limits.submits_per_minute_per_queue
    services.rates.take(Rate(what="submits to one queue", per_minute=per_minute, burst=per_minute), queue, now)


async def _check_room(services: Services, queue: str) -> None:
    limit = services.config.limits.queued_per_queue
    if not limit:
        return
    counts = await services.jobs.counts(queue)
    queued = sum(n for (state, _), n in counts.items() if state is State.QUEUED)
    if queued >= limit:
        raise RateLimited(f"the queue holds {queued} waiting jobs; at most {limit} are allowed")


def _callbacks(services: Services, control: Control, now: float) -> tuple[Callback, ...]:
    return tuple(
        Callback(
            event=event,
            namespace=control.namespace,
            url=url,
            payload=encode({} if payload is None else payload).decode(),
            event_id=f"evt_{services.random_id()}",
            due_at=now if event == "queued" else None,
        )
        for event, (url, payload) in sorted(control.callbacks.items())
    )


async def _keep_blobs(services: Services, done: Step, definition: Definition, document: bytes) -> None:
    """Blobs live as long as the longest-living job that refers to them; a document that was not needed goes."""
    unused = blob_key(document) if done.after.generation == done.before.generation else None
    if unused is not None:
        await services.blobs.delete(unused)
    for key in definition.blob_keys:
        await services.blobs.extend(key, done.after.expires_at)
    if done.before.state is not State.ABSENT:
        await extend_documents(services, done.after)


async def _take_place(services: Services, job: Job, namespace: str, now: float) -> None:
    """Older jobs of the namespace give way: young ones at once, others after a few seconds to think again."""
    for other in await services.jobs.in_namespace(job.queue, namespace):
        if other.job_id == job.job_id:
            continue
        age_s = now - other.queued_at
        try:
            if age_s <= _REPLACE_AT_ONCE_S:
                await replace_now(services, other, namespace, now)
            else:
                wait_s = 4.0 if age_s <= _REPLACE_SOON_S else 8.0
                event = Superseded(at=now, namespace=namespace, replace_at=now + wait_s)
                await step(services, other.queue, other.job_id, event, is_carried=True)
        except Conflict:
            continue  # it ended or changed meanwhile


async def replace_now(
    services: Services, job: Job, namespace: str, now: float, *, still_superseded: bool = True
) -> None:
    event = Replaced(
        at=now,
        namespace=namespace,
        listed_until=now + services.config.listed_s,
        message=_REPLACED_TEXT,
        still_superseded=still_superseded,
    )
    await step(services, job.queue, job.job_id, event)


async def copy(services: Services, job_id: str, target: str, control: Any) -> Receipt:
    """Put a known job on another queue; a stored result travels with it.

    Errors: JobNotFound; Expired; BadName; the errors of ``submit``.
    """
    now = services.clock()
    check_queue_name(target)
    sources = await services.jobs.find(job_id)
    live = [j for j in sources if not j.is_expired(now) and j.reason is not Reason.DELETED]
    source = next((j for j in live if j.has_result), live[0] if live else None)
    raw = await read_document(services, source, DEFINITION) if source is not None else None
    if source is None or raw is None:
        if any(j.is_expired(now) for j in sources):
            raise Expired(f"job {clip(job_id)} has expired")
        raise JobNotFound("Job definition not found")
    definition = read_definition(raw, services.config.limits)
    submission = Submission(job_id=job_id, definition=definition, control=read_control(services, control), debug=False)
    await _admit(services, target, "", now)
    return await to_the_end(_put_copy(services, source, submission, target, now))


async def _put_copy(services: Services, source: Job, submission: Submission, target: str, now: float) -> Receipt:
    if source.has_result and source.queue != target:
        await _bring_result(services, source, submission, target, now)
    return await _push(services, target, submission, now)


async def _bring_result(services: Services, source: Job, submission: Submission, target: str, now: float) -> None:
    """Give the target queue a copy of the stored result, unless it has one or is working on its own."""
    result = await read_document(services, source, RESULT)
    if result is None:
        return
    expires_at = expiry(services, absent(target, source.job_id), now)
    documents = {
        DEFINITION: await pack_encoded(services, DEFINITION, submission.definition.encoded, expires_at=expires_at),
        RESULT: await pack(services, RESULT, result, expires_at=expires_at),
    }
    event = Imported(
        at=now,
        source=source,
        expires_at=expires_at,
        listed_until=now + services.config.listed_s,
    )
    try:
        await step(services, target, source.job_id, event, documents=documents, is_carried=True)
    except TransitionRefused:
        for key in filter(None, map(blob_key, documents.values())):
            await services.blobs.delete(key)
    for key in [*submission.definition.blob_keys, *output_keys(result)]:
        await services.blobs.extend(key, expires_at)
