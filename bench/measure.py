"""The measurements. Each takes a folder of its own and answers with rows; sides are run in turn, round by round."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from bench.load import definition, submit_many, watching
from bench.process import Server, asman_serve, free_port, serving
from bench.table import Row, spread

__all__ = ["blobs", "containers", "depth", "engine_address", "start", "submit", "watchers"]

_ROUNDS = 5
_MIB = 1 << 20


async def _cost(server: Server, queue: str, connections: int, each: int) -> tuple[float, float, float]:
    """(submits per second, microseconds of CPU per submit, median latency in ms)."""
    before = server.cpu_s()
    load = await submit_many(server.port, f"/q/{queue}", connections, each)
    return load.per_s, (server.cpu_s() - before) / load.count * 1e6, load.latency_s(0.5) * 1e3


async def submit(folder: Path) -> list[Row]:
    """Durable submits, against a plain endpoint on the same server."""
    ours, naive, alone = [], [], []
    port, other = free_port(), free_port()
    command = [sys.executable, "-m", "bench.naive", str(other), str(folder / "naive.db")]
    with serving(asman_serve(port, folder / "data"), port) as server, serving(command, other) as plain:
        for _ in range(_ROUNDS):
            naive.append(await _cost(plain, "bench-queue-of-submits", 64, 50))
            ours.append(await _cost(server, "bench-queue-of-submits", 64, 50))
            alone.append(await _cost(server, "bench-queue-of-submits", 1, 200))
    rate = [r for r, _, _ in ours]
    ratio = [a[1] / b[1] for a, b in zip(ours, naive, strict=True)]
    return [
        Row(
            what="durable submits/s, 64 connections (Hypercorn)",
            figure=spread(rate),
            bar=">= 600",
            is_missed=statistics.median(rate) < 600,
        ),
        Row(what="the same, plain Quart + aiosqlite autocommit", figure=spread([r for r, _, _ in naive])),
        Row(what="CPU per submit, us", figure=spread([c for _, c, _ in ours])),
        Row(what="CPU per submit of the plain endpoint, us", figure=spread([c for _, c, _ in naive])),
        Row(
            what="CPU per submit / plain endpoint's",
            figure=spread(ratio, 2),
            bar="<= 0.6",
            is_missed=statistics.median(ratio) > 0.6,
        ),
        Row(what="durable submits/s, 1 connection", figure=spread([r for r, _, _ in alone])),
        Row(what="latency of a submit, 1 connection, ms", figure=spread([m for _, _, m in alone], 2)),
    ]


async def _fill(server: Server, queue: str, count: int) -> None:
    if count:
        await submit_many(server.port, f"/q/{queue}", 100, count // 100)


async def depth(folder: Path) -> list[Row]:
    """Cost of a submit, and bytes to a watcher, with 0, 10,000 and 100,000 jobs queued before it."""
    queue, depths = "bench-queue-of-some-depth", (0, 10_000, 100_000)
    costs: dict[int, list[float]] = {d: [] for d in depths}
    sizes: dict[int, float] = {}
    with contextlib.ExitStack() as stack:
        servers = {}
        for d in depths:
            port = free_port()
            servers[d] = stack.enter_context(serving(asman_serve(port, folder / str(d)), port))
            await _fill(servers[d], queue, d)
        for _ in range(_ROUNDS):
            for d in depths:
                costs[d].append((await _cost(servers[d], queue, 16, 40))[1])
        for d in depths:
            async with watching(servers[d].port, queue, 1) as received:
                load = await submit_many(servers[d].port, f"/q/{queue}", 1, 50)
                await asyncio.sleep(0.5)
                sizes[d] = received[0] / load.count
    ratio = [a / b for a, b in zip(costs[100_000], costs[0], strict=True)]
    rows = [Row(what=f"CPU per submit at {d:,} queued, us", figure=spread(costs[d])) for d in depths]
    rows.append(
        Row(
            what="CPU per submit at 100,000 queued / at 0",
            figure=spread(ratio, 2),
            bar="<= 1.3",
            is_missed=statistics.median(ratio) > 1.3,
        )
    )
    same = max(sizes.values()) - min(sizes.values()) < 4
    rows.append(
        Row(
            what="bytes to a watcher per submit at 0 / 10,000 / 100,000 queued",
            figure=" / ".join(f"{sizes[d]:.0f}" for d in depths),
            bar="equal",
            is_missed=not same,
        )
    )
    return rows


async def watchers(folder: Path) -> list[Row]:
    """Cost of a submit that 0, 10 and 100 sockets hear of."""
    counts = (0, 10, 100)
    costs: dict[int, list[float]] = {n: [] for n in counts}
    port = free_port()
    with serving(asman_serve(port, folder / "data"), port) as server:
        for turn in range(3):
            for n in counts:
                queue = f"bench-queue-with-watchers-{n}-{turn}"
                async with watching(port, queue, n):
                    costs[n].append((await _cost(server, queue, 4, 50))[1])
    per_watcher = [(a - b) / 100 for a, b in zip(costs[100], costs[0], strict=True)]
    rows = [Row(what=f"CPU per submit with {n} watchers, us", figure=spread(costs[n])) for n in counts]
    return [*rows, Row(what="CPU per watcher and event, us", figure=spread(per_watcher, 1))]


async def blobs(folder: Path) -> list[Row]:
    """One file of 1 GiB in and out, and what the server's memory does meanwhile."""
    return await asyncio.to_thread(_blobs, folder)


