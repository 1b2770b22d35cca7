"""Every operation of the contract against the real app, in process, with requests made from the document itself.

Good and bad requests alike must get an answer that the document has: its status, its content type, its headers, its
shape, and never a 500. Most generated names are replaced by ones that exist, so that not only refusals are seen.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from asman import operations as ops
from asman.app import create_app
from asman.config import Config
from asman.contract import ROUTES, Route
from asman.identity import known_id
from asman.matching import Capacity

QUEUE = "contract"
GIVEN_UP = "given-up"
BLOB = b"bytes of the contract"
KEY = hashlib.sha256(BLOB).hexdigest()
ENDINGS = ("finished", "running", "queued", "cancelled")
DEFINITIONS: dict[str, dict[str, Any]] = {
    ending: {
        "image": "alpine:3.19.1",
        "command": f"echo {ending}",
        "tags": [ending],
        "inputs": {"a.txt": {"type": "utf8", "value": "grüße"}, "dir/b": {"type": "base64", "value": "AAEC"}},
        "unheardOf": 1,
    }
    for ending in ENDINGS
}
JOB_IDS = [known_id(definition) for definition in DEFINITIONS.values()]
FILES = ["a.txt", "dir/b", "o.txt", "blob.bin", "o.json"]
RESULT = {
    "StatusCode": 3,
    "logs": [["hello\n", 1795468653417], ["oh\n", 1795468653418, True]],
    "duration": 5,
    "isTimedOut": False,
    "outputs": {
        "o.txt": {"type": "base64", "value": "aGk="},
        "o.json": {"type": "json", "value": {"x": [1, None]}},
        "blob.bin": {"type": "key", "value": KEY},
    },
}

APP = create_app(Config(host="0.0.0.0", backend="memory"))
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)


def chosen(value: object, choices: list[Any]) -> Any:
    """The generated value, or (for three in four of them) one that exists; the value alone decides."""
    digest = hashlib.sha256(repr(value).encode()).digest()
    return choices[digest[1] % len(choices)] if digest[0] % 4 else value


@SCHEMA.hook
def map_path_parameters(context: schemathesis.HookContext, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    changes = context.operation is not None and context.operation.label.startswith(("DELETE", "POST"))
    known = {"jobId": JOB_IDS, "queue": [GIVEN_UP if changes else QUEUE], "key": [KEY], "name": FILES}
    for name, choices in known.items():
        if parameters and name in parameters:
            parameters[name] = chosen(parameters[name], choices)
    return parameters


@SCHEMA.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """A generated definition is rarely one that could run: most get one that can, without a stated id."""
    if isinstance(body, dict) and "definition" in body:
        definition = chosen(body["definition"], list(DEFINITIONS.values()))
        if definition is not body["definition"]:
            return {**body, "definition": definition, "id": None}
    return body


@pytest.fixture(scope="session", autouse=True)
def jobs_in_every_state() -> None:
    asyncio.run(_seed())


async def _seed() -> None:
    client = APP.test_client()
    assert (await client.put(f"/f/{KEY}", data=BLOB)).status_code == 200
    for queue in (QUEUE, GIVEN_UP):
        for ending, definition in DEFINITIONS.items():
            answer = await client.post(f"/q/{queue}", json={"definition": definition})
            assert answer.status_code == 200, await answer.get_data()
            if ending in ("finished", "running"):
                await _run(queue, ending)
        assert (await client.post(f"/q/{queue}/j/{JOB_IDS[-1]}/cancel")).status_code == 200


async def _run(queue: str, ending: str) -> None:
    services = APP.extensions["asman"]
    capacity = Capacity(cores=2, tags=frozenset([ending]))
    ((job, _),) = await ops.claim(services, queue, "worker-1", capacity, 1)
    await ops.keep_lines(services, job, "docker build", [["#1 x\n", 1795468653000, True]])
    await ops.keep_lines(services, job, "Running", [["hello\n", 1795468653417]])
    if ending == "finished":
        value = {"type": "Finished", "reason": "Success", "worker": "worker-1", "time": 1795468653417, "result": RESULT}
        await ops.report(services, queue, job.job_id, "worker-1", job.attempt, value)


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def call(case: schemathesis.Case) -> schemathesis.Response:
    """Send it and hold the answer against the contract.

    Nothing is waited for: a stream is read for a moment, not to its end, and no submit waits for its result.
    """
    if case.headers and "wait=" in case.headers.get("Prefer", ""):
        case.headers["Prefer"] = "wait=0"
    reading = {"timeout": 0.1} if case.operation.path.endswith("/stream") else {}
    return case.call_and_validate(checks=CHECKS, **reading)


# --- what exists: good requests get good answers ---------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("route", [r for r in ROUTES if r.method in ("GET", "HEAD")], ids=lambda route: route.name)
def test_what_exists_is_answered_as_the_contract_says(route: Route, ending: str) -> None:
    known = {"queue": QUEUE, "jobId": JOB_IDS[ENDINGS.index(ending)], "key": KEY}
    unfinished = "/outputs/" in route.path and ending != "finished"
    for name in ["o.txt", "o.json", "blob.bin"] if "/outputs/" in route.path else ["a.txt", "dir/b"]:
        wanted = {key: value for key, value in {**known, "name": name}.items() if f"{{{key}}}" in route.path}
        answer = call(SCHEMA[route.path][route.method].Case(path_parameters=wanted))
        assert answer.status_code == 404 if unfinished else answer.status_code in (200, 302)


SUBMITS: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, str]]] = {
    "plain": ({}, {}, {}),
    "with everything": ({"control": {"namespace": "n", "callbacks": {}}, "debug": True, "id": JOB_IDS[0]}, {}, {}),
    "dry": ({}, {"dry_run": "1"}, {}),
    "waiting": ({}, {}, {"Prefer": "wait=1"}),
}


@pytest.mark.parametrize("extra", SUBMITS.values(), ids=SUBMITS)
@pytest.mark.parametrize("path", ["/q/{queue}", "/q/{queue}/j"])
def test_a_good_submit_is_answered_as_the_contract_says(path: str, extra: tuple[Any, Any, Any]) -> None:
    more, query, headers = extra
    body = {"definition": DEFINITIONS["finished"], **more}
    case = SCHEMA[path]["POST"].Case(path_parameters={"queue": QUEUE}, body=body, query=query, headers=headers)
    answer = call(case)
    assert answer.status_code == 200
    assert answer.json()["cached"] is True
    assert ("dryRun" in answer.json()) == bool(query)
    assert ("data" in answer.json()) == bool(headers)


def test_good_changes_are_answered_as_the_contract_says() -> None:
    where = {"queue": "changes", "jobId": JOB_IDS[0]}
    for path, method, parameters, body in (
        ("/j/{jobId}/copy", "POST", {"jobId": JOB_IDS[0]}, {"queue": "changes"}),
        ("/q/{queue}/j/{jobId}/cancel", "POST", where, None),
        ("/q/{queue}/j/{jobId}", "DELETE", where, None),
        ("/q/{queue}", "POST", {"queue": "changes"}, {"definition": DEFINITIONS["finished"]}),
        ("/q/{queue}/j/{jobId}/{namespace}/cancel", "POST", {**where, "namespace": "other"}, None),
        ("/q/{queue}/j/{jobId}/cancel", "POST", where, None),
        ("/q/{queue}/j/{jobId}", "DELETE", where, None),
    ):
        sent = {"body": body} if body is not None else {}
        answer = call(SCHEMA[path][method].Case(path_parameters=parameters, **sent))
        assert answer.status_code == 200, (path, answer.text)


async def test_connected_workers_are_shown_as_the_contract_says() -> None:
    app = create_app(Config(host="0.0.0.0", backend="memory"))
    client = app.test_client()
    definition = {"image": "alpine:3.19.1", "requirements": {"gpus": 1}}
    job_id = known_id(definition)
    await client.post("/q/workers", json={"definition": definition})
    registration = {"time": 1, "version": "1", "id": "worker-1", "cpus": 2, "gpus": 0, "maxJobDuration": "1h"}
    capacity = {"cpus": 2, "memory_bytes": 1 << 30, "gpus": [], "tags": [], "max_duration_s": 3600, "arch": "amd64"}
    more = {"protocol": 2, "capacity": capacity, "holding": {}}
    async with client.websocket("/q/workers/worker?protocol=2") as socket:
        await socket.send(json.dumps({"type": "WorkerRegistration", "payload": {**registration, **more}}))
        while json.loads(await socket.receive())["type"] != "Registered":
            pass
        await socket.send(json.dumps({"type": "Ready", "payload": {**capacity, "gpus": 0, "jobs": 1}}))
        why = await _held_against(client, "/q/{queue}/j/{jobId}/why", {"queue": "workers", "jobId": job_id})
        status = await _held_against(client, "/q/{queue}/status", {"queue": "workers"})
    assert [worker["id"] for worker in why["data"]["workers"]] == ["worker-1"]
    assert list(status["localWorkers"]) == ["worker-1"]


async def _held_against(client: Any, path: str, known: dict[str, str]) -> Any:
    answer = await client.get(path.format(**known))
    sent = httpx.Request("GET", f"http://localhost{path.format(**known)}")
    body = await answer.get_data(as_text=False)
    received = httpx.Response(answer.status_code, headers=list(answer.headers.items()), content=body, request=sent)
    received.elapsed = timedelta()
    SCHEMA[path]["GET"].Case(path_parameters=known).validate_response(received, checks=CHECKS)
    return json.loads(body)


# --- anything: every answer is one of the contract's -----------------------------------------------------------------


@pytest.mark.slow
@SCHEMA.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_in_the_contract(case: schemathesis.Case) -> None:
    call(case)
