"""A registry with small images, for pulls by a real engine: ``python tiny_registry.py PORT FOLDER``.

It has an image under every name that does not begin with ``missing``, each with a layer of its own: of 4 MiB under
names that begin with ``large``, of 4 MiB that are a few kilobytes packed under those with ``dense``. Requests are
written to ``FOLDER/log``; a layer is held back while ``FOLDER/hold`` exists; while ``FOLDER/private`` exists everything
needs the login ``me:secret``; while ``FOLDER/broken`` exists nothing works.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import random
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_LARGE_BYTES = 4 << 20
_LOGIN = "Basic " + base64.b64encode(b"me:secret").decode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _image(name: str) -> tuple[bytes, dict[str, bytes]]:
    """The manifest, and the blobs by digest."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        entry = tarfile.TarInfo("name")
        entry.size = len(name)
        tar.addfile(entry, io.BytesIO(name.encode()))
        if name.startswith(("large", "dense")):
            filler = random.Random(name).randbytes(_LARGE_BYTES) if name.startswith("large") else bytes(_LARGE_BYTES)
            entry = tarfile.TarInfo("filler")
            entry.size = len(filler)
            tar.addfile(entry, io.BytesIO(filler))
    plain = content.getvalue()
    layer = gzip.compress(plain, mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"User": "1000", "Entrypoint": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(plain)]},
            "history": [{"created_by": "a test"}],
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": len(config),
            "digest": _digest(config),
        },
        "layers": [
            {
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "size": len(layer),
                "digest": _digest(layer),
            }
        ],
    }
    return json.dumps(manifest).encode(), {_digest(config): config, _digest(layer): layer}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    lock = threading.Lock()

    def do_GET(self) -> None:
        with self.lock, (self.folder / "log").open("a") as log:
            log.write(f"{self.command} {self.path}\n")
        name, _, rest = self.path.removeprefix("/v2/").partition("/")
        if (self.folder / "broken").exists():
            self._answer(500, b"{}", "application/json")
        elif (self.folder / "private").exists() and self.headers.get("Authorization") != _LOGIN:
            self._answer(401, b"{}", "application/json", {"WWW-Authenticate": 'Basic realm="test"'})
        elif not name:
            self._answer(200, b"{}", "application/json")
        elif name.startswith("missing"):
            error = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
            self._answer(404, error, "application/json")
        else:
            self._answer_for(rest, *_image(name))

    def _answer_for(self, rest: str, manifest: bytes, blobs: dict[str, bytes]) -> None:
        if rest.startswith("manifests/"):
            self._answer(200, manifest, _MANIFEST, {"Docker-Content-Digest": _digest(manifest)})
            return
        while (self.folder / "hold").exists():
            threading.Event().wait(0.02)
        self._answer(200, blobs[rest.rpartition("/")[2]], "application/octet-stream")

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        return


if __name__ == "__main__":
    _Handler.folder = Path(sys.argv[2])
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler)
    (_Handler.folder / "ready").touch()
    server.serve_forever()
