"""What a Dockerfile asks of the worker: which images, which builder, and what it must not do. Pure.

Three things need knowing before an engine is told to build.

*Which images it begins from*, so that the owner's patterns hold and the worker pulls them with its own logins.
Variables are put in here, and what cannot be decided is refused: never left to the engine.

*What would pass the fence by.* ``ADD http://...`` is fetched by the engine itself, from its own network, not by a
fenced container; so are triggers (``ONBUILD``) that a base image brings along. Names beginning with ``asman.`` mark
what is ours, and are not for authors.

*Which builder it needs.* The engine's classic builder runs each step in a container that can be bounded; BuildKit's
steps cannot. What only saves time there (``--mount=type=cache``, ``--link``) is left out for the classic one, and a
here-document that is a whole script becomes that script; ``needs_buildkit`` names what is left.

Source: Dockerfile reference; promises, "Container hardening" (build). That undecidable means refused is our choice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from asman.errors import BadDefinition, clip
from asman_worker.dockerfile import Dockerfile, Instruction

__all__ = ["Feature", "Resolved", "check_steps", "inner", "lower", "needs_buildkit", "platform_args", "resolve"]

_BLANK = re.compile(r"[ \t\v\f\r]+")
_FLAGS = re.compile(r"(?:--[a-z][a-z-]*(?:=[^\s\"'\\`]*)?[ \t]+)*")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-+])([^${}\"'\\`]*))?\})")
_CLASSIC_FLAGS: Mapping[str, frozenset[str]] = {
    "ADD": frozenset(("--chown",)),
    "COPY": frozenset(("--chown", "--from")),
    "RUN": frozenset(),
}
_MOST_SCRIPT = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """Something that the classic builder cannot do. Shape: ``what`` as it is written in the file."""

    what: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A Dockerfile with every image written out. Shape: ``images`` in order, each once, without stages."""

    file: Dockerfile
    images: tuple[tuple[str, int], ...]
    """Each with the line that names it first."""


# Images ---------------------------------------------------------------------------------------------------------------


def platform_args(platform: str) -> dict[str, str]:
    """What builders say about the machine: ``linux/arm64/v8`` as TARGETOS, TARGETARCH, ... and the same for BUILD."""
    system, _, rest = platform.partition("/")
    arch, _, variant = rest.partition("/")
    facts = {"PLATFORM": platform, "OS": system, "ARCH": arch, "VARIANT": variant}
    return {f"{side}{name}": value for side in ("TARGET", "BUILD") for name, value in facts.items()}


def resolve(file: Dockerfile, args: Mapping[str, str], platform: str) -> Resolved:
    """Put variables into what names an image, and list the images.

    Shape:  ``args`` are the build's; ``platform`` is the one it builds for, such as ``linux/amd64``. A ``FROM`` for
            that platform loses its ``--platform``.
    Errors: BadDefinition, naming the line, for what cannot be decided, another platform, or a file without ``FROM``.
    """
    known: dict[str, str | None] = dict(platform_args(platform))
    stages: list[str] = []
    images: dict[str, int] = {}
    instructions = []
    for instruction in file.instructions:
        if instruction.keyword == "ARG" and not stages:
            known |= _args(instruction, known, args)
        elif instruction.keyword == "FROM":
            instruction, image = _from(instruction, known, platform, stages)
            if image:
                images.setdefault(image, instruction.line)
        elif not stages:
            raise BadDefinition(f"line {instruction.line} of the Dockerfile stands before the first FROM")
        else:
            for image in _copied_from(instruction, stages):
                images.setdefault(image, instruction.line)
        instructions.append(instruction)
    if not stages:
        raise BadDefinition("the Dockerfile has no FROM", hint="Begin it with FROM and an image's name.")
    return Resolved(file=replace(file, instructions=tuple(instructions)), images=tuple(images.items()))


def _from(
    instruction: Instruction, known: Mapping[str, str | None], platform: str, stages: list[str]
) -> tuple[Instruction, str]:
    """The instruction with its image written out, and the image; empty for an earlier stage and for ``scratch``."""
    words = _BLANK.split(instruction.rest)
    flags = [word for word in words if word.startswith("--")]
    names = words[len(flags) :]
    if len(names) not in (1, 3) or (len(names) == 3 and names[1].lower() != "as"):
        raise _undecided(instruction, "expected FROM image [AS name]")
    for flag in flags:
        name, _, value = flag.partition("=")
        asked = _put_in(value, known)
        if name != "--platform" or asked is None:
            raise _undecided(instruction, f"{clip(flag)} cannot be decided")
        if asked != platform:
            raise BadDefinition(
                f"line {instruction.line} of the Dockerfile asks for the platform {clip(asked)}; this builds {platform}"
            )
    base = _put_in(names[0], known)
    if not base:
        raise _undecided(instruction, f"{clip(names[0])} cannot be decided")
    stage = names[2].lower() if len(names) == 3 else ""
    if stage and not re.fullmatch(r"[a-z][a-z0-9_.-]*", stage):
        raise _undecided(instruction, f"{clip(names[2])} is no name of a stage")
    is_image = base.lower() not in stages and base != "scratch"
    stages.append(stage or f"#{len(stages)}")
    return replace(instruction, rest=" ".join([base, *names[1:]])), base if is_image else ""


