"""What the core and its operators see of the S3 backend: hooks, the URL, the command, what is loaded when."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from click.testing import CliRunner

import asman_s3
from asman.config import Config
from asman.errors import ConfigError
from asman.plugins import load_plugins, open_blob_store
from asman_s3 import connection
from asman_s3.blobs import S3BlobStore
from asman_s3.bucket import prepare_bucket
from asman_s3.command import s3
from asman_s3.place import Place, parse_place
from fresh_python import run_fresh
from s3_server import S3Server

MIB = 1 << 20
DRIVER = {"aioboto3", "aiobotocore", "boto3", "botocore"}


# --- hooks -----------------------------------------------------------------------------------------------------------


def test_the_scheme_is_ours_and_others_are_left_to_others() -> None:
    plugins = load_plugins([asman_s3], discover=False)
    assert isinstance(open_blob_store(plugins, "s3://some-bucket", Config()), S3BlobStore)
    for url in ("memory:", "file:///x", "redis://host", "s3x://b"):
        assert asman_s3.asman_blob_store(url, Config()) is None
    assert list(asman_s3.asman_schemes()) == ["s3"]


def test_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asman_s3, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"asman\[s3\]"):
        asman_s3.asman_blob_store("s3://some-bucket", Config())
    with pytest.raises(ModuleNotFoundError, match="aioboto3"):
        asman_s3.asman_command("s3")


def test_the_command_is_found_by_its_name_only() -> None:
    hook = load_plugins([asman_s3], discover=False).hook
    assert hook.asman_command(name="s3") is s3
    assert hook.asman_command(name="redis") is None


def test_a_server_with_another_store_loads_nothing_of_it(tmp_path: object) -> None:
    code = f"""
import asyncio, sys
import asman, asman_s3
from asman.app import create_app
from asman.config import Config
async def main():
    app = create_app(Config(backend="sqlite", data={str(tmp_path)!r}))
    await app.startup()
    await app.shutdown()
asyncio.run(main())
print(*sorted({DRIVER!r} & set(sys.modules)))
"""
    assert run_fresh(code).split() == []


# --- the URL ---------------------------------------------------------------------------------------------------------


def test_url_says_where_and_how() -> None:
    assert parse_place("s3://my.bucket-1") == Place(bucket="my.bucket-1")
    found = parse_place(
        "s3://bucket/a/b/?endpoint=http://10.0.0.1:9000/&public_endpoint=https://s3.example.org"
        "&region=eu-west-3&style=virtual&part=16MiB"
    )
    assert found == Place(
        bucket="bucket",
        prefix="a/b/",
        endpoint="http://10.0.0.1:9000",
        public_endpoint="https://s3.example.org",
        region="eu-west-3",
        style="virtual",
        part_bytes=16 * MIB,
    )
    assert str(found) == "s3://bucket/a/b/"
    assert parse_place("s3://bucket?endpoint=http://host").style == "path"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://", "bucket"),
        ("s3:bucket", "bucket"),
        ("s3://UPPER", "bucket"),
        ("s3://a", "bucket"),
        ("s3://a..b", "bucket"),
        ("s3://bucket/../x", "prefix"),
        ("s3://bucket/a//b", "prefix"),
        ("s3://bucket/ä", "prefix"),
        ("s3://bucket?endpoint=ftp://x", "endpoint"),
        ("s3://bucket?endpoint=host:9000", "endpoint"),
        ("s3://bucket?public_endpoint=http://user:secret@host", "public_endpoint"),
        ("s3://bucket?region=a b", "region"),
        ("s3://bucket?style=other", "style"),
        ("s3://bucket?part=1MiB", "part"),
        ("s3://bucket?part=much", "part"),
        ("s3://bucket?region=a&region=b", "twice"),
        ("s3://bucket?nonsense", "cannot be read"),
        ("s3://key:secret@bucket", "holds credentials"),
        ("s3://bucket?secret_access_key=secret", "unknown option"),
    ],
)
def test_url_that_cannot_be_meant_is_refused_without_repeating_a_secret(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_place(url)
    assert caught.value.hint
    assert "=secret" not in caught.value.message
    assert ":secret" not in caught.value.message


async def test_region_comes_from_the_url_then_the_environment(monkeypatch: pytest.MonkeyPatch, aws: S3Server) -> None:
    async def region(url: str) -> str:
        async with connection.open_client(parse_place(url)) as client:
            return str(client.meta.region_name)

    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert await region("s3://bucket?region=eu-west-3") == "eu-west-3"
    assert await region("s3://bucket") == "eu-central-1"
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert await region("s3://bucket") == "eu-north-1"
    monkeypatch.delenv("AWS_REGION")
    assert await region("s3://bucket") == "us-east-1"


async def test_profile_that_does_not_exist_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, aws: S3Server) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(ConfigError, match="no-such-profile"):
        async with S3BlobStore(parse_place("s3://some-bucket")):
            pass


# --- the command -----------------------------------------------------------------------------------------------------


async def told(place: Place) -> list[str]:
    return [line async for line in prepare_bucket(place)]


async def test_init_makes_the_bucket_and_its_rules_and_keeps_what_others_set(aws: S3Server) -> None:
    place, client = parse_place(aws.url("a-new-bucket", "pre")), aws.client()
    assert (await told(place))[0] == "bucket a-new-bucket is made"
    theirs = {"ID": "theirs", "AllowedMethods": ["GET"], "AllowedOrigins": ["https://theirs.example"]}
    rule = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
    cors = client.get_bucket_cors(Bucket=place.bucket)["CORSRules"]
    client.put_bucket_cors(Bucket=place.bucket, CORSConfiguration={"CORSRules": [theirs, *cors]})
    rules = client.get_bucket_lifecycle_configuration(Bucket=place.bucket)["Rules"]
    client.put_bucket_lifecycle_configuration(Bucket=place.bucket, LifecycleConfiguration={"Rules": [rule, *rules]})
    assert (await told(place))[0] == "bucket a-new-bucket is there"
    cors = client.get_bucket_cors(Bucket=place.bucket)["CORSRules"]
    assert sorted(c.get("ID", "theirs") for c in cors)[-1] == "theirs"
    assert len(cors) == 2
    rules = client.get_bucket_lifecycle_configuration(Bucket=place.bucket)["Rules"]
    assert sorted(rule["ID"] for rule in rules) == ["asman-unfinished-uploads", "theirs"]
    ours = next(rule for rule in rules if rule["ID"].startswith("asman"))
    assert ours["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}
    async with S3BlobStore(place) as store:
        assert await store.stat("key") is None


async def test_init_says_what_a_store_does_not_offer(swift: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    swift.as_environment(monkeypatch)
    lines = await told(parse_place(swift.url("a-new-bucket")))
    assert lines[0] == "bucket a-new-bucket is made"
    assert [line.startswith("left out, this store does not offer it") for line in lines] == [False, True, True]


async def test_init_that_is_refused_says_why(monkeypatch: pytest.MonkeyPatch, aws: S3Server) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ConfigError, match="no credentials"):
        await told(parse_place(aws.url("other-bucket")))


def test_init_prints_what_it_did(aws: S3Server) -> None:
    done = CliRunner().invoke(s3, ["init", aws.url("printed-bucket")])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[0] == "bucket printed-bucket is made"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{aws.endpoint}/printed-bucket/none")
