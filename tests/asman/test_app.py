from __future__ import annotations

import asyncio

import pytest

from asman.app import create_app
from asman.config import Config, load_config
from asman.errors import BlobNotFound, ConfigError, JobNotFound, NotFinished, NotFound
from asman.hookspecs import hookimpl
from asman.memory import MemoryJobStore, MemoryNotifier
from core import QUEUE, core, definition


async def test_an_app_without_lifespan_starts_with_its_first_request() -> None:
    app = create_app(load_config({"backend": "memory"})[0], discover=False)
    assert "asman" not in app.extensions
    answer = await app.test_client().post(f"/q/{QUEUE}", json={"definition": definition()})
    assert answer.status_code == 200
    assert "asman" in app.extensions


async def test_starting_twice_at_once_opens_once() -> None:
    app = create_app(load_config({"backend": "memory"})[0], discover=False)
    clients = [app.test_client() for _ in range(5)]
    await asyncio.gather(*(client.get("/readyz") for client in clients))
    services = app.extensions["asman"]
    await clients[0].get("/readyz")
    assert app.extensions["asman"] is services


def test_a_backend_that_nobody_takes_is_refused_before_serving() -> None:
    with pytest.raises(ConfigError, match="no job store opens"):
        create_app(Config(backend="nosuch://x"), discover=False)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "route_not_found"),
        ("GET", "/q/name/", 404, "route_not_found"),
        ("PATCH", "/q/name", 405, "method_not_allowed"),
        ("POST", "/j/x", 405, "method_not_allowed"),
        ("GET", "/j//definition.json", 404, "route_not_found"),
    ],
)
async def test_what_is_not_there_says_so_in_json(method: str, path: str, status: int, code: str) -> None:
    async with core() as c:
        got, body, headers = await c.call(method, path)
        assert (got, body["code"]) == (status, code)
        assert body["requestId"]
        assert headers["Content-Type"].startswith("application/json")


async def test_a_fault_of_ours_shows_nothing_of_the_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    async with core() as c:

        async def fail(*args: object, **kwargs: object) -> None:
            raise RuntimeError("secret path /var/lib/x")

        monkeypatch.setattr(type(c.services.jobs), "list", fail)
        status, body, _ = await c.call("GET", f"/q/{QUEUE}")
        assert (status, body["code"]) == (500, "internal_error")
        assert "secret" not in str(body)


async def test_options_on_any_path_is_the_preflight() -> None:
    async with core(host="0.0.0.0") as c:
        status, _, headers = await c.call(
            "OPTIONS", "/anything/at/all", headers={"Access-Control-Request-Headers": "content-type, x-a"}
        )
        assert status == 204
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert headers["Access-Control-Allow-Methods"] == "GET,HEAD,PUT,POST,DELETE,PATCH"
        assert headers["Access-Control-Allow-Headers"] == "content-type,x-a"


async def test_every_answer_is_open_to_pages_of_any_origin() -> None:
    async with core(host="0.0.0.0") as c:
        for path in ("/healthz", "/nope", f"/q/{QUEUE}", "/j/x"):
            _, _, headers = await c.call("GET", path, headers={"Origin": "https://page.example"})
            assert headers["Access-Control-Allow-Origin"] == "*", path


async def test_foreign_pages_may_not_drive_a_server_on_loopback() -> None:
    async with core() as c:
        foreign = {"Origin": "https://evil.example"}
        status, body, _ = await c.call("POST", f"/q/{QUEUE}", {"definition": definition()}, foreign)
        assert (status, body["code"]) == (403, "origin_refused")
        status, _, _ = await c.call("GET", "/healthz", headers={"Host": "rebound.example"})
        assert status == 403
        assert await c.services.jobs.counts(None) == {}
        _, _, headers = await c.call("GET", f"/q/{QUEUE}", headers=foreign)
        assert "Access-Control-Allow-Origin" not in headers


async def test_a_page_that_is_allowed_by_name_may() -> None:
    async with core(allow_origin="https://good.example") as c:
        status, _, headers = await c.call(
            "POST", f"/q/{QUEUE}", {"definition": definition()}, {"Origin": "https://good.example"}
        )
        assert status == 200
        assert headers["Access-Control-Allow-Origin"] == "https://good.example"


async def test_a_request_with_two_lengths_is_refused() -> None:
    async with core() as c:
        headers = {"Content-Length": "2", "Transfer-Encoding": "chunked"}
        status, body, _ = await c.call("POST", f"/q/{QUEUE}", b"{}", headers)
        assert (status, body["code"]) == (400, "bad_request")


def test_what_is_not_there_is_one_kind_of_error() -> None:
    for kind in (JobNotFound, BlobNotFound, NotFinished):
        assert issubclass(kind, NotFound)
        assert kind.status == 404


class _OtherClock(MemoryJobStore):
    """A store with its own clock and its own notifier, as one that several servers share has."""

    durability = "everysec"

    def clock(self) -> float:
        return 12_345.0


class _Shared:
    def __init__(self) -> None:
        self.notifier = MemoryNotifier()

    @hookimpl
    def asman_job_store(self, url: str) -> _OtherClock | None:
        return _OtherClock() if url == "shared:" else None

    @hookimpl
    def asman_notifier(self, url: str) -> MemoryNotifier | None:
        return self.notifier if url == "shared:" else None


async def test_servers_go_by_their_store_s_clock_and_notifier_and_say_what_it_keeps() -> None:
    shared = _Shared()
    app = create_app(load_config({"backend": "shared:", "blobs": "memory:"})[0], [shared], discover=False)
    answer = await app.test_client().post(f"/q/{QUEUE}", json={"definition": definition()})
    assert answer.headers["asman-durability"] == "everysec"
    services = app.extensions["asman"]
    assert services.clock() == 12_345.0
    assert services.notifier is shared.notifier
    ready = await (await app.test_client().get("/readyz")).get_json()
    assert ready["durability"] == "everysec"


@pytest.mark.parametrize("answers", [True, False])
async def test_what_a_given_plugin_keeps_for_the_app_is_asked_after_the_plugin_itself(answers: bool) -> None:
    class Kept:
        @hookimpl
        def asman_metrics_text(self) -> bytes:
            return b"# kept"

    class Given:
        @hookimpl
        def asman_app_plugins(self, config: Config) -> list[object]:
            return [Kept()]

        @hookimpl
        def asman_metrics_text(self) -> bytes | None:
            return b"# given" if answers else None

    app = create_app(Config(backend="memory"), [Given()], discover=False)
    text = await (await app.test_client().get("/metrics")).get_data(as_text=True)
    assert ("# given" in text, "# kept" in text) == (answers, not answers)
