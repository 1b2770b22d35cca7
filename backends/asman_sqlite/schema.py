"""Every table, index and statement of the SQLite backend, and how a file is brought to this release's form.

No statement may scan a table or sort in a temporary tree: a test asks the query planner about each of them. A job
is one row with the columns that indexes need beside the encoded record; what changes with each renewal (the record,
the version, the due time) touches one index only. States are small numbers, so that "is listed" and "is active"
are comparisons. The first namespace of an active job is a column, because nearly every job has one; the others
are rows of ``memberships``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from asman.errors import ConfigError
from asman.job import State

if TYPE_CHECKING:
    import sqlite3

__all__ = ["MIGRATIONS", "STATE_NUMBERS", "STATEMENTS", "check", "migrate"]

STATE_NUMBERS: Mapping[State, int] = {State.QUEUED: 0, State.RUNNING: 1, State.FINISHED: 2, State.REMOVED: 3}
"""As stored; active states are below 2, counted ones below 3."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE jobs (
            id INTEGER PRIMARY KEY,
            queue TEXT NOT NULL,
            job_id TEXT NOT NULL,
            version INTEGER NOT NULL,
            state INTEGER NOT NULL,
            shape TEXT NOT NULL,
            queued_at REAL NOT NULL,
            due_at REAL NOT NULL,
            namespace TEXT,
            others INTEGER NOT NULL,
            record BLOB NOT NULL
        )""",
        "CREATE UNIQUE INDEX jobs_by_name ON jobs (job_id, queue)",
        "CREATE INDEX jobs_by_age ON jobs (job_id, queued_at, queue)",
        "CREATE INDEX jobs_by_state ON jobs (queue, state, queued_at, job_id)",
        "CREATE INDEX jobs_by_shape ON jobs (queue, state, shape, queued_at, job_id)",
        "CREATE INDEX jobs_by_due ON jobs (due_at)",
        """CREATE INDEX jobs_by_namespace ON jobs (queue, namespace, queued_at, job_id)
            WHERE namespace IS NOT NULL""",
        """CREATE TABLE memberships (
            queue TEXT NOT NULL,
            namespace TEXT NOT NULL,
            queued_at REAL NOT NULL,
            job_id TEXT NOT NULL,
            job INTEGER NOT NULL,
            PRIMARY KEY (queue, namespace, queued_at, job_id)
        ) WITHOUT ROWID""",
        "CREATE INDEX memberships_by_job ON memberships (job)",
        """CREATE TABLE documents (
            job INTEGER NOT NULL,
            name TEXT NOT NULL,
            data BLOB NOT NULL,
            PRIMARY KEY (job, name)
        ) WITHOUT ROWID""",
        """CREATE TABLE counters (
            queue TEXT NOT NULL,
            state INTEGER NOT NULL,
            shape TEXT NOT NULL,
            n INTEGER NOT NULL,
            PRIMARY KEY (queue, state, shape)
        ) WITHOUT ROWID""",
        """CREATE TABLE logs (
            job INTEGER NOT NULL,
            half TEXT NOT NULL,
            attempt INTEGER NOT NULL,
            total INTEGER NOT NULL,
            head_lines INTEGER NOT NULL,
            head_bytes INTEGER NOT NULL,
            tail_bytes INTEGER NOT NULL,
            is_head_full INTEGER NOT NULL,
            PRIMARY KEY (job, half)
        ) WITHOUT ROWID""",
        """CREATE TABLE log_chunks (
            id INTEGER PRIMARY KEY,
            job INTEGER NOT NULL,
            half TEXT NOT NULL,
            first INTEGER NOT NULL,
            count INTEGER NOT NULL,
            size_bytes INTEGER NOT NULL,
            lines BLOB NOT NULL
        )""",
        "CREATE UNIQUE INDEX log_chunks_by_line ON log_chunks (job, half, first)",
    ),
)
"""What brings a file from version n to n + 1. Only ever appended to."""

STATEMENTS: Mapping[str, str] = {
    # jobs
    "load": "SELECT record FROM jobs WHERE queue = ? AND job_id = ?",
    "stored": """SELECT id, version, state, shape, others, queued_at, namespace FROM jobs
        WHERE queue = ? AND job_id = ?""",
    "insert": """INSERT INTO jobs (queue, job_id, version, state, shape, queued_at, due_at, namespace, others, record)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job_id, queue) DO NOTHING""",
    "update": """UPDATE jobs SET version = ?, state = ?, shape = ?, queued_at = ?, due_at = ?, namespace = ?,
        others = ?, record = ? WHERE id = ?""",
    # naming a column writes its indexes, also if it stays the same
    "renew": "UPDATE jobs SET version = ?, due_at = ?, others = ?, record = ? WHERE id = ?",
    "delete": "DELETE FROM jobs WHERE id = ?",
    "list": """SELECT queued_at, job_id, record FROM jobs WHERE queue = ? AND state = ?
        AND (queued_at, job_id) > (?, ?) ORDER BY queued_at, job_id LIMIT ?""",
    "list_shape": """SELECT queued_at, job_id, record FROM jobs WHERE queue = ? AND state = ? AND shape = ?
        AND (queued_at, job_id) > (?, ?) ORDER BY queued_at, job_id LIMIT ?""",
    "find": "SELECT record FROM jobs WHERE job_id = ? ORDER BY queued_at, queue LIMIT ?",
    "scan": "SELECT id, record FROM jobs WHERE id > ? ORDER BY id LIMIT ?",
    "due": "SELECT record FROM jobs WHERE due_at <= ? ORDER BY due_at, id LIMIT ?",
    # namespaces
    "in_namespace": """SELECT queued_at, job_id, record FROM jobs WHERE queue = ? AND namespace = ?
        ORDER BY queued_at, job_id LIMIT ?""",
    "in_memberships": """SELECT m.queued_at, m.job_id, j.record FROM memberships m JOIN jobs j ON j.id = m.job
        WHERE m.queue = ? AND m.namespace = ? ORDER BY m.queued_at, m.job_id LIMIT ?""",
    "join": "INSERT INTO memberships (queue, namespace, queued_at, job_id, job) VALUES (?, ?, ?, ?, ?)",
    "leave": "DELETE FROM memberships WHERE job = ?",
    # documents
    "document": """SELECT data FROM documents
        WHERE job = (SELECT id FROM jobs WHERE queue = ? AND job_id = ?) AND name = ?""",
    "write_document": """INSERT INTO documents (job, name, data) VALUES (?, ?, ?)
        ON CONFLICT (job, name) DO UPDATE SET data = excluded.data""",
    "drop_document": "DELETE FROM documents WHERE job = ? AND name = ?",
    "drop_documents": "DELETE FROM documents WHERE job = ?",
    # counters; the queue "" counts the whole store
    "count": """INSERT INTO counters (queue, state, shape, n) VALUES (?, ?, ?, ?)
        ON CONFLICT (queue, state, shape) DO UPDATE SET n = n + excluded.n""",
    "drop_zero": "DELETE FROM counters WHERE queue = ? AND state = ? AND shape = ? AND n = 0",
    "counts": "SELECT state, shape, n FROM counters WHERE queue = ?",
    # logs
    "log_job": "SELECT id FROM jobs WHERE queue = ? AND job_id = ?",
    "log_halves": """SELECT half, attempt, total, head_lines, head_bytes, tail_bytes, is_head_full
        FROM logs WHERE job = ?""",
    "write_half": """INSERT INTO logs (job, half, attempt, total, head_lines, head_bytes, tail_bytes, is_head_full)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job, half) DO UPDATE SET attempt = excluded.attempt,
        total = excluded.total, head_lines = excluded.head_lines, head_bytes = excluded.head_bytes,
        tail_bytes = excluded.tail_bytes, is_head_full = excluded.is_head_full""",
    "write_chunk": "INSERT INTO log_chunks (job, half, first, count, size_bytes, lines) VALUES (?, ?, ?, ?, ?, ?)",
    "oldest_chunk": """SELECT id, size_bytes FROM log_chunks WHERE job = ? AND half = ? AND first >= ?
        ORDER BY first LIMIT 1""",
    "drop_chunk": "DELETE FROM log_chunks WHERE id = ?",
    "chunk_before": """SELECT first, count, lines FROM log_chunks WHERE job = ? AND half = ? AND first <= ?
        ORDER BY first DESC LIMIT 1""",
    "chunks_after": """SELECT first, count, lines FROM log_chunks WHERE job = ? AND half = ? AND first > ?
        ORDER BY first""",
    "drop_halves": "DELETE FROM logs WHERE job = ?",
    "drop_chunks": "DELETE FROM log_chunks WHERE job = ?",
}
"""Every statement that runs after a file is open, by name."""


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the file to this release's form, in one transaction; two processes may do this at once.

    Errors: ConfigError when a newer release wrote it, or when it is some other program's database.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        present = check(connection, path)
        for statements in MIGRATIONS[present:]:
            for statement in statements:
                connection.execute(statement)
        if present < len(MIGRATIONS):
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def check(connection: sqlite3.Connection, path: str) -> int:
    """The schema version of the file, 0 for a new one. Errors: ConfigError as for ``migrate``; nothing is changed."""
    (present,) = connection.execute("PRAGMA user_version").fetchone()
    if present > len(MIGRATIONS):
        raise ConfigError(
            f"{path} has schema {present}, written by a newer asman; this release knows up to {len(MIGRATIONS)}",
            hint="Start the newer release again, or choose another file with --data.",
        )
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (present == 0) != (tables == 0):
        raise ConfigError(f"{path} is another program's database", hint="Choose another file with --data.")
    return int(present)
