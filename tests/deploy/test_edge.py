"""The edge form: what its bundle holds, the bridge by its own rules, and its server's beginning and end.

That the app answers there as it does elsewhere is the matter of ``tests/contract/test_runtimes.py``.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import re
import shutil
import signal
import zipfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asman
from asman_edge.bridge import serve_request, serve_socket, to_scope
from asman_edge.host import Host
from edge import EDGE, Bundle, edge_served, run_node
from in_process import ECHO, turns
from remote import remote

GZIPPED_MAX_BYTES = 10 << 20
LOCK = re.compile(r"^([\w-]+)==([\w.]+) --hash=sha256:([0-9a-f]{64})$", re.MULTILINE)


# --- the bundle ------------------------------------------------------------------------------------------------------


def test_the_bundle_holds_the_whole_core_compiled_and_nothing_that_pyodide_lacks(edge_bundle: Bundle) -> None:
    names = set(zipfile.ZipFile(edge_bundle.file).namelist())
    assert asman.__file__ is not None
    safe = importlib.util.spec_from_file_location(
        "test_safe_core", Path(__file__).parents[1] / "pyodide/test_safe_core.py"
    )
    assert safe is not None
    assert safe.loader is not None
    module = importlib.util.module_from_spec(safe)
    safe.loader.exec_module(module)
    ours = {name.removesuffix(".pyc").removesuffix("/__init__").replace("/", ".") for name in names}
    assert {name for name in ours if name.split(".")[0] == "asman"} == set(module._core())
    assert {"asman_edge/bridge.pyc", "asman_ttl/__init__.pyc", "quart/app.pyc", "markupsafe/_native.pyc"} <= names
    assert {Path(name).suffix for name in names} == {".pyc", ""}
    assert not {name for name in names if name.startswith(("hypercorn", "h11", "h2/"))}


def test_the_bundle_is_what_the_lock_names_and_small_enough(edge_bundle: Bundle) -> None:
    about = json.loads((edge_bundle.folder / "bundle.json").read_text())
    locked = LOCK.findall((EDGE / "requirements.txt").read_text())
    assert [(p["name"], p["version"], p["sha256"]) for p in about["packages"]] == locked
    assert len(locked) == 10
    assert about["sha256"] == hashlib.sha256(edge_bundle.file.read_bytes()).hexdigest()
    assert about["withRuntimeGzippedBytes"] <= GZIPPED_MAX_BYTES
    assert re.search(r"starts in \d+(\.\d+)? s", edge_bundle.said)
    with_metadata = {n.split("-")[0] for n in zipfile.ZipFile(edge_bundle.file).namelist() if n.endswith("METADATA")}
    assert with_metadata == {name for name, _, _ in locked}


def test_the_pyodide_of_the_lock_is_the_one_that_is_named(edge_bundle: Bundle) -> None:
    lock = json.loads((EDGE / "package-lock.json").read_text())
    wanted = json.loads((EDGE / "package.json").read_text())["dependencies"]["pyodide"]
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages["node_modules/pyodide"]["version"] == wanted
    assert json.loads((edge_bundle.folder / "bundle.json").read_text())["pyodide"] == wanted
    assert all("integrity" in entry and "resolved" not in entry for entry in packages.values())


def test_a_wheel_with_another_hash_is_not_taken(edge_bundle: Bundle, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    shutil.copytree(EDGE / "dist" / "wheels", wheels)
    (changed,) = wheels.glob("pluggy-*.whl")
    changed.write_bytes(changed.read_bytes() + b"\0")
    done = run_node("build.mjs", "--wheels", str(wheels), "--out", str(tmp_path / "out"))
    assert done.returncode != 0
    assert "has no wheel with the hash of requirements.txt of: pluggy 1.7.0" in done.stderr
    assert not (tmp_path / "out" / "bundle.zip").exists()


# --- the half with Request and Response ------------------------------------------------------------------------------


def test_the_web_half_of_the_bridge(edge_bundle: Bundle) -> None:
    done = run_node("--test", "--test-force-exit", "fetch.test.mjs", BUNDLE=str(edge_bundle.file))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "\n# pass 6\n" in done.stdout
    assert "\n# skipped 0\n" in done.stdout


# --- the server ------------------------------------------------------------------------------------------------------


async def test_a_signal_ends_it_in_good_order(edge_bundle: Bundle, tmp_path: Path) -> None:
    with edge_served(edge_bundle, cwd=tmp_path) as server:
        async with remote(server.url) as asked:
            job_id = await asked.submit(ECHO)
            async with asked.watch() as client, asked.follow(job_id) as reader:
                await reader.next()
                server.process.send_signal(signal.SIGTERM)
                assert await client.closed() == 1012
        assert await asyncio.to_thread(server.process.wait, 20) == 0
        said = "\n".join(server.said)
        assert re.search(r"started in [\d.]+ s, \d+ MiB of wasm memory", said)
        assert "Traceback" not in said


def test_a_wrong_setting_is_one_sentence(edge_bundle: Bundle) -> None:
    options = ("serve.mjs", "--port", "0", "--bundle", str(edge_bundle.file))
    done = run_node(*options, ASMAN_PROFILE="nonsense")
    assert done.returncode == 2
    assert done.stderr.strip() == 'Error: ConfigError: profile is "nonsense"; known are: private, public'


def test_without_a_bundle_it_says_how_to_make_one(edge_bundle: Bundle, tmp_path: Path) -> None:
    done = run_node("serve.mjs", "--bundle", str(tmp_path / "none.zip"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "make it with: node build.mjs" in done.stderr


@pytest.mark.slow
async def test_memory_stays_where_it_was_over_a_thousand_requests(edge_bundle: Bundle, tmp_path: Path) -> None:
    with edge_served(edge_bundle, cwd=tmp_path) as server:
        async with remote(server.url) as asked:
            for _ in range(20):
                answers = await asyncio.gather(*(asked.call("GET", f"/q/{asked.queue}") for _ in range(50)))
                assert {answer.status for answer in answers} == {200}
        assert await asyncio.to_thread(server.stop) == 0
        ended = server.hear("ended with ")
    assert int(ended.split()[2]) <= 64, ended


# --- the bridge, by its own rules ------------------------------------------------------------------------------------

HTTP = {"method": "get", "scheme": "https", "path": "/a%20b/%C3%BC", "query": "x=1&y=%20", "headers": []}


class Line:
    """The host's side of one request, which writes down what it is told."""

    def __init__(self, *pieces: Any) -> None:
        self.pieces = deque(pieces)
        self.said: list[tuple[Any, ...]] = []
        self.left = asyncio.Event()
        self.rooms: list[asyncio.Future[None]] = []
        self.is_full = False

    async def read(self) -> Any:
        return self.pieces.popleft() if self.pieces else None

    async def gone(self) -> None:
        await self.left.wait()

    def answer(self, status: int, headers: str, body: bytes) -> None:
        self.said.append(("answer", status, json.loads(headers), body))

    def start(self, status: int, headers: str) -> None:
        self.said.append(("start", status, json.loads(headers)))

    def write(self, piece: bytes) -> Any:
        self.said.append(("write", piece))
        if not self.is_full:
            return None
        self.rooms.append(asyncio.get_running_loop().create_future())
        return self.rooms[-1]

    def end(self) -> None:
        self.said.append(("end",))

    def cut(self) -> None:
        self.said.append(("cut",))


