"""Every table, index, trigger and statement of the D1 backend, and how a database is brought to this release.

What is paid for is rows: read, and above all written, each index entry as one more. So a job is one row with its
documents in it, found by its name; a save is one statement, and names only the columns that change, because SQLite
writes anew every index of a column that is named. What hangs on a record follows by triggers, in the same statement:
the counters, the namespaces behind the first, and what goes with a record that is deleted.

Only text and numbers are bound: D1 tells blobs as lists of numbers. What may hold anything is made text that reads the
same back (``d1_texts``). No statement may scan a table, and none but the two that ask all queues may sort.

Source: developers.cloudflare.com/d1/platform/limits (100 parameters, 100 KB of SQL, 2 MB in a row),
.../d1/platform/pricing (rows), .../d1/sql-api/sql-statements.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache

from asman.job import State

__all__ = [
    "HALF_BYTES",
    "MERGED_BYTES",
    "MIGRATIONS",
    "STATEMENTS",
    "STATE_NUMBERS",
    "listing",
    "saving",
]

STATE_NUMBERS: Mapping[State, int] = {State.QUEUED: 0, State.RUNNING: 1, State.FINISHED: 2, State.REMOVED: 3}
"""As stored; active states are below 2, counted ones below 3."""

HALF_BYTES = 4 << 20
"""So much is kept of the beginning of a log's half, and of its end."""

MERGED_BYTES = 64 << 10
"""Lines are added to the last row of their half until it holds so much."""

_TABLES = (
    # first of all: of two that make the tables at once the second fails here, and nothing of its batch is done
    "CREATE TABLE asman_schema (version INTEGER PRIMARY KEY)",
    """CREATE TABLE jobs (
        job_id TEXT NOT NULL,
        queue TEXT NOT NULL,
        version INTEGER NOT NULL,
        state INTEGER NOT NULL,
        shape TEXT NOT NULL,
        queued_at REAL NOT NULL,
        due_at REAL NOT NULL,
        namespace TEXT,
        others TEXT,
        record TEXT NOT NULL,
        documents TEXT NOT NULL,
        PRIMARY KEY (job_id, queue)
    ) WITHOUT ROWID""",
    "CREATE INDEX jobs_by_age ON jobs (job_id, queued_at, queue)",
    "CREATE INDEX jobs_by_state ON jobs (queue, state, queued_at, job_id)",
    "CREATE INDEX jobs_by_shape ON jobs (queue, state, shape, queued_at, job_id)",
    "CREATE INDEX jobs_by_due ON jobs (queue, due_at)",
    "CREATE INDEX jobs_by_namespace ON jobs (queue, namespace, queued_at, job_id) WHERE namespace IS NOT NULL",
    """CREATE TABLE memberships (
        queue TEXT NOT NULL,
        namespace TEXT NOT NULL,
        queued_at REAL NOT NULL,
        job_id TEXT NOT NULL,
        PRIMARY KEY (queue, namespace, queued_at, job_id)
    ) WITHOUT ROWID""",
    """CREATE TABLE counters (
        queue TEXT NOT NULL,
        state INTEGER NOT NULL,
        shape TEXT NOT NULL,
        n INTEGER NOT NULL,
        PRIMARY KEY (queue, state, shape)
    ) WITHOUT ROWID""",
    """CREATE TABLE log_rows (
        job_id TEXT NOT NULL,
        queue TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        half TEXT NOT NULL,
        first INTEGER NOT NULL,
        part INTEGER NOT NULL,
        count INTEGER NOT NULL,
        begin_at INTEGER NOT NULL,
        end_at INTEGER NOT NULL,
        lines TEXT,
        PRIMARY KEY (job_id, queue, attempt, half, first, part)
    ) WITHOUT ROWID""",
    # what an append inserts into
    """CREATE VIEW log_inbox AS
        SELECT '' AS job_id, '' AS queue, 0 AS attempt, '' AS half, 0 AS part, 0 AS count, 0 AS size, '' AS lines""",
)

