"""What a definition says about building its image, read strictly. Pure.

Owns the members of ``build`` and the forms of ``context``; it knows no network, so which part of a path is a branch is
decided elsewhere, when the repository's branches are known. Whatever the engine is asked for is drawn from a `Recipe`,
field by field; unknown members go no further than here.

Credentials: a context may name a secret of the worker's own store (``https://secret:NAME@host/...``). Any other
credential in a context is refused, because definitions are public to everybody who knows the queue; the refusal does
not repeat it.

Source: contract, "Image build"; the fragment ``#ref:folder`` is Docker's, "Build context", "Git repositories".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from asman.errors import BadDefinition, clip
from asman.identity import canonical_json

__all__ = ["ArchiveContext", "GitContext", "Recipe", "build_hash", "parse_context", "read_recipe", "shown_url"]

_MEMBERS = ("context", "buildContext", "filename", "target", "dockerfile", "buildArgs", "platform")
_BLANK_OR_CONTROL = re.compile(r"[\s\x00-\x1f\x7f]")
_USERINFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")
_SECRET = re.compile(r"secret:([A-Za-z0-9_.-]{1,64})\Z")
_HOST = re.compile(r"[a-z0-9_.-]{1,253}\Z|[0-9a-f:.]{2,45}\Z")
_SSH_FORM = re.compile(r"(?:ssh|git)://|[\w.-]+@[\w.-]+:")
_PLATFORM = re.compile(r"[a-z0-9]+(?:/[a-z0-9]+){0,2}\Z")
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
_ARGUMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}\Z")
_ARCHIVE = re.compile(r"\.(?:tar|tar\.gz|tgz|tar\.bz2|tbz2?|tar\.xz|txz|zip)\Z", re.IGNORECASE)
_BLOB = re.compile(r"/f/[0-9a-f]{64}\Z")
_PAGE = re.compile(
    r"(?P<repository>/.+?)/-/(?:tree|commit)(?:/(?P<nested>.*))?\Z"
    r"|(?P<plain>/[^/]+/[^/]+)/(?:tree|commit|src/branch|src/tag|src/commit)(?:/(?P<rest>.*))?\Z"
)
_GITHUB = re.compile(r"/[^/]+/[^/]+?(?:\.git)?/?\Z")
_BAD_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|\Z)|[./]\Z|\A[-./]|\A@\Z")
_REF_CHARACTERS = 255
_PATH_BYTES = 1024

_USE_SECRET = (
    "Have the worker's owner store the credential under a name, and write https://secret:NAME@host/... instead; "
    "take it back where it was issued if it has been in a definition."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an image is to be built.

    Shape:  ``folder`` and ``filename`` are relative, without ``.`` and ``..``, empty for the default; ``dockerfile``
            is the file's text, empty where the context has it; ``build_args`` hold each name once.
    """

    context: str = ""
    folder: str = ""
    filename: str = ""
    dockerfile: str = ""
    target: str = ""
    build_args: tuple[tuple[str, str], ...] = ()
    platform: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GitContext:
    """A repository.

    Shape:  ``url`` has no credential, query or fragment; an empty ``ref`` is the default branch; where
            ``ref_has_folder``, the ref may be followed by a folder, and the longest ref that exists decides where.
            ``may_be_archive``: nothing but an answer from there can tell.
    """

    url: str
    secret: str = ""
    ref: str = ""
    folder: str = ""
    ref_has_folder: bool = False
    may_be_archive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveContext:
    """A file to download. Shape: ``url`` has no credential and no fragment; it may have a query."""

    url: str
    secret: str = ""


def read_recipe(definition: Mapping[str, Any]) -> Recipe | None:
    """What the definition's ``build`` asks for; None where there is none, or nothing is in it.

    Errors: BadDefinition, naming the member.
    """
    build = definition.get("build")
    if build is None:
        return None
    if not isinstance(build, Mapping):
        raise BadDefinition(f"build is {_kind(build)}; an object was expected")
    if all(build.get(name) in (None, "", [], {}) for name in _MEMBERS):
        return None
    recipe = Recipe(
        context=_text(build, "context"),
        folder=_path(build, "buildContext"),
        filename=_path(build, "filename"),
        dockerfile=_text(build, "dockerfile"),
        target=_matching(build, "target", _TARGET, "the name of a stage"),
        build_args=tuple(dict(_arguments(build.get("buildArgs"))).items()),
        platform=_matching(build, "platform", _PLATFORM, "a platform such as linux/arm64"),
    )
    if not recipe.context and not recipe.dockerfile:
        raise BadDefinition("build has neither a context nor a dockerfile")
    if recipe.context:
        parse_context(recipe.context)
    return recipe


