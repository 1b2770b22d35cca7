"""Preparing a bucket: made if it is not there, open to web pages, unfinished uploads removed by the store itself.

What a bucket has already is kept: rules are added beside those of others and known again by their name. A store that
lacks one of these abilities is served without it, and that is said.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from asman.errors import ConfigError
from asman_s3.connection import open_client
from asman_s3.faults import DRIVER_ERRORS, code_of, opening_error, status_of, translated
from asman_s3.place import Place

__all__ = ["prepare_bucket"]

_ABORT_RULE = "asman-unfinished-uploads"
_CORS_RULE = "asman-pages"
_UNFINISHED_DAYS = 2
_NONE_YET = frozenset(("NoSuchCORSConfiguration", "NoSuchLifecycleConfiguration"))
_OURS = frozenset(("BucketAlreadyOwnedByYou",))
_TAKEN = frozenset(("BucketAlreadyExists", "OperationAborted"))
_EAST = "us-east-1"


async def prepare_bucket(place: Place) -> AsyncIterator[str]:
    """Do what is missing, and say each thing that was done in a line. Doing it again changes nothing.

    Errors: ConfigError when the bucket cannot be made or reached.
    """
    async with open_client(place) as client:
        yield await _make(client, place)
        yield await _attempt(_allow_pages(client, place), "pages may read and write signed addresses (CORS)")
        yield await _attempt(
            _end_uploads(client, place), f"uploads that stay unfinished for {_UNFINISHED_DAYS} days are removed"
        )


async def _make(client: Any, place: Place) -> str:
    region = client.meta.region_name
    where = {} if region == _EAST else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        try:
            await client.head_bucket(Bucket=place.bucket)
            return f"bucket {place.bucket} is there"
        except DRIVER_ERRORS as error:
            if status_of(error) != 404:
                raise
        await client.create_bucket(Bucket=place.bucket, **where)
        return f"bucket {place.bucket} is made"
    except DRIVER_ERRORS as error:
        if code_of(error) in _OURS:
            return f"bucket {place.bucket} is there"
        if code_of(error) in _TAKEN:
            raise ConfigError(f"the bucket name {place.bucket} is taken by somebody else ({code_of(error)})") from error
        told = opening_error(error, place)
        if told is None or status_of(error) == 403:
            said = translated(error, f"make the bucket {place.bucket}")
            told = ConfigError(said.message, hint=said.hint)
        raise told from error


async def _attempt(doing: Any, done: str) -> str:
    """Errors: ConfigError, unless the store just does not have the ability."""
    try:
        await doing
    except DRIVER_ERRORS as error:
        if status_of(error) in (400, 405, 501):
            return f"left out, this store does not offer it ({code_of(error)}): {done}"
        said = translated(error, "set up the bucket")
        raise ConfigError(said.message, hint=said.hint) from error
    return done


async def _allow_pages(client: Any, place: Place) -> None:
    ours = {
        "ID": _CORS_RULE,
        "AllowedMethods": ["GET", "HEAD", "PUT"],
        "AllowedOrigins": ["*"],
        "AllowedHeaders": ["*"],
        "ExposeHeaders": ["ETag", "Content-Range", "Content-Length", "Content-Disposition"],
        "MaxAgeSeconds": 3600,
    }
    rules = await _rules(client.get_bucket_cors, "CORSRules", place)
    others = [rule for rule in rules if rule.get("ID") != _CORS_RULE]
    await client.put_bucket_cors(Bucket=place.bucket, CORSConfiguration={"CORSRules": [*others, ours]})


async def _end_uploads(client: Any, place: Place) -> None:
    ours = {
        "ID": _ABORT_RULE,
        "Status": "Enabled",
        "Filter": {"Prefix": f"{place.prefix}blobs/"},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _UNFINISHED_DAYS},
    }
    rules = await _rules(client.get_bucket_lifecycle_configuration, "Rules", place)
    others = [rule for rule in rules if rule.get("ID") != _ABORT_RULE]
    await client.put_bucket_lifecycle_configuration(
        Bucket=place.bucket, LifecycleConfiguration={"Rules": [*others, ours]}
    )


async def _rules(ask: Any, member: str, place: Place) -> list[dict[str, Any]]:
    try:
        answer = await ask(Bucket=place.bucket)
    except DRIVER_ERRORS as error:
        if code_of(error) in _NONE_YET or status_of(error) == 404:
            return []
        raise
    rules: list[dict[str, Any]] = answer.get(member, [])
    return rules
