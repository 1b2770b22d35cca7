"""The server command: ready line, address in use, an orderly end, restart, both HTTP servers."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import aiohttp
import pytest

from asman.client import Client
from asman.config import Config
from asman.errors import ConfigError
from asman.serve import SERVERS, address_of, bind, serve
from fresh_python import run_fresh
from served import environ, served

ALPINE = {"image": "alpine:3.19.1", "command": "echo hi"}


@pytest.fixture(params=SERVERS)
def http_server(request: pytest.FixtureRequest) -> str:
    if request.param == "uvicorn" and find_spec("uvicorn") is None:
        pytest.skip("uvicorn is not installed (extra fast)")
    return str(request.param)


async def test_it_answers_as_soon_as_it_says_so_and_says_where_the_page_is(tmp_path: Path, http_server: str) -> None:
    with served("--backend", "memory", "--server", http_server, cwd=tmp_path) as server:
        async with Client(server.url) as client:
            took_s, its_clock = await client.healthz()
            assert took_s < 5
            assert its_clock is not None
        assert server.stop() == 0
    assert server.said == [
        f"asman serves {server.url} (backend memory, profile private)",
        f"open:    {server.url}/",
    ]


async def test_behind_a_proxy_the_address_that_callers_use_is_named(tmp_path: Path) -> None:
    with served("--backend", "memory", "--public-url", "https://jobs.example/asman/", cwd=tmp_path) as server:
        assert server.hear("open: ") == "open:    https://jobs.example/asman/"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_closes_sockets_with_1012_and_ends_streams(
    tmp_path: Path, http_server: str, number: signal.Signals
) -> None:
    with served("--backend", "memory", "--server", http_server, cwd=tmp_path) as server:
        async with Client(server.url) as client, aiohttp.ClientSession() as session:
            job_id = (await client.submit("q", ALPINE)).job_id
            stream = await session.get(f"{server.url}/q/q/j/{job_id}/stream")
            assert (await stream.content.readline()) == b"event: state\n"
            async with session.ws_connect(f"{server.url}/q/q/client") as listener:
                stopping = asyncio.ensure_future(asyncio.to_thread(server.stop, number, 8.0))
                async with asyncio.timeout(10):
                    while not listener.closed:
                        await listener.receive()
                    await stream.read()
                    assert await stopping == 0
                assert listener.close_code == 1012
    assert server.said[2:] == []


async def test_the_server_goes_by_the_name_it_was_given(tmp_path: Path) -> None:
    with served("--backend", "memory", "--server-id", "attic", cwd=tmp_path) as server:
        async with Client(server.url) as client:
            assert (await client.status("q"))["queueInfo"]["serverId"] == "attic"


async def test_a_running_request_is_finished_before_the_end(tmp_path: Path, http_server: str) -> None:
    with served("--backend", "memory", "--server", http_server, cwd=tmp_path) as server:
        async with Client(server.url) as client:
            job_id = (await client.submit("q", ALPINE)).job_id
            waiting = asyncio.ensure_future(client.submit("q", ALPINE, wait_s=3))
            await _sees_a_request(server.url, job_id)
            assert await asyncio.to_thread(server.stop) == 0
            receipt = await waiting
    assert receipt.job_id == job_id
    assert receipt.answer["state"] == "Queued"


async def _sees_a_request(url: str, job_id: str) -> None:
    """Another connection's round trip after the request was written: the server has read it by then."""
    async with Client(url) as other:
        for _ in range(3):
            await other.record("q", job_id)


async def test_what_was_acknowledged_is_there_after_a_restart_on_the_same_port(tmp_path: Path, free_port: int) -> None:
    options = ("--data", "kept", "--port", str(free_port))
    with served(*options, cwd=tmp_path) as server:
        async with Client(server.url) as client:
            job_id = (await client.submit("q", ALPINE)).job_id
        server.stop(signal.SIGKILL)
    with served(*options, cwd=tmp_path) as server:
        async with Client(server.url) as client:
            assert (await client.record("q", job_id))["definition"] == ALPINE
        assert server.stop() == 0


