"""What an engine lacks is refused or said at the start, by profile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asman.errors import ConfigError
from asman_worker.config import WorkerConfig
from asman_worker.docker import Engine, EngineInfo
from asman_worker.fences import check_engine, choose_runtime
from asman_worker.grant import Grant
from asman_worker.process import read_grant

BARE = EngineInfo(cores=2, memory_bytes=8 << 30, arch="x86_64", version="20.10")
USUAL = replace(BARE, fences={"seccomp": "default"}, runtimes=("runc",))


def grant(profile: str, runtime: str = "", network: str = "") -> Grant:
    return Grant(cores=1, memory_bytes=1 << 30, profile=profile, runtime=runtime, network=network)


@pytest.mark.parametrize("profile", ["standard", "strict"])
def test_an_engine_without_seccomp_is_refused_with_the_way_out(profile: str) -> None:
    with pytest.raises(ConfigError, match="seccomp") as refused:
        check_engine(grant(profile), BARE)
    assert "--profile trusted" in refused.value.hint


def test_an_engine_without_seccomp_is_a_warning_for_own_jobs() -> None:
    assert "your own jobs only" in check_engine(grant("trusted"), BARE)[0]


def test_an_engine_whose_own_list_is_switched_off_is_enough_for_strict_only() -> None:
    open_engine = replace(BARE, fences={"seccomp": "unconfined", "rootless": ""})
    with pytest.raises(ConfigError):
        check_engine(grant("standard"), open_engine)
    assert check_engine(grant("strict", "runsc"), open_engine) == ()


@pytest.mark.parametrize("profile", ["standard", "trusted"])
def test_the_usual_engine_is_worth_no_word(profile: str) -> None:
    assert check_engine(grant(profile), USUAL) == ()


def test_strict_says_what_would_make_it_stronger() -> None:
    sandbox, users = check_engine(grant("strict"), USUAL)
    assert "gVisor" in sandbox
    assert "userns-remap" in users
    assert check_engine(grant("strict", "runsc"), replace(USUAL, fences={"seccomp": "default", "userns": ""})) == ()


def test_apparmor_that_the_host_has_and_the_engine_does_not_use_is_said() -> None:
    (warning,) = check_engine(grant("standard"), USUAL, host_has_apparmor=True)
    assert "AppArmor" in warning
    with_it = replace(USUAL, fences={"seccomp": "default", "apparmor": ""})
    assert check_engine(grant("standard"), with_it, host_has_apparmor=True) == ()


@pytest.mark.parametrize(
    ("asked", "profile", "known", "chosen"),
    [
        ("", "standard", ("runc", "runsc"), ""),
        ("", "trusted", ("runc", "runsc"), ""),
        ("", "strict", ("runc",), ""),
        ("", "strict", ("runc", "kata", "runsc"), "runsc"),
        ("", "strict", ("runc", "kata"), "kata"),
        ("runc", "strict", ("runc", "runsc"), "runc"),
        ("runsc", "standard", ("runc", "runsc"), "runsc"),
    ],
)
def test_the_owner_names_the_runtime_and_strict_takes_a_sandbox(
    asked: str, profile: str, known: tuple[str, ...], chosen: str
) -> None:
    assert choose_runtime(asked, profile, known) == chosen


def test_a_runtime_that_the_engine_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match='"runsc", which the container engine does not know; it knows: crun, runc'):
        choose_runtime("runsc", "strict", ("runc", "crun"))


@pytest.mark.parametrize(("profile", "network"), [("standard", ""), ("strict", "egress"), ("trusted", "egress")])
def test_a_sandbox_does_not_keep_the_routes_of_egress(profile: str, network: str) -> None:
    with pytest.raises(ConfigError, match="routes") as refused:
        check_engine(grant(profile, "runsc", network), USUAL)
    assert "--runtime runc" in refused.value.hint
    check_engine(grant(profile, "runsc", "none"), USUAL)


@pytest.mark.docker
async def test_a_worker_reads_these_from_its_engine_at_the_start(
    docker_host: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = WorkerConfig(queues=("q",), profile="strict")
    async with Engine(docker_host) as engine:
        info = await engine.info()
        assert "seccomp" in info.fences
        assert "runc" in info.runtimes
        read = await read_grant(config, engine)
        with pytest.raises(ConfigError, match="does not know"):
            await read_grant(replace(config, runtime="no-such-runtime"), engine)
    assert read.runtime == choose_runtime("", "strict", info.runtimes)
    assert [record.getMessage() for record in caplog.records] == list(check_engine(read, info))


def test_podman_is_refused_for_a_profile_with_a_filter_of_its_own() -> None:
    podman = replace(USUAL, kind="podman")
    with pytest.raises(ConfigError, match="from files only"):
        check_engine(grant("strict"), podman)
    assert check_engine(grant("standard"), podman) == ()
