"""Commands that other packages bring: found by the hook ``asman_command`` when they are named."""

from __future__ import annotations

import click

from asman.errors import ConfigError

__all__ = ["command_of_a_plugin", "worker"]

_INSTALL = {"worker": 'pip install "asman[worker]"', "s3": 'pip install "asman[s3]"'}


def command_of_a_plugin(name: str) -> click.Command | None:
    """The command that an installed plugin has under this name, None if there is none.

    Errors: ConfigError when the plugin's own imports fail.
    """
    from asman.plugins import load_plugins

    try:
        found: click.Command | None = load_plugins().hook.asman_command(name=name)
    except ImportError as error:
        hint = _INSTALL.get(name, "Install what the plugin needs.")
        raise ConfigError(f"asman {name} cannot be loaded: {error}", hint=hint) from error
    return found


class _Worker(click.Command):
    """Stands in the list of commands without loading the worker's package; hands over everything, --help too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = args
        return args

    def invoke(self, ctx: click.Context) -> object:
        command = command_of_a_plugin(self.name or "")
        if command is None:
            raise ConfigError("asman worker is not installed", hint=_INSTALL["worker"])
        return command.main(args=ctx.args, prog_name=ctx.command_path, standalone_mode=False)


worker = _Worker("worker", help="Run the jobs of one or more queues on this machine; needs a Docker engine.")
