"""Which job fits which worker, and which of two mirroring workers keeps a job."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asman.job import Requirements
from asman.matching import Capacity, fits, is_preferred, rules
from asman.testing.strategies import requirements

WORKER = Capacity(cores=4.0, memory_bytes=8 << 30, gpus=1, max_duration_s=3600.0, tags=frozenset({"a", "b"}))


def capacities() -> st.SearchStrategy[Capacity]:
    return st.builds(
        Capacity,
        cores=st.sampled_from([0.5, 1.0, 4.0]),
        memory_bytes=st.sampled_from([None, 0, 1 << 30, 64 << 30]),
        gpus=st.integers(0, 2),
        max_duration_s=st.sampled_from([None, 1.0, 60.0, 86400.0]),
        tags=st.frozensets(st.sampled_from(["big", "gpu", "x"])),
    )


@pytest.mark.parametrize(
    ("asked", "failing"),
    [
        ({}, []),
        ({"cores": 4.0, "memory_bytes": 8 << 30, "gpus": 1, "max_duration_s": 3600.0, "tags": ("a", "b")}, []),
        ({"cores": 4.5}, ["cpus"]),
        ({"memory_bytes": (8 << 30) + 1}, ["memory"]),
        ({"gpus": 2}, ["gpus"]),
        ({"max_duration_s": 3600.5}, ["duration"]),
        ({"tags": ("a", "c")}, ["tags"]),
        ({"cores": 5.0, "gpus": 2, "tags": ("z",)}, ["cpus", "gpus", "tags"]),
    ],
)
def test_a_job_fits_if_every_rule_passes(asked: dict[str, Any], failing: list[str]) -> None:
    need = Requirements(**asked)
    assert [rule.rule for rule in rules(need, WORKER) if not rule.passed] == failing
    assert fits(need, WORKER) is (not failing)


def test_a_worker_that_does_not_say_its_memory_or_limit_takes_any() -> None:
    silent = replace(WORKER, memory_bytes=None, max_duration_s=None)
    assert fits(Requirements(memory_bytes=1 << 50, max_duration_s=1e9), silent)


def test_a_rule_says_what_was_asked_and_what_there_is() -> None:
    found = {rule.rule: (rule.asked, rule.has) for rule in rules(Requirements(tags=("x", "y")), WORKER)}
    assert found["tags"] == ("x,y", "a,b")
    assert found["duration"] == ("-", "3600.0")
    assert found["memory"] == ("0", str(8 << 30))


@given(requirements(), capacities())
def test_the_short_answer_agrees_with_the_long_one(need: Requirements, capacity: Capacity) -> None:
    assert fits(need, capacity) is all(rule.passed for rule in rules(need, capacity))


@given(requirements(), capacities(), capacities())
def test_what_fits_a_worker_fits_a_larger_one(need: Requirements, small: Capacity, other: Capacity) -> None:
    larger = Capacity(
        cores=max(small.cores, other.cores),
        memory_bytes=None,
        gpus=max(small.gpus, other.gpus),
        max_duration_s=None,
        tags=small.tags | other.tags,
    )
    assert not fits(need, small) or fits(need, larger)


SORTED_IDS = [
    ["test_worker1", "test-worker1", "Test-worker1", "test-worker2"],
    ["w1", "w10", "w9"],
    ["w-1", "w1"],
    ["_", "-"],
    ["aB", "Ab"],
    ["ab", "aB", "Ab", "AB"],
    ["", " ", "_", "-", "0", "9", "a", "A", "b"],
    ["00000000-aaaa", "00000000-aaab", "10000000-0000", "a0000000-0000", "f0000000-0000"],
    list(" _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$09aAzZ"),
]


@pytest.mark.parametrize("ids", SORTED_IDS, ids=lambda ids: " < ".join(ids)[:40])
def test_the_worker_whose_id_sorts_first_is_preferred(ids: list[str]) -> None:
    for first, second in pairwise(ids):
        assert is_preferred(first, second)
        assert not is_preferred(second, first)


def test_nobody_is_preferred_to_itself() -> None:
    assert not is_preferred("w1", "w1")


@given(
    st.lists(
        st.text(max_size=6) | st.sampled_from(["k", "K", "\u212a", "\u017f", "s", "İ", "ß"]),
        min_size=3,
        max_size=3,
        unique=True,
    )
)
def test_of_two_different_ids_exactly_one_is_preferred_and_the_order_is_total(ids: list[str]) -> None:
    for one, other in permutations(ids, 2):
        assert is_preferred(one, other) is not is_preferred(other, one)
    a, b, c = ids
    assert not (is_preferred(a, b) and is_preferred(b, c)) or is_preferred(a, c)


@given(st.uuids(), st.uuids())
def test_uuids_sort_as_plain_text(one: object, other: object) -> None:
    assert is_preferred(str(one), str(other)) is (str(one) < str(other))
