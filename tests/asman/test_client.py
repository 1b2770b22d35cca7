"""The HTTP client against a real server, and against peers that misbehave on purpose."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman.client import Client, StreamEvent, _EventDecoder, _Place, hash_file, inline_bytes, safe_target
from asman.errors import (
    BadDefinition,
    BadName,
    BadRequest,
    BlobNotFound,
    ConfigError,
    HashMismatch,
    JobNotFound,
    Unavailable,
)
from fresh_python import run_fresh
from served import Served, Story, served, telling_worker

ECHO = {"image": "alpine:3.19.1", "command": "echo hi"}
HI = Story(lines=[("docker image pull", "pulling\n", False), ("Running", "hi\n", False), ("Running", "oh\n", True)])
UNKNOWN = "0" * 64


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served("--backend", "memory", cwd=tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
async def client(server: Served) -> AsyncIterator[Client]:
    async with Client(server.url) as opened:
        yield opened


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    return "q-" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:24]


async def test_a_job_goes_from_submit_to_result(client: Client, server: Served, queue: str) -> None:
    receipt = await client.submit(queue, ECHO, namespace="mine")
    assert not receipt.is_cached
    assert (await client.list(queue))[receipt.job_id]["namespaces"] == ["mine"]
    assert await client.result(queue, receipt.job_id) is None
    async with telling_worker(server.url, queue, lambda _: HI) as given:
        events = [event async for event in client.follow(queue, receipt.job_id)]
    assert given == [ECHO]
    assert events[-1].kind == "final"
    assert events[-1].data["outcome"] == "succeeded"
    lines = [line[0] for event in events if event.kind == "run-log" for line in event.data["lines"]]
    assert lines == ["hi\n", "oh\n"]
    result = await client.result(queue, receipt.job_id)
    assert result is not None
    assert result["finished"]["result"]["StatusCode"] == 0
    again = await client.submit(queue, ECHO)
    assert (again.job_id, again.is_cached) == (receipt.job_id, True)


async def test_logs_come_in_slices_that_go_on_where_the_last_ended(client: Client, server: Served, queue: str) -> None:
    job_id = (await client.submit(queue, ECHO)).job_id
    async with telling_worker(server.url, queue, lambda _: HI):
        async for _ in client.follow(queue, job_id):
            pass
    first = await client.logs(queue, job_id, "run")
    assert [line[0] for line in first.lines] == ["hi\n", "oh\n"]
    assert [len(line) for line in first.lines] == [2, 3]
    assert first.is_final
    assert (await client.logs(queue, job_id, "run", first.next)).lines == []
    pages = [page async for page in client.log_pages(queue, job_id, "build")]
    assert [line[0] for page in pages for line in page.lines] == ["pulling\n"]


async def test_a_dry_run_stores_nothing(client: Client, queue: str) -> None:
    dry = await client.submit(queue, ECHO, dry_run=True)
    assert await client.list(queue) == {}
    assert (await client.submit(queue, ECHO)).job_id == dry.job_id


async def test_a_submit_that_waits_comes_back_with_the_result(client: Client, server: Served, queue: str) -> None:
    async with telling_worker(server.url, queue, lambda _: HI):
        receipt = await client.submit(queue, ECHO, wait_s=20)
    assert receipt.answer["data"]["finished"]["result"]["StatusCode"] == 0


async def test_cancel_delete_copy_and_why(client: Client, queue: str) -> None:
    job_id = (await client.submit(queue, ECHO)).job_id
    why = await client.why(queue, job_id)
    assert (why["state"], why["position"], why["workers"]) == ("Queued", 0, [])
    assert (await client.copy(job_id, queue + "-2"))["success"]
    assert list(await client.list(queue + "-2")) == [job_id]
    assert (await client.cancel(queue, job_id, message="enough"))["state"] == "Finished"
    assert (await client.cancel(queue, job_id))["message"].startswith("Job already")
    await client.delete(queue, job_id)
    with pytest.raises(JobNotFound):
        await client.record(queue, job_id)
    assert (await client.status(queue))["jobs"] == {}


async def test_errors_of_the_server_keep_their_type_text_and_next_step(client: Client, queue: str) -> None:
    with pytest.raises(BadDefinition) as caught:
        await client.submit(queue, {"image": "a", "env": {"A": 1}, "workdir": "here"})
    assert caught.value.hint
    assert {where for where, _ in caught.value.details} == {"definition.env.A", "definition.workdir"}
    with pytest.raises(JobNotFound):
        await client.record(queue, UNKNOWN)
    with pytest.raises(BlobNotFound):
        await client.download(f"/f/{UNKNOWN}", Path("never-written"))
    with pytest.raises(BadRequest):
        await client.submit("q x", ECHO)


async def test_following_an_unknown_job_ends_with_an_error(client: Client, queue: str) -> None:
    with pytest.raises(JobNotFound):
        async for _ in client.follow(queue, UNKNOWN):
            pass


async def test_nobody_there_is_unavailable_with_the_address_and_what_to_do(free_port: int) -> None:
    async with Client(f"http://127.0.0.1:{free_port}") as client:
        with pytest.raises(Unavailable, match=f"cannot talk to http://127.0.0.1:{free_port}") as caught:
            await client.list("q")
    assert "asman up" in caught.value.hint


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://x", "http://", "http://h:99999", "", "http://[::1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError):
        Client(address)


def test_without_httpx_the_error_says_what_to_install() -> None:
    code = (
        "import asyncio, sys\nsys.modules['httpx'] = None\n"
        "from asman.client import Client\nfrom asman.errors import ConfigError\n"
        "async def go():\n    async with Client('http://localhost:1'): pass\n"
        "try:\n    asyncio.run(go())\nexcept ConfigError as error:\n    print(error.hint)"
    )
    assert run_fresh(code).strip() == 'pip install "asman[client]"'


# --- following over lost connections ---------------------------------------------------------------------------------


async def test_following_goes_on_after_a_server_restart_without_losing_or_repeating_a_line(
    tmp_path: Path, free_port: int
) -> None:
    options, finish = ("--data", "kept", "--port", str(free_port)), asyncio.Event()
    texts: list[str] = []
    with served(*options, cwd=tmp_path) as first:
        async with Client(first.url) as client:
            job_id = (await client.submit("q", ECHO)).job_id
            async with telling_worker(first.url, "q", lambda _: HI, until=finish):
                async with aclosing(client.follow("q", job_id)) as events:
                    async for event in events:
                        texts += [line[0] for line in event.data.get("lines", ())] if event.kind == "run-log" else []
                        if len(texts) == 2:
                            break
                    following = asyncio.ensure_future(_rest(events))
                    first.stop(signal.SIGKILL)
                    with served(*options, cwd=tmp_path) as second:
                        assert second.url == first.url
                        await client.cancel("q", job_id)
                        async with asyncio.timeout(30):
                            rest = await following
    assert texts == ["hi\n", "oh\n"]
    assert [event for event in rest if event.kind.endswith("-log")] == []
    assert rest[-1].data["outcome"] == "cancelled"


async def _rest(events: AsyncIterator[StreamEvent]) -> list[StreamEvent]:
    return [event async for event in events]


def _log(lines: list[str], cursor: int, kind: str = "run-log") -> StreamEvent:
    return StreamEvent(kind=kind, data={"lines": [[text, 1] for text in lines], "cursor": cursor})


def test_a_server_without_event_ids_may_begin_anew_and_no_line_is_told_twice() -> None:
    place = _Place()
    assert place.advance(_log(["a", "b"], 2)) is not None
    place.reconnect()
    assert place.advance(_log(["a"], 1)) is None
    fresh = place.advance(_log(["b", "c"], 3))
    assert fresh is not None
    assert [line[0] for line in fresh.data["lines"]] == ["c"]


def test_a_state_that_was_told_before_the_connection_broke_is_not_told_again() -> None:
    place, running = _Place(), StreamEvent(kind="state", data={"state": "Running"})
    assert place.advance(running) == running
    place.reconnect()
    assert place.advance(running) is None


@given(st.integers(1, 40), st.sampled_from(["\n", "\r\n"]))
def test_events_are_the_same_however_the_bytes_are_cut(size: int, end: str) -> None:
    text = end.join(
        [
            ": a comment",
            "event: run-log",
            "id: 1-2-3",
            'data: {"a":',
            'data: "\u2028ü"}',
            "retry: 5",
            "",
            "event: x",
            "",
        ]
    )
    raw, decoder = (text + end).encode(), _EventDecoder()
    seen = [event for i in range(0, len(raw), size) for event in decoder.feed(raw[i : i + size])]
    assert seen == [StreamEvent(kind="run-log", data={"a": "\u2028ü"}, event_id="1-2-3")]


# --- blobs -----------------------------------------------------------------------------------------------------------


async def test_a_large_file_goes_up_once_and_comes_back_the_same(client: Client, tmp_path: Path) -> None:
    source, target, seen = tmp_path / "big", tmp_path / "sub" / "copy", []
    source.write_bytes(bytes(range(256)) * 20_000)
    key = await client.upload(source, lambda done, total: seen.append((done, total)))
    assert key == hashlib.sha256(source.read_bytes()).hexdigest()
    assert len(seen) > 10
    assert seen[-1] == (5_120_000, 5_120_000)
    seen.clear()
    assert await client.upload(source, lambda done, total: seen.append((done, total))) == key
    assert seen == [(5_120_000, 5_120_000)]
    assert await client.download(f"/f/{key}", target, sha256=key) == 5_120_000
    assert target.read_bytes() == source.read_bytes()
    assert os.listdir(target.parent) == ["copy"]


async def test_a_download_that_does_not_match_its_hash_leaves_what_was_there(client: Client, tmp_path: Path) -> None:
    key = await client.upload_bytes(b"something else")
    target = tmp_path / "kept"
    target.write_bytes(b"before")
    with pytest.raises(HashMismatch):
        await client.download(f"/f/{key}", target, sha256=UNKNOWN)
    assert target.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["kept"]


Peer = Callable[[str, dict[str, str], asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _peer(answer: Peer) -> AsyncIterator[str]:
    """A plain TCP server that answers each request as the test wants."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = (await reader.readline()).decode()
            headers = {}
            while line := (await reader.readline()).decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            if first:
                await answer(first, headers, reader, writer)
        finally:
            writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


