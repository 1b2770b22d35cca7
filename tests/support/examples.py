"""What the examples in ``deploy`` set, name and run, read out of them as their own tools would."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hcl2
import yaml

__all__ = ["DEPLOY", "ROOT", "asman_commands", "files", "named_variables", "parsed", "start_script", "worker_settings"]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def files() -> list[Path]:
    """Every text file of the examples that is part of the repository."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "deploy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return sorted(path for path in DEPLOY.rglob("*") if path.is_file())
    return sorted(ROOT / name for name in done.stdout.splitlines())


def named_variables() -> Iterator[tuple[str, str]]:
    """(file, variable) for each variable of ours that is named."""
    for path in files():
        if ".test." in path.name:
            continue
        for name in re.findall(r"\b(?:ASMAN|METAPAGE_IO)_[A-Z0-9_]+\b", path.read_text()):
            yield path.relative_to(ROOT).as_posix(), name


def asman_commands() -> Iterator[tuple[str, list[str]]]:
    """(file, words after "asman") for each command line of ours, up to where another program's begin."""
    for path in files():
        if path.suffix in {".mjs", ".py", ".html"}:  # programs and pages, which run no command of ours
            continue
        text = re.sub(r"\\\n\s*", " ", path.read_text())
        if path.suffix == ".md":
            text = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
        for line in text.splitlines():
            if line.lstrip().startswith(("#", "//", "Description=", "asman()")) or "display-name" in line:
                continue
            for found in re.finditer(r"(?<![\w./$\"{-])(?<!-n )(?:/opt/asman/bin/)?asman ([a-z].*)", line):
                yield path.relative_to(ROOT).as_posix(), _words(found[1])


def _words(text: str) -> list[str]:
    text = re.split(r" -- | \| | && | &$|;| >|\)| #|`", text)[0]
    try:
        return shlex.split(text)
    except ValueError:
        return text.replace('"', "").replace("'", "").split()


def parsed(path: Path) -> dict[str, Any]:
    """A Terraform or Nomad file."""
    with path.open() as file:
        return dict(hcl2.load(file))


def worker_settings() -> Iterator[tuple[str, dict[str, str]]]:
    """(example, environment of its worker) where an example says values, not only names."""
    systemd = (DEPLOY / "systemd" / "worker.env.example").read_text()
    yield "systemd", _lines(systemd)
    yield "fly", _own(tomllib.loads((DEPLOY / "fly" / "worker.toml").read_text())["env"])
    nomad = (DEPLOY / "nomad" / "worker.nomad.hcl").read_text()
    yield "nomad", dict(re.findall(r'^\s*(ASMAN_WORKER_\w+)\s*= "([^"$]*)"$', nomad, re.MULTILINE))
    for name in ("google-cloud", "aws"):
        yield name, _lines(start_script(name).partition("<<'END-OF-WORKER'\n")[2].partition("END-OF-WORKER")[0])
    compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    yield "compose", {k: _defaulted(v) for k, v in _own(compose["worker"]["environment"]).items()}


def _own(environment: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in environment.items() if name.startswith("ASMAN_")}


def _lines(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(ASMAN_\w+)=(.*)$", text, re.MULTILINE))


def _defaulted(text: str) -> str:
    """What a shell-like ``${NAME:-value}`` is without a variable."""
    return re.sub(r"\$\{\w+(?::-([^}]*)|:\?[^}]*)?\}", lambda m: m[1] or "example", text)


def start_script(provider: str) -> str:
    """The start script that Terraform makes for the first group of the example's settings.

    Only what these files use is understood: names in braces, and the lists of lines in ``main.tf``.
    """
    example = parsed(DEPLOY / provider / "terraform.tfvars.example")
    server, image = _text(example["server"]), _text(example["worker_image"])
    group = {"cpus": 4, "gpus": 0, "profile": "standard", "max_job_duration": "1h", "idle_s": 600, "min_workers": 0}
    main = (DEPLOY / provider / "main.tf").read_text()
    known = {
        "var.server": server,
        "var.worker_image": image,
        "var.project": "p",
        "var.region": "r",
        "each.key": "small",
    }

    def fill(found: re.Match[str]) -> str:
        inner = found[1]
        if inner in known:
            return known[inner]
        simple = re.fullmatch(r"(?:group|each\.value)\.(\w+)", inner)
        if simple:
            return str(group[simple[1]])
        choice = re.fullmatch(r'(?:group|each\.value)\.gpus > 0 \? "([^"]*)" : "([^"]*)"', inner)
        if choice:
            return choice[2]
        if "secret" in inner:
            return "the-secret"
        raise AssertionError(f"{provider}/main.tf has {found[0]}, which this test does not understand")

    def lines_after(mark: str) -> str:
        block = main.partition(mark)[2].partition("])")[0]
        texts = re.findall(r'^\s*"(\w+=.*)",$', block, re.MULTILINE)
        assert texts, f"{provider}/main.tf has no lines after {mark!r}"
        return "\n".join(re.sub(r"\$\{([^}]*)\}", fill, text) for text in texts)

    values = {
        "kind": "google" if provider == "google-cloud" else "aws",
        "cloud": (DEPLOY / "vm" / ("google" if provider == "google-cloud" else "aws")).read_text(),
        "watch": (DEPLOY / "vm" / "watch").read_text(),
        "worker": lines_after('name => join("\\n", ['),
        "machine": lines_after('machine = join("\\n", ['),
    }
    template = (DEPLOY / "vm" / "start.tftpl").read_text()
    return re.sub(r"\$\{(\w+)\}", lambda m: values[m[1]], template)


def _text(value: Any) -> str:
    text = json.loads(value) if isinstance(value, str) and value.startswith('"') else value
    return str(text)
