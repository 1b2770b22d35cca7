"""The manifests of ``deploy/kubernetes`` are what Kubernetes and KEDA take, and fit together."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from manifests import KUBERNETES, SCALED_OBJECT, rendered, written

VERSIONS = ("1.29", "1.37")
OVERLAYS = ("server", "cpu", "gpu")
WORKERS = ("cpu", "gpu")
_Object = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[_Object]]:
    return {name: rendered(name, tmp_path_factory.mktemp("overlay")) for name in OVERLAYS}


def _one(objects: list[_Object], kind: str, name: str = "") -> _Object:
    (found,) = [item for item in objects if item["kind"] == kind and item["metadata"]["name"].startswith(name)]
    return found


def _check(item: _Object, version: str) -> None:
    if item["kind"] == "ScaledObject":
        jsonschema.validate(item, SCALED_OBJECT)
        behavior = item["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "it"}
        spec = {"maxReplicas": 1, "scaleTargetRef": target, "behavior": behavior}
        item = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {}, "spec": spec}
    kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", ["base", "worker"])
def test_what_is_written_keeps_to_the_schemas(folder: str, version: str) -> None:
    for item in written(folder):
        _check(item, version)


def test_the_check_sees_an_unknown_field() -> None:
    deployment = _one(written("base"), "Deployment")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(kubernetes_validate.ValidationError):
        _check(deployment, VERSIONS[-1])


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_overlays_make_keeps_to_the_schemas(made: dict[str, list[_Object]], version: str) -> None:
    for item in (item for objects in made.values() for item in objects):
        _check(item, version)


def _environment(pod: _Object) -> dict[str, str]:
    (container,) = pod["containers"]
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_given_time_to_drain_and_an_engine_until_the_end(made: dict[str, list[_Object]], name: str) -> None:
    pod = _one(made[name], "Deployment")["spec"]["template"]["spec"]
    environment = _environment(pod)
    assert pod["terminationGracePeriodSeconds"] >= int(environment["ASMAN_WORKER_DRAIN"]) + 30
    assert [engine["restartPolicy"] for engine in pod.get("initContainers") or ()] == ["Always"] * (name == "cpu")
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert environment["DOCKER_HOST"] == f"unix://{mounts['socket']}/docker.sock"
    assert mounts["data"] == "/var/lib/asman-worker"
    for engine in pod.get("initContainers") or ():
        same = {mount["name"]: mount["mountPath"] for mount in engine["volumeMounts"]}
        assert {key: same[key] for key in mounts} == mounts


@pytest.mark.parametrize("name", WORKERS)
def test_the_scale_signal_is_asked_for_the_queue_and_size_of_these_workers(
    made: dict[str, list[_Object]], name: str
) -> None:
    deployment, scaled = _one(made[name], "Deployment"), _one(made[name], "ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    url = scaled["spec"]["triggers"][0]["metadata"]["url"]
    cpus = _environment(deployment["spec"]["template"]["spec"])["ASMAN_WORKER_CPUS"]
    assert url.startswith(f"http://asman-server.asman.svc:8000/q/CHANGE-ME/scale?needs={name}&cpus_per_worker={cpus}")
    assert not [item for item in made[name] if item["kind"] == "ConfigMap"], "the queue's name in a ConfigMap"
    assert _one(made[name], "Secret")["metadata"]["name"] == _secret_of(deployment)


def _secret_of(deployment: _Object) -> str:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (secret,) = [source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source]
    return str(secret)


def test_groups_of_workers_do_not_take_each_others_pods(made: dict[str, list[_Object]]) -> None:
    selectors = [_one(made[name], "Deployment")["spec"]["selector"]["matchLabels"] for name in WORKERS]
    assert selectors[0] != selectors[1]
    for name in WORKERS:
        deployment = _one(made[name], "Deployment")["spec"]
        assert deployment["selector"]["matchLabels"].items() <= deployment["template"]["metadata"]["labels"].items()


def test_redis_writes_to_its_disk_before_it_answers(made: dict[str, list[_Object]]) -> None:
    config = _one(made["server"], "ConfigMap", "asman-redis")["data"]["redis.conf"].splitlines()
    assert {"appendonly yes", "appendfsync always", "maxmemory-policy noeviction"} <= set(config)
    stateful = _one(made["server"], "StatefulSet")["spec"]
    assert [claim["metadata"]["name"] for claim in stateful["volumeClaimTemplates"]] == ["data"]


def test_servers_have_no_rights_that_they_do_not_need(made: dict[str, list[_Object]]) -> None:
    pod = _one(made["server"], "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_redis_refuses_whoever_is_not_a_server(made: dict[str, list[_Object]]) -> None:
    policy = _one(made["server"], "NetworkPolicy", "asman-redis")["spec"]
    labels = _one(made["server"], "Deployment")["spec"]["template"]["metadata"]["labels"]
    (caller,) = [caller for rule in policy["ingress"] for caller in rule["from"]]
    assert caller["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["egress"] == []


def test_secrets_are_not_in_the_tree() -> None:
    done = subprocess.run(
        ["git", "ls-files", str(KUBERNETES)], capture_output=True, text=True, cwd=KUBERNETES, check=False
    )
    assert [path for path in done.stdout.split() if Path(path).suffix == ".env"] == []
