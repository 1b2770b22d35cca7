"""The page in the package: built by the build, taken from the sdist as it is, and left out in words without Node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest

from page_size import BAR_BYTES, first_load

ROOT = Path(__file__).parents[2]
INSTALLED = Path(str(files("asman") / "page"))
NO_NODE = "needs Node.js 20.19 or newer with npm; on Debian: apt-get install nodejs npm"
HELLO = """
import asyncio
from asman.app import create_app
from asman.config import Config

async def ask():
    client = create_app(Config(backend="memory")).test_client()
    answer = await client.get("/", headers={"Accept": "text/html"})
    print(answer.headers["content-type"], (await answer.get_data(as_text=True)))

asyncio.run(ask())
"""

needs_page = pytest.mark.skipif(not (INSTALLED / "index.html").is_file(), reason=NO_NODE)
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason=NO_NODE)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is built from, without a built page."""
    root = tmp_path_factory.mktemp("tree") / "asman"
    left_out = shutil.ignore_patterns("node_modules", "dist", "page", "__pycache__", "test")
    for name in ("asman", "backends", "plugins", "worker", "web"):
        shutil.copytree(ROOT / name, root / name, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, root / name)
    return root


def _build(tree: Path, out: Path, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", str(out), str(tree)]
    environ = {**os.environ, "ASMAN_BUILD_PAGE": "auto", **more}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=110, check=False)


def _without_node(tmp_path: Path) -> dict[str, str]:
    empty = tmp_path / "bin"
    empty.mkdir()
    return {"PATH": str(empty)}


def _warnings(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in (done.stdout + done.stderr).splitlines() if "asman is built without its page" in line]


def test_without_node_the_wheel_is_built_and_says_what_it_lacks(tree: Path, tmp_path: Path) -> None:
    done = _build(tree, tmp_path / "out", "--wheel", **_without_node(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(_warnings(done)) == 1
    assert "Node.js 20.19 or newer with npm is needed" in _warnings(done)[0]
    (wheel,) = (tmp_path / "out").glob("*.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("asman/page/")]
    environ = {**os.environ, "PYTHONPATH": str(wheel), "PYTHONSAFEPATH": "1"}
    said = subprocess.run(
        [sys.executable, "-c", HELLO], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stdout.startswith("text/plain; charset=UTF-8 asman")
    assert "was not built into this installation. It needs Node.js 20.19 or newer" in said.stdout


def test_where_the_page_is_required_there_is_no_package_without_it(tree: Path, tmp_path: Path) -> None:
    done = _build(tree, tmp_path / "out", "--wheel", ASMAN_BUILD_PAGE="require", **_without_node(tmp_path))
    assert done.returncode != 0
    assert "Node.js 20.19 or newer with npm is needed" in done.stdout + done.stderr
    assert not list((tmp_path / "out").glob("*.whl"))


def test_an_old_node_is_named(tree: Path, tmp_path: Path) -> None:
    for tool in ("node", "npm"):
        (tmp_path / tool).write_text("#!/bin/sh\necho v18.20.4\n")
        (tmp_path / tool).chmod(0o755)
    done = _build(tree, tmp_path / "out", "--wheel", PATH=f"{tmp_path}:/bin:/usr/bin")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "needs Node.js 20.19 or newer; here node is v18.20.4" in _warnings(done)[0]


@needs_npm
def test_without_a_registry_the_wheel_is_built_and_says_so(tree: Path, tmp_path: Path) -> None:
    npm = {"npm_config_registry": "http://127.0.0.1:9/", "npm_config_fetch_retries": "0"}
    done = _build(tree, tmp_path / "out", "--wheel", npm_config_cache=str(tmp_path / "cache"), **npm)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(_warnings(done)) == 1
    assert "npm ci failed: " in _warnings(done)[0]
    assert not (tree / "asman" / "page").exists()


def test_another_word_than_the_three_is_refused(tree: Path, tmp_path: Path) -> None:
    done = _build(tree, tmp_path / "out", "--wheel", ASMAN_BUILD_PAGE="yes")
    assert done.returncode != 0
    assert "ASMAN_BUILD_PAGE is yes; it can be auto, require or skip" in done.stdout + done.stderr


@needs_npm
@pytest.mark.slow
def test_a_tree_with_node_builds_the_page_once(tree: Path, tmp_path: Path) -> None:
    """npm ci, the build, the sdist with page and sources; then, without Node, the wheel from the sdist."""
    own = tmp_path / "asman"
    shutil.copytree(tree, own)
    done = _build(own, tmp_path / "out", "--sdist", ASMAN_BUILD_PAGE="require")
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = (tmp_path / "out").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path / "unpacked", filter="data")
    assert {"asman/page/index.html", "asman/page/index.html.br", "web/src/ui/main.tsx", "web/.npmrc"} <= names
    assert not [name for name in names if "node_modules" in name or name.startswith("web/dist")]
    (source,) = (tmp_path / "unpacked").iterdir()
    made = _build(source, tmp_path / "out", "--wheel", ASMAN_BUILD_PAGE="require", **_without_node(tmp_path))
    assert made.returncode == 0, made.stdout + made.stderr
    (wheel,) = (tmp_path / "out").glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("asman/page/")}
    assert held == {name for name in names if name.startswith("asman/page/") and not name.endswith(("page", "assets"))}

    (source / "web" / "index.html").write_text("<p>changed</p>")
    changed = _build(source, tmp_path / "changed", "--wheel", PATH=str(tmp_path / "bin"))
    assert "an older page stays: " in changed.stdout + changed.stderr


@needs_page
def test_what_the_page_loads_first_is_small() -> None:
    sizes = first_load(INSTALLED)
    assert {"index.html"} < set(sizes), "the page names its script and style"
    assert any(name.endswith(".js") for name in sizes)
    assert sum(sizes.values()) <= BAR_BYTES, sizes


@needs_page
def test_every_file_worth_it_has_its_compressed_forms() -> None:
    worth = [p for p in INSTALLED.rglob("*") if p.suffix in (".js", ".css", ".html") and p.stat().st_size >= 512]
    assert worth
    assert not [p.name for p in worth for end in (".gz", ".br") if not p.with_name(p.name + end).is_file()]


def test_the_first_load_follows_imports_but_not_those_that_wait(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    script, style = '<script type="module" src="./assets/a.js">', '<link rel="stylesheet" href="./assets/s.css">'
    (tmp_path / "index.html").write_text(script + style)
    (tmp_path / "assets" / "a.js").write_text('import{x}from"./b.js";const later=()=>import("./c.js");')
    for name in ("b.js", "c.js", "s.css"):
        (tmp_path / "assets" / name).write_text("x")
    assert set(first_load(tmp_path)) == {"index.html", "assets/a.js", "assets/b.js", "assets/s.css"}
