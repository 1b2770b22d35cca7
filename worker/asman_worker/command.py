"""Command and entrypoint strings into argument vectors. Pure.

The grammar is part of the wire contract: the same text must start the same program on every kind of worker. It is
POSIX-like, without a shell: quotes, escapes and variables from the definition's own ``env`` are understood; text that
needs a shell (control operators, unquoted globs, comments) is handed over whole. Such text is useful as it is to an
entrypoint like ``sh -c``. Where neither the definition nor the image has an entrypoint it could only fail ("executable
not found"), so there it is run by ``/bin/sh -c``.

Source: contract, "Command and entrypoint strings"; its table is ``tests/vectors/argv.json``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from asman.errors import BadDefinition, clip

__all__ = ["SHELL", "container_argv", "needs_shell", "split_words"]

SHELL = ("/bin/sh", "-c")

_OPERATOR = r"\|\||&&|;;|\|&|<\(|<<<|>>|>&|<&|[&;()|<>]"
_BARE = r"""(?:\\['"|&;()<>\s]|[^\s'"|&;()<>])+"""
_QUOTED = r""""(?:\\"|[^"])*?"|'(?:\\'|[^'])*?\'"""
_TOKEN = re.compile(rf"(?P<operator>{_OPERATOR})|(?:{_BARE}|{_QUOTED})+")
_SPECIAL = "*@#?$!-"
_NAME = re.compile(r"\w+", re.ASCII)


class _NeedsShell(Exception):
    """The text uses what only a shell understands."""


def split_words(text: str, env: Mapping[str, str]) -> list[str]:
    """Split into words; text that needs a shell comes back as one word, untouched.

    Shape:  ``$NAME`` and ``${NAME}`` outside single quotes come from ``env``, unknown names are empty; a lone ``$``
            stays; a quote without its partner is dropped.
    Errors: BadDefinition for ``${`` without an end, and for ``${}``.
    """
    try:
        return _words(text, env)
    except _NeedsShell:
        return [text]


def needs_shell(text: str, env: Mapping[str, str]) -> bool:
    """Does the text use an operator, an unquoted glob or a comment?"""
    try:
        _words(text, env)
    except _NeedsShell:
        return True
    return False


def _words(text: str, env: Mapping[str, str]) -> list[str]:
    words = []
    for token in _TOKEN.finditer(text):
        if token["operator"]:
            raise _NeedsShell
        words.append(_word(token[0], env))
    return words


def _word(token: str, env: Mapping[str, str]) -> str:
    out, quote, i = [], "", 0
    while i < len(token):
        c = token[i]
        if c == quote:
            quote = ""
        elif c == "$" and quote != "'":
            value, i = _variable(token, i, env)
            out.append(value)
            continue
        elif quote == "'":
            out.append(c)
        elif c == "\\":
            i += 1
            follower = token[i : i + 1]
            out.append(follower if not quote or follower in ('"', "\\", "$") else c + follower)
        elif quote:
            out.append(c)
        elif c in "'\"":
            quote = c
        elif c in "*?#|&;()<>":
            raise _NeedsShell
        else:
            out.append(c)
        i += 1
    return "".join(out)


def _variable(token: str, at: int, env: Mapping[str, str]) -> tuple[str, int]:
    """The value of the variable that starts at the ``$``, and where the text goes on."""
    start = at + 1
    if token.startswith("{", start):
        end = token.find("}", start)
        if end <= start + 1:
            raise BadDefinition(f'malformed "${{" in {clip(token)}', hint="Write ${NAME}, or \\$ for a dollar sign.")
        return env.get(token[start + 1 : end], ""), end + 1
    name = _NAME.match(token, start)
    if name:
        return env.get(name[0], ""), name.end()
    if start < len(token) and token[start] in _SPECIAL:
        return env.get(token[start], ""), start + 1
    return "$", start


def container_argv(
    command: Any, entrypoint: Any, env: Mapping[str, str], *, image_has_entrypoint: bool = False
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """The engine's ``Cmd`` and ``Entrypoint``; None leaves the image's own in place.

    Errors: BadDefinition if a value is neither text nor an array of texts.
    """
    arguments = _argv("command", command, env)
    start = _argv("entrypoint", entrypoint, env)
    if isinstance(command, str) and start is None and not image_has_entrypoint and needs_shell(command, env):
        arguments = (*SHELL, command)
    return arguments, start


def _argv(field: str, value: Any, env: Mapping[str, str]) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return tuple(split_words(value, env)) or None
    if isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value):
        return tuple(value) or None
    raise BadDefinition(f"definition.{field} is {clip(value)}; expected text or an array of texts")
