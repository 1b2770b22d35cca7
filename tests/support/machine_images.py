"""Images for a private engine, made of this machine: its Python, and programs that Debian has, with what they need.

No registry is asked: an image is a tar of the files, imported.
"""

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import pytest

from docker_engine import DockerEngine

__all__ = ["PYTHON", "import_image", "import_program", "import_python", "run_or_fail"]

PYTHON = "python-of-this-machine:1"


def run_or_fail(*command: str, env: Mapping[str, str] | None = None, timeout_s: float = 180.0) -> str:
    """What a command prints. Errors: AssertionError with all it said if it fails."""
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


def import_image(engine: DockerEngine, name: str, tree: bytes, *changes: str) -> None:
    """An image of a tar. Shape: ``changes`` are lines of a Dockerfile, such as ``ENV PATH=/usr/bin``."""
    query = "".join(f"&changes={quote(line)}" for line in changes)
    path = f"/images/create?fromSrc=-&repo={quote(name)}{query}"
    status, answer = engine.request("POST", path, tree, timeout_s=120)
    assert (status, b'"error"' in answer) == (200, False), answer


def import_python(engine: DockerEngine, wheels: Path | None = None, name: str = PYTHON) -> str:
    """This machine's Python, with the pip among the wheels, under this name; the name."""
    pip = next(wheels.glob("pip-*.whl")) if wheels else None
    import_image(engine, name, _python_tree(pip), "ENV PATH=/usr/bin:/bin")
    return name


def import_program(
    engine: DockerEngine, name: str, programs: Sequence[str], package: str, users: str = "", *changes: str
) -> str:
    """Programs of this machine with their libraries and busybox. Shape: ``users`` are lines of /etc/passwd."""
    paths = [Path(found) for program in programs if (found := shutil.which(program))]
    if len(paths) < len(programs):
        pytest.skip(f"needs {' and '.join(programs)}; on Debian: apt-get install {package}")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path in paths:
            tar.add(os.path.realpath(path), arcname=f"usr/bin/{path.name}")
        _base(tar, paths, users)
        for folder, owner in (("data", 999), ("config", 0)):
            _folder(tar, folder, owner)
    import_image(engine, name, out.getvalue(), "ENV PATH=/usr/bin:/bin", *changes)
    return name


_LOADED_BY_WHEELS = ("libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1", "libutil.so.1")


def _base(tar: tarfile.TarFile, programs: list[Path], users: str = "") -> None:
    """Libraries, busybox as a few commands, users, /tmp."""
    listed = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    known = {Path(path).name: Path(path) for path in reversed(re.findall(r"=> (/\S+)$", listed, re.MULTILINE))}
    more = {known[name] for name in _LOADED_BY_WHEELS if name in known}
    for path in sorted(_libraries(programs) | more):
        tar.add(os.path.realpath(path), arcname=str(path))
    tar.add(str(shutil.which("busybox")), arcname="bin/busybox")
    for applet in ("sh", "ls", "env", "cat", "chown", "mkdir", "sleep", "wc", "grep", "wget"):
        _link(tar, f"bin/{applet}", "busybox")
    _file(tar, "etc/passwd", f"root:x:0:0:root:/root:/bin/sh\n{users}".encode())
    _file(tar, "etc/group", b"root:x:0:\nredis:x:999:\n")
    _folder(tar, "tmp")


def _libraries(programs: list[Path]) -> set[Path]:
    """Shared libraries that programs need, and the loader."""
    found = set()
    for program in programs:
        listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
        found |= {Path(path) for path in re.findall(r"(/\S+) \(0x", listed)}
    return found


_LEFT_OUT = {"test", "__pycache__", "site-packages", "dist-packages", "idlelib", "tkinter", "lib2to3", "ensurepip"}


def _python_tree(pip: Path | None) -> bytes:
    """A root file system as a tar: this machine's Python, pip if there is one, the libraries they need, busybox."""
    program, library = Path(os.path.realpath(sys.executable)), Path(sysconfig.get_path("stdlib"))
    modules = [path for path in library.rglob("*.so") if "site-packages" not in path.parts]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:

        def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
            parts = set(Path(entry.name).parts)
            return None if _LEFT_OUT & parts or entry.name.endswith(".a") else entry

        tar.add(library, filter=wanted)
        tar.add(program)
        _base(tar, [program, *modules])
        for name in ("python", "python3"):
            _link(tar, f"usr/bin/{name}", str(program))
        if pip is not None:
            _unpack(tar, pip, into=_packages(program))
    return out.getvalue()


def _unpack(tar: tarfile.TarFile, wheel: Path, *, into: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            _file(tar, f"{into}/{name}".lstrip("/"), archive.read(name))


def _packages(program: Path) -> str:
    """Where this Python itself, not an environment of it, looks for packages."""
    return run_or_fail(str(program), "-Ic", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)


def _file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


def _folder(tar: tarfile.TarFile, name: str, owner: int = 0) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o1777, owner, owner
    tar.addfile(entry)
