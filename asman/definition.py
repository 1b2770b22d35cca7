"""Can a worker use this definition, and what does it ask for? Pure.

A definition is kept as it came: nothing is filled in, trimmed or reordered. What is known is checked in full and all
faults are told at once, so that a bad definition is an answer to its submitter and never a container that fails an
hour later. What is not known is kept, because existing clients send such members, but it is only warned about: workers
build the container from the known members listed here, so nothing else can reach the engine.

Of the known members ``null`` and empty text count as absent. What an owner allows is not asked here (``matching``, and
the worker's limits), nor is which id the definition has (``identity``).

Source: published job model, "Job definition" and "Data refs"; promises, "Error shape and default limits".
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from asman.config import Limits
from asman.errors import AsmanError, BadDefinition, BadRequest, LimitExceeded, clip
from asman.identity import check_blob_key, check_file_name
from asman.job import Requirements
from asman.units import parse_duration_s, parse_size_bytes, show_bytes, show_duration

__all__ = [
    "KNOWN_BUILD_MEMBERS",
    "KNOWN_MEMBERS",
    "KNOWN_REF_MEMBERS",
    "KNOWN_REQUIREMENTS",
    "REF_TYPES",
    "Definition",
    "inline_bytes",
    "iter_refs",
    "read_definition",
    "referred_blobs",
]

KNOWN_MEMBERS = frozenset(
    {
        "v",
        "image",
        "build",
        "command",
        "entrypoint",
        "env",
        "workdir",
        "shmSize",
        "inputs",
        "configFiles",
        "maxDuration",
        "tags",
        "requirements",
    }
)
KNOWN_BUILD_MEMBERS = frozenset(
    {"context", "buildContext", "filename", "target", "dockerfile", "buildArgs", "platform"}
)
KNOWN_REQUIREMENTS = frozenset({"cpus", "gpus", "maxDuration", "memory", "network"})
KNOWN_REF_MEMBERS = frozenset({"type", "value", "hash"})
REF_TYPES = frozenset({"utf8", "base64", "json", "url", "key"})
"""``utf8`` is what a ref without a type is."""

_NETWORKS = ("none", "egress")
_MAX_CORES = 1024
_MAX_GPUS = 64
_MAX_MEMORY_BYTES = 1 << 50
_MIN_DURATION_S = 1.0
_MAX_TAG_CHARACTERS = 64
_MAX_ENV_NAME_CHARACTERS = 128
_TOLD_AT_ONCE = 30
_BLOB_PATH = re.compile(r"/f/([^/]+)")
_BLANK_OR_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_REF_SECTIONS = ("inputs", "configFiles")


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A definition that a worker can use.

    Shape:  ``raw`` is what was sent, verbatim, and ``encoded`` its compact JSON. ``advertised`` are the members that
            listings repeat (``requirements``, ``tags``), verbatim. ``warnings`` are sentences about members that
            have no effect. ``blob_keys`` are the blobs of this server it refers to, each once: they live as long
            as it.
    """

    raw: Mapping[str, Any]
    encoded: bytes
    requirements: Requirements
    advertised: Mapping[str, Any]
    warnings: tuple[str, ...]
    blob_keys: tuple[str, ...]


def read_definition(raw: Any, limits: Limits) -> Definition:
    """Check a definition and draw from it what the server needs.

    Errors: BadDefinition, with every fault and where it is; LimitExceeded, likewise, if only amounts are wrong.
    """
    if not isinstance(raw, dict):
        raise BadDefinition(
            f"the definition is {_kind(raw)}; an object was expected", details=[("definition", "not an object")]
        )
    findings = _Findings()
    _check_top(raw, findings)
    _check_build(raw, findings)
    _check_env(raw, limits, findings)
    _check_refs(raw, findings)
    _check_tags(raw, limits, findings)
    requirements = _read_requirements(raw, limits, findings)
    findings.raise_faults()
    _check_amounts(raw, limits, findings)
    encoded = _encode(raw)
    findings.raise_excess(_size_fault("definition", len(encoded), limits.definition_bytes))
    return Definition(
        raw=raw,
        encoded=encoded,
        requirements=requirements,
        advertised={name: raw[name] for name in ("requirements", "tags") if raw.get(name) is not None},
        warnings=findings.told_warnings(),
        blob_keys=referred_blobs(raw),
    )


