"""Commands about jobs that are there already: wait, logs, get, cancel, delete, ls, status, copy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click

from asman.cli.exits import CANCELLED, FAILURE, STILL_RUNNING
from asman.cli.following import (
    StillRunning,
    exit_of,
    fetch_outputs,
    follow_to_end,
    read_ending,
    server_option,
    whole_id,
)
from asman.cli.terminal import LogWriter, age, print_json, print_table, say
from asman.client import Client
from asman.errors import FileNotFound, JobNotFound, NotFinished, clip

__all__ = ["cancel", "copy", "delete", "get", "logs", "ls", "status", "wait"]

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_quiet = click.option("-q", "--quiet", is_flag=True, help="Say nothing beside the result.")


def _with_client(server: str, queue: str, job_id: str, act: Callable[[Client, str], Coroutine[Any, Any, int]]) -> int:
    """Do something about one job, whose id may be cut to its first characters."""

    async def work() -> int:
        async with Client(server) as client:
            return await act(client, await whole_id(client, queue, job_id))

    return asyncio.run(work())


@click.command()
@click.argument("queue")
@click.argument("job")
@click.option("--timeout", type=float, metavar="SECONDS", help="Stop waiting after so long.")
@_json
@_quiet
@server_option
def wait(queue: str, job: str, timeout: float | None, as_json: bool, quiet: bool, server: str) -> int:
    """Wait for a job and exit as its container did."""

    async def act(client: Client, job_id: str) -> int:
        await client.record(queue, job_id)
        ending = await follow_to_end(client, queue, job_id, None, quiet=quiet or as_json, timeout_s=timeout)
        if as_json:
            print_json(ending.report(queue=queue))
        elif not quiet:
            say(ending.sentence())
        return exit_of(ending)

    try:
        return _with_client(server, queue, job, act)
    except StillRunning:
        say(f"the job has not ended after {timeout:g} s; it goes on")
        return STILL_RUNNING


@click.command()
@click.argument("queue")
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Stay until the job has ended.")
@click.option("--half", type=click.Choice(["both", "build", "run"]), default="both", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@server_option
def logs(queue: str, job: str, follow: bool, half: str, as_json: bool, server: str) -> int:
    """Print a job's log: the container's stdout and stderr to ours, image lines to stderr."""
    halves = ("build", "run") if half == "both" else (half,)
    write = _json_lines if as_json else LogWriter().write

    async def act(client: Client, job_id: str) -> int:
        await client.record(queue, job_id)
        if not follow:
            for name in halves:
                async for page in client.log_pages(queue, job_id, name):
                    write(name, page.lines)
            return 0
        async with aclosing(client.follow(queue, job_id)) as events:
            async for event in events:
                name = event.kind.removesuffix("-log")
                if name in halves:
                    write(name, event.data.get("lines", ()))
        return 0

    try:
        return _with_client(server, queue, job, act)
    except KeyboardInterrupt:
        return CANCELLED


def _json_lines(half: str, lines: Any) -> None:
    for line in lines:
        entry = {"half": half, "text": line[0], "time": line[1], "stderr": len(line) > 2 and bool(line[2])}
        click.echo(json.dumps(entry, ensure_ascii=False))


@click.command()
@click.argument("queue")
@click.argument("job")
@click.argument("names", nargs=-1)
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("outputs"),
    show_default=True,
    help="Where they go; made only if there are any.",
)
@_json
@_quiet
@server_option
def get(queue: str, job: str, names: tuple[str, ...], output_dir: Path, as_json: bool, quiet: bool, server: str) -> int:
    """Fetch a finished job's outputs: all, or those of the given NAMES."""

    async def act(client: Client, job_id: str) -> int:
        record = await client.record(queue, job_id)
        if not record.get("results"):
            state = (record.get("job") or {}).get("state", "not finished")
            hint = f"Wait for it: asman wait {queue} {job_id[:12]}"
            raise NotFinished(f"job {job_id[:12]} has no result: it is {state}", hint=hint)
        ending = await read_ending(client, queue, job_id, {})
        missing = [name for name in names if name not in ending.outputs]
        if missing:
            there = ", ".join(clip(name) for name in sorted(ending.outputs)[:20]) or "none"
            raise FileNotFound(f"job {job_id[:12]} has no output {clip(missing[0])}", hint=f"Its outputs: {there}")
        only = set(names or ending.outputs).__contains__
        written = await fetch_outputs(client, queue, ending, output_dir, quiet=quiet or as_json, only=only)
        if as_json:
            print_json({n: {"path": str(p), "bytes": p.stat().st_size} for n, p in written.items()})
        elif not written and not quiet:
            say("the job left no outputs")
        return 0

    return _with_client(server, queue, job, act)


