"""Which definitions a worker can use, what they ask for, and how the others are refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman.config import PROFILES, Limits
from asman.definition import (
    KNOWN_BUILD_MEMBERS,
    KNOWN_MEMBERS,
    KNOWN_REF_MEMBERS,
    KNOWN_REQUIREMENTS,
    REF_TYPES,
    Definition,
    inline_bytes,
    iter_refs,
    read_definition,
    referred_blobs,
)
from asman.errors import AsmanError, BadDefinition, LimitExceeded
from asman.job import Requirements
from asman.testing.strategies import definitions, json_values

PUBLIC = PROFILES["public"]
KEY = "0" * 64
HELLO: dict[str, Any] = {"image": "alpine:3.18.5", "command": "echo hi"}


def read(limits: Limits = PUBLIC, **members: Any) -> Definition:
    return read_definition({**HELLO, **members}, limits)


def faults(limits: Limits = PUBLIC, **members: Any) -> dict[str, str]:
    with pytest.raises(BadDefinition) as caught:
        read(limits, **members)
    return dict(caught.value.details)


def ref(**members: Any) -> dict[str, Any]:
    return {"inputs": {"f": members}}


FULL: dict[str, Any] = {
    "v": 1,
    "image": "python:3.12",
    "command": "python /inputs/main.py",
    "entrypoint": "/bin/sh",
    "workdir": "/srv/app",
    "shmSize": "1g",
    "maxDuration": "20m",
    "tags": ["gpu", "a", "gpu"],
    "requirements": {"memory": "2g", "gpus": 1, "cpus": 0.5, "maxDuration": "1h", "network": "egress"},
    "build": {
        "context": "https://github.com/org/repo/tree/main",
        "buildContext": "docker",
        "filename": "Dockerfile",
        "target": "prod",
        "dockerfile": "FROM alpine",
        "platform": "linux/amd64",
        "buildArgs": ["B=2", "A"],
    },
    "env": {"K": "v", "EMPTY": "", "GONE": None, "mp-channel": "x"},
    "configFiles": {"main.py": {"type": "utf8", "value": "print(1)"}, "/etc/x.conf": {"value": "x"}},
    "inputs": {
        "z.json": {"type": "json", "value": {"b": [3, None]}},
        "n.json": {"type": "json", "value": None},
        "a.bin": {"type": "base64", "value": "AAEC"},
        "d/k": {"type": "key", "value": KEY, "hash": None},
        "d/u": {"type": "url", "value": "https://h.example/x?q=1", "hash": "abc"},
    },
}


# --- what is accepted ------------------------------------------------------------------------------------------------


def test_a_definition_with_every_known_member_is_read_without_a_warning() -> None:
    definition = read_definition(FULL, PUBLIC)
    assert definition.raw is FULL
    assert definition.warnings == ()
    assert definition.blob_keys == (KEY,)
    assert definition.advertised == {"requirements": FULL["requirements"], "tags": FULL["tags"]}
    assert definition.requirements == Requirements(
        cores=0.5, memory_bytes=2 << 30, gpus=1, max_duration_s=1200.0, tags=("a", "gpu")
    )


def test_the_full_example_names_every_known_member() -> None:
    refs = [members for _, _, members in iter_refs(FULL)]
    assert FULL.keys() == KNOWN_MEMBERS
    assert FULL["build"].keys() == KNOWN_BUILD_MEMBERS
    assert FULL["requirements"].keys() == KNOWN_REQUIREMENTS
    assert {name for members in refs for name in members} == KNOWN_REF_MEMBERS
    assert {members.get("type", "utf8") for members in refs} == REF_TYPES


def test_the_smallest_definition_asks_for_one_core_and_nothing_else() -> None:
    definition = read_definition({"image": "a"}, PUBLIC)
    assert definition.requirements == Requirements()
    assert (definition.advertised, definition.warnings, definition.blob_keys) == ({}, (), ())


def test_a_build_alone_is_enough() -> None:
    assert read_definition({"build": {"dockerfile": "FROM alpine"}}, PUBLIC).requirements == Requirements()


def test_null_and_empty_members_count_as_absent() -> None:
    names = KNOWN_MEMBERS - {"image", "command"}
    assert read(**dict.fromkeys(names)).requirements == Requirements()
    assert read(entrypoint="", workdir="", shmSize="", maxDuration="", build={}, env={}, inputs={}).warnings == ()
    assert read(requirements=dict.fromkeys(KNOWN_REQUIREMENTS)).requirements == Requirements()


@given(definitions())
def test_what_clients_write_is_accepted_and_left_as_it_was(raw: dict[str, Any]) -> None:
    before = json.dumps(raw)
    definition = read_definition(raw, PROFILES["private"])
    assert json.dumps(definition.raw) == before
    assert bool(definition.warnings) == ("x-note" in raw)


@given(json_values(max_leaves=30) | st.dictionaries(st.sampled_from(sorted(KNOWN_MEMBERS)), json_values()))
def test_whatever_json_comes_the_answer_is_a_definition_or_an_error_of_ours(raw: Any) -> None:
    error: AsmanError | None = None
    try:
        assert read_definition(raw, PUBLIC).raw is raw
    except (BadDefinition, LimitExceeded) as caught:
        error = caught
    assert error is None or error.details
    assert all(len(where) < 150 and len(what) < 400 for where, what in (error.details if error else ()))


@pytest.mark.parametrize("value", ["sh -c 'echo'", ["sh", "-c", "echo"], [], "", None])
@pytest.mark.parametrize("name", ["command", "entrypoint"])
def test_a_command_is_text_or_an_array_of_text(name: str, value: Any) -> None:
    assert read(**{name: value}).raw[name] == value


# --- what has no effect ----------------------------------------------------------------------------------------------


def test_unknown_members_are_kept_and_warned_about_by_name() -> None:
    definition = read(
        gpu=True,
        requirements={"disk": "9g"},
        build={"dockerfile": "FROM a", "noCache": True},
        inputs={"a.txt": {"value": "x", "mime": "text/plain"}},
    )
    assert [warning.split()[0] for warning in definition.warnings] == [
        '"gpu"',
        '"build.noCache"',
        '"inputs.a.txt.mime"',
        '"requirements.disk"',
    ]
    assert definition.raw["gpu"] is True


def test_many_unknown_members_are_counted_not_listed() -> None:
    definition = read(**{f"x{n}": n for n in range(100)})
    assert len(definition.warnings) == 31
    assert definition.warnings[-1] == "and 70 more members have no effect"


def test_credentials_in_a_build_context_are_accepted_with_a_warning() -> None:
    definition = read(build={"context": "https://token@github.com/org/repo"})
    assert len(definition.warnings) == 1
    assert "credentials" in definition.warnings[0]
    assert "token" not in definition.warnings[0]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [None, [], "text", 1, True])
def test_a_definition_that_is_no_object_is_refused(raw: Any) -> None:
    with pytest.raises(BadDefinition, match="an object was expected") as caught:
        read_definition(raw, PUBLIC)
    assert caught.value.status == 422


@pytest.mark.parametrize("raw", [{}, {"image": ""}, {"image": None, "build": {}}, {"build": {"target": None}}])
def test_neither_image_nor_build_is_refused(raw: Any) -> None:
    with pytest.raises(BadDefinition, match="needs an image or a build"):
        read_definition(raw, PUBLIC)


def test_all_faults_are_told_at_once_each_with_its_place() -> None:
    found = faults(
        image=3,
        env={"A": 1},
        inputs={"../x": {"type": "u", "value": ""}, "old.txt": "aGVsbG8="},
        requirements={"cpus": 0, "memory": "much"},
        tags=["", 3],
    )
    assert set(found) == {
        "definition.image",
        "definition.env.A",
        "definition.inputs.../x",
        "definition.inputs.../x.type",
        "definition.inputs.old.txt",
        "definition.requirements.cpus",
        "definition.requirements.memory",
        "definition.tags[0]",
        "definition.tags[1]",
    }
    assert "data ref" in found["definition.inputs.old.txt"]


def test_hundreds_of_faults_are_cut_short() -> None:
    with pytest.raises(BadDefinition) as caught:
        read(env={f"V{n}": n for n in range(64)})
    assert len(caught.value.details) == 31
    assert caught.value.details[-1] == ("definition", "and 34 more faults")
    assert "(and 63 more)" in caught.value.message


@pytest.mark.parametrize(
    ("where", "members"),
    [
        ("image", {"image": "a b"}),
        ("image", {"image": "a\n"}),
        ("image", {"image": ["a"]}),
        ("v", {"v": {}}),
        ("command", {"command": {"a": 1}}),
        ("command", {"command": 5}),
        ("command", {"command": "a\0b"}),
        ("command[1]", {"command": ["a", None]}),
        ("entrypoint[0]", {"entrypoint": ["\0"]}),
        ("workdir", {"workdir": "srv"}),
        ("workdir", {"workdir": "/a\0"}),
        ("workdir", {"workdir": 1}),
        ("shmSize", {"shmSize": "big"}),
        ("shmSize", {"shmSize": True}),
        ("shmSize", {"shmSize": "9" * 400}),
        ("maxDuration", {"maxDuration": "soon"}),
        ("maxDuration", {"maxDuration": "0s"}),
        ("maxDuration", {"maxDuration": "-5m"}),
        ("maxDuration", {"maxDuration": "90"}),
        ("maxDuration", {"maxDuration": ["1h"]}),
        ("tags", {"tags": "gpu"}),
        ("tags[0]", {"tags": [""]}),
        ("tags[0]", {"tags": ["x" * 65]}),
        ("env", {"env": ["A=1"]}),
        ("env.A", {"env": {"A": True}}),
        ("env.A", {"env": {"A": "x\0"}}),
        ("env.", {"env": {"": "x"}}),
        ("env.A=B", {"env": {"A=B": "x"}}),
        ("env.A B", {"env": {"A B": "x"}}),
        (f"env.{'x' * 129}"[:109] + "...", {"env": {"x" * 129: "x"}}),
        ("requirements", {"requirements": 4}),
        ("requirements.cpus", {"requirements": {"cpus": 0}}),
        ("requirements.network", {"requirements": {"network": "open"}}),
        ("requirements.network", {"requirements": {"network": "host"}}),
        ("requirements.network", {"requirements": {"network": 1}}),
        ("requirements.cpus", {"requirements": {"cpus": -1}}),
        ("requirements.cpus", {"requirements": {"cpus": 1025}}),
        ("requirements.cpus", {"requirements": {"cpus": "2"}}),
        ("requirements.cpus", {"requirements": {"cpus": True}}),
        ("requirements.cpus", {"requirements": {"cpus": 10**400}}),
        ("requirements.gpus", {"requirements": {"gpus": 0.5}}),
        ("requirements.gpus", {"requirements": {"gpus": -1}}),
        ("requirements.gpus", {"requirements": {"gpus": 65}}),
        ("requirements.gpus", {"requirements": {"gpus": "all"}}),
        ("requirements.gpus", {"requirements": {"gpus": float("nan")}}),
        ("requirements.gpus", {"requirements": {"gpus": 10**400}}),
        ("requirements.memory", {"requirements": {"memory": "-1g"}}),
        ("requirements.memory", {"requirements": {"memory": [1]}}),
        ("requirements.maxDuration", {"requirements": {"maxDuration": "x"}}),
        ("build", {"build": "."}),
        ("build", {"build": {"target": "x"}}),
        ("build.context", {"build": {"context": "git@github.com:org/repo"}}),
        ("build.context", {"build": {"context": "file:///etc"}}),
        ("build.context", {"build": {"context": "../x"}}),
        ("build.filename", {"build": {"dockerfile": "FROM a", "filename": "../Dockerfile"}}),
        ("build.filename", {"build": {"dockerfile": "FROM a", "filename": "/etc/passwd"}}),
        ("build.buildContext", {"build": {"dockerfile": "FROM a", "buildContext": "a/../../b"}}),
        ("build.buildContext", {"build": {"dockerfile": "FROM a", "buildContext": "a\\b"}}),
        ("build.target", {"build": {"dockerfile": "FROM a", "target": "a b"}}),
        ("build.platform", {"build": {"dockerfile": "FROM a", "platform": 64}}),
        ("build.dockerfile", {"build": {"context": "https://h.example/x.zip", "dockerfile": 64}}),
        ("build.buildArgs", {"build": {"dockerfile": "FROM a", "buildArgs": {"A": "1"}}}),
        ("build.buildArgs[0]", {"build": {"dockerfile": "FROM a", "buildArgs": ["=1"]}}),
        ("build.buildArgs[0]", {"build": {"dockerfile": "FROM a", "buildArgs": [""]}}),
        ("inputs", {"inputs": [1]}),
        ("inputs.f", {"inputs": {"f": None}}),
        ("inputs.f", {"inputs": {"f": ["x"]}}),
        ("inputs./etc/x", {"inputs": {"/etc/x": {"value": "x"}}}),
        ("inputs.a/b", {"inputs": {"a": {"value": "x"}, "a/b": {"value": "x"}}}),
        ("configFiles./etc/../x", {"configFiles": {"/etc/../x": {"value": "x"}}}),
        ("configFiles.a\\b", {"configFiles": {"a\\b": {"value": "x"}}}),
        ("inputs.f", ref(type="utf8")),
        ("inputs.f", ref(type="json")),
        ("inputs.f.type", ref(type="gzip", value="x")),
        ("inputs.f.type", ref(type=["utf8"], value="x")),
        ("inputs.f.type", ref(type=7, value="x")),
        ("inputs.f.value", ref(value={"a": 1})),
        ("inputs.f.value", ref(value=None)),
        ("inputs.f.value", ref(type="base64", value="a*b")),
        ("inputs.f.value", ref(type="base64", value="AAEC=A")),
        ("inputs.f.value", ref(type="base64", value="A")),
        ("inputs.f.value", ref(type="base64", value="ÄÄÄÄ")),
        ("inputs.f.value", ref(type="key", value="../x")),
        ("inputs.f.value", ref(type="key", value="")),
        ("inputs.f.value", ref(type="url", value="")),
        ("inputs.f.value", ref(type="url", value="/f/abc")),
        ("inputs.f.value", ref(type="url", value="ftp://h.example/x")),
        ("inputs.f.value", ref(type="url", value="http:///x")),
        ("inputs.f.value", ref(type="url", value="https://h.example/a b")),
        ("inputs.f.value", ref(type="url", value="https://h.example\n/a")),
        ("inputs.f.value", ref(type="url", value="https://h.example:port/")),
        ("inputs.f.value", ref(type="url", value="https://h.example:99999/")),
        ("inputs.f.value", ref(type="url", value="https://[::1/")),
        ("inputs.f.value", ref(type="url", value="https://a.example\\@b.example/")),
        ("inputs.f.value", ref(type="url", value="https://user:pw@h.example/x")),
        ("inputs.f.value", ref(type="url", value="https://token@h.example/x")),
        ("inputs.f.hash", ref(value="x", hash=5)),
    ],
)
def test_a_faulty_member_is_refused_by_its_place(where: str, members: dict[str, Any]) -> None:
    assert list(faults(**members)) == [f"definition.{where}"]


def test_a_refused_url_never_repeats_its_password() -> None:
    for url in ("https://user:pass-word@h.example/x", "ftp://user:pass-word@h.example/x", "https://user:pass-word@/x"):
        assert "pass-word" not in str(faults(**ref(type="url", value=url)))


def test_a_number_that_json_does_not_have_is_refused() -> None:
    with pytest.raises(BadDefinition, match="number"):
        read(note=float("inf"))


def test_a_duration_below_a_second_says_what_a_bare_number_is() -> None:
    assert "milliseconds" in faults(maxDuration=90)["definition.maxDuration"]


def test_a_file_name_is_told_shortened() -> None:
    where = next(iter(faults(inputs={"x" * 5000: {"value": "x"}})))
    assert len(where) < 150


# --- amounts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "status", "members"),
    [
        ("definition", 413, {"v": "x" * (256 << 10)}),
        ("definition.inputs", 422, ref(value="x" * ((128 << 10) + 1))),
        ("definition.inputs", 422, ref(type="base64", value=base64.b64encode(b"x" * ((128 << 10) + 1)).decode())),
        ("definition.command", 422, {"command": "x" * ((32 << 10) + 1)}),
        ("definition.command", 422, {"command": ["x" * (16 << 10)] * 3}),
        ("definition.entrypoint", 422, {"entrypoint": "ä" * ((16 << 10) + 1)}),
        ("definition.env", 422, {"env": {f"V{n}": "" for n in range(65)}}),
        ("definition.env.A", 422, {"env": {"A": "x" * ((8 << 10) + 1)}}),
        ("definition.tags", 422, {"tags": [str(n) for n in range(33)]}),
        ("definition.maxDuration", 422, {"maxDuration": "25h"}),
        ("definition.requirements.maxDuration", 422, {"requirements": {"maxDuration": "25h"}}),
    ],
)
def test_too_much_is_refused_with_amount_and_limit(where: str, status: int, members: dict[str, Any]) -> None:
    with pytest.raises(LimitExceeded) as caught:
        read(**members)
    assert caught.value.status == status
    assert [place for place, _ in caught.value.details] == [where]
    assert "at most" in caught.value.message


@pytest.mark.parametrize(
    "members",
    [
        ref(value="x" * (128 << 10)),
        {"command": "x" * (32 << 10)},
        {"env": {f"V{n}": "x" for n in range(64)}},
        {"env": {"A": "x" * (8 << 10)}},
        {"tags": [str(n) for n in range(32)]},
        {"tags": ["x" * 64]},
        {"maxDuration": "24h"},
        {"maxDuration": "1s"},
        {"requirements": {"cpus": 1024, "gpus": 64}},
    ],
)
def test_what_is_exactly_at_the_limit_is_accepted(members: dict[str, Any]) -> None:
    assert read(**members).warnings == ()


def test_zero_means_no_limit() -> None:
    free = Limits(
        definition_bytes=0,
        inline_data_bytes=0,
        env_entries=0,
        env_value_bytes=0,
        command_bytes=0,
        tags=0,
        max_duration_s=0,
    )
    huge = "x" * (300 << 10)
    definition = read(
        free,
        command=huge,
        env={f"V{n}": "" for n in range(100)} | {"A": huge},
        tags=list("abc") * 20,
        **ref(value=huge),
    )
    assert definition.requirements.tags == ("a", "b", "c")
    assert read(free, maxDuration="400d").requirements.max_duration_s == 400 * 86400


def test_faults_are_told_before_amounts() -> None:
    assert list(faults(maxDuration="25h", workdir="x")) == ["definition.workdir"]


# --- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({"cpus": 2}, Requirements(cores=2.0)),
        ({"cpus": 0.25}, Requirements(cores=0.25)),
        ({"gpus": True}, Requirements(gpus=1)),
        ({"gpus": False}, Requirements(gpus=0)),
        ({"gpus": 2.0}, Requirements(gpus=2)),
        ({"memory": 4096}, Requirements(memory_bytes=4096)),
        ({"memory": "1.5GiB"}, Requirements(memory_bytes=3 << 29)),
        ({"maxDuration": "1h30"}, Requirements(max_duration_s=5400.0)),
    ],
)
def test_requirements_are_read_in_their_units(asked: dict[str, Any], wanted: Requirements) -> None:
    assert read(requirements=asked).requirements == wanted


def test_of_two_durations_the_smaller_one_counts() -> None:
    assert read(maxDuration="10m", requirements={"maxDuration": "1h"}).requirements.max_duration_s == 600
    assert read(maxDuration="1h", requirements={"maxDuration": "10m"}).requirements.max_duration_s == 600


def test_every_blob_of_this_server_is_named_once() -> None:
    definition = read(
        build={"context": "http://localhost:8000/f/context-1"},
        inputs={
            "a": {"type": "key", "value": KEY},
            "b": {"type": "url", "value": f"https://h.example/f/{KEY}?x=1#y"},
            "c": {"type": "url", "value": "https://h.example/f/other"},
            "d": {"type": "url", "value": "https://h.example/f/a/b"},
            "e": {"type": "url", "value": "https://h.example/x/f/nested"},
            "f": {"type": "url", "value": "https://h.example/f/.hidden"},
            "g": {"type": "url", "value": "https://h.example"},
            "h": {"type": "utf8", "value": "https://h.example/f/text"},
        },
        configFiles={"/etc/x": {"type": "key", "value": "config-1"}},
    )
    assert definition.blob_keys == (KEY, "other", "config-1", "context-1")
    assert referred_blobs(definition.raw) == definition.blob_keys


@pytest.mark.parametrize(
    ("raw", "keys"),
    [
        (None, ()),
        ([], ()),
        ({"inputs": {"a": {"type": "key"}, "b": {"type": "url", "value": "http://[x/f/y"}, "c": 7}}, ()),
        ({"inputs": {"a": {"type": "key", "value": "../x"}, "b": {"type": "key", "value": "_definition-1"}}}, ()),
        ({"build": {"context": 7}, "image": 7, "inputs": {"a": {"type": "key", "value": "k"}}}, ("k",)),
    ],
)
def test_blobs_of_a_stored_definition_are_found_though_it_would_not_be_accepted_today(
    raw: object, keys: tuple[str, ...]
) -> None:
    assert referred_blobs(raw) == keys


# --- refs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data_ref", "content"),
    [
        ({"value": "ä"}, "ä".encode()),
        ({"type": None, "value": ""}, b""),
        ({"type": "utf8", "value": "a\ud83d"}, "a\ufffd".encode()),
        ({"type": "base64", "value": "AAEC"}, b"\0\1\2"),
        ({"type": "base64", "value": "AAE"}, b"\0\1"),
        ({"type": "base64", "value": "AA\n EC"}, b"\0\1\2"),
        ({"type": "base64", "value": ""}, b""),
        ({"type": "json", "value": {"b": [1, "ä"], "a": None}}, '{"b":[1,"ä"],"a":null}'.encode()),
        ({"type": "json", "value": None}, b"null"),
        ({"type": "url", "value": "https://h.example/x"}, None),
        ({"type": "key", "value": KEY}, None),
    ],
)
def test_a_ref_carries_its_content_or_points_at_it(data_ref: dict[str, Any], content: bytes | None) -> None:
    assert inline_bytes(data_ref) == content


@pytest.mark.parametrize(
    "data_ref", [{}, {"value": 5}, {"type": "json"}, {"type": "x", "value": "y"}, {"type": "base64", "value": "*"}]
)
def test_what_is_no_ref_has_no_content(data_ref: dict[str, Any]) -> None:
    with pytest.raises(BadDefinition):
        inline_bytes(data_ref)


@given(st.binary(max_size=100))
def test_base64_content_comes_back(content: bytes) -> None:
    assert inline_bytes({"type": "base64", "value": base64.b64encode(content).decode()}) == content


def test_files_are_gone_through_inputs_first() -> None:
    found = list(iter_refs({"configFiles": {"a": {"value": "2"}}, "inputs": {"b": {"value": "1"}, "old": "text"}}))
    assert found == [("inputs", "b", {"value": "1"}), ("configFiles", "a", {"value": "2"})]
    assert list(iter_refs({"inputs": None, "configFiles": ["x"]})) == []


def test_every_refusal_is_an_error_with_a_hint() -> None:
    for members in ({"workdir": "x"}, {"tags": ["x"] * 33}):
        with pytest.raises(AsmanError) as caught:
            read(**members)
        assert caught.value.hint


def test_a_context_that_names_a_secret_of_the_worker_holds_no_credentials() -> None:
    def told(context: str) -> tuple[str, ...]:
        return read_definition({"build": {"context": context}}, PUBLIC).warnings

    assert told("https://secret:NAME@github.com/o/r") == ()
    assert "holds credentials" in told("https://token@github.com/o/r")[0]


# --- vectors that the page reads, too --------------------------------------------------------------------------------

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "definitions.json").read_text())["definitions"]


def _written(value: Any) -> Any:
    """Long texts are written as ``{"$text": [head, text, times]}``."""
    if isinstance(value, dict):
        if "$text" in value:
            head, text, times = value["$text"]
            return head + text * times
        return {name: _written(member) for name, member in value.items()}
    return [_written(member) for member in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["what"])
def test_the_vectors_say_what_is_said_of_a_definition(case: dict[str, Any]) -> None:
    definition = _written(case["definition"])
    kind = LimitExceeded if "excess" in case else BadDefinition
    if "faults" not in case and "excess" not in case:
        assert list(read_definition(definition, PUBLIC).warnings) == case.get("warnings", [])
        return
    with pytest.raises(kind) as caught:
        read_definition(definition, PUBLIC)
    assert [list(detail) for detail in caught.value.details] == case.get("faults", case.get("excess"))
