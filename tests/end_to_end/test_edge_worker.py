"""A real worker with a real engine on the edge form of the app: inputs, lines, files, cancel, lost connections.

The worker is the ``asman worker`` of this tree, unchanged; what serves it is Python in wasm.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from asman_worker.report import CODES
from cut_proxy import CutProxy, cut_proxy
from docker_engine import IMAGE, DockerEngine
from edge import Bundle, edge_served, workerd_served
from processes import Process, worker
from remote import Remote, remote
from served import Served

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(300)]

Start = Callable[..., AbstractContextManager[Served]]
RUNTIMES: Mapping[str, Start] = {
    "pyodide-node": edge_served,
    "workerd-d1": partial(workerd_served, ASMAN_BACKEND="d1://JOBS"),
    "workerd-durable": partial(workerd_served, ASMAN_BACKEND="durable://JOBS"),
}
TIMES = {"ASMAN_LEASE": "10s", "ASMAN_RENEW": "2s", "ASMAN_RECONNECT_GRACE": "8s", "ASMAN_SWEEP": "500ms"}
LARGE = 3 << 20
"""Bytes of a file that no frame and no definition could carry."""


@pytest.fixture(scope="module", params=list(RUNTIMES))
def edge(
    request: pytest.FixtureRequest, edge_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a server on the edge runtime."""
    with RUNTIMES[request.param](edge_bundle, cwd=tmp_path_factory.mktemp("edge"), **TIMES) as server:
        yield server.url


class Site:
    """A queue with one worker, which reaches the server through a proxy that can be cut."""

    def __init__(self, asked: Remote, proxy: CutProxy, process: Process, engine: DockerEngine) -> None:
        self.asked, self.proxy, self.process, self.engine = asked, proxy, process, engine

    async def submit(self, script: str, **members: Any) -> str:
        """A job of its own at each call."""
        job = {"image": IMAGE, "command": ["sh", "-c", script], "env": {"RUN": uuid.uuid4().hex}, **members}
        return await self.asked.submit(job)

    async def put(self, data: bytes) -> str:
        """Store a file; its key."""
        key = hashlib.sha256(data).hexdigest()
        answer = await self.asked.call("PUT", f"/f/{key}", data)
        assert answer.status in (200, 201), answer.body
        return key

    async def lines(self, job_id: str) -> list[str]:
        page = await self.asked.get(f"/q/{self.asked.queue}/j/{job_id}/run-logs.json")
        return [line[0] for line in page["data"]]

    async def result(self, job_id: str, within_s: float = 60.0) -> dict[str, Any]:
        """The job's record with its end, once it has one."""
        found: dict[str, Any] = {}

        async def is_there() -> bool:
            assert self.process.is_running(), self.process.output
            found.update((await self.asked.get(f"/q/{self.asked.queue}/j/{job_id}/result.json"))["data"] or {})
            return bool(found)

        await self.asked.until(is_there, within_s)
        return found

    async def output(self, job_id: str, name: str) -> bytes:
        """A file that the job left, wherever the server says that it is."""
        address = f"{self.asked.url}/q/{self.asked.queue}/j/{job_id}/outputs/{name}"
        async with self.asked.session.get(address) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.read()

    async def containers(self) -> list[Any]:
        """Those of jobs of this queue, whatever their state."""
        filters = quote(json.dumps({"label": [f"asman.queue={self.asked.queue}"]}))
        answer = await asyncio.to_thread(self.engine.request, "GET", f"/containers/json?all=1&filters={filters}")
        found: list[Any] = json.loads(answer[1])
        return found

    async def until_line(self, job_id: str, text: str, within_s: float = 60.0) -> None:
        async def is_said() -> bool:
            return text in "".join(await self.lines(job_id))

        await self.asked.until(is_said, within_s)


@pytest.fixture
async def site(edge: str, docker_engine: DockerEngine, tmp_path: Path) -> AsyncIterator[Site]:
    async with _worker_at(edge, docker_engine, tmp_path) as opened:
        yield opened


@asynccontextmanager
async def _worker_at(url: str, engine: DockerEngine, folder: Path) -> AsyncIterator[Site]:
    async with remote(url) as asked, cut_proxy(urlsplit(url).port or 0) as proxy:
        env = {"DOCKER_HOST": engine.host}
        address = f"http://127.0.0.1:{proxy.port}"
        process = worker(address, asked.queue, folder / "worker", "--cpus", "2", env=env)
        try:
            opened = Site(asked, proxy, process, engine)

            async def is_connected() -> bool:
                assert process.is_running(), process.output
                return bool((await asked.get(f"/q/{asked.queue}/status"))["localWorkers"])

            await asked.until(is_connected, 60.0)
            yield opened
        finally:
            await asyncio.to_thread(process.__exit__)


