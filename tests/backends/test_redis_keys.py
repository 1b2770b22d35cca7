"""The names of keys: their order is the order of what they stand for, and one queue has one slot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from asman_redis.keys import PARTITIONS, Keys, encoded, sortable

NUMBERS = st.floats(allow_nan=False)


@given(NUMBERS, NUMBERS)
def test_the_order_of_sortable_texts_is_that_of_the_numbers(one: float, other: float) -> None:
    assert (sortable(one) < sortable(other)) == (one < other)
    assert (sortable(one) == sortable(other)) == (one == other)


@given(st.floats())
def test_a_sortable_text_is_16_hex_digits(number: float) -> None:
    text = sortable(number)
    assert len(text) == 16
    assert int(text, 16) >= 0


@given(st.text(min_size=1))
def test_all_keys_of_a_queue_lie_in_one_slot_whatever_its_name(queue: str) -> None:
    base, name = Keys("asman").of(queue)
    keys = [f"{base}{kind}:{name}" for kind in ("job", "kind", "count", "names")]
    assert len({key_slot(key.encode()) for key in [*keys, f"{base}due", f"{base}all"]}) == 1
    assert not set(name) & set("{}:")


@given(st.text(), st.text())
def test_an_encoded_name_is_of_one_name_and_a_colon_or_a_space_ends_it(one: str, other: str) -> None:
    assert (encoded(one) == encoded(other)) == (one == other)
    assert not set(encoded(one)) & set("{}: \n")


def test_partitions_lie_in_different_slots() -> None:
    slots = {key_slot(base.encode()) for base in Keys("asman").bases}
    assert len(slots) == PARTITIONS


def test_deployments_with_other_prefixes_share_no_key() -> None:
    one, other = Keys("one"), Keys("other")
    assert not set(one.bases) & set(other.bases)
    assert one.topic("queue:x") != other.topic("queue:x")
