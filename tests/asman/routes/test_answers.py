from __future__ import annotations

import json
import logging

import pytest

from asman.config import Config
from asman.errors import BadDefinition, OriginRefused, RateLimited
from asman.routes.answers import (
    check_host_and_origin,
    cors_headers,
    error_answer,
    json_answer,
    preflight_headers,
    text_answer,
)

PUBLIC = Config(host="0.0.0.0")
LOCAL = Config(host="127.0.0.1", allow_origin=("https://good.example",), public_url="https://named.example")


def test_an_error_has_one_shape() -> None:
    answer = error_answer(BadDefinition("two faults", details=[("definition.env.A", "not text")]))
    body = json.loads(answer.body)
    assert (answer.status, body["error"], body["code"]) == (422, "two faults", "bad_definition")
    assert body["details"] == [{"loc": "definition.env.A", "msg": "not text"}]
    assert len(body["requestId"]) == 16
    assert answer.headers["cache-control"] == "no-store"


def test_what_is_not_ours_is_a_500_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = error_answer(RuntimeError("secret"))
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert "secret" in caplog.text


def test_a_refusal_for_now_says_when_to_come_back() -> None:
    assert error_answer(RateLimited("too quick")).headers["retry-after"] == "5"


def test_json_is_compact_and_headers_are_named_with_underscores() -> None:
    answer = json_answer({"a": [1, 2]}, cache_control="no-cache")
    assert answer.body == b'{"a":[1,2]}'
    assert answer.all_headers()["cache-control"] == "no-cache"
    assert answer.all_headers()["x-content-type-options"] == "nosniff"


def test_text_is_utf8() -> None:
    assert text_answer("ü").body == "ü".encode()


def test_a_public_server_is_open_to_all_pages() -> None:
    assert cors_headers(PUBLIC, "https://any.example", "h") == {"access-control-allow-origin": "*"}
    check_host_and_origin(PUBLIC, "POST", "https://any.example", "whatever.example")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "localhost", "named.example"])
def test_a_local_server_answers_to_its_own_names(host: str) -> None:
    check_host_and_origin(LOCAL, "GET", "", host)


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.5:8000"])
def test_a_local_server_does_not_answer_to_others(host: str) -> None:
    with pytest.raises(OriginRefused, match="does not answer to the name"):
        check_host_and_origin(LOCAL, "GET", "", host)


def test_pages_change_a_local_server_only_if_they_are_allowed() -> None:
    check_host_and_origin(LOCAL, "POST", "https://good.example", "localhost:8000")
    check_host_and_origin(LOCAL, "POST", "http://localhost:8000", "localhost:8000")
    for origin in ("https://evil.example", "null", "http://localhost:9999"):
        with pytest.raises(OriginRefused, match="may not drive"):
            check_host_and_origin(LOCAL, "POST", origin, "localhost:8000")


def test_the_private_network_preflight_is_answered_for_allowed_pages_only() -> None:
    assert "access-control-allow-private-network" in preflight_headers(LOCAL, "https://good.example", "localhost", "")
    assert preflight_headers(LOCAL, "https://evil.example", "localhost", "x") == {}
