"""Settings of hypothesis for the tests of the core, and the real app in process.

The machine may be slow, so no example has a deadline.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import settings

from in_process import InProcess, in_process

settings.register_profile("asman", deadline=None)
settings.load_profile("asman")


@pytest.fixture
async def served() -> AsyncIterator[InProcess]:
    """A running app with memory stores, a clock that the test moves, and a check of all jobs at the end."""
    async with in_process() as running:
        yield running