class _Findings:
    """What is wrong, what is too much and what has no effect, gathered over one definition."""

    __slots__ = ("excess", "faults", "warnings")

    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []
        self.excess: list[tuple[str, str]] = []
        self.warnings: list[str] = []

    def fault(self, where: str, what: str) -> None:
        self.faults.append((_location(where), what))

    def too_much(self, where: str, what: str) -> None:
        self.excess.append((_location(where), what))

    def unknown(self, where: str, given: Iterable[str], known: frozenset[str]) -> None:
        prefix = f"{where}." if where else ""
        self.warnings += [
            f"{clip(prefix + name)} is not a known member: it is kept but has no effect"
            for name in given
            if name not in known
        ]

    def raise_faults(self) -> None:
        if self.faults:
            raise BadDefinition(_sentence(self.faults), details=_first(self.faults))

    def raise_excess(self, size_fault: tuple[str, str] | None) -> None:
        """A definition that is too large as a whole is 413, one with too much in a member is 422."""
        excess = [*([size_fault] if size_fault else []), *self.excess]
        if excess:
            hint, status = (LimitExceeded.hint, 413) if size_fault else (BadDefinition.hint, 422)
            raise LimitExceeded(_sentence(excess), hint=hint, details=_first(excess), status=status)

    def told_warnings(self) -> tuple[str, ...]:
        more = len(self.warnings) - _TOLD_AT_ONCE
        return (*self.warnings[:_TOLD_AT_ONCE], *([f"and {more} more members have no effect"] if more > 0 else []))


def _location(where: str) -> str:
    path = f"definition.{where}" if where else "definition"
    return clip(path, 120)[1:-1]


def _first(faults: list[tuple[str, str]]) -> list[tuple[str, str]]:
    more = len(faults) - _TOLD_AT_ONCE
    return faults[:_TOLD_AT_ONCE] + ([("definition", f"and {more} more faults")] if more > 0 else [])


