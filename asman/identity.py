"""What names a job, and which names are names at all. Pure.

A job is its own definition: its id is the sha256 of the definition's canonical JSON. Two published rules say what of
the definition counts, and both are honoured. By the *known-members* rule (``known_id``) an object of known members
only is hashed; it is what this server computes. By the older *verbatim* rule (``verbatim_id``) everything counts but
a few volatile members; ids that older clients state are such. A stated id that is neither is refused, so nobody can
plant a result under another job's id.

The definition itself is never changed: only what is hashed is cleaned. Whether a definition can be run is
``definition``'s question, not asked here; definitions that no worker could use still have an id.

Source: published job id rules and vectors ("Job id" of both the first and the newer release).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring
from typing import Any

from asman.errors import BadDefinition, BadName, IdMismatch, clip
from asman.job import ANY_NAMESPACE

__all__ = [
    "INJECTED_ENV",
    "INJECTED_PREFIXES",
    "PICKED_MEMBERS",
    "QUEUE_NAME",
    "VERBATIM_MEMBERS",
    "accept_id",
    "canonical_json",
    "check_blob_key",
    "check_file_name",
    "check_job_id",
    "check_namespace",
    "check_queue_name",
    "is_content_key",
    "known_id",
    "verbatim_id",
]

# --- canonical JSON --------------------------------------------------------------------------------------------------

_EXACT = 2**53
_SURROGATE = re.compile("[\ud800-\udfff]")
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":"))


def canonical_json(value: Any) -> str:
    """Write a JSON value the one way that is hashed.

    Shape:  no blanks; members in the order of their UTF-16 code units; numbers as ECMAScript prints them, those that
            no double holds as ``null``; short escapes, other control characters and unpaired surrogates as ``\\u00xx``
            in lower case, everything else as it is.
    Errors: BadDefinition for a value that JSON does not have, or one nested too deep to be written.
    Source: published "Canonical JSON"; it agrees with RFC 8785 except for surrogates and numbers out of range.
    """
    try:
        text = _ENCODER.encode(value) if _is_plain(value) else _write(value)
    except RecursionError as error:
        raise BadDefinition("the definition is nested too deep to be hashed") from error
    return text if text.isascii() or not _SURROGATE.search(text) else _escape_surrogates(text)


def _is_plain(value: Any) -> bool:
    """Does Python's own encoder write this value by the rule? Then it is used: it is about twice as fast."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is dict:
        return all(type(k) is str and k.isascii() for k in value) and all(map(_is_plain, value.values()))
    if kind is list:
        return all(map(_is_plain, value))
    return kind is int and -_EXACT < value < _EXACT


