"""Each example uses the names of settings, commands and flags that there are, and values that are taken."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib

import click
import pytest
import yaml

from asman.cli import asman
from asman.config import SETTINGS, load_config
from asman_worker.cli import worker
from asman_worker.config import SETTINGS as WORKER_SETTINGS
from asman_worker.config import load_worker_config
from examples import DEPLOY, ROOT, asman_commands, files, named_variables, parsed, worker_settings

OTHERS = {"ASMAN_CONFIG", "ASMAN_SERVER"}
VARIABLES = {s.env for s in SETTINGS} | {s.envs[0] for s in WORKER_SETTINGS} | OTHERS
COMMANDS = [(name, words) for name, words in asman_commands()]


def test_every_variable_is_a_setting() -> None:
    unknown = {(file, name) for file, name in named_variables() if name not in VARIABLES}
    assert unknown == set()


def test_examples_name_enough_to_be_worth_the_check() -> None:
    named = {name for _, name in named_variables()}
    assert {"ASMAN_BACKEND", "ASMAN_REDIS", "ASMAN_S3", "ASMAN_WORKER_QUEUES", "ASMAN_WORKER_DRAIN"} <= named
    assert {words[0] for _, words in COMMANDS} >= {"run", "serve", "worker", "submit", "wait", "s3"}


@pytest.mark.parametrize(("file", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_every_command_and_flag_exists(file: str, words: list[str]) -> None:
    command = worker if words[0] == "worker" else _command(words[0])
    assert command is not None, f"{file}: there is no asman {words[0]}"
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        inner = command.get_command(click.Context(command), rest[0])
        assert inner is not None, f"{file}: there is no asman {' '.join(words[: len(words) - len(rest) + 1])}"
        command, rest = inner, rest[1:]
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    used = {re.split("[= ]", word)[0] for word in _before_image(rest) if re.match(r"--?[a-z]", word)}
    assert used <= known | {"--help"}, f"{file}: asman {' '.join(words)}"


def _command(name: str) -> click.Command | None:
    return asman.get_command(click.Context(asman), name)


def _before_image(words: list[str]) -> list[str]:
    """What follows an image is the container's."""
    images = [index for index, word in enumerate(words) if word.startswith(("alpine:", "$job_image"))]
    return words[: images[0]] if images else words


@pytest.mark.parametrize(("example", "environ"), list(worker_settings()), ids=lambda v: v if isinstance(v, str) else "")
def test_the_worker_takes_the_values(example: str, environ: dict[str, str]) -> None:
    assert len(environ) >= 5, environ
    config, source = load_worker_config({}, {**environ, "ASMAN_WORKER_QUEUES": "a-queue"})
    assert {where for where in source.values() if where.startswith("ASMAN_")} >= {*environ} - {"ASMAN_WORKER_QUEUES"}
    assert config.server.startswith("http")


def test_the_server_takes_the_values() -> None:
    fly = tomllib.loads((DEPLOY / "fly" / "server.toml").read_text())["env"]
    systemd = dict(re.findall(r"^(ASMAN_\w+)=(.*)$", (DEPLOY / "systemd" / "server.env.example").read_text(), re.M))
    nomad = (DEPLOY / "nomad" / "server.nomad.hcl").read_text()
    literal = dict(re.findall(r'^\s*(ASMAN_\w+)\s*= "([^"$]*)"$', nomad, re.MULTILINE))
    server = yaml.safe_load((DEPLOY / "kubernetes" / "overlays" / "server" / "kustomization.yaml").read_text())
    literals = dict(line.split("=", 1) for line in server["configMapGenerator"][0]["literals"])
    for environ in (fly, systemd, literal, literals):
        own = {name: value for name, value in environ.items() if name.startswith("ASMAN_")}
        assert own
        config, _ = load_config({}, {"ASMAN_S3": "s3://a-bucket", **own})
        assert config.profile in ("private", "public")


def test_all_files_can_be_read_as_what_they_are() -> None:
    for path in files():
        text = path.read_text()
        if path.suffix in (".yaml", ".yml"):
            list(yaml.safe_load_all(text))
        elif path.suffix == ".toml":
            tomllib.loads(text)
        elif path.suffix in (".tf", ".hcl") or path.name.endswith(".tfvars.example"):
            assert parsed(path), path
        elif text.startswith("#!"):
            shell = "bash" if "bash" in text.splitlines()[0] else "sh"
            done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


def test_every_example_says_how_it_is_used_and_what_was_tested() -> None:
    folders = [path for path in DEPLOY.iterdir() if path.is_dir()]
    assert len(folders) >= 10
    for folder in folders:
        text = (folder / "README.md").read_text()
        assert "```sh" in text, folder
        if folder.name != "vm":
            assert "ot tested" in " ".join(text.split()), folder


@pytest.mark.parametrize("readme", sorted(DEPLOY.glob("*/README.md")), ids=lambda path: path.parent.name)
def test_the_commands_of_a_readme_are_shell(readme: str) -> None:
    for block in re.findall(r"```sh\n(.*?)```", readme.read_text(), re.DOTALL):  # type: ignore[attr-defined]
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stderr}{block}"


def test_links_and_files_of_the_readmes_are_there() -> None:
    for readme in (DEPLOY / "README.md", *DEPLOY.glob("*/README.md")):
        text = readme.read_text()
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert link.startswith("https://") or (readme.parent / link).exists(), f"{readme}: {link}"
        for path in re.findall(r"\b((?:deploy|tests)/[\w./-]+\w)", text):
            assert (ROOT / path).exists() or "ARG" in path, f"{readme}: {path}"


def test_images_of_others_are_pinned() -> None:
    """A tag that names one release, in every place where somebody else's image is used."""
    names = ("redis", "caddy", "docker", "quay.io/minio/minio", "flyio/fly-autoscaler")
    pattern = re.compile(rf"image\s*[:=]\s*\"?(?:\$\{{\w+:-)?({'|'.join(map(re.escape, names))})(?::([^\s}}\"]+))?")
    found = [(path.name, *m.groups()) for path in files() for m in pattern.finditer(path.read_text())]
    assert {name for _, name, _ in found} == set(names)
    assert [item for item in found if not re.search(r"\d+\.\d+\.\d+|RELEASE\.\d{4}", item[2] or "")] == []


def test_scripts_are_executable() -> None:
    assert shutil.which("bash")
    scripts = [p for p in files() if p.read_text().startswith("#!") and p.suffix != ".tftpl"]
    assert [path for path in scripts if not path.stat().st_mode & 0o100] == []