def build_hash(build: Mapping[str, Any]) -> str:
    """The name under which older workers keep a built image; the same for all credentials in ``context``.

    Shape:  32 lowercase hex digits.
    Source: contract, "Image build", "Identity and cache".
    """
    context = build.get("context")
    if isinstance(context, str):
        build = {**build, "context": _USERINFO.sub(r"\1", context)}
    return hashlib.sha256(canonical_json(build).encode()).hexdigest()[:32]


def shown_url(url: str) -> str:
    """A context for logs and messages: no credential, no query, no fragment, and not too long."""
    scheme, colon, rest = url.partition("://") if "://" in url else ("", "", url)
    head = re.split("[?#]", rest)[0]
    if "@" in rest[len(head) :]:
        head = "..."  # a credential with ? or # in it looks like this, too
    return clip(f"{scheme}{colon}{head.rpartition('@')[2]}", 200)


# The members ----------------------------------------------------------------------------------------------------


def _kind(value: object) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


def _text(build: Mapping[str, Any], name: str) -> str:
    value = build.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadDefinition(f"build.{name} is {_kind(value)}; text was expected")
    return _checked(value, f"build.{name}")


def _checked(text: str, where: str) -> str:
    if "\0" in text:
        raise BadDefinition(f"{where} holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadDefinition(f"{where} is not Unicode text") from error
    return text


def _path(build: Mapping[str, Any], name: str) -> str:
    """A relative path in its shortest form, empty for the folder itself."""
    text = _text(build, name)
    return _short_path(text, f"build.{name}")


def _short_path(text: str, where: str) -> str:
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if text.startswith("/") or "\\" in text or ".." in parts:
        raise BadDefinition(f"{where} is {clip(text)}, which does not stay inside the build context")
    if len(text.encode()) > _PATH_BYTES or any(not part.isprintable() or len(part.encode()) > 255 for part in parts):
        raise BadDefinition(
            f"{where} is {clip(text)}; at most {_PATH_BYTES} bytes, 255 in a part, "
            f"and no control characters are allowed"
        )
    return "/".join(parts)


def _matching(build: Mapping[str, Any], name: str, pattern: re.Pattern[str], what: str) -> str:
    text = _text(build, name)
    if text and not pattern.match(text):
        raise BadDefinition(f"build.{name} is {clip(text)}, which is not {what}")
    return text


def _arguments(given: Any) -> Iterator[tuple[str, str]]:
    """Names and values, from an array of ``NAME=VALUE`` or an object."""
    if given is None:
        return
    if isinstance(given, Mapping):
        for name, value in given.items():
            yield _argument(str(name), value, f"build.buildArgs.{clip(name)}")
        return
    if not isinstance(given, list):
        raise BadDefinition(f"build.buildArgs is {_kind(given)}; an array of NAME=VALUE was expected")
    for index, entry in enumerate(given):
        where = f"build.buildArgs[{index}]"
        if not isinstance(entry, str):
            raise BadDefinition(f"{where} is {_kind(entry)}; text was expected")
        name, equals, value = entry.partition("=")
        if not equals:
            raise BadDefinition(
                f"{where} is {clip(entry)}, without a value: the worker's own environment is not handed to builds",
                hint="Write NAME=VALUE; an empty value is NAME=.",
            )
        yield _argument(name.strip(), value, where)


def _argument(name: str, value: Any, where: str) -> tuple[str, str]:
    if not _ARGUMENT_NAME.match(name):
        raise BadDefinition(f"{where}: {clip(name)} is not a name of letters, digits, _, . and -")
    if name.upper().startswith("BUILDKIT_"):
        raise BadDefinition(f"{where}: {clip(name)} steers the builder itself, which is the owner's to do")
    if not isinstance(value, str):
        raise BadDefinition(f"{where} is {_kind(value)}; text was expected")
    if value.startswith("secret:"):
        raise BadDefinition(
            f"{where} names a secret, and build arguments stay readable in the image's history",
            hint="Hand secrets to the running job in env; a private repository is read with https://secret:NAME@host/...",
        )
    return name, _checked(value, where)


# The context ----------------------------------------------------------------------------------------------------


def parse_context(context: str) -> GitContext | ArchiveContext:
    """Tell which repository or archive a context names.

    Errors: BadDefinition, which never repeats a credential or a query.
    """
    where = f"build.context {shown_url(context)}"
    if re.search(r"\$\{", context):
        raise BadDefinition(
            f"{where} holds an unreplaced template such as ${{ref}}",
            hint="Whatever fills in the template did not; submit the address with the values in place.",
        )
    if _BLANK_OR_CONTROL.search(context) or "\\" in context:
        raise BadDefinition(f"{where} holds blanks, control characters or backslashes")
    if _SSH_FORM.match(context):
        raise BadDefinition(f"{where} is not an https address", hint="Write https://host/owner/repository.")
    parts, secret = _split(context, where)
    url = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    if _ARCHIVE.search(parts.path) or _BLOB.search(parts.path):
        return _archive(parts, secret, where)
    if page := _PAGE.match(parts.path):
        if parts.fragment:
            raise BadDefinition(f"{where} says twice what to take: in its path, and behind #")
        ref = _checked(unquote(page["nested"] or page["rest"] or ""), where).strip("/")
        repository = urlunsplit((parts.scheme, parts.netloc, page["repository"] or page["plain"], "", ""))
        ref = _short_path(ref, f"what follows the repository in {where}")
        if ref.startswith("-"):
            raise BadDefinition(f"{where} asks for {clip(ref)}, which is no name of a branch, tag or commit")
        return GitContext(url=repository, secret=secret, ref=ref, ref_has_folder=True)
    is_repository = parts.path.rstrip("/").endswith(".git") or (
        parts.hostname in ("github.com", "www.github.com") and bool(_GITHUB.match(parts.path))
    )
    if is_repository or parts.fragment:
        ref, _, folder = unquote(parts.fragment).partition(":")
        folder = _short_path(_checked(folder, where).strip("/"), f"the folder of {where}")
        return GitContext(url=url.rstrip("/"), secret=secret, ref=_check_ref(ref, where), folder=folder)
    if parts.query or "tarball" in parts.path:
        return _archive(parts, secret, where)
    return GitContext(url=url.rstrip("/"), secret=secret, may_be_archive=True)


def _split(context: str, where: str) -> tuple[SplitResult, str]:
    """The parts of the address, its credential taken out, and the name of the secret."""
    try:
        parts = urlsplit(context)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise BadDefinition(f"{where} is not a URL") from None  # its message may hold a part of a credential
    if parts.scheme not in ("http", "https") or not host:
        raise BadDefinition(f"{where} is not an https address", hint="Write https://host/owner/repository.")
    userinfo, at, _ = parts.netloc.rpartition("@")
    named = _SECRET.match(userinfo)
    if at and not named:
        raise BadDefinition(f"{where} holds a credential, which is refused", hint=_USE_SECRET)
    if named and parts.scheme != "https":
        raise BadDefinition(f"{where} would send a secret unencrypted", hint="Use https.")
    if not _HOST.match(host):
        raise BadDefinition(f"{where} has a host name that is not letters, digits, dots and -")
    if not parts.path.strip("/"):
        raise BadDefinition(f"{where} names a host, but nothing on it")
    netloc = f"[{host}]" if ":" in host else host
    netloc = netloc if port is None else f"{netloc}:{port}"
    return parts._replace(netloc=netloc), named[1] if named else ""


def _archive(parts: SplitResult, secret: str, where: str) -> ArchiveContext:
    if parts.fragment:
        raise BadDefinition(f"{where} is an archive, where nothing can follow #", hint="Use build.buildContext.")
    return ArchiveContext(url=urlunsplit(parts), secret=secret)


def _check_ref(ref: str, where: str) -> str:
    """A name that git may carry, and that no program takes for an option. Source: git-check-ref-format(1)."""
    _checked(ref, where)
    if ref and (_BAD_REF.search(ref) or len(ref) > _REF_CHARACTERS):
        raise BadDefinition(f"{where} asks for {clip(ref)}, which is no name of a branch, tag or commit")
    return ref
