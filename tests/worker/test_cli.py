"""The command: help, refusals, warnings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from asman import __version__
from asman_worker.cli import worker
from asman_worker.config import SETTINGS

NOWHERE = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}


def _run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "asman_worker", *arguments]
    environ = {**os.environ, **NOWHERE, **(env or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)


def test_help_names_every_flag_and_where_else_settings_may_stand() -> None:
    answer = CliRunner().invoke(worker, ["--help"])
    assert answer.exit_code == 0
    for setting in SETTINGS:
        for flag in setting.flags:
            assert flag in answer.output
    assert "ASMAN_WORKER_CPUS" in answer.output
    assert "--config" in answer.output


def test_the_version_is_the_one_that_is_registered() -> None:
    assert CliRunner().invoke(worker, ["--version"]).output.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "no queue is named"),
        (["a-queue", "--cpus", "many"], "cpus"),
        (["a-queue", "--max-job-duration", "soon"], "max_job_duration_s"),
        (["a-queue", "--config", "/nonexistent/worker.toml"], "/nonexistent/worker.toml"),
    ],
)
def test_what_cannot_be_read_ends_with_one_line_and_the_next_step(arguments: list[str], told: str) -> None:
    answer = _run(*arguments)
    assert answer.returncode == 1
    assert told in answer.stderr
    assert "Traceback" not in answer.stderr


def test_without_an_engine_the_worker_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    answer = _run("a-queue", "--data-directory", str(tmp_path))
    assert answer.returncode == 1
    assert "unix:///nonexistent/docker.sock" in answer.stderr
    assert "DOCKER_HOST" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_secrets_file_that_others_can_read_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    file = tmp_path / "secrets.toml"
    file.write_text('[A]\nvalue = "hunter2-hunter2"\n')
    file.chmod(0o644)
    answer = _run("a-queue", "--data-directory", str(tmp_path / "data"), "--secrets", str(file))
    assert answer.returncode == 1
    assert f"chmod 600 {file}" in answer.stderr
    assert not (tmp_path / "data").exists()
    file.chmod(0o600)
    answer = _run("a-queue", "--data-directory", str(tmp_path / "data"), env={"ASMAN_WORKER_SECRETS": str(file)})
    assert "secrets are read  secrets=1" in answer.stderr
    assert "hunter2" not in answer.stderr


def test_log_lines_may_be_json(tmp_path: Path) -> None:
    flags = ("--server", "https://queue.example", "--data-directory", str(tmp_path), "--log-format", "json")
    first = _run("short", *flags).stderr.splitlines()[0]
    assert json.loads(first)["level"] == "warning"


def test_the_command_line_of_older_workers_is_understood(tmp_path: Path) -> None:
    older = ("run", "-c", "2", "--data-directory", str(tmp_path), "-a", "http://localhost:1", "my-queue")
    answer = _run(*older, env={"METAPAGE_IO_WORKER_JOB_MAX_DURATION": "20m"})
    assert "container engine" in answer.stderr, "it got as far as the engine"


def test_a_guessable_queue_on_a_foreign_server_is_warned_about_and_a_long_one_is_not(tmp_path: Path) -> None:
    flags = ("--server", "https://queue.example", "--data-directory", str(tmp_path))
    assert "guessed" in _run("short", *flags).stderr
    assert "guessed" not in _run("x" * 22, *flags).stderr
    assert "guessed" not in _run("short", "--data-directory", str(tmp_path)).stderr
