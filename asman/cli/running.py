"""``asman run`` and ``asman submit``: a job from the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from asman.cli.draft import LeadingOptions, definition_options, draft_of, with_files
from asman.cli.exits import CANCELLED, STILL_RUNNING
from asman.cli.following import Ending, StillRunning, exit_of, fetch_outputs, follow_to_end, server_option
from asman.cli.terminal import LogWriter, print_json, say
from asman.client import Client, Receipt
from asman.errors import NotFound

__all__ = ["run", "submit"]


@dataclass(slots=True)
class _Progress:
    """What an interrupted run must still be able to say."""

    job_id: str = ""


@click.command(cls=LeadingOptions)
@click.argument("queue")
@click.argument("image", required=False)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@definition_options
@click.option("--rerun", is_flag=True, help="Delete a stored result first, so that the job really runs.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Stop waiting after so long; the job goes on.")
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("outputs"),
    show_default=True,
    help="Where outputs go; made only if there are any.",
)
@click.option("--no-follow", is_flag=True, help="Print the job's id and do not wait.")
@click.option("--json", "as_json", is_flag=True, help="Print one report on stdout; the log goes to stderr.")
@click.option("-q", "--quiet", is_flag=True, help="Only the container's own output.")
@server_option
def run(**given: Any) -> int:
    """Run CMD in IMAGE on a worker of QUEUE: send inputs, follow the log, fetch outputs, exit as the container did.

    Everything after IMAGE is the container's; options stand before it. Interrupting stops the following only: the
    job goes on.
    """
    progress = _Progress()
    try:
        return asyncio.run(_run(given, progress))
    except StillRunning:
        say(f"job {progress.job_id} has not ended after {given['timeout']:g} s; it goes on.")
        _say_how_to_go_on(given, progress)
        return STILL_RUNNING
    except KeyboardInterrupt:
        if progress.job_id:
            say(f"\ninterrupted; job {progress.job_id} goes on.")
            _say_how_to_go_on(given, progress)
        return CANCELLED


def _say_how_to_go_on(given: Mapping[str, Any], progress: _Progress) -> None:
    place = f"{given['queue']} {progress.job_id[:12]}"
    say(f"follow it: asman logs -f {place}    stop it: asman cancel {place}")


async def _run(given: Mapping[str, Any], progress: _Progress) -> int:
    quiet, as_json, queue = given["quiet"], given["as_json"], given["queue"]
    draft = draft_of(given)
    async with Client(given["server"]) as client:
        definition = await with_files(client, draft, quiet=quiet)
        if given["rerun"]:
            await _forget(client, queue, definition)
        receipt = await client.submit(queue, definition, namespace=given["namespace"])
        progress.job_id = receipt.job_id
        _say_receipt(receipt, quiet=quiet)
        if given["no_follow"]:
            _print_receipt(client, queue, receipt, as_json=as_json)
            return 0
        writer = LogWriter(all_to_stderr=as_json, with_build=not quiet)
        ending = await follow_to_end(client, queue, receipt.job_id, writer, quiet=quiet, timeout_s=given["timeout"])
        written = await fetch_outputs(client, queue, ending, given["output_dir"], quiet=quiet)
        _say_ending(ending, quiet=quiet)
        if as_json:
            paths = {name: str(path) for name, path in written.items()}
            print_json(ending.report(queue=queue, server=client.server, cached=receipt.is_cached, outputs=paths))
    return exit_of(ending)


async def _forget(client: Client, queue: str, definition: Mapping[str, Any]) -> None:
    """Drop what is stored of the job; the server names it without storing anything."""
    known = await client.submit(queue, definition, dry_run=True)
    try:
        await client.delete(queue, known.job_id)
    except NotFound:
        return


def _say_receipt(receipt: Receipt, *, quiet: bool) -> None:
    for warning in receipt.warnings:
        say(f"warning: {warning}")
    if quiet:
        return
    if receipt.is_cached:
        say(f"job {receipt.job_id[:12]} has run before: this is the stored answer (--rerun runs it again)")
    else:
        say(f"job {receipt.job_id}")


def _say_ending(ending: Ending, *, quiet: bool) -> None:
    if not quiet or (ending.outcome not in ("succeeded", "failed")):
        say(ending.sentence())


def _print_receipt(client: Client, queue: str, receipt: Receipt, *, as_json: bool) -> None:
    if not as_json:
        click.echo(receipt.job_id)
        return
    url = f"{client.server}/q/{queue}/j/{receipt.job_id}"
    print_json({**receipt.answer, "queue": queue, "server": client.server, "url": url})


@click.command(cls=LeadingOptions)
@click.argument("queue")
@click.argument("image", required=False)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@definition_options
@click.option("--dry-run", is_flag=True, help="Say the id, and whether it is cached or could run, and store nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the server's whole answer.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing but the id.")
@server_option
def submit(**given: Any) -> int:
    """Push a job to QUEUE and print its id. With - in place of IMAGE the definition is read from stdin, as JSON."""
    return asyncio.run(_submit(given))


async def _submit(given: Mapping[str, Any]) -> int:
    draft, quiet = draft_of(given), given["quiet"] or given["as_json"]
    async with Client(given["server"]) as client:
        definition = await with_files(client, draft, quiet=quiet, send=not given["dry_run"])
        receipt = await client.submit(
            given["queue"], definition, namespace=given["namespace"], dry_run=given["dry_run"]
        )
        for warning in receipt.warnings:
            say(f"warning: {warning}")
        _print_receipt(client, given["queue"], receipt, as_json=given["as_json"] or given["dry_run"])
    return 0
