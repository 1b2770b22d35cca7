"""Rented machines: the Terraform files fit together, the start script is one, and machines leave as they should."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from docker_engine import IMAGE, DockerEngine
from examples import DEPLOY, parsed, start_script
from processes import Process, asman, call, eventually, server

PROVIDERS = ("google-cloud", "aws")
_KINDS = {"google": "google-cloud", "aws": "aws"}


# --- files ------------------------------------------------------------------------------------------------------------


def _terraform(provider: str) -> str:
    return "\n".join(path.read_text() for path in sorted((DEPLOY / provider).glob("*.tf")))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_reference_leads_to_something(provider: str) -> None:
    text = _terraform(provider)
    made = set(re.findall(r'^resource "(\w+)" "(\w+)"', text, re.MULTILINE))
    read = set(re.findall(r'^data "(\w+)" "(\w+)"', text, re.MULTILINE))
    variables = set(re.findall(r'^variable "(\w+)"', text, re.MULTILINE))
    kind = provider.split("-")[0]
    assert set(re.findall(rf"(?<![\w.\"])({kind}_\w+)\.(\w+)", text)) <= made
    assert set(re.findall(r"\bdata\.(\w+)\.(\w+)", text)) <= read
    assert set(re.findall(r"\bvar\.(\w+)", text)) == variables
    assert set(parsed(DEPLOY / provider / "terraform.tfvars.example")) - {"__comments__"} <= variables


@pytest.mark.parametrize("provider", PROVIDERS)
def test_groups_have_the_members_that_are_used(provider: str) -> None:
    text = _terraform(provider)
    block = text.partition("map(object({")[2].partition("}))")[0]
    members = set(re.findall(r"^\s*(\w+)\s*=", block, re.MULTILINE))
    needed = set(re.findall(r"^\s*(\w+)\s*= (?!optional)", block, re.MULTILINE))
    assert set(re.findall(r"\b(?:each\.value|(?<![\w.])group)\.(?!arn\b)(\w+)", text)) == members
    groups = parsed(DEPLOY / provider / "terraform.tfvars.example")["worker_groups"]
    for group in groups.values():
        assert needed <= {name.strip('"') for name in group} <= members


@pytest.mark.parametrize("provider", PROVIDERS)
def test_queue_names_are_in_no_state(provider: str) -> None:
    text = _terraform(provider)
    assert not re.search(r"secret_version|secret_string|secret_data", text)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_start_script_is_one(provider: str) -> None:
    text = start_script(provider)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "${" not in text.replace("${EVERY_S:-5}", "")
    machine = text.partition("<<'END-OF-MACHINE'\n")[2].partition("END-OF-MACHINE")[0]
    given = set(re.findall(r"^(\w+)=", machine, re.MULTILINE))
    kind = next(name for name, folder in _KINDS.items() if folder == provider)
    (wanted,) = re.findall(r"^# Variables: ([^.]*)\.", (DEPLOY / "vm" / kind).read_text(), re.MULTILINE)
    assert set(re.findall(r"\b[A-Z_]{5,}\b", wanted)) | {"CLOUD", "STATUS", "IDLE_S", "WORKER", "STOP"} <= given


def test_the_workflow_is_yaml_whose_steps_are_named_once() -> None:
    text = (DEPLOY / "google-cloud" / "scaler.yaml.tftpl").read_text()
    given = set(re.findall(r"^\s{4}(\w+)\s+=", (DEPLOY / "google-cloud" / "scaler.tf").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?<!\$)\$\{(\w+)\}", text)) <= given
    filled = re.sub(r"(?<!\$)\$\{(\w+)\}", "1", text).replace("$${", "${")
    steps = [name for step in yaml.safe_load(filled)["main"]["steps"] for name in step]
    assert len(steps) == len(set(steps)) == 7


# --- the scaler of AWS ------------------------------------------------------------------------------------------------


def _scaler() -> ModuleType:
    spec = importlib.util.spec_from_file_location("aws_scaler", DEPLOY / "aws" / "scaler.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Group:
    """What the scaler needs of AWS' client: one group, and a size that can be set."""

    def __init__(self, size: int, least: int, most: int) -> None:
        self.group = {"MinSize": least, "MaxSize": most, "DesiredCapacity": size}

    def describe_auto_scaling_groups(self, AutoScalingGroupNames: list[str]) -> Mapping[str, Any]:
        return {"AutoScalingGroups": [self.group]}

    def set_desired_capacity(self, **given: Any) -> None:
        self.group["DesiredCapacity"] = given["DesiredCapacity"]