@click.command()
@click.argument("queue")
@click.argument("job")
@click.option("--namespace", help='Give the job up for this namespace only; "*" for all. Default: "_".')
@click.option("--message", default="", help="Why; kept with the job.")
@_json
@server_option
def cancel(queue: str, job: str, namespace: str | None, message: str, as_json: bool, server: str) -> int:
    """Cancel a job. One that has ended already is left as it is."""

    async def act(client: Client, job_id: str) -> int:
        answer = await client.cancel(queue, job_id, namespace=namespace, message=message)
        if as_json:
            print_json(answer)
        elif answer.get("success"):
            left = answer.get("namespaces") or []
            held = f"; still wanted by: {', '.join(left)}" if left and answer.get("state") != "Finished" else ""
            say(f"job {job_id[:12]} is {answer.get('state', 'cancelled')}{held}")
        elif answer.get("message") == "Job not found":
            raise JobNotFound(f"queue {clip(queue)} knows no job {clip(job_id)}")
        else:
            say(str(answer.get("message")))
        is_over = answer.get("state") in ("Finished", "Removed")
        return 0 if answer.get("success") or is_over else FAILURE

    return _with_client(server, queue, job, act)


@click.command()
@click.argument("queue")
@click.argument("job")
@server_option
def delete(queue: str, job: str, server: str) -> int:
    """Remove a job with its result and logs; it can be submitted anew."""

    async def act(client: Client, job_id: str) -> int:
        await client.delete(queue, job_id)
        say(f"job {job_id[:12]} is deleted")
        return 0

    return _with_client(server, queue, job, act)


@click.command()
@click.argument("job")
@click.argument("queue")
@click.option("--namespace", help="Name under which the job is held there.")
@_json
@server_option
def copy(job: str, queue: str, namespace: str | None, as_json: bool, server: str) -> int:
    """Put the known JOB (its whole id) on QUEUE; a stored result travels with it."""

    async def act() -> int:
        async with Client(server) as client:
            answer = await client.copy(job, queue, namespace=namespace)
        if as_json:
            print_json(answer)
        else:
            say(f"job {job[:12]} is on queue {clip(queue)}" + (", with its result" if answer.get("cached") else ""))
        return 0

    return asyncio.run(act())


@click.command()
@click.argument("queue")
@click.option("-q", "--quiet", is_flag=True, help="Whole ids only.")
@_json
@server_option
def ls(queue: str, quiet: bool, as_json: bool, server: str) -> int:
    """List a queue: waiting, running and just finished jobs, oldest first."""

    async def act() -> dict[str, dict[str, Any]]:
        async with Client(server) as client:
            return await client.list(queue)

    records = asyncio.run(act())
    if as_json:
        print_json(records)
    elif quiet:
        click.echo("".join(f"{job_id}\n" for job_id in records), nl=False)
    elif not records:
        say(f"queue {clip(queue)} lists no jobs")
    else:
        headers = ("JOB", "STATE", "OUTCOME", "AGE", "WORKER", "NAMESPACES")
        print_table(headers, [_row(*item) for item in records.items()])
    return 0


def _row(job_id: str, record: Mapping[str, Any]) -> tuple[object, ...]:
    outcome = str(record.get("outcome") or record.get("finishedReason") or "-")
    status = record.get("exitCode")
    shown = f"{outcome} ({status})" if outcome == "failed" and status is not None else outcome
    names = ",".join(str(name) for name in record.get("namespaces") or ())
    worker = record.get("worker") or "-"
    return job_id[:12], record.get("state"), shown, age(record.get("queuedTime")), worker, names


@click.command()
@click.argument("queue")
@_json
@server_option
def status(queue: str, as_json: bool, server: str) -> int:
    """Show a queue's workers, and how many jobs are in which state."""

    async def act() -> dict[str, Any]:
        async with Client(server) as client:
            return await client.status(queue)

    answer = asyncio.run(act())
    if as_json:
        print_json(answer)
        return 0
    states: dict[str, int] = {}
    for job in (answer.get("jobs") or {}).values():
        states[job.get("state", "?")] = states.get(job.get("state", "?"), 0) + 1
    counted = ", ".join(f"{number} {state.lower()}" for state, number in sorted(states.items())) or "no jobs"
    workers = _workers(answer)
    click.echo(f"queue {queue}: {counted}; {len(workers)} worker{'' if len(workers) == 1 else 's'}")
    if workers:
        print_table(("WORKER", "CPUS", "GPUS", "LONGEST RUN", "JOBS"), workers)
    else:
        say(f"start one on a machine with Docker: asman worker {queue} --server {server}")
    return 0


def _workers(answer: Mapping[str, Any]) -> list[tuple[object, ...]]:
    known = dict(answer.get("localWorkers") or {})
    for other in (answer.get("otherServers") or {}).values():
        known |= other.get("workers") or {}
    return [
        (name, w.get("cpus", "-"), w.get("gpus", "-"), w.get("maxJobDuration", "-"), len(w.get("queue") or {}))
        for name, w in sorted(known.items())
    ]
