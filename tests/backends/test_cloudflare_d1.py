"""D1 inside the runtime, as the object of a queue uses it: what each step costs, many claims at once, errors, time.

``edge_d1_inside`` asks there; one start of the runtime answers all questions. The kits run in ``test_cloudflare``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asman.errors import ConfigError
from asman_cloudflare import Platform
from asman_cloudflare.d1 import parse_d1_url
from edge import Bundle
from edge_exam import HERE, asked_inside

QUESTIONS = (
    "schema",
    "costs",
    "backlog",
    "claims_here",
    "claims_of_several",
    "errors",
    "lost_answers",
    "time",
    "guards",
)

BARS = {"submit": 2, "resubmit": 2, "claim": 1, "finish": 1, "renewal": 1}
"""Statements that a step may take at most."""

LIFE = ("submit", "claim", "finish", "sweep: off the listing", "sweep: expire", "sweep: delete")


@pytest.fixture(scope="module")
def told(edge_bundle: Bundle) -> dict[str, Any]:
    return asked_inside(edge_bundle, edge_bundle.file, HERE / "edge_d1_inside.py", QUESTIONS)


def test_objects_that_make_the_tables_at_once_do_not_hinder_each_other(told: dict[str, Any]) -> None:
    schema = told["schema"]
    assert schema["at once"] == ["[]"] * 5
    assert schema["again"] == schema["back"] == "[]"


def test_a_database_of_a_newer_release_or_another_s_is_left_alone(told: dict[str, Any]) -> None:
    assert told["schema"]["newer"].startswith("ConfigError: the D1 database has schema 99, written by a newer asman")
    assert told["schema"]["foreign"].startswith("ConfigError: the D1 database cannot take asman's tables")


def test_a_submit_a_claim_and_a_finish_are_one_statement_each(told: dict[str, Any]) -> None:
    costs = told["costs"]
    for step, cost in costs["mean"].items():
        print(f"D1, {step}: {cost['statements']} statements, {cost['read']} rows read, {cost['written']} written")
    whole = {name: sum(costs["mean"][step][name] for step in LIFE) for name in ("read", "written")}
    print(f"D1, a job from submit to its removal: {whole['read']:.1f} rows read, {whole['written']:.1f} written")
    assert {step: most for step, most in costs["most"].items() if most > BARS.get(step, 3)} == {}
    assert whole["written"] <= 30
    assert whole["read"] <= 30
    assert costs["left"] == 0


def test_an_object_that_has_just_begun_learns_of_many_jobs_at_a_time(told: dict[str, Any]) -> None:
    backlog = told["backlog"]
    assert backlog["claims"] == 100
    assert backlog["statements"] <= 106


@pytest.mark.parametrize("how", ["plain", "owned"])
def test_fifty_claims_at_once_get_fifty_jobs(told: dict[str, Any], how: str) -> None:
    claims = told["claims_here"][how]
    print(f"50 claims at once on D1, {how}: {claims['statements']} statements")
    assert (claims["given"], claims["distinct"], claims["counts"]) == (50, 50, [50])
    if how == "owned":
        assert claims["statements"] <= 60


def test_several_objects_that_claim_of_one_queue_get_different_jobs(told: dict[str, Any]) -> None:
    several = told["claims_of_several"]
    assert (several["given"], several["distinct"]) == (50, 50)
    print(f"50 jobs went to {several['objects']} of 5 objects")


def test_what_d1_refuses_hurts_nobody_who_went_along(told: dict[str, Any]) -> None:
    errors = told["errors"]
    assert errors["closed"] == "Unavailable"
    assert errors["together"] == ["NoneType"] * 7 + ["StorageFull"] + ["NoneType"] * 12
    assert errors["kept"] == 19
    assert errors["conflicts"] == ["Conflict"] * 3 + ["NoneType"] * 3
    assert errors["broken"].startswith("Unavailable: D1 refused a statement")


def test_a_save_whose_answer_is_lost_is_looked_for(told: dict[str, Any]) -> None:
    lost = told["lost_answers"]
    assert (lost["new"], lost["known"], lost["kept"]) == ("saved", "saved", 3)
    assert lost["silent"] == lost["stale"] == "Unavailable"


def test_the_owner_of_a_queue_hears_of_what_is_due_in_it(told: dict[str, Any]) -> None:
    assert told["time"] == {
        "all": [float(n) for n in range(10)],
        "first": [0.0, 1.0, 2.0, 3.0],
        "own": [1.0, 4.0, 7.0],
        "overdue": ["time-0", "time-1"],
        "next": [2.0, None],
    }


def test_a_record_made_anew_elsewhere_is_written_as_a_whole(told: dict[str, Any]) -> None:
    assert told["guards"] == {"listed": True, "counts": [["Running", 1]]}


def test_an_url_names_a_binding() -> None:
    assert parse_d1_url("d1://JOBS") == parse_d1_url("d1://JOBS/") == "JOBS"
    for url in ("d1://", "d1:JOBS", "d1://a b", "d1://JOBS/x"):
        with pytest.raises(ConfigError, match="names no binding"):
            parse_d1_url(url)


def test_a_binding_that_is_not_there_is_said_by_name(tmp_path: Path) -> None:
    platform = Platform(object())
    assert platform.asman_job_store("sqlite:///x", None) is None
    with pytest.raises(ConfigError, match="the Worker has no binding JOBS"):
        platform.asman_job_store("d1://JOBS", None)
    assert "d1" in platform.asman_schemes()