@pytest.mark.parametrize(("size", "most", "becomes"), [(0, 10, 3), (1, 2, 2), (5, 10, 5)])
def test_the_group_becomes_as_large_as_the_server_says_and_never_smaller(
    free_port: int, tmp_path: Path, size: int, most: int, becomes: int
) -> None:
    with server(free_port, tmp_path) as url:
        for number in range(3):
            definition = {"image": IMAGE, "command": f"echo {number}", "requirements": {"cpus": 4}}
            assert call("POST", f"{url}/q/wanted", {"definition": definition})[0] < 300
        environ = {"SERVER": url, "GROUP": "g", "NEEDS": "cpu", "CPUS_PER_WORKER": "4", "GPUS_PER_WORKER": "1"}
        group = Group(size, 0, most)
        assert _scaler().scale(group, "wanted", environ) == {"wanted": 3, "size": becomes}
        assert group.group["DesiredCapacity"] == becomes
        assert _scaler().scale(Group(0, 1, 10), "nobody", environ) == {"wanted": 0, "size": 1}


# --- leaving ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def url(free_port: int, tmp_path: Path) -> Iterator[str]:
    with server(free_port, tmp_path / "server") as found:
        yield found


@contextlib.contextmanager
def _machine(engine: DockerEngine, url: str, folder: Path, port: int, idle_s: int) -> Iterator[Process]:
    """A worker and, beside it, what watches it; ``taken`` and ``left`` in the folder are the cloud."""
    (folder / "cloud").write_text(
        f"is_preempted() {{ test -e {folder}/taken; }}\nleave() {{ test ! -e {folder}/stay && touch {folder}/left; }}\n"
    )
    flags = ("--status", f"127.0.0.1:{port}", "--memory", "256m", "--drain", "0", *engine.worker_flags)
    where = ("--server", url, "--data-directory", str(folder / "worker"))
    with Process("worker", "machines", *where, *flags, env={"DOCKER_HOST": engine.host}) as worker:
        eventually("the worker is connected", lambda: _answers(f"http://127.0.0.1:{port}/readyz"))
        known = {"CLOUD": f"{folder}/cloud", "STATUS": f"127.0.0.1:{port}", "IDLE_S": str(idle_s), "EVERY_S": "0.2"}
        target = {"WORKER": str(worker.pid), "STOP": f"kill -TERM {worker.pid}"}
        watch = subprocess.Popen([str(DEPLOY / "vm" / "watch")], env={**os.environ, **known, **target})
        try:
            yield worker
        finally:
            watch.kill()
            watch.wait()


def _answers(url: str) -> bool:
    try:
        return call("GET", url, timeout_s=2.0)[0] == 200
    except OSError:
        return False


def _free_port() -> int:
    code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def _submit(url: str, command: str) -> str:
    done = asman("submit", "--quiet", "--server", url, "machines", IMAGE, "--", "sh", "-c", command)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _state(url: str, job: str) -> str:
    listed = asman("ls", "--json", "--server", url, "machines")
    return str(json.loads(listed.stdout).get(job, {}).get("state", ""))


@pytest.mark.docker
@pytest.mark.slow
def test_a_machine_leaves_only_when_its_job_is_done(docker_engine: DockerEngine, url: str, tmp_path: Path) -> None:
    job = _submit(url, "sleep 6; echo done")
    with _machine(docker_engine, url, tmp_path, _free_port(), idle_s=3):
        waited = asman("wait", "--quiet", "--server", url, "--timeout", "60", "machines", job)
        assert waited.returncode == 0, waited.stderr
        assert not (tmp_path / "left").exists(), "it left while its job ran"
        eventually("the idle machine leaves", (tmp_path / "left").exists, timeout_s=20)
        later = _submit(url, "echo later")
        assert _state(url, later) == "Queued", "a machine that leaves took a job"


@pytest.mark.docker
@pytest.mark.slow
def test_a_machine_that_has_to_stay_takes_jobs_again(docker_engine: DockerEngine, url: str, tmp_path: Path) -> None:
    (tmp_path / "stay").touch()
    with _machine(docker_engine, url, tmp_path, _free_port(), idle_s=1) as worker:
        eventually("it wanted to leave", lambda: "jobs are taken again" in worker.output)
        done = asman("run", "--quiet", "--server", url, "--timeout", "60", "machines", IMAGE, "--", "echo", "stayed")
        assert (done.returncode, done.stdout) == (0, "stayed\n"), done.stderr


@pytest.mark.docker
@pytest.mark.slow
def test_a_machine_that_is_taken_away_hands_its_job_back(docker_engine: DockerEngine, url: str, tmp_path: Path) -> None:
    job = _submit(url, "sleep 60")
    with _machine(docker_engine, url, tmp_path, _free_port(), idle_s=0) as worker:
        eventually("the job runs", lambda: _state(url, job) == "Running")
        (tmp_path / "taken").touch()
        eventually("the job is queued again", lambda: _state(url, job) == "Queued", timeout_s=20)
        eventually("the worker ends", lambda: not worker.is_running(), timeout_s=20)
