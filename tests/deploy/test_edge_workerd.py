"""The Worker and its objects in Cloudflare's own runtime, beside what the contract suite asks of them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from edge import Bundle, run_node, workerd_served
from remote import remote


def test_requests_go_to_the_object_that_they_concern() -> None:
    done = run_node("--test", "routing.test.mjs")
    assert done.returncode == 0, done.stdout[-4000:]
    assert "\n# pass 6\n" in done.stdout


@pytest.mark.timeout(300)
def test_objects_sockets_alarms_and_the_schedule(edge_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints how long a warm request takes and how much memory Python has after a thousand."""
    done = run_node("--test", "--test-force-exit", "workerd.test.mjs", BUNDLE=str(edge_bundle.file))
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    assert "\n# pass 6\n" in done.stdout
    with capsys.disabled():
        print("", *re.findall(r"# (.*wasm memory.*)", done.stdout), sep="\n")


async def test_a_signal_ends_the_runtime_and_what_was_stored_is_there_again(
    edge_bundle: Bundle, tmp_path: Path
) -> None:
    options, stores = ("--store", str(tmp_path / "store")), {"ASMAN_BACKEND": "durable://JOBS"}
    with workerd_served(edge_bundle, *options, cwd=tmp_path, **stores) as server:
        async with remote(server.url) as asked:
            queue, job_id = asked.queue, await asked.submit()
        assert await asyncio.to_thread(server.stop) == 0
        assert re.search(r"ended with \d+ MiB of wasm memory", "\n".join(server.said))
    with workerd_served(edge_bundle, *options, cwd=tmp_path, **stores) as server:
        async with remote(server.url) as asked:
            assert job_id in (await asked.get(f"/q/{queue}"))["data"]
            assert (await asked.get(f"/j/{job_id}"))["data"]["definition"]


def test_a_wrong_setting_is_said_at_the_start(edge_bundle: Bundle) -> None:
    done = run_node("serve-workerd.mjs", "--port", "0", "--bundle", str(edge_bundle.file), ASMAN_PROFILE="nonsense")
    assert done.returncode == 2
    assert 'profile is "nonsense"; known are: private, public' in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Error: it does not start")
