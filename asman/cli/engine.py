"""Is there a Docker engine on this machine? Found as Docker's own tools find it, asked for a ping, nothing more.

The worker has its own way to the engine; this only tells a person, before anything is started, what is missing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["NO_ENGINE", "Engine", "engine_address", "find_engine"]

NO_ENGINE = (
    "no Docker engine answers on this machine, so jobs stay queued until a worker joins.\n"
    "Install one (https://docs.docker.com/engine/install, or Podman with its socket) and start it; "
    "it is found by itself, or by DOCKER_HOST."
)
_PING_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Shape: ``problem`` is empty when the engine answered."""

    address: str
    problem: str = ""


def engine_address(environ: Mapping[str, str]) -> str:
    """DOCKER_HOST, else the current context's, else the first socket that exists of the usual places."""
    if environ.get("DOCKER_HOST"):
        return environ["DOCKER_HOST"]
    home = Path(environ.get("HOME", "/"))
    found = _context_address(environ, home)
    if found:
        return found
    runtime = environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    usual = "/var/run/docker.sock"
    others = [f"{runtime}/docker.sock", f"{home}/.docker/run/docker.sock"]
    others += [f"{runtime}/podman/podman.sock", "/run/podman/podman.sock"]
    return f"unix://{next((p for p in (usual, *others) if Path(p).exists()), usual)}"


def _context_address(environ: Mapping[str, str], home: Path) -> str:
    root = Path(environ.get("DOCKER_CONFIG") or home / ".docker")
    try:
        stored = json.loads((root / "config.json").read_text()).get("currentContext")
    except (OSError, ValueError, AttributeError):
        stored = None
    name = environ.get("DOCKER_CONTEXT") or stored
    if not name or name == "default":
        return ""
    digest = hashlib.sha256(name.encode()).hexdigest()
    try:
        meta = json.loads((root / "contexts" / "meta" / digest / "meta.json").read_text())
        return str(meta["Endpoints"]["docker"]["Host"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


async def find_engine(environ: Mapping[str, str]) -> Engine:
    """Ask the engine for a ping, at most for a few seconds."""
    address = engine_address(environ)
    try:
        async with asyncio.timeout(_PING_S):
            await _ping(address, environ)
    except TimeoutError:
        return Engine(address=address, problem=f"no answer within {_PING_S:.0f} s")
    except (OSError, ValueError) as error:
        return Engine(address=address, problem=getattr(error, "strerror", None) or str(error))
    return Engine(address=address)


async def _ping(address: str, environ: Mapping[str, str]) -> None:
    parts = urlsplit(address)
    if parts.scheme == "unix":
        reader, writer = await asyncio.open_unix_connection(parts.path)
    elif parts.scheme in ("tcp", "http", "https") and parts.hostname:
        context = _tls(environ) if parts.scheme == "https" or environ.get("DOCKER_TLS_VERIFY") else None
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 2375, ssl=context)
    else:
        raise ValueError(f"addresses of the kind {parts.scheme}:// are not supported; use unix:// or tcp://")
    try:
        writer.write(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
        await writer.drain()
        first = await reader.readline()
        if b" 200 " not in first:
            raise ValueError(f"it answered {first.decode('latin-1').strip() or 'nothing'}")
    finally:
        writer.close()


def _tls(environ: Mapping[str, str]) -> ssl.SSLContext:
    folder = Path(environ.get("DOCKER_CERT_PATH") or Path(environ.get("HOME", "/")) / ".docker")
    context = ssl.create_default_context(cafile=str(folder / "ca.pem") if (folder / "ca.pem").exists() else None)
    if (folder / "cert.pem").exists():
        context.load_cert_chain(str(folder / "cert.pem"), str(folder / "key.pem"))
    return context
