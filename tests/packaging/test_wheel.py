"""What is published: the wheel and the sdist, built here from the tree, opened and compared with it."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [ROOT / package for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one sdist, and one wheel that was built from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def _dist_info(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = (p for p in wheel.namelist() if p.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_every_folder_of_code_is_a_package_of_the_wheel() -> None:
    found = {path.parent for top in ("backends", "plugins", "worker") for path in (ROOT / top).glob("*/__init__.py")}
    assert found | {ROOT / "asman"} == set(PACKAGES)


def test_the_wheel_holds_every_file_of_every_package(wheel: zipfile.ZipFile) -> None:
    wanted = {
        path.relative_to(package.parent).as_posix()
        for package in PACKAGES
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert "asman/py.typed" in wanted
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == wanted


def test_the_wheel_holds_no_tests_and_no_tree_folders(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}
    assert tops == {package.name for package in PACKAGES}
    assert not [n for n in wheel.namelist() if "/test_" in n or n.endswith("conftest.py")]


def test_every_package_says_that_it_is_typed() -> None:
    assert [package.name for package in PACKAGES if not (package / "py.typed").is_file()] == []


def test_entry_points_name_modules_and_functions_that_exist(wheel: zipfile.ZipFile) -> None:
    points = configparser.ConfigParser(delimiters=("=",))
    points.read_string(_dist_info(wheel, "entry_points.txt"))
    assert set(points.sections()) == {"console_scripts", "asman"}
    held = set(wheel.namelist())
    for section in points.sections():
        for name, target in points[section].items():
            module, _, attribute = target.partition(":")
            path = module.replace(".", "/")
            file = next((f for f in (f"{path}.py", f"{path}/__init__.py") if f in held), None)
            assert file is not None, f"{name} names {module}, which the wheel does not hold"
            if attribute:
                assert f"def {attribute}(" in wheel.read(file).decode(), f"{module} has no {attribute}"


def test_every_plugin_package_has_an_entry_point() -> None:
    named = set(PROJECT["project"]["entry-points"]["asman"].values())
    packages = {package.name for package in PACKAGES} - {"asman"}
    given_by_their_host = {"asman_cloudflare"}  # its hooks hold bindings, which no entry point has
    assert packages - named <= {"asman_worker"} | given_by_their_host
    assert named <= packages


def test_the_metadata_names_the_extras_and_what_each_needs(wheel: zipfile.ZipFile) -> None:
    metadata = HeaderParser().parsestr(_dist_info(wheel, "METADATA"))
    assert metadata["Name"] == "asman"
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["project"]["optional-dependencies"])
    needs = metadata.get_all("Requires-Dist", [])
    bare = {need.split(">")[0].strip() for need in needs if "extra ==" not in need}
    assert bare == {"quart", "pluggy", "hypercorn", "click"}
    for extra, needed in PROJECT["project"]["optional-dependencies"].items():
        assert len([n for n in needs if f"extra == '{extra}'" in n]) >= (1 if needed else 0)


def test_the_metadata_has_the_licence_and_the_readme(wheel: zipfile.ZipFile) -> None:
    metadata = HeaderParser().parsestr(_dist_info(wheel, "METADATA"))
    assert metadata["License-Expression"] == "MIT"
    assert "Copyright" in _dist_info(wheel, "licenses/LICENSE")
    assert metadata.get_payload() == (ROOT / "README.md").read_text()


def test_the_version_is_the_one_in_the_package(wheel: zipfile.ZipFile) -> None:
    metadata = HeaderParser().parsestr(_dist_info(wheel, "METADATA"))
    text = wheel.read("asman/__init__.py").decode()
    assert f'__version__ = "{metadata["Version"]}"' in text


def test_the_sdist_holds_what_is_needed_to_test_it(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "tox.ini", "LICENSE", "README.md", "tests/conftest.py", "asman/errors.py"} <= names
    assert not [name for name in names if name.startswith((".venv", ".tox", "node_modules", "asman-data"))]
