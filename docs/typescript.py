"""Print the part of the contract that the web client is made from: ``web/src/contract.gen.ts``.

Shapes become interfaces, closed sets become lists with a type of the same members, tables become constants. What a
shape means is said once, in the sources; descriptions are carried over as comments. How an id is made, and what is
sent when, is the client's own code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from asman import errors, identity
from asman.config import PROFILES
from asman.contract import SCHEMAS
from asman.definition import KNOWN_BUILD_MEMBERS, KNOWN_MEMBERS, KNOWN_REF_MEMBERS, KNOWN_REQUIREMENTS, REF_TYPES
from asman.errors import AsmanError
from asman.job import ANY_NAMESPACE, DEFAULT_NAMESPACE, Outcome, Reason, State
from asman.messages import PROTOCOL
from asman.operations.logs import BUILD_STEPS
from asman.state import TRANSITIONS
from asman_worker.report import CODES

__all__ = ["contract_module"]

_NOTE = "// Made by docs/generate.py from asman (contract.py, job.py, state.py, errors.py and others); edit those.\n"
_LEFT_OUT = ("StreamEvent",)
"""Shapes of the wire that no program holds: the client decodes the stream."""
_LIMITS = (
    "json_body_bytes",
    "definition_bytes",
    "inline_data_bytes",
    "blob_bytes",
    "client_frame_bytes",
    "env_entries",
    "env_value_bytes",
    "command_bytes",
    "tags",
    "max_duration_s",
)
"""What a page can say before a submit is refused."""
_NAMES = {"Error": "ErrorAnswer"}
"""Shapes whose name means something else in TypeScript."""
_INLINE_MAX_CHARACTERS = 200
"""Source: published clients; inputs that are longer become blobs."""


# --- lists and tables -------------------------------------------------------------------------------------------------


def _literal(value: object) -> str:
    """A constant: lists on one line, a table with an entry a line."""
    if isinstance(value, Mapping):
        return "{\n" + "".join(f"  {json.dumps(name)}: {json.dumps(entry)},\n" for name, entry in value.items()) + "}"
    if isinstance(value, list) and value and isinstance(value[0], list):
        return "[\n" + "".join(f"  {json.dumps(entry)},\n" for entry in value) + "]"
    return json.dumps(value)


def _constant(name: str, value: object, about: str = "") -> str:
    return _comment(about) + f"export const {name} = {_literal(value)} as const;\n"


def _closed(plural: str, singular: str, values: Iterable[str], about: str = "") -> str:
    return _constant(plural, list(values), about) + f"export type {singular} = (typeof {plural})[number];\n"


def _comment(text: str, indent: str = "") -> str:
    return f"{indent}/** {text} */\n" if text else ""


def _error_classes() -> list[type[AsmanError]]:
    kinds = [getattr(errors, name) for name in errors.__all__]
    return sorted((k for k in kinds if isinstance(k, type) and issubclass(k, AsmanError)), key=lambda kind: kind.code)


def _changes() -> list[list[str]]:
    """(from, event, to) of every legal step that changes the state, each once, in the table's order."""
    rows = [(state, row.event.__name__, row.to) for row in TRANSITIONS for state in row.states if state is not row.to]
    return [[source.value, event, target.value] for source, event, target in dict.fromkeys(rows)]


_STATES = [state.value for state in State if state is not State.ABSENT]
_CLOSED = {
    frozenset(_STATES): "State",
    frozenset(reason.value for reason in Reason): "Reason",
    frozenset(outcome.value for outcome in Outcome): "Outcome",
    frozenset(kind.code for kind in _error_classes()): "ErrorCode",
}
"""Sets that have a name of their own."""


# --- shapes -----------------------------------------------------------------------------------------------------------


