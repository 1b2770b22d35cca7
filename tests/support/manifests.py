"""Kubernetes objects of ``deploy/kubernetes``: as written, and as kustomize makes them of an overlay."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

__all__ = ["KUBERNETES", "SCALED_OBJECT", "rendered", "written"]

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"

_COUNT = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string", "minLength": 1}

SCALED_OBJECT: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "keda.sh/v1alpha1"},
        "kind": {"const": "ScaledObject"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["scaleTargetRef", "triggers"],
            "properties": {
                "scaleTargetRef": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["name"],
                    "properties": {"apiVersion": _TEXT, "kind": _TEXT, "name": _TEXT},
                },
                "pollingInterval": _COUNT,
                "cooldownPeriod": _COUNT,
                "idleReplicaCount": _COUNT,
                "minReplicaCount": _COUNT,
                "maxReplicaCount": _COUNT,
                "fallback": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["failureThreshold", "replicas"],
                    "properties": {
                        "failureThreshold": _COUNT,
                        "replicas": _COUNT,
                        "behavior": {
                            "enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]
                        },
                    },
                },
                "advanced": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "restoreToOriginalReplicaCount": {"type": "boolean"},
                        "horizontalPodAutoscalerConfig": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {"name": _TEXT, "behavior": {"type": "object"}},
                        },
                    },
                },
                "triggers": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["type", "metadata"],
                        "properties": {
                            "type": {"const": "metrics-api"},
                            "name": _TEXT,
                            "metricType": {"enum": ["AverageValue", "Value"]},
                            "metadata": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["url", "valueLocation", "targetValue"],
                                "properties": {
                                    "url": _TEXT,
                                    "valueLocation": _TEXT,
                                    "targetValue": _TEXT,
                                    "activationTargetValue": _TEXT,
                                    "format": _TEXT,
                                    "unsafeSsl": _TEXT,
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}
"""The members of KEDA's ScaledObject that are used here, so that a misspelt one fails.

Source: KEDA 2.17, ScaledObject specification and "Metrics API" trigger.
"""


def written(folder: str) -> list[dict[str, Any]]:
    """The objects of a folder's resources."""
    wanted = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())["resources"]
    texts = [(KUBERNETES / folder / name).read_text() for name in wanted]
    return [item for text in texts for item in yaml.safe_load_all(text)]


def rendered(overlay: str, folder: Path) -> list[dict[str, Any]]:
    """What ``kubectl apply -k`` would send, with the example secrets; in a copy of the tree."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl 1.27 or newer is not here, and Debian has none that knows these overlays")
    copy = shutil.copytree(KUBERNETES, folder / "kubernetes", dirs_exist_ok=True)
    for example in copy.glob("overlays/*/*.env.example"):
        shutil.copy(example, example.with_suffix(""))
    command = ["kubectl", "kustomize", str(copy / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return list(yaml.safe_load_all(done.stdout))
