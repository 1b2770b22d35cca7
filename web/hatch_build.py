"""Builds the page into the package: a hook of the package build, run for the wheel, the sdist and an editable install.

``npm ci`` and ``npm run build`` leave the page in ``asman/page``, with a hash of what it was made from; while that
hash is the one of ``web/``, nothing is built again, so an sdist, which holds both, needs no Node. Where the page
cannot be built the package is built without it, with one line that says why: the API is the same.

``ASMAN_BUILD_PAGE`` is ``auto`` (that), ``require`` (without the page there is no package) or ``skip``.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE = (20, 19)
_MARK = "sources.sha256"
_NOT_SOURCES = {"node_modules", "dist", "test", "coverage"}
_NPM_S = 900.0


class PageMissing(Exception):
    """The page cannot be built here. The message says why, and what to do."""


class PageHook(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        build_page(Path(self.root), os.environ, self.app.display_warning)


def build_page(root: Path, environ: Mapping[str, str], warn: Callable[[str], None]) -> None:
    """See to it that ``asman/page`` is there and is that of ``web/``. Errors: PageMissing, if it is required."""
    wanted = environ.get("ASMAN_BUILD_PAGE") or "auto"
    if wanted not in ("auto", "require", "skip"):
        raise PageMissing(f"ASMAN_BUILD_PAGE is {wanted}; it can be auto, require or skip")
    page, sources = root / "asman" / "page", sources_hash(root / "web")
    mark = page / _MARK
    if mark.is_file() and mark.read_text().strip() == sources:
        return
    if wanted == "skip":
        return
    try:
        _build(root / "web", page, sources)
    except PageMissing as error:
        if wanted == "require":
            raise
        left = "an older page stays" if (page / "index.html").is_file() else "asman is built without its page"
        warn(f"{left}: {error}")


def sources_hash(web: Path) -> str:
    """Of all that the page is made from: names and bytes, as 64 hex digits."""
    total = hashlib.sha256()
    for path in sorted(p for p in web.rglob("*") if p.is_file() and not _is_left_out(p.relative_to(web))):
        total.update(f"{path.relative_to(web).as_posix()}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def _is_left_out(path: Path) -> bool:
    return path.parts[0] in _NOT_SOURCES or path.suffix in (".py", ".pyc", ".md")


def _build(web: Path, page: Path, sources: str) -> None:
    """Beside the place and then into it: a build that fails leaves what was there."""
    _check_node()
    lock, installed = web / "package-lock.json", web / "node_modules" / ".package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < lock.stat().st_mtime:
        _npm(web, "ci")
    made = web / "dist" / "page"
    _npm(web, "run", "build", "--", "--outDir", str(made.relative_to(web)), "--emptyOutDir")
    (made / _MARK).write_text(sources + "\n")
    shutil.rmtree(page, ignore_errors=True)
    shutil.move(made, page)


def _check_node() -> None:
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise PageMissing(f"Node.js {_dotted(NODE)} or newer with npm is needed for it, and is not installed")
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < NODE:
        raise PageMissing(f"it needs Node.js {_dotted(NODE)} or newer; here node is {said.strip() or 'unusable'}")


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _npm(web: Path, *arguments: str) -> None:
    told = " ".join(arguments[:2])
    try:
        done = subprocess.run(
            ["npm", *arguments],
            cwd=web,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_NPM_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PageMissing(f"npm {told} took longer than {_NPM_S:.0f} s") from error
    if done.returncode != 0:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or ["it said nothing"]
        raise PageMissing(f"npm {told} failed: {' | '.join(errors[:6])[:600]}")
