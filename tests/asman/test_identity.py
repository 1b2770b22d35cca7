"""Job ids by both published rules, canonical JSON, and which names are names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asman import identity
from asman.errors import BadDefinition, BadName, IdMismatch
from asman.identity import (
    accept_id,
    canonical_json,
    check_blob_key,
    check_file_name,
    check_job_id,
    check_namespace,
    check_queue_name,
    is_content_key,
    known_id,
    verbatim_id,
)
from asman.strict_json import decode_json
from asman.testing.strategies import definitions, json_values

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "job_ids.json").read_text())
HELLO = {"image": "alpine:3.18.5", "command": "echo hi"}


def _id_or_error(rule: Callable[[Any], str], definition: Any) -> str:
    try:
        return rule(definition)
    except BadDefinition:
        return "error"


# --- the published vectors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["verbatim"], ids=lambda v: v["what"])
def test_the_verbatim_rule_gives_the_published_id(vector: dict[str, str]) -> None:
    assert verbatim_id(decode_json(vector["definition"])) == vector["id"]
    assert hashlib.sha256(vector["canonical"].encode()).hexdigest() == vector["id"]


@pytest.mark.parametrize("text", VECTORS["verbatim_errors"])
def test_the_verbatim_rule_has_no_id_where_the_published_one_fails(text: str) -> None:
    with pytest.raises(BadDefinition):
        verbatim_id(decode_json(text))


@pytest.mark.parametrize("vector", VECTORS["verbatim_canonical"], ids=lambda v: v["canonical"])
def test_a_canonical_text_is_its_own_canonical_form(vector: dict[str, str]) -> None:
    definition = decode_json(vector["canonical"])
    assert canonical_json(definition) == vector["canonical"]
    assert verbatim_id(definition) == vector["id"]


@pytest.mark.parametrize("vector", VECTORS["known"], ids=lambda v: v["what"])
def test_both_rules_give_the_published_ids_of_the_newer_release(vector: dict[str, str]) -> None:
    definition = decode_json(vector["definition"])
    assert _id_or_error(known_id, definition) == vector["new"]
    assert _id_or_error(verbatim_id, definition) == vector["old"]
    if vector["blob"] is not None:
        assert hashlib.sha256(vector["blob"].encode()).hexdigest() == vector["new"]


def test_the_vectors_are_all_there() -> None:
    assert [len(VECTORS[name]) for name in ("verbatim", "verbatim_canonical", "known")] == [28, 3, 25]


# --- relations between the rules -------------------------------------------------------------------------------------


@given(definitions())
def test_computing_an_id_changes_nothing_and_does_not_depend_on_the_order_of_members(
    definition: dict[str, Any],
) -> None:
    before = json.dumps(definition)
    turned = {name: definition[name] for name in reversed(definition)}
    assert known_id(definition) == known_id(turned)
    assert verbatim_id(definition) == verbatim_id(turned)
    assert json.dumps(definition) == before


@given(definitions())
def test_the_known_rule_is_the_verbatim_rule_on_a_cleaned_definition(definition: dict[str, Any]) -> None:
    assert known_id(definition) == verbatim_id(identity._known_members(definition))


@given(definitions(), json_values())
def test_unknown_members_and_hashes_never_change_the_known_id(definition: dict[str, Any], extra: Any) -> None:
    richer = {**definition, "zzz": extra}
    richer["inputs"] = {n: {**ref, "hash": "h", "zzz": extra} for n, ref in (definition.get("inputs") or {}).items()}
    assert known_id(richer) == known_id(definition)


@pytest.mark.parametrize("name", ["env", "inputs", "configFiles"])
@pytest.mark.parametrize("value", [["a"], "text"])
def test_a_map_given_as_array_or_text_has_no_id(name: str, value: Any) -> None:
    with pytest.raises(BadDefinition, match=name):
        known_id({**HELLO, name: value})


@pytest.mark.parametrize("value", [0, 5, True, False, "", []])
def test_a_map_given_as_a_value_without_members_counts_as_empty(value: Any) -> None:
    assert known_id({**HELLO, "env": value, "inputs": value}) == known_id(HELLO)


@pytest.mark.parametrize("rule", [known_id, verbatim_id])
def test_null_is_no_definition(rule: Callable[[Any], str]) -> None:
    with pytest.raises(BadDefinition):
        rule(None)


def test_a_null_ref_is_named_in_the_error() -> None:
    with pytest.raises(BadDefinition, match=r"inputs\.a\.txt") as caught:
        known_id({**HELLO, "inputs": {"a.txt": None}})
    assert caught.value.details == (("definition.inputs.a.txt", "null"),)


@pytest.mark.parametrize(
    ("url", "reduced"),
    [
        ("", "/"),
        ("/", "/"),
        ("/a b?q=1#f", "/a%20b"),
        ("?q", "/"),
        ("/a/../b/./c", "/b/c"),
        ("/a/..", "/"),
        ("/a/%2E%2e/b/.", "/b/"),
        ("/../..", "/"),
        ("/é\N{GRINNING FACE}", "/%C3%A9%F0%9F%98%80"),
        ("/%41\\x", "/%41/x"),
        ("/a\n\tb ", "/ab"),
        (":443/k", "/k"),
        (":8443/k", ":8443/k"),
        ("/a//b", "/a//b"),
        ('/"<>`{}^|~!', "/%22%3C%3E%60%7B%7D%5E|~!"),
    ],
)
def test_a_legacy_bucket_url_counts_as_browsers_write_it(url: str, reduced: str) -> None:
    bucket = "https://metaframe-asman-test.s3.us-west-1.amazonaws.com"
    signed, plain = ({**HELLO, "inputs": {"f": {"type": "url", "value": bucket + end}}} for end in (url, reduced))
    assert canonical_json(identity._known_members(signed)) == canonical_json(plain)
    assert known_id(signed) == known_id(plain)


def test_a_legacy_bucket_url_with_a_strange_authority_has_no_id() -> None:
    url = "https://metaframe-asman-test.s3.us-west-1.amazonaws.com@evil.example/x"
    with pytest.raises(BadDefinition, match="cannot be read"):
        known_id({**HELLO, "inputs": {"f": {"type": "url", "value": url}}})


# --- which stated ids are accepted -----------------------------------------------------------------------------------

BROWSER = {**HELLO, "env": {}}


@pytest.mark.parametrize("stated", [None, ""])
def test_without_a_stated_id_the_known_members_decide(stated: str | None) -> None:
    assert accept_id(stated, BROWSER) == known_id(BROWSER) == known_id(HELLO)


def test_an_id_by_either_rule_is_accepted_and_kept() -> None:
    old, new = verbatim_id(BROWSER), known_id(BROWSER)
    assert old != new
    assert accept_id(old, BROWSER) == old
    assert accept_id(new, BROWSER) == new


@pytest.mark.parametrize("stated", ["0" * 64, "my-job", known_id(HELLO).upper()])
def test_any_other_id_is_refused_and_both_right_ones_are_named(stated: str) -> None:
    with pytest.raises(IdMismatch) as caught:
        accept_id(stated, BROWSER)
    assert known_id(BROWSER) in caught.value.message
    assert verbatim_id(BROWSER) in caught.value.message
    assert caught.value.status == 422


def test_a_stated_id_is_still_refused_where_the_older_rule_has_none() -> None:
    definition = {**HELLO, "inputs": {"f": {"type": "url"}}}
    assert accept_id(known_id(definition), definition) == known_id(definition)
    with pytest.raises(IdMismatch):
        accept_id("0" * 64, definition)


# --- canonical JSON --------------------------------------------------------------------------------------------------


@given(json_values())
@example({"b": 1, "a": [True, None, "x\x7f\u2028"]})
@example(2**53)
@example({"\uff5e": 1, "\U0001f600": 2})
def test_the_fast_path_writes_what_the_slow_one_writes(value: Any) -> None:
    slow = identity._write(value)
    assert canonical_json(value) == (slow if slow.isascii() else identity._escape_surrogates(slow))


@given(json_values())
def test_canonical_json_reads_back_to_the_same_canonical_json(value: Any) -> None:
    text = canonical_json(value)
    text.encode()
    assert canonical_json(decode_json(text)) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_lose_nothing_and_keep_to_the_published_form(x: float) -> None:
    text = canonical_json(x)
    assert float(text) == x
    mantissa, e, exponent = text.partition("e")
    assert not mantissa.endswith(".")
    assert text != "-0"
    assert (e == "") == (x == 0 or 1e-6 <= abs(x) < 1e21)
    assert e == "" or (exponent[0] in "+-" and exponent[1] != "0")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), "null"),
        (float("inf"), "null"),
        (-float("inf"), "null"),
        (10**400, "null"),
        (-0.0, "0"),
        (-1.5e-9, "-1.5e-9"),
        (1e-6, "0.000001"),
        (123e18, "123000000000000000000"),
        (2**53 + 1, "9007199254740992"),
        (-(2**63), "-9223372036854776000"),
        (True, "true"),
        ("\ud83d\ude00", '"\U0001f600"'),
        ("\ude00\ud83d", '"\\ude00\\ud83d"'),
        ("\x08\x0c\x1f/\x7f", '"\\b\\f\\u001f/\x7f"'),
    ],
)
def test_odd_values_are_written_as_published(value: Any, text: str) -> None:
    assert canonical_json(value) == text


@pytest.mark.parametrize("value", [{1: 2}, {"a": {1, 2}}, b"bytes"])
def test_what_json_does_not_have_is_refused(value: Any) -> None:
    with pytest.raises(BadDefinition):
        canonical_json(value)


def test_a_value_nested_without_end_is_refused_and_does_not_crash() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(BadDefinition, match="nested too deep"):
        canonical_json(value)


# --- names -----------------------------------------------------------------------------------------------------------

GOOD_NAMES = [
    (check_queue_name, ["a", "Q.1_~-", "x" * 128, "..."]),
    (check_job_id, ["0" * 64, known_id(HELLO)]),
    (check_blob_key, ["a", "A.b_c-d", "0" * 64, "x" * 200]),
    (check_namespace, ["_", "a b", "größe", "x" * 256, "%", "**"]),
    (check_file_name, ["a", "a/b.txt", "...", "x" * 512, "/".join("a" * 32), "größe 1.txt", "-rf", "..a/b.."]),
]
BAD_NAMES = [
    (check_queue_name, ["", ".", "..", "x" * 129, "a/b", "a b", "ä", "a\n", "a%20b", "*", "٣"]),
    (check_job_id, ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n"]),
    (check_blob_key, ["", ".a", "-a", "_a", "x" * 201, "a/b", "..", "a\n", "ä"]),
    (check_namespace, ["", "*", "x" * 257, "ä" * 129, "a\nb", "a\0", "\ud800"]),
    (
        check_file_name,
        [
            "",
            "/",
            "/etc/x",
            "..",
            "a/../b",
            "../a",
            "a/..",
            ".",
            "./a",
            "a//b",
            "a/",
            "a\\b",
            "a\0b",
            "x" * 513,
            "ä" * 257,
            "/".join("a" * 33),
            "\ud800",
        ],
    ),
]


@pytest.mark.parametrize(("check", "name"), [(check, name) for check, names in GOOD_NAMES for name in names])
def test_a_good_name_is_given_back(check: Callable[[str], str], name: str) -> None:
    assert check(name) == name


@pytest.mark.parametrize(("check", "name"), [(check, name) for check, names in BAD_NAMES for name in names])
def test_a_bad_name_is_refused_with_the_value_shown(check: Callable[[str], str], name: str) -> None:
    with pytest.raises(BadName) as caught:
        check(name)
    assert caught.value.status == 400
    assert '"' in caught.value.message
    assert len(caught.value.message) < 250


@pytest.mark.parametrize("check", [check for check, _ in GOOD_NAMES])
def test_a_name_that_is_no_text_is_refused(check: Callable[[Any], str]) -> None:
    with pytest.raises(BadName):
        check(7)


def test_all_namespaces_may_be_named_where_that_is_allowed() -> None:
    assert check_namespace("*", any_allowed=True) == "*"


def test_an_absolute_file_name_is_good_where_that_is_allowed() -> None:
    assert check_file_name("/etc/x.conf", absolute=True) == "/etc/x.conf"
    assert check_file_name("etc/x.conf", absolute=True) == "etc/x.conf"
    for name in ("/", "//etc", "/etc/", "/etc/../x"):
        with pytest.raises(BadName):
            check_file_name(name, absolute=True)


@pytest.mark.parametrize(
    ("key", "is_one"),
    [("0" * 64, True), ("a" * 64, True), ("A" * 64, False), ("0" * 63, False), ("0" * 64 + "\n", False)],
)
def test_only_64_lowercase_hex_digits_are_a_content_key(key: str, is_one: bool) -> None:
    assert is_content_key(key) is is_one


def test_what_a_job_may_reach_is_part_of_its_id_and_absent_changes_nothing() -> None:
    plain = {"image": "alpine:3.18.5", "command": "echo hi", "requirements": {"cpus": 2}}
    ids = {known_id({**plain, "requirements": {"cpus": 2, "network": network}}) for network in ("none", "egress")}
    assert len({*ids, known_id(plain)}) == 3
    assert known_id({**plain, "requirements": {"cpus": 2, "network": None}}) == known_id(plain)
