"""A store that breaks one promise fails the exam, and what is printed tells its author which one and how."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import broken_stores
from asman.cli import main
from asman.errors import ConfigError
from asman.testing import check_backend, watching

POINTS = "[asman]\nbroken = broken_stores\n"
METADATA = "Metadata-Version: 2.1\nName: broken-stores\nVersion: 1\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plugin of broken stores, found as any installed one is: by the entry points of its distribution."""
    info = tmp_path / "site" / "broken_stores-1.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text(POINTS)
    (info / "METADATA").write_text(METADATA)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(watching, "_CALL_LIMIT_S", 1.0)
    monkeypatch.setattr(watching, "_TEST_LIMIT_S", 2.0)
    return tmp_path / "data"


TOLD = [
    (
        "SaveIgnoresExpected",
        "save over another version",
        r"save compares expected with the stored version and raises Conflict",
        r"called +save\(<\w{6} Finished v1 .*expected=0, documents=\{",
        r"happened +nothing was raised; save\(\) returned None",
        r"expected +Conflict is raised",
    ),
    (
        "DocumentsBeforeTheComparison",
        "save of a record that is not there",
        r"save with another expected raises Conflict and writes nothing",
        r"called +document\('kit-\w+-', '\w{6}\.\.\.', 'definition'\)",
        r"happened +b'd'",
        r"expected +None",
    ),
    (
        "SaveReturnsTooEarly",
        "what one opened store saved the other sees",
        r"What save returned from is seen by every other opened store at once",
        r"called +load\(",
        r"happened +None",
        r"expected +<\w{6} Queued v1",
    ),
    (
        "RoundsTimes",
        "saved record comes back equal",
        r"load gives back what save was given, to the last member and digit",
        r"differs +lease_until is None, expected 1700000030\.5",
    ),
    (
        "UnknownJobIsAKeyError",
        "unknown job",
        r"answer None for a job that is not there, and raise nothing",
        r"happened +KeyError was raised: '\w{64}'",
        r"raised in +.*broken_stores\.py:\d+, load",
    ),
    (
        "ListIsById",
        "list is by queued time",
        r"list is in order of \(queued_at, job_id\)",
        r"called +list\('kit-\w+-', states=\[Queued\]\)",
        r"differs +another order: entry \d is <\w{6} .*, expected <\w{6} Queued v1 queued_at=\d",
    ),
    (
        "ListShowsEveryState",
        "list shows the asked states",
        r"list shows the records in states and no others",
        r"called +list\('kit-\w+-', states=\[\]\)",
        r"happened +\[<\w{6} Queued",
        r"expected +\[\]",
        r"differs +20 that should not be there",
    ),
    (
        "CursorIsInclusive",
        "cursor meets every job once",
        r"list goes on behind after, which it leaves out",
        r"because +the cursor met a job again",
    ),
    (
        "DueIgnoresTheLimit",
        "due is what is due",
        r"most overdue first, at most limit",
        r"called +due\(1000\.0, limit=2\)",
        r"happened +4",
        r"expected +2",
    ),
    (
        "DueExcludesTheMoment",
        "due is what is due",
        r"due_at <= before \(the moment itself included\)",
        r"differs +1 missing: \[<\w{6} Queued v1 .*due_at=1000\.000>\]",
    ),
    (
        "CountsDrift",
        "deleted job is gone",
        r"takes the job out of list, find, due, in_namespace and counts",
        r"called +counts\('kit-\w+-'\)",
        r"happened +\{\(Queued, '\[1\.0,0,0,null\]'\): 1\}",
        r"expected +\{\}",
    ),
    (
        "FindsTheNewestFirst",
        "find meets the job",
        r"find meets the records of one job in every queue, oldest queued_at first",
        r"differs +another order: entry 0",
    ),
    (
        "NamespaceForgets",
        "namespace finds its",
        r"in_namespace finds Queued and Running records by any of their namespaces",
        r"called +in_namespace\('kit-\w+-', 'b'\)",
        r"differs +6 missing: ",
    ),
    (
        "DeleteIgnoresTheVersion",
        "delete of another version",
        r"delete compares expected with the stored version and raises Conflict",
        r"happened +nothing was raised; delete\(\) returned None",
        r"expected +Conflict is raised",
    ),
    (
        "DeleteDoesNothing",
        "halves",
        r"what a test stored can be listed and deleted again",
        r"because +a job is listed still after it was deleted",
    ),
    (
        "LostAfterReopen",
        "log is there after close",
        r"A log is there after close and open",
        r"differs +total is 0, expected 2",
    ),
    (
        "AppendsTwice",
        "appended lines are read",
        r"append_log adds lines once, in order, and answers with the total",
        r"happened +4",
        r"expected +2",
    ),
    (
        "TakesOlderAttempts",
        "older attempt is ignored",
        r"append_log of an older attempt adds nothing and answers with the present total",
        r"called +append_log\(.*attempt=1, half='run'",
        r"happened +2",
        r"expected +1",
    ),
    (
        "NeverReturns",
        "counts of an unknown queue",
        r"counts of a queue that nobody used are \{\}",
        r"happened +counts\(\) did not return within 1 s",
    ),
    (
        "ReadsBeyondStop",
        "range is what a slice is",
        r"called +get\('\w{6}\.\.\.', start=0, stop=0\)",
        r"expected +b''",
        r"and so with \d more: \[0-1\]",
    ),
    (
        "PrunesForever",
        "prune removes",
        r"happened +the test calls prune\(\) still after 2 s: it makes no progress",
    ),
    (
        "OneTopicForAll",
        "topics are kept apart",
        r"topics are kept apart",
        r"happened +\[b'for others'",
        r"expected +\[\]",
    ),
]


@pytest.mark.parametrize(("fault", "test", "lines"), [(t[0], t[1], t[2:]) for t in TOLD], ids=[t[0] for t in TOLD])
def test_author_is_told_what_is_wrong(
    installed: Path, capsys: pytest.CaptureFixture[str], fault: str, test: str, lines: tuple[str, ...]
) -> None:
    assert main(["backend", "check", f"broken:///{fault}/{installed}", "--only", test]) == 1
    told = capsys.readouterr().out
    for line in lines:
        assert re.search(line, told), told
    assert re.search(r"^failed  ", told, re.M)
    assert re.search(r"^\d+ passed, [1-9]\d* failed, 0 skipped$", told, re.M)
    assert "INTERNALERROR" not in told
    assert re.search(r" asked +\w", told)
    assert re.search(r" at +.*asman/testing/\w+\.py:\d+$", told, re.M)


def test_every_fault_is_looked_for() -> None:
    assert {entry[0] for entry in TOLD} == set(broken_stores.FAULTS)
    assert len(TOLD) >= 12


async def test_plugin_that_is_not_installed_can_be_examined(tmp_path: Path) -> None:
    url = f"broken:///DueIgnoresTheLimit/{tmp_path}"
    outcomes = await check_backend(url, plugins=[broken_stores], only="due is what")
    ((name, outcome),) = outcomes
    assert name.startswith("TestJobStore::test_due_is_what")
    assert outcome.startswith("failed: promise   due gives records")


async def test_name_that_no_test_has_is_refused() -> None:
    with pytest.raises(ConfigError, match='no test has "no such thing" in its name'):
        await check_backend("memory:", only="no such thing")
