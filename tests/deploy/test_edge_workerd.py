"""The Worker and its objects in Cloudflare's own runtime, beside what the contract suite asks of them."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge import EDGE, Bundle, run_node, workerd_served
from remote import remote

SDK = "workers-runtime-sdk==1.9.5 --hash=sha256:f2b912660a3ab60d2a24920106422f9eaf4cd7a794e42b022237ad2444287fef"
"""Cloudflare's, for Workers in Python."""


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


# --- what is deployed ------------------------------------------------------------------------------------------------


def _config(file: Path) -> Any:
    text = "\n".join(line for line in file.read_text().splitlines() if not line.strip().startswith("//"))
    return json.loads(text)


def test_both_forms_have_the_bindings_that_were_tested(edge_bundle: Bundle) -> None:
    module, native = _config(EDGE / "wrangler.jsonc"), _config(edge_bundle.folder / "native" / "wrangler.jsonc")
    tested = (EDGE / "miniflare.mjs").read_text()
    assert f'COMPATIBILITY_DATE = "{module["compatibility_date"]}"' in tested
    for config in (module, native):
        assert [each["binding"] for each in config["d1_databases"]] == ["JOBS"]
        assert [each["binding"] for each in config["r2_buckets"]] == ["BLOBS"]
        assert config["durable_objects"]["bindings"] == [{"name": "QUEUES", "class_name": "QueueObject"}]
        assert config["migrations"] == [{"tag": "v1", "new_sqlite_classes": ["QueueObject"]}]
        assert "nodejs_compat" not in config.get("compatibility_flags", [])
    assert module["vars"] == native["vars"]


def test_the_folders_that_are_deployed_are_whole(edge_bundle: Bundle) -> None:
    """Each module that another imports is there, and nothing else."""
    worker, native = edge_bundle.folder / "worker", edge_bundle.folder / "native"
    for folder, first, beside in ((worker, "worker.mjs", set()), (native / "src", "front.mjs", {"entry.py"})):
        found, waiting = set[Path](), [folder / first]
        while waiting:
            file = waiting.pop()
            if file not in found:
                found.add(file)
                is_ours = file.suffix == ".mjs" and file.parent == folder
                names = re.findall(r'from "(\./[^"]+)"', file.read_text()) if is_ours else []
                waiting += [(file.parent / name).resolve() for name in names]
        there = {file for file in folder.rglob("*") if file.is_file()}
        assert there == found | {folder / name for name in beside}
    modules = native / "python_modules"
    assert {"asman", "asman_cloudflare", "asman_edge", "quart"} <= {file.name for file in modules.iterdir()}
    assert {file.suffix for file in modules.rglob("*") if file.is_file()} == {".py", ""}


def test_the_form_in_python_under_its_sdk(edge_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "sdk.txt").write_text(SDK)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--require-hashes", "-r", str(tmp_path / "sdk.txt"), "-d", str(tmp_path)]
    fetched = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if fetched.returncode:
        pytest.skip(f"needs PyPI, or a mirror that pip knows: {fetched.stderr.strip()[-300:]}")
    (sdk,) = tmp_path.glob("*.whl")
    options = {"BUNDLE": str(edge_bundle.file), "SDK": str(sdk)}
    done = run_node("--test", "--test-force-exit", "native.test.mjs", **options)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    assert "\n# pass 4\n" in done.stdout