def _undecided(instruction: Instruction, why: str) -> BadDefinition:
    return BadDefinition(
        f"line {instruction.line} of the Dockerfile: {why}",
        hint="Write the image's name out, or give the ARG before FROM a plain default.",
    )


def _args(instruction: Instruction, known: Mapping[str, str | None], given: Mapping[str, str]) -> dict[str, str | None]:
    """The variables of one ARG before the first FROM; None for a value that is beyond us."""
    found: dict[str, str | None] = {}
    for word in _BLANK.split(instruction.rest):
        name, equals, default = word.partition("=")
        value: str | None = None
        if name in given:
            value = given[name]
        elif equals:
            quoted = len(default) > 1 and default[0] == default[-1] and default[0] in "\"'"
            value = _put_in(default[1:-1] if quoted and default[0] == '"' else default, {**known, **found})
            if quoted and default[0] == "'":
                value = default[1:-1] if not re.search(r"['\\`]", default[1:-1]) else None
        elif name in known:
            value = known[name]
        else:
            value = ""
        found[name] = value
    return found


def _put_in(text: str, known: Mapping[str, str | None]) -> str | None:
    """The text with its variables; None if it has quotes, escapes, or a variable that nobody knows."""
    undecided = False

    def value(match: re.Match[str]) -> str:
        nonlocal undecided
        name = match[1] or match[2]
        content = known.get(name, "")
        undecided |= content is None
        mark, other = match[3] or "", match[4] or ""
        is_there = bool(content) if mark.startswith(":") else name in known
        if mark.endswith("-"):
            return content or "" if is_there else other
        if mark.endswith("+"):
            return other if is_there else ""
        return content or ""

    filled = _VARIABLE.sub(value, text)
    rest = _VARIABLE.sub("", text)
    return None if undecided or re.search(r"[$\"'\\`]", rest) else filled


def _copied_from(instruction: Instruction, stages: list[str]) -> Iterator[str]:
    """Images that a step takes files from; stages, by name or number, are none."""
    keyword, rest = inner(instruction)
    patterns = {"COPY": r"--from=(\S*)", "ADD": r"--from=(\S*)", "RUN": r"[=,]from=([^,\s]*)"}
    pattern = patterns.get(keyword)
    for source in re.findall(pattern, _leading_flags(rest)) if pattern else ():
        if re.search(r"[$\"'\\`]", source) or not source:
            raise _undecided(instruction, f"--from={clip(source)} cannot be decided")
        if not source.isdecimal() and source.lower() not in stages:
            yield source


def _leading_flags(rest: str) -> str:
    """The words in front that begin with two dashes, however odd they are."""
    words = _BLANK.split(rest.strip())
    end = next((index for index, word in enumerate(words) if not word.startswith("--")), len(words))
    return " ".join(words[:end])


# What passes the fence by ---------------------------------------------------------------------------------------------


def check_steps(instructions: tuple[Instruction, ...], *, engine_fetches: bool, where: str = "the Dockerfile") -> None:
    """Refuse what the engine would do outside of the fenced steps.

    Errors: BadDefinition, naming the line, for a label of ours, and for an ``ADD`` that is or may be a download
            unless ``engine_fetches``.
    """
    for instruction in instructions:
        keyword, rest = inner(instruction)
        place = f"line {instruction.line} of {where}"
        if keyword == "ADD" and not engine_fetches and _may_fetch(rest):
            raise BadDefinition(
                f"{place} has an ADD that is, or may be, a download, which the engine would do past the job's network",
                hint="Fetch it in a RUN step, or put the file into the build context and use COPY.",
            )
        if keyword == "LABEL" and any(map(_may_be_ours, _label_names(rest))):
            raise BadDefinition(
                f"{place} sets a label that begins with asman., or may; those mark what is the worker's"
            )


