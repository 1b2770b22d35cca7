"""How much one source may do: token buckets, in memory, per server.

A bucket holds ``burst`` tokens and fills at ``per_minute``; each act takes one. Buckets that are full again are
forgotten, so memory follows the sources of the last minutes and not of all time. The time comes from the caller.

Source: promises, "submits per address / per queue".
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from asman.errors import RateLimited

__all__ = ["Rate", "Rates", "source_of"]

_SWEEP_AT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Shape: ``per_minute`` 0 is no limit. ``burst`` tokens are there at the start."""

    what: str
    per_minute: float
    burst: float


@dataclass(slots=True)
class Rates:
    """The buckets of one app. Shape: key -> (tokens, when they were counted)."""

    _buckets: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def take(self, rate: Rate, key: str, now: float) -> None:
        """Take one token from the key's bucket.

        Errors: RateLimited, with the seconds until the next token.
        """
        if rate.per_minute <= 0:
            return
        per_second = rate.per_minute / 60.0
        tokens, counted_at = self._buckets.get((rate.what, key), (rate.burst, now))
        tokens = min(rate.burst, tokens + max(now - counted_at, 0.0) * per_second)
        if tokens < 1.0:
            wait_s = (1.0 - tokens) / per_second
            raise RateLimited(
                f"more than {rate.per_minute:g} {rate.what} per minute; the next is taken in {wait_s:.0f} s",
                hint="Wait as long as Retry-After says, or submit less often.",
            )
        self._buckets[(rate.what, key)] = (tokens - 1.0, now)
        if len(self._buckets) > _SWEEP_AT:
            self._forget_full(rate, now)

    def _forget_full(self, rate: Rate, now: float) -> None:
        fill_s = rate.burst * 60.0 / rate.per_minute
        self._buckets = {k: v for k, v in self._buckets.items() if now - v[1] < fill_s}


def source_of(address: str, forwarded_for: str, proxies: int) -> str:
    """The source that limits are counted by: an IPv4 address, or the /64 of an IPv6 one.

    Shape:  with ``proxies`` known proxies before the server the address is the one that the outermost of them saw.
    """
    if proxies > 0 and forwarded_for:
        hops = [hop.strip() for hop in forwarded_for.split(",")]
        address = hops[max(len(hops) - proxies, 0)]
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
