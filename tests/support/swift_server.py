"""A second S3 implementation: OpenStack Swift of Debian with its S3 interface, one node, in a temporary folder.

It knows neither ``If-None-Match`` on PUT nor the newer checksums, and keeps large objects as manifests: as different
from the other store as can be had. Four processes on private ports, rings of one device; nothing of ``/etc/swift``
is read. Its web server ends the answer to a failed HEAD with the last chunk of a body, which HEAD has none of: what
a proxy takes away in front of a real installation, a filter does here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3_server import AWS, S3Server, wait_until_open

__all__ = ["swift_server"]

_TOOLS = ("swift-proxy-server", "swift-ring-builder", "swift-object-server", "swift-container-server")
_KINDS = ("account", "container", "object")
_ENVIRON = {**AWS, "AWS_ACCESS_KEY_ID": "test:tester", "AWS_SECRET_ACCESS_KEY": "testing"}

_COMMON = "[swift-hash]\nswift_hash_path_suffix = tests\nswift_hash_path_prefix = tests\n"

_STORAGE = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
user = root
log_address = {folder}/no-syslog
fallocate_reserve = 0
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

_PROXY = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}
user = root
log_address = {folder}/no-syslog
[pipeline:main]
pipeline = no_chunk_after_head catch_errors gatekeeper cache listing_formats s3api tempauth bulk slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:no_chunk_after_head]
paste.filter_factory = no_chunk_after_head:factory
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
error_suppression_limit = 1
error_suppression_interval = 86400
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = false
dns_compliant_bucket_names = true
storage_domain = localhost
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""

_FILTER = """def factory(settings, **more):
    def wrap(app):
        def answer(environ, start):
            def started(status, headers, error=None):
                if environ["REQUEST_METHOD"] == "HEAD" and "content-length" not in {n.lower() for n, _ in headers}:
                    headers = [*headers, ("Content-Length", "0")]
                return start(status, headers, error)
            return app(environ, started)
        return answer
    return wrap
"""


@contextlib.contextmanager
def swift_server() -> Iterator[S3Server]:
    """Skips where Swift is not installed, or the user is not root (its servers insist on choosing their user)."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {missing[0]}: apt-get install swift-proxy swift-account swift-container swift-object")
    if os.geteuid() != 0:
        pytest.skip("only root can start Swift's servers")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="asman-swift-")))
        ports = _free_ports(len(_KINDS) + 1)
        (folder / "swift.conf").write_text(_COMMON)
        (folder / "no_chunk_after_head.py").write_text(_FILTER)
        for kind, port in zip(_KINDS, ports, strict=False):
            _make_ring(folder, kind, port)
            (folder / f"{kind}.conf").write_text(_STORAGE.format(kind=kind, port=port, folder=folder))
            stack.enter_context(_running(f"swift-{kind}-server", folder / f"{kind}.conf"))
        (folder / "proxy.conf").write_text(_PROXY.format(port=ports[-1], folder=folder))
        proxy = stack.enter_context(_running("swift-proxy-server", folder / "proxy.conf"))
        endpoint = f"http://127.0.0.1:{ports[-1]}"
        wait_until_open(endpoint, proxy)
        for port in ports[:-1]:
            wait_until_open(f"http://127.0.0.1:{port}", proxy)
        yield S3Server(endpoint=endpoint, pid=proxy.pid, environ=_ENVIRON)


def _make_ring(folder: Path, kind: str, port: int) -> None:
    (folder / "devices" / "d1").mkdir(parents=True, exist_ok=True)
    builder = str(folder / f"{kind}.builder")
    for arguments in (
        ("create", "4", "1", "0"),
        ("add", f"r1z1-127.0.0.1:{port}/d1", "1"),
        ("rebalance",),
    ):
        subprocess.run(
            ["swift-ring-builder", builder, *arguments], check=True, capture_output=True, env=_environ(folder)
        )


def _environ(folder: Path) -> dict[str, str]:
    """Debian's own Python runs it: what is on the path of the tests' Python is not for it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHONPATH": str(folder)}


@contextlib.contextmanager
def _running(tool: str, conf: Path) -> Iterator[subprocess.Popen[bytes]]:
    with conf.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [tool, str(conf), "--verbose"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environ(conf.parent),
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
