"""A disk that fills up: submits are refused with 507, what was acknowledged stays, and room makes it work again."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import call, server

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root to mount a small file system")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], check=False)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_refuses_and_loses_nothing(small_disk: Path, free_port: int) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (2 << 20))
    with server(free_port, small_disk / "data") as url:
        accepted, refusal = [], None
        for number in range(5_000):
            definition = {"image": "alpine:3.19.1", "command": f"echo {number} {'x' * 3000}"}
            status, answer = call("POST", f"{url}/q/a-queue-on-a-full-disk", {"definition": definition})
            if status != 200:
                refusal = (status, answer)
                break
            accepted.append(answer["jobId"])
        assert refusal is not None
        assert (refusal[0], refusal[1]["code"]) == (507, "storage_full"), refusal
        assert accepted
        blob = call("PUT", f"{url}/f/{'0' * 64}", b"x" * (8 << 20))
        assert (blob[0], blob[1]["code"]) in ((507, "storage_full"), (422, "hash_mismatch")), blob
        assert set(call("GET", f"{url}/q/a-queue-on-a-full-disk")[1]["data"]) == set(accepted)
        ballast.unlink()
        again = call("POST", f"{url}/q/a-queue-on-a-full-disk", {"definition": {"image": "alpine:3.19.1"}})
        assert again[0] == 200, again
    with server(free_port, small_disk / "data") as url:
        listed = set(call("GET", f"{url}/q/a-queue-on-a-full-disk")[1]["data"])
        assert listed == {*accepted, again[1]["jobId"]}