_ADD = """INSERT INTO counters (queue, state, shape, n) VALUES (new.queue, new.state, new.shape, 1)
        ON CONFLICT (queue, state, shape) DO UPDATE SET n = n + 1;"""

_TAKE = """DELETE FROM counters WHERE queue = old.queue AND state = old.state AND shape = old.shape AND n = 1;
    UPDATE counters SET n = n - 1
        WHERE queue = old.queue AND state = old.state AND shape = old.shape AND n > 1 AND changes() = 0;"""

_MOVED = "(old.state <> new.state OR old.shape <> new.shape)"

_JOIN = """INSERT INTO memberships (queue, namespace, queued_at, job_id)
        SELECT new.queue, value, new.queued_at, new.job_id FROM json_each(new.others);"""

_LEAVE = """DELETE FROM memberships WHERE queue = old.queue AND queued_at = old.queued_at AND job_id = old.job_id
        AND namespace IN (SELECT value FROM json_each(old.others));"""

_REJOINED = "(old.others IS NOT new.others OR old.queued_at <> new.queued_at)"

_OF_HALF = "job_id = new.job_id AND queue = new.queue AND attempt = new.attempt AND half = new.half"
_LAST = f"FROM log_rows WHERE {_OF_HALF} ORDER BY first DESC, part DESC LIMIT 1"

