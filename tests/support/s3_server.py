"""S3 stores for tests: moto's server as a process of its own on a private port, and a client that looks behind.

The store is started when a test asks for it and stopped after the run. What the driver reads from the environment
(credentials, region, profile) is set for each test, so that nothing of the machine's own configuration is used.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

__all__ = ["AWS", "S3Server", "moto_server", "wait_until_open"]

AWS = {
    "AWS_ACCESS_KEY_ID": "test-key",
    "AWS_SECRET_ACCESS_KEY": "test-secret-that-appears-nowhere",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
_START_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """A running store. Shape: ``endpoint`` is its URL; ``pid`` its process."""

    endpoint: str
    pid: int
    environ: dict[str, str]

    def url(self, bucket: str, prefix: str = "", **options: str) -> str:
        given = {"endpoint": self.endpoint, **options}
        return f"s3://{bucket}/{prefix}?{'&'.join(f'{name}={value}' for name, value in given.items())}"

    def client(self) -> Any:
        """A plain client of the store, for tests to look and meddle with."""
        key, secret = self.environ["AWS_ACCESS_KEY_ID"], self.environ["AWS_SECRET_ACCESS_KEY"]
        return _client(self.endpoint, key, secret, self.environ["AWS_DEFAULT_REGION"])

    def as_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in self.environ.items():
            monkeypatch.setenv(name, value)

    def bucket(self) -> str:
        """A bucket of the caller's own."""
        name = f"test-{uuid4().hex[:20]}"
        self.client().create_bucket(Bucket=name)
        return name


@functools.cache
def _client(endpoint: str, key: str, secret: str, region: str) -> Any:
    """Kept: making one takes a tenth of a second."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name=region,
        config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
    )


@contextlib.contextmanager
def moto_server() -> Iterator[S3Server]:
    """Skips where moto is not installed."""
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("boto3") is None:
        pytest.skip('needs moto and boto3: pip install "moto[server]" "asman[s3]"')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **AWS},
        )
        try:
            endpoint = f"http://127.0.0.1:{port}"
            wait_until_open(endpoint, process)
            yield S3Server(endpoint=endpoint, pid=process.pid, environ=AWS)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def wait_until_open(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    """Until something answers there. Errors: AssertionError if the process ends or takes too long."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the store at {endpoint} did not start: {error}") from error
        time.sleep(0.05)
