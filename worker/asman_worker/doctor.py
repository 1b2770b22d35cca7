"""The usual faults of a worker's set-up, looked for one by one; each says what was found and what to do about it.

Looking changes nothing: the one container that is made is never started and is removed again, and so is the file that
it is asked for. What is judged from the engine's own words (``/version``, ``/info``) is judged in pure functions.

Source: promises, "Container hardening" and "Worker's own rights"; Docker Engine API v1.41, ``GET /info``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asman.errors import AsmanError, ConfigError
from asman.units import show_bytes
from asman_worker.config import WorkerConfig, load_worker_config
from asman_worker.docker import Engine, EngineError, read_moment
from asman_worker.gpu import Gpu, detect
from asman_worker.grant import PROFILES
from asman_worker.network import has_static_busybox
from asman_worker.secrets import SecretStore

__all__ = ["Finding", "examine", "judge_engine", "judge_gpus", "judge_guard", "judge_socket", "judge_space"]

_LEAST_API = (1, 41)
_LITTLE_SPACE_BYTES = 10 << 30
_SKEW_S = 5.0
_ENGINE_LIMIT_S = 20.0
_NO_SUCH_SOURCE = "bind source path does not exist"
_NO_IMAGE = "asman-doctor.invalid/there-is-no-such-image:0"
_NVIDIA_TOOLS = ("nvidia-container-runtime-hook", "nvidia-container-cli", "nvidia-ctk")
_SERVICE = "start the engine (systemctl start docker), or name another with DOCKER_HOST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of ``asman doctor``. Shape: ``result`` is ok, warn or fail; ``next_step`` is empty for ok."""

    name: str
    result: str
    found: str
    next_step: str = ""


async def examine(environ: Mapping[str, str]) -> list[dict[str, str]]:
    """Everything about this machine as a worker with the settings of ``environ``, for the hook ``asman_doctor``."""
    return [asdict(finding) for finding in await _look(environ)]


async def _look(environ: Mapping[str, str]) -> list[Finding]:
    try:
        config, _ = load_worker_config({"queues": ("any",)}, environ)
    except ConfigError as error:
        step = error.hint or "correct it where it stands"
        return [Finding(name="worker settings", result="fail", found=error.message, next_step=step)]
    found = [*_check_secrets(config), *_check_git()]
    async with Engine(environ.get("DOCKER_HOST")) as engine:
        return [*found, *(await _check_engine(engine, config))]


def _check_secrets(config: WorkerConfig) -> Iterator[Finding]:
    if not config.secrets:
        return
    try:
        count = SecretStore(Path(config.secrets)).load()
    except ConfigError as error:
        step = error.hint.removeprefix("Run: ") or "correct the file"
        yield Finding(name="secrets", result="fail", found=error.message, next_step=step)
    else:
        yield Finding(name="secrets", result="ok", found=f"{count} in {config.secrets}")


def _check_git() -> Iterator[Finding]:
    git = shutil.which("git")
    yield Finding(
        name="git",
        result="ok" if git else "warn",
        found=git or "not installed",
        next_step="" if git else "jobs that build from a repository fail without it: apt-get install git",
    )


# --- the engine ------------------------------------------------------------------------------------------------------


async def _check_engine(engine: Engine, config: WorkerConfig) -> list[Finding]:
    socket = judge_socket(engine.address)
    if socket is not None:
        return [socket]
    try:
        async with asyncio.timeout(_ENGINE_LIMIT_S):
            asked_at = time.time()
            version, info = await engine.describe()
            middle = (asked_at + time.time()) / 2
    except TimeoutError:
        return [_docker("fail", f"{engine.address}: no answer within {_ENGINE_LIMIT_S:.0f} s", "restart the engine")]
    except (AsmanError, EngineError) as error:
        return [_docker("warn", f"{engine.address}: {error.message}", f"to run jobs here: {_SERVICE}")]
    return [
        *judge_engine(engine.address, version, info, now=middle, strict=config.profile == "strict"),
        *judge_gpus(await detect(), info, has_tools=any(map(shutil.which, _NVIDIA_TOOLS)), wanted=config.gpus),
        *(await _check_guard(engine, config)),
        await _check_same_path(engine, Path(config.data_directory)),
        *_check_space(config, info),
    ]


def _docker(result: str, found: str, next_step: str = "") -> Finding:
    return Finding(name="docker", result=result, found=found, next_step=next_step)


def judge_socket(address: str) -> Finding | None:
    """Why an engine at a path of this machine cannot be reached, as far as the path tells; None: it may be."""
    if not address.startswith("unix://"):
        return None
    path = Path(address.removeprefix("unix://"))
    try:
        known = path.stat()
    except PermissionError:
        return _docker("fail", f"{path}: permission denied", _permission_step(""))
    except OSError:
        return _docker("warn", f"there is no socket at {path}", f"to run jobs here: {_SERVICE}")
    if not stat.S_ISSOCK(known.st_mode):
        return _docker("fail", f"{path} is no socket", "set DOCKER_HOST to the engine's socket")
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        return _docker("fail", f"{path}: permission denied", _permission_step(_group_of(path, known.st_mode)))
    return None


