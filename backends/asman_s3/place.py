"""Where the blobs are: what an ``s3:`` URL says, checked. No credentials: those come from the AWS environment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

from asman.errors import AsmanError, ConfigError, clip
from asman.units import parse_size_bytes

__all__ = ["LARGEST_PARTS", "Place", "parse_place"]

LARGEST_PARTS = 10_000
"""How many parts a multipart upload may have. Source: S3 user guide, "Multipart upload limits"."""

_SHAPE = "s3://bucket/prefix?endpoint=https://host&region=us-east-1"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9._/-]{0,200}")
_REGION = re.compile(r"[A-Za-z0-9-]{1,40}")
_MIB = 1 << 20
_PART_BYTES = 8 * _MIB
_OPTIONS = ("endpoint", "public_endpoint", "region", "style", "part")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A bucket and how to reach it.

    Shape:  ``prefix`` is empty or ends with a slash; ``endpoint`` and ``public_endpoint`` are empty (AWS; the
            endpoint itself) or a URL without a slash at its end; ``style`` is path, virtual or auto.
    Units:  ``part_bytes`` is the size of one part of a large upload, of which two are in memory at a time.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    public_endpoint: str = ""
    region: str = ""
    style: str = "auto"
    part_bytes: int = _PART_BYTES

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


def parse_place(url: str) -> Place:
    """Read ``s3://bucket[/prefix][?endpoint=&public_endpoint=&region=&style=&part=]``.

    With an endpoint the bucket's name goes into the path unless ``style=virtual``; AWS itself has it in the host.
    Errors: ConfigError, which repeats no part of the URL that may hold a secret.
    """
    try:
        parts = urlsplit(url)
        given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise ConfigError("the S3 URL cannot be read", hint=f"Write it like {_SHAPE}") from error
    if "@" in parts.netloc:
        raise ConfigError(
            "the S3 URL holds credentials, which then stand in process lists and logs",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a profile or an instance role.",
        )
    options = _read_options(given)
    prefix = unquote(parts.path).strip("/")
    if parts.scheme != "s3" or not _BUCKET.fullmatch(parts.netloc) or ".." in parts.netloc:
        _refuse("bucket", parts.netloc, "3 to 63 of a-z 0-9 . - are a bucket's name")
    if not _PREFIX.fullmatch(prefix) or "//" in prefix or "." in prefix.split("/") or ".." in prefix.split("/"):
        _refuse("prefix", prefix, "at most 200 of A-Z a-z 0-9 . _ - / are allowed, without empty or dotted parts")
    endpoint = _address("endpoint", options.get("endpoint", ""))
    return Place(
        bucket=parts.netloc,
        prefix=f"{prefix}/" if prefix else "",
        endpoint=endpoint,
        public_endpoint=_address("public_endpoint", options.get("public_endpoint", "")),
        region=_region(options.get("region", "")),
        style=_style(options.get("style", ""), endpoint),
        part_bytes=_part_bytes(options["part"]) if "part" in options else _PART_BYTES,
    )


def _read_options(given: list[tuple[str, str]]) -> dict[str, str]:
    names = [name for name, _ in given]
    for name in names:
        if name not in _OPTIONS:
            raise ConfigError(
                f"the S3 URL has the unknown option {clip(name)}; known are: {', '.join(_OPTIONS)}",
                hint="Credentials belong into the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).",
            )
        if names.count(name) > 1:
            raise ConfigError(f"the S3 URL has the option {name} twice", hint=f"Write it like {_SHAPE}")
    return dict(given)


def _refuse(what: str, value: str, limit: str) -> NoReturn:
    raise ConfigError(f"the {what} of the S3 URL is {clip(value)}; {limit}", hint=f"Write it like {_SHAPE}")


def _address(name: str, value: str) -> str:
    if not value:
        return ""
    try:
        parts = urlsplit(value)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        is_good = is_good and not parts.query and not parts.fragment
    except ValueError:
        is_good = False
    if not is_good or "@" in parts.netloc:
        raise ConfigError(
            f"{name} of the S3 URL is not an address like https://host:port",
            hint="It has no user, no query and no fragment.",
        )
    return value.rstrip("/")


def _region(value: str) -> str:
    if value and not _REGION.fullmatch(value):
        _refuse("region", value, "a name like eu-central-1 was expected")
    return value


def _style(value: str, endpoint: str) -> str:
    if value not in ("", "path", "virtual"):
        _refuse("style", value, "path (host/bucket/key) and virtual (bucket.host/key) are known")
    return value or ("path" if endpoint else "auto")


def _part_bytes(value: str) -> int:
    try:
        part_bytes = parse_size_bytes(value)
    except (AsmanError, ValueError) as error:
        raise ConfigError(f"part of the S3 URL is {clip(value)}: {error}", hint="Write it like part=16MiB") from error
    if not 5 * _MIB <= part_bytes <= 1024 * _MIB:
        _refuse("part", value, "5 MiB to 1 GiB are allowed")
    return part_bytes
