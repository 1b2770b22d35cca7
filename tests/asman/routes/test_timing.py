from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asman.contract import ROUTES
from asman.metering import Meters
from asman.routes.timing import ROUTE, UNMATCHED, Timed, template
from core import QUEUE, core, definition
from noting import Noting


@pytest.mark.parametrize(
    ("method", "path", "seen"),
    [
        ("GET", f"/q/{QUEUE}", ("/q/{queue}", "GET", 200)),
        ("GET", f"/q/{QUEUE}/j/{'0' * 64}", ("/q/{queue}/j/{jobId}", "GET", 404)),
        ("GET", f"/{QUEUE}/metrics", ("/{queue}/metrics", "GET", 200)),
        ("GET", f"/j/{'0' * 64}/outputs/a/b.txt", ("/j/{jobId}/outputs/{name}", "GET", 404)),
        ("HEAD", "/f/nothing", ("/f/{key}", "HEAD", 404)),
        ("GET", "/q/bad%20name", ("/q/{queue}", "GET", 400)),
        ("POST", f"/q/{QUEUE}", ("/q/{queue}", "POST", 400)),
        ("POST", f"/q/{QUEUE}/j", ("/q/{queue}/j", "POST", 400)),
        ("PUT", "/f/some-key", ("/f/{key}", "PUT", 200)),
        ("GET", "/wp-login.php/../../etc", (UNMATCHED, "GET", 404)),
        ("DELETE", "/healthz", (UNMATCHED, "DELETE", 405)),
        ("BREW", "/healthz", (UNMATCHED, "other", 405)),
    ],
)
async def test_a_request_is_known_by_its_route_and_never_by_its_path(
    method: str, path: str, seen: tuple[str, str, int]
) -> None:
    noting = Noting()
    async with core([noting]) as c:
        await c.call(method, path)
    assert noting.requests == [seen]
    assert all(0 <= seconds < 60 for seconds in noting.seconds)


async def test_a_refused_host_is_told_without_a_route() -> None:
    noting = Noting()
    async with core([noting]) as c:
        await c.call("GET", "/healthz", headers={"Host": "a b"})
    assert noting.requests == [(UNMATCHED, "GET", 400)]


async def test_a_page_that_may_not_is_told_with_the_route_it_wanted() -> None:
    noting = Noting()
    async with core([noting]) as c:
        await c.call("POST", f"/q/{QUEUE}/j/{'0' * 64}/cancel", headers={"Origin": "https://elsewhere.example"})
        await c.call("OPTIONS", f"/q/{QUEUE}/scale", headers={"Origin": "https://elsewhere.example"})
    assert noting.requests[0] == ("/q/{queue}/j/{jobId}/cancel", "POST", 403)
    assert noting.requests[1][1:] == ("OPTIONS", 204)


async def test_no_stranger_makes_new_labels() -> None:
    noting = Noting()
    async with core([noting]) as c:
        for number in range(50):
            await c.call("GET", f"/made-up-{number}/{number}")
            await c.call("GET", f"/q/queue-{number}")
            await c.call(f"M{number}", "/")
    assert len(set(noting.requests)) == 3


async def test_a_stream_is_timed_to_its_beginning() -> None:
    noting = Noting()
    async with core([noting]) as c:
        job = await c.submit(definition("long"))
        async with c.app.test_client().request(f"/q/{QUEUE}/j/{job.job_id}/stream") as stream:
            await stream.send_complete()
            await stream.receive()
            assert noting.requests == [("/q/{queue}/j/{jobId}/stream", "GET", 200)]
            await stream.disconnect()


async def test_sockets_pass_through_untimed() -> None:
    noting = Noting()
    async with core([noting]) as c, c.socket(f"/q/{QUEUE}/client") as client:
        await client.hear_until("JobStates")
    assert noting.requests == []


async def test_the_layer_needs_nothing_but_an_asgi_app() -> None:
    noting = Noting()
    sent: list[Any] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scope[ROUTE] = "/here"
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    await Timed(app, Meters([noting]))({"type": "http", "method": "GET"}, receive, send)
    assert (sent, noting.requests) == (["http.response.start", "http.response.body"], [("/here", "GET", 204)])


async def test_templates_are_the_paths_of_the_contract() -> None:
    async with core() as c:
        shown = {template(rule.rule) for rule in c.app.url_map.iter_rules() if not rule.websocket}
        assert {route.path for route in ROUTES} <= shown
