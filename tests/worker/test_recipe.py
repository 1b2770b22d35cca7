"""Recipes out of definitions: what is read, what is refused, and that a credential is never repeated."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asman.errors import BadDefinition
from asman_worker.recipe import (
    ArchiveContext,
    GitContext,
    Recipe,
    build_hash,
    parse_context,
    read_recipe,
    shown_url,
)

REPOSITORY = "https://git.example/o/r.git"


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        ({"dockerfile": "FROM alpine:3.19.1\nRUN echo hi\n"}, "6c29925cbae423e92053cfeac64baf32"),
        (
            {
                "context": "https://github.com/metapages/metapage-docker-job-test-run-from-repo",
                "filename": "Dockerfile",
            },
            "72f1a4205183e73678bd6dbdcb6734d3",
        ),
    ],
)
def test_build_hashes_are_those_of_older_workers(build: dict[str, Any], expected: str) -> None:
    assert build_hash(build) == expected


@pytest.mark.parametrize("userinfo", ["secret:NAME@", "user:p@ss@", "token@", ""])
def test_a_credential_does_not_change_the_build_hash(userinfo: str) -> None:
    build = {"filename": "D", "context": f"https://{userinfo}github.com/o/r"}
    assert build_hash(build) == build_hash({"context": "https://github.com/o/r", "filename": "D"})
    assert build_hash(build) != build_hash({"context": "https://github.com/o/R", "filename": "D"})
    assert build["context"] == f"https://{userinfo}github.com/o/r"


@pytest.mark.parametrize("build", [None, {}, {"context": "", "target": None}, {"buildArgs": []}, {"unknown": 1}])
def test_a_definition_without_a_filled_build_has_no_recipe(build: Any) -> None:
    assert read_recipe({"image": "a", "build": build}) is None
    assert read_recipe({"image": "a"}) is None


def test_every_member_is_read() -> None:
    build = {
        "context": REPOSITORY,
        "buildContext": "./docker//base/",
        "filename": "prod.Dockerfile",
        "target": "run",
        "dockerfile": "FROM a\n",
        "buildArgs": ["A=1", "B=x=y", "A=2", "C="],
        "platform": "linux/arm/v7",
        "noCache": True,
    }
    assert read_recipe({"build": build}) == Recipe(
        context=REPOSITORY,
        folder="docker/base",
        filename="prod.Dockerfile",
        target="run",
        dockerfile="FROM a\n",
        build_args=(("A", "2"), ("B", "x=y"), ("C", "")),
        platform="linux/arm/v7",
    )
    as_object = read_recipe({"build": build | {"buildArgs": {"A": "2"}}})
    assert as_object is not None
    assert as_object.build_args == (("A", "2"),)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        ("text", "build is text"),
        ([1], "build is an array"),
        ({"target": "x"}, "neither a context nor a dockerfile"),
        ({"dockerfile": 3}, "build.dockerfile is a number"),
        ({"dockerfile": "F\0"}, "build.dockerfile holds a NUL"),
        ({"dockerfile": "\ud800"}, "build.dockerfile is not Unicode"),
        ({"dockerfile": "F", "filename": "../x"}, "build.filename"),
        ({"dockerfile": "F", "filename": "/x"}, "build.filename"),
        ({"dockerfile": "F", "filename": "a\\b"}, "build.filename"),
        ({"dockerfile": "F", "filename": "a\nb"}, "build.filename"),
        ({"dockerfile": "F", "buildContext": "a/../../b"}, "build.buildContext"),
        ({"dockerfile": "F", "buildContext": "x" * 256}, "build.buildContext"),
        ({"dockerfile": "F", "buildContext": {}}, "build.buildContext is an object"),
        ({"dockerfile": "F", "target": "-x"}, "build.target"),
        ({"dockerfile": "F", "target": "a b"}, "build.target"),
        ({"dockerfile": "F", "platform": "linux/amd64,linux/arm64"}, "build.platform"),
        ({"dockerfile": "F", "platform": "--x"}, "build.platform"),
        ({"dockerfile": "F", "buildArgs": "A=1"}, "build.buildArgs is text"),
        ({"dockerfile": "F", "buildArgs": ["A=1", 2]}, r"build.buildArgs\[1\]"),
        ({"dockerfile": "F", "buildArgs": ["PATH"]}, "without a value"),
        ({"dockerfile": "F", "buildArgs": ["=x"]}, r"build.buildArgs\[0\]"),
        ({"dockerfile": "F", "buildArgs": ["a b=x"]}, r"build.buildArgs\[0\]"),
        ({"dockerfile": "F", "buildArgs": ["A=secret:NAME"]}, "stay readable in the image's history"),
        ({"dockerfile": "F", "buildArgs": {"A": "secret:NAME"}}, "stay readable in the image's history"),
        ({"dockerfile": "F", "buildArgs": {"A": 1}}, "buildArgs"),
        ({"dockerfile": "F", "buildArgs": ["BUILDKIT_SYNTAX=evil/frontend"]}, "steers the builder"),
        ({"dockerfile": "F", "buildArgs": ["A=\0"]}, "NUL"),
        ({"context": "git@github.com:o/r.git"}, "not an https address"),
        ({"context": "https://github.com/o/r/tree/${ref}"}, "unreplaced template"),
    ],
)
def test_what_cannot_be_read_is_named(build: Any, named: str) -> None:
    with pytest.raises(BadDefinition, match=named):
        read_recipe({"build": build})


def page(url: str, ref: str) -> GitContext:
    return GitContext(url=url, ref=ref, ref_has_folder=True)


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("https://github.com/o/r", GitContext(url="https://github.com/o/r")),
        ("https://github.com/o/r/", GitContext(url="https://github.com/o/r")),
        ("https://github.com/o/r.git", GitContext(url="https://github.com/o/r.git")),
        ("https://github.com/o/r?tab=readme-ov-file", GitContext(url="https://github.com/o/r")),
        ("https://github.com/o/tarball", GitContext(url="https://github.com/o/tarball")),
        ("https://github.com/o/r/tree/main", page("https://github.com/o/r", "main")),
        ("https://github.com/o/r/tree/", page("https://github.com/o/r", "")),
        ("https://github.com/o/r/tree/a%2Fb/c", page("https://github.com/o/r", "a/b/c")),
        ("https://github.com/o/r/tree/main/.github", page("https://github.com/o/r", "main/.github")),
        ("https://github.com/o/r/commit/0123abc", page("https://github.com/o/r", "0123abc")),
        ("https://ghe.example:8443/o/r/tree/x", page("https://ghe.example:8443/o/r", "x")),
        ("https://gitlab.com/g/s/p/-/tree/x/y?ref_type=heads", page("https://gitlab.com/g/s/p", "x/y")),
        ("https://gitlab.com/g/p/-/commit/0123abc", page("https://gitlab.com/g/p", "0123abc")),
        ("https://codeberg.org/o/r/src/branch/x/y", page("https://codeberg.org/o/r", "x/y")),
        (REPOSITORY, GitContext(url=REPOSITORY)),
        (f"{REPOSITORY}#v1", GitContext(url=REPOSITORY, ref="v1")),
        (f"{REPOSITORY}#v1:a/b/", GitContext(url=REPOSITORY, ref="v1", folder="a/b")),
        (f"{REPOSITORY}#:a", GitContext(url=REPOSITORY, folder="a")),
        (f"{REPOSITORY}#pull/7/head", GitContext(url=REPOSITORY, ref="pull/7/head")),
        ("https://h.example/x/y#main", GitContext(url="https://h.example/x/y", ref="main")),
        ("https://secret:N@h.example/r.git#x", GitContext(url="https://h.example/r.git", ref="x", secret="N")),
        ("https://[2001:db8::1]:8/r.git", GitContext(url="https://[2001:db8::1]:8/r.git")),
        ("https://h.example/x/y", GitContext(url="https://h.example/x/y", may_be_archive=True)),
        ("https://h.example/a.tar.gz", ArchiveContext(url="https://h.example/a.tar.gz")),
        ("https://h.example/a.TGZ?sig=1", ArchiveContext(url="https://h.example/a.TGZ?sig=1")),
        ("https://github.com/o/r/archive/x.zip", ArchiveContext(url="https://github.com/o/r/archive/x.zip")),
        ("https://api.example/r/tarball/x", ArchiveContext(url="https://api.example/r/tarball/x")),
        ("https://h.example/get?file=1", ArchiveContext(url="https://h.example/get?file=1")),
        ("http://localhost:8000/f/" + "a" * 64, ArchiveContext(url="http://localhost:8000/f/" + "a" * 64)),
        ("https://secret:my.n-1@h.example/a.tar", ArchiveContext(url="https://h.example/a.tar", secret="my.n-1")),
    ],
)
def test_contexts_are_told_apart(context: str, expected: GitContext | ArchiveContext) -> None:
    assert parse_context(context) == expected


@pytest.mark.parametrize(
    ("context", "said"),
    [
        ("ssh://git@github.com/o/r", "not an https address"),
        ("git@github.com:o/r.git", "not an https address"),
        ("git://h/o/r", "not an https address"),
        ("file:///etc", "not an https address"),
        ("/etc", "not an https address"),
        ("https://", "not an https address"),
        ("https://h.example", "nothing on it"),
        ("https://h.example/", "nothing on it"),
        ("https://h.example:port/r", "not a URL"),
        ("https://[::1/r", "not a URL"),
        ("https://h.exam!ple/r", "host name"),
        ("https://h.example/r x", "blanks"),
        ("https://h.example/r\n", "blanks"),
        ("https://h.example\\@other/r", "backslashes"),
        (f"{REPOSITORY}#--upload-pack=x", "no name of a branch"),
        (f"{REPOSITORY}#a..b", "no name of a branch"),
        (f"{REPOSITORY}#+refs/heads/*:x", "no name of a branch"),
        (f"{REPOSITORY}#x:../y", "inside the build context"),
        ("https://github.com/o/r/tree/main#readme", "says twice"),
        ("https://github.com/o/r/tree/main/../..", "inside the build context"),
        ("https://h.example/a.zip#x", "nothing can follow"),
        ("https://h.example/r.git#${branch}", "unreplaced template"),
        ("http://secret:N@h.example/r.git", "unencrypted"),
    ],
)
def test_other_contexts_are_refused(context: str, said: str) -> None:
    with pytest.raises(BadDefinition, match=said):
        parse_context(context)


@pytest.mark.parametrize(
    "context",
    [
        "https://hunter2@h.example/r.git",
        "https://user:hunter2@h.example/r.git",
        "https://secret:hunter2:x@h.example/r.git",
        "https://user:hunter2@x@h.example/r.git",
        "https://user:pa/hunter2@h.example/r.git",
        "https://user:pa?hunter2@h.example/r.git",
        "https://user:pa#hunter2@h.example/r.git",
        "https://user:hunter2@h.exa mple/r.git",
        "https://user:hunter2@h.example/r/${x}",
        "https://user:hunter2@h.example:port/",
        "ftp://user:hunter2@h.example/x",
        "user:hunter2@h.example:x",
        "https://h.example/a.zip?token=hunter2#x",
    ],
)
def test_a_credential_is_refused_without_repeating_it(context: str) -> None:
    with pytest.raises(BadDefinition) as refused:
        read_recipe({"build": {"context": context}})
    chain: BaseException | None = refused.value
    while chain is not None:
        assert "hunter2" not in f"{chain} {getattr(chain, 'hint', '')}"
        chain = chain.__cause__
    assert "hunter2" not in shown_url(context)


def test_a_refused_credential_comes_with_the_way_to_do_it() -> None:
    with pytest.raises(BadDefinition, match="credential") as refused:
        parse_context("https://token@h.example/r.git")
    assert "secret:NAME@host" in refused.value.hint


_WORDS = st.sampled_from(
    [
        "https://",
        "http://",
        "secret:",
        "@",
        "/",
        "-/tree/",
        "tree",
        "#",
        ":",
        "?",
        "..",
        "%2F",
        "${",
        "a",
        ".git",
        "[",
        "\0",
    ]
)


@given(st.lists(_WORDS | st.text(max_size=4), max_size=12).map("".join))
@example("https://a/%00")
@example("https://a/b/c/tree/%FF")
def test_any_text_is_a_clean_context_or_a_refusal(text: str) -> None:
    try:
        context = parse_context(text)
    except BadDefinition:
        return
    assert context.url.startswith(("https://", "http://"))
    assert "@" not in context.url.split("/")[2]
    assert "#" not in context.url
    if isinstance(context, GitContext):
        assert not context.ref.startswith("-")
        assert ".." not in context.folder.split("/")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
_NAMES = st.sampled_from(["context", "buildContext", "filename", "target", "dockerfile", "buildArgs", "platform", "x"])


@given(_JSON | st.dictionaries(_NAMES, _JSON | st.just(REPOSITORY), max_size=5))
def test_any_build_is_a_recipe_or_a_refusal(build: Any) -> None:
    try:
        recipe = read_recipe({"build": build})
    except BadDefinition:
        return
    if recipe is not None:
        assert recipe.context or recipe.dockerfile
        assert not recipe.folder.startswith("/")
        assert ".." not in [*recipe.folder.split("/"), *recipe.filename.split("/")]
