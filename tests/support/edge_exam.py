"""The kits of ``asman.testing`` run inside workerd, on the bindings of a Durable Object there."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import files
from pathlib import Path
from typing import Any

import pytest

from edge import EDGE, Bundle

__all__ = ["asked_inside", "examined_inside", "make_kits"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
_INSTALLED = ("pytest", "iniconfig", "packaging", "pygments", "sortedcontainers")
"""What pytest and hypothesis need: Python without a part in C, so what is installed here works there."""
_PURE = ("hypothesis==6.155.0", "d6ffa3062afabaf908491be707c60843f6671f7c3e9f2ed249d5827207ebbf33")
"""The last hypothesis without a part in another language, and the hash of its wheel."""
_PIP_S, _EXAM_S = 120.0, 300.0


def make_kits(folder: Path) -> Path:
    """One archive of pytest, hypothesis and the kits, to be unpacked inside."""
    made = folder / "kits.zip"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _INSTALLED:
            for inside, path in _of_installed(name):
                archive.write(path, inside)
        with zipfile.ZipFile(_pure_wheel(folder)) as wheel:
            for inside in wheel.namelist():
                archive.writestr(inside, wheel.read(inside))
        for path in sorted((ROOT / "asman" / "testing").glob("*.py")):
            archive.write(path, f"asman/testing/{path.name}")
    return made


def _of_installed(name: str) -> Iterator[tuple[str, Path]]:
    for file in files(name) or ():
        if file.suffix == ".py" or file.name == "METADATA":
            yield str(file), Path(str(file.locate()))


def _pure_wheel(folder: Path) -> Path:
    wanted, sha256 = _PURE
    lines = folder / "kits.txt"
    lines.write_text(f"{wanted} --hash=sha256:{sha256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--require-hashes", "--only-binary", ":all:", "-r", str(lines), "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_S, check=False)
    if done.returncode:
        pytest.skip(f"needs PyPI, or a mirror that pip knows: {done.stderr.strip()[-300:]}")
    return next(folder.glob("hypothesis-*.whl"))


def examined_inside(
    bundle: Bundle, kits: Path, urls: Sequence[str], only: str = ""
) -> dict[str, list[tuple[str, str]]]:
    """What ``check_backend`` says of each URL there, and pytest of each test file.

    Shape:  {URL: [(test, outcome), ...]}. A test file is a path that ends with ``.py``; its coroutines get the bindings
            as the fixtures ``env`` and ``state``.
    """
    said = asked_inside(bundle, kits, HERE / "edge_exam_inside.py", urls, only)
    return {url: [(test, outcome) for test, outcome in outcomes] for url, outcomes in said.items()}


def asked_inside(bundle: Bundle, kits: Path, inside: Path, questions: Sequence[str], only: str = "") -> dict[str, Any]:
    """What ``exam`` of a file answers, each question in an object of its own. Shape: {question: answer}."""
    options = {"edge": EDGE, "bundle": bundle.file, "kits": kits, "inside": inside, "only": only}
    named = [f"--{name}={value}" for name, value in options.items()]
    command = ["node", str(HERE / "edge_exam.mjs"), *named, *questions]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_EXAM_S, check=False)
    assert done.returncode == 0, (done.stderr + done.stdout)[-6000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))
