"""A large file goes in and out while the server's memory stays flat.

By hand with 5 GB, and on the store that keeps them on the disk:
ASMAN_TEST_LARGE_MIB=5000 ASMAN_TEST_LARGE_STORE=swift pytest --timeout 900 tests/end_to_end/test_large_blob.py -k s3
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from processes import Process, call, eventually

pytestmark = pytest.mark.slow

MIB = 1 << 20
SIZE_MIB = int(os.environ.get("ASMAN_TEST_LARGE_MIB", "256"))
GROWTH_MIB = 64


def _memory_bytes(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@pytest.fixture(params=["files", "s3"])
def place(request: pytest.FixtureRequest) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of a server that keeps blobs there, all bytes passing through it."""
    if request.param == "files":
        return [], {}
    store = request.getfixturevalue(os.environ.get("ASMAN_TEST_LARGE_STORE", "s3_server"))
    return ["--blobs", store.url(store.bucket()), "--blob-redirects", "off"], store.environ


@pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")
def test_the_server_grows_by_less_than_64_mib(
    free_port: int, tmp_path: Path, place: tuple[list[str], dict[str, str]]
) -> None:
    more, environ = place
    piece = bytes(range(256)) * 4096
    digest = hashlib.sha256()
    for _ in range(SIZE_MIB):
        digest.update(piece)
    with Process("serve", "--port", str(free_port), "--data", str(tmp_path), *more, env=environ) as process:
        url = f"http://127.0.0.1:{free_port}"
        process.wait_for("asman serves")
        eventually("it answers", lambda: call("GET", f"{url}/healthz")[0] == 200)
        idle = _memory_bytes(process.pid, "VmRSS")
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        key = digest.hexdigest()
        assert _put(free_port, key, piece) == 200
        assert _get(free_port, key) == key
        growth = _memory_bytes(process.pid, "VmHWM") - idle
    assert growth <= GROWTH_MIB * MIB, f"{growth / MIB:.0f} MiB"
    print(f"grew by {growth / MIB:.0f} MiB from {idle / MIB:.0f} MiB")
    if more:
        assert not (tmp_path / "blobs").exists()
        return
    left = subprocess.run(["find", str(tmp_path / "blobs"), "-type", "f"], capture_output=True, text=True, check=True)
    assert len(left.stdout.split()) == 1, left.stdout


def _put(port: int, key: str, piece: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("PUT", f"/f/{key}")
    connection.putheader("Content-Length", str(len(piece) * SIZE_MIB))
    connection.endheaders()
    for _ in range(SIZE_MIB):
        connection.send(piece)
    status = connection.getresponse().status
    connection.close()
    return status


def _get(port: int, key: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", f"/f/{key}")
    answer, digest = connection.getresponse(), hashlib.sha256()
    while piece := answer.read(MIB):
        digest.update(piece)
    connection.close()
    return digest.hexdigest()