def _group_of(path: Path, mode: int) -> str:
    """The group whose members may use the socket, empty if it is not for a group."""
    try:
        return path.group() if mode & stat.S_IWGRP else ""
    except KeyError:
        return ""


def _permission_step(group: str) -> str:
    rootless = "use a rootless engine of this user (dockerd-rootless-setuptool.sh install)"
    return f"log in again after: usermod -aG {group} $USER; or {rootless}" if group else rootless


def judge_engine(
    address: str, version: Mapping[str, Any], info: Mapping[str, Any], *, now: float, strict: bool = False
) -> Iterator[Finding]:
    """What the engine's own words tell: its age, its clock, its limits, its fences. Units: ``now`` in epoch seconds."""
    api = str(version.get("ApiVersion") or "0")
    named = f"{_name_of(version)} {version.get('Version') or '?'}"
    if _numbers(api) < _LEAST_API:
        least = ".".join(map(str, _LEAST_API))
        step = "install a newer engine: Docker 20.10 or later, or Podman 4 or later"
        yield _docker("fail", f"{named} speaks API {api}, {least} is needed", step)
    else:
        yield _docker("ok", f"{named}, API {api}, at {address}")
    yield from _judge_clock(info, now)
    yield from _judge_limits(info)
    yield from _judge_fences(info, strict=strict)


def _name_of(version: Mapping[str, Any]) -> str:
    parts = [str(part.get("Name")) for part in version.get("Components") or () if isinstance(part, Mapping)]
    return "Podman" if any("podman" in part.lower() for part in parts) else "Docker"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in text.split("."))


def _judge_clock(info: Mapping[str, Any], now: float) -> Iterator[Finding]:
    try:
        its = read_moment(str(info.get("SystemTime") or ""))
    except ValueError:
        its = 0.0
    if not its:
        return
    skew_s = its - now
    is_off = abs(skew_s) > _SKEW_S
    yield Finding(
        name="engine clock",
        result="warn" if is_off else "ok",
        found=f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's",
        next_step="time limits of jobs taken up again are off: set both clocks (NTP), or restart the engine's VM"
        if is_off
        else "",
    )


_LIMITS = (
    ("MemoryLimit", "fail", "memory"),
    ("CpuCfsQuota", "fail", "cores"),
    ("PidsLimit", "fail", "processes"),
    ("SwapLimit", "warn", "swap"),
)


def _judge_limits(info: Mapping[str, Any]) -> Iterator[Finding]:
    missing = [(result, what) for member, result, what in _LIMITS if info.get(member) is False]
    cgroups = f"cgroup v{info.get('CgroupVersion') or '1'}"
    if not missing:
        yield Finding(name="limits", result="ok", found=f"memory, cores, processes and swap hold ({cgroups})")
        return
    yield Finding(
        name="limits",
        result="fail" if any(result == "fail" for result, _ in missing) else "warn",
        found=f"the engine does not enforce: {', '.join(what for _, what in missing)} ({cgroups})",
        next_step="boot with cgroup_enable=memory swapaccount=1; for a rootless engine use cgroup v2 and delegate "
        "cpu, memory and pids to the user's systemd",
    )


def _judge_fences(info: Mapping[str, Any], *, strict: bool) -> Iterator[Finding]:
    options = {str(option).partition(",")[0].removeprefix("name=") for option in info.get("SecurityOptions") or ()}
    has_filter = "seccomp" in options
    yield Finding(
        name="seccomp",
        result="ok" if has_filter else "fail",
        found="system calls of jobs are filtered" if has_filter else "system calls of jobs are not filtered",
        next_step="" if has_filter else "use a kernel and an engine with seccomp (docker info, Security Options)",
    )
    if fence := next((text for option, text in _ROOT_IS.items() if option in options), ""):
        yield Finding(name="root in jobs", result="ok", found=fence)
        return
    yield Finding(
        name="root in jobs",
        result="warn" if strict else "ok",
        found="is root of this machine, held by the container's fences alone",
        next_step='for strangers\' jobs use a rootless engine, or "userns-remap": "default" in daemon.json'
        if strict
        else "",
    )


_ROOT_IS = {
    "rootless": "is the engine's own unprivileged user (rootless)",
    "userns": "is an unprivileged user of this machine (userns-remap)",
}


# --- GPUs ------------------------------------------------------------------------------------------------------------