async def test_a_job_gets_its_files_says_its_lines_as_it_runs_and_leaves_its_own(site: Site) -> None:
    large = os.urandom(LARGE)
    key = await site.put(large)
    script = """
        cat /inputs/words; sha256sum < /inputs/folder/large; sleep 2
        mkdir /outputs/folder; cp /inputs/folder/large /outputs/folder/copy; printf small > /outputs/small
        echo to the other stream >&2; exit 3
    """
    inputs = {
        "words": {"value": "from the definition\n"},
        "folder/large": {"type": "url", "value": f"{site.asked.url}/f/{key}", "hash": key},
    }
    job_id = await site.submit(script, inputs=inputs)
    async with site.asked.follow(job_id) as reader:
        event = await reader.until("run-log")
        assert event.data["lines"][0][0] == "from the definition\n"
        assert (await site.asked.record(job_id))["job"]["state"] == "Running", "lines come while it runs"
        await reader.until("final")
    finished = (await site.result(job_id))["finished"]
    assert (finished["reason"], finished["outcome"], finished["result"]["StatusCode"]) == ("Success", "failed", 3)
    assert "".join(await site.lines(job_id)) == (
        f"from the definition\n{key}  -\nto the other stream\n[asman] exit code 3\n"
    )
    assert set(finished["result"]["outputs"]) == {"folder/copy", "small"}
    assert finished["result"]["outputs"]["folder/copy"]["hash"] == key
    assert await site.output(job_id, "small") == b"small"
    assert await site.output(job_id, "folder/copy") == large


async def test_a_job_that_is_cancelled_is_gone_from_the_engine(site: Site) -> None:
    job_id = await site.submit("trap '' TERM; echo up; sleep 300")
    await site.until_line(job_id, "up")
    answer = await site.asked.call("POST", f"/q/{site.asked.queue}/j/{job_id}/cancel")
    assert answer.status == 200, answer.body

    async def is_gone() -> bool:
        return not await site.containers()

    await site.asked.until(is_gone, 60.0)
    job = (await site.asked.record(job_id))["job"]
    assert (job["state"], job["finishedReason"]) == ("Finished", "Cancelled")
    after = await site.submit("echo the worker goes on")
    assert (await site.result(after))["finished"]["result"]["StatusCode"] == 0


async def test_a_connection_that_breaks_in_the_middle_loses_no_line_and_no_attempt(site: Site) -> None:
    job_id = await site.submit("for i in 1 2 3 4 5 6 7 8; do echo line-$i; sleep 1; done; echo x > /outputs/x")
    await site.until_line(job_id, "line-2")
    site.proxy.cut()
    await asyncio.sleep(2)
    assert "line-8" not in "".join(await site.lines(job_id))
    site.proxy.mend()
    found = await site.result(job_id)
    assert "".join(await site.lines(job_id)) == "".join(f"line-{i}\n" for i in range(1, 9))
    assert (found["attempt"], list(found["finished"]["result"]["outputs"])) == (1, ["x"])
    assert [past["how"] for past in found["attempts"]] == ["reported"]


async def test_what_ends_while_the_server_is_out_of_reach_is_reported_afterwards(site: Site) -> None:
    job_id = await site.submit("echo up; sleep 2; echo the end")
    await site.until_line(job_id, "up")
    site.proxy.cut()

    async def has_ended() -> bool:
        return not any(container["State"] == "running" for container in await site.containers())

    await site.asked.until(has_ended, 60.0)
    assert (await site.asked.record(job_id))["job"]["state"] == "Running"
    site.proxy.mend()
    found = await site.result(job_id)
    assert "".join(await site.lines(job_id)) == "up\nthe end\n"
    assert found["attempt"] == 1


async def test_a_job_that_cannot_have_its_input_says_so(site: Site) -> None:
    missing = hashlib.sha256(os.urandom(8)).hexdigest()
    inputs = {"x": {"type": "url", "value": f"{site.asked.url}/f/{missing}", "hash": missing}}
    job_id = await site.submit("cat /inputs/x", inputs=inputs)
    finished = (await site.result(job_id))["finished"]
    assert (finished["reason"], finished["outcome"]) == ("Error", "error")
    assert finished["result"]["errorCode"] in CODES
    assert "step inputs failed" in finished["result"]["error"]
