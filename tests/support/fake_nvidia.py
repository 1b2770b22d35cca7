"""A host with GPUs, as far as programs can tell: the driver's tool and the runtime's hook, as scripts in a folder.

An engine that finds ``nvidia-container-runtime-hook`` in its PATH takes requests for devices and calls the hook before
a container starts, with the container's state on its standard input. The one here keeps what the container was given.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["FakeNvidia"]

_SMI = """#!/bin/sh
case "$*" in
  *--query-gpu=*) cat {folder}/devices ;;
  *--query-compute-apps=*) echo asked >> {folder}/looked; cat {folder}/apps ;;
  *) exit 2 ;;
esac
"""
_HOOK = """#!{python}
import json, pathlib, sys
if sys.argv[1:] != ["prestart"]:
    sys.exit("unexpected: %r" % sys.argv)
state = json.load(sys.stdin)
config = json.loads((pathlib.Path(state["bundle"]) / "config.json").read_text())
pathlib.Path("{folder}/given", state["id"]).write_text(json.dumps(config["process"]["env"]))
"""


class FakeNvidia:
    """Shape: ``tools`` is the folder for a PATH; ``uuids`` are the devices, in the order of their indices."""

    def __init__(self, folder: Path, count: int) -> None:
        self.uuids = tuple(f"GPU-{n:08x}-1111-2222-3333-444444444444" for n in range(count))
        self.tools = folder / "tools"
        self._folder = folder
        for made in (self.tools, folder / "given"):
            made.mkdir(parents=True)
        listing = "".join(f"{n}, {uuid}, Imagined 1000, 1024\n" for n, uuid in enumerate(self.uuids))
        (folder / "devices").write_text(listing)
        self.set_processes(())
        for name, text in (("nvidia-smi", _SMI), ("nvidia-container-runtime-hook", _HOOK)):
            program = self.tools / name
            program.write_text(text.format(folder=folder, python=sys.executable))
            program.chmod(0o755)

    def set_processes(self, running: Sequence[tuple[str, int]]) -> None:
        """What the tool says about processes: (uuid, pid)."""
        (self._folder / "apps").write_text("".join(f"{uuid}, {pid}\n" for uuid, pid in running))

    def looks(self) -> int:
        """How often somebody asked for processes."""
        looked = self._folder / "looked"
        return len(looked.read_text().splitlines()) if looked.exists() else 0

    def given(self, container: str) -> tuple[str, ...]:
        """The devices that the engine asked the runtime to give a container."""
        environ = json.loads((self._folder / "given" / container).read_text())
        stated = {line.partition("=")[2] for line in environ if line.startswith("NVIDIA_VISIBLE_DEVICES=")}
        assert len(stated) == 1, f"the engine and the worker say different things: {stated}"
        return tuple(stated.pop().split(","))

    def asked_containers(self) -> set[str]:
        """Containers for which the hook was called."""
        return {path.name for path in (self._folder / "given").iterdir()}
