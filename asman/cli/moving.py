"""``asman export`` and ``asman import``: a queue, or a whole store, from one backend to another.

Both open the stores that the settings name, as ``asman serve`` would, and need no server; one may run meanwhile. What
a person says and sees is owned here; what is in the stream is not (``asman.archive``).
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from asman import __version__
from asman.cli.exits import FAILURE
from asman.cli.serving import config_from, setting_options
from asman.cli.streams import (
    Write,
    blocking_reader,
    partial_file,
    partial_name,
    put_in_place,
    reading,
    source,
    target,
    writing,
)
from asman.cli.terminal import plain, print_json, say, transfer
from asman.client import Progress
from asman.config import Config
from asman.errors import ConfigError, clip
from asman.identity import check_queue_name
from asman.units import show_bytes

if TYPE_CHECKING:
    from asman.abc import BlobStore, JobStore
    from asman.exporting import Exported, Resumable
    from asman.importing import Imported

__all__ = ["export", "import_"]

_LINE_EVERY_S = 10.0
_NAMED_AT_ONCE = 5

_json = click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
_quiet = click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")


@click.command()
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="Only this queue; repeatable. Else all of them.")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where to; - for stdout.")
@click.option("--resume", is_flag=True, help="Go on with an export that was interrupted; without one, start it.")
@setting_options
@_json
@_quiet
def export(queues: tuple[str, ...], output: str, resume: bool, as_json: bool, quiet: bool, **given: Any) -> None:
    """Write the jobs of a store into one file: records, definitions, results, logs and the blobs they refer to.

    Takes the settings of serve to know the store; the server may run meanwhile. The file is written as FILE.part and
    gets its name when it is whole.

    \b
      asman export --backend sqlite --data old -o all.asman
      asman export --queue mine -o - | ssh there asman import -
    """
    for name in queues:
        check_queue_name(name)
    if output == "-" and resume:
        raise click.UsageError("--resume needs a file: what went to stdout cannot be read again.")
    config, _ = config_from(given)
    try:
        with _bar("exported", output, quiet=quiet) as show:
            progress = _Progress("exported", show, quiet=quiet)
            done = asyncio.run(_export(config, queues, output, resume, progress))
    except (ConfigError, click.UsageError):
        raise
    except BaseException:
        if output != "-" and partial_name(Path(output)).exists():
            say(f"{partial_name(Path(output))} is kept: the same command with --resume goes on with it")
        raise
    _tell_export(done, output, as_json=as_json, quiet=quiet)


@click.command(name="import")
@click.argument("file", metavar="FILE|-")
@setting_options
@_json
@_quiet
def import_(file: str, as_json: bool, quiet: bool, **given: Any) -> int:
    """Bring what asman export wrote into a store. What is there already is left alone.

    Takes the settings of serve to know the store; the server may run meanwhile. After an interruption the same command
    goes on. A job that is in the store with a newer record, or with a result of its own, is kept as it is.
    """
    config, _ = config_from(given)
    with _bar("imported", file, quiet=quiet) as show:
        progress = _Progress("imported", show, quiet=quiet)
        done = asyncio.run(_import(config, file, progress))
    _tell_import(done, as_json=as_json, quiet=quiet)
    return FAILURE if done.refused else 0


# --- the stores ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _opened(config: Config) -> AsyncIterator[tuple[JobStore, BlobStore]]:
    """The stores that the settings name. Errors: ConfigError."""
    from asman import memory
    from asman.plugins import load_plugins, open_blob_store, open_job_store

    if "memory:" in (config.job_store_url, config.blob_store_url):
        raise ConfigError(
            "what is in memory: belongs to one process and is not seen from here",
            hint="Name a backend that keeps what it gets: --backend sqlite --data DIR",
        )
    manager = load_plugins([memory])
    jobs = open_job_store(manager, config.job_store_url, config)
    blobs = open_blob_store(manager, config.blob_store_url, config)
    async with jobs, blobs:
        yield jobs, blobs


def _check_there(config: Config) -> None:
    """A file that is not there would be made, and the export be an empty one. Errors: ConfigError."""
    path = config.job_store_url.removeprefix("sqlite:///")
    if path != config.job_store_url and not Path(path).exists():
        raise ConfigError(f"there is no store at {clip(path)}", hint="Name the server's directory with --data.")


# --- export ----------------------------------------------------------------------------------------------------------


async def _export(
    config: Config, queues: tuple[str, ...], output: str, resume: bool, progress: _Progress
) -> Exported | None:
    """None if the file is there and whole already."""
    _check_there(config)
    with target(output) as direct:
        if direct is not None:
            async with writing(direct) as write:
                return await _write_out(config, queues, write, progress)
    path = Path(output)
    if _is_there(path):
        if resume:
            return None
        raise ConfigError(f"{path} is there already", hint="Choose another name, or remove it.")
    with partial_file(path, resume=resume) as file:
        known = await _read_known(file, queues)
        async with writing(file) as write:
            done = await _write_out(config, queues, write, progress, known)
        put_in_place(file, path)
        return done


def _is_there(path: Path) -> bool:
    return path.exists()


async def _write_out(
    config: Config, queues: tuple[str, ...], write: Write, progress: _Progress, known: Resumable | None = None
) -> Exported:
    from asman.archive import ArchiveWriter
    from asman.exporting import Exported, Exporter, Resumable

    known = known or Resumable()
    writer = ArchiveWriter(write=write, position=known.position, counts=known.counts)
    if known.is_whole:
        counts = known.counts
        return Exported(jobs=counts.jobs, logs=counts.logs, blobs=counts.blobs, size_bytes=known.position)
    async with _opened(config) as (jobs, blobs):
        exporter = Exporter(
            jobs=jobs,
            logs=jobs,  # type: ignore[arg-type]  # checked when it was chosen
            blobs=blobs,
            writer=writer,
            now=time.time(),
            queues=queues,
            known=known,
            progress=progress,
        )
        return await exporter.run(by=f"asman {__version__}")


async def _read_known(file: BinaryIO, queues: tuple[str, ...]) -> Resumable:
    """What the partial file holds; it is cut behind its last whole item. Errors: ConfigError; BadArchive."""
    from asman.archive import ArchiveReader
    from asman.exporting import read_partial

    known = await read_partial(ArchiveReader(blocking_reader(file)))
    if known.position and known.queues != list(queues):
        was = ", ".join(known.queues) or "the whole store"
        raise ConfigError(
            f"the interrupted export is of {plain(was)}", hint="Ask for the same queues, or choose another file."
        )
    file.seek(known.position)
    file.truncate()
    return known


def _tell_export(done: Exported | None, output: str, *, as_json: bool, quiet: bool) -> None:
    if done is None:
        if not quiet:
            say(f"{output} is there and whole already")
        return
    if done.damaged:
        names = ", ".join(done.damaged[:_NAMED_AT_ONCE])
        say(f"{len(done.damaged)} blobs do not have the bytes that their names say; imports refuse them: {names}")
    if as_json:
        summary = {**asdict(done), "bytes": done.size_bytes}
        del summary["size_bytes"]
        (_json_to_stderr if output == "-" else print_json)(summary)
        return
    if not quiet:
        gone = f"; {done.missing} blobs that jobs refer to are gone" if done.missing else ""
        had = f"; {done.present} were there from before" if done.present else ""
        what = f"{done.jobs} jobs, {done.logs} logs and {done.blobs} blobs"
        say(f"the export has {what} ({show_bytes(done.size_bytes)}){had}{gone}")


def _json_to_stderr(value: Any) -> None:
    import json

    say(json.dumps(value, indent=2, ensure_ascii=False))


# --- import ----------------------------------------------------------------------------------------------------------


async def _import(config: Config, file: str, progress: _Progress) -> Imported:
    from asman.archive import ArchiveReader
    from asman.importing import Importer

    with source(file) as opened:
        found = os.fstat(opened.fileno())
        progress.total = found.st_size if stat.S_ISREG(found.st_mode) else None
        async with reading(opened) as read:
            reader = ArchiveReader(read)
            await reader.start()  # before a store is made for what is no export at all
            async with _opened(config) as (jobs, blobs):
                importer = Importer(
                    jobs=jobs,
                    logs=jobs,  # type: ignore[arg-type]  # checked when it was chosen
                    blobs=blobs,
                    clock=time.time,
                    lease_s=config.lease_s,
                    max_attempts=config.max_attempts,
                    progress=progress,
                )
                return await importer.run(reader)


def _tell_import(done: Imported, *, as_json: bool, quiet: bool) -> None:
    for key, why in done.refused[:_NAMED_AT_ONCE]:
        say(f"not stored: {plain(key)}: {plain(why)}")
    if len(done.refused) > _NAMED_AT_ONCE:
        say(f"and {len(done.refused) - _NAMED_AT_ONCE} more blobs")
    if as_json:
        refused = [{"key": key, "why": why} for key, why in done.refused]
        summary = {**asdict(done), "bytes": done.size_bytes, "refused": refused}
        del summary["size_bytes"]
        print_json(summary)
    elif not quiet:
        say(
            f"{done.written} jobs written, {done.present} present already, {done.kept} kept as the store has them; "
            f"{done.blobs} blobs stored, {done.blobs_present} present already"
        )


# --- what a person sees ----------------------------------------------------------------------------------------------


class _Progress:
    """A bar on a terminal; elsewhere a line now and then, for whoever reads the log of a long move."""

    def __init__(self, verb: str, show: Progress | None, *, quiet: bool) -> None:
        self._verb, self._show, self._quiet = verb, show, quiet
        self._said_at = time.monotonic()
        self.total: int | None = None

    def __call__(self, jobs: int, size_bytes: int) -> None:
        if self._show is not None:
            self._show(size_bytes, self.total)
        elif not self._quiet and time.monotonic() - self._said_at >= _LINE_EVERY_S:
            self._said_at = time.monotonic()
            of_all = f" of {show_bytes(self.total)}" if self.total else ""
            say(f"{self._verb} {jobs} jobs so far ({show_bytes(size_bytes)}{of_all})")


def _bar(verb: str, name: str, *, quiet: bool) -> AbstractContextManager[Progress | None]:
    return transfer(verb, name, quiet=quiet or not sys.stderr.isatty())
