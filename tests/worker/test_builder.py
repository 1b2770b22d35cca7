"""Builds on a real engine: what they make, what bounds them, and what is left after any ending."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from asman.errors import AsmanError, BadDefinition
from asman_worker.build_cache import PUSH_STEP
from asman_worker.build_calls import BuildCalls
from asman_worker.build_fence import BUILDER_LABEL, BuildTooLarge, StepsUnbounded
from asman_worker.builder import BUILD_STEP, Builder, BuildFailed, BuildTimedOut, Lent, built_name
from asman_worker.docker import Engine, ImageInfo
from asman_worker.grant import Grant
from asman_worker.images import Images
from asman_worker.limits import Allotment
from asman_worker.logs import Demultiplexer
from docker_engine import IMAGE, DockerEngine
from registries import full_registry
from worker_peers import until

pytestmark = pytest.mark.docker

MIB = 1 << 20
GRANT = Grant(cores=2, memory_bytes=512 * MIB, build_limit_s=120, max_image_bytes=64 * MIB, pids=64)
FROM = f"FROM {IMAGE}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    context: str = ""
    folder: str = ""
    filename: str = ""
    dockerfile: str = ""
    target: str = ""
    build_args: tuple[tuple[str, str], ...] = ()
    platform: str = ""


@dataclass(slots=True, kw_only=True)
class Found:
    kind: str = "none"
    identity: str = ""

    def remove(self) -> None:
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    tar: Path
    dockerfile: str

    def remove(self) -> None:
        self.tar.unlink()


@dataclass(slots=True)
class Folder:
    """Sources that come from a table of files."""

    scratch: Path
    files: dict[str, bytes] = field(default_factory=dict)
    commit: str = ""
    packed: int = 0

    async def resolve(self, recipe: Any, say: Callable[[str], None]) -> Found:
        return Found(kind="git" if self.commit else "none", identity=self.commit)

    async def pack(self, resolved: Found, recipe: Any, say: Callable[[str], None]) -> Packed:
        self.packed += 1
        path = self.scratch / f"context-{self.packed}.tar"
        with tarfile.open(path, "w") as tar:
            for name, content in {**self.files, "Dockerfile": recipe.dockerfile.encode()}.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        say("packed\n")
        return Packed(tar=path, dockerfile="Dockerfile")


@contextlib.asynccontextmanager
async def no_network() -> AsyncIterator[str]:
    yield "none"


@dataclass(slots=True, kw_only=True)
class Bench:
    """A builder, its sources, and what it said."""

    host: DockerEngine
    engine: Engine
    sources: Folder
    worker_id: str
    grant: Grant = GRANT
    said: list[tuple[str, str]] = field(default_factory=list)

    def builder(self, **changes: Any) -> Builder:
        grant = replace(self.grant, **changes)
        images = Images(self.engine)
        return Builder(self.engine, images, grant=grant, worker_id=self.worker_id)

    async def build(self, text: str, builder: Builder | None = None, **more: Any) -> tuple[str, ImageInfo]:
        recipe = Recipe(dockerfile=text, **more)
        return await (builder or self.builder()).ensure(self.sources, recipe, lent(), self.say)

    def say(self, step: str, text: str) -> None:
        self.said.append((step, text))

    @property
    def log(self) -> str:
        return "".join(text for _, text in self.said)

    async def output(self, image: str, *command: str) -> str:
        """What a command prints in a container of this image."""
        host = {"NetworkMode": "none"}
        container = await self.engine.create({"Image": image, "Cmd": command or None, "HostConfig": host})
        try:
            await self.engine.start(container)
            await self.engine.wait(container)
            status, log = self.host.request("GET", f"/containers/{container}/logs?stdout=1&stderr=1")
            assert status == 200
            return b"".join(data for _, data in Demultiplexer().feed(log)).decode()
        finally:
            await self.engine.remove(container)

    def containers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.host.request("GET", "/containers/json?all=1")[1])
        return [c for c in found if (c["Labels"] or {}).get(BUILDER_LABEL) == self.worker_id]

    def nameless(self) -> list[dict[str, Any]]:
        filters = json.dumps({"dangling": ["true"], "label": [f"{BUILDER_LABEL}={self.worker_id}"]})
        found: list[dict[str, Any]] = json.loads(self.host.request("GET", f"/images/json?filters={quote(filters)}")[1])
        return found

    def is_clean(self) -> bool:
        return not self.containers() and not self.nameless()


def lent(memory_bytes: int = 256 * MIB, network: Callable[[], AbstractAsyncContextManager[str]] = no_network) -> Lent:
    return Lent(allotment=Allotment(cores=1.0, memory_bytes=memory_bytes), network=network)


@pytest.fixture
async def bench(docker_engine: DockerEngine, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with Engine(docker_engine.host) as engine:
        worker_id = f"w{abs(hash(request.node.name)) % 10**10}"
        yield Bench(host=docker_engine, engine=engine, sources=Folder(tmp_path), worker_id=worker_id)
        assert not [name for name in os.listdir(tmp_path) if name.startswith("context-")], "a context is left"


async def test_an_inline_dockerfile_becomes_an_image_that_runs(bench: Bench) -> None:
    bench.sources.files = {"hello": b"from the context\n"}
    text = (
        FROM
        + 'COPY hello /hello\nARG WHO=nobody\nENV WHO=$WHO\nRUN echo made for $WHO >> /hello\nCMD ["cat", "/hello"]\n'
    )
    name, info = await bench.build(text, build_args=(("WHO", "me"),))
    assert name == built_name(Recipe(dockerfile=text, build_args=(("WHO", "me"),)), "none", "")
    assert await bench.output(name) == "from the context\nmade for me\n"
    details = await BuildCalls(bench.engine).image(name)
    assert details is not None
    assert (details.id, details.labels["asman.build"]) == (info.id, name.partition(":")[2])
    assert {step for step, _ in bench.said} == {"cloning repo", BUILD_STEP}
    assert "RUN echo made for $WHO" in bench.log
    assert bench.is_clean()


async def test_what_is_here_is_not_built_again_and_a_branch_that_moved_is(bench: Bench) -> None:
    bench.sources.commit = "a" * 40
    first, _ = await bench.build(FROM + "RUN echo 1\n")
    bench.said.clear()
    assert (await bench.build(FROM + "RUN echo 1\n"))[0] == first
    assert bench.sources.packed == 1
    assert [text for _, text in bench.said] == [f"the image {first} is here already; nothing is built\n"]
    bench.sources.commit = "b" * 40
    assert (await bench.build(FROM + "RUN echo 1\n"))[0] != first
    assert bench.sources.packed == 2


async def test_a_target_ends_the_build_at_its_stage_and_no_stage_is_left_over(bench: Bench) -> None:
    one = f"FROM {IMAGE} AS one\nRUN echo one > /x\n"
    two = f"FROM {IMAGE} AS two\nRUN echo two > /y\n"
    text = f"{one}{two}{FROM}COPY --from=one /x /z\nCMD cat /z\n"
    name, _ = await bench.build(text, target="two")
    assert await bench.output(name, "cat", "/y") == "two\n"
    name, _ = await bench.build(text)
    assert await bench.output(name) == "one\n"
    assert bench.is_clean()


async def test_a_step_that_fails_tells_its_exit_code_and_its_last_lines(bench: Bench) -> None:
    with pytest.raises(BuildFailed, match="code: 3") as caught:
        await bench.build(FROM + "RUN echo before; echo trouble >&2; exit 3\n")
    assert "trouble" in caught.value.message
    assert "before" in bench.log
    assert (caught.value.code, caught.value.status) == ("build_failed", 422)
    assert bench.is_clean()


async def test_steps_have_the_network_of_the_guard(bench: Bench) -> None:
    name, _ = await bench.build(FROM + "RUN ls /sys/class/net > /net\nCMD cat /net\n")
    assert (await bench.output(name)).split() == ["lo"]


async def test_the_same_build_asked_for_twice_is_done_once(bench: Bench) -> None:
    builder, others = bench.builder(), Bench(host=bench.host, engine=bench.engine, sources=bench.sources, worker_id="x")
    text = FROM + "RUN echo begun; sleep 2; echo done\n"
    since = time.time()
    first = asyncio.create_task(bench.build(text, builder))
    await until(lambda: "begun\n" in bench.log)
    second = asyncio.create_task(others.build(text, builder))
    assert await first == await second
    assert bench.said == others.said
    query = (
        f"since={since:.3f}&until={time.time():.3f}&filters={json.dumps({'event': ['start'], 'type': ['container']})}"
    )
    events = bench.host.request("GET", f"/events?{query}".replace(" ", ""))[1].splitlines()
    assert len([e for e in events if json.loads(e)["Actor"]["Attributes"].get(BUILDER_LABEL) == bench.worker_id]) == 1


async def test_one_who_goes_does_not_end_the_build_of_the_others(bench: Bench) -> None:
    builder = bench.builder()
    text = FROM + "RUN echo begun; sleep 2; echo done-2\n"
    goes = asyncio.create_task(bench.build(text, builder))
    await until(lambda: "begun\n" in bench.log)
    stays = asyncio.create_task(bench.build(text, builder))
    await until(lambda: bench.log.count("begun\n") == 2)
    goes.cancel()
    with pytest.raises(asyncio.CancelledError):
        await goes
    await stays
    assert bench.is_clean()


@pytest.mark.parametrize("moment", range(3))
async def test_a_build_that_nobody_waits_for_ends_with_all_it_made(bench: Bench, moment: int) -> None:
    text = FROM + f"RUN echo {moment} > /made\nRUN trap '' TERM; echo begun; while :; do sleep 1; done\n"
    only = asyncio.create_task(bench.build(text))
    await until([lambda: bool(bench.said), lambda: "Step 3" in bench.log, lambda: "begun\n" in bench.log][moment])
    begun = time.monotonic()
    only.cancel()
    with pytest.raises(asyncio.CancelledError):
        await only
    assert time.monotonic() - begun < 10
    assert bench.is_clean()


@pytest.mark.slow
async def test_a_build_can_be_cancelled_at_any_line_of_its_log(bench: Bench) -> None:
    """Twenty moments: between steps, in metadata steps, while files are copied, while a program runs."""
    bench.sources.files = {f"f{n}": bytes(MIB) for n in range(8)}
    for moment in range(1, 21):
        steps = "COPY f* /\nENV A=b\nRUN sed -n 1p /etc/passwd > /dev/null\nUSER nobody\n" * 2
        text = f"{FROM}LABEL moment={moment}\n{steps}RUN trap '' TERM; echo begun; while :; do sleep 1; done\n"
        bench.said.clear()
        only = asyncio.create_task(bench.build(text))
        await until(lambda moment=moment: len(bench.said) >= 2 * moment or "begun\n" in bench.log)
        begun = time.monotonic()
        only.cancel()
        with pytest.raises(asyncio.CancelledError):
            await only
        assert time.monotonic() - begun < GRANT.stop_grace_s + 5, moment
        assert bench.is_clean(), moment


async def test_a_build_has_a_time_limit_of_its_own(bench: Bench) -> None:
    with pytest.raises(BuildTimedOut, match=r"within 3s.*docker build") as caught:
        await bench.build(FROM + "RUN sleep 600\n", bench.builder(build_limit_s=3.0))
    assert caught.value.code == "build_timed_out"
    assert bench.is_clean()


async def test_a_fork_bomb_stays_within_the_owners_number_of_processes(bench: Bench) -> None:
    text = FROM + "RUN i=0; while [ $i -lt 400 ]; do sleep 60 & i=$((i+1)); done; echo all 400\n"
    with pytest.raises(BuildFailed):
        await bench.build(text)
    assert "all 400" not in bench.log.replace("echo all 400", "")
    assert bench.is_clean()


async def test_a_bomb_that_only_forks_ends_with_the_builds_time(bench: Bench) -> None:
    text = FROM + "RUN f() { f | f & }; f; sleep 600\n"
    begun = time.monotonic()
    with pytest.raises((BuildTimedOut, BuildFailed)):
        await bench.build(text, bench.builder(build_limit_s=4.0))
    assert time.monotonic() - begun < 4 + GRANT.stop_grace_s + 5
    assert bench.is_clean()


async def test_a_memory_bomb_is_killed_and_says_what_it_may_use(bench: Bench) -> None:
    text = FROM + "RUN dd if=/dev/zero of=/dev/null bs=200M count=1\n"
    with pytest.raises(BuildFailed, match="137") as caught:
        await bench.builder().ensure(bench.sources, Recipe(dockerfile=text), lent(32 * MIB), bench.say)
    assert "32.0 MiB" in caught.value.hint
    assert bench.is_clean()


FILL = "RUN i=0; while :; do dd if=/dev/zero of={}/f$i bs=1M count=8 2>/dev/null; i=$((i+1)); sleep 0.1; done\n"
DISK_BOMBS = {
    "files": FILL.format(""),
    "a volume": "VOLUME /v\n" + FILL.format("/v"),
    "one step after another": "".join(f"RUN dd if=/dev/zero of=/f{n} bs=1M count=20\n" for n in range(8))
    + "RUN sleep 60\n",
}


@pytest.mark.parametrize("bomb", DISK_BOMBS)
async def test_a_disk_bomb_is_stopped(bench: Bench, bomb: str) -> None:
    with pytest.raises(BuildTooLarge, match=r"at most 64\.0 MiB") as caught:
        await bench.build(FROM + DISK_BOMBS[bomb])
    assert caught.value.code == "build_too_large"
    assert bench.is_clean()


async def test_one_huge_file_meets_the_limit_by_itself(bench: Bench) -> None:
    with pytest.raises((BuildFailed, BuildTooLarge)):
        await bench.build(FROM + "RUN dd if=/dev/zero of=/big bs=1M count=2000\n")
    assert bench.is_clean()


async def test_a_crowd_of_pretended_layers_does_not_hide_what_is_written(bench: Bench) -> None:
    pretend = "i=0; while [ $i -lt 12000 ]; do printf ' ---> %012x\\n' $i; i=$((i+1)); done"
    with pytest.raises((StepsUnbounded, BuildTooLarge)):
        await bench.build(FROM + f"RUN {pretend}; sleep 60\n")
    assert bench.is_clean()


async def test_steps_share_the_network_of_a_guard_that_is_a_container(bench: Bench) -> None:
    host = {"NetworkMode": "none"}
    guard = await bench.engine.create(
        {"Image": IMAGE, "Cmd": ["sleep", "60"], "Hostname": "guard-1", "HostConfig": host}
    )

    @contextlib.asynccontextmanager
    async def guarded() -> AsyncIterator[str]:
        yield f"container:{guard}"

    await bench.engine.start(guard)
    try:
        recipe = Recipe(dockerfile=FROM + "RUN hostname > /h\nCMD cat /h\n")
        name, _ = await bench.builder().ensure(bench.sources, recipe, lent(network=guarded), bench.say)
        assert await bench.output(name) == "guard-1\n"
    finally:
        await bench.engine.remove(guard)


async def test_an_image_beyond_the_limit_is_not_kept(bench: Bench) -> None:
    text = FROM + "RUN dd if=/dev/zero of=/f bs=1M count=3\n"
    with pytest.raises(BuildTooLarge):
        await bench.build(text, bench.builder(max_image_bytes=4 * MIB))
    assert await bench.engine.image(built_name(Recipe(dockerfile=text), "none", "")) is None
    assert bench.is_clean()


async def test_a_flood_of_output_is_cut_and_does_not_stop_the_build(bench: Bench) -> None:
    await bench.build(FROM + "RUN i=0; while [ $i -lt 12 ]; do yes | head -c 1000000; i=$((i+1)); done\n")
    assert len(bench.log) < (5 << 20)
    assert "left out" in bench.log


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FROM + "RUN --mount=type=secret,id=x true\n", "line 2 .*RUN --mount"),
        (FROM + "ADD http://127.0.0.1:1/x /x\n", "line 2 .*download"),
        (FROM + "LABEL asman.job=x\n", "line 2 .*asman"),
        (FROM + "NONSENSE\n", "line 2 .*NONSENSE"),
    ],
)
async def test_what_cannot_be_fenced_is_refused_before_the_engine_is_asked(bench: Bench, text: str, words: str) -> None:
    with pytest.raises(BadDefinition, match=words):
        await bench.build(text)
    assert "Step 1" not in bench.log


async def test_an_archive_that_add_would_unpack_without_end_is_refused(bench: Bench) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        entry = tarfile.TarInfo("zeros")
        entry.size = 100 * MIB
        tar.addfile(entry, io.BytesIO(bytes(100 * MIB)))
    bench.sources.files = {"bomb.tar.gz": gzip.compress(inner.getvalue(), 1)}
    with pytest.raises(AsmanError, match=r"bomb\.tar\.gz"):
        await bench.build(FROM + "ADD bomb.tar.gz /\n")
    await bench.build(FROM + "COPY bomb.tar.gz /\n")


async def test_triggers_of_a_base_image_are_judged_too(bench: Bench) -> None:
    base, _ = await bench.build(FROM + "RUN echo base\n")
    repository = f"trigger-{bench.worker_id}"
    body = json.dumps({"Image": base}).encode()
    _, made = bench.host.request("POST", "/containers/create", body)
    container = json.loads(made)["Id"]
    change = "ONBUILD%20ADD%20http://127.0.0.1:1/x%20/x"
    bench.host.request("POST", f"/commit?container={container}&repo={repository}&tag=1&changes={change}", b"{}")
    await bench.engine.remove(container)
    with pytest.raises(BadDefinition, match=r"triggers of .*download"):
        await bench.build(f"FROM {repository}:1\nRUN true\n")


async def test_an_owners_patterns_hold_for_every_image_of_a_build(bench: Bench) -> None:
    builder = bench.builder(images=("alpine:*",))
    with pytest.raises(AsmanError, match=r"line 2 .*other:latest"):
        await bench.build(FROM + "COPY --from=other /x /x\n", builder)
    await bench.build("ARG V=3.19.1\nFROM alpine:$V\nRUN echo allowed\n", builder)


async def test_buildkit_builds_what_only_it_can_where_the_owner_trusts(bench: Bench) -> None:
    step = "RUN --mount=type=tmpfs,target=/t echo to the log; echo x > /f\n"
    text = f"# syntax=evil.example/frontend\n{FROM}{step}CMD cat /f\n"
    name, _ = await bench.build(text, bench.builder(profile="trusted"))
    assert await bench.output(name) == "x\n"
    assert "to the log\n" in bench.log
    assert "evil.example/frontend is not used" in bench.log
    assert "BuildKit builds this" in bench.log
    with pytest.raises(BuildFailed, match="exit code: 4"):
        await bench.build(FROM + "RUN --mount=type=tmpfs,target=/t exit 4\n", bench.builder(profile="trusted"))


async def test_a_buildkit_build_can_be_cancelled(bench: Bench) -> None:
    text = FROM + f"RUN --mount=type=tmpfs,target=/t echo begun; sleep 31{bench.worker_id[1:4]}\n"
    only = asyncio.create_task(bench.build(text, bench.builder(profile="trusted")))
    await until(lambda: "begun\n" in bench.log)
    only.cancel()
    with pytest.raises(asyncio.CancelledError):
        await only
    await until(lambda: not _is_running(f"sleep 31{bench.worker_id[1:4]}"))


def _is_running(words: str) -> bool:
    for folder in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if folder.read_bytes().replace(b"\0", b" ").strip() == words.encode():
                return True
    return False


@pytest.mark.slow
async def test_an_engine_whose_steps_cannot_be_seen_builds_only_for_owners_who_trust(tmp_path: Path) -> None:
    if shutil.which("podman") is None:
        pytest.skip("needs podman; on Debian: apt-get install podman")
    with tempfile.TemporaryDirectory(prefix="pm-") as short:  # podman refuses long paths
        roots = ["--root", f"{short}/root", "--runroot", f"{short}/run", "--storage-driver", "vfs"]
        service = ["system", "service", "-t", "0", f"unix://{short}/s"]
        process = await asyncio.create_subprocess_exec("podman", *roots, *service)
        try:
            await until(Path(short, "s").exists)
            async with Engine(f"unix://{short}/s") as engine:
                builder = Builder(engine, Images(engine), grant=GRANT, worker_id="w")
                with pytest.raises(StepsUnbounded, match="cannot be kept within limits"):
                    await builder.ensure(Folder(tmp_path), Recipe(dockerfile=FROM), lent(), lambda step, text: None)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("buildkit", [True, False])
async def test_an_engine_with_and_without_buildkit_as_its_default_builds_alike(
    docker_engine: DockerEngine, tmp_path: Path, buildkit: bool
) -> None:
    if docker_engine.pid is None:
        pytest.skip("another engine than the given one is started only where ours are")
    config = json.dumps({"features": {"buildkit": buildkit}})
    with DockerEngine.private(config=config) as host:
        async with Engine(host.host) as engine:
            bench = Bench(host=host, engine=engine, sources=Folder(tmp_path), worker_id="w")
            name, _ = await bench.build(FROM + "RUN ls /sys/class/net > /f\nCMD cat /f\n")
            assert (await bench.output(name)).split() == ["lo"]
            assert "Step 1" in bench.log
            assert bench.is_clean()
            text = FROM + "RUN --mount=type=tmpfs,target=/t echo hi > /g\nCMD cat /g\n"
            name, _ = await bench.build(text, bench.builder(profile="trusted"))
            assert await bench.output(name) == "hi\n"


async def test_what_a_crash_left_is_removed_and_nothing_else(bench: Bench) -> None:
    name, _ = await bench.build(FROM + "RUN echo kept\n")
    calls = BuildCalls(bench.engine)
    marked = {"Ulimits": [{"Name": "locks", "Soft": 1, "Hard": 1}]}
    left = await bench.engine.create({"Image": name, "Cmd": ["true"], "HostConfig": marked})
    owners = await bench.engine.create({"Image": name, "Cmd": ["true"]})
    change = quote(f"LABEL {BUILDER_LABEL}={bench.worker_id}")
    assert bench.host.request("POST", f"/commit?container={owners}&changes={change}", b"{}")[0] == 201
    assert bench.nameless()
    await bench.builder().clean()
    assert not bench.nameless()
    assert await calls.container(left) is None
    assert await calls.container(owners) is not None
    assert await bench.engine.image(name) is not None
    await bench.engine.remove(owners)


async def test_the_owners_registry_keeps_what_is_built(
    bench: Bench, docker_engine: DockerEngine, free_port: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = FROM + "RUN echo kept > /f\nCMD cat /f\n"
    with full_registry(docker_engine, free_port, tmp_path_factory.mktemp("registry")) as address:
        builder = bench.builder(cache_registry=f"{address}/asman-cache")
        name, built = await bench.build(text, builder)
        await builder.settle()
        assert any(step == PUSH_STEP for step, _ in bench.said)
        assert "not kept" not in bench.log
        await BuildCalls(bench.engine).remove_image(name)
        assert await bench.engine.image(name) is None
        bench.said.clear()
        assert await bench.build(text, bench.builder(cache_registry=f"{address}/asman-cache")) == (name, built)
    assert "Step 1" not in bench.log
    assert await bench.output(name) == "kept\n"
    filters = quote(json.dumps({"reference": [f"{address}/asman-cache"]}))
    assert json.loads(docker_engine.request("GET", f"/images/json?filters={filters}")[1]) == []


async def test_without_a_registry_nothing_is_pushed(bench: Bench) -> None:
    builder = bench.builder()
    await bench.build(FROM + "RUN echo mine\n", builder)
    await builder.settle()
    assert PUSH_STEP not in {step for step, _ in bench.said}
