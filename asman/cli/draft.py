"""A definition made from flags, and the files that must be stored before it can be submitted.

Small files stand in the definition itself. Larger ones become blobs and are referred to by key, not by URL: so the
same job has the same id whatever address the server is reached under.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from asman.cli.terminal import transfer
from asman.client import Client, hash_file
from asman.errors import AsmanError, clip
from asman.units import parse_duration_s, parse_size_bytes

__all__ = ["INLINE_BYTES", "Draft", "LeadingOptions", "command_of", "definition_options", "draft_of", "with_files"]

INLINE_BYTES = 200
"""Files up to this size stand in the definition; the same limit as that of the other clients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Shape: ``files`` maps (``inputs`` or ``configFiles``, name) to a path or the bytes themselves."""

    definition: Mapping[str, Any]
    files: Mapping[tuple[str, str], Path | bytes] = field(default_factory=dict)


def command_of(argv: Sequence[str]) -> str | list[str]:
    """What to put into ``definition.command`` so that the worker starts exactly these arguments.

    Quoted as for a shell, which every client can show. The workers' grammar differs from a shell's in one thing: a
    backslash before a closing single quote is an escape. Arguments that would need that are given as a list, which
    workers take as it is.

    Source: contract, "Command and entrypoint strings".
    """
    text = shlex.join(argv)
    return list(argv) if "\\'" in text else text


def draft_of(given: Mapping[str, Any]) -> Draft:
    """The draft that the options of ``definition_options`` describe. Errors: click.UsageError, OSError."""
    image, argv, whole = given.get("image"), given.get("command") or (), given.get("definition")
    if image == "-":
        image, whole = None, "-"
    definition = _read_definition(whole) if whole else {}
    if not image and not definition:
        raise click.UsageError("which image? Give it after the queue, or a whole definition with --definition FILE.")
    requirements = {
        **(definition.get("requirements") or {}),
        **_present(cpus=given.get("cpus"), memory=given.get("memory"), gpus=given.get("gpus")),
    }
    env = {**(definition.get("env") or {}), **dict(_pair(text) for text in given.get("env") or ())}
    tags = [*(definition.get("tags") or ()), *(given.get("tag") or ())]
    members = _present(
        image=image,
        command=command_of(argv) if argv else None,
        entrypoint=given.get("entrypoint"),
        workdir=given.get("workdir"),
        shmSize=given.get("shm_size"),
        maxDuration=given.get("max_duration"),
        env=env or None,
        tags=tags or None,
        requirements=requirements or None,
    )
    files: dict[tuple[str, str], Path | bytes] = {}
    for section, texts in (("inputs", given.get("input")), ("configFiles", given.get("config_file"))):
        for text in texts or ():
            files |= {(section, name): source for name, source in _sources(text, section).items()}
    return Draft(definition={**definition, **members}, files=files)


def _present(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _read_definition(where: str) -> dict[str, Any]:
    text = sys.stdin.read() if where == "-" else Path(where).read_text(encoding="utf-8")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"the definition in {where} is not JSON: {error}") from error
    if isinstance(value, dict) and isinstance(value.get("definition"), dict):
        value = value["definition"]
    if not isinstance(value, dict):
        raise click.UsageError(f"the definition in {where} is not a JSON object")
    return value


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--env {clip(text)} is not of the form NAME=VALUE")
    return name, value


def _sources(text: str, section: str) -> dict[str, Path | bytes]:
    """One ``-i`` or ``--config-file``: a path, ``name=@path`` or ``name=text``. A directory gives all its files."""
    flag = "-i" if section == "inputs" else "--config-file"
    name, equals, value = text.partition("=")
    if not equals or (Path(text).exists() and section == "inputs"):
        if section != "inputs":
            raise click.UsageError(f"{flag} {clip(text)} is not of the form /path/in/container=FILE")
        return _under(Path(text).name, Path(text), flag)
    if not name:
        raise click.UsageError(f"{flag} {clip(text)} has no name before the =")
    if value.startswith("@"):
        return _under(name, Path(value[1:]), flag)
    return _under(name, Path(value), flag) if section == "configFiles" else {name: os.fsencode(value)}


def _under(name: str, path: Path, flag: str) -> dict[str, Path | bytes]:
    if path.is_dir():
        below = sorted(p for p in path.rglob("*") if p.is_file())
        root = f"{name}/" if name not in ("", ".", "..") else ""
        return {f"{root}{p.relative_to(path).as_posix()}": p for p in below}
    if not path.is_file():
        raise click.UsageError(f"{flag}: there is no file {clip(str(path))}; write NAME=TEXT to give text")
    return {name: path}


async def with_files(client: Client, draft: Draft, *, quiet: bool, send: bool = True) -> dict[str, Any]:
    """The complete definition, all its files stored. With ``send`` false nothing is uploaded, only named."""
    definition = dict(draft.definition)
    for (section, name), source in draft.files.items():
        refs = dict(definition.get(section) or {})
        refs[name] = await _ref(client, name, source, quiet=quiet, send=send)
        definition[section] = refs
    return definition


async def _ref(client: Client, name: str, source: Path | bytes, *, quiet: bool, send: bool) -> dict[str, str]:
    small = _small(source)
    if small is not None:
        return _inline(small) if isinstance(source, bytes) else _base64(small)
    if isinstance(source, bytes):
        key = await client.upload_bytes(source) if send else hashlib.sha256(source).hexdigest()
    elif send:
        with transfer("sent", name, quiet=quiet) as progress:
            key = await client.upload(source, progress)
    else:
        key, _ = hash_file(source)
    return {"type": "key", "value": key}


def _small(source: Path | bytes) -> bytes | None:
    if isinstance(source, bytes):
        return source if len(source) <= INLINE_BYTES else None
    return source.read_bytes() if source.stat().st_size <= INLINE_BYTES else None


def _inline(data: bytes) -> dict[str, str]:
    try:
        return {"type": "utf8", "value": data.decode()}
    except UnicodeDecodeError:
        return _base64(data)


def _base64(data: bytes) -> dict[str, str]:
    return {"type": "base64", "value": base64.b64encode(data).decode()}


# --- the options -----------------------------------------------------------------------------------------------------


def _readable(parse: Callable[[str], object]) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Text that one of the core's parsers can read; it is passed on as it was written."""

    def check(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        try:
            if value is not None:
                parse(value)
        except AsmanError as error:
            raise click.BadParameter(f"{error.message}. {error.hint}", ctx, param) from error
        return value

    return check


_size, _duration = _readable(parse_size_bytes), _readable(parse_duration_s)

_OPTIONS = (
    click.option("-i", "--input", multiple=True, help="Input file: PATH, NAME=@PATH or NAME=TEXT; repeatable."),
    click.option("-e", "--env", multiple=True, metavar="K=V", help="Environment variable; repeatable."),
    click.option("--cpus", type=click.FloatRange(min=0, min_open=True), help="CPU cores; may be a fraction."),
    click.option("--memory", metavar="SIZE", callback=_size, help="Memory, like 512m or 2g."),
    click.option("--gpus", type=click.IntRange(min=0), help="Number of GPUs."),
    click.option("--max-duration", metavar="DURATION", callback=_duration, help="Longest run, like 90s, 20m or 1h30."),
    click.option("--tag", multiple=True, help="Only workers with this tag take the job; repeatable."),
    click.option("--workdir", help="Working directory in the container."),
    click.option("--entrypoint", help="Entrypoint in place of the image's."),
    click.option("--shm-size", metavar="SIZE", callback=_size, help="Size of /dev/shm, like 1g."),
    click.option("--config-file", multiple=True, metavar="/PATH=FILE", help="Fixed file at a path; repeatable."),
    click.option("--namespace", help="Name under which you hold the job; a newer job of the same name replaces it."),
    click.option(
        "--definition", metavar="FILE", help="Whole definition as JSON, - for stdin; other options are laid over it."
    ),
)


def definition_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that describe a job."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class LeadingOptions(click.Command):
    """``QUEUE IMAGE CMD...``: options stand before the container's command, which is taken as it is.

    So ``asman run q alpine ls -l`` needs no ``--``, and one that is written is fine too.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._fenced(args))

    def _fenced(self, args: list[str]) -> list[str]:
        takes_value = {
            name for p in self.params if isinstance(p, click.Option) and not p.is_flag for name in (*p.opts,)
        }
        position, positionals = 0, 0
        while position < len(args) and args[position] != "--":
            arg = args[position]
            if arg.startswith("-") and arg != "-":
                position += 2 if arg in takes_value else 1
            elif positionals == 2:
                return [*args[:position], "--", *args[position:]]
            else:
                positionals, position = positionals + 1, position + 1
        return args
