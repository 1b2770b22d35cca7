"""The worker: takes jobs of its queues, runs each in a container, reports how it ended.

Two halves. What happens to one job on one machine: ``grant`` (the owner's word), ``limits`` (where a job's word meets
it), ``container``, ``workspace``, ``images``, ``runtime``, ``steps``, ``executor``. What is said to the server and
survives it: ``agent``, ``holdings``, ``outbox``, ``shelf``, ``reconcile``. This module is what the core sees: it brings
the command ``asman worker``.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from asman.hookspecs import hookimpl

if TYPE_CHECKING:
    import click

__all__ = ["asman_command"]


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
