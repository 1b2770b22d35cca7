"""Secrets by name: which file is accepted, what is given to whom, and that nothing else is said."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from asman.errors import ConfigError
from asman_worker.secrets import Secret, SecretRefused, SecretStore, secrets_asked_for, with_values

TEXT = """
[PLAIN]
value = "plain-value"
[FOR_IMAGES]
value = "image-value"
images = ["myorg/*", "alpine:3.19.1"]
[FOR_QUEUES]
value = "queue-value"
queues = ["mine"]
[FOR_HOSTS]
value = "host-value"
hosts = ["github.com", "*.example.org"]
"""


def _file(folder: Path, text: str = TEXT, mode: int = 0o600, name: str = "secrets.toml") -> Path:
    file = folder / name
    file.write_text(text)
    file.chmod(mode)
    return file


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    opened = SecretStore(_file(tmp_path))
    assert opened.load() == 4
    return opened


def _values(store: SecretStore, queue: str = "q", image: str = "a:1", **env: Any) -> dict[str, str]:
    return {name: s.value for name, s in store.for_job({"env": env}, queue=queue, image=image).items()}


def test_only_values_of_exactly_this_form_ask_for_a_secret() -> None:
    env = {"A": "secret:X", "B": " secret:X", "C": "secret:", "D": "secret:X Y", "E": "Secret:X", "F": 5, "G": "x"}
    assert secrets_asked_for({"env": env}) == {"A": "X"}
    assert secrets_asked_for({}) == {}
    assert secrets_asked_for({"env": ["secret:X"]}) == {}


def test_a_value_takes_the_place_of_its_name_and_the_definition_stays_as_it_was() -> None:
    definition = {"image": "a", "env": {"A": "secret:X", "B": "b"}}
    put = with_values(definition, {"A": Secret(name="X", value="the-value")})
    assert put == {"image": "a", "env": {"A": "the-value", "B": "b"}}
    assert definition["env"] == {"A": "secret:X", "B": "b"}
    assert with_values(definition, {}) is definition


def test_a_job_gets_what_it_asks_for(store: SecretStore) -> None:
    assert _values(store, A="secret:PLAIN", B="other") == {"A": "plain-value"}
    assert _values(store, image="docker.io/myorg/tool:1", A="secret:FOR_IMAGES") == {"A": "image-value"}
    assert _values(store, image="docker.io/library/alpine:3.19.1", A="secret:FOR_IMAGES") == {"A": "image-value"}
    assert _values(store, queue="mine", A="secret:FOR_QUEUES") == {"A": "queue-value"}


@pytest.mark.parametrize("name", ["UNKNOWN", "FOR_IMAGES", "FOR_QUEUES", "FOR_HOSTS"])
def test_what_is_not_given_is_refused_by_its_name_and_says_nothing_of_others(store: SecretStore, name: str) -> None:
    with pytest.raises(SecretRefused) as refused:
        _values(store, TOKEN=f"secret:{name}")
    said = f"{refused.value.message} {refused.value.hint}"
    assert "definition.env.TOKEN" in said
    assert f'"{name}"' in said
    for other in {"PLAIN", "FOR_IMAGES", "FOR_QUEUES", "FOR_HOSTS"} - {name}:
        assert other not in said
    same = said.replace(name, "N")
    with pytest.raises(SecretRefused) as unknown:
        _values(store, TOKEN="secret:N")
    assert f"{unknown.value.message} {unknown.value.hint}" == same, "there or not: the words are the same"


def test_a_job_whose_image_is_built_has_no_image_that_a_pattern_could_match(store: SecretStore) -> None:
    with pytest.raises(SecretRefused):
        _values(store, image="", A="secret:FOR_IMAGES")


def test_a_worker_without_a_file_gives_nothing() -> None:
    empty = SecretStore(None)
    assert empty.load() == 0
    assert _values(empty, A="plain") == {}
    with pytest.raises(SecretRefused):
        _values(empty, A="secret:ANY_NAME")


@pytest.mark.parametrize("host", ["github.com", "GitHub.com", "github.com.", "a.example.org", "b.a.example.org"])
def test_a_secret_for_hosts_is_given_for_these(store: SecretStore, host: str) -> None:
    assert store.secret_for("FOR_HOSTS", host) == "host-value"


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("FOR_HOSTS", "github.com.evil.net"),
        ("FOR_HOSTS", "evilgithub.com"),
        ("FOR_HOSTS", "sub.github.com"),
        ("FOR_HOSTS", "example.org"),
        ("FOR_HOSTS", "badexample.org"),
        ("FOR_HOSTS", ".example.org.evil"),
        ("PLAIN", "github.com"),
        ("UNKNOWN", "github.com"),
    ],
)
def test_a_secret_is_given_for_no_other_host(store: SecretStore, name: str, host: str) -> None:
    with pytest.raises(SecretRefused) as refused:
        store.secret_for(name, host)
    assert "value" not in refused.value.message


def test_values_of_named_secrets_can_be_taken_out_of_what_a_build_says(store: SecretStore) -> None:
    assert store.redactor("FOR_HOSTS", "UNKNOWN").text("url host-value plain-value") == (
        "url [secret FOR_HOSTS] plain-value"
    )


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o644])
def test_a_file_that_others_can_use_is_refused_with_the_command_that_mends_it(tmp_path: Path, mode: int) -> None:
    file = _file(tmp_path, mode=mode)
    with pytest.raises(ConfigError) as refused:
        SecretStore(file).load()
    assert refused.value.hint == f"Run: chmod 600 {file}"
    subprocess.run(shlex.split(refused.value.hint.removeprefix("Run: ")), check=True)
    assert SecretStore(file).load() == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    file = _file(tmp_path)
    os.chown(file, 4242, 4242)
    with pytest.raises(ConfigError, match="belongs to the user 4242") as refused:
        SecretStore(file).load()
    assert refused.value.hint == f"Run: chown 0 {file}"


def test_a_value_may_stand_in_a_file_of_its_own_that_is_as_private(tmp_path: Path) -> None:
    value = _file(tmp_path, "from-a-file\n", name="value")
    store = SecretStore(_file(tmp_path, f'[A]\nfile = "{value}"\n'))
    store.load()
    assert _values(store, X="secret:A") == {"X": "from-a-file"}
    value.chmod(0o644)
    with pytest.raises(ConfigError) as refused:
        store.load()
    assert refused.value.hint == f"Run: chmod 600 {value}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[A]\nvalue = "short"\n', "fewer than 6 characters"),
        ('[A]\nvalue = "     x     "\n', "fewer than 6 characters"),
        ('[A]\nvalue = "hunter2-hunter2"\nfile = "/x"\n', "value or file, and not both"),
        ("[A]\n", "value or file, and not both"),
        ("[A]\nvalue = 123456789\n", "text in quotes"),
        ('[A]\nvalue = "hunter2-hunter2"\nhost = ["x"]\n', 'unknown member "host"'),
        ('[A]\nvalue = "hunter2-hunter2"\nhosts = []\n', "list of texts, not empty, for hosts"),
        ('[A]\nvalue = "hunter2-hunter2"\nimages = "myorg/*"\n', "list of texts, not empty, for images"),
        ('[A]\nvalue = "hunter2-hunter2"\nhosts = ["x"]\nqueues = ["q"]\n', "not for jobs"),
        ('[A]\nfile = "relative"\n', "absolute path"),
        ('[A]\nfile = "/nonexistent/value"\n', "/nonexistent/value cannot be read"),
        ('A = "hunter2-hunter2"\n', "is no table"),
        ('["A B"]\nvalue = "hunter2-hunter2"\n', "begins with a letter"),
        ('[A]\nvalue = "hunter2-\\u0000hunter2"\n', "NUL"),
        ("[A]\nvalue = hunter2-hunter2\n", "no TOML (at line 2"),
    ],
)
def test_what_is_wrong_with_the_file_is_said_without_a_value(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        SecretStore(_file(tmp_path, text)).load()
    said = f"{refused.value.message} {refused.value.hint}"
    assert told in said
    assert "hunter2" not in said
    assert refused.value.__cause__ is None or "hunter2" not in repr(refused.value.__cause__)


def test_a_changed_file_counts_from_the_next_job_on(tmp_path: Path) -> None:
    value = _file(tmp_path, "first-value", name="value")
    file = _file(tmp_path, f'[A]\nfile = "{value}"\n')
    store = SecretStore(file)
    store.load()
    assert _values(store, X="secret:A") == {"X": "first-value"}
    value.write_text("second-value!")
    assert _values(store, X="secret:A") == {"X": "second-value!"}
    file.write_text('[B]\nvalue = "other-value"\n')
    assert _values(store, X="secret:B") == {"X": "other-value"}
    with pytest.raises(SecretRefused):
        _values(store, X="secret:A")


def test_a_file_that_becomes_readable_for_others_gives_nothing_and_tells_only_the_owner(
    store: SecretStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "secrets.toml"
    file.chmod(0o644)
    with caplog.at_level(logging.ERROR), pytest.raises(SecretRefused) as refused:
        _values(store, A="secret:PLAIN")
    assert str(tmp_path) not in f"{refused.value.message} {refused.value.hint}"
    assert f"chmod 600 {file}" in str(vars(caplog.records[0]))
    with pytest.raises(SecretRefused):
        store.secret_for("FOR_HOSTS", "github.com")
    file.chmod(0o600)
    assert _values(store, A="secret:PLAIN") == {"A": "plain-value"}


def test_a_secret_does_not_show_its_value_or_its_queues_when_it_is_printed() -> None:
    shown = repr(Secret(name="A", value="the-value", queues=("my-queue",)))
    assert "the-value" not in shown
    assert "my-queue" not in shown
