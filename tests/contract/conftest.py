"""The real app in process, for peers that know nothing of its inside."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from in_process import InProcess, in_process


@pytest.fixture
async def served() -> AsyncIterator[InProcess]:
    """A running app with memory stores, a clock that the test moves, and a check of all jobs at the end."""
    async with in_process() as running:
        yield running


@pytest.fixture
async def public() -> AsyncIterator[InProcess]:
    """The same under the limits of a server for strangers, and not on loopback."""
    async with in_process(profile="public", host="0.0.0.0") as running:
        yield running