def _blobs(folder: Path) -> list[Row]:
    size = 1024 * _MIB
    piece = os.urandom(_MIB)
    digest = hashlib.sha256()
    for _ in range(1024):
        digest.update(piece)
    key, port = digest.hexdigest(), free_port()
    with serving(asman_serve(port, folder / "data"), port) as server:
        idle = server.memory_bytes()
        server.forget_peak()
        up_s = _timed(lambda: _put(port, key, piece, 1024))
        down_s = _timed(lambda: _get(port, key, size))
        growth = server.memory_bytes("VmHWM") - idle
    return [
        Row(what="upload of 1 GiB, MB/s (hashed, on stable storage)", figure=f"{size / up_s / 1e6:.0f}"),
        Row(what="download of 1 GiB, MB/s", figure=f"{size / down_s / 1e6:.0f}"),
        Row(
            what="growth of the server's memory meanwhile, MiB",
            figure=f"{growth / _MIB:.0f}",
            bar="<= 64",
            is_missed=growth > 64 * _MIB,
        ),
    ]


def _timed(act: object) -> float:
    began = time.perf_counter()
    act()  # type: ignore[operator]
    return time.perf_counter() - began


def _put(port: int, key: str, piece: bytes, count: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest("PUT", f"/f/{key}")
    connection.putheader("Content-Length", str(len(piece) * count))
    connection.endheaders()
    for _ in range(count):
        connection.send(piece)
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(f"upload answered {answer.status}: {answer.read()[:300]!r}")
    connection.close()


def _get(port: int, key: str, size: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", f"/f/{key}")
    answer, had = connection.getresponse(), 0
    while piece := answer.read(_MIB):
        had += len(piece)
    if had != size:
        raise RuntimeError(f"download had {had} of {size} bytes")
    connection.close()


async def start(folder: Path) -> list[Row]:
    """From process start to the first answer; memory at rest; against importing the bare stack."""
    started, memory, bare, ours = [], [], [], []
    for turn in range(_ROUNDS):
        port = free_port()
        with serving(asman_serve(port, folder / str(turn)), port, "/readyz") as server:
            started.append(server.started_in_s)
            await asyncio.sleep(0.5)
            memory.append(server.memory_bytes() / _MIB)
            ours.append(server.cpu_s())
        bare.append(_cpu_of([sys.executable, "-c", "import quart, hypercorn.asyncio, pluggy"]))
    return [
        Row(
            what="ready after, s",
            figure=spread(started, 2),
            bar="<= 1.5",
            is_missed=statistics.median(started) > 1.5,
        ),
        Row(
            what="memory at rest, MiB",
            figure=spread(memory),
            bar="<= 70",
            is_missed=statistics.median(memory) > 70,
        ),
        Row(
            what="CPU until ready / that of importing quart, hypercorn and pluggy",
            figure=spread([a / b for a, b in zip(ours, bare, strict=True)], 2),
        ),
    ]


def _cpu_of(command: list[str]) -> float:
    before = os.times()
    subprocess.run(command, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


# --- with Docker ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def engine_address() -> Iterator[str]:
    """An engine's address: DOCKER_HOST, or one of our own as the tests have it."""
    if os.environ.get("DOCKER_HOST"):
        yield os.environ["DOCKER_HOST"]
        return
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
    from docker_engine import DockerEngine, what_is_missing  # type: ignore[import-not-found]

    missing = what_is_missing()
    if missing:
        raise RuntimeError(missing)
    with DockerEngine.private() as engine:
        yield engine.host


async def containers(folder: Path) -> list[Row]:
    """An idle worker: how soon a job's container is created, and a trivial job against ``docker run --rm``."""
    with engine_address() as host:
        port, queue = free_port(), "bench-queue-of-containers"
        environ = {**os.environ, "DOCKER_HOST": host}
        work = [sys.executable, "-m", "asman", "worker", queue, "--server", f"http://127.0.0.1:{port}"]
        work += ["--cpus", "2", "--data-directory", str(folder / "worker")]
        with serving(asman_serve(port, folder / "data"), port):
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            worker = await asyncio.to_thread(subprocess.Popen, work, env=environ, **quiet)
            try:
                await asyncio.to_thread(_wait_for_worker, port, queue)
                return await asyncio.to_thread(_containers, host, port, queue, environ)
            finally:
                worker.terminate()
                await asyncio.to_thread(worker.wait, 30)


def _call(port: int, method: str, path: str, body: object = None, prefer: str = "") -> dict[str, object]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body=None if body is None else json.dumps(body), headers={"Prefer": prefer})
    answer: dict[str, object] = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def _wait_for_worker(port: int, queue: str) -> None:
    deadline = time.monotonic() + 30
    while not _call(port, "GET", f"/q/{queue}/status").get("localWorkers"):
        if time.monotonic() > deadline:
            raise RuntimeError("no worker connected within 30 s")
        time.sleep(0.1)


def _containers(host: str, port: int, queue: str, environ: dict[str, str]) -> list[Row]:
    began, jobs, plain = [], [], []
    filters = quote(json.dumps({"event": ["create"], "type": ["container"]}))
    for turn in range(12):
        with _events(host, f"/events?filters={filters}") as read_event:
            task = {"definition": definition()}
            started = time.perf_counter()
            answer = _call(port, "POST", f"/q/{queue}", task)
            accepted = time.time()
            created = read_event()["timeNano"] / 1e9
            _wait_until_finished(port, queue, str(answer["jobId"]))
            jobs.append(time.perf_counter() - started)
        began.append((created - accepted) * 1e3)
        plain.append(_timed(lambda: _docker_run(environ)))
        if turn == 0:
            began.clear(), jobs.clear(), plain.clear()
    more = [a - b for a, b in zip(jobs, plain, strict=True)]
    together = _together(port, queue)
    return [
        Row(
            what="submit answered until container is created, idle worker, ms",
            figure=spread(began, 0),
            bar="<= 50",
            is_missed=statistics.median(began) > 50,
        ),
        Row(what="trivial job, submit until result, s", figure=spread(jobs, 2)),
        Row(what="docker run --rm of the same, s", figure=spread(plain, 2)),
        Row(
            what="difference, s",
            figure=spread(more, 2),
            bar="<= 0.3",
            is_missed=statistics.median(more) > 0.3,
        ),
        Row(what="trivial jobs/s, 20 at once on a worker with 2 cpus", figure=f"{together:.1f}"),
        Row(what="docker run --rm/s, one after the other", figure=f"{1 / statistics.median(plain):.1f}"),
    ]


def _docker_run(environ: dict[str, str]) -> None:
    command = ["docker", "run", "--rm", "alpine:3.19.1", "echo", "hello"]
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)


def _wait_until_finished(port: int, queue: str, job_id: str) -> None:
    """Read the job's stream to its end."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", f"/q/{queue}/j/{job_id}/stream")
    text = connection.getresponse().read()
    connection.close()
    if b"event: final" not in text or b'"Success"' not in text:
        raise RuntimeError(f"the job ended otherwise: {text[-500:]!r}")


def _together(port: int, queue: str) -> float:
    count = 20
    began = time.perf_counter()
    ids = [str(_call(port, "POST", f"/q/{queue}", {"definition": definition()})["jobId"]) for _ in range(count)]
    for job_id in ids:
        _wait_until_finished(port, queue, job_id)
    return count / (time.perf_counter() - began)


@contextlib.contextmanager
def _events(host: str, path: str) -> Iterator[object]:
    """The engine's events from now on; yields a function that waits for the next."""
    import socket

    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    connection.connect(host.removeprefix("unix://"))
    connection.sendall(f"GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
    stream = connection.makefile("rb")
    while stream.readline().strip():
        pass
    try:
        yield lambda: json.loads(stream.readline())
    finally:
        connection.close()
