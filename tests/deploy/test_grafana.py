"""Dashboard and alerts name metrics and labels that servers, queues and workers really show."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from asman_worker.telemetry import Telemetry
from examples import DEPLOY, ROOT
from processes import call
from served import served

FOLDER = DEPLOY / "grafana"
FROM_PROMETHEUS = {"up"}
ADDED_LABELS = {"job", "instance", "queue", "app", "le"}
WORDS = {
    *("sum", "max", "min", "by", "on", "and", "or", "unless", "rate", "increase", "histogram_quantile", "ceil"),
    *("max_over_time", "bool", "ignoring", "without", "group_left"),
}


def _dashboard() -> dict[str, Any]:
    return dict(json.loads((FOLDER / "dashboard.json").read_text()))


def _queries() -> list[str]:
    panels = _dashboard()["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    found += [rule["expr"] for group in groups for rule in group["rules"]]
    nomad = (DEPLOY / "nomad" / "worker.nomad.hcl").read_text()
    found += [query.replace('\\"', '"') for query in re.findall(r'^\s*query\s*= "(.*)"$', nomad, re.MULTILINE)]
    found += re.findall(r'^\s*FAS_PROMETHEUS_QUERY = "(.*)"$', (DEPLOY / "fly" / "autoscaler.toml").read_text(), re.M)
    return found


def _named(query: str) -> tuple[set[str], set[str]]:
    """(metrics, labels) of a query."""
    labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*[\"']", query))
    for listed in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", query):
        labels |= {label.strip() for label in listed.split(",")}
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(?:by|on|without|ignoring)\s*\([^)]*\)|\"[^\"]*\"", " ", query)
    return {word for word in re.findall(r"(?<![\w.])[a-zA-Z_]\w*", bare) if word not in WORDS}, labels


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Each sample's name with its labels, of a server, a queue and a worker."""
    folder = tmp_path_factory.mktemp("shown")
    with served(cwd=folder) as server:
        body = {"definition": {"image": "alpine:3.19.1", "command": "true"}}
        assert call("POST", f"{server.url}/q/a-queue", body)[0] < 300
        texts = [call("GET", f"{server.url}{path}")[1].decode() for path in ("/metrics", "/q/a-queue/metrics")]
    texts.append(_of_a_worker())
    found: dict[str, set[str]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            names = [family.name, f"{family.name}_total"] if family.type == "counter" else [family.name]
            names += (
                [f"{family.name}_{end}" for end in ("bucket", "sum", "count")] if family.type == "histogram" else []
            )
            for name in names:
                found.setdefault(name, set())
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def _of_a_worker() -> str:
    """What a worker counts, and the gauges that its process adds."""
    telemetry = Telemetry()
    source = (ROOT / "worker" / "asman_worker" / "process.py").read_text()
    for name, label in (("cores", "state"), ("memory_bytes", "state"), ("gpus", "state"), ("disk_free_bytes", "place")):
        assert f'"{name}"' in source
        telemetry.gauge(name, "a gauge", lambda: 1.0, **{label: "free"})
    for name in re.findall(r'telemetry\.gauge\("(\w+)", "[^"]*", lambda: [^)]*\)', source):
        telemetry.gauge(name, "a gauge", lambda: 1.0)
    return telemetry.text().decode()


def test_there_are_queries() -> None:
    assert len(_queries()) > 40
    assert _named(
        'sum by (le, op) (rate(asman_x_bucket{queue=~"$queue", state="queued"}[$__rate_interval])) > 0.5'
    ) == (
        {"asman_x_bucket"},
        {"le", "op", "queue", "state"},
    )


@pytest.mark.parametrize("query", _queries())
def test_every_metric_and_label_of_a_query_is_shown(shown: dict[str, set[str]], query: str) -> None:
    metrics, labels = _named(query)
    assert metrics
    assert metrics - FROM_PROMETHEUS <= set(shown)
    has = set().union(*(shown.get(metric, set()) for metric in metrics))
    seen_only_with_samples = {"operation", "code", "status", "role", "route", "method"} & labels
    assert labels - ADDED_LABELS - seen_only_with_samples <= has


def test_prometheus_takes_the_configuration_and_the_rules_do_as_they_say(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool; on Debian: apt-get install prometheus")
    copy = shutil.copytree(FOLDER, tmp_path / "grafana")
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run(["promtool", *command], cwd=copy, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_every_query_of_the_dashboard(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool; on Debian: apt-get install prometheus")
    variables = {"$__rate_interval": "5m", "$queue": "a"}
    rules = [{"record": f"query:{n}", "expr": q} for n, q in enumerate(_queries())]
    text = json.dumps({"groups": [{"name": "dashboard", "rules": rules}]})
    for name, value in variables.items():
        text = text.replace(name, value)
    (tmp_path / "rules.yml").write_text(text)
    command = ["promtool", "check", "rules", str(tmp_path / "rules.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_says_what_to_do() -> None:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_panels_do_not_overlap_and_have_titles() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in _dashboard()["panels"]:
        place = panel["gridPos"]
        columns, rows = (range(place[at], place[at] + place[size]) for at, size in (("x", "w"), ("y", "h")))
        cells = {(x, y) for x in columns for y in rows}
        assert panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    assert {x for x, _ in taken} == set(range(24))
