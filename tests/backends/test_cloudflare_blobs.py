"""The blob store on R2: what needs no bucket here, and inside workerd what the kits do not ask."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import edge_exam
from asman.config import Config
from asman.errors import ConfigError, Unavailable
from asman_cloudflare import Platform
from asman_cloudflare.blobs import parse_r2_url, stamp
from asman_cloudflare.r2_bucket import only_etag
from asman_cloudflare.r2_reading import let_go
from asman_cloudflare.r2_upload import Room
from edge import Bundle
from edge_exam import examined_inside, make_kits

INSIDE = Path(edge_exam.__file__).with_name("r2_inside.py")


@pytest.mark.timeout(400)
def test_the_store_does_what_the_kits_do_not_ask(edge_bundle: Bundle, tmp_path: Path) -> None:
    outcomes = examined_inside(edge_bundle, make_kits(tmp_path), [str(INSIDE)])[str(INSIDE)]
    assert [each for each in outcomes if each[1] != "passed"] == []
    assert len(outcomes) > 40


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("r2://BLOBS", ("BLOBS", "")),
        ("r2://BLOBS/", ("BLOBS", "")),
        ("r2://my_Bucket2/a/b.c", ("my_Bucket2", "a/b.c/")),
    ],
)
def test_a_url_names_a_binding_and_a_prefix(url: str, place: tuple[str, str]) -> None:
    assert parse_r2_url(url) == place


@pytest.mark.parametrize(
    "url",
    ["r2:", "r2://", "r2:///prefix", "r2://a-b", "r2://2x", "r2://B?x=1", "r2://B/a//b", "r2://B/..", "r2://B/a b"],
)
def test_a_url_that_cannot_be_read_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"r2://BINDING|binding|prefix"):
        parse_r2_url(url)


def test_a_binding_that_is_not_there_is_named() -> None:
    platform = Platform(SimpleNamespace(OTHER=object()))
    with pytest.raises(ConfigError, match="no binding BLOBS"):
        platform.asman_blob_store("r2://BLOBS", Config())
    assert platform.asman_blob_store("s3://BLOBS", Config()) is None


def test_stamps_are_in_order_of_time() -> None:
    times = [0.0, 9.5, 10.0, 1_700_000_000.25, 1_700_000_000.250001, 9_999_999_999.0]
    assert [stamp(at) for at in times] == sorted(stamp(at) for at in times)
    assert len({len(stamp(at)) for at in [*times, -5.0, 1e15]}) == 1


def test_room_is_bounded_and_comes_back() -> None:
    room = Room(100)
    room.take(60)
    with pytest.raises(Unavailable, match="hold 60 bytes of the 100"):
        room.take(41)
    room.take(40)
    room.give_back(60)
    room.take(60)


def test_a_condition_names_the_tag() -> None:
    assert only_etag("abc") == {"etagMatches": "abc"}


def test_a_stream_that_cannot_be_cancelled_is_let_go() -> None:
    let_go(None)
    let_go(SimpleNamespace(cancel=lambda: 1 / 0))
