"""The worker: takes jobs of its queues, runs each in a container, reports how it ended.

Two halves. What happens to one job on one machine: ``grant`` (the owner's word), ``limits`` (where a job's word meets
it), ``container``, ``workspace``, ``images``, ``runtime``, ``steps``, ``executor``; what holds on disk: ``quota``,
``meter``, ``stock``, ``disk``. What is said to the server and survives it: ``agent``, ``holdings``, ``outbox``,
``shelf``, ``reconcile``. This module is what the core sees: it brings the command ``asman worker``.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from asman.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence
    from typing import Any

    import click

__all__ = ["asman_command", "asman_doctor"]


@hookimpl
def asman_command(name: str) -> click.Command | None:
    """``asman worker``; its libraries are loaded only when it is asked for.

    Errors: ModuleNotFoundError, here and not later, if the extra is not installed.
    """
    if name != "worker":
        return None
    if find_spec("aiodocker") is None:
        raise ModuleNotFoundError("No module named 'aiodocker'", name="aiodocker")
    from asman_worker.cli import worker

    return worker


@hookimpl
def asman_doctor(environ: Mapping[str, str]) -> Coroutine[Any, Any, Sequence[Mapping[str, str]]] | None:
    """The faults of this machine as a worker; nothing where the extra is not installed, which is said anyway."""
    if find_spec("aiodocker") is None:
        return None
    from asman_worker.doctor import examine

    return examine(environ)
