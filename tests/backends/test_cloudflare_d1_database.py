"""What D1 says, as our errors. The binding itself is tested inside the runtime (``test_cloudflare_d1``)."""

from __future__ import annotations

import pytest

from asman.errors import StorageFull, Unavailable
from asman_cloudflare import d1_database


class JsException(Exception):
    """As Pyodide has it: the words stand in ``message``."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("D1_ERROR: string or blob too big: SQLITE_TOOBIG", d1_database._Refused),
        ("D1_ERROR: no such table: jobs: SQLITE_ERROR", d1_database._Refused),
        ("D1_ERROR: NOT NULL constraint failed: jobs.queue: SQLITE_CONSTRAINT", d1_database._Refused),
        ("D1_ERROR: Exceeded maximum DB size", StorageFull),
        ("D1_ERROR: database or disk is full: SQLITE_FULL", StorageFull),
        ("D1_ERROR: D1 DB is overloaded. Requests queued for too long.", Unavailable),
        ("D1_ERROR: Network connection lost.", Unavailable),
        ("D1_ERROR: D1 DB storage operation exceeded timeout which caused object to be reset.", Unavailable),
        ("D1_ERROR: Internal error while starting up D1 DB storage caused object to be reset.", Unavailable),
    ],
)
def test_an_error_of_d1_is_one_of_ours(said: str, kind: type[Exception]) -> None:
    told = d1_database._told(JsException(said))
    assert type(told) is kind
    assert said in str(told)


def test_an_answer_that_does_not_come_is_unavailable() -> None:
    assert isinstance(d1_database._told(TimeoutError()), Unavailable)