async def test_a_request_that_does_not_end_is_cut_off(http_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asman.serve.GRACE_S", 1.0)
    stop, ready = asyncio.Event(), asyncio.Queue[str]()
    config = Config(backend="memory", port=0)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(serve(config, stop=stop, server=http_server, announce=ready.put_nowait))
        async with asyncio.timeout(20):
            port = int((await ready.get()).rsplit(":", 1)[1])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"PUT /f/" + b"0" * 64 + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf")
            await writer.drain()
            async with Client(f"http://localhost:{port}") as client:
                await client.healthz()
            stop.set()
            await serving
            assert b" 200 " not in await reader.read()
            writer.close()


async def test_a_second_signal_does_not_wait(tmp_path: Path, http_server: str) -> None:
    with served("--backend", "memory", "--server", http_server, cwd=tmp_path) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
        writer.write(b"PUT /f/" + b"0" * 64 + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf")
        await writer.drain()
        async with Client(server.url) as client:
            await client.healthz()
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            await asyncio.to_thread(server.process.wait, 1.0)
        assert await asyncio.to_thread(server.stop, signal.SIGTERM, 5.0) == 0
        writer.close()


async def test_what_runs_beside_the_server_ends_before_it() -> None:
    stop, seen = asyncio.Event(), []

    async def beside(url: str, stop: asyncio.Event) -> None:
        stop.set()
        async with Client(url) as client:
            await client.healthz()
        seen.append(url)

    async with asyncio.timeout(20):
        await serve(Config(backend="memory", port=0), stop=stop, beside=beside)
    assert len(seen) == 1


async def test_a_failure_beside_the_server_ends_the_server() -> None:
    async def beside(url: str, stop: asyncio.Event) -> None:
        raise ConfigError("no such thing")

    async with asyncio.timeout(20):
        with pytest.raises(ExceptionGroup) as caught:
            await serve(Config(backend="memory", port=0), stop=asyncio.Event(), beside=beside)
    assert caught.group_contains(ConfigError, match="no such thing")


def _fails(*options: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "asman", "serve", "--backend", "memory", *options]
    done = subprocess.run(command, cwd=cwd, env=environ(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_port_in_use_is_one_error_with_the_next_step(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = _fails("--port", str(port), cwd=tmp_path)
    assert said.startswith(f"error: port {port} of 127.0.0.1 is in use")
    assert f"--port {port + 1}" in said


def test_a_host_that_is_not_ours_is_an_error(tmp_path: Path) -> None:
    assert "is no address of this machine" in _fails("--host", "192.0.2.1", cwd=tmp_path)


def test_a_port_that_is_none_is_an_error() -> None:
    with pytest.raises(ConfigError, match="70000"):
        bind("127.0.0.1", 70000)


def test_a_data_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said = _fails("--backend", "sqlite", "--data", "file/data", cwd=tmp_path)
    assert "file/data" in said
    assert "--data" in said


def test_an_unknown_backend_names_what_is_installed(tmp_path: Path) -> None:
    said = _fails("--backend", "nosuch://x", cwd=tmp_path)
    assert "nosuch" in said
    assert "sqlite" in said


def test_the_url_is_one_that_this_machine_can_reach() -> None:
    assert address_of(Config(host="0.0.0.0", port=81)) == "http://127.0.0.1:81"
    assert address_of(Config(host="::", port=82)) == "http://[::1]:82"
    assert address_of(Config(host="example.org", port=83)) == "http://example.org:83"


def test_an_accepted_connection_inherits_the_dead_peer_limit() -> None:
    if sys.platform != "linux":
        pytest.skip("the limit is set on Linux only")
    with bind("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


HEAVY = {"redis", "boto3", "aiobotocore", "docker", "aiodocker", "aiohttp", "httpx", "rich", "uvicorn", "pytest"}


def test_serving_loads_no_driver_that_is_not_configured() -> None:
    code = f"import asman.serve, asman.app, asman.cli.serving, sys\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    assert run_fresh(code).split() == []


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["run", "--help"]])
def test_help_loads_neither_the_web_framework_nor_a_client(arguments: list[str]) -> None:
    names = HEAVY | {"quart", "hypercorn", "werkzeug", "sqlite3"}
    code = (
        "import contextlib, io, sys\nfrom asman.cli import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()) as said:\n    assert main({arguments!r}) == 0\n"
        f"assert 'Usage: asman' in said.getvalue()\nprint(*sorted({names!r} & set(sys.modules)))"
    )
    assert run_fresh(code).split() == []
