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
from asman.errors import AsmanError, ConfigError
from asman_worker.config import SETTINGS, WorkerConfig, WorkerSetting, load_worker_config
from asman_worker.intake import BY_OWNER, Intake
from asman_worker.log_format import log_to
from asman_worker.secrets import SecretStore

__all__ = ["main", "worker"]


def _option(setting: WorkerSetting) -> Callable[[Any], Any]:
    shown = setting.shown_default or ("" if setting.default in ("", None, (), False) else str(setting.default))
    text = setting.help + (f"  [default: {shown}]" if shown else "")
    if setting.kind in ("flag", "given"):
        return click.option(*setting.flags, setting.name, is_flag=True, default=None, help=text)
    several = setting.kind == "list"
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
    SIGUSR1 stops taking jobs while what runs goes on, SIGUSR2 takes jobs again, SIGHUP reads --secrets again.
    """
    try:
        config, _ = load_worker_config({**flags, "queues": queues}, os.environ, file)
        log_to(sys.stderr, form=config.log_format, debug=config.debug)
        _warn(config)
        secrets = SecretStore(Path(config.secrets)) if config.secrets else None
        if secrets is not None:
            _read_secrets(secrets)
        asyncio.run(_until_signalled(config, secrets))
    except AsmanError as error:
        click.echo(f"error: {error.message}", err=True)
        if error.hint:
            click.echo(error.hint, err=True)
        sys.exit(1)


async def _until_signalled(config: WorkerConfig, secrets: SecretStore | None) -> None:
    from asman_worker.process import run_worker

    stop, intake = asyncio.Event(), Intake()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        if stop.is_set():
            os._exit(130)  # the second signal does not wait; containers are taken up again by the next start
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    loop.add_signal_handler(signal.SIGUSR1, intake.hold, BY_OWNER)
    loop.add_signal_handler(signal.SIGUSR2, intake.release, BY_OWNER)
    if secrets is not None:
        loop.add_signal_handler(signal.SIGHUP, _read_secrets_again, secrets)
    await run_worker(config, stop, intake=intake, secrets=secrets)


def _read_secrets(secrets: SecretStore) -> None:
    logging.getLogger(__name__).info("secrets are read", extra={"secrets": secrets.load()})


def _read_secrets_again(secrets: SecretStore) -> None:
    """Jobs that ask for a secret are refused as long as the file is not acceptable; the others go on."""
    try:
        _read_secrets(secrets)
    except ConfigError as error:
        fields = {"reason": error.message, "next_step": error.hint}
        logging.getLogger(__name__).error("secrets cannot be read", extra=fields)


def _warn(config: WorkerConfig) -> None:
    log = logging.getLogger(__name__)
    for queue in config.guessable_queues:
        log.warning(
            "this queue's name is short enough to be guessed: strangers may run containers here; "
            "prefer a longer name, --profile strict, or --ephemeral on a throw-away machine",
            extra={"characters": len(queue)},
        )


def main() -> None:
    """The program of ``python -m asman_worker``; takes the older workers' command line (``run QUEUE``) too."""
    arguments = sys.argv[1:]
    worker(arguments[1:] if arguments[:1] == ["run"] else arguments, prog_name="asman worker")