_TRIGGERS = (
    f"CREATE TRIGGER jobs_counted AFTER INSERT ON jobs WHEN new.state < 3 BEGIN {_ADD} END",
    f"""CREATE TRIGGER jobs_taken AFTER UPDATE OF state, shape ON jobs WHEN old.state < 3 AND {_MOVED}
        BEGIN {_TAKE} END""",
    f"""CREATE TRIGGER jobs_added AFTER UPDATE OF state, shape ON jobs WHEN new.state < 3 AND {_MOVED}
        BEGIN {_ADD} END""",
    f"CREATE TRIGGER jobs_uncounted AFTER DELETE ON jobs WHEN old.state < 3 BEGIN {_TAKE} END",
    f"CREATE TRIGGER jobs_joined AFTER INSERT ON jobs WHEN new.others IS NOT NULL BEGIN {_JOIN} END",
    # One trigger, for these two have an order, and triggers of one event have none.
    f"""CREATE TRIGGER jobs_rejoined AFTER UPDATE OF others, queued_at ON jobs
        WHEN coalesce(old.others, new.others) IS NOT NULL AND {_REJOINED} BEGIN {_LEAVE} {_JOIN} END""",
    f"CREATE TRIGGER jobs_left AFTER DELETE ON jobs WHEN old.others IS NOT NULL BEGIN {_LEAVE} END",
    """CREATE TRIGGER jobs_unlogged AFTER DELETE ON jobs
        BEGIN DELETE FROM log_rows WHERE job_id = old.job_id AND queue = old.queue; END""",
    # A run of lines comes in: a newer attempt drops the older ones' lines; it goes to the end of the last row if there
    # is room in it, else it is a new one; then the middle that is too much goes. A row whose end is within the first
    # HALF_BYTES belongs to the head, and stays. Of a line that no half could hold only the place is kept. A long line
    # is several rows, its parts.
    f"""CREATE TRIGGER log_taken INSTEAD OF INSERT ON log_inbox
        WHEN EXISTS (SELECT 1 FROM jobs WHERE job_id = new.job_id AND queue = new.queue)
            AND NOT EXISTS (
                SELECT 1 FROM log_rows WHERE job_id = new.job_id AND queue = new.queue AND attempt > new.attempt)
        BEGIN
        DELETE FROM log_rows WHERE job_id = new.job_id AND queue = new.queue AND attempt < new.attempt;
        UPDATE log_rows
            SET lines = lines || char(10) || new.lines, count = count + new.count, end_at = end_at + new.size
            WHERE {_OF_HALF} AND first = (SELECT first {_LAST}) AND part = 0 AND new.part = 0 AND lines IS NOT NULL
            AND end_at - begin_at + new.size <= {MERGED_BYTES}
            AND (end_at <= {HALF_BYTES}) = (end_at + new.size <= {HALF_BYTES});
        INSERT INTO log_rows (job_id, queue, attempt, half, first, part, count, begin_at, end_at, lines)
            SELECT new.job_id, new.queue, new.attempt, new.half,
                CASE WHEN new.part = 0 THEN coalesce((SELECT first + count {_LAST}), 0) ELSE (SELECT first {_LAST}) END,
                new.part, new.count,
                CASE WHEN new.part = 0 THEN coalesce((SELECT end_at {_LAST}), 0) ELSE (SELECT begin_at {_LAST}) END,
                coalesce((SELECT end_at {_LAST}), 0) + CASE WHEN new.part = 0 THEN new.size ELSE 0 END,
                CASE WHEN new.size <= {HALF_BYTES} THEN new.lines END
            WHERE changes() = 0;
        END""",
    f"""CREATE TRIGGER log_kept AFTER INSERT ON log_rows
        WHEN new.part = 0 AND new.end_at > {2 * HALF_BYTES - MERGED_BYTES}
        BEGIN
        DELETE FROM log_rows WHERE {_OF_HALF} AND first < new.first AND end_at > {HALF_BYTES}
            AND begin_at < max(new.end_at, new.begin_at + {MERGED_BYTES}) - {HALF_BYTES};
        END""",
    "INSERT INTO asman_schema (version) VALUES (1)",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = ((*_TABLES, *_TRIGGERS),)
"""What brings a database from version n to n + 1, in one batch. Only ever appended to; each writes its version."""

_OF_JOB = "job_id = ?1 AND queue = ?2"

_OF_NEWEST = f"""FROM log_rows WHERE {_OF_JOB} AND half = ?3
        AND attempt = (SELECT max(attempt) FROM log_rows WHERE {_OF_JOB})"""


def _holding(column: str) -> str:
    """Of the row that holds line ?4, if it was kept."""
    return f"""SELECT {column} FROM (SELECT first, count, begin_at, lines {_OF_NEWEST} AND first <= ?4
            ORDER BY first DESC, part DESC LIMIT 1) WHERE first + count > ?4 AND lines IS NOT NULL"""


def _behind(column: str) -> str:
    """Of the first row behind line ?4 that was kept."""
    return f"SELECT {column} {_OF_NEWEST} AND first > ?4 AND lines IS NOT NULL ORDER BY first, part LIMIT 1"


STATEMENTS: Mapping[str, str] = {
    "version": "SELECT max(version) AS version FROM asman_schema",
    # jobs
    "load": f"SELECT record FROM jobs WHERE {_OF_JOB}",
    "whole": f"SELECT record, documents FROM jobs WHERE {_OF_JOB}",
    "insert": """INSERT INTO jobs
        (job_id, queue, version, state, shape, queued_at, due_at, namespace, others, record, documents)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
        ON CONFLICT (job_id, queue) DO NOTHING RETURNING version""",
    "document": f"SELECT documents ->> ?3 AS data FROM jobs WHERE {_OF_JOB}",
    "delete": f"DELETE FROM jobs WHERE {_OF_JOB} AND version = ?3",
    "stored": f"SELECT version FROM jobs WHERE {_OF_JOB}",
    "find": "SELECT record FROM jobs WHERE job_id = ?1 ORDER BY queued_at, queue LIMIT ?2",
    "scan": "SELECT job_id, queue, record FROM jobs WHERE (job_id, queue) > (?1, ?2) ORDER BY job_id, queue LIMIT ?3",
    "in_namespace": """SELECT queued_at, job_id, record FROM jobs WHERE queue = ?1 AND namespace = ?2
        UNION ALL SELECT m.queued_at, m.job_id, j.record FROM memberships AS m
            CROSS JOIN jobs AS j ON j.job_id = m.job_id AND j.queue = m.queue
            WHERE m.queue = ?1 AND m.namespace = ?2
        ORDER BY queued_at, job_id LIMIT ?3""",
    "heads": """SELECT record, documents FROM jobs WHERE queue = ?1 AND state = 0 AND shape = ?2
        ORDER BY queued_at, job_id LIMIT ?3""",
    # time
    "due_in": "SELECT record FROM jobs WHERE queue = ?1 AND due_at <= ?2 ORDER BY due_at, job_id LIMIT ?3",
    "next_due": "SELECT due_at FROM jobs WHERE queue = ?1 ORDER BY due_at LIMIT 1",
    "due": """WITH RECURSIVE queues (queue) AS (
            SELECT min(queue) FROM jobs
            UNION ALL SELECT (SELECT min(jobs.queue) FROM jobs WHERE jobs.queue > queues.queue) FROM queues
                WHERE queues.queue IS NOT NULL)
        SELECT j.record FROM queues CROSS JOIN jobs AS j ON j.queue = queues.queue AND j.due_at <= coalesce(
            (SELECT due_at FROM jobs WHERE queue = queues.queue AND due_at <= ?1 ORDER BY due_at LIMIT 1 OFFSET ?2), ?1)
        ORDER BY j.due_at, j.job_id, j.queue LIMIT ?2""",
    "overdue": """WITH RECURSIVE queues (queue) AS (
            SELECT min(queue) FROM jobs
            UNION ALL SELECT (SELECT min(jobs.queue) FROM jobs WHERE jobs.queue > queues.queue) FROM queues
                WHERE queues.queue IS NOT NULL)
        SELECT queue FROM queues WHERE EXISTS (SELECT 1 FROM jobs AS j WHERE j.queue = queues.queue AND j.due_at <= ?1)
        LIMIT ?2""",
    # counters
    "counts": "SELECT state, shape, n FROM counters WHERE queue = ?1",
    "counts_of_all": "SELECT state, shape, sum(n) AS n FROM counters GROUP BY state, shape",
    # logs
    "append_log": """INSERT INTO log_inbox (job_id, queue, attempt, half, part, count, size, lines)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)""",
    "log_attempt": f"SELECT max(attempt) AS attempt FROM log_rows WHERE {_OF_JOB}",
    "log_total": f"SELECT first + count AS total {_OF_NEWEST} ORDER BY first DESC, part DESC LIMIT 1",
    "read_log": f"""SELECT first, part, lines {_OF_NEWEST}
        AND first >= coalesce(({_holding("first")}), ({_behind("first")}))
        AND begin_at <= coalesce(({_holding("begin_at")}), ({_behind("begin_at")})) + ?5
        ORDER BY first, part""",
    "drop_log": f"DELETE FROM log_rows WHERE {_OF_JOB}",
}
"""Every statement that runs on a database that is of this release, by name; and those of ``saving`` and ``listing``."""


@cache
def saving(columns: tuple[str, ...], *, guards: tuple[str, ...] = (), with_documents: bool) -> str:
    """An update of these columns if the version is the expected one.

    Shape:  parameters are the job id, the queue, the expected version, the patch of the documents if there is one, then
            a value for each of ``columns`` and of ``guards``, columns that must still have the value they had.
    """
    first = 5 if with_documents else 4
    assigned = [f"{name} = ?{first + n}" for n, name in enumerate(columns)]
    assigned += ["documents = json_patch(documents, ?4)"] if with_documents else []
    first += len(columns)
    guarded = "".join(f" AND {name} IS ?{first + n}" for n, name in enumerate(guards))
    return f"UPDATE jobs SET {', '.join(assigned)} WHERE {_OF_JOB} AND version = ?3{guarded} RETURNING version"


@cache
def listing(states: Collection[int], *, with_shape: bool) -> str:
    """Records of a queue in these states (at least one), by (queued_at, job_id), from behind a place.

    One branch per state, each in the order of its index; SQLite merges them and stops at the limit.

    Shape:  parameters are the queue, the place's queued_at and job_id, the limit, and the shape if there is one.
    """
    shaped = " AND shape = ?5" if with_shape else ""
    branches = (
        f"SELECT queued_at, job_id, record FROM jobs WHERE queue = ?1 AND state = {state}{shaped}"
        " AND (queued_at, job_id) > (?2, ?3)"
        for state in states
    )
    return f"{' UNION ALL '.join(branches)} ORDER BY queued_at, job_id LIMIT ?4"
