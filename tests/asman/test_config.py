"""Settings: one table, four sources, and what is wrong is said with its place."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from asman.config import PROFILES, SETTINGS, Config, Limits, load_config
from asman.errors import ConfigError

SAMPLES = {"text": "some", "duration": "90s", "size": "1m", "whole": "7", "list": "a, b"}
READ = {"text": "some", "duration": 90.0, "size": 1 << 20, "whole": 7, "list": ("a", "b")}


def write(folder: Path, text: str) -> Path:
    file = folder / "asman.toml"
    file.write_text(text)
    return file


def test_the_table_and_the_record_have_the_same_settings_with_the_same_defaults() -> None:
    defaults = {f.name: f.default for f in fields(Config) if f.default is not MISSING}
    assert {s.name: s.default for s in SETTINGS} == defaults
    assert {f.name for f in fields(Config)} - defaults.keys() == {"limits"}


def test_every_setting_has_a_known_kind_a_variable_of_its_own_and_a_sentence_of_help() -> None:
    assert {s.kind for s in SETTINGS} <= set(SAMPLES)
    assert len({s.env for s in SETTINGS}) == len(SETTINGS)
    for setting in SETTINGS:
        assert setting.env.startswith("ASMAN_")
        assert setting.help.endswith(".")
        assert setting.kind != "duration" or setting.name.endswith("_s")


def test_without_anything_the_defaults_hold_and_say_so() -> None:
    config, source = load_config()
    assert config == Config()
    assert set(source.values()) == {"default"}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_every_setting_can_come_from_each_source(setting: Any, tmp_path: Path) -> None:
    chosen = {"profile": "public", "backend": "postgres", "blob_redirects": "off"}
    text = chosen.get(setting.name, SAMPLES[setting.kind])
    value = chosen.get(setting.name, READ[setting.kind])
    file = write(tmp_path, f'{setting.name} = "{text}"\n')
    for given, where in (
        ({"flags": {setting.name: text}}, "flag"),
        ({"environ": {setting.env: text}}, setting.env),
        ({"file": file}, str(file)),
    ):
        config, source = load_config(**given)  # type: ignore[arg-type]
        assert getattr(config, setting.name) == value
        assert source[setting.name] == where


def test_flags_win_over_environment_and_environment_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, 'port = 1\nhost = "file"\ndata = "file"\n')
    environ = {"ASMAN_PORT": "2", "ASMAN_HOST": "environment", "UNRELATED": "x"}
    config, source = load_config({"port": 3, "data": None}, environ, file)
    assert (config.port, config.host, config.data) == (3, "environment", "file")
    assert (source["port"], source["host"], source["data"]) == ("flag", "ASMAN_HOST", str(file))


@pytest.mark.parametrize(
    ("setting", "value", "read"),
    [
        ("lease_s", "30", 30.0),
        ("lease_s", 2.5, 2.5),
        ("lease_s", "1h30", 5400.0),
        ("expire_after_s", "30d", 2_592_000.0),
        ("expire_after_s", "0", 0.0),
        ("port", 8000.0, 8000),
        ("allow_origin", ["https://a.example", " "], ("https://a.example",)),
        ("allow_origin", "https://a.example,,https://b.example ", ("https://a.example", "https://b.example")),
        ("data", Path("x"), "x"),
    ],
)
def test_a_value_is_read_into_its_unit(setting: str, value: Any, read: Any) -> None:
    assert getattr(load_config({setting: value})[0], setting) == read


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("port", "many"),
        ("port", "80.5"),
        ("port", 80.5),
        ("port", -1),
        ("port", True),
        ("port", [80]),
        ("port", float("inf")),
        ("lease_s", "soon"),
        ("lease_s", "-5"),
        ("lease_s", "nan"),
        ("lease_s", "inf"),
        ("lease_s", False),
        ("lease_s", [1]),
        ("host", ["a"]),
        ("host", True),
        ("allow_origin", 5),
        ("profile", "secret"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_with_its_setting(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=setting):
        load_config({setting: value})


def test_a_bad_variable_is_named() -> None:
    with pytest.raises(ConfigError, match="ASMAN_PORT"):
        load_config(environ={"ASMAN_PORT": "many"})


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe", b"port = 1\nport = 2"])
def test_a_file_that_is_no_toml_is_refused_by_its_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "asman.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"asman\.toml"):
        load_config(file=tmp_path / "asman.toml")


def test_a_file_that_is_not_there_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        load_config(file=tmp_path / "missing.toml")


def test_an_unknown_setting_in_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prot") as caught:
        load_config(file=write(tmp_path, "prot = 80\n"))
    assert "asman config" in caught.value.hint


def test_the_profile_decides_the_limits() -> None:
    assert load_config({"profile": "public"})[0].limits == PROFILES["public"] == Limits()
    assert load_config()[0].limits == PROFILES["private"]


def test_the_private_profile_never_allows_less_than_the_public_one() -> None:
    for limit in fields(Limits):
        public, private = getattr(PROFILES["public"], limit.name), getattr(PROFILES["private"], limit.name)
        assert private == 0 or private >= public, limit.name


@pytest.mark.parametrize(
    ("settings", "urls"),
    [
        ({}, ("sqlite:///asman-data/asman.db", "file:///asman-data/blobs", "sqlite:///asman-data/asman.db")),
        ({"data": "/srv/x"}, ("sqlite:////srv/x/asman.db", "file:////srv/x/blobs", "sqlite:////srv/x/asman.db")),
        ({"backend": "memory"}, ("memory:", "memory:", "memory:")),
        (
            {"backend": "redis://h/0", "blobs": "s3://b", "notifier": "redis://h/1"},
            ("redis://h/0", "s3://b", "redis://h/1"),
        ),
        (
            {"backend": "redis+s3", "redis": "redis://h/2", "s3": "s3://b/p?style=path"},
            ("redis://h/2", "s3://b/p?style=path", "redis://h/2"),
        ),
        (
            {"backend": "postgres", "postgres": "postgresql://h/d"},
            ("postgresql://h/d", "file:///asman-data/blobs", "postgresql://h/d"),
        ),
        (
            {"backend": "sqlite+s3", "s3": "s3://b"},
            ("sqlite:///asman-data/asman.db", "s3://b", "sqlite:///asman-data/asman.db"),
        ),
        (
            {"backend": "redis+cluster://a:1,b:2"},
            ("redis+cluster://a:1,b:2", "file:///asman-data/blobs", "redis+cluster://a:1,b:2"),
        ),
    ],
)
def test_backends_are_addresses(settings: dict[str, str], urls: tuple[str, str, str]) -> None:
    config, _ = load_config(settings)
    assert (config.job_store_url, config.blob_store_url, config.notifier_url) == urls


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"backend": "oracle"}, 'backend is "oracle"; job stores are: memory, postgres, redis, sqlite'),
        ({"backend": "redis+tape"}, "blob stores are: filesystem, memory, s3"),
        ({"backend": "redis+s3"}, "no bucket is named"),
    ],
)
def test_a_backend_that_is_none_is_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_config(settings)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("h.example", False)],
)
def test_only_loopback_is_local(host: str, is_local: bool) -> None:
    assert Config(host=host).is_local is is_local
