"""The command ``asman worker``: flags made from the settings, log lines on stderr, signals turned into a stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from asman import __version__
from asman.errors import AsmanError
from asman_worker.config import SETTINGS, WorkerConfig, WorkerSetting, load_worker_config

__all__ = ["main", "worker"]

_NOT_LOGGED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _option(setting: WorkerSetting) -> Callable[[Any], Any]:
    shown = setting.shown_default or ("" if setting.default in ("", None, (), False) else str(setting.default))
    text = setting.help + (f"  [default: {shown}]" if shown else "")
    if setting.kind in ("flag", "given"):
        return click.option(*setting.flags, setting.name, is_flag=True, default=None, help=text)
    several = setting.name == "allow_images"
    return click.option(
        *setting.flags, setting.name, default=None, multiple=several, metavar=_metavar(setting), help=text
    )


def _metavar(setting: WorkerSetting) -> str:
    return setting.kind if "|" in setting.kind else setting.kind.upper()


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for setting in reversed(SETTINGS):
        if setting.flags:
            command = _option(setting)(command)
    return command


@click.command(
    "worker",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Every option may also be given in the environment (ASMAN_WORKER_CPUS and so on) or in --config FILE.",
)
@click.argument("queues", nargs=-1, metavar="QUEUE...")
@_with_options
@click.option("--config", "file", type=click.Path(path_type=Path), default=None, help="TOML file with settings.")
@click.version_option(__version__, "--version", message="%(version)s")
def worker(queues: tuple[str, ...], file: Path | None, **flags: Any) -> None:
    """Run the jobs of one or more queues on this machine; needs a Docker engine.

    The worker dials out to the server and needs no open port. What a job may use is bounded by the options below,
    and enforced on its container by the engine. SIGTERM or Ctrl-C ends it in good order; a second one at once.
    """
    try:
        config, _ = load_worker_config({**flags, "queues": queues}, os.environ, file)
        _log_to_stderr(config.debug)
        _warn(config)
        asyncio.run(_until_signalled(config))
    except AsmanError as error:
        click.echo(f"error: {error.message}", err=True)
        if error.hint:
            click.echo(error.hint, err=True)
        sys.exit(1)


async def _until_signalled(config: WorkerConfig) -> None:
    from asman_worker.process import run_worker

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        if stop.is_set():
            os._exit(130)  # the second signal does not wait; containers are taken up again by the next start
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    await run_worker(config, stop)


def _warn(config: WorkerConfig) -> None:
    log = logging.getLogger(__name__)
    for queue in config.guessable_queues:
        log.warning(
            "this queue's name is short enough to be guessed: strangers may run containers here; "
            "prefer a longer name, --profile strict, or --ephemeral on a throw-away machine",
            extra={"characters": len(queue)},
        )


class _Lines(logging.Formatter):
    """One line for a record: time, level, message, then its fields as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {k: v for k, v in vars(record).items() if k not in _NOT_LOGGED}
        told = " ".join(f"{name}={value}" for name, value in fields.items())
        moment = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        line = f"{moment} {record.levelname.lower():7} {record.getMessage()}" + (f"  {told}" if told else "")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _log_to_stderr(debug: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("asman_worker").setLevel(logging.DEBUG if debug else logging.INFO)


def main() -> None:
    """The program of ``python -m asman_worker``; takes the older workers' command line (``run QUEUE``) too."""
    arguments = sys.argv[1:]
    worker(arguments[1:] if arguments[:1] == ["run"] else arguments, prog_name="asman worker")
