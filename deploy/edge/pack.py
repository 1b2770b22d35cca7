"""Makes the bundle out of sources: one zip of compiled Python. Run by the build, inside the Python that will load it.

Compiled there because byte code is bound to the version that made it. The byte code is never compared with a source,
which is not there, so no file is looked at twice. Entries are stored, not compressed: the host compresses what it sends
or keeps, and imports need not unpack. The same sources give the same bytes.
"""

import importlib._bootstrap_external as bootstrap
import io
import json
import os
import zipfile

__all__ = ["pack"]

_LIKE_A_FILE = 0o644 << 16


def pack(folder: str) -> str:
    """Zip what lies below ``folder`` into ``folder`` + ``.zip``; answers with a JSON list of the names in it."""
    made = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            inside = os.path.relpath(path, folder)
            with open(path, "rb") as file:
                data = file.read()
            if name.endswith(".py"):
                code = compile(data, inside, "exec", dont_inherit=True, optimize=0)
                made[inside + "c"] = bootstrap._code_to_hash_pyc(code, b"\0" * 8, False)  # type: ignore[attr-defined]
            else:
                made[inside] = data
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for inside in sorted(made):
            entry = zipfile.ZipInfo(inside)  # of 1980, whenever it is made
            entry.external_attr = _LIKE_A_FILE
            archive.writestr(entry, made[inside])
    with open(folder + ".zip", "wb") as file:
        file.write(packed.getvalue())
    return json.dumps(sorted(made))