def inner(instruction: Instruction) -> tuple[str, str]:
    """Keyword and rest; of a trigger, those of what it triggers."""
    keyword, rest = instruction.keyword, instruction.rest
    while keyword == "ONBUILD":
        keyword, rest = [*_BLANK.split(rest.strip(), maxsplit=1), ""][:2]
        keyword = keyword.upper()
    return keyword, rest


def _may_fetch(rest: str) -> bool:
    """Is a source a URL, or can one become a URL once the engine puts variables in and takes quotes away?

    Both notations, words and a JSON list, are looked at as one: without quotes and escapes, cut at blanks, commas and
    brackets. What JSON can write as ``\\u0068`` is not decided.
    """
    plain = re.sub(r"[\"'\\`]", "", rest)
    return bool(re.search(r"\\u[0-9a-fA-F]{4}", rest)) or any(
        _may_be_remote(word) for word in re.split(r"[\s,\[\]]+", plain) if word
    )


def _may_be_remote(word: str) -> bool:
    literal, dollar, _ = word.lower().partition("$")
    if not dollar:
        return bool(re.match(r"(?:[a-z][a-z0-9+.-]*://|git@|github\.com/)", literal))
    return any(start.startswith(literal) or literal.startswith(start) for start in ("http", "git", "ftp", "ssh"))


def _label_names(rest: str) -> list[str]:
    words = _BLANK.split(rest)
    return [words[0], *(word for word in words[1:] if "=" in word)]


def _may_be_ours(word: str) -> bool:
    name = re.sub(r"[\"'\\`]", "", word).partition("=")[0].lower()
    return name.startswith("asman.") or "$" in name


# Which builder --------------------------------------------------------------------------------------------------------


def lower(file: Dockerfile) -> tuple[Dockerfile, tuple[str, ...]]:
    """The file for the classic builder, as far as that changes nothing but the time it takes; and what was changed."""
    said: list[str] = []
    if file.syntax:
        said.append(f"# syntax={file.syntax} is not used: no builder is loaded from elsewhere")
    has_shell = any(instruction.keyword == "SHELL" for instruction in file.instructions)
    lowered = tuple(_lower(instruction, has_shell, said) for instruction in file.instructions)
    return replace(file, instructions=lowered), tuple(said)


def _lower(instruction: Instruction, has_shell: bool, said: list[str]) -> Instruction:
    if instruction.keyword not in ("RUN", "COPY", "ADD"):
        return instruction
    match = _FLAGS.match(instruction.rest)
    flags = match[0].split() if match else []
    kept = [flag for flag in flags if not _only_saves_time(flag)]
    rest = instruction.rest[match.end() if match else 0 :]
    if len(kept) < len(flags):
        dropped = " ".join(flag for flag in flags if flag not in kept)
        said.append(f"line {instruction.line}: {dropped} is left out; it would only save time")
        instruction = replace(instruction, rest=" ".join([*kept, rest]))
    if instruction.keyword == "RUN" and not kept and not has_shell and (script := _script(rest, instruction)):
        said.append(f"line {instruction.line}: the text after RUN is run as one script")
        return replace(instruction, rest=json.dumps(["/bin/sh", "-c", script]), heredocs=())
    return instruction


def _only_saves_time(flag: str) -> bool:
    name, _, value = flag.partition("=")
    if name == "--link":
        return value in ("", "true")
    options = value.split(",")
    return name == "--mount" and "type=cache" in options and not any(o.startswith("from=") for o in options)


def _script(rest: str, instruction: Instruction) -> str:
    """The script of ``RUN <<EOF`` where that is the whole instruction; empty if it is anything else."""
    if len(instruction.heredocs) != 1 or rest.strip() != instruction.heredocs[0].start:
        return ""
    heredoc = instruction.heredocs[0]
    lines = [line.lstrip("\t") if heredoc.strips_tabs else line for line in heredoc.lines]
    text = "\n".join(lines) + "\n"
    return "" if text.startswith("#!") or len(text) > _MOST_SCRIPT or not text.strip() else text


def needs_buildkit(file: Dockerfile) -> Feature | None:
    """The first thing that the classic builder cannot do; None if it can do all."""
    for instruction in file.instructions:
        keyword, rest = inner(instruction)
        if instruction.heredocs:
            return Feature(what=f"{keyword} {instruction.heredocs[0].start}", line=instruction.line)
        if keyword not in _CLASSIC_FLAGS:
            continue
        for flag in _leading_flags(rest).split():
            name = flag.partition("=")[0]
            if name not in _CLASSIC_FLAGS[keyword]:
                return Feature(what=f"{keyword} {name}", line=instruction.line)
    return None
