"""One image, many spellings: a pattern for one holds for all, and for nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman_worker.image_name import matches, matches_any, normal_form

DIGEST = f"sha256:{'ab' * 32}"


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.19.1", "docker.io/library/alpine:3.19.1"),
        ("library/alpine:3.19.1", "docker.io/library/alpine:3.19.1"),
        ("docker.io/alpine:3.19.1", "docker.io/library/alpine:3.19.1"),
        ("docker.io/library/alpine:3.19.1", "docker.io/library/alpine:3.19.1"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
        ("Docker.IO/alpine", "docker.io/library/alpine:latest"),
        ("org/tool:v1", "docker.io/org/tool:v1"),
        ("org/deep/tool:v1", "docker.io/org/deep/tool:v1"),
        ("GHCR.io/org/tool:V1", "ghcr.io/org/tool:V1"),
        ("localhost/tool", "localhost/tool:latest"),
        ("localhost:5000/tool", "localhost:5000/tool:latest"),
        ("[::1]:5000/tool:1", "[::1]:5000/tool:1"),
        ("Org/tool", "Org/tool:latest"),
        (f"alpine@{DIGEST}", f"docker.io/library/alpine@{DIGEST}"),
        (f"alpine:3.19.1@{DIGEST}", f"docker.io/library/alpine@{DIGEST}"),
        (f"localhost:5000/a/b:c@{DIGEST}", f"localhost:5000/a/b@{DIGEST}"),
    ],
)
def test_every_spelling_has_one_normal_form(name: str, full: str) -> None:
    assert normal_form(name) == full
    assert normal_form(full) == full


ALLOWED = [
    ("*", "anything.example.org/a/b:c"),
    ("alpine:3.19.1", "docker.io/library/alpine:3.19.1"),
    ("docker.io/library/alpine:3.19.1", "alpine:3.19.1"),
    ("index.docker.io/library/alpine:3.19.1", "library/alpine:3.19.1"),
    ("alpine", "alpine:3.19.1"),
    ("alpine", "alpine"),
    ("alpine:*", "alpine:3.19.1"),
    ("alpine:*", f"alpine@{DIGEST}"),
    ("alpine", f"alpine:3.19.1@{DIGEST}"),
    ("alpine:3.*", "alpine:3.19.1"),
    ("alpine*", "alpine:3.19.1"),
    ("alpine*", "docker.io/library/alpine-extra:1"),
    ("python:3.12-*", "docker.io/python:3.12-slim"),
    ("myorg/*", "myorg/tool:1"),
    ("myorg/*", "docker.io/myorg/deep/tool:1"),
    ("MyOrg/*", "myorg/tool:1"),
    ("docker.io/myorg/*", "myorg/tool:1"),
    ("ghcr.io/*", "GHCR.io/org/tool:1"),
    ("ghcr.io/org/tool", "ghcr.io/org/tool:1"),
    ("localhost:5000/*", "localhost:5000/tool"),
    ("[::1]:5000/*", "[::1]:5000/tool"),
    ("*.example.org/*", "registry.example.org/tool:1"),
    ("*/tool:1", "ghcr.io/org/tool:1"),
    ("*/tool:1", "org/tool:1"),
    ("*:stable", "org/tool:stable"),
    (f"alpine@{DIGEST}", f"alpine:any@{DIGEST}"),
    (f"docker.io/library/alpine:3.19.1@{DIGEST}", f"alpine@{DIGEST}"),
    ("tool:V1", "tool:V1"),
]

REFUSED = [
    ("alpine:3.19.1", "alpine:3.19.2"),
    ("alpine:3.19.1", "alpine"),
    ("alpine:3.19.1", "evil/alpine:3.19.1"),
    ("alpine:3.19.1", "evil.example.org/library/alpine:3.19.1"),
    ("alpine:3.19.1", f"alpine@{DIGEST}"),
    ("alpine:3.19.1", f"alpine:3.19.1@{DIGEST}"),
    ("alpine", "alpine-extra:1"),
    ("alpine", "alpine/extra:1"),
    ("myorg/*", "myorg.example.org/tool:1"),
    ("myorg/*", "ghcr.io/myorg/tool:1"),
    ("myorg/*", "MyOrg/tool:1"),
    ("myorg/*", "notmyorg/tool:1"),
    ("ghcr.io/*", "ghcr.io.example.org/tool:1"),
    ("ghcr.io/*", "ghcr.io:443/tool:1"),
    ("ghcr.io/org/tool", "ghcr.io/org/tool-2:1"),
    ("localhost:5000/*", "localhost/tool"),
    ("*.example.org/*", "example.org.evil.net/tool"),
    ("*:stable", "org/tool:unstable2"),
    ("tool:V1", "tool:v1"),
    (f"alpine@{DIGEST}", "alpine:3.19.1"),
    (f"alpine@{DIGEST}", f"alpine@sha256:{'cd' * 32}"),
    ("a.c/x", "abc/x"),
]


@pytest.mark.parametrize(("pattern", "name"), ALLOWED)
def test_a_pattern_holds_for_every_spelling_of_what_it_means(pattern: str, name: str) -> None:
    assert matches(pattern, name)
    assert matches(pattern, normal_form(name)), "the full name is the same image"


@pytest.mark.parametrize(("pattern", "name"), REFUSED)
def test_a_pattern_holds_for_nothing_else(pattern: str, name: str) -> None:
    assert not matches(pattern, name)


def test_one_of_several_patterns_is_enough_and_none_allows_nothing() -> None:
    assert matches_any(("org/*", "alpine"), "alpine:3.19.1")
    assert not matches_any((), "alpine:3.19.1")


_PART = st.from_regex(r"[a-z0-9]{1,4}", fullmatch=True)
_NAMES = st.builds(
    lambda host, parts, version: host + "/".join(parts) + version,
    st.sampled_from(["", "docker.io/", "ghcr.io/", "localhost:5000/"]),
    st.lists(_PART, min_size=1, max_size=3),
    st.sampled_from(["", ":1", ":Latest", f"@{DIGEST}", f":1@{DIGEST}"]),
)


@given(_NAMES)
def test_a_name_used_as_a_pattern_holds_for_itself_and_its_normal_form_stays(name: str) -> None:
    assert matches(name, name)
    assert matches(normal_form(name), name)
    assert normal_form(normal_form(name)) == normal_form(name)