def _answering(*messages: dict[str, Any]) -> Callable[..., Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def _start(status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [(b"x-a", b"\xe4"), (b"x-a", b"2")]}


def _body(piece: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": piece, "more_body": more}


def test_a_scope_has_what_the_app_looks_at() -> None:
    headers = [["Host", "h"], ["X-Latin", "\xe4"]]
    scope = to_scope("http", json.dumps({**HTTP, "headers": headers, "client": ["10.0.0.1", 5]}))
    assert (scope["method"], scope["scheme"], scope["path"]) == ("GET", "https", "/a b/ü")
    assert (scope["raw_path"], scope["query_string"]) == (b"/a%20b/%C3%BC", b"x=1&y=%20")
    assert scope["headers"] == [(b"host", b"h"), (b"x-latin", b"\xe4")]
    assert scope["client"] == ("10.0.0.1", 5)


@pytest.mark.parametrize(("named", "seen"), [("http", "ws"), ("ws", "ws"), ("https", "wss"), ("wss", "wss")])
def test_a_socket_has_its_own_scheme_and_lists_its_protocols(named: str, seen: str) -> None:
    headers = [["Sec-WebSocket-Protocol", "a, b"], ["Sec-WebSocket-Protocol", "c"]]
    scope = to_scope("websocket", json.dumps({**HTTP, "scheme": named, "headers": headers}))
    assert (scope["scheme"], scope["subprotocols"]) == (seen, ["a", "b", "c"])


async def test_an_answer_that_is_there_at_once_is_one_call() -> None:
    line = Line()
    await serve_request(_answering(_start(), _body(b"one", True), _body(b"")), json.dumps(HTTP), line)
    assert line.said == [("answer", 200, [["x-a", "ä"], ["x-a", "2"]], b"one")]


async def test_what_comes_later_is_sent_as_it_comes() -> None:
    line, go_on = Line(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(_start())
        await send(_body(b"first", True))
        await go_on.wait()
        await send(_body(b"second", True))
        await send(_body(b"last"))

    task = asyncio.ensure_future(serve_request(app, json.dumps(HTTP), line))
    await turns()
    assert [said[0] for said in line.said] == ["start", "write"], "the first piece waits for nobody"
    go_on.set()
    await task
    assert line.said[1:] == [("write", b"first"), ("write", b"second"), ("write", b"last"), ("end",)]


async def test_the_app_waits_while_the_caller_reads_slowly() -> None:
    line = Line()
    line.is_full = True
    pieces = [_body(bytes([n]), True) for n in range(3)]
    task = asyncio.ensure_future(serve_request(_answering(_start(), *pieces, _body(b"")), json.dumps(HTTP), line))
    for written in (1, 2, 3):
        await turns()
        assert len(line.rooms) == written
        line.rooms[-1].set_result(None)
    await task
    assert line.said[-1] == ("end",)


async def test_a_body_is_handed_on_piece_by_piece_and_then_the_caller_is_waited_for() -> None:
    line, seen = Line(b"one", memoryview(b"two")), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            seen.append(await receive())
        gone = asyncio.ensure_future(receive())
        await turns()
        assert not gone.done()
        line.left.set()
        seen.append(await gone)

    await serve_request(app, json.dumps(HTTP), line)
    assert [message.get("body") for message in seen] == [b"one", b"two", b"", None]
    assert [message.get("more_body") for message in seen] == [True, True, False, None]
    assert seen[-1] == {"type": "http.disconnect"}


async def test_a_body_that_was_cut_off_has_no_end() -> None:
    line, seen = Line(b"one", False), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([await receive(), await receive()])

    await serve_request(app, json.dumps(HTTP), line)
    assert [message["type"] for message in seen] == ["http.request", "http.disconnect"]


@pytest.mark.parametrize("is_raising", [True, False], ids=["raises", "returns"])
async def test_an_app_that_gives_no_answer_is_a_500(is_raising: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(_start())
        if is_raising:
            raise RuntimeError("a bug")

    line = Line()
    await serve_request(app, json.dumps(HTTP), line)
    ((kind, status, _, body),) = line.said
    assert (kind, status, json.loads(body)["code"]) == ("answer", 500, "internal_error")


async def test_an_answer_that_breaks_off_is_cut() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(_start())
        await send(_body(b"first", True))
        await turns()
        raise RuntimeError("a bug")

    line = Line()
    await serve_request(app, json.dumps(HTTP), line)
    assert [said[0] for said in line.said] == ["start", "write", "cut"]


class SocketLine:
    """The host's side of one socket."""

    def __init__(self, *messages: Any, close: tuple[int, str] = (1001, "away")) -> None:
        self.messages, self.close_said = deque(messages), close
        self.said: list[tuple[Any, ...]] = []

    async def read(self) -> Any:
        return self.messages.popleft() if self.messages else None

    def closing(self) -> str:
        return json.dumps(self.close_said)

    def accept(self, subprotocol: str, headers: str) -> None:
        self.said.append(("accept", subprotocol, json.loads(headers)))

    def refuse(self, status: int, headers: str, body: bytes) -> None:
        self.said.append(("refuse", status, json.loads(headers), body))

    def write(self, data: Any) -> None:
        self.said.append(("write", data))

    def close(self, code: int, reason: str) -> None:
        self.said.append(("close", code, reason))


async def test_a_socket_is_accepted_heard_answered_and_closed() -> None:
    line, seen = SocketLine("text", b"bytes"), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(await receive())
        await send({"type": "websocket.accept", "subprotocol": "a", "headers": [(b"x", b"1")]})
        seen.extend([await receive(), await receive()])
        await send({"type": "websocket.send", "text": "back"})
        await send({"type": "websocket.send", "bytes": b"back", "text": None})
        seen.append(await receive())

    await serve_socket(app, json.dumps(HTTP), line)
    assert seen == [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "text"},
        {"type": "websocket.receive", "bytes": b"bytes"},
        {"type": "websocket.disconnect", "code": 1001, "reason": "away"},
    ]
    assert line.said == [("accept", "a", [["x", "1"]]), ("write", "back"), ("write", b"back")]


async def test_a_handshake_may_be_refused_with_an_answer() -> None:
    start = {"type": "websocket.http.response.start", "status": 404, "headers": [(b"x", b"1")]}
    pieces = [{"type": "websocket.http.response.body", "body": b"a", "more_body": True}]
    pieces.append({"type": "websocket.http.response.body", "body": b"b"})
    line = SocketLine()
    await serve_socket(_answering(start, *pieces), json.dumps(HTTP), line)
    assert line.said == [("refuse", 404, [["x", "1"]], b"ab")]
    line = SocketLine()
    await serve_socket(_answering({"type": "websocket.close"}), json.dumps(HTTP), line)
    assert line.said == [("refuse", 403, [], b"")]


async def test_no_socket_is_left_open_behind_an_app_that_failed() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        raise RuntimeError("a bug")

    line = SocketLine()
    await serve_socket(app, json.dumps(HTTP), line)
    assert line.said[-1][:2] == ("close", 1011)
    line = SocketLine()
    await serve_socket(_answering(), json.dumps(HTTP), line)
    assert line.said[0][:2] == ("refuse", 500)


# --- a host ----------------------------------------------------------------------------------------------------------


def _host() -> Host:
    return Host(json.dumps({"flags": {"backend": "memory"}, "environ": {"ASMAN_LEASE": "5s"}}))


async def test_a_host_is_started_by_its_first_requests_and_once() -> None:
    host, lines = _host(), [Line() for _ in range(5)]
    told = json.dumps({**HTTP, "path": "/readyz", "query": "", "headers": [["host", "localhost"]]})
    for line in lines:
        host.request(told, line)
    async with asyncio.timeout(10):
        while not all(line.said for line in lines):  # noqa: ASYNC110 - a line sets no event
            await asyncio.sleep(0)
    assert {line.said[0][1] for line in lines} == {200}
    await host.stop()


async def test_a_host_that_was_stopped_can_be_started_again() -> None:
    host = _host()
    for _ in range(2):
        await host.start()
        await host.maintain()
        await asyncio.wait_for(host.stop(), 10)


async def test_the_largest_frame_is_what_the_profile_allows() -> None:
    small = Host(json.dumps({"flags": {"backend": "memory", "profile": "public"}}))
    assert 0 < small.frame_bytes <= _host().frame_bytes
