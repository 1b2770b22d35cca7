"""An image with real programs in it, made on the spot: Debian with compilers, interpreters, a browser.

Nothing is pulled: ``mmdebstrap`` makes the tree from the Debian mirror that the machine uses for its own packages,
and the engine imports it. Inside, ``/srv/apt`` is an apt repository with two packages that are not installed, so that
a job without a network can install them.
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

from docker_engine import DockerEngine, EngineFailed

__all__ = ["DEBIAN", "NOT_INSTALLED", "load_debian", "why_no_debian"]

DEBIAN = "asman-test-debian:latest"
NOT_INSTALLED = ("cron", "hello")
"""``cron`` makes a group, changes owners and sets a set-group bit when it is installed; ``hello`` does nothing."""

_PACKAGES = """
    python3-pip python3-setuptools python3-venv python3-wheel python3-numpy
    libopenblas0-pthread gcc libc6-dev make git gdb strace
    default-jre-headless openmpi-bin libopenmpi-dev r-base-core chromium
    """.split()  # noqa: SIM905
_MAKE_S = 1000.0
_LEAVE_OUT = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")

_REPOSITORY = r"""
set -e
root=$1
chroot "$root" apt-get install --yes --no-install-recommends --download-only NOT_INSTALLED
mkdir -p "$root/srv/apt"
mv "$root"/var/cache/apt/archives/*.deb "$root/srv/apt/"
cd "$root/srv/apt"
for deb in *.deb; do
  dpkg-deb --field "$deb"
  printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" "$(sha256sum "$deb" | cut -d' ' -f1)"
done > Packages
echo 'deb [trusted=yes] file:/srv/apt ./' > "$root/etc/apt/sources.list"
rm -rf "$root"/etc/apt/sources.list.d/* "$root"/var/lib/apt/lists/*
"""


def why_no_debian() -> str | None:
    """One line that starts with "needs", or None where the image can be made."""
    if shutil.which("mmdebstrap") is None:
        return "needs mmdebstrap to make an image; on Debian: apt-get install mmdebstrap"
    return None


def load_debian(engine: DockerEngine) -> None:
    """Make the image and have the engine import it, unless it has it.

    Errors: EngineFailed, with what mmdebstrap said last.
    """
    if engine.request("GET", f"/images/{DEBIAN}/json")[0] == 200:
        return
    with tempfile.TemporaryDirectory(prefix="asman-debian-") as folder:
        tree = Path(folder) / "tree.tar"
        hook = Path(folder) / "repository"
        hook.write_text(_REPOSITORY.replace("NOT_INSTALLED", " ".join(NOT_INSTALLED)))
        command = [
            *("mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(_PACKAGES)}"),
            *('--aptopt=Acquire::Languages "none"', "--dpkgopt=force-unsafe-io"),
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEAVE_OUT),
            *(f'--customize-hook=sh {hook} "$1"', "bookworm", str(tree), "http://deb.debian.org/debian"),
        ]
        made = subprocess.run(command, capture_output=True, text=True, timeout=_MAKE_S, check=False)
        if made.returncode:
            raise EngineFailed(f"mmdebstrap ended with {made.returncode}: {' | '.join(made.stderr.splitlines()[-8:])}")
        _import(engine, tree)


def _import(engine: DockerEngine, tree: Path) -> None:
    repository, _, version = DEBIAN.partition(":")
    variables = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    changes = "".join(f"&changes={quote(line)}" for line in (f"ENV {variables}", "ENV LANG=C.UTF-8", 'CMD ["bash"]'))
    with tree.open("rb") as content:
        try:
            status, answer = engine.request(
                "POST", f"/images/create?fromSrc=-&repo={repository}&tag={version}{changes}", content, timeout_s=_MAKE_S
            )
        except (OSError, http.client.HTTPException) as error:
            raise EngineFailed(f"the engine did not import the Debian image: {error}") from error
    if status != 200 or b'"error"' in answer:
        raise EngineFailed(f"the engine did not import the Debian image: {status} {answer.decode(errors='replace')}")
