"""A stranger's package: built, installed by pip into a new environment beside the wheel, and used as anybody would.

The environment is new; what asman and the package depend on is lent to it by path from the environment of the tests,
so that nothing is downloaded. That the package names its dependencies is read from its metadata.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

import pytest

from processes import call, eventually
from served import Served, environ

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "asman-lmdb"

pytestmark = pytest.mark.slow


def bare_environ(**more: str) -> dict[str, str]:
    """Nothing of the tree: what is imported is what is installed."""
    return {name: value for name, value in environ(**more).items() if name != "PYTHONPATH"}


def run(*command: str | Path, cwd: Path, timeout_s: float = 110.0, **more: str) -> str:
    """What it printed. Errors: AssertionError with all output if it failed."""
    done = subprocess.run(
        command, cwd=cwd, env=bare_environ(**more), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheels of asman and of the example."""
    out = tmp_path_factory.mktemp("wheels")
    for source in (ROOT, EXAMPLE):
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source, cwd=out)
    return sorted(out.glob("*.whl"))


@pytest.fixture(scope="module")
def bin_folder(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bin`` of a new environment with both wheels."""
    home = tmp_path_factory.mktemp("stranger") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home.parent)
    python = home / "bin" / "python"
    options = ("--quiet", "--no-index", "--no-deps")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, *wheels, cwd=home.parent)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    where = run(python, "-c", "import asman, asman_lmdb; print(asman.__file__, asman_lmdb.__file__)", cwd=home.parent)
    assert all(Path(file).is_relative_to(home) for file in where.split()), where
    return home / "bin"


def test_the_package_names_what_it_needs_and_how_it_is_found(wheels: list[Path]) -> None:
    (path,) = (wheel for wheel in wheels if wheel.name.startswith("asman_lmdb-"))
    with ZipFile(path) as wheel:
        names = wheel.namelist()
        (metadata,) = (wheel.read(n).decode() for n in names if n.endswith(".dist-info/METADATA"))
        (points,) = (wheel.read(n).decode() for n in names if n.endswith(".dist-info/entry_points.txt"))
    needs = HeaderParser().parsestr(metadata).get_all("Requires-Dist", [])
    assert {need.split(">")[0].split("<")[0] for need in needs if "extra ==" not in need} == {"asman", "lmdb"}
    assert points.split() == ["[asman]", "journal", "=", "asman_lmdb.journal", "lmdb", "=", "asman_lmdb"]
    assert "asman_lmdb/py.typed" in names
    assert not [name for name in names if name.startswith("tests")]


def test_its_plugins_are_found(bin_folder: Path, tmp_path: Path) -> None:
    told = json.loads(run(bin_folder / "asman", "plugins", "--json", cwd=tmp_path))
    found = {plugin["name"]: plugin for plugin in told["plugins"]}
    assert found["lmdb"]["hooks"] == ["job_store", "schemes"]
    assert found["journal"]["hooks"] == ["app_plugins"]
    assert not found["lmdb"]["problem"] + found["journal"]["problem"]
    assert "lmdb:///folder" in told["schemes"]["lmdb"]


def test_the_exam_is_passed(bin_folder: Path, tmp_path: Path) -> None:
    told = run(bin_folder / "asman", "backend", "check", f"lmdb:///{tmp_path}/jobs?size=1g", cwd=tmp_path)
    passed, failed, skipped = (int(part.split()[0]) for part in told.splitlines()[-1].split(", "))
    assert (failed, skipped) == (0, 4), "it offers no clock, no roles and no word for what it keeps"
    assert passed > 80


def test_its_own_tests_pass(bin_folder: Path, tmp_path: Path) -> None:
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path}/bt", EXAMPLE / "tests")
    told = run(bin_folder / "python", *command, cwd=EXAMPLE, PYTHONDONTWRITEBYTECODE="1")
    assert " passed, 4 skipped" in told.splitlines()[-1]


@contextmanager
def serving(bin_folder: Path, folder: Path) -> Iterator[str]:
    """``asman serve`` of the new environment on the example's store, with a journal; gives its URL."""
    options = ("--port", "0", "--data", folder / "data", "--backend", f"lmdb:///{folder}/jobs")
    process = subprocess.Popen(
        [bin_folder / "asman", "serve", *options],
        cwd=folder,
        env=bare_environ(ASMAN_JOURNAL=str(folder / "journal.jsonl")),
        stderr=subprocess.PIPE,
        text=True,
    )
    server = Served(process=process)
    try:
        yield server.url
        assert server.stop() == 0
    finally:
        server.end()


def test_a_server_runs_on_it_and_keeps_a_journal(bin_folder: Path, tmp_path: Path) -> None:
    definition = {"image": "busybox", "command": "true"}
    with serving(bin_folder, tmp_path) as url:
        status, answer = call("POST", f"{url}/q/ours", {"definition": definition})
        assert status == 200
        job_id = answer["jobId"]
        told = run(bin_folder / "asman", "ls", "ours", "--json", cwd=tmp_path, ASMAN_SERVER=url)
        assert {key: job["state"] for key, job in json.loads(told).items()} == {job_id: "Queued"}
    assert (tmp_path / "journal.jsonl").read_text() == ""
    with serving(bin_folder, tmp_path) as url:  # another process finds what the first one stored
        told = run(bin_folder / "asman", "ls", "ours", "--json", cwd=tmp_path, ASMAN_SERVER=url)
        assert list(json.loads(told)) == [job_id]
        assert call("POST", f"{url}/q/ours/j/{job_id}/cancel")[0] == 200
        text = eventually("the journal has a line", (tmp_path / "journal.jsonl").read_text)
    line = json.loads(text)
    assert (line["queue"], line["job"], line["reason"]) == ("ours", job_id, "Cancelled")


def test_a_wrong_setting_of_the_plugin_stops_the_server_with_its_name(bin_folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [bin_folder / "asman", "serve", "--port", "0", "--backend", "memory"],
        cwd=tmp_path,
        env=bare_environ(ASMAN_JOURNAL=str(tmp_path / "absent" / "journal")),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert "error: ASMAN_JOURNAL is " in done.stderr
    assert "Traceback" not in done.stderr
