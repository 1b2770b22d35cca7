"""The command line: one group, its commands loaded when they are named, errors told in one way.

``asman --help`` loads click and these small modules; a command loads what it needs when it runs (the server command
Quart and Hypercorn, the others httpx). A name that is no command here is asked of the plugins (``asman_command``):
the worker's command comes from its own package, and so may anybody's.

What is expected to go wrong ends in two lines on stderr, what happened and the next step, never in a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from asman import __version__
from asman.cli.exits import CANCELLED, FAILURE, USAGE, exit_codes_text, exit_of_error
from asman.errors import AsmanError, ConfigError

__all__ = ["COMMANDS", "asman", "main"]

COMMANDS = {
    "up": "serving",
    "serve": "serving",
    "worker": "delegated",
    "run": "running",
    "submit": "running",
    "wait": "jobs",
    "logs": "jobs",
    "get": "jobs",
    "cancel": "jobs",
    "delete": "jobs",
    "ls": "jobs",
    "status": "jobs",
    "copy": "jobs",
    "plugins": "checks",
    "config": "checks",
    "doctor": "checks",
    "backend": "checks",
    "export": "moving",
    "import": "moving",
}
"""Command: the module of this package that has it, under the same name (with a ``_`` where Python has the name)."""


class _Commands(click.Group):
    """Loads a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return import_module("asman.cli.delegated").command_of_a_plugin(cmd_name)  # type: ignore[no-any-return]
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        found: click.Command = getattr(import_module(f"asman.cli.{module}"), name)
        return found


@click.group(cls=_Commands, epilog=exit_codes_text(), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="asman")
def asman() -> None:
    """An open compute queue: push container jobs to a URL, run workers anywhere, get results back by URL.

    Try it on this machine: "asman up" in one terminal, and in another
    "asman run local alpine:3.19.1 -- echo hello".
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and answer with the exit code for the shell."""
    try:
        status: Any = asman.main(args=args, prog_name="asman", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        return _told(FAILURE, error.format_message())
    except (click.Abort, KeyboardInterrupt):
        return CANCELLED
    except AsmanError as error:
        return _told(exit_of_error(error), error.message, *_more(error))
    except BrokenPipeError:
        # The reader of our output has left (as in "| head"); Python would complain again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except OSError as error:
        return _told(FAILURE, f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return status if isinstance(status, int) else 0


def _more(error: AsmanError) -> list[str]:
    """Further lines: every fault of a definition, and the next step unless the message has it."""
    lines = [f"  {where}: {what}" for where, what in error.details] if len(error.details) > 1 else []
    if error.hint and error.hint not in error.message:
        is_command = isinstance(error, ConfigError) and error.hint.startswith("pip ")
        lines.append(f"hint: {'install it with: ' if is_command else ''}{error.hint}")
    return lines


def _told(status: int, message: str, *more: str) -> int:
    click.echo("\n".join((f"error: {message}", *more)), err=True)
    return status
