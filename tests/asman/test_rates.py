from __future__ import annotations

import pytest

from asman.errors import RateLimited
from asman.rates import Rate, Rates, source_of

SUBMITS = Rate(what="submits", per_minute=60, burst=3)


def test_a_burst_is_taken_and_the_next_act_is_refused_with_the_wait() -> None:
    rates = Rates()
    for _ in range(3):
        rates.take(SUBMITS, "a", 100.0)
    with pytest.raises(RateLimited, match="60 submits per minute; the next is taken in 1 s"):
        rates.take(SUBMITS, "a", 100.0)


def test_tokens_come_back_with_time_and_never_above_the_burst() -> None:
    rates = Rates()
    for _ in range(3):
        rates.take(SUBMITS, "a", 100.0)
    rates.take(SUBMITS, "a", 101.0)
    for _ in range(3):
        rates.take(SUBMITS, "a", 10_000.0)
    with pytest.raises(RateLimited):
        rates.take(SUBMITS, "a", 10_000.0)


def test_sources_do_not_share_a_bucket() -> None:
    rates = Rates()
    for _ in range(3):
        rates.take(SUBMITS, "a", 1.0)
    rates.take(SUBMITS, "b", 1.0)


def test_no_limit_keeps_nothing() -> None:
    rates = Rates()
    for _ in range(1000):
        rates.take(Rate(what="submits", per_minute=0, burst=0), "a", 1.0)
    assert rates == Rates()


def test_full_buckets_are_forgotten() -> None:
    rates = Rates()
    for n in range(10_001):
        rates.take(SUBMITS, str(n), 1.0)
    rates.take(SUBMITS, "late", 1000.0)
    assert len(rates._buckets) == 1


@pytest.mark.parametrize(
    ("address", "forwarded", "proxies", "source"),
    [
        ("203.0.113.7", "", 0, "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", 0, "203.0.113.7"),
        ("10.0.0.1", "198.51.100.1", 1, "198.51.100.1"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.1", 1, "198.51.100.1"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.1, 10.0.0.2", 2, "198.51.100.1"),
        ("2001:db8:1:2:3:4:5:6", "", 0, "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "", 0, "203.0.113.7"),
        ("not an address", "", 0, "not an address"),
    ],
)
def test_the_source_is_what_the_outermost_known_proxy_saw(
    address: str, forwarded: str, proxies: int, source: str
) -> None:
    assert source_of(address, forwarded, proxies) == source
