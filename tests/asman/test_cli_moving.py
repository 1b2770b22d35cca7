"""``asman export`` and ``asman import`` as processes: files, pipes, SIGKILL, a server that writes meanwhile, memory."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asman.archive import JOB, split_job
from asman.cli.streams import partial_name
from asman.client import Client
from asman.identity import known_id
from asman.testing import fresh_id, make_job
from asman.testing.log_store import line
from moved import Stores, everything, fill, reader_of, stores
from processes import eventually
from served import Story, environ, served, telling_worker

ASMAN = [sys.executable, "-m", "asman"]
MIB = 1 << 20


def call(*arguments: str, cwd: Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run([*ASMAN, *arguments], cwd=cwd, env=environ(), capture_output=True, timeout=120, **given)


def started(*arguments: str, cwd: Path, **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*ASMAN, *arguments], cwd=cwd, env=environ(), **more)


def done(*arguments: str, cwd: Path) -> str:
    """What a command that must succeed says."""
    ended = call(*arguments, cwd=cwd)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stderr.decode() + ended.stdout.decode()


async def filled(of: Stores, jobs: int = 20, blobs: int = 3, blob_bytes: int = 5_000) -> list[str]:
    """A store with jobs in two queues; the keys of its blobs."""
    chance = random.Random(jobs)
    keys = [await of.put(chance.randbytes(blob_bytes)) for _ in range(blobs)]
    for n in range(jobs):
        wants = {"image": "a", "inputs": {"a": {"type": "key", "value": keys[n % blobs]}}, "x": "x" * (n % 5 * 9_000)}
        job = make_job(f"q{n % 2}", fresh_id(n), attempt=1)
        await fill(of, job, {"definition": wants}, {"run": [line(str(m)) for m in range(n % 7)]})
    return keys


async def seen(folder: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    async with stores("sqlite", folder) as opened:
        return await everything(opened, keys)


@pytest.fixture
async def source(tmp_path: Path) -> tuple[dict[str, Any], list[str]]:
    """The store in ``old``: what can be seen of it, and its blobs."""
    async with stores("sqlite", tmp_path / "old") as of:
        keys = await filled(of)
        return await everything(of, keys), keys


# --- files and pipes -------------------------------------------------------------------------------------------------


async def test_a_whole_store_moves_through_a_file(tmp_path: Path, source: Any) -> None:
    before, keys = source
    said = done("export", "--data", "old", "-o", "all.asman", cwd=tmp_path)
    assert "20 jobs, " in said
    assert os.stat(tmp_path / "all.asman").st_mode & 0o777 == 0o600
    assert not partial_name(tmp_path / "all.asman").exists()
    said = done("import", "--backend", "sqlite", "--data", "new", "all.asman", cwd=tmp_path)
    assert "20 jobs written, 0 present already, 0 kept" in said
    assert await seen(tmp_path / "new", keys) == before
    summary = json.loads(call("import", "--data", "new", "--json", "all.asman", cwd=tmp_path).stdout)
    assert (summary["written"], summary["present"], summary["refused"]) == (0, 20, [])
    assert summary["bytes"] == os.stat(tmp_path / "all.asman").st_size
    again = call("export", "--data", "new", "-o", "again.asman", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["jobs"] == 20
    assert again.stderr == b""


@pytest.mark.parametrize("way", ["pipe", "named pipe"])
async def test_queues_move_through_a_pipe(tmp_path: Path, source: Any, way: str) -> None:
    before, _ = source
    name = "-" if way == "pipe" else "through"
    if way == "named pipe":
        os.mkfifo(tmp_path / name)
    exporting = started("export", "--data", "old", "--queue", "q1", "-o", name, cwd=tmp_path, stdout=subprocess.PIPE)
    importing = started("import", "--data", "new", name, cwd=tmp_path, stdin=exporting.stdout)
    assert [ended.wait(timeout=60) for ended in (exporting, importing)] == [0, 0]
    after = await seen(tmp_path / "new")
    assert after.keys() - {"counts"} == {place for place in before if place.startswith("q1/")}
    assert all(after[place] == before[place] for place in after if place != "counts")


async def test_an_export_whose_reader_has_gone_ends_with_a_sentence(tmp_path: Path) -> None:
    async with stores("sqlite", tmp_path / "old") as of:
        await filled(of, blobs=1, blob_bytes=4 * MIB)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    exporting = started("export", "--data", "old", "-o", "-", cwd=tmp_path, **pipes)
    assert exporting.stdout is not None
    assert len(exporting.stdout.read(100)) == 100
    exporting.stdout.close()
    assert exporting.stderr is not None
    said = exporting.stderr.read()
    assert exporting.wait(timeout=60) == 69
    assert b"error: the reader of the export has gone" in said
    assert b"Traceback" not in said


async def test_what_cannot_be_exported_is_told_with_the_next_step(tmp_path: Path, source: Any) -> None:
    def told(*arguments: str, code: int = 1) -> str:
        ended = call("export", *arguments, cwd=tmp_path)
        assert ended.returncode == code
        assert b"Traceback" not in ended.stderr
        return ended.stderr.decode()

    assert "there is no store at" in told("--data", "elsewhere", "-o", "x")
    assert not (tmp_path / "elsewhere").exists()
    assert "belongs to one process" in told("--backend", "memory", "-o", "x")
    assert "queue name" in told("--data", "old", "--queue", "a/b", "-o", "x")
    assert "--resume needs a file" in told("--data", "old", "--resume", "-o", "-", code=2)
    assert "No such file" in told("--data", "old", "-o", "no/such/folder/x")
    (tmp_path / "taken").write_text("mine")
    assert "taken is there already" in told("--data", "old", "-o", "taken")
    partial_name(tmp_path / "half").write_bytes(b"")
    assert "--resume" in told("--data", "old", "-o", "half")
    partial_name(tmp_path / "half").write_bytes(b"something else")
    assert "no export of asman" in told("--data", "old", "--resume", "-o", "half")
    assert partial_name(tmp_path / "half").read_bytes() == b"something else"


async def test_what_cannot_be_imported_is_told_and_makes_no_store(tmp_path: Path, source: Any) -> None:
    done("export", "--data", "old", "-o", "all", cwd=tmp_path)
    whole = (tmp_path / "all").read_bytes()

    def told(data: bytes, *arguments: str, code: int = 1) -> str:
        (tmp_path / "given").write_bytes(data)
        ended = call("import", *(arguments or ("--data", "new", "given")), cwd=tmp_path)
        assert ended.returncode == code, ended.stderr
        assert b"Traceback" not in ended.stderr
        return ended.stderr.decode()

    assert "is empty" in told(b"")
    assert "no export of asman" in told(b"\x00" * 100_000)
    assert "belongs to one process" in told(whole, "--backend", "memory", "given")
    assert "No such file" in told(whole, "--data", "new", "nowhere")
    assert not (tmp_path / "new").exists()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    assert "(byte " in told(bytes(damaged))
    said = told(whole[:-10])
    assert f"ends at byte {len(whole) - 10} without its end mark" in said
    assert "hint: " in said
    assert "20 jobs written" not in said
    assert await seen(tmp_path / "new") == {k: v for k, v in source[0].items() if k not in source[1]}


async def test_a_blob_that_is_not_what_its_name_says_fails_the_import_and_nothing_else(tmp_path: Path) -> None:
    async with stores("sqlite", tmp_path / "old") as of:
        [key, *_] = await filled(of)
        [path] = (tmp_path / "old" / "blobs").glob(f"*/{key}")
        path.write_bytes(b"bit rot")
        os.utime(path, (4e9, 4e9))  # the time of a blob is its expiry
    assert f"imports refuse them: {key}" in done("export", "--data", "old", "-o", "all", cwd=tmp_path)
    ended = call("import", "--data", "new", "all", cwd=tmp_path)
    assert ended.returncode == 1
    assert f"not stored: {key}" in ended.stderr.decode()
    assert "20 jobs written" in ended.stderr.decode()


# --- after an interruption -------------------------------------------------------------------------------------------


async def test_an_export_goes_on_where_its_file_was_cut(tmp_path: Path, source: Any) -> None:
    before, keys = source
    done("export", "--data", "old", "-o", "whole", cwd=tmp_path)
    whole = (tmp_path / "whole").read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1, len(whole)):
        partial_name(tmp_path / f"x{cut}").write_bytes(whole[:cut])
        done("export", "--data", "old", "-o", f"x{cut}", "--resume", cwd=tmp_path)
    assert "whole already" in done("export", "--data", "old", "-o", "x0", "--resume", cwd=tmp_path)
    assert (tmp_path / f"x{len(whole)}").read_bytes() == whole
    done("import", "--data", "new", f"x{len(whole) // 2}", cwd=tmp_path)
    assert await seen(tmp_path / "new", keys) == before
    partial_name(tmp_path / "y").write_bytes(whole[:5_000])
    ended = call("export", "--data", "old", "--queue", "q1", "-o", "y", "--resume", cwd=tmp_path)
    assert (ended.returncode, b"is of the whole store" in ended.stderr) == (1, True)


async def test_an_export_that_is_killed_again_and_again_ends_whole(tmp_path: Path) -> None:
    async with stores("sqlite", tmp_path / "old") as of:
        keys = await filled(of, jobs=60, blobs=30, blob_bytes=2 * MIB)
        before = await everything(of, keys)
    chance, part, kills = random.Random(5), partial_name(tmp_path / "all"), 0
    command = ("export", "--data", "old", "-o", "all", "--resume")
    for stop_at in sorted(chance.randrange(1, 60 * MIB) for _ in range(5)):
        exporting = started(*command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        reached = partial(_has_grown, part, stop_at, exporting)
        eventually("the file grows", reached, every_s=0.0005)
        exporting.kill()
        kills += exporting.wait() == -signal.SIGKILL
    assert kills, "none was killed in the middle"
    done("export", "--data", "old", "-o", "all", "--resume", cwd=tmp_path)
    done("import", "--data", "new", "all", cwd=tmp_path)
    assert await seen(tmp_path / "new", keys) == before
    assert (tmp_path / "all").stat().st_size < 75 * MIB, "it went on, rather than beginning anew"


def _has_grown(part: Path, size: int, exporting: subprocess.Popen[bytes]) -> bool:
    return exporting.poll() is not None or (part.exists() and part.stat().st_size >= size)


async def test_an_import_that_is_killed_again_and_again_ends_whole(tmp_path: Path) -> None:
    async with stores("sqlite", tmp_path / "old") as of:
        keys = await filled(of, jobs=300, blobs=10, blob_bytes=200_000)
        before = await everything(of, keys)
    done("export", "--data", "old", "-o", "all", cwd=tmp_path)
    data = (tmp_path / "all").read_bytes()
    chance = random.Random(6)
    for stop_at in [chance.randrange(len(data)) for _ in range(5)]:
        pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        importing = started("import", "--data", "new", "-", cwd=tmp_path, **pipes)
        assert importing.stdin is not None
        importing.stdin.write(data[:stop_at])
        importing.stdin.flush()
        importing.kill()
        importing.stdin.close()
        assert importing.wait() == -signal.SIGKILL
        for place, entry in (await seen(tmp_path / "new")).items():
            assert place == "counts" or entry[:2] == before[place][:2], "half a job"
    said = done("import", "--data", "new", "all", cwd=tmp_path)
    assert "0 kept" in said
    assert not said.startswith("300 jobs written"), "what was stored before is passed over"
    assert await seen(tmp_path / "new", keys) == before


async def test_an_import_that_waits_for_its_pipe_is_ended_by_a_signal(tmp_path: Path, source: Any) -> None:
    done("export", "--data", "old", "-o", "all", cwd=tmp_path)
    importing = started("import", "--data", "new", "-", cwd=tmp_path, stdin=subprocess.PIPE)
    assert importing.stdin is not None
    importing.stdin.write((tmp_path / "all").read_bytes()[:-5])
    importing.stdin.flush()
    eventually("it has begun", (tmp_path / "new" / "asman.db").exists)
    importing.send_signal(signal.SIGINT)
    assert importing.wait(timeout=20) == 130
    importing.stdin.close()


# --- while a server writes -------------------------------------------------------------------------------------------


async def test_every_export_while_a_server_writes_is_whole_and_misses_nothing_from_before(tmp_path: Path) -> None:
    story = Story(lines=[("Running", "out\n", False)], outputs={"a": {"type": "utf8", "value": "A" * 20_000}})
    with served("--data", "old", cwd=tmp_path) as server:
        async with telling_worker(server.url, "q", lambda _: story), Client(server.url) as client:
            acknowledged: list[str] = []

            async def submit_until(exported: asyncio.Future[str]) -> None:
                while not exported.done():
                    wants = {"image": "a", "command": f"echo {len(acknowledged)}", "env": {"A": "a" * 20_000}}
                    acknowledged.append((await client.submit("q", wants)).job_id)

            for number in range(3):
                known = set(acknowledged)
                arguments = ("export", "--data", "old", "-o", f"x{number}")
                exported = asyncio.ensure_future(asyncio.to_thread(done, *arguments, cwd=tmp_path))
                await submit_until(exported)
                await exported
                assert known <= await _checked_jobs((tmp_path / f"x{number}").read_bytes())
            assert len(known) > 20
    done("export", "--data", "old", "-o", "last", cwd=tmp_path)
    for name in ("x0", "x2", "last"):
        done("import", "--data", "new", name, cwd=tmp_path)
    assert await seen(tmp_path / "new") == await seen(tmp_path / "old")


async def _checked_jobs(data: bytes) -> set[str]:
    """The jobs of an archive; each has its definition, and its result if the record says so."""
    found = set()
    reader = reader_of(data)
    await reader.start()
    async for item in reader.items():
        if item.kind == JOB:
            job, documents = split_job(item.members, await item.read())
            assert known_id(json.loads(documents["definition"])) == job.job_id
            assert ("result" in documents) == job.has_result
            found.add(job.job_id)
    return found


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads memory as Linux tells it")
async def test_memory_is_flat_for_a_large_blob_and_many_jobs(tmp_path: Path) -> None:
    size_mib = int(os.environ.get("ASMAN_TEST_EXPORT_MIB", "200"))
    for name, blob_bytes, jobs in (("small", MIB, 10), ("large", size_mib * MIB, 3_000)):
        async with stores("sqlite", tmp_path / name) as of:
            piece = bytes(range(256)) * 4096

            async def pieces(count: int = blob_bytes // MIB, piece: bytes = piece) -> Any:
                for _ in range(count):
                    yield piece

            await of.blobs.put("large.bin", pieces(), expires_at=4e9)
            wants = {"image": "a", "inputs": {"a": {"type": "key", "value": "large.bin"}}}
            document = json.dumps(wants).encode()
            made = [make_job("q") for _ in range(jobs)]
            await asyncio.gather(*(of.jobs.save(j, expected=0, documents={"definition": document}) for j in made))
    used = {}
    for name in ("small", "large"):
        out = _peak_bytes("export", "--data", name, "-o", f"{name}.asman", cwd=tmp_path)
        into = _peak_bytes("import", "--data", f"{name}2", f"{name}.asman", cwd=tmp_path)
        again = _peak_bytes("export", "--data", name, "-o", f"{name}.asman", "--resume", cwd=tmp_path)
        used[name] = (out, into, again)
    for small, large in zip(used["small"], used["large"], strict=True):
        assert large - small < 40 * MIB, {name: [n // MIB for n in peaks] for name, peaks in used.items()}
    assert (tmp_path / "large2" / "asman.db").exists()


def _peak_bytes(*arguments: str, cwd: Path) -> int:
    """The most memory that a command had."""
    process = started(*arguments, cwd=cwd, stderr=subprocess.DEVNULL)
    killer = threading.Timer(240, process.kill)
    killer.start()
    _, status, usage = os.wait4(process.pid, 0)
    killer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024
