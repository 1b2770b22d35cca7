"""Make a group of workers as large as its queue asks for, never smaller: machines leave when they are idle.

Runs on AWS Lambda every minute. The server's scale signal says how many workers are wanted, those that run jobs
included; the group's own bounds are kept. A server that does not answer changes nothing.
"""

from __future__ import annotations

import json
import os
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

__all__ = ["handle", "scale", "wanted_workers"]


def handle(event: Any, context: Any) -> dict[str, int]:
    """What Lambda calls."""
    import boto3  # part of Lambda's runtime

    secret = boto3.client("secretsmanager").get_secret_value(SecretId=os.environ["SECRET"])
    return scale(boto3.client("autoscaling"), secret["SecretString"].strip(), os.environ)


def wanted_workers(queue: str, environ: Mapping[str, str]) -> int:
    """How many workers the server wants for a queue.

    Errors: OSError if the server does not answer within 20 s, or refuses.
    """
    names = {"needs": "NEEDS", "cpus_per_worker": "CPUS_PER_WORKER", "gpus_per_worker": "GPUS_PER_WORKER"}
    query = urllib.parse.urlencode({name: environ[variable] for name, variable in names.items()})
    url = f"{environ['SERVER'].rstrip('/')}/q/{urllib.parse.quote(queue, safe='')}/scale?{query}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return int(json.load(answer)["desiredWorkers"])


def scale(autoscaling: Any, queue: str, environ: Mapping[str, str]) -> dict[str, int]:
    """Ask, and set the group's size if more is wanted than it has. Shape: ``{"wanted": n, "size": n}``."""
    wanted = wanted_workers(queue, environ)
    (group,) = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[environ["GROUP"]])["AutoScalingGroups"]
    size = min(max(wanted, group["MinSize"]), group["MaxSize"])
    if size > group["DesiredCapacity"]:
        autoscaling.set_desired_capacity(
            AutoScalingGroupName=environ["GROUP"], DesiredCapacity=size, HonorCooldown=False
        )
    return {"wanted": wanted, "size": max(size, group["DesiredCapacity"])}
