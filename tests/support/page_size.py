"""What a browser loads before the page can be used: its HTML and what that names, and what those import at once.

``python tests/support/page_size.py`` prints it for the installed page and fails above the bar; ``tox -e web`` runs it.
"""

from __future__ import annotations

import gzip
import re
import sys
from importlib.resources import files
from pathlib import Path

__all__ = ["BAR_BYTES", "first_load"]

BAR_BYTES = 150_000
"""Of the first load, gzipped."""

_NAMED = re.compile(r'<(?:script|link)\b[^>]*?\b(?:src|href)="\./(assets/[^"]+)"')
_IMPORTED = re.compile(r"""(?:\bfrom|\bimport)\s*["']\./([^"']+\.js)["']""")


def first_load(page: Path) -> dict[str, int]:
    """By file of the first load, its size in bytes, gzipped. Imports that wait until they are needed do not count."""
    html = (page / "index.html").read_text()
    waiting = _NAMED.findall(html)
    sizes = {"index.html": _gzipped(page / "index.html")}
    while waiting:
        name = waiting.pop()
        if name in sizes:
            continue
        sizes[name] = _gzipped(page / name)
        if name.endswith(".js"):
            waiting += [f"assets/{other}" for other in _IMPORTED.findall((page / name).read_text())]
    return sizes


def _gzipped(path: Path) -> int:
    return len(gzip.compress(path.read_bytes(), 9, mtime=0))


def main() -> int:
    page = Path(str(files("asman") / "page"))
    if not (page / "index.html").is_file():
        print(f"there is no page in {page}: it was built without Node.js")
        return 1
    sizes = first_load(page)
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{size:9,} bytes  {name}")
    total = sum(sizes.values())
    print(f"{total:9,} bytes  first load, gzipped; at most {BAR_BYTES:,} are allowed")
    return 1 if total > BAR_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
