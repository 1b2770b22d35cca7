"""What the strict decoder takes, what it refuses, and how it says so."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from asman.config import PROFILES, Limits
from asman.errors import BadJson, LimitExceeded
from asman.strict_json import decode_json
from asman.testing.strategies import json_values

SMALL = Limits(json_depth=4, json_keys=3, json_string_bytes=10)


@given(json_values())
def test_every_json_value_is_read_back(value: Any) -> None:
    text = json.dumps(value)
    assert decode_json(text.encode(), Limits(json_keys=0, json_depth=0)) == value


@pytest.mark.parametrize("text", ["[" * 64 + "]" * 64, '{"a":1,"a":2}', ' {"a": [1, 2.5e3]} \n', '"\\ud83d"', "1e-999"])
def test_ordinary_documents_are_read_as_python_reads_them(text: str) -> None:
    assert decode_json(text, PROFILES["public"]) == json.loads(text)


def test_of_equal_keys_the_last_one_counts() -> None:
    assert decode_json(b'{"a":1,"a":2}') == {"a": 2}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"NaN", "NaN"),
        (b"[Infinity]", "Infinity"),
        (b'{"a":-Infinity}', "-Infinity"),
        (b"1e999", "1e999"),
        (b"-1e999", "-1e999"),
        (b"9" * 309, "309 characters"),
        (b"-" + b"9" * 309, "310 characters"),
        (b'{"n":' + b"9" * 5000 + b"}", "5000 characters"),
        (b'"' + b"x" * 400 + b'" ' + b"1", "Extra data"),
        (b"{} {}", "Extra data"),
        (b"{}x", "Extra data"),
        (b"{'a':1}", "line 1 column 2"),
        (b'{"a":1,}', "line 1"),
        (b"[1,", "line 1"),
        (b'"abc', "line 1"),
        (b'"a\nb"', "control character"),
        (b"\xff", "UTF-8"),
        (b'"\xed\xa0\xbd"', "UTF-8"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"{\x00}\x00", "line 1"),
        (b"01", "Extra data"),
        (b"tru", "line 1"),
    ],
)
def test_what_is_not_json_is_refused_with_the_place_or_the_value(data: bytes, said: str) -> None:
    with pytest.raises(BadJson) as caught:
        decode_json(data, PROFILES["public"])
    assert said in caught.value.message
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("number", ["1" + "0" * 308, "-1" + "0" * 308, "1.7976931348623157e308"])
def test_the_largest_numbers_of_a_double_are_read(number: str) -> None:
    assert float(decode_json(number + " " * 400)) == float(number)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[[[[1]]]]]", "5 levels deep; at most 4"),
        ('{"a":[{"b":[[]]}]}', "5 levels deep; at most 4"),
        ("[" * 100_000, "at most 4"),
        ('[{"a":' * 50_000, "at most"),
        ('{"a":1,"b":2,"c":{"d":4}}', "4 members; at most 3"),
        ('[{"a":1},{"a":1},{"a":1},{"a":1}]', "4 members; at most 3"),
        ('["12345678901"]', "11 bytes"),
        ('{"12345678901":1}', "11 bytes"),
        ('["\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9"]', "12 bytes"),
        ('["\\u00e9\\u00e9\\u00e9\\u00e9\\u00e9\\u00e9"]', "12 bytes"),
    ],
)
def test_too_much_is_refused_naming_amount_and_limit(text: str, said: str) -> None:
    with pytest.raises(LimitExceeded) as caught:
        decode_json(text, SMALL)
    assert said in caught.value.message
    assert caught.value.status == 413


@pytest.mark.parametrize(
    "text",
    [
        "[[[[1]]]]",
        "[[],[],[],[],[],[]]",
        '["[[[[[[","{{{"]',
        '["::::::"]',
        '["\\"[[[[[["]',
        '["\\\\",[[[]]]]',
        '{"a":1,"b":2,"c":"::"}',
        '["1234567890"]',
        '["\\u0041\\u0041\\u0041"]',
        '["\\n\\n\\n\\n\\n\\n\\n\\n\\n\\n"]',
    ],
)
def test_what_only_looks_like_too_much_is_read(text: str) -> None:
    assert decode_json(text, SMALL) == json.loads(text)


def test_zero_means_no_limit_and_depth_still_ends_in_an_error_of_ours() -> None:
    free = Limits(json_depth=0, json_keys=0, json_string_bytes=0)
    assert len(decode_json('{"a":"' + "x" * 100_000 + '"}', free)["a"]) == 100_000
    with pytest.raises(LimitExceeded, match="too deep"):
        decode_json("[" * 1_000_000 + "]" * 1_000_000, free)


def test_without_limits_depth_is_still_held() -> None:
    with pytest.raises(LimitExceeded, match="65 levels deep; at most 64"):
        decode_json("[" * 65 + "]" * 65)


def test_a_long_string_is_shown_by_its_beginning_only() -> None:
    with pytest.raises(LimitExceeded) as caught:
        decode_json('["' + "s" * 5_000 + '"]', SMALL)
    assert len(caught.value.message) < 200
