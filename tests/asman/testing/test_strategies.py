"""The strategies draw what the rules allow, and enough of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from asman.config import PROFILES
from asman.definition import KNOWN_MEMBERS, read_definition
from asman.identity import check_job_id, check_queue_name, known_id
from asman.job import Job, Requirements, State
from asman.testing.strategies import definitions, job_ids, jobs, json_values, requirements, texts

ANY_EXAMPLE = settings(phases=[Phase.generate], max_examples=2000, database=None)


def drawn(strategy: st.SearchStrategy[Any], wanted: Callable[[Any], bool]) -> Any:
    """Some example of that kind; hypothesis raises NoSuchExample if none turns up."""
    return find(strategy, wanted, settings=ANY_EXAMPLE)


@given(definitions())
def test_every_drawn_definition_can_be_used_and_has_an_id(definition: dict[str, Any]) -> None:
    assert read_definition(definition, PROFILES["private"]).raw is definition
    check_job_id(known_id(definition))


@pytest.mark.parametrize("member", sorted(KNOWN_MEMBERS - {"image", "build"}))
def test_definitions_with_each_member_missing_null_and_filled_are_drawn(member: str) -> None:
    assert member not in drawn(definitions(), lambda d: member not in d)
    assert drawn(definitions(), lambda d: d.get(member, 0) is None)[member] is None
    assert drawn(definitions(), lambda d: bool(d.get(member)))[member]


@given(jobs())
def test_every_drawn_record_has_a_real_queue_and_id_and_moments_that_json_can_hold(job: Job) -> None:
    check_queue_name(job.queue)
    check_job_id(job.job_id)
    assert math.isfinite(job.due_at)


@pytest.mark.parametrize("state", State)
def test_records_of_each_state_are_drawn(state: State) -> None:
    assert drawn(jobs(), lambda job: job.state is state).state is state


@given(json_values())
def test_every_drawn_value_is_json(value: Any) -> None:
    assert json.loads(json.dumps(value, allow_nan=False)) == value


def test_texts_with_unpaired_surrogates_and_control_characters_are_drawn() -> None:
    assert drawn(texts(), lambda text: any("\ud800" <= c <= "\udfff" for c in text))
    assert drawn(texts(), lambda text: "\0" in text)


@given(job_ids())
def test_every_drawn_id_is_a_job_id(job_id: str) -> None:
    assert check_job_id(job_id) == job_id


@given(requirements())
def test_requirements_are_of_few_shapes_so_that_jobs_share_them(need: Requirements) -> None:
    assert need.tags == tuple(sorted(need.tags))
    assert need.cores > 0
