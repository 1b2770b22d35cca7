from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from asman.metaframe import HASH_PARAMS, metaframe

ROOT = Path(__file__).parents[2]
SPECIFIED = {
    *("allowsetjob", "autostart", "config", "control", "debug", "definition", "ignoreQueueOverride", "inputs", "job"),
    *("maxJobDuration", "queue", "queueOverride", "resolverefs", "terminal"),
}


def test_the_parameters_are_the_specified_ones() -> None:
    assert set(HASH_PARAMS) == SPECIFIED


@pytest.mark.parametrize("name", sorted(HASH_PARAMS))
def test_a_parameter_says_what_it_is(name: str) -> None:
    about = HASH_PARAMS[name]
    assert set(about) <= {"type", "label", "description", "allowed", "default"}
    assert about["type"] in ("string", "boolean", "json")
    assert about["label"]
    assert about["description"].endswith(".")


def test_a_switch_says_what_it_can_be_and_is_off_by_itself() -> None:
    switches = [about for about in HASH_PARAMS.values() if about["type"] == "boolean"]
    assert len(switches) == 6
    for about in switches:
        assert [choice["value"] for choice in about["allowed"]] == [True, False]
        assert about["default"] == {"value": False}


def test_pipes_have_both_names_of_the_job_and_the_result() -> None:
    told = metaframe("https://jobs.example")
    assert (told["version"], told["allow"]) == ("2", "clipboard-write")
    assert set(told["inputs"]) == {"metaframe/job", "job"}
    assert set(told["outputs"]) == {"job/result.json"}
    assert told["metadata"]["image"] == "https://jobs.example/icon.svg"


def test_two_definitions_share_nothing() -> None:
    metaframe("")["hashParams"].clear()
    metaframe("")["inputs"]["job"].clear()
    assert set(metaframe("")["hashParams"]) == SPECIFIED
    assert metaframe("")["inputs"]["job"]["type"] == "json"


def test_the_page_reads_the_parameters_that_hosts_are_told() -> None:
    source = (ROOT / "web" / "src" / "ui" / "params.ts").read_text()
    (listed,) = re.findall(r"PAGE_PARAMETERS[^=]*= new Set\(\[(.*?)\]\)", source, re.DOTALL)
    assert set(re.findall(r'"(\w+)"', listed)) == set(HASH_PARAMS)


def test_the_example_of_a_link_writes_one_as_published(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "links.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    published = json.loads((ROOT / "tests" / "vectors" / "hash_links.json").read_text())
    hello = (
        "JTdCJTIyY29tbWFuZCUyMiUzQSUyMmVjaG8lMjAlNUMlMjJoZWxsbyUyMHdvcmxkJTVDJTIyJTIyJTJDJTIyaW1hZ2UlMjIlM0ElMjJhbHBpbmUl"
        "M0EzLjE5LjElMjIlN0Q%3D"
    )
    assert hello in json.dumps(published)
    exec(example.replace("echo hello", 'echo \\"hello world\\"'), {})
    assert capsys.readouterr().out.strip().endswith(f"#?job={hello}&queue=local")
