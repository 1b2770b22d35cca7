"""Which images a Dockerfile begins from, what it must not do, and which builder it needs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman.errors import BadDefinition
from asman_worker.build_rules import check_steps, lower, needs_buildkit, platform_args, resolve
from asman_worker.dockerfile import parse, render

AMD = "linux/amd64"


def images(text: str, **args: str) -> list[str]:
    return [image for image, _ in resolve(parse(text), args, AMD).images]


def first_lines(text: str, **args: str) -> list[str]:
    file = resolve(parse(text), args, AMD).file
    return [f"{i.keyword} {i.rest}" for i in file.instructions if i.keyword == "FROM"]


def test_stages_are_no_images_by_name_or_number() -> None:
    text = "FROM a:1 AS One\nFROM b\nCOPY --from=0 /x /x\nCOPY --from=ONE /x /x\nFROM one\nFROM scratch\n"
    assert images(text) == ["a:1", "b"]


def test_images_that_files_are_copied_from_count() -> None:
    text = (
        "FROM a\nCOPY --chown=1 --from=b:2 / /\nRUN --mount=type=bind,from=c,target=/c ls\nONBUILD\tCOPY --from=d / /\n"
    )
    assert images(text) == ["a", "b:2", "c", "d"]


def test_a_stage_is_one_only_after_it_has_begun() -> None:
    assert images("FROM a\nCOPY --from=later / /\nFROM b AS later\n") == ["a", "later", "b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ARG V=3\nFROM a:$V", "a:3"),
        ("ARG V=3\nFROM a:${V}", "a:3"),
        ('ARG V="3"\nFROM a:${V}', "a:3"),
        ("ARG V='3'\nFROM a:${V}", "a:3"),
        ("ARG V\nFROM a:${V:-4}", "a:4"),
        ("FROM a:${V:-4}", "a:4"),
        ("ARG V=5\nFROM a:${V:+x}$V", "a:x5"),
        ("ARG R=r.io/ V=3\nARG N=${R}a\nFROM $N:$V", "r.io/a:3"),
        ("FROM a:$TARGETARCH", "a:amd64"),
        ("FROM --platform=$BUILDPLATFORM a", "a"),
        ("FROM --platform=linux/amd64 a", "a"),
    ],
)
def test_variables_of_from_are_put_in(text: str, expected: str) -> None:
    assert images(text) == [expected]
    assert first_lines(text) == [f"FROM {expected}"]


def test_what_the_definition_says_wins_over_a_default() -> None:
    assert images("ARG V=3\nFROM a:$V", V="9") == ["a:9"]
    assert images("FROM a:${V:-3}", V="9") == ["a:3"], "an argument that the file does not declare is unknown"


@pytest.mark.parametrize(
    "text",
    [
        "FROM $X",
        "FROM a:$",
        'FROM "a"',
        "FROM a\\b",
        "ARG X=`b`\nFROM a:$X",
        "ARG X=$(b)\nFROM a:$X",
        "FROM ${X#y}",
        "FROM a AS $b",
        "FROM a AS",
        "FROM a b",
        "FROM --other=1 a",
        "FROM --platform=linux/s390x a",
        "FROM a\nCOPY --from=$b / /",
        "FROM a\nRUN --mount=from=$b,target=/ ls",
        "RUN a\nFROM b",
        "",
        "ARG A=1",
    ],
)
def test_what_cannot_be_decided_is_refused(text: str) -> None:
    with pytest.raises(BadDefinition, match=r"line \d|no FROM"):
        resolve(parse(text), {}, AMD)


NAMES = st.from_regex(r"[a-z][a-z0-9]{0,5}(:[a-z0-9]{1,4})?", fullmatch=True)


@given(st.lists(st.tuples(NAMES, st.sampled_from(["", "s1", "S2", "s3"])), min_size=1, max_size=6))
def test_every_image_of_every_stage_is_listed(stages: list[tuple[str, str]]) -> None:
    text = "".join(f"FROM {image}{f' AS {name}' if name else ''}\n" for image, name in stages)
    known: set[str] = set()
    expected = []
    for image, name in stages:
        if image not in known and image not in expected:
            expected.append(image)
        known.add(name.lower())
    assert images(text) == expected


def refuses(text: str, **how: bool) -> bool:
    try:
        check_steps(parse("FROM a\n" + text).instructions, engine_fetches=how.get("engine_fetches", False))
    except BadDefinition:
        return True
    return False


DOWNLOADS = [
    "ADD http://h/x /x",
    "add HTTPS://h/x /x",
    'ADD ["http://h/x", "/x"]',
    'ADD ["\\u0068ttp://h/x", "/x"]',
    'ADD --chown=[ ["\\u0068ttp://h/x","/x"]',
    'ADD ["h\\"ttp\\"://h/x","/x"]',
    'ADD h"ttp"://h/x /x',
    "ADD ht\\tp://h/x /x",
    "ADD $X /x",
    "ADD ${X:-http://h}/x /x",
    "ADD h${X}ttp://h /x",
    "ADD --chown=1 a b http://h/x /x",
    "ADD git@h:x /x",
    "ADD git://h/x /x",
    "ADD \\\n  http://h/x /x",
    "ONBUILD ADD http://h/x /x",
    "ONBUILD\tADD\thttp://h/x /x",
]


@pytest.mark.parametrize("text", DOWNLOADS)
def test_a_download_by_the_engine_is_refused(text: str) -> None:
    assert refuses(text)
    assert not refuses(text, engine_fetches=True)


@pytest.mark.parametrize("text", ["ADD . /app", "ADD a.tar.gz b-$X /x", 'ADD ["a b", "/x"]', "RUN wget http://h/x"])
def test_files_of_the_context_may_be_added(text: str) -> None:
    assert not refuses(text)


URL = "http://evil/x"
QUOTING = st.lists(st.sampled_from(["", "\\", '"', "'", '""']), min_size=len(URL), max_size=len(URL))


@given(QUOTING)
def test_no_quoting_hides_a_download(marks: list[str]) -> None:
    word = "".join(mark + letter for letter, mark in zip(URL, marks, strict=True))
    assert refuses(f"ADD {word} /x")
    assert refuses(f"ADD {json.dumps([word, '/x'])}")


@pytest.mark.parametrize(
    "text",
    [
        "LABEL asman.job=1",
        "LABEL a=b asman.x=1",
        'LABEL "asman.x"=1',
        "LABEL as\\man.x=1",
        "LABEL $x=1",
        "LABEL ASMAN.x 1",
    ],
)
def test_our_labels_are_ours(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize("text", ["LABEL a=asman.x", 'LABEL org.x="$V and more"', "LABEL maintainer me"])
def test_other_labels_are_the_authors(text: str) -> None:
    assert not refuses(text)


def lowered(text: str) -> tuple[list[str], tuple[str, ...]]:
    file, said = lower(parse("FROM a\n" + text))
    assert needs_buildkit(file) is None
    return render(file).split("\n")[1:-1], said


def test_what_only_saves_time_is_left_out_and_said() -> None:
    lines, said = lowered(
        "RUN --mount=type=cache,target=/c --mount=target=/d,type=cache pip install x\nCOPY --link a b\n"
    )
    assert lines == ["RUN pip install x", "COPY a b"]
    assert [line.split(":")[0] for line in said] == ["line 2", "line 3"]


def test_a_text_that_is_the_whole_run_becomes_a_script() -> None:
    lines, said = lowered('RUN --mount=type=cache,target=/c <<-EOF\n\tset -e\n\techo "$A" é\n\tEOF\nUSER b\n')
    assert lines[0] == 'RUN ["/bin/sh", "-c", "set -e\\necho \\"$A\\" \\u00e9\\n"]'
    assert "USER b" in lines
    assert any("script" in line for line in said)


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ("RUN --mount=type=secret,id=x true", "RUN --mount", 2),
        ("RUN --mount=type=cache,from=b,target=/c true", "RUN --mount", 2),
        ("RUN --network=none true", "RUN --network", 2),
        ("USER b\nCOPY --chmod=755 a b", "COPY --chmod", 3),
        ("COPY --link=false a b", "COPY --link", 2),
        ("ADD --checksum=sha256:0 a b", "ADD --checksum", 2),
        ("COPY <<EOF /x\nhi\nEOF", "COPY <<EOF", 2),
        ("RUN cat <<EOF\nhi\nEOF", "RUN <<EOF", 2),
        ("RUN <<EOF\n#!/usr/bin/env python\nEOF", "RUN <<EOF", 2),
        ('SHELL ["/bin/bash", "-c"]\nRUN <<EOF\nhi\nEOF', "RUN <<EOF", 3),
        ("ONBUILD RUN --mount=type=cache,target=/c true", "RUN --mount", 2),
    ],
)
def test_what_only_buildkit_can_do_is_named_with_its_line(text: str, what: str, line: int) -> None:
    file, _ = lower(parse("FROM a\n" + text))
    feature = needs_buildkit(file)
    assert feature is not None
    assert (feature.what, feature.line) == (what, line)


@pytest.mark.parametrize(
    "text",
    ["COPY --from=b --chown=1:1 a b", "ADD --chown=1 a b", "RUN echo --mount", "HEALTHCHECK --interval=1s CMD true"],
)
def test_what_the_classic_builder_can_do_needs_nothing_else(text: str) -> None:
    assert needs_buildkit(parse("FROM a\n" + text)) is None


def test_a_syntax_line_is_not_followed_and_that_is_said() -> None:
    _, said = lower(parse("# syntax=docker/dockerfile:1\nFROM a\n"))
    assert "docker/dockerfile:1" in said[0]


def test_the_facts_of_a_platform() -> None:
    args = platform_args("linux/arm64/v8")
    assert (args["TARGETPLATFORM"], args["TARGETARCH"], args["BUILDVARIANT"]) == ("linux/arm64/v8", "arm64", "v8")
