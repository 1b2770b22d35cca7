r"""A Dockerfile taken apart and written out again, so that the engine reads what we have read. Pure.

What a build may do is judged here before an engine sees it (``build_rules``). Two readers of one text can disagree:
about a line that ends in two backslashes, a carriage return, a comment inside a command. So the engine never gets the
author's text: it gets ``render``'s, one instruction a line, written from what was read, without comments and
directives. What an instruction does is left to the engine.

Instructions keep their line where they can, because the engine's errors name it.

Source: Dockerfile reference (format, parser directives, here-documents).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asman.errors import BadDefinition, clip

__all__ = ["Dockerfile", "Heredoc", "Instruction", "parse", "render"]

_MOST_BYTES = 1 << 20
_MOST_INSTRUCTIONS = 1000
_MOST_LINE_BYTES = 65_000
"""Engines refuse lines from 64 KiB on."""

_KNOWN = frozenset(
    (
        *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER"),
        *("ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
    )
)
_BLANKS = " \t\v\f\r"
_DIRECTIVE = re.compile(r"#[ \t]*([a-zA-Z][a-zA-Z0-9]*)[ \t]*=[ \t]*(.+?)[ \t]*\Z")
_HEREDOC = re.compile(r"""(?<![<\w])(?:\d*)<<(-?)(["']?)([A-Za-z_][A-Za-z0-9_.]*)\2(?=\s|\Z)""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heredoc:
    """A text that follows an instruction. Shape: ``lines`` without newlines; ``start`` is ``<<EOF`` as written."""

    start: str
    end: str
    strips_tabs: bool
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction. Shape: ``line`` counts from 1; ``keyword`` in capitals; ``rest`` is one line, trimmed."""

    line: int
    keyword: str
    rest: str
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    """What was read. Shape: ``syntax`` is the frontend that a directive names, empty for none."""

    escape: str
    syntax: str
    instructions: tuple[Instruction, ...]


def parse(text: str) -> Dockerfile:
    """Read a Dockerfile.

    Errors: BadDefinition, naming the line, for an unknown instruction, an unfinished here-document, and for a file
            beyond 1 MiB or 1,000 instructions.
    """
    if len(text.encode(errors="replace")) > _MOST_BYTES:
        raise BadDefinition("the Dockerfile is larger than 1 MiB", hint="Put data into files of the build context.")
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    escape, syntax = _directives(lines)
    instructions: list[Instruction] = []
    at = 0
    while at < len(lines):
        begin = at
        logical, at = _logical_line(lines, at, escape)
        if logical.endswith(escape):
            raise BadDefinition(f"the instruction at line {begin + 1} of the Dockerfile ends with {escape}")
        if logical:
            instruction, at = _instruction(logical, begin + 1, lines, at)
            instructions.append(instruction)
        if len(instructions) > _MOST_INSTRUCTIONS:
            raise BadDefinition(f"the Dockerfile has more than {_MOST_INSTRUCTIONS} instructions")
    return Dockerfile(escape=escape, syntax=syntax, instructions=tuple(instructions))


def _directives(lines: Sequence[str]) -> tuple[str, str]:
    """Comments of the form ``# name=value`` that stand before everything else."""
    found: dict[str, str] = {}
    for line in lines:
        match = _DIRECTIVE.match(line.strip())
        if match is None or match[1].lower() not in ("escape", "syntax", "check"):
            break
        found.setdefault(match[1].lower(), match[2])
    escape = found.get("escape", "\\")
    if escape not in ("\\", "`"):
        raise BadDefinition(f"the Dockerfile's escape character is {clip(escape)}; it must be \\ or `")
    return escape, found.get("syntax", "")


def _logical_line(lines: Sequence[str], at: int, escape: str) -> tuple[str, int]:
    """The text of one instruction, and where the next begins; empty for comments and blank lines.

    Comments and blank lines inside a continued instruction are left out, as engines do.
    """
    parts: list[str] = []
    continued = False
    while at < len(lines):
        line = lines[at]
        at += 1
        bare = line.strip()
        if not bare or bare.startswith("#"):
            if continued:
                continue
            return "", at
        trimmed = line.rstrip(" \t")
        continued = trimmed.endswith(escape)
        parts.append(trimmed[:-1] if continued else line)
        if not continued:
            break
    return "".join(parts).strip(), at


def _instruction(text: str, line: int, lines: Sequence[str], at: int) -> tuple[Instruction, int]:
    keyword = re.split(f"[{_BLANKS}]", text, maxsplit=1)[0]
    rest = text[len(keyword) :].strip()
    if keyword.upper() not in _KNOWN:
        raise BadDefinition(f"line {line} of the Dockerfile has an unknown instruction {clip(keyword)}")
    keyword = keyword.upper()
    heredocs: list[Heredoc] = []
    if keyword in ("RUN", "COPY", "ADD"):
        for match in _HEREDOC.finditer(rest):
            heredoc, at = _heredoc(match, line, lines, at)
            heredocs.append(heredoc)
    return Instruction(line=line, keyword=keyword, rest=rest, heredocs=tuple(heredocs)), at


def _heredoc(match: re.Match[str], line: int, lines: Sequence[str], at: int) -> tuple[Heredoc, int]:
    strips, end = bool(match[1]), match[3]
    for index in range(at, len(lines)):
        if (lines[index].lstrip("\t") if strips else lines[index]) == end:
            body = tuple(lines[at:index])
            return Heredoc(start=match[0], end=end, strips_tabs=strips, lines=body), index + 1
    raise BadDefinition(
        f"line {line} of the Dockerfile begins a text that never ends: {clip(match[0])} has no line {clip(end)}",
        hint=f'Add the line, or quote the text: "{match[0]}".',
    )


def render(file: Dockerfile, labels: Iterable[tuple[str, str]] = ()) -> str:
    """Write the file for an engine; each stage begins with ``labels``.

    Shape:  label names and values without quotes, ``$`` and backslashes.
    Errors: BadDefinition for an instruction that is too long for engines.
    """
    written = ["# escape=`"] if file.escape == "`" else []
    label = "LABEL " + " ".join(f'{name}="{value}"' for name, value in labels)
    for instruction in file.instructions:
        written += [""] * (instruction.line - 1 - len(written))
        text = f"{instruction.keyword} {instruction.rest}".rstrip()
        if len(text.encode(errors="replace")) > _MOST_LINE_BYTES:
            raise BadDefinition(
                f"the instruction at line {instruction.line} of the Dockerfile is longer than {_MOST_LINE_BYTES} bytes",
                hint="Put long commands into a script in the build context.",
            )
        written.append(text)
        for heredoc in instruction.heredocs:
            written += [*heredoc.lines, heredoc.end]
        if instruction.keyword == "FROM" and label != "LABEL ":
            written.append(label)
    return "\n".join(written) + "\n"
