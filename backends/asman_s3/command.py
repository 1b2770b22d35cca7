"""The command ``asman s3``: makes a bucket ready. Nothing else of the server ever changes a bucket's settings."""

from __future__ import annotations

import asyncio

import click

from asman_s3.bucket import prepare_bucket
from asman_s3.place import Place, parse_place

__all__ = ["s3"]


@click.group(name="s3")
def s3() -> None:
    """Buckets that hold blobs."""


@s3.command()
@click.argument("url")
def init(url: str) -> None:
    """Make the bucket of an s3:// URL ready for a server.

    It is made if it is not there; web pages may then follow signed addresses into it (CORS); uploads that were never
    finished are removed by the store. Rules that the bucket has already are kept. Credentials come from the AWS
    environment.
    """
    asyncio.run(_init(parse_place(url)))


async def _init(place: Place) -> None:
    async for line in prepare_bucket(place):
        click.echo(line)