def _write(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return encode_basestring(value)
        case int() | float():
            return _number(value)
        case Mapping():
            members = sorted(value.items(), key=_code_units)
            return "{" + ",".join([f"{encode_basestring(k)}:{_write(v)}" for k, v in members]) + "}"
        case list() | tuple():
            return "[" + ",".join([_write(v) for v in value]) + "]"
    raise BadDefinition(f"a {type(value).__name__} is not a JSON value")


def _code_units(member: tuple[Any, Any]) -> bytes:
    if not isinstance(member[0], str):
        raise BadDefinition(f"the member name {clip(member[0])} is not text")
    return member[0].encode("utf-16-be", "surrogatepass")


def _number(value: int | float) -> str:
    """Print a number as ECMAScript does, after it went through a double."""
    try:
        x = float(value)
    except OverflowError:
        return "null"
    if not math.isfinite(x):
        return "null"
    if x == 0:
        return "0"
    sign = "-" if x < 0 else ""
    mantissa, _, exponent = repr(abs(x)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or 0)
    return sign + _place_point(digits.rstrip("0"), point)


def _place_point(digits: str, point: int) -> str:
    """Write 0.DIGITS times ten to the ``point``. Source: ECMA-262, Number::toString."""
    count = len(digits)
    if count <= point <= 21:
        return digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if count > 1 else ""
    return f"{digits[0]}{fraction}e{point - 1:+d}"


def _escape_surrogates(text: str) -> str:
    """Join surrogates that are pairs, escape those that are not."""
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", joined)


def _hash(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


# --- job ids ---------------------------------------------------------------------------------------------------------

VERBATIM_MEMBERS = ("v", "image", "command", "entrypoint", "workdir", "shmSize", "maxDuration", "tags")
PICKED_MEMBERS = {
    "build": ("context", "buildContext", "filename", "target", "dockerfile", "buildArgs", "platform"),
    "requirements": ("cpus", "gpus", "maxDuration", "memory", "network"),
}
"""As published, and ``requirements.network``: what a worker acts upon must be part of the id, or a job without a
network would be answered with the result of one that had it. A definition that does not name it has the published id.
"""
_REF_MAPS = ("inputs", "configFiles")
INJECTED_ENV = frozenset({"channel", "CHANNEL", "readonly", "edit", "parent-metapage-id", "fs-path"})
INJECTED_PREFIXES = ("mp-", "mp_")


def known_id(definition: Any) -> str:
    """Compute the id of a definition from its known members.

    Shape:  sha256 as 64 lowercase hex digits.
    Errors: BadDefinition where the rule has no answer: a ``null`` definition or ref, or an array or text in the place
            of ``env``, ``inputs`` or ``configFiles``.
    Source: published "Job id", newer release, 2.1.
    """
    if definition is None:
        raise BadDefinition("the definition is null; an object was expected")
    return _hash(_known_members(definition) if isinstance(definition, Mapping) else {})


def _known_members(definition: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name in VERBATIM_MEMBERS if (value := definition.get(name)) is not None}
    for name, members in PICKED_MEMBERS.items():
        given = definition.get(name)
        if isinstance(given, Mapping) and (picked := _picked(given, members)):
            kept[name] = picked
    if env := _members(definition, "env"):
        own = {key: value for key, value in env.items() if not _is_injected(key)}
        if own:
            kept["env"] = own
    for name in _REF_MAPS:
        if refs := _members(definition, name):
            kept[name] = {key: _known_ref(f"{name}.{key}", ref) for key, ref in refs.items()}
    return kept


def _picked(given: Mapping[str, Any], members: tuple[str, ...]) -> dict[str, Any]:
    return {member: value for member in members if (value := given.get(member)) is not None}


def _members(definition: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object's members; numbers and booleans have none, and what is indexed by position is refused."""
    value = definition.get(name)
    if isinstance(value, Mapping):
        return value
    if value and isinstance(value, (list, tuple, str)):
        raise BadDefinition(
            f"{name} is {_kind(value)}; an object was expected", details=[(f"definition.{name}", "not an object")]
        )
    return {}


def _is_injected(key: str) -> bool:
    return key in INJECTED_ENV or key.startswith(INJECTED_PREFIXES)


def _known_ref(where: str, ref: Any) -> dict[str, Any]:
    if ref is None:
        raise _null_ref(where)
    if not isinstance(ref, Mapping):
        return {}
    kept: dict[str, Any] = {}
    if ref.get("type") is not None:
        kept["type"] = ref["type"]
    if "value" in ref:
        value = ref["value"]
        kept["value"] = _reduced_url(value) if ref.get("type") == "url" and isinstance(value, str) else value
    return kept


def verbatim_id(definition: Any) -> str:
    """Compute the id of a definition by the older rule: all of it counts but a few volatile members.

    Shape:  sha256 as 64 lowercase hex digits.
    Errors: BadDefinition where the rule has no answer: a ``null`` definition or ref, a ``url`` ref whose value is no
            text, or an array or text in the place of ``inputs`` or ``configFiles``.
    Source: published "Job id", first release, 5.1.
    """
    if definition is None:
        raise BadDefinition("the definition is null; an object was expected")
    if not isinstance(definition, Mapping):
        return _hash(definition)
    kept = dict(definition)
    for name in _REF_MAPS:
        if refs := _members(definition, name):
            kept[name] = {key: _verbatim_ref(f"{name}.{key}", ref) for key, ref in refs.items()}
    env = definition.get("env")
    if isinstance(env, Mapping):
        kept["env"] = {
            key: value for key, value in env.items() if not (key in ("channel", "CHANNEL") and _is_true(value))
        }
    return _hash(kept)


def _verbatim_ref(where: str, ref: Any) -> Any:
    if ref is None:
        raise _null_ref(where)
    if not isinstance(ref, Mapping):
        return ref
    kept = {key: value for key, value in ref.items() if key != "hash"}
    if kept.get("type") == "url":
        if not isinstance(kept.get("value"), str):
            raise BadDefinition(
                f"{clip(where)} is a url ref without text as value", details=[(f"definition.{where}", "no url")]
            )
        kept["value"] = _reduced_url(kept["value"])
    return kept


def _is_true(value: Any) -> bool:
    """JavaScript's truth: empty objects and arrays are true."""
    return isinstance(value, (dict, list)) or bool(value)


def _null_ref(where: str) -> BadDefinition:
    return BadDefinition(f"{clip(where)} is null; a data ref was expected", details=[(f"definition.{where}", "null")])


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else "an array"


def accept_id(stated: str | None, definition: Any) -> str:
    """Decide under which id a definition is kept: the stated one if it is right by either rule.

    Shape:  ``stated`` None or empty: the known-members id is the job's id.
    Errors: IdMismatch, naming what was computed; BadDefinition if the definition has no id at all.
    Source: decision "Identity"; published "Can one server accept both?".
    """
    known = known_id(definition)
    if not stated or stated == known:
        return known
    try:
        verbatim = verbatim_id(definition)
    except BadDefinition:
        verbatim = known
    if stated == verbatim:
        return verbatim
    also = f" (or {verbatim} by the older rule)" if verbatim != known else ""
    raise IdMismatch(f"the stated id {clip(stated, 64)} is not the definition's, which is {known}{also}")


# --- volatile URLs ---------------------------------------------------------------------------------------------------

_PRESIGNED = "/presignedurl/"
_LEGACY_BUCKET = "https://metaframe-asman-test.s3.us-west-1.amazonaws.com"
_LEGACY_REST = re.compile(r"([A-Za-z0-9.-]*)(?::(\d*))?(?=[/?#]|\Z)")
_PATH_ENCODED = frozenset(' "<>`{}^')
_ONE_DOT = frozenset({".", "%2e"})
_TWO_DOTS = frozenset({"..", ".%2e", "%2e.", "%2e%2e"})


def _reduced_url(url: str) -> str:
    """Cut what differs from one signing to the next."""
    if _PRESIGNED in url:
        return url[: url.index(_PRESIGNED)]
    return _legacy_url(url) if url.startswith(_LEGACY_BUCKET) else url


def _legacy_url(url: str) -> str:
    """Normalise a URL of the legacy bucket, without query and fragment. Source: WHATWG URL, path state."""
    rest = (
        re.sub(r"[\t\n\r]", "", url[len(_LEGACY_BUCKET) :])
        .rstrip("".join(map(chr, range(33))))
        .replace(
            "\\",
            "/",
        )
    )
    authority = _LEGACY_REST.match(rest)
    if authority is None:
        raise BadDefinition(f"the url {clip(url)} cannot be read")
    port = authority[2] or ""
    path = re.split(r"[?#]", rest[authority.end() :], maxsplit=1)[0]
    shown_port = f":{int(port)}" if port and int(port) != 443 else ""
    return _LEGACY_BUCKET + authority[1].lower() + shown_port + _path(path)


def _path(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")[1:] or [""]
    for index, segment in enumerate(segments):
        dots = segment.lower()
        if dots in _TWO_DOTS:
            del kept[-1:]
        elif dots not in _ONE_DOT:
            kept.append("".join(map(_path_character, segment)))
            continue
        if index == len(segments) - 1:
            kept.append("")
    return "/" + "/".join(kept)


def _path_character(c: str) -> str:
    if "!" <= c <= "~" and c not in _PATH_ENCODED:
        return c
    text = "\ufffd" if _SURROGATE.match(c) else c
    return "".join(f"%{byte:02X}" for byte in text.encode())


# --- names -----------------------------------------------------------------------------------------------------------

QUEUE_NAME = r"[A-Za-z0-9._~-]{1,128}"
_QUEUE = re.compile(QUEUE_NAME, re.ASCII)
_BLOB_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", re.ASCII)
_HEX_64 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAMESPACE_BYTES = 256
_FILE_NAME_BYTES = 512
_FILE_NAME_DEPTH = 32


def is_content_key(key: str) -> bool:
    """Is this blob key the sha256 of its content (64 lowercase hex digits)?"""
    return _HEX_64.fullmatch(key) is not None


def _check(name: str, passed: Callable[[str], object], what: str, rule: str) -> str:
    if not isinstance(name, str) or not passed(name):
        raise BadName(f"the {what} {clip(name)} is not {rule}")
    return name


def check_queue_name(name: str) -> str:
    """Give the queue name back, or raise BadName. Source: promises, "Error shape and default limits"."""
    if name in (".", ".."):
        raise BadName(f"the queue name {clip(name)} stands for a directory in every URL; choose another")
    return _check(name, _QUEUE.fullmatch, "queue name", "1 to 128 letters, digits and . _ ~ -")


def check_job_id(job_id: str) -> str:
    """Give the job id back, or raise BadName."""
    return _check(job_id, _HEX_64.fullmatch, "job id", "64 lowercase hex digits")


def check_blob_key(key: str) -> str:
    """Give the blob key back, or raise BadName."""
    return _check(
        key, _BLOB_KEY.fullmatch, "blob key", "1 to 200 letters, digits and . _ - that start with a letter or digit"
    )


def check_namespace(namespace: str, *, any_allowed: bool = False) -> str:
    """Give the namespace back, or raise BadName; ``*`` (all of them) only where ``any_allowed``."""
    if namespace == ANY_NAMESPACE and not any_allowed:
        raise BadName(f"the namespace {clip(namespace)} stands for all namespaces; a job is submitted to one")
    return _check(
        namespace,
        lambda text: text.isprintable() and 0 < len(text.encode()) <= _NAMESPACE_BYTES,
        "namespace",
        f"1 to {_NAMESPACE_BYTES} bytes of printable text",
    )


def check_file_name(name: str, *, absolute: bool = False) -> str:
    """Give the name of an input, config file or output back, or raise BadName.

    Shape:  relative, parts separated by ``/``; one that starts with ``/`` only where ``absolute``.
    """
    if not isinstance(name, str) or _SURROGATE.search(name):
        raise BadName(f"the file name {clip(name)} cannot be written as UTF-8 text")
    if len(name.encode()) > _FILE_NAME_BYTES:
        raise BadName(
            f"the file name {clip(name)} has {len(name.encode())} bytes; at most {_FILE_NAME_BYTES} are allowed"
        )
    if "\0" in name or "\\" in name:
        raise BadName(f"the file name {clip(name)} holds a NUL or a backslash; separate its parts with /")
    if name.startswith("/") and not absolute:
        raise BadName(f"the file name {clip(name)} is absolute; it must be relative")
    parts = name.removeprefix("/").split("/")
    if len(parts) > _FILE_NAME_DEPTH:
        raise BadName(f"the file name {clip(name)} has {len(parts)} parts; at most {_FILE_NAME_DEPTH} are allowed")
    if any(part in ("", ".", "..") for part in parts):
        raise BadName(f"the file name {clip(name)} has an empty part, . or ..; write it without")
    return name
