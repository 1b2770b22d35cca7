from __future__ import annotations

import pytest

from asman.errors import RangeRefused
from asman.routes.content import byte_range, content_headers, content_type_of


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.png", "image/png"),
        ("a.txt", "text/plain"),
        ("a.json", "application/json"),
        ("a.csv", "text/csv"),
        ("a.pdf", "application/pdf"),
        ("a.html", "application/octet-stream"),
        ("a.svg", "application/octet-stream"),
        ("a.xhtml", "application/octet-stream"),
        ("a.xml", "application/octet-stream"),
        ("a.js", "application/octet-stream"),
        ("a.txt.gz", "application/octet-stream"),
        ("noextension", "application/octet-stream"),
    ],
)
def test_nothing_that_could_run_gets_its_own_type(name: str, content_type: str) -> None:
    assert content_type_of(name) == content_type


@pytest.mark.parametrize("name", ["a.html", "a.svg", "a.pdf", "a.js", "unknown"])
def test_what_is_not_surely_inert_is_an_attachment(name: str) -> None:
    headers = content_headers(name, content_type_of(name))
    assert headers["content-disposition"].startswith("attachment; ")
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("dir/a.txt", 'inline; filename="a.txt"'),
        ('a"b\r\nX: y.txt', 'inline; filename="a_b__X: y.txt"'),
        ("ü.txt", "inline; filename=\"_.txt\"; filename*=UTF-8''%C3%BC.txt"),
        ("", 'inline; filename="file"'),
    ],
)
def test_names_cannot_break_out_of_the_header(name: str, disposition: str) -> None:
    assert content_headers(name, "text/plain")["content-disposition"] == disposition


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-4", (0, 5)),
        ("bytes=5-", (5, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=0-999", (0, 10)),
        ("bytes=-999", (0, 10)),
        ("bytes=1-2,4-5", None),
        ("bytes=-", None),
        ("lines=1-2", None),
        ("nonsense", None),
    ],
)
def test_a_range_is_read_as_the_rfc_says(header: str | None, expected: tuple[int, int] | None) -> None:
    assert byte_range(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=20-30", "bytes=5-4", "bytes=-0"])
def test_a_range_without_a_byte_is_refused(header: str) -> None:
    with pytest.raises(RangeRefused):
        byte_range(header, 10)