def _sentence(faults: list[tuple[str, str]]) -> str:
    where, what = faults[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{where}: {what}{more}"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "text"
        case int() | float():
            return "a number"
        case list():
            return "an array"
    return "an object"


# --- members ---------------------------------------------------------------------------------------------------------


def _text(owner: Mapping[str, Any], name: str, where: str, findings: _Findings) -> str:
    """A text member; absent, null, wrong and empty are all the empty text, wrong is told."""
    value = owner.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        findings.fault(where, f"is {_kind(value)}; text was expected")
        return ""
    if "\0" in value:
        findings.fault(where, "holds a NUL character")
    return value


def _object(owner: Mapping[str, Any], name: str, findings: _Findings) -> Mapping[str, Any]:
    value = owner.get(name)
    if isinstance(value, dict):
        return value
    if value is not None:
        findings.fault(name, f"is {_kind(value)}; an object was expected")
    return {}


def _texts(owner: Mapping[str, Any], name: str, where: str, findings: _Findings) -> list[str]:
    value = owner.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        findings.fault(where, f"is {_kind(value)}; an array of text was expected")
        return []
    for index, entry in enumerate(value):
        if not isinstance(entry, str):
            findings.fault(f"{where}[{index}]", f"is {_kind(entry)}; text was expected")
        elif "\0" in entry:
            findings.fault(f"{where}[{index}]", "holds a NUL character")
    return [entry for entry in value if isinstance(entry, str)]


def _check_top(raw: Mapping[str, Any], findings: _Findings) -> None:
    findings.unknown("", raw, KNOWN_MEMBERS)
    if not _text(raw, "image", "image", findings) and not _filled(raw.get("build")) and not findings.faults:
        findings.fault("image", "is missing: a job needs an image or a build")
    elif isinstance(raw.get("image"), str) and _BLANK_OR_CONTROL.search(raw["image"]):
        findings.fault("image", f"{clip(raw['image'])} holds blanks or control characters")
    if not isinstance(raw.get("v"), (int, float, str, type(None))):
        findings.fault("v", f"is {_kind(raw['v'])}; a number was expected")
    workdir = _text(raw, "workdir", "workdir", findings)
    if workdir and not workdir.startswith("/"):
        findings.fault("workdir", f"{clip(workdir)} is not an absolute path")
    for name in ("command", "entrypoint"):
        if isinstance(raw.get(name), list):
            _texts(raw, name, name, findings)
        else:
            _text(raw, name, name, findings)
    _read(_parse_memory, raw, "shmSize", "shmSize", findings)


def _parse_memory(text: str | int | float) -> int:
    size = parse_size_bytes(text)
    if size > _MAX_MEMORY_BYTES:
        raise BadRequest(f"{clip(text)} is more memory than any machine has; at most {show_bytes(_MAX_MEMORY_BYTES)}")
    return size


def _filled(build: Any) -> bool:
    """Not an empty object; a wrong kind is told elsewhere and is not told twice."""
    return any(value not in (None, "") for value in build.values()) if isinstance(build, dict) else build is not None


def _read(parse: Any, owner: Mapping[str, Any], name: str, where: str, findings: _Findings) -> Any:
    """An amount in text or as a number; None where absent or wrong, and wrong is told."""
    value = owner.get(name)
    if value is None or value == "":
        return None
    try:
        return parse(value)
    except AsmanError as error:
        findings.fault(where, f"{error.message}. {error.hint}".strip())
        return None


def _check_build(raw: Mapping[str, Any], findings: _Findings) -> None:
    build = _object(raw, "build", findings)
    if not _filled(build):
        return
    findings.unknown("build", build, KNOWN_BUILD_MEMBERS)
    context = _text(build, "context", "build.context", findings)
    dockerfile = _text(build, "dockerfile", "build.dockerfile", findings)
    if context:
        _check_context(context, findings)
    elif not dockerfile:
        findings.fault("build", "has neither a context nor a dockerfile")
    for name in ("buildContext", "filename"):
        path = _text(build, name, f"build.{name}", findings)
        if path.startswith("/") or "\\" in path or ".." in path.split("/"):
            findings.fault(f"build.{name}", f"{clip(path)} does not stay inside the build context")
    for name in ("target", "platform"):
        if _BLANK_OR_CONTROL.search(_text(build, name, f"build.{name}", findings)):
            findings.fault(f"build.{name}", "holds blanks or control characters")
    for index, argument in enumerate(_texts(build, "buildArgs", "build.buildArgs", findings)):
        if argument.partition("=")[0].strip() == "":
            findings.fault(f"build.buildArgs[{index}]", f"{clip(argument)} is not of the form NAME=VALUE")


def _check_context(context: str, findings: _Findings) -> None:
    url = _http_url(context, "build.context", findings)
    if url is not None and "@" in url.netloc and url.username != "secret":  # "secret:NAME@" names one of the worker's
        findings.warnings.append(
            "build.context holds credentials: whoever knows the queue can read them, and they count for the job's id"
        )


def _check_env(raw: Mapping[str, Any], limits: Limits, findings: _Findings) -> None:
    env = _object(raw, "env", findings)
    if 0 < limits.env_entries < len(env):
        findings.too_much("env", f"has {len(env)} entries; at most {limits.env_entries} are allowed")
    for name in env:
        where = f"env.{name}"
        if not 0 < len(name) <= _MAX_ENV_NAME_CHARACTERS or "=" in name or _BLANK_OR_CONTROL.search(name):
            findings.fault(
                where,
                f"{clip(name)} is no variable name: 1 to {_MAX_ENV_NAME_CHARACTERS} characters, no = and no blanks",
            )
        text = _text(env, name, where, findings)
        size = _utf8_size(text)
        if 0 < limits.env_value_bytes < size:
            findings.too_much(where, f"has {size} bytes; at most {limits.env_value_bytes} are allowed")


def _check_tags(raw: Mapping[str, Any], limits: Limits, findings: _Findings) -> None:
    tags = _texts(raw, "tags", "tags", findings)
    if 0 < limits.tags < len(tags):
        findings.too_much("tags", f"has {len(tags)} entries; at most {limits.tags} are allowed")
    for index, tag in enumerate(tags):
        if not 0 < len(tag) <= _MAX_TAG_CHARACTERS:
            findings.fault(f"tags[{index}]", f"has {len(tag)} characters; 1 to {_MAX_TAG_CHARACTERS} are allowed")


def _check_amounts(raw: Mapping[str, Any], limits: Limits, findings: _Findings) -> None:
    for name in ("command", "entrypoint"):
        value = raw.get(name)
        parts = value if isinstance(value, list) else [value]
        size = sum(_utf8_size(part) for part in parts if isinstance(part, str))
        if 0 < limits.command_bytes < size:
            findings.too_much(name, f"has {size} bytes; at most {limits.command_bytes} are allowed")
    if not limits.inline_data_bytes:
        return
    size = sum(len(inline_bytes(ref) or b"") for _, _, ref in iter_refs(raw))
    if size > limits.inline_data_bytes:
        what = (
            f"inline data has {size} bytes; at most {limits.inline_data_bytes} ({show_bytes(limits.inline_data_bytes)})"
        )
        findings.too_much("inputs", f"{what} are allowed; put larger files into blobs")


def _size_fault(where: str, size: int, limit: int) -> tuple[str, str] | None:
    if not 0 < limit < size:
        return None
    return where, f"has {size} bytes; at most {limit} ({show_bytes(limit)}) are allowed"


def _utf8_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _encode(value: Any) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except ValueError as error:
        raise BadDefinition(f"the definition holds a number that JSON does not have: {error}") from error


# --- requirements ----------------------------------------------------------------------------------------------------


def _read_requirements(raw: Mapping[str, Any], limits: Limits, findings: _Findings) -> Requirements:
    asked = _object(raw, "requirements", findings)
    findings.unknown("requirements", asked, KNOWN_REQUIREMENTS)
    network = _text(asked, "network", "requirements.network", findings)
    if network not in ("", *_NETWORKS):
        findings.fault("requirements.network", f'is {clip(network)}; "none" or "egress" (the public internet) expected')
    durations = [
        _read_duration(raw, "maxDuration", "maxDuration", limits, findings),
        _read_duration(asked, "maxDuration", "requirements.maxDuration", limits, findings),
    ]
    tags = raw.get("tags")
    return Requirements(
        cores=_read_cores(asked.get("cpus"), findings),
        memory_bytes=_read(_parse_memory, asked, "memory", "requirements.memory", findings) or 0,
        gpus=_read_gpus(asked.get("gpus"), findings),
        max_duration_s=min((d for d in durations if d is not None), default=None),
        tags=tuple(sorted({tag for tag in tags if isinstance(tag, str)})) if isinstance(tags, list) else (),
    )


def _read_duration(
    owner: Mapping[str, Any], name: str, where: str, limits: Limits, findings: _Findings
) -> float | None:
    duration_s: float | None = _read(parse_duration_s, owner, name, where, findings)
    if duration_s is None:
        return None
    if duration_s < _MIN_DURATION_S:
        findings.fault(where, f"{clip(owner[name])} is less than a second; a number without a unit is milliseconds")
    if 0 < limits.max_duration_s < duration_s:
        allowed = show_duration(limits.max_duration_s)
        findings.too_much(where, f"{clip(owner[name])} is longer than allowed; at most {allowed}")
    return duration_s


def _read_cores(cpus: Any, findings: _Findings) -> float:
    if cpus is None:
        return 1.0
    if isinstance(cpus, bool) or not isinstance(cpus, (int, float)) or not 0 < cpus <= _MAX_CORES:
        findings.fault("requirements.cpus", f"{clip(cpus)} is not a number above 0 and up to {_MAX_CORES}")
        return 1.0
    return float(cpus)


def _read_gpus(gpus: Any, findings: _Findings) -> int:
    """A whole number; existing definitions also say ``true`` for one."""
    if gpus is None:
        return 0
    if not isinstance(gpus, (int, float)) or not 0 <= gpus <= _MAX_GPUS or gpus != int(gpus):
        findings.fault("requirements.gpus", f"{clip(gpus)} is not a whole number from 0 to {_MAX_GPUS}")
        return 0
    return int(gpus)


# --- data refs -------------------------------------------------------------------------------------------------------


def iter_refs(definition: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Go through the files of a definition: ``inputs`` first, then ``configFiles``, which win on equal names.

    Shape:  (section, name, ref); what is no object is passed over.
    """
    for section in _REF_SECTIONS:
        refs = definition.get(section)
        if isinstance(refs, Mapping):
            yield from ((section, name, ref) for name, ref in refs.items() if isinstance(ref, Mapping))


def inline_bytes(ref: Mapping[str, Any]) -> bytes | None:
    """Read the content that a data ref carries in itself; None for ``url`` and ``key``, which only point at it.

    Errors: BadDefinition if the ref is none.
    Source: published "Data refs"; a missing type is ``utf8``.
    """
    kind, value = ref.get("type") or "utf8", ref.get("value")
    if kind in ("url", "key"):
        return None
    if kind == "json" and "value" in ref:
        return _encode(value)
    if isinstance(value, str) and kind == "utf8":
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
    if isinstance(value, str) and kind == "base64":
        return _decode_base64(value)
    raise BadDefinition(f"a data ref of type {clip(kind)} with {_kind(value)} as value cannot be read")


def _decode_base64(text: str) -> bytes:
    """Padding may be missing and lines may be broken, as browsers accept it."""
    bare = "".join(text.split()).rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadDefinition(f"{clip(text, 24)} is not base64: {error}") from error


def _check_refs(raw: Mapping[str, Any], findings: _Findings) -> None:
    for section in _REF_SECTIONS:
        refs = _object(raw, section, findings)
        for name, ref in refs.items():
            where = f"{section}.{name}"
            try:
                check_file_name(name, absolute=section == "configFiles")
            except AsmanError as error:
                findings.fault(where, error.message)
            _check_ref(ref, where, findings)
        _check_nesting(refs, section, findings)


def _check_nesting(refs: Mapping[str, Any], section: str, findings: _Findings) -> None:
    """One name must not be the directory of another."""
    for name in refs:
        if "/" not in name:
            continue
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if (folder := "/".join(parts[:depth])) in refs:
                findings.fault(f"{section}.{name}", f"lies in {clip(folder)}, which is a file")


def _check_ref(ref: Any, where: str, findings: _Findings) -> None:
    if not isinstance(ref, dict):
        findings.fault(where, f'is {_kind(ref)}; a data ref such as {{"type":"utf8","value":"text"}} was expected')
        return
    findings.unknown(where, ref, KNOWN_REF_MEMBERS)
    kind = ref.get("type") or "utf8"
    if not isinstance(kind, str) or kind not in REF_TYPES:
        findings.fault(f"{where}.type", f"{clip(kind)} is unknown; known are {', '.join(sorted(REF_TYPES))}")
    elif "value" not in ref:
        findings.fault(where, "has no value")
    elif kind != "json":
        _check_value(kind, ref["value"], f"{where}.value", findings)
    if not isinstance(ref.get("hash"), (str, type(None))):
        findings.fault(f"{where}.hash", f"is {_kind(ref['hash'])}; text was expected")


def _check_value(kind: str, value: Any, where: str, findings: _Findings) -> None:
    if not isinstance(value, str):
        findings.fault(where, f"is {_kind(value)}; text was expected")
        return
    try:
        match kind:
            case "base64":
                _decode_base64(value)
            case "key":
                check_blob_key(value)
            case "url":
                url = _http_url(value, where, findings)
                if (
                    url is not None and "@" in url.netloc and url.username != "secret"
                ):  # "secret:NAME@" names one of the worker's
                    findings.fault(where, "holds credentials (user:password@); data urls must not")
    except AsmanError as error:
        findings.fault(where, error.message)


def _http_url(text: str, where: str, findings: _Findings) -> SplitResult | None:
    """Read an absolute http(s) URL; the message does not repeat it if it may hold a password."""
    shown = "the url" if "@" in text else clip(text)
    url = _split(text)
    if url is None or url.scheme not in ("http", "https") or not url.hostname:
        findings.fault(where, f"{shown} is not an absolute http or https url")
        return None
    return url


def _split(text: str) -> SplitResult | None:
    try:
        url = urlsplit(text)
        url.port  # noqa: B018  (reading it checks it)
    except ValueError:
        return None
    return None if "\\" in url.netloc or _BLANK_OR_CONTROL.search(text) else url


def referred_blobs(raw: Any) -> tuple[str, ...]:
    """The blobs that a stored definition refers to, each once; what is no blob's key is passed over.

    For definitions that were accepted once, perhaps by other limits than today's: nothing of them is refused here.
    """
    found: dict[str, None] = {}
    for _, _, ref in iter_refs(raw) if isinstance(raw, Mapping) else ():
        value = ref.get("value")
        if isinstance(value, str) and ref.get("type") in ("key", "url"):
            found |= dict.fromkeys([value] if ref["type"] == "key" else _blob_key_of(value))
    build = raw.get("build") if isinstance(raw, Mapping) else None
    if isinstance(build, Mapping) and isinstance(build.get("context"), str):
        found |= dict.fromkeys(_blob_key_of(build["context"]))
    return tuple(key for key in found if _is_blob_key(key))


def _is_blob_key(text: str) -> bool:
    try:
        check_blob_key(text)
    except AsmanError:
        return False
    return True


def _blob_key_of(text: str) -> Iterator[str]:
    try:
        found = _BLOB_PATH.fullmatch(urlsplit(text).path)
    except ValueError:
        return
    if found is None:
        return
    try:
        yield check_blob_key(found[1])
    except AsmanError:
        return
