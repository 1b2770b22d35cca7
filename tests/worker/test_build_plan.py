"""What an engine is told to build: only what the Dockerfile asks and the owner allows."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from asman.errors import BadDefinition, LimitExceeded
from asman_worker.build_calls import ImageDetails
from asman_worker.build_plan import BuildPlan, build_query, check_base, plan_build, platform_of
from asman_worker.grant import Grant
from asman_worker.limits import Allotment

GIB = 1 << 30
GRANT = Grant(cores=2, memory_bytes=GIB)
TRUSTED = replace(GRANT, profile="trusted")
BASE = ImageDetails(id="sha256:0", parent="", size_bytes=1, labels={}, triggers=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    context: str = ""
    folder: str = ""
    filename: str = ""
    dockerfile: str = ""
    target: str = ""
    build_args: tuple[tuple[str, str], ...] = ()
    platform: str = ""


def plan(text: str, grant: Grant = GRANT, **recipe: Any) -> BuildPlan:
    return plan_build(text, Recipe(**recipe), grant, arch="x86_64", worker_id="w1")


def query(made: BuildPlan, network: str = "none", **changes: Any) -> dict[str, str]:
    settled: dict[str, Any] = {
        "image": "asman-build:1",
        "target": "",
        "dockerfile": "Dockerfile",
        "network": network,
        "ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        "allotment": Allotment(cores=1.5, memory_bytes=GIB),
        "labels": {"a": "b"},
        "build_id": "id",
    }
    return build_query(made, **{**settled, **changes})


def test_images_get_their_tags_and_stages_the_workers_label() -> None:
    made = plan("FROM alpine AS x\nFROM r.io/a:1@sha256:" + "0" * 64 + "\nCOPY --from=x / /\n")
    assert made.images == ("alpine:latest", "r.io/a:1@sha256:" + "0" * 64)
    assert made.dockerfile.count('LABEL asman.builder="w1"') == 2
    assert not made.buildkit


@pytest.mark.parametrize(
    ("arch", "platform"),
    [("x86_64", "linux/amd64"), ("aarch64", "linux/arm64"), ("armv7l", "linux/arm/v7"), ("riscv64", "linux/riscv64")],
)
def test_an_engines_platform(arch: str, platform: str) -> None:
    assert platform_of(arch) == platform


def test_another_platform_is_built_only_where_the_owner_trusts() -> None:
    with pytest.raises(BadDefinition, match=r"linux/arm64.*linux/amd64"):
        plan("FROM a\n", platform="linux/arm64")
    assert plan("FROM a\n", platform="linux/amd64").platform == ""
    assert query(plan("FROM a\n", TRUSTED, platform="linux/arm64"))["platform"] == "linux/arm64"
    assert "platform" not in query(plan("FROM a\n"))


def test_images_beyond_the_owners_patterns_are_refused_by_line() -> None:
    grant = replace(GRANT, images=("alpine:*", "ghcr.io/me/*"))
    plan("FROM alpine:3\nCOPY --from=ghcr.io/me/x:1 / /\n", grant)
    for text in ("FROM alpine:3\nFROM busybox\n", "FROM alpine:3\nCOPY --from=busybox / /\n"):
        with pytest.raises(LimitExceeded, match=r"line 2 of the Dockerfile.*busybox"):
            plan(text, grant)
    with pytest.raises(BadDefinition, match="no image name"):
        plan("FROM UPPER\n")


def test_buildkit_is_used_where_it_is_needed_and_trusted() -> None:
    text = "# syntax=evil/x\nFROM a\nRUN --mount=type=bind,target=/c true\n"
    with pytest.raises(BadDefinition, match=r"line 3 .*RUN --mount.*BuildKit"):
        plan(text)
    made = plan(text, TRUSTED)
    assert made.buildkit
    assert "LABEL" not in made.dockerfile
    assert "evil" not in made.dockerfile
    assert ["BuildKit" in note or "evil/x is not used" in note for note in made.notes] == [True, True]
    asked = query(made, "container:guard")
    assert (asked["version"], asked["networkmode"], asked["buildid"]) == ("2", "", "id")
    assert query(made, "none")["networkmode"] == "none"
    assert not plan("FROM a\nRUN true\n", TRUSTED).buildkit, "the builder that can be bounded goes first"


def test_an_engine_downloads_only_where_the_owner_trusts() -> None:
    with pytest.raises(BadDefinition, match="download"):
        plan("FROM a\nADD https://h/x /x\n")
    plan("FROM a\nADD https://h/x /x\n", TRUSTED)


def test_facts_of_the_platform_are_given_to_files_that_ask() -> None:
    made = plan("FROM a\nARG TARGETARCH\nARG OTHER=1\n", build_args=(("OTHER", "2"),))
    assert dict(made.args) == {"TARGETARCH": "amd64", "OTHER": "2"}
    assert dict(plan("FROM a\nARG TARGETARCH\n", build_args=(("TARGETARCH", "z"),)).args) == {"TARGETARCH": "z"}


def test_steps_that_may_unpack_are_counted() -> None:
    assert plan("FROM a\nADD x /\nONBUILD ADD y /\nCOPY z /\nRUN ADD\n").adds == 2


def test_the_query_bounds_what_the_engine_can_bound() -> None:
    asked = query(plan("FROM a\n"), "container:guard", target="stage")
    assert json.loads(asked.pop("ulimits")) == [{"Name": "core", "Soft": 0, "Hard": 0}]
    assert json.loads(asked.pop("labels")) == {"a": "b"}
    assert asked == {
        "version": "1",
        "t": "asman-build:1",
        "dockerfile": "Dockerfile",
        "rm": "1",
        "forcerm": "1",
        "networkmode": "container:guard",
        "memory": str(GIB),
        "memswap": str(GIB),
        "cpuperiod": "100000",
        "cpuquota": "150000",
        "shmsize": str(64 << 20),
        "buildargs": "{}",
        "target": "stage",
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"triggers": ("ADD http://h/x /x",)}, "triggers of .*download"),
        ({"triggers": ("RUN true", "LABEL asman.job=1")}, "line 3 of the triggers"),
        ({"triggers": ("COPY --from=$x / /",)}, "cannot be decided"),
        ({"labels": {"asman.worker": "w1"}}, "asman.worker"),
    ],
)
def test_what_a_base_image_brings_along_is_judged(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadDefinition, match=words):
        check_base("base:1", replace(BASE, **changes), GRANT)


def test_triggers_meet_the_owners_patterns() -> None:
    base = replace(BASE, triggers=("COPY --from=other:1 / /",))
    assert not check_base("base:1", base, GRANT)
    with pytest.raises(LimitExceeded, match="other:1"):
        check_base("base:1", base, replace(GRANT, images=("base:*",)))


def test_triggers_may_unpack_archives() -> None:
    assert check_base("base:1", replace(BASE, triggers=("ADD . /app",)), GRANT)
    assert not check_base("base:1", replace(BASE, labels={"asman.build": "1", "asman.builder": "w"}), GRANT)
