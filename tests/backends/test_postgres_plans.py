"""No statement of the PostgreSQL backend reads a table from end to end or sorts what is in it.

The server itself is asked: it logs the plan of everything that runs, also within functions, while a store is used for
all that it can do. What is listed in ``STATEMENTS`` and did not run would be noticed.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from uuid import uuid4

import pytest

from asman.job import State
from asman.testing import make_job
from asman_postgres.jobs import PostgresJobStore
from asman_postgres.notifier import PostgresNotifier
from asman_postgres.schema import STATE_NUMBERS, STATEMENTS
from postgres_server import PostgresServer

TABLES = ("jobs", "roles", "memberships", "documents", "counts", "logs", "log_chunks")
LOGGED = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_nested_statements": "on",
    "application_name": "planned",
}


def plans_in(log: str) -> list[tuple[str, str]]:
    """Every (statement, plan) of a server's log."""
    entries = re.split(r"^(?=\d{4}-\d\d-\d\d )", log, flags=re.M)
    found = [re.search(r"  plan:\n\tQuery Text: (.*?)\n\t(?=\S.*\(cost=)(.*)", entry, re.S) for entry in entries]
    return [(" ".join(f[1].split()), f[2]) for f in found if f is not None]


def faults(plan: str) -> list[str]:
    """Lines of a plan that read or sort a whole table.

    What may be sorted is what was given (``g``), what was found for it (``l``), and what is answered: up to ``limit``
    records of each state (the branches of a union), the counters of a queue (by ``state``).
    """
    lines = plan.splitlines()
    bad = [line for line in lines if re.search(r"Seq Scan|Bitmap", line)]
    for number, line in enumerate(lines):
        following = " ".join(lines[number + 1 : number + 3])
        if re.search(r"Index (Only )?Scan", line) and "Index Cond" not in following:
            bad.append(line)
        keys = re.search(r"Sort Key: (.*?)(?:  |$)", following)
        if re.search(r"\bSort  \(", line) and not (keys and re.match(r"(g|l)(_\d+)?\.|\"\*SELECT|state", keys[1])):
            bad.append(f"{line} {following}")
    return bad


@pytest.fixture(scope="module")
def plans(postgres_server: PostgresServer) -> list[tuple[str, str]]:
    options = "&".join(f"{name}={value}" for name, value in LOGGED.items())
    url = f"{postgres_server.url}&schema=kit_{uuid4().hex[:12]}&{options}"
    before = len(postgres_server.output)

    async def use() -> None:
        async with PostgresJobStore(url) as store, PostgresNotifier(url) as notifier:
            await exercise(store)
            await notifier.publish("topic", b"x")  # sent before it is closed

    asyncio.run(use())
    return plans_in(postgres_server.output[before:])


async def exercise(store: PostgresJobStore) -> None:
    """Every method, so that each statement within each function runs, too."""
    job = make_job("q", namespaces=(("a", 1.0), ("b", 1.0)))
    await store.save(job, expected=0, documents={"definition": b"d", "result": b"r"})
    await store.save(replace(job, version=2, state=State.RUNNING), expected=1, documents={"definition": None})
    await store.load("q", job.job_id)
    await store.document("q", job.job_id, "result")
    await store.find(job.job_id)
    await store.due(9e9)
    await store.in_namespace("q", "b")
    await store.counts("q")
    await store.scan()
    await store.list("q", states=list(STATE_NUMBERS))
    await store.list("q", states=[State.RUNNING], shape=job.requirements.shape)
    for attempt in (1, 2):
        lines = [b"x" * 60_000] * 300  # past the head, so that the tail loses chunks
        await store.append_log("q", job.job_id, attempt=attempt, half="run", lines=lines[:: 3 - attempt])
    await store.read_log("q", job.job_id, half="run", since=200)
    await store.drop_log("q", job.job_id)
    await store.delete("q", job.job_id, expected=2)
    await store.lead("role", "me", 1.0)


def test_no_statement_reads_or_sorts_a_whole_table(plans: list[tuple[str, str]]) -> None:
    ours = [(text, plan) for text, plan in plans if re.search(rf"\b({'|'.join(TABLES)})\b", plan)]
    bad = {text: faults(plan) for text, plan in ours if faults(plan)}
    assert not bad, "\n".join(f"{text}\n  {lines}" for text, lines in bad.items())
    touched = {name for name in TABLES for _, plan in ours if re.search(rf"\bon {name}\b", plan)}
    assert touched == set(TABLES), "the log of plans is not whole"


def test_every_statement_ran(plans: list[tuple[str, str]]) -> None:
    ran = {text for text, _ in plans}
    assert [name for name, text in STATEMENTS.items() if " ".join(text.split()) not in ran] == []


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("load", "jobs_pkey"),
        ("find", "jobs_by_age"),
        ("due", "jobs_by_due"),
        ("list", "jobs_by_state"),
        ("list_shape", "jobs_by_shape"),
        ("in_namespace", "jobs_by_namespace"),
        ("scan", "jobs_pkey"),
    ],
)
def test_statement_uses_its_index(plans: list[tuple[str, str]], name: str, wanted: str) -> None:
    text = " ".join(STATEMENTS[name].split())
    plan = next(plan for ran, plan in plans if ran == text)
    assert f"using {wanted} on" in plan, plan
    if name.startswith("list"):
        assert plan.count(f"using {wanted} on") == plan.count("ROW(queued_at, job_id) > ROW") == len(STATE_NUMBERS), (
            plan
        )


def test_the_check_itself_sees_scans_and_sorts(postgres_server: PostgresServer) -> None:
    scan = postgres_server.sql("EXPLAIN SELECT * FROM pg_class WHERE relpages = 7 ORDER BY reltuples")
    assert len(faults(scan)) == 2, scan


def test_every_state_has_a_number() -> None:
    assert set(STATE_NUMBERS) == set(State) - {State.ABSENT}
    assert len(set(STATE_NUMBERS.values())) == len(STATE_NUMBERS)
