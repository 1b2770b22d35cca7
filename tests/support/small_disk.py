"""A small file system of a test's own, to be filled."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["small_disk"]


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount one, in memory; whatever is mounted below it goes with it at the end."""
    point = folder / "small-disk"
    point.mkdir()
    options = f"size={size_bytes},mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small-disk", str(point)], check=True)
    try:
        yield point
    finally:
        below = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for path in sorted((p for p in below if p == str(point) or p.startswith(f"{point}/")), reverse=True):
            subprocess.run(["umount", "--lazy", path], check=False)
