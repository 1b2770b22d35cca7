"""The owner's secrets, by name, from a file on this machine; what may be given to which job or source.

A job never carries a secret: it names one, by a value of ``env`` that is exactly ``secret:NAME``, and the value is put
in its place here, in the request for the container and nowhere else. Stored definitions, notes about running jobs,
reports and logs hold the name only (logs by way of ``redact``).

The file is TOML, one table for each secret::

    [HF_TOKEN]
    value = "hf_..."              # or: file = "/run/secrets/hf"
    images = ["myorg/*"]          # only for jobs with such an image; default: any
    queues = ["team-3f9c1b7e"]    # only for jobs of these queues; default: any

    [GITHUB_TOKEN]
    file = "/etc/asman/github"
    hosts = ["github.com"]        # for fetching what is built from there; never given to a job

It is read again when it has changed, at the next job that asks. Nobody but its owner may be able to read it: names in
a file that others can read would promise what is not so.

Source: promise S11.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asman.errors import AsmanError, ConfigError, clip
from asman_worker.image_name import matches_any
from asman_worker.redact import Redactor

__all__ = ["ENV_PREFIX", "Secret", "SecretRefused", "SecretStore", "secrets_asked_for", "with_values"]

_log = logging.getLogger(__name__)

ENV_PREFIX = "secret:"

_ASKED = re.compile(r"secret:([A-Za-z_][A-Za-z0-9_.-]{0,63})\Z")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}\Z")
_LEAST_CHARACTERS = 6
_MOST_CHARACTERS = 32 << 10
_OTHERS = 0o077
_MEMBERS = {"value", "file", "hosts", "images", "queues"}


class SecretRefused(AsmanError):
    """A job or a build asks for a secret that it does not get; whether there is one of that name is not said."""

    status = 422
    code = "secret_refused"
    hint = "Ask the owner of the worker which secrets jobs of this queue and image may use."


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """One entry of the file. Shape: empty ``images`` and ``queues``: any; with ``hosts`` it is for these alone."""

    name: str
    value: str = field(repr=False)
    hosts: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    queues: tuple[str, ...] = field(default=(), repr=False)

    def is_for_job(self, queue: str, image: str) -> bool:
        if self.hosts or (self.queues and queue not in self.queues):
            return False
        return not self.images or bool(image and matches_any(self.images, image))

    def is_for_host(self, host: str) -> bool:
        """``*.example.org`` stands for every name below it, not for itself."""
        return any(_is_host(pattern.lower(), host.lower().rstrip(".")) for pattern in self.hosts)


def _is_host(pattern: str, host: str) -> bool:
    return host.endswith(pattern[1:]) and len(host) >= len(pattern) if pattern.startswith("*.") else host == pattern


def secrets_asked_for(definition: Mapping[str, Any]) -> dict[str, str]:
    """Variables of ``env`` whose value is exactly ``secret:NAME``, with that name."""
    env = definition.get("env")
    if not isinstance(env, Mapping):
        return {}
    found = {name: _ASKED.match(value) for name, value in env.items() if isinstance(value, str)}
    return {name: match[1] for name, match in found.items() if match}


def with_values(definition: Mapping[str, Any], given: Mapping[str, Secret]) -> Mapping[str, Any]:
    """The definition as the container gets it: each variable in ``given`` has its secret's value."""
    if not given:
        return definition
    return {**definition, "env": {**definition["env"], **{name: secret.value for name, secret in given.items()}}}


class SecretStore:
    """The secrets of one worker. ``file`` None: there are none.

    Errors: ConfigError from ``load`` for a file that is not acceptable, with the command that mends it; the other
            calls raise SecretRefused for what is not given, and while the file is not acceptable for everything.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._secrets: dict[str, Secret] = {}
        self._seen: tuple[object, ...] | None = None
        self._files: tuple[Path, ...] = ()

    def load(self) -> int:
        """Read the file now, whether or not it has changed; answers how many secrets there are."""
        self._seen = None
        self._refresh()
        return len(self._secrets)

    def for_job(self, definition: Mapping[str, Any], *, queue: str, image: str) -> dict[str, Secret]:
        """What the variables of ``env`` that ask for a secret get.

        Errors: SecretRefused, naming the variable and the name.
        """
        asked = secrets_asked_for(definition)
        if not asked:
            return {}
        self._keep_up()
        given = {}
        for variable, name in asked.items():
            secret = self._secrets.get(name)
            if secret is None or not secret.is_for_job(queue, image):
                raise SecretRefused(
                    f"definition.env.{variable} asks for the secret {clip(name)}, "
                    "which this worker does not give to this job",
                    details=((f"definition.env.{variable}", "not given to this job"),),
                )
            given[variable] = secret
        return given

    def secret_for(self, name: str, host: str) -> str:
        """The value for fetching from a host. Redact what is then logged, with ``redactor``.

        Errors: SecretRefused, naming the name and the host.
        """
        self._keep_up()
        secret = self._secrets.get(name)
        if secret is None or not secret.is_for_host(host):
            raise SecretRefused(f"the secret {clip(name)} is not given for fetching from {clip(host)}")
        return secret.value

    def redactor(self, *names: str) -> Redactor:
        """Takes the values of these names out of texts; names that are not known are left out."""
        return Redactor([(name, self._secrets[name].value) for name in names if name in self._secrets])

    def _keep_up(self) -> None:
        """Read again if need be. What is wrong with the file is the owner's business: a job only hears that it is."""
        try:
            self._refresh()
        except ConfigError as error:
            _log.error("secrets cannot be read", extra={"reason": error.message, "next_step": error.hint})
            hint = "Tell the owner of the worker; its log says why."
            raise SecretRefused("the worker cannot read its secrets at the moment", hint=hint) from error

    def _refresh(self) -> None:
        """Read again if a file has changed. A file that is not acceptable any more leaves no secret."""
        if self._file is None:
            return
        seen = tuple(_signature(path) for path in (self._file, *self._files))
        if seen == self._seen:
            return
        self._secrets, self._seen = {}, None
        read, files = _read(self._file)
        self._secrets, self._files = read, files
        self._seen = tuple(_signature(path) for path in (self._file, *files))