def judge_gpus(
    detected: tuple[Gpu, ...], info: Mapping[str, Any], *, has_tools: bool, wanted: str = "0"
) -> Iterator[Finding]:
    """Can the engine give this host's GPUs to containers? Shape: ``wanted`` is the owner's ``--gpus``."""
    is_wanted = wanted.strip() not in ("", "0")
    if not detected:
        if is_wanted:
            step = "install NVIDIA's driver until nvidia-smi lists the cards, or lend none (--gpus 0)"
            yield Finding(name="gpu", result="fail", found=f"--gpus is {wanted}, nvidia-smi shows none", next_step=step)
        return
    models = ", ".join(sorted({gpu.model or "unnamed" for gpu in detected}))
    count = f"{len(detected)} ({models})"
    knows_devices = any(device.get("Source") == "cdi" for device in info.get("DiscoveredDevices") or ())
    if "nvidia" in (info.get("Runtimes") or {}) or knows_devices or has_tools:
        yield Finding(name="gpu", result="ok", found=f"{count}, and the engine can give them to jobs")
        return
    yield Finding(
        name="gpu",
        result="fail" if is_wanted else "warn",
        found=f"{count}, but the engine knows no NVIDIA runtime",
        next_step="install nvidia-container-toolkit, then: nvidia-ctk runtime configure --runtime=docker "
        "&& systemctl restart docker",
    )


# --- paths and space -------------------------------------------------------------------------------------------------


async def _check_guard(engine: Engine, config: WorkerConfig) -> list[Finding]:
    if (config.network or PROFILES[config.profile].network) != "egress":
        return []
    is_here = await engine.image(config.guard_image) is not None
    return [judge_guard(config.guard_image, is_here=is_here, can_be_made=has_static_busybox())]


def judge_guard(image: str, *, is_here: bool, can_be_made: bool) -> Finding:
    """Will there be what fences in the network of jobs? The worker pulls the image at its start if it must."""
    if is_here or can_be_made:
        found = f"{image} is here" if is_here else f"{image} can be made of this machine's busybox"
        return Finding(name="guard image", result="ok", found=found)
    step = f"docker pull {image}; or install a static busybox, or choose --network none or open"
    found = f"{image} is not here; the worker pulls it at its start, and does not start without it"
    return Finding(name="guard image", result="warn", found=found, next_step=step)


async def _check_same_path(engine: Engine, data: Path) -> Finding:
    """Does the engine find at the data directory's path what lies there for us?"""
    name = "same path"
    try:
        with _marker(data) as (marker, content):
            problem = await _seen_by_engine(engine, marker, content)
    except OSError as error:
        step = "choose a directory of this user with --data-directory, or change its owner"
        return Finding(name=name, result="fail", found=f"{data} is not writable: {error.strerror}", next_step=step)
    except (AsmanError, EngineError) as error:
        step = "look into the engine's own log (journalctl -u docker)"
        return Finding(name=name, result="warn", found=f"could not be looked at: {error.message}", next_step=step)
    if problem:
        step = f"mount the directory at the same path for both: -v {data}:{data}; a remote engine cannot be used"
        return Finding(name=name, result="fail", found=f"{data}: {problem}", next_step=step)
    return Finding(name=name, result="ok", found=f"{data} is the same for the engine")


@contextlib.contextmanager
def _marker(data: Path) -> Iterator[tuple[Path, bytes]]:
    """A file that nobody else can have; a directory that was made for it goes again."""
    made = [path for path in (data, *data.parents) if not path.exists()]
    data.mkdir(parents=True, exist_ok=True)
    content = secrets.token_hex(16).encode()
    handle, name = tempfile.mkstemp(prefix="doctor-", dir=data)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
        yield Path(name), content
    finally:
        Path(name).unlink(missing_ok=True)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


async def _seen_by_engine(engine: Engine, marker: Path, content: bytes) -> str:
    """Empty if it is; else what is wrong. With no image here the engine is still asked whether the path exists."""
    image = await engine.any_image()
    mount = {"Type": "bind", "Source": str(marker), "Target": "/marker", "ReadOnly": True}
    body = {"Image": image or _NO_IMAGE, "Cmd": ["-"], "HostConfig": {"Mounts": [mount]}}
    try:
        container = await engine.create(body)
    except EngineError as error:
        if _NO_SUCH_SOURCE in error.message:
            return "the engine does not find there what the worker writes"
        if error.status == 404 and not image:
            return ""
        raise
    try:
        read = await engine.read_file(container, "/marker")
    finally:
        await engine.remove(container)
    return "" if read == content else "the engine finds another file there"


def _check_space(config: WorkerConfig, info: Mapping[str, Any]) -> Iterator[Finding]:
    places = {"data directory": Path(config.data_directory)}
    if root := info.get("DockerRootDir"):
        places["engine's data"] = Path(str(root))
    for what, place in places.items():
        there = next((path for path in (place, *place.parents) if path.exists()), None)
        is_ours = what == "data directory" or there == place
        if there is not None and is_ours:
            yield judge_space(what, place, shutil.disk_usage(there).free)
        else:
            yield Finding(name=f"disk of the {what}", result="ok", found=f"{place} cannot be seen from here")


def judge_space(what: str, place: Path, free_bytes: int) -> Finding:
    """Is there room for images, inputs and outputs?"""
    is_little = free_bytes < _LITTLE_SPACE_BYTES
    step = "docker system prune removes unused images" if what.startswith("engine") else "move it with --data-directory"
    return Finding(
        name=f"disk of the {what}",
        result="warn" if is_little else "ok",
        found=f"{show_bytes(free_bytes)} free at {place}",
        next_step=f"jobs with large images or files fail: free some; {step}" if is_little else "",
    )