def _reply(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize("status", ["302 Found", "307 Temporary Redirect"])
async def test_an_upload_stays_a_put_through_redirects(server: Served, tmp_path: Path, status: str) -> None:
    async def redirect(first: str, headers: dict[str, str], reader: asyncio.StreamReader, writer: Any) -> None:
        path = first.split()[1]
        if first.startswith("PUT"):
            await reader.readexactly(int(headers["content-length"]))
            writer.write(_reply(status, b"", f"Location: {server.url}{path}"))
        else:
            writer.write(_reply("404 Not Found", b'{"exists":false}'))
        await writer.drain()

    source = tmp_path / "file"
    source.write_bytes(status.encode() * 100_000)
    async with _peer(redirect) as url, Client(url) as client, Client(server.url) as direct:
        key = await client.upload(source)
        assert await direct.has_blob(key)


async def test_a_download_cut_short_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    async def cut(first: str, headers: dict[str, str], reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
        await writer.drain()

    async with _peer(cut) as url, Client(url) as client:
        with pytest.raises(Unavailable):
            await client.download("/f/x", tmp_path / "file")
    assert os.listdir(tmp_path) == []


async def test_a_transfer_that_broke_is_begun_again(server: Served, tmp_path: Path) -> None:
    seen: list[str] = []

    async def breaks_once(first: str, headers: dict[str, str], reader: asyncio.StreamReader, writer: Any) -> None:
        seen.append(first.split()[0])
        if "/exists" in first:
            writer.write(_reply("404 Not Found"))
        elif seen.count("PUT") == 1 or len(seen) == 4:
            await reader.readexactly(1) if first.startswith("PUT") else None
        elif first.startswith("PUT"):
            body = await reader.readexactly(int(headers["content-length"]))
            writer.write(_reply("200 OK", str(len(body)).encode()))
        else:
            writer.write(_reply("200 OK", b"all of it"))
        await writer.drain()

    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    async with _peer(breaks_once) as url, Client(url) as client:
        await client.upload(source)
        assert seen == ["GET", "PUT", "PUT"]
        assert await client.download("/f/x", tmp_path / "target") == 9
    assert seen == ["GET", "PUT", "PUT", "GET", "GET"]
    assert (tmp_path / "target").read_bytes() == b"all of it"


async def test_a_file_that_shrinks_while_it_is_sent_is_told(client: Client, tmp_path: Path) -> None:
    source = tmp_path / "shrinking"
    source.write_bytes(b"x" * 500_000)

    def shrink(done: int, total: int | None) -> None:
        os.truncate(source, 300_000)

    with pytest.raises(HashMismatch, match="became shorter"):
        await client.upload(source, shrink)


async def test_requests_are_repeated_while_a_server_restarts() -> None:
    seen: list[str] = []

    async def unsteady(first: str, headers: dict[str, str], reader: Any, writer: asyncio.StreamWriter) -> None:
        seen.append(first)
        if len(seen) == 2:
            writer.write(_reply("503 Service Unavailable", b"", "Retry-After: 0"))
        elif len(seen) > 2:
            writer.write(_reply("200 OK", b'{"data":{}}'))
        await writer.drain()

    async with _peer(unsteady) as url, Client(url) as client:
        assert await client.list("q") == {}
    assert len(seen) == 3


async def test_a_server_of_another_kind_is_told_from_ours() -> None:
    async def web_site(first: str, headers: dict[str, str], reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(_reply("200 OK", b"<html>", "Content-Type: text/html"))
        await writer.drain()

    async with _peer(web_site) as url, Client(url) as client:
        with pytest.raises(ConfigError, match="text/html"):
            await client.list("q")
        with pytest.raises(ConfigError, match="no follow stream"):
            async for _ in client.follow("q", UNKNOWN):
                pass


async def test_no_request_carries_an_origin_or_goes_to_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    seen: list[dict[str, str]] = []

    async def note(first: str, headers: dict[str, str], reader: Any, writer: asyncio.StreamWriter) -> None:
        seen.append(headers)
        writer.write(_reply("200 OK", b'{"data":{}}'))
        await writer.drain()

    async with _peer(note) as url, Client(url) as client:
        await client.list("q")
    assert "origin" not in seen[0]
    assert seen[0]["user-agent"].startswith("asman/")


# --- outputs ---------------------------------------------------------------------------------------------------------


async def test_outputs_of_every_form_are_fetched(client: Client, server: Served, queue: str, tmp_path: Path) -> None:
    key = await client.upload_bytes(b"blob")
    refs: dict[str, tuple[dict[str, Any], bytes]] = {
        "inline": ({"type": "base64", "value": "aGk"}, b"hi"),
        "text": ({"type": "utf8", "value": "ü"}, "ü".encode()),
        "json": ({"type": "json", "value": {"a": [1]}}, b'{"a":[1]}'),
        "key": ({"type": "key", "value": key}, b"blob"),
        "url of another name for this server": ({"type": "url", "value": f"http://elsewhere.invalid/f/{key}"}, b"blob"),
        "url with a hash": ({"type": "url", "value": f"{server.url}/f/{key}", "hash": key}, b"blob"),
    }
    for name, (ref, data) in refs.items():
        target = tmp_path / name
        assert await client.fetch_output(queue, UNKNOWN, name, ref, target) == len(data), name
        assert target.read_bytes() == data, name


async def test_an_output_whose_bytes_were_changed_is_refused(client: Client, queue: str, tmp_path: Path) -> None:
    key = await client.upload_bytes(b"blob")
    ref = {"type": "key", "value": key, "hash": UNKNOWN}
    with pytest.raises(HashMismatch):
        await client.fetch_output(queue, UNKNOWN, "x", ref, tmp_path / "x")
    assert os.listdir(tmp_path) == []


async def test_a_link_in_the_place_of_an_output_is_replaced_and_not_followed(
    client: Client, queue: str, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    for kind, value in (("utf8", "new"), ("key", await client.upload_bytes(b"new"))):
        target = tmp_path / kind
        target.symlink_to("precious")
        await client.fetch_output(queue, UNKNOWN, kind, {"type": kind, "value": value}, target)
        assert target.read_bytes() == b"new"
    assert (tmp_path / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/../../x", "/etc/passwd", "a\\..\\x", "a\0b", "a\nb", "link/x", "\x7f", "a/.."]
)
def test_a_name_that_would_leave_the_directory_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    with pytest.raises(BadName):
        safe_target(tmp_path / "out", name)


@pytest.mark.parametrize("name", ["a", "a/b/c.txt", "ü ber/ö", "..a", "a/.hidden", "con"])
def test_a_plain_name_stays_below_the_directory(tmp_path: Path, name: str) -> None:
    assert safe_target(tmp_path, name) == tmp_path.resolve() / name


def test_base64_that_is_none_is_an_error_and_refs_elsewhere_have_no_bytes() -> None:
    with pytest.raises(BadRequest):
        inline_bytes({"type": "base64", "value": "%%%"})
    assert inline_bytes({"type": "url", "value": "http://x"}) is None


def test_a_file_is_hashed_in_chunks(tmp_path: Path) -> None:
    data = b"x" * 1_000_000
    (tmp_path / "f").write_bytes(data)
    assert hash_file(tmp_path / "f") == (hashlib.sha256(data).hexdigest(), 1_000_000)