def _signature(path: Path) -> object:
    try:
        known = path.stat()
    except OSError as error:
        return error.errno
    return known.st_mtime_ns, known.st_ctime_ns, known.st_size, known.st_ino


def _read(file: Path) -> tuple[dict[str, Secret], tuple[Path, ...]]:
    """The entries, and the files that they name."""
    try:
        tables = tomllib.loads(_private_text(file))
    except tomllib.TOMLDecodeError as error:
        # The parser's words may quote the text, and the text is secret: only the place is told.
        place = re.search(r"\(at [^)]*\)", str(error))
        raise ConfigError(f"the secrets file {file} is no TOML {place[0] if place else ''}".rstrip()) from None
    secrets, files = {}, []
    for name, table in tables.items():
        if not _NAME.match(name):
            raise _wrong(file, name, "a name has at most 64 letters, digits and _ . -, and begins with a letter or _")
        if not isinstance(table, dict):
            raise _wrong(file, name, "is no table", hint=f'Write [{name}] on a line, and value = "..." below it.')
        unknown = sorted(set(table) - _MEMBERS)
        if unknown:
            raise _wrong(file, name, f"has an unknown member {clip(unknown[0])}; known: {', '.join(sorted(_MEMBERS))}")
        if "file" in table:
            files.append(Path(str(table["file"])))
        secrets[name] = _secret(file, name, table)
    return secrets, tuple(files)


def _secret(file: Path, name: str, table: Mapping[str, Any]) -> Secret:
    if ("value" in table) == ("file" in table):
        raise _wrong(file, name, "needs either value or file, and not both")
    text = table.get("value", table.get("file"))
    if not isinstance(text, str):
        raise _wrong(file, name, "must have a text in quotes for value or file")
    value = text
    if "file" in table:
        if not Path(text).is_absolute():
            raise _wrong(file, name, f"names the file {clip(text)}; an absolute path is needed")
        value = _private_text(Path(text)).removesuffix("\n").removesuffix("\r")
    if len(value.strip()) < _LEAST_CHARACTERS:
        reason = f"has fewer than {_LEAST_CHARACTERS} characters: taking so short a text out of logs would harm them"
        raise _wrong(file, name, reason)
    if len(value) > _MOST_CHARACTERS or "\0" in value:
        raise _wrong(file, name, f"has a value with a NUL or with more than {_MOST_CHARACTERS} characters")
    lists = {member: _texts(file, name, member, table.get(member)) for member in ("hosts", "images", "queues")}
    if lists["hosts"] and (lists["images"] or lists["queues"]):
        raise _wrong(file, name, "has hosts, so it is not for jobs; images and queues have no meaning with it")
    return Secret(name=name, value=value, **lists)


def _texts(file: Path, name: str, member: str, value: Any) -> tuple[str, ...]:
    """An empty list is refused: it would mean "any" where its writer may have meant "none"."""
    if value is None:
        return ()
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
        raise _wrong(file, name, f"must have a list of texts, not empty, for {member}")
    return tuple(value)


def _wrong(file: Path, name: str, reason: str, *, hint: str = "") -> ConfigError:
    return ConfigError(f"the secrets file {file}: {clip(name)} {reason}", hint=hint)


def _private_text(path: Path) -> str:
    """The text of a file that only its owner can read, looked at and read through one handle.

    Errors: ConfigError with the command that mends it.
    """
    try:
        with path.open("rb") as opened:
            known = os.fstat(opened.fileno())
            if not stat.S_ISREG(known.st_mode):
                raise ConfigError(f"the secrets file {path} is no regular file")
            if known.st_uid not in (0, os.geteuid()):
                raise ConfigError(
                    f"the secrets file {path} belongs to the user {known.st_uid}, who could change it",
                    hint=f"Run: chown {os.geteuid()} {path}",
                )
            if known.st_mode & _OTHERS:
                raise ConfigError(
                    f"the secrets file {path} can be used by others (mode {stat.S_IMODE(known.st_mode):o})",
                    hint=f"Run: chmod 600 {path}",
                )
            return opened.read().decode()
    except OSError as error:
        raise ConfigError(f"the secrets file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"the secrets file {path} is not UTF-8 text") from None
