"""A clock that tests move: what takes thirty days takes one line, and nothing sleeps."""

from __future__ import annotations

__all__ = ["FakeClock"]


class FakeClock:
    """Answers the same moment until it is moved; goes where ``Services.clock`` does. Units: seconds since the epoch."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Move on and answer with the new moment; time does not go back."""
        if seconds < 0:
            raise ValueError(f"the clock would go back by {-seconds} s")
        self.now += seconds
        return self.now
