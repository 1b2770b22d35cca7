"""The kits inside workerd: each store on the real binding of a Durable Object; and Python's own SQLite there."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge import Bundle
from edge_exam import examined_inside, make_kits

URLS = {"memory:": 150, "d1://JOBS": 80, "durable://": 85, "sqlite:////home/jobs.db": 85, "r2://BLOBS": 55}
"""And how many tests pass at least: a kit that is not found passes none."""


@pytest.mark.timeout(400)
def test_the_stores_pass_the_kits_inside_the_runtime(edge_bundle: Bundle, tmp_path: Path) -> None:
    outcomes = examined_inside(edge_bundle, make_kits(tmp_path), [*URLS])
    for url, of_url in outcomes.items():
        passed = [test for test, outcome in of_url if outcome == "passed"]
        print(f"{url}: {len(passed)} of {len(of_url)} passed inside workerd")
        assert [each for each in of_url if each[1].startswith("failed")] == []
        assert len(passed) >= URLS[url]
