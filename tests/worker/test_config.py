"""Settings: which place wins, the names of older workers, and what is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from asman.errors import ConfigError
from asman_worker.config import SETTINGS, WorkerConfig, load_worker_config


def _load(flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None) -> WorkerConfig:
    return load_worker_config({"queues": ("a",), **(flags or {})}, environ)[0]


def test_every_field_is_a_row_and_has_the_same_default() -> None:
    rows = {setting.name: setting.default for setting in SETTINGS}
    defaults = {f.name: rows["queues"] if f.name == "queues" else f.default for f in fields(WorkerConfig)}
    assert rows == defaults


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('cpus = 2\nname = "from the file"\ntags = ["x", "y"]\n')
    environ = {"ASMAN_WORKER_CPUS": "3", "ASMAN_WORKER_MEMORY": "4g"}
    config, source = load_worker_config({"queues": ("a",), "cpus": "4"}, environ, file)
    assert (config.cpus, config.memory_bytes, config.name, config.tags) == (4.0, 4 << 30, "from the file", ("x", "y"))
    assert config.profile == "standard"
    found = [source[name] for name in ("cpus", "memory_bytes", "name", "profile")]
    assert found == ["flag", "ASMAN_WORKER_MEMORY", str(file), "default"]
    assert load_worker_config({"queues": ("a",)}, environ, file)[0].cpus == 3.0
    assert load_worker_config({"queues": ("a",)}, {}, file)[0].cpus == 2.0


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("METAPAGE_IO_WORKER_CPUS", "2", "cpus", 2.0),
        ("METAPAGE_IO_CPUS", "2", "cpus", 2.0),
        ("METAPAGE_IO_WORKER_GPUS", "all", "gpus", "all"),
        ("METAPAGE_IO_GPUS", "1", "gpus", "1"),
        ("METAPAGE_IO_WORKER_API_ADDRESS", "https://queue.example/", "server", "https://queue.example"),
        ("METAPAGE_IO_WORKER_JOB_MAX_DURATION", "1h30", "max_job_duration_s", 5400.0),
        ("METAPAGE_IO_WORKER_GENERATE_WORKER_ID", "false", "generate_id", True),
        ("METAPAGE_IO_WORKER_DEBUG", "true", "debug", True),
    ],
)
def test_variables_of_older_workers_still_count(variable: str, text: str, name: str, value: object) -> None:
    assert getattr(_load({}, {variable: text}), name) == value


@pytest.mark.parametrize("variable", ["METAPAGE_IO_WORKER_QUEUE", "METAPAGE_IO_WORKER_QUEUE_ID"])
def test_the_queue_may_come_from_an_older_variable(variable: str) -> None:
    assert load_worker_config({"queues": ()}, {variable: "theirs"})[0].queues == ("theirs",)


def test_a_present_name_wins_over_an_older_one_and_an_empty_variable_counts_as_unset() -> None:
    assert _load({}, {"METAPAGE_IO_CPUS": "2", "ASMAN_WORKER_CPUS": "5"}).cpus == 5.0
    assert _load({}, {"METAPAGE_IO_CPUS": "2", "ASMAN_WORKER_CPUS": " "}).cpus == 2.0


def test_flags_of_older_workers_are_among_the_flags() -> None:
    flags = {flag for setting in SETTINGS for flag in setting.flags}
    older = {"--cpus", "-c", "--gpus", "-g", "--mode", "-m", "--port", "-p", "--data-directory", "-d", "--id"}
    older |= {"--api-address", "--api-server-address", "-a", "--max-job-duration", "-t", "--debug"}
    assert older <= flags
    assert len(flags) == sum(len(setting.flags) for setting in SETTINGS)


def test_local_mode_serves_the_queue_local_of_this_machine() -> None:
    config = _load({"mode": "local", "port": "9000", "server": "https://elsewhere.example"})
    assert (config.queues, config.server, config.is_local) == (("local",), "http://localhost:9000", True)


def test_several_queues_keep_their_order_and_come_once() -> None:
    assert load_worker_config({"queues": ("b", "a", "b")})[0].queues == ("b", "a")


def test_a_bare_job_duration_is_milliseconds_and_a_bare_drain_is_seconds() -> None:
    config = _load({"max_job_duration_s": "90000", "drain_s": "90"})
    assert (config.max_job_duration_s, config.drain_s) == (90.0, 90.0)
    assert _load({"max_job_duration_s": "20m"}).max_job_duration == "20m"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"cpus": "none"}, "cpus"),
        ({"cpus": "0"}, "cpus"),
        ({"cpus": "nan"}, "cpus"),
        ({"memory_bytes": "lots"}, "memory_bytes"),
        ({"max_job_duration_s": "soon"}, "max_job_duration_s"),
        ({"profile": "lax"}, "standard, strict, trusted"),
        ({"network": "host"}, "none, egress, open"),
        ({"deny_networks": "lan"}, "deny_networks"),
        ({"dns": "resolver.lan"}, "dns"),
        ({"ephemeral": "-1"}, "ephemeral"),
        ({"port": "70000"}, "1 to 65535"),
        ({"status_address": "here"}, "127.0.0.1:9000"),
        ({"status_address": "::1:9000"}, "[::1]:9000"),
        ({"status_address": "127.0.0.1:70000"}, "127.0.0.1:9000"),
        ({"log_format": "xml"}, "text, json"),
        ({"server": "queue.example"}, "http://"),
        ({"server": "ftp://queue.example"}, "http://"),
        ({"queues": ("a/b",)}, "a/b"),
        ({"queues": ("..",)}, ".."),
        ({"worker_id": "x" * 129}, "128"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_name(flags: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        _load(flags)
    assert told in f"{refused.value.message} {refused.value.hint}"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("127.0.0.1:9000", "127.0.0.1:9000"),
        ("[::1]:9000", "[::1]:9000"),
        ("9000", "127.0.0.1:9000"),
        (":9000", "127.0.0.1:9000"),
        (9000, "127.0.0.1:9000"),
        ("worker.example.org:0", "worker.example.org:0"),
    ],
)
def test_a_status_address_without_a_host_is_this_machine_s_own(given: object, read: str) -> None:
    assert _load({"status_address": given}).status_address == read
    assert _load({}, {"ASMAN_WORKER_STATUS": str(given)}).status_address == read


def test_without_a_queue_the_next_step_is_said() -> None:
    with pytest.raises(ConfigError, match="no queue is named") as refused:
        load_worker_config({"queues": ()}, {})
    assert "asman worker my-queue" in refused.value.hint


def test_an_unknown_setting_in_the_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text("cpu = 2\n")
    with pytest.raises(ConfigError, match='unknown setting "cpu"'):
        load_worker_config({"queues": ("a",)}, {}, file)


def test_short_queue_names_are_guessable_except_on_this_machine() -> None:
    names = ("short", "x" * 22)
    assert _load({"queues": names, "server": "https://queue.example"}).guessable_queues == ("short",)
    assert _load({"queues": names}).guessable_queues == ()
