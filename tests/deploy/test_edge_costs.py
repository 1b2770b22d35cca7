"""What docs/edge.md says of costs adds up."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "edge.md").read_text()


def _rows(heading: str) -> list[list[str]]:
    """The table below a heading, without its head."""
    section = PAGE.split(f"### {heading}\n")[1].split("\n#")[0]
    lines = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


@pytest.mark.parametrize("heading", ["A million jobs", "A million files of jobs"])
def test_each_line_is_count_times_price_and_the_last_is_their_sum(heading: str) -> None:
    *lines, last = _rows(heading)
    for what, count, price, cost in lines:
        assert Decimal(count) * Decimal(price) == Decimal(cost), what
    assert last[0] == "together"
    assert Decimal(last[-1]) == sum(Decimal(line[3]) for line in lines)


def test_the_prices_are_those_of_the_list() -> None:
    listed = {line.split(" a million")[0].rpartition("$")[2] for line in PAGE.splitlines() if " a million" in line}
    used = {line[2] for heading in ("A million jobs", "A million files of jobs") for line in _rows(heading)[:-1]}
    assert used <= listed


def test_an_object_that_is_always_in_memory_costs_what_is_said() -> None:
    seconds = 30 * 86_400
    assert f"{seconds:,} s of 0.128 GB are {seconds * 0.128:,.0f} GB-s" in PAGE
    assert f"${seconds * 0.128 * 12.5e-6:.2f}" in PAGE
    assert f"{30 * 24 * 60:,} times a month one list (class A, ${30 * 24 * 60 * 4.5e-6:.2f})" in PAGE
