from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from asman.exposition import QUEUE_FAMILIES, SERVER_FAMILIES, Family, exposition, with_label

LENGTH = QUEUE_FAMILIES[0]
LABELLED = Family(name="a_family", kind="gauge", text="What it is", labels=("one", "two"))


def samples_of(text: str) -> list[tuple[str, dict[str, str], float]]:
    families = list(text_string_to_metric_families(text))
    return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]


def test_the_length_of_a_queue_is_written_as_it_always_was() -> None:
    assert exposition([LENGTH], [("queue_length", (), 3)]) == (
        "# HELP queue_length The number of outstanding jobs in the queue\n# TYPE queue_length gauge\nqueue_length 3\n"
    )


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (4.0, "4"), (0.5, "0.5"), (123456789, "123456789"), (1e9, "1000000000")]
)
def test_numbers_are_written_out(value: float, shown: str) -> None:
    assert exposition([LENGTH], [("queue_length", (), value)]).endswith(f"queue_length {shown}\n")


@given(st.text(max_size=20), st.text(max_size=20), st.floats(0, 1e12).map(lambda f: round(f, 6)))
def test_any_label_value_comes_back_from_the_parser(one: str, two: str, value: float) -> None:
    text = exposition([LABELLED], [("a_family", (one, two), value)])
    assert samples_of(text) == [("a_family", {"one": one, "two": two}, value)]


def test_a_family_without_samples_says_what_it_is() -> None:
    (family,) = text_string_to_metric_families(exposition([LABELLED], []))
    assert (family.name, family.type, family.documentation, family.samples) == ("a_family", "gauge", "What it is", [])


@given(st.text(max_size=20))
def test_a_label_can_be_put_on_every_sample(value: str) -> None:
    text = exposition([LENGTH, LABELLED], [("queue_length", (), 2), ("a_family", ("x,{}", 'y" }'), 0.5)])
    assert samples_of(with_label(text, "server", value)) == [
        ("queue_length", {"server": value}, 2),
        ("a_family", {"one": "x,{}", "two": 'y" }', "server": value}, 0.5),
    ]


def test_names_are_unique_and_units_are_said() -> None:
    families = QUEUE_FAMILIES + SERVER_FAMILIES
    assert len({family.name for family in families}) == len(families)
    assert all(family.unit and family.text for family in families)
