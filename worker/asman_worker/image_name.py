"""Image names as the engine reads them, and an owner's patterns for them. Pure.

One image has many spellings: ``alpine:3.19.1``, ``docker.io/library/alpine:3.19.1`` and
``index.docker.io/alpine:3.19.1`` are the same. A pattern written in one of them has to hold for all, or an
allow-list refuses what its owner meant and, worse, a list of refusals could be walked around. So both sides are
brought into one form, registry first, before they are compared.

A digest decides the content, and engines ignore a tag beside it; so does the normal form. A pattern that fixes a tag
therefore says nothing about a digest, and does not match one.

Source: reference grammar of the OCI distribution project (default registry, ``library/``); Docker Engine's reading
of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["matches", "matches_any", "normal_form"]

_DEFAULT_REGISTRY = "docker.io"
_OLD_DEFAULT_REGISTRY = "index.docker.io"


def normal_form(name: str) -> str:
    """The full name: registry in lower case, ``library/`` where Docker Hub has it, the tag or, if any, the digest.

    >>> normal_form("alpine")
    'docker.io/library/alpine:latest'
    """
    registry, repository, version = _parts(name.strip())
    return f"{registry}/{repository}{version or ':latest'}"


def matches(pattern: str, name: str) -> bool:
    """Does an owner's pattern hold for an image?

    Shape:  ``*`` stands for any characters, slashes too. A pattern without tag and digest, or with the tag ``*``,
            holds for every version of the repository. Without a registry it means Docker Hub, unless it begins with
            ``*``: that stands for any registry as well.
    """
    return bool(_compiled(pattern).fullmatch(normal_form(name)))


def matches_any(patterns: Iterable[str], name: str) -> bool:
    return any(matches(pattern, name) for pattern in patterns)


def _parts(name: str) -> tuple[str, str, str]:
    """Registry, repository, and ``:tag`` or ``@digest`` with its mark, empty for neither."""
    rest, at, digest = name.partition("@")
    path, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    version = f"@{digest.lower()}" if at else f"{colon}{tag}"
    registry, repository = _split_registry(f"{path}{slash}{last}")
    if registry == _DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository, version


def _split_registry(path: str) -> tuple[str, str]:
    """The first part is a registry if it looks like a host: a dot, a port, ``localhost``, or capital letters."""
    first, slash, rest = path.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        # Capital letters are in no repository, so newer engines take such a first part for a host as well.
        return (first, rest) if slash and first != first.lower() else (_DEFAULT_REGISTRY, path)
    registry = first.lower()
    return _DEFAULT_REGISTRY if registry == _OLD_DEFAULT_REGISTRY else registry, rest


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    text = _lower_but_tag(pattern.strip())
    if text.startswith("*"):
        registry, repository, version = "", *_free_parts(text)
    else:
        registry, repository, version = _parts(text)
        registry += "/"
    any_version = version in ("", ":*") and not (repository.endswith("*") and not version)
    ending = "[:@].*" if any_version else _wild(version)
    return re.compile(_wild(f"{registry}{repository}") + ending, re.DOTALL)


def _free_parts(text: str) -> tuple[str, str]:
    """Repository and version of a pattern that may stand for any registry."""
    rest, at, digest = text.partition("@")
    path, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    return f"{path}{slash}{last}", f"@{digest}" if at else f"{colon}{tag}"


def _lower_but_tag(pattern: str) -> str:
    """Repositories and hosts have no capital letters; an owner who types one means the small one. Tags keep theirs."""
    path, slash, last = pattern.rpartition("/")
    name, colon, tag = last.partition(":")
    return f"{path.lower()}{slash}{name.lower()}{colon}{tag}"


def _wild(text: str) -> str:
    return ".*".join(re.escape(part) for part in text.split("*"))
