"""The command line as Markdown: ``docs/cli.md`` is made from here, by ``python docs/generate.py``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from asman.cli import asman
from asman.cli.exits import EXIT_CODES

__all__ = ["cli_reference"]

_WIDTH = 100


def cli_reference() -> str:
    """Every command with its help text."""
    parts = [
        "# Command line",
        "Settings of the server, their variables and defaults: [settings.md](settings.md).",
        "## Exit codes",
        "`asman run` and `asman wait` end with the container's own exit code where it ran to its end. Beside that:",
        "\n".join(["| code | meaning |", "|---|---|", *(f"| {code} | {text} |" for code, text in EXIT_CODES.items())]),
    ]
    for path, text in _help_texts(asman, "asman"):
        parts += [f"## {path}", f"```\n{text}\n```"]
    return "\n\n".join(parts) + "\n"


def _help_texts(command: click.Command, path: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    if path == "asman worker":
        yield path, f"{command.help}\n\nIts options belong to the worker's own package: asman worker --help"
        return
    name = path.rsplit(" ", 1)[-1]
    settings = {**command.context_settings, "terminal_width": _WIDTH, "max_content_width": _WIDTH}
    with click.Context(command, info_name=name, parent=parent, **settings) as ctx:
        yield path, command.get_help(ctx).strip()
        if isinstance(command, click.Group):
            for child_name in command.list_commands(ctx):
                child = command.get_command(ctx, child_name)
                if child is not None:
                    yield from _help_texts(child, f"{path} {child_name}", ctx)
