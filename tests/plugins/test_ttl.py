from __future__ import annotations

import pytest

import asman_ttl
from asman.config import Config
from asman.job import absent
from asman.plugins import load_plugins

DAY_S = 86_400.0
NOW = 1_800_000_000.0


def expires_at(config: Config) -> float:
    plugins = load_plugins([asman_ttl], discover=False)
    answer = plugins.hook.asman_expires_at(job=absent("q", "a" * 64), now=NOW, config=config)
    assert isinstance(answer, float)
    return answer


@pytest.mark.parametrize(("profile", "days"), [("private", 30), ("public", 7)])
def test_the_profile_decides_unless_told(profile: str, days: int) -> None:
    assert expires_at(Config(profile=profile)) == NOW + days * DAY_S


@pytest.mark.parametrize("profile", ["private", "public"])
def test_the_setting_wins_over_the_profile(profile: str) -> None:
    assert expires_at(Config(profile=profile, expire_after_s=90.0)) == NOW + 90.0


@pytest.mark.parametrize("senseless", [0.0, -1.0, float("nan"), float("-inf")])
def test_what_is_no_positive_time_counts_as_not_set(senseless: float) -> None:
    assert expires_at(Config(expire_after_s=senseless)) == NOW + 30 * DAY_S


def test_never_is_a_hundred_years() -> None:
    assert expires_at(Config(expire_after_s=float("inf"))) == NOW + 36_500 * DAY_S


def test_the_plugin_is_found_by_its_entry_point() -> None:
    assert load_plugins().get_plugin("ttl") is asman_ttl
