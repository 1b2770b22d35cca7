"""Every operation of the contract against the real app, in process, with requests made from the document itself.

Good and bad requests alike must get an answer that the document has: its status, its content type, its shape, and
never a 500. Half of the generated job ids and blob keys are replaced by ones that exist, so that the answers of
finished, running, queued and cancelled jobs are held against their shapes, not only the refusals.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

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


@SCHEMA.hook
def map_path_parameters(context: schemathesis.HookContext, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Let about half of the requests meet what exists; which half depends on the generated value alone.

    A stream is followed to its end, so it gets jobs that have ended and no others.
    """
    label = context.operation.label if context.operation is not None else ""
    known = {"jobId": JOB_IDS, "queue": [QUEUE], "key": [KEY], "name": FILES}
    if label.startswith(("DELETE", "POST")):
        known["queue"] = [GIVEN_UP]
    if label.endswith("/stream"):
        known["jobId"] = [JOB_IDS[0], JOB_IDS[-1]]
    for name, choices in known.items():
        if parameters and name in parameters:
            digest = hashlib.sha256(repr(parameters[name]).encode()).digest()
            if digest[0] % 2 or label.endswith("/stream"):
                parameters[name] = choices[digest[1] % len(choices)]
    return parameters


@pytest.fixture(scope="module", autouse=True)
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


@SCHEMA.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_in_the_contract(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS)
