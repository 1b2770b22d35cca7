from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

from asman import contract, definition, errors
from asman.app import create_app
from asman.config import Config
from asman.contract import ROUTES, SCHEMAS, WEBSOCKETS, openapi
from asman.errors import AsmanError, BadName
from asman.identity import check_blob_key, check_job_id, check_queue_name
from asman.job import Attempt, Job, Outcome, Reason, State
from asman.messages import job_record
from asman.routes import sockets
from asman.routes.sockets import parse_socket_path

DOCUMENT = openapi("1.2.3", "https://jobs.example")

UNDOCUMENTED = {
    "/": "the front page, for people",
    "/assets/{name}": "files of the page",
    "/icon.svg": "a file of the page",
    "/client.js": "a file of the page",
    "/j/{jobId}/inputs/": "a file name is missing: always 400",
    "/j/{jobId}/outputs/": "a file name is missing: always 400",
    "/q/{queue}/j/{jobId}/inputs/": "a file name is missing: always 400",
    "/q/{queue}/j/{jobId}/outputs/": "a file name is missing: always 400",
}
"""What the app serves beside the contract, and why it is no part of it."""


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from ([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def app_operations() -> set[tuple[str, str]]:
    """(method, path as the contract writes it) of every route the app has, its sockets aside."""
    found = set()
    for rule in create_app(Config(backend="memory")).url_map.iter_rules():
        if rule.websocket:
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule).replace("{job_id}", "{jobId}")
        found |= {(method, path) for method in rule.methods or ()}
    return found


def contract_operations() -> set[tuple[str, str]]:
    return {(route.method, route.path) for route in ROUTES}


# --- the document ----------------------------------------------------------------------------------------------------


def test_the_document_is_valid_openapi() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_the_document_is_plain_json_and_says_where_and_what_it_is() -> None:
    assert json.loads(json.dumps(DOCUMENT, allow_nan=False)) == DOCUMENT
    assert DOCUMENT["info"]["version"] == "1.2.3"
    assert DOCUMENT["servers"] == [{"url": "https://jobs.example"}]
    assert openapi("1.2.3")["servers"] == [{"url": "/"}]


def test_two_documents_share_nothing() -> None:
    spoilt = openapi("1")
    spoilt["components"]["schemas"]["Error"]["properties"].clear()
    spoilt["paths"]["/healthz"]["get"]["responses"].clear()
    assert openapi("1") != spoilt
    assert openapi("1") == openapi("1")


def test_every_reference_leads_somewhere() -> None:
    for reference in references(DOCUMENT):
        node = DOCUMENT
        for piece in reference.removeprefix("#/").split("/"):
            assert piece in node, reference
            node = node[piece]


@pytest.mark.parametrize("kind", ["schemas", "parameters", "headers", "responses"])
def test_every_component_is_used(kind: str) -> None:
    used = {reference.split("/")[3] for reference in references(DOCUMENT) if reference.split("/")[2] == kind}
    assert set(DOCUMENT["components"][kind]) == used


def test_operation_names_and_paths_are_unique() -> None:
    assert [name for name, n in Counter(route.name for route in ROUTES).items() if n > 1] == []
    assert len(contract_operations()) == len(ROUTES)


def test_no_status_is_stated_twice() -> None:
    for route in ROUTES:
        assert not set(route.replies) & set(route.errors), route.name
        assert len(set(route.errors)) == len(route.errors), route.name


def test_every_path_parameter_is_declared_in_its_operation() -> None:
    parameters = DOCUMENT["components"]["parameters"]
    for route in ROUTES:
        operation = DOCUMENT["paths"][route.path][route.method.lower()]
        declared = [parameters[p["$ref"].rsplit("/", 1)[1]] for p in operation["parameters"]]
        in_path = {p["name"] for p in declared if p["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", route.path)), route.name


def test_all_exports_exist() -> None:
    assert all(hasattr(contract, name) for name in contract.__all__)


# --- the app ---------------------------------------------------------------------------------------------------------


def test_every_operation_of_the_contract_is_served() -> None:
    assert sorted(contract_operations() - app_operations()) == []


def test_every_route_of_the_app_is_in_the_contract() -> None:
    served = {(method, path) for method, path in app_operations() if method not in ("HEAD", "OPTIONS")}
    assert {path for _, path in served - contract_operations()} == set(UNDOCUMENTED)


async def test_the_server_hands_out_this_document() -> None:
    client = create_app(Config(backend="memory", public_url="https://jobs.example")).test_client()
    answer = await client.get("/openapi.json")
    served = await answer.get_json()
    assert served == openapi(served["info"]["version"], "https://jobs.example")


@pytest.mark.parametrize("socket", WEBSOCKETS, ids=lambda socket: socket["path"])
def test_every_socket_path_is_one(socket: dict[str, Any]) -> None:
    role = socket["path"].rsplit("/", 1)[1]
    for path in (socket["path"], *socket["aliases"]):
        assert parse_socket_path(path.replace("{queue}", "some-queue")) == ("some-queue", role)


def test_every_message_of_a_socket_is_one_that_the_server_reads_or_writes() -> None:
    core = Path(contract.__file__).parent
    files = [core / "presence.py", core / "messages.py", *core.glob("routes/*.py"), *core.glob("operations/*.py")]
    words = set(re.findall(r'"([A-Z]\w+)"', "".join(file.read_text() for file in files)))
    for socket in WEBSOCKETS:
        assert {*socket["receives"], *socket["sends"]} <= words


def test_every_message_that_the_server_reads_is_stated() -> None:
    read = re.findall(r'^            (?:case )?"([A-Z]\w+)":', Path(sockets.__file__).read_text(), re.MULTILINE)
    stated = {message for socket in WEBSOCKETS for message in socket["sends"]}
    assert len(read) >= 10
    assert set(read) - {"Running", "Finished"} == stated


# --- the same facts as in the code -----------------------------------------------------------------------------------


def test_the_definition_has_the_known_members() -> None:
    members = SCHEMAS["Definition"]["properties"]
    assert set(members) == definition.KNOWN_MEMBERS
    assert set(members["build"]["properties"]) == definition.KNOWN_BUILD_MEMBERS
    assert set(members["requirements"]["properties"]) == definition.KNOWN_REQUIREMENTS
    assert set(SCHEMAS["DataRef"]["properties"]) == definition.KNOWN_REF_MEMBERS


def test_every_error_code_is_stated() -> None:
    classes = [getattr(errors, name) for name in errors.__all__]
    codes = {kind.code for kind in classes if isinstance(kind, type) and issubclass(kind, AsmanError)}
    assert set(SCHEMAS["Error"]["properties"]["code"]["enum"]) == codes


def test_what_is_closed_and_what_is_open() -> None:
    assert SCHEMAS["EnqueueJob"]["additionalProperties"] is False
    assert SCHEMAS["Control"]["additionalProperties"] is False
    assert SCHEMAS["Definition"]["additionalProperties"] is True


def test_a_record_has_no_member_that_the_schema_lacks(a_full_record: dict[str, Any]) -> None:
    schema = SCHEMAS["QueueRecord"]
    assert set(a_full_record) <= set(schema["properties"])
    assert set(schema["required"]) <= set(a_full_record)


@pytest.fixture
def a_full_record() -> dict[str, Any]:
    past = Attempt(number=1, worker="w", started_at=1.0, ended_at=2.0, end="reported")
    job = Job(
        queue="q",
        job_id="a" * 64,
        state=State.FINISHED,
        reason=Reason.SUCCESS,
        outcome=Outcome.FAILED,
        exit_code=3,
        message="text",
        lease_until=5.0,
        history=(past,),
        debug=True,
        advertised={"requirements": {"cpus": 1}, "tags": ["t"]},
    )
    record = job_record(job)
    assert set(record["attempts"][0]) == set(SCHEMAS["Attempt"]["properties"])
    return record


def matches(schema: dict[str, Any], text: str) -> bool:
    wanted = re.fullmatch(schema["pattern"].replace("^", "").replace("$", ""), text, re.ASCII)
    return wanted is not None and text not in schema.get("not", {}).get("enum", ())


names = st.text(st.sampled_from("aB0fF._~-/ é\n"), max_size=4) | st.from_regex(r"[0-9a-fA-F]{63,65}", fullmatch=True)


@given(names | st.sampled_from(["a" * 128, "a" * 129, "a" * 200, "a" * 201]))
def test_names_are_what_the_code_takes(name: str) -> None:
    parameters = DOCUMENT["components"]["parameters"]
    for parameter, check in (("queue", check_queue_name), ("jobId", check_job_id), ("key", check_blob_key)):
        try:
            taken = check(name) == name
        except BadName:
            taken = False
        assert matches(parameters[parameter]["schema"], name) == taken, parameter
