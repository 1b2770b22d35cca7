"""The worker's image: built without a network from wheels that were fetched before, then one job through it."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest

from docker_engine import IMAGE, DockerEngine

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "worker"
BASE = "python-of-this-machine:1"

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def _run(*command: str, env: dict[str, str] | None = None, timeout_s: float = 180.0) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of asman, of what it needs, and of pip."""
    folder = tmp_path_factory.mktemp("wheels")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT))
    (asman,) = folder.glob("asman-*.whl")
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--only-binary", ":all:", "-d", str(folder)]
    done = subprocess.run(
        [*fetch, f"{asman}[client,worker,metrics]", "pip"], capture_output=True, text=True, timeout=180, check=False
    )
    if done.returncode:
        pytest.skip(f"needs PyPI, or a mirror that pip knows: {done.stderr.strip().splitlines()[-1:]}")
    return folder


def _libraries(programs: list[Path]) -> set[Path]:
    """Shared libraries that programs need, and the loader."""
    found = set()
    for program in programs:
        listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
        found |= {Path(path) for path in re.findall(r"(/\S+) \(0x", listed)}
    return found


def _python_tree(pip: Path) -> bytes:
    """A root file system as a tar: this machine's Python with pip, the libraries they need, busybox."""
    program, library = Path(os.path.realpath(sys.executable)), Path(sysconfig.get_path("stdlib"))
    modules = [path for path in library.rglob("*.so") if "site-packages" not in path.parts]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:

        def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
            parts = Path(entry.name).parts
            return None if {"test", "__pycache__", "site-packages", "dist-packages"} & set(parts) else entry

        tar.add(library, filter=wanted)
        tar.add(program)
        for path in _libraries([program, *modules]):
            tar.add(os.path.realpath(path), arcname=str(path))
        tar.add(str(shutil.which("busybox")), arcname="bin/busybox")
        for name in ("sh", "ls", "env", "cat"):
            _link(tar, f"bin/{name}", "busybox")
        for name in ("python", "python3"):
            _link(tar, f"usr/bin/{name}", str(program))
        with zipfile.ZipFile(pip) as archive:
            for name in archive.namelist():
                _file(tar, f"{_packages(program)}/{name}".lstrip("/"), archive.read(name))
        _file(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        _folder(tar, "tmp")
    return out.getvalue()


def _packages(program: Path) -> str:
    """Where this Python itself, not an environment of it, looks for packages."""
    return _run(str(program), "-Ic", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)


def _file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


def _folder(tar: tarfile.TarFile, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
    tar.addfile(entry)


@pytest.fixture(scope="module")
def image(docker_engine: DockerEngine, wheels: Path) -> str:
    """The worker's image."""
    if shutil.which("docker") is None:
        pytest.skip("needs docker, the command; on Debian: apt-get install docker.io")
    (pip,) = wheels.glob("pip-*.whl")
    changes = quote("ENV PATH=/usr/bin:/bin")
    status, answer = docker_engine.request(
        "POST", f"/images/create?fromSrc=-&repo={quote(BASE)}&changes={changes}", _python_tree(pip), timeout_s=120
    )
    assert (status, b'"error"' in answer) == (200, False), answer
    env = {
        "DOCKER_HOST": docker_engine.host,
        "DOCKER_BUILDKIT": "0",
        "BASE": BASE,
        "PACKAGES": "",
        "WHEELS": str(wheels),
    }
    _run(str(FOLDER / "build"), "asman-worker-test", env=env)
    return "asman-worker-test"


def test_the_image_says_what_it_is_and_refuses_to_start_without_a_queue(docker_host: str, image: str) -> None:
    docker = ("docker", "-H", docker_host, "run", "--rm", "--network", "none")
    version = _run("docker", "-H", docker_host, "run", "--rm", "--network", "none", image, "--version")
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", version)
    done = subprocess.run([*docker, image], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no queue is named" in done.stderr


def test_one_job_runs_through_the_image(docker_engine: DockerEngine, image: str, free_port: int) -> None:
    env = {
        "DOCKER_HOST": docker_engine.host,
        "PORT": str(free_port),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    said = _run(*docker_engine.inside(str(FOLDER / "smoke"), image, IMAGE), env=env)
    assert "one job ran through asman-worker-test" in said


def test_nothing_in_the_dockerfile_names_an_architecture() -> None:
    text = (FOLDER / "Dockerfile").read_text().lower()
    assert not re.search(r"amd64|x86|arm64|aarch64|--platform", text)