def _type(schema: Mapping[str, Any]) -> str:
    """A schema as a TypeScript type, on one line."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return _NAMES.get(name, name)
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        if named := _CLOSED.get(frozenset(schema["enum"])):
            return named
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "anyOf" in schema and "properties" not in schema:
        return " | ".join(_type(choice) for choice in schema["anyOf"])
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return " | ".join(_type({**schema, "type": kind}) for kind in kinds)
    return _typed(schema, kinds)


def _typed(schema: Mapping[str, Any], kind: str | None) -> str:
    match kind:
        case "string" | "boolean" | "null":
            return kind
        case "number" | "integer":
            return "number"
        case "array" if "prefixItems" in schema:
            needed = schema.get("minItems", 0)
            items = (f"{_type(item)}{'' if i < needed else '?'}" for i, item in enumerate(schema["prefixItems"]))
            return f"[{', '.join(items)}]"
        case "array":
            item = _type(schema["items"])
            return f"({item})[]" if " | " in item else f"{item}[]"
        case "object" if "properties" in schema:
            return f"{{ {'; '.join(_members(schema))} }}" if schema["properties"] else "Record<string, unknown>"
        case "object":
            values = schema.get("additionalProperties")
            return f"Record<string, {_type(values) if isinstance(values, Mapping) else 'unknown'}>"
    return "unknown"


def _members(schema: Mapping[str, Any]) -> Iterator[str]:
    required = set(schema.get("required", ()))
    for name, member in schema["properties"].items():
        yield f"{name}{'' if name in required else '?'}: {_type(member)}"
    if schema.get("additionalProperties") is True:
        yield "[member: string]: unknown"


def _shape(name: str, schema: Mapping[str, Any]) -> str:
    name, about = _NAMES.get(name, name), schema.get("description", "")
    if schema.get("type") != "object" or "properties" not in schema:
        return f"{_comment(about)}export type {name} = {_type(schema)};\n"
    lines = [f"{_comment(about)}export interface {name} {{\n"]
    properties = list(schema["properties"].values())
    for index, member in enumerate(_members(schema)):
        if index < len(properties):
            lines.append(_comment(properties[index].get("description", ""), "  "))
        lines.append(f"  {member};\n")
    return "".join([*lines, "}\n"])


# --- the file ---------------------------------------------------------------------------------------------------------


def _limits() -> dict[str, dict[str, float]]:
    return {name: {limit: getattr(limits, limit) for limit in _LIMITS} for name, limits in PROFILES.items()}


def contract_module() -> str:
    """The whole file."""
    known = {
        "definition": sorted(KNOWN_MEMBERS),
        "build": sorted(KNOWN_BUILD_MEMBERS),
        "requirements": sorted(KNOWN_REQUIREMENTS),
        "ref": sorted(KNOWN_REF_MEMBERS),
    }
    parts = [
        _NOTE,
        _closed("STATES", "State", _STATES),
        _closed("REASONS", "Reason", (r.value for r in Reason), "Why a job finished, in the words of the wire."),
        _constant("REASONS_WITH_RESULT", [r.value for r in Reason if r.has_result], "The others only end the job."),
        _closed("OUTCOMES", "Outcome", (o.value for o in Outcome), "What really happened, exit code included."),
        _constant("CHANGES", _changes(), "Every legal change of a job's state: from, event, to."),
        _closed("REF_TYPES", "RefType", sorted(REF_TYPES), "utf8 is what a ref without a type is."),
        _constant("KNOWN_MEMBERS", known, "Other members are kept and have no effect."),
        _constant("ID_MEMBERS", list(identity.VERBATIM_MEMBERS), "Members that count for the id as they are."),
        _constant(
            "ID_PICKED_MEMBERS", {k: list(v) for k, v in identity.PICKED_MEMBERS.items()}, "Objects that count in part."
        ),
        _constant("INJECTED_ENV", sorted(identity.INJECTED_ENV), "Variables of host pages: they do not count."),
        _constant("INJECTED_ENV_PREFIXES", list(identity.INJECTED_PREFIXES)),
        _constant("DEFAULT_NAMESPACE", DEFAULT_NAMESPACE),
        _constant("ANY_NAMESPACE", ANY_NAMESPACE),
        _constant("QUEUE_NAME", identity.QUEUE_NAME, "Pattern of a queue's name; . and .. are none."),
        _constant("INLINE_MAX_CHARACTERS", _INLINE_MAX_CHARACTERS, "Longer values of inputs are sent as blobs."),
        _constant("WORKER_PROTOCOL", PROTOCOL),
        _constant("BUILD_STEPS", sorted(BUILD_STEPS), "Steps whose lines are the build log; all others the run log."),
        _constant("LIMITS", _limits(), "By profile of the server; 0: none."),
        _constant("ERRORS", {k.code: {"status": k.status, "hint": k.hint} for k in _error_classes()}, "By code."),
        "export type ErrorCode = keyof typeof ERRORS;\n",
        _constant("RESULT_ERRORS", dict(CODES), "What errorCode of a result says, beside the codes above."),
        *(_shape(name, schema) for name, schema in SCHEMAS.items() if name not in _LEFT_OUT),
    ]
    return "\n".join(parts)
